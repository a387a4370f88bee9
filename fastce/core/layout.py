"""Dtypes and memory layouts: the dtypes of computation and results, and the views that kernels take.

Kernels take native, aligned floats in one of two shapes: (N, C) with contiguous rows, or (outer, C, inner) with a
contiguous last axis. They take 16-bit floats as integers: uint16 for float16, int16 for bfloat16. Most arrays have
such a view; all others are staged, see ``staging``.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from fastce.kernels.codegen.threads import Array as Array  # imported from here by all floors above

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Dtypes(NamedTuple):
    """The dtypes that follow from the dtype of an input."""

    compute: np.dtype[Any]  # of the computation and of the losses
    result: np.dtype[Any]  # of results in the shape of the input


@functools.cache
def dtypes_from(dtype: np.dtype[Any]) -> Dtypes | None:
    """Return the dtypes that follow from a dtype, or None if it does not hold real numbers."""
    native = dtype.newbyteorder("=")
    for common in (FLOAT32, FLOAT64):
        if native == common:  # equal, but perhaps another object: callers compare by identity
            return Dtypes(common, common)
    if dtype.kind in "biu":
        return Dtypes(FLOAT64, FLOAT64)
    if native.name in ("float16", "bfloat16"):
        return Dtypes(FLOAT32, native)
    return None


def dtypes_of(array: Array) -> Dtypes:
    """Return the dtypes that follow from an array of real numbers, as `validation.as_real` returns it."""
    return dtypes_from(array.dtype)  # type: ignore[return-value]


@functools.lru_cache
def epsilon(dtype: np.dtype[Any]) -> float:
    """Return the distance from 1 to the next number, of bfloat16 too, which NumPy does not know."""
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def is_native_matrix(x: object, axis: object = -1) -> TypeGuard[Array]:
    """Tell, for small calls, whether ``x`` is a matrix of float32 or float64 with the classes last, and not empty.

    Kernels that get such a matrix unchecked ask for the rest: its strides, and the memory that it shares.
    """
    return (
        type(x) is np.ndarray
        and ((dtype := x.dtype) is FLOAT32 or dtype is FLOAT64)
        and x.ndim == 2
        and type(axis) is int
        and (axis == -1 or axis == 1)
        and x.size > 0
    )


def is_kernel_matrix(x: object, axis: object = -1) -> TypeGuard[Array]:
    """Tell, for small calls, whether ``x`` is a kernel-ready matrix: a native one in C order.

    The checks are cheap, and such a matrix needs no other check, whether it is read-only or not. False does not mean
    that kernels cannot take ``x``.
    """
    return is_native_matrix(x, axis) and (flags := x.flags).c_contiguous and flags.aligned


def cast_to(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return a copy of this dtype in C order.

    Overflow and underflow are part of the conversion, so NumPy neither warns nor raises, whatever ``np.seterr`` says.
    """
    with np.errstate(all="ignore"):
        return array.astype(dtype, order="C")


def cast_into(destination: Array, source: Array) -> None:
    """Copy values to an array of another dtype, as quietly as `cast_to`."""
    if destination.dtype == source.dtype:
        np.copyto(destination, source)
        return
    with np.errstate(all="ignore"):
        np.copyto(destination, source, casting="unsafe")


