"""From array-likes to the arrays that kernels take: dtypes, axes, and views without a copy."""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class Rule(NamedTuple):
    """What becomes of input of one dtype."""

    compute: np.dtype[Any]  # of the computation and the losses
    result: np.dtype[Any]  # of results shaped like the input


@functools.cache
def _rule(dtype: np.dtype[Any]) -> Rule | None:
    """Return the rule for a dtype, None where it is not one of real numbers."""
    native = dtype.newbyteorder("=")
    for common in (_FLOAT32, _FLOAT64):
        if native == common:  # but not the same object
            return Rule(common, common)
    if dtype.kind in "biu":
        return Rule(_FLOAT64, _FLOAT64)
    if native.name in ("float16", "bfloat16"):
        return Rule(_FLOAT32, native)
    return None


def is_matrix(x: object, axis: object = -1) -> TypeGuard[Array]:
    """Tell whether this is what kernels take as it is: a matrix in C order, of float32 or float64, the classes last.

    All that is cheap to ask, so that small calls need not be arranged.
    """
    return (
        type(x) is np.ndarray
        and (x.dtype is _FLOAT32 or x.dtype is _FLOAT64)
        and x.ndim == 2
        and type(axis) is int
        and (axis == -1 or axis == 1)
        and x.flags.carray
    )


def as_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a dtype; the name of bfloat16 is known as well, wherever ml_dtypes is installed."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    return np.dtype(dtype)


def as_integers(values: int | Iterable[int], name: str, least: int) -> tuple[int, ...]:
    """Return one integer or several, none of them below ``least``, or raise TypeError or ValueError."""
    try:
        integers = tuple(int(operator.index(v)) for v in (values if isinstance(values, Iterable) else (values,)))
    except TypeError:
        raise TypeError(f"{name} must be an integer or several, such as (65536, 10), got {values!r}") from None
    if min(integers, default=least) < least:
        raise ValueError(f"{name} must be at least {least}, got {min(integers)}")
    return integers


def as_real(values: npt.ArrayLike, name: str) -> Array:
    """Return an array of real numbers that fastce computes with, or raise TypeError."""
    if type(values) is np.ndarray and (values.dtype is _FLOAT32 or values.dtype is _FLOAT64):
        return values
    array = as_array(values, name)
    if _rule(array.dtype) is None:
        raise TypeError(
            f"{name} must hold real numbers (float16, bfloat16, float32, float64, integers or booleans), "
            f"got dtype {array.dtype}"
        )
    return array


def as_array(values: npt.ArrayLike, name: str) -> Array:
    """Return an array; raise TypeError for a masked one, whose mask would be lost, and ValueError for ragged lists."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it or drop what is masked")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, or lists of equal lengths: {error}") from None


def rule(array: Array) -> Rule:
    """Return what results of an array from `as_real` are computed in and stored as."""
    return _rule(array.dtype)  # type: ignore[return-value]


def normalize_axis(axis: int, ndim: int, name: str) -> int:
    """Return the class axis counted from the front, or raise AxisError."""
    if ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, the classes; got a scalar")
    index = axis if type(axis) is int else as_index(axis, "axis")
    if not -ndim <= index < ndim:
        raise np.exceptions.AxisError(index, ndim)
    return index % ndim


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, name: str) -> tuple[int, ...]:
    """Return the class axes counted from the front, all for None, or raise AxisError or ValueError."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, Sequence):
        return (normalize_axis(axis, ndim, name),)
    axes = tuple(normalize_axis(i, ndim, name) for i in axis)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must not name an axis twice, got {tuple(axis)}")
    return axes


def as_mask(where: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return ``where`` as a boolean view of this shape, or raise."""
    mask = as_array(where, "where")
    if mask.dtype != np.bool_:
        raise TypeError(f"where must be boolean, got dtype {mask.dtype}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(f"where must broadcast to the shape {shape}, got {mask.shape}") from None


def as_index(value: Any, name: str) -> int:
    """Return an integer option as an int, or raise TypeError."""
    try:
        return int(operator.index(value))  # which leaves True a bool
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def cast_to(array: Array, dtype: npt.DTypeLike) -> Array:
    """Return a copy in C order and this dtype.

    Overflow and underflow are meant: the caller's floating-point error settings do not hear of them.
    """
    with np.errstate(all="ignore"):
        return array.astype(dtype, order="C")


def copy_to(goal: Array, values: Array) -> None:
    """Write values to an array of another dtype, as quietly as `cast_to`."""
    if goal.dtype == values.dtype:
        np.copyto(goal, values)
        return
    with np.errstate(all="ignore"):
        np.copyto(goal, values, casting="unsafe")


def without_axis(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of one value a sample."""
    return shape[:axis] + shape[axis + 1 :]


def _as_bits(x: Array) -> Array:
    """Return 16-bit floats as the integers that kernels know them by, others as they are."""
    if x.dtype.itemsize == 2:
        return x.view(np.uint16 if x.dtype == np.float16 else np.int16)
    return x


def kernel_view(x: Array, axis: int, dtype: np.dtype[Any]) -> Array | None:
    """Return ``x`` as (N, C) or (outer, C, inner) without a copy, or None."""
    flags = x.flags
    if (x.dtype is not dtype and x.dtype != dtype) or not flags.aligned:
        return None
    if dtype.itemsize == 2:
        x = _as_bits(x)
    classes = x.shape[axis]
    if flags.c_contiguous:
        if axis == x.ndim - 1:
            return x if axis == 1 else x.reshape(-1, classes)
        inner = math.prod(x.shape[axis + 1 :])
        return x.reshape(-1, classes) if inner == 1 else x.reshape(-1, classes, inner)
    others = [(x.shape[k], x.strides[k]) for k in range(x.ndim) if k != axis]
    samples = _merge(others)
    if samples is not None and (x.strides[axis] == x.itemsize or classes == 1):
        shape, strides = (samples[0], classes), (samples[1], x.itemsize)
        return np.lib.stride_tricks.as_strided(x, shape, strides)
    for split in range(len(others)):
        outer, inner_axes = _merge(others[:split]), _merge(others[split:])
        if outer is not None and inner_axes is not None and inner_axes[1] == x.itemsize:
            shape3 = (outer[0], classes, inner_axes[0])
            return np.lib.stride_tricks.as_strided(x, shape3, (outer[1], x.strides[axis], x.itemsize))
    return None


def _merge(axes: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Return (size, stride) of several axes taken as one in C order, or None."""
    axes = [(size, stride) for size, stride in axes if size != 1]
    if not axes:
        return 1, 0
    for (_, outer), (size, inner) in itertools.pairwise(axes):
        if outer != inner * size:
            return None
    return math.prod(size for size, _ in axes), axes[-1][1]


def axes_last(x: Array, axis: int | tuple[int, ...]) -> Array:
    """Return a view with the class axes last."""
    return np.moveaxis(x, axis, range(-len(axis), 0) if isinstance(axis, tuple) else -1)
