"""Blocks of rows in the layouts that kernels take: views where there are some, copies elsewhere.

Arrays without a kernel-ready view (strided classes, other byte orders, integers) are staged: a block of rows at a time
is copied into a small buffer, worked on there, and the result is copied out. No copy of a whole array is made.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.core.layout import Array, axes_last, cast_into, halves_as_ints, kernel_views, staging_dtype

STAGED_ELEMENTS = 1 << 18  # the size of a staging buffer, unless one row is longer


class Block(NamedTuple):
    """Samples ``start`` to ``stop`` in kernel-ready arrays."""

    start: int
    stop: int
    inputs: Sequence[Array]
    out: Array | None


def blocks(
    axis: int | tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None = None
) -> Iterable[Block]:
    """Return kernel-ready blocks that cover the arrays, which have one shape; ``dtype`` is computed in.

    Several axes, counted from the front, are taken as one. The caller finishes with a block before it asks for the next
    one, and by then the block's ``out`` has been copied to ``out``. The ``out`` of a block may be its first input.
    """
    if isinstance(axis, tuple):
        lead = inputs[0].ndim - len(axis)
        is_last = axis == tuple(range(lead, inputs[0].ndim))
        if not is_last or not all(x.flags.c_contiguous for x in (*inputs, inputs[0] if out is None else out)):
            return staged(axis, staging_dtype(dtype, inputs, out), inputs, out)
        shape = *inputs[0].shape[:lead], math.prod(inputs[0].shape[lead:])
        joined = [x.reshape(shape) for x in inputs]
        out = joined[0] if out is inputs[0] else None if out is None else out.reshape(shape)
        axis, inputs = lead, joined
    views = kernel_views(axis, dtype, inputs, out)
    if views is None:
        return staged(axis, staging_dtype(dtype, inputs, out), inputs, out)
    return (Block(0, inputs[0].size // inputs[0].shape[axis], *views),)


def row_blocks(axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None = None) -> Iterable[Block]:
    """Return blocks as `blocks` does, all of shape (N, C): arrays seen as (outer, C, inner) are staged too."""
    views = kernel_views(axis, dtype, inputs, out)
    if views is None or views[0][0].ndim == 3:
        return staged(axis, staging_dtype(dtype, inputs, out), inputs, out)
    return (Block(0, len(views[0][0]), *views),)


def small_row_blocks(axis: int, dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None) -> Iterator[Block]:
    """Yield blocks as `row_blocks` does, each small enough for the cache; two inputs are staged in ``dtype``."""
    if len(inputs) > 1:
        yield from staged(axis, dtype, inputs, out)
        return
    for block in row_blocks(axis, dtype, inputs, out):
        (x,), block_out = block.inputs, block.out
        rows = max(STAGED_ELEMENTS // x.shape[1], 1)
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            first = block.start + start
            yield Block(first, first + len(x[part]), (x[part],), None if block_out is None else block_out[part])


def staged(
    axis: int | tuple[int, ...], dtype: np.dtype[Any], inputs: Sequence[Array], out: Array | None
) -> Iterator[Block]:
    """Yield copies of some rows at a time, (rows, C) in C order; see `blocks`. Several axes are taken as one.

    The copies have this ``dtype``; 16-bit floats are seen as integers.
    """
    moved = [axes_last(x, axis) for x in inputs]
    moved_out = None if out is None else axes_last(out, axis)
    shape = moved[0].shape
    lead = shape[: len(shape) - (len(axis) if isinstance(axis, tuple) else 1)]
    classes = math.prod(shape[len(lead) :])
    rows = max(STAGED_ELEMENTS // classes, 1)
    buffers = [np.empty((min(rows, math.prod(lead)), classes), dtype) for _ in inputs]
    for start, stop, index in index_blocks(lead, rows):
        copies = [buffer[: stop - start] for buffer in buffers]
        for copy, x in zip(copies, moved, strict=True):
            source = x[index]
            cast_into(copy.reshape(source.shape), source)
        ready = [halves_as_ints(copy) for copy in copies]
        yield Block(start, stop, ready, None if out is None else ready[0])
        if moved_out is not None:
            destination = moved_out[index]
            cast_into(destination, copies[0].reshape(destination.shape))


def rows_of(x: Array, axis: int | tuple[int, ...], start: int, stop: int) -> Array:
    """Return a copy of samples ``start`` to ``stop`` as rows, (stop - start, C)."""
    moved = axes_last(x, axis)
    lead = moved.shape[: x.ndim - (len(axis) if isinstance(axis, tuple) else 1)]
    rows = moved[np.unravel_index(np.arange(start, stop), lead)] if lead else moved[np.newaxis]
    return rows.reshape(stop - start, -1)


def index_blocks(lead: Sequence[int], rows: int) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Cut the samples, whose shape is ``lead``, into boxes of at most ``rows`` samples, in C order.

    Yields (start, stop, index): samples ``start`` to ``stop``, counted in C order, are at ``index``.

    >>> [(start, stop) for start, stop, _ in index_blocks((2, 3), 2)]
    [(0, 2), (2, 3), (3, 5), (5, 6)]
    """
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
        for start, stop, index in index_blocks(lead[1:], rows):
            yield i * below + start, i * below + stop, (i, *index)
