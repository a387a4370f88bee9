"""From array-likes to the arrays that kernels take, without a copy of the whole.

Kernels take native, aligned floats in one of two shapes: (N, C) with contiguous rows, or
(outer, C, inner) with a contiguous last axis; 16-bit floats as integers, uint16 for float16,
int16 for bfloat16. Most arrays are a view of one of them already. All others (strided
classes, other byte orders, integers) are staged: a block of rows at a time is copied into a
small buffer, worked on there, and copied out.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STAGED_ELEMENTS = 1 << 18  # of one staging buffer, or one row where that is longer

# without asking for overrides of NumPy's functions, which takes as long again
_may_share = getattr(np.may_share_memory, "_implementation", np.may_share_memory)

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


class Block(NamedTuple):
    """Samples ``start`` to ``stop`` in kernel-ready arrays."""

    start: int
    stop: int
    inputs: Sequence[Array]
    out: Array | None


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


# --- results -----------------------------------------------------------------


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


# --- views and staging -------------------------------------------------------


def blocks(axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None = None) -> Iterable[Block]:
    """Return kernel-ready blocks that cover the arrays, which are all of one shape.

    The caller finishes with a block before it asks for the next; what it wrote to
    ``block.out`` is then in ``out``. A block's out may be its first input.
    """
    views = direct(axis, dtype, inputs, out)
    if views is None:
        return staged_bits(axis, dtype, inputs, out)
    return (Block(0, inputs[0].size // inputs[0].shape[axis], *views),)


def _native(dtype: np.dtype[Any], inputs: Sequence[Array]) -> np.dtype[Any]:
    """Return the dtype of kernel-ready arrays: that of the inputs, or that computed in where they differ."""
    native = inputs[0].dtype
    if native is _FLOAT32 or native is _FLOAT64:
        if len(inputs) == 1:
            return native
    else:
        native = rule(inputs[0]).result
    if len(inputs) > 1 and any(rule(x).result != native for x in inputs):
        return dtype
    return native


def direct(
    axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None
) -> tuple[Sequence[Array], Array | None] | None:
    """Return kernel-ready views of the arrays and of ``out``, or None where one of them has to be staged."""
    native = _native(dtype, inputs)
    if len(inputs) == 1:
        view = kernel_view(inputs[0], axis, native)
        if view is None or out is None or out is inputs[0]:
            return None if view is None else ((view,), None if out is None else view)
        goal = kernel_view(out, axis, native)
        return None if goal is None or goal.shape != view.shape else ((view,), goal)
    views: list[Array] = []
    for x in inputs if out is None or out is inputs[0] else (*inputs, out):
        view = kernel_view(x, axis, native)
        if view is None or (views and view.shape != views[0].shape):
            return None
        views.append(view)
    if out is None:
        return views, None
    goal = views[0] if out is inputs[0] else views.pop()
    return views, goal


def staged_bits(axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None) -> Iterator[Block]:
    """Yield what `staged` does, 16-bit floats as integers."""
    for block in staged(axis, _native(dtype, inputs), inputs, out):
        goal = None if block.out is None else _as_bits(block.out)
        yield Block(block.start, block.stop, [_as_bits(x) for x in block.inputs], goal)


def row_blocks(axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None = None) -> Iterable[Block]:
    """Return blocks as `blocks` does, but (N, C) only: what is (outer, C, inner) is staged too."""
    views = direct(axis, dtype, inputs, out)
    if views is None or views[0][0].ndim == 3:
        return staged_bits(axis, dtype, inputs, out)
    return (Block(0, len(views[0][0]), *views),)


def small_row_blocks(axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None) -> Iterator[Block]:
    """Yield blocks as `row_blocks` does, but so small that they fit the cache; two inputs in the dtype computed in."""
    if len(inputs) > 1:
        yield from staged(axis, dtype, inputs, out)
        return
    for block in row_blocks(axis, dtype, inputs, out):
        (x,), goal = block.inputs, block.out
        rows = max(STAGED_ELEMENTS // x.shape[1], 1)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            first = block.start + start
            yield Block(first, first + len(x[part]), (x[part],), None if goal is None else goal[part])


def rows_of(x: Array, axis: int | tuple[int, ...], start: int, stop: int) -> Array:
    """Return samples ``start`` to ``stop`` as rows (rows, C), copied."""
    moved = axes_last(x, axis)
    lead = moved.shape[: x.ndim - (len(axis) if isinstance(axis, tuple) else 1)]
    rows = moved[np.unravel_index(np.arange(start, stop), lead)] if lead else moved[np.newaxis]
    return rows.reshape(stop - start, -1)


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


def staged(
    axis: int | tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None
) -> Iterator[Block]:
    """Yield copies of some rows at a time, (rows, C) in C order; see `blocks`. Several axes are taken as one."""
    moved = [axes_last(x, axis) for x in inputs]
    moved_out = None if out is None else axes_last(out, axis)
    shape = moved[0].shape
    lead = shape[: len(shape) - (len(axis) if isinstance(axis, tuple) else 1)]
    classes = math.prod(shape[len(lead) :])
    rows = max(STAGED_ELEMENTS // classes, 1)
    buffers = [np.empty((min(rows, math.prod(lead)), classes), dtype) for _ in inputs]
    for start, stop, index in boxes(lead, rows):
        parts = [buffer[: stop - start] for buffer in buffers]
        for part, x in zip(parts, moved, strict=True):
            source = x[index]
            copy_to(part.reshape(source.shape), source)
        yield Block(start, stop, parts, None if out is None else parts[0])
        if moved_out is not None:
            goal = moved_out[index]
            copy_to(goal, parts[0].reshape(goal.shape))


def axes_last(x: Array, axis: int | tuple[int, ...]) -> Array:
    """Return a view with the class axes last."""
    return np.moveaxis(x, axis, range(-len(axis), 0) if isinstance(axis, tuple) else -1)


def boxes(lead: Sequence[int], rows: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Cut the leading axes into boxes of at most ``rows`` rows that follow each other in C order."""
    if not lead:
        yield 0, 1, ()
        return
    below = math.prod(lead[1:])
    if below <= rows:
        step = rows // max(below, 1)
        for i in range(0, lead[0], step):
            stop = min(i + step, lead[0])
            yield i * below, stop * below, (slice(i, stop),)
        return
    for i in range(lead[0]):
        for start, stop, index in boxes(lead[1:], rows):
            yield i * below + start, i * below + stop, (i, *index)
