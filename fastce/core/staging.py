"""From array-likes to the arrays that kernels take, without a copy of the whole.

Kernels take native, aligned floats in one of two shapes: (N, C) with contiguous rows, or
(outer, C, inner) with a contiguous last axis; 16-bit floats as integers, uint16 for float16,
int16 for bfloat16. Most arrays are a view of one of them already. All others (strided
classes, other byte orders, integers) are staged: a block of rows at a time is copied into a
small buffer, worked on there, and copied out.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.core.layout import _FLOAT32, _FLOAT64, Array, _as_bits, axes_last, copy_to, kernel_view, rule

STAGED_ELEMENTS = 1 << 18  # of one staging buffer, or one row where that is longer


class Block(NamedTuple):
    """Samples ``start`` to ``stop`` in kernel-ready arrays."""

    start: int
    stop: int
    inputs: Sequence[Array]
    out: Array | None


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
