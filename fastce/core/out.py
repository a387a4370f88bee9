"""Where results are written: which arrays can take them, and which overlap what is still read."""

from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from fastce.core.layout import Array, rule

# without asking for overrides of NumPy's functions, which takes as long again
_may_share = getattr(np.may_share_memory, "_implementation", np.may_share_memory)


def is_apart(
    out: object, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Array | None]
) -> TypeGuard[Array]:
    """Tell whether kernels can write to ``out`` as it is, by what is cheap to ask: `check_out` takes more than this."""
    if type(out) is not np.ndarray or out.dtype is not dtype or out.shape != shape:
        return False
    flags = out.flags
    if not flags.carray:
        return False
    is_own = flags.owndata
    for other in inputs:
        if other is None or other is out:
            continue
        if type(other) is not np.ndarray:
            return False
        if not (is_own and other.flags.owndata) and _may_share(out, other):
            return False
    return True


def check_out(
    out: object, shape: tuple[int, ...], dtype: np.dtype[Any], names: Sequence[str], inputs: Sequence[Array | None]
) -> Array:
    """Return ``out`` if a result of this shape and dtype can be written to it safely.

    ``inputs``, whose ``names`` go into messages, are still read while ``out`` is written. It
    may be one of them, but not overlap one in another way. They are arrays, not what the caller
    gave: that may be an object of another kind, over the same memory.
    """
    if is_apart(out, shape, dtype, inputs):
        return out
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
    if out.shape != shape or (out.dtype is not dtype and out.dtype.newbyteorder("=") != dtype):
        raise ValueError(f"out must have shape {shape} and dtype {dtype}, got shape {out.shape} and dtype {out.dtype}")
    flags = out.flags
    if not flags.carray:
        if not flags.writeable:
            raise ValueError("out must be writable, got a read-only array")
        if not flags.forc and _may_overlap_itself(out):
            raise ValueError(f"out must not overlap itself, got strides {out.strides} for shape {out.shape}")
    for i, other in enumerate(inputs):
        if other is None or other is out:
            continue
        if np.may_share_memory(out, other) and _overlap(out, other):
            same = ", unless it is the very same array" if other.shape == shape else ""
            raise ValueError(f"out must not overlap {names[i]}{same}")
    return out


def result_like(x: Array, out: object, names: Sequence[str], inputs: Sequence[Array | None]) -> Array:
    """Return ``out`` if a result shaped like ``x`` can be written there, or for None a new array; see `check_out`."""
    dtype = rule(x).result
    return np.empty_like(x, dtype, subok=False) if out is None else check_out(out, x.shape, dtype, names, inputs)


def _may_overlap_itself(array: Array) -> bool:
    end = 0
    for stride, size in sorted((abs(stride), size) for stride, size in zip(array.strides, array.shape, strict=True)):
        if size > 1:
            if stride < end + array.itemsize:
                return True
            end += stride * (size - 1)
    return False


def _overlap(a: Array, b: Array) -> bool:
    """Tell whether two arrays that may share memory do so without being the same view of it."""
    place, other = (x.__array_interface__["data"][0] for x in (a, b))
    if place == other and a.shape == b.shape and a.strides == b.strides and a.dtype == b.dtype:
        return False
    return share_memory(a, b)


def share_memory(a: Array, b: Array) -> bool:
    """Tell whether two arrays have an element in common; where that is hard to tell, they have."""
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