def split_number(value: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return a number as a number of this dtype and what that lacks."""
    rounded = float(dtype.type(value))
    return rounded, value - rounded


def without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of one value a sample: the shape without the class axis."""
    return shape[:axis] + shape[axis + 1 :]


def axes_last(x: Array, axis: int | tuple[int, ...]) -> Array:
    """Return a view with the class axes last."""
    return np.moveaxis(x, axis, range(-len(axis), 0) if isinstance(axis, tuple) else -1)


def halves_as_ints(x: Array) -> Array:
    """Return a view of 16-bit floats as the integers that kernels take, and any other array as it is."""
    if x.dtype.itemsize == 2:
        return x.view(np.uint16 if x.dtype == np.float16 else np.int16)
    return x


def kernel_dtype(dtype: np.dtype[Any], inputs: Sequence[Array]) -> np.dtype[Any]:
    """Return the dtype in which kernels read the inputs: their own, or the compute ``dtype`` where they differ.

    Integers and other byte orders are read in the dtype of their result.
    """
    native = inputs[0].dtype
    if native is FLOAT32 or native is FLOAT64:
        if len(inputs) == 1:
            return native
    else:
        native = dtypes_of(inputs[0]).result
    if len(inputs) > 1 and any(dtypes_of(x).result != native for x in inputs):
        return dtype
    return native


def staging_dtype(dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None) -> np.dtype[Any]:
    """Return the dtype of staging buffers: `kernel_dtype`, or the compute ``dtype`` where that would round ``out``."""
    native = kernel_dtype(dtype, inputs)
    return native if out is None or out.dtype.itemsize <= native.itemsize else dtype


def kernel_views(
    axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None
) -> tuple[Sequence[Array], Array | None] | None:
    """Return kernel-ready views of the inputs and of ``out``, or None if one of them has none.

    All arrays have one shape. ``dtype`` is computed in. ``out`` may be the first input. Beside inputs of 16 bits, it
    may be float32.
    """
    native = kernel_dtype(dtype, inputs)
    out_dtype = FLOAT32 if native.itemsize == 2 and out is not None and out.dtype.itemsize == 4 else native
    if len(inputs) == 1:
        view = _kernel_view(inputs[0], axis, native)
        if view is None or out is None or out is inputs[0]:
            return None if view is None else ((view,), None if out is None else view)
        out_view = _kernel_view(out, axis, out_dtype)
        return None if out_view is None or out_view.shape != view.shape else ((view,), out_view)
    views: list[Array] = []
    for x in inputs if out is None or out is inputs[0] else (*inputs, out):
        view = _kernel_view(x, axis, out_dtype if x is out else native)
        if view is None or (views and view.shape != views[0].shape):
            return None
        views.append(view)
    if out is None:
        return views, None
    out_view = views[0] if out is inputs[0] else views.pop()
    return views, out_view


def _kernel_view(x: Array, axis: int, dtype: np.dtype[Any]) -> Array | None:
    """Return ``x`` as (N, C) or (outer, C, inner) without a copy, or None."""
    flags = x.flags
    if (x.dtype is not dtype and x.dtype != dtype) or not flags.aligned:
        return None
    if dtype.itemsize == 2:
        x = halves_as_ints(x)
    classes = x.shape[axis]
    if flags.c_contiguous:
        if axis == x.ndim - 1:
            return x if axis == 1 else x.reshape(-1, classes)
        inner = math.prod(x.shape[axis + 1 :])
        return x.reshape(-1, classes) if inner == 1 else x.reshape(-1, classes, inner)
    others = [(x.shape[k], x.strides[k]) for k in range(x.ndim) if k != axis]
    samples = _merge_axes(others)
    if samples is not None and (x.strides[axis] == x.itemsize or classes == 1):
        shape, strides = (samples[0], classes), (samples[1], x.itemsize)
        return np.lib.stride_tricks.as_strided(x, shape, strides)
    for split in range(len(others)):
        outer, inner_axes = _merge_axes(others[:split]), _merge_axes(others[split:])
        if outer is not None and inner_axes is not None and inner_axes[1] == x.itemsize:
            shape3 = (outer[0], classes, inner_axes[0])
            return np.lib.stride_tricks.as_strided(x, shape3, (outer[1], x.strides[axis], x.itemsize))
    return None


def _merge_axes(axes: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Return (size, stride) of the one axis that several, in C order, make up; None if they make up none."""
    axes = [(size, stride) for size, stride in axes if size != 1]
    if not axes:
        return 1, 0
    for (_, outer), (size, inner) in itertools.pairwise(axes):
        if outer != inner * size:
            return None
    return math.prod(size for size, _ in axes), axes[-1][1]
