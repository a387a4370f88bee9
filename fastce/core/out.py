"""Arrays that results are written to: new ones, or ``out`` of the caller once it is known to be safe."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from fastce.core.layout import FLOAT32, Array, dtypes_of

# without NumPy's search for overrides, which doubles its time
_may_share = getattr(np.may_share_memory, "_implementation", np.may_share_memory)


def is_native_out(out: object, dtype: np.dtype[Any], ndim: int) -> TypeGuard[Array]:
    """Tell, for small calls, whether ``out`` is writable and has this dtype and number of dimensions.

    Kernels that get it unchecked ask for the rest: its shape and strides, and the memory that it shares.
    """
    return type(out) is np.ndarray and out.dtype is dtype and out.ndim == ndim and out.flags.writeable


def is_kernel_out(
    out: object, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Array | None]
) -> TypeGuard[Array]:
    """Tell, for small calls, whether kernels can write to ``out`` while they read the inputs.

    The checks are cheap; `check_out` accepts more arrays.
    """
    if type(out) is not np.ndarray or out.dtype is not dtype or out.shape != shape:
        return False
    flags = out.flags
    if not flags.carray:
        return False
    owns_data = flags.owndata
    for other in inputs:
        if other is None or other is out:
            continue
        if type(other) is not np.ndarray:
            return False
        if not (owns_data and other.flags.owndata) and _may_share(out, other):
            return False
    return True


def check_out(
    out: object,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    names: Sequence[str],
    inputs: Sequence[Array | None],
    out_name: str = "out",
) -> Array:
    """Return ``out`` if a result of this shape and dtype can be written to it safely, or raise.

    Results of 16 bits may be written to float32 as well, which are then rounded to float32 alone.

    ``inputs`` are still read while ``out`` is written; messages call them by their ``names``. ``out`` may be one of
    them, but it must not overlap one in another way. ``inputs`` are arrays, not the objects that the caller passed: an
    object of another kind may show the same memory.
    """
    if is_kernel_out(out, shape, dtype, inputs):
        return out
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{out_name} must be a NumPy array, got {type(out).__name__}")
    if isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"{out_name} must not be a masked array, whose mask would stay as it is: pass its .data")
    allowed = (dtype, FLOAT32) if dtype.itemsize == 2 else (dtype,)
    if out.shape != shape or (out.dtype is not dtype and out.dtype.newbyteorder("=") not in allowed):
        names_allowed = " or ".join(map(str, allowed))
        raise ValueError(
            f"{out_name} must have shape {shape} and dtype {names_allowed}, got shape {out.shape} and dtype {out.dtype}"
        )
    flags = out.flags
    if not flags.carray:
        if not flags.writeable:
            raise ValueError(f"{out_name} must be writable, got a read-only array")
        if not flags.forc and _may_overlap_itself(out):
            raise ValueError(f"{out_name} must not overlap itself, got strides {out.strides} for shape {out.shape}")
    for i, other in enumerate(inputs):
        if other is None or other is out:
            continue
        if np.may_share_memory(out, other) and _overlap(out, other):
            same = ", unless it is the very same array" if other.shape == shape else ""
            raise ValueError(f"{out_name} must not overlap {names[i]}{same}")
    return out


def result_like(
    x: Array, out: object, names: Sequence[str], inputs: Sequence[Array | None], out_name: str = "out"
) -> Array:
    """Return ``out`` if a result shaped like ``x`` can be written there, or for None a new array; see `check_out`."""
    dtype = dtypes_of(x).result
    if out is None:
        return np.empty_like(x, dtype, subok=False)
    return check_out(out, x.shape, dtype, names, inputs, out_name)


def share_memory(a: Array, b: Array) -> bool:
    """Tell whether two arrays have an element in common; True if that takes too long to find out."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _may_overlap_itself(array: Array) -> bool:
    """Tell whether two elements of an array may share memory, by its strides."""
    end = 0
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if stride < end + array.itemsize:
                return True
            end += stride * (size - 1)
    return False


def _overlap(a: Array, b: Array) -> bool:
    """Tell whether two arrays that may share memory do so without being the same view of it."""
    a_start, b_start = (x.__array_interface__["data"][0] for x in (a, b))
    if a_start == b_start and a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype:
        return False
    return share_memory(a, b)
