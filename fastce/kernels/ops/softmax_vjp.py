"""Drivers of vector-Jacobian products: the backward passes of the softmax family.

For an upstream gradient g, p = softmax(x) and l = log_softmax(x):

    log-sum-exp    g exp(x - lse)
    softmax        p (g - sum_j g_j p_j)
    log-softmax    g - exp(l) sum_j g_j

The latter two have one source: ``probs`` is True where ``y`` is p, None where it is l.
``out`` may be any of the inputs.
"""

from numba import prange

from fastce.kernels.codegen.jit import kernel
from fastce.kernels.formulas import softmax_vjp
from fastce.kernels.rows import columns, long_rows, short_rows, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.split import chunk_count, chunk_of, merged_dot
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write, write_short
from fastce.kernels.simd.memory import (
    load,
    load_n,
    offset,
    row,
    scratch,
    scratch_from,
    static_if_present,
    store,
    store_n,
)
from fastce.kernels.simd.vecmath import exp
from fastce.kernels.simd.vector import full_like, lanes, reduce_add


@kernel
def lse_tiles(x, g, lse, out):
    """``x`` is (N, C) with contiguous rows of few classes; ``g`` and ``lse`` hold one value a row."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile = scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(out, start, n)
        tiles.load_tile(x, start, n, tile)
        shift, factor = load_n(row(lse, start), 0, n, 0.0), load_n(row(g, start), 0, n, 0.0)
        for c in range(0, classes * width, width):
            store(tile, c, exp(load(tile, c) - shift) * factor)
        tiles.store_tile(out, start, n, tile)


@kernel
def lse_short_rows(x, g, lse, out):
    """``x`` is (N, C) with contiguous rows; ``g`` and ``lse`` hold one value a row."""
    for i in prange(x.shape[0]):
        write_short(row(out, i), x.shape[1], long_rows.gradient, (row(x, i), lse[i], g[i], None, None))


@kernel
def lse_rows(x, g, lse, out, streamed):
    """``x`` is (N, C) with contiguous rows; ``g`` and ``lse`` hold one value a row."""
    for i in prange(x.shape[0]):
        write(row(out, i), x.shape[1], streamed, long_rows.gradient, (row(x, i), lse[i], g[i], None, None))
        stream_fence(streamed)


@kernel
def lse_split(x, g, lse, out, streamed):
    """``x`` is (N, C) with contiguous long rows; ``g`` and ``lse`` hold one value a row."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, n = chunk_of(x, task)
        terms = (offset(row(x, i), start), lse[i], g[i], None, None)
        write(offset(row(out, i), start), n, streamed, long_rows.gradient, terms)
        stream_fence(streamed)


@kernel
def lse_columns(x, g, lse, out, panel, streamed):
    """``x`` is (outer, C, inner); ``g`` and ``lse`` hold one value a sample."""
    width = lanes(x)
    for b in prange(columns.block_count(x, panel)):
        start, n, lead = columns.block_range(x, b, panel)
        maxima, factors = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        for j in range(0, n, width):
            store(maxima, j, load_n(row(lse, start + j), 0, n - j, 0.0))
            store(factors, j, load_n(row(g, start + j), 0, n - j, 0.0))
        p, q = columns.origin(x, start), columns.origin(out, start)
        step, q_step = columns.class_step(x), columns.class_step(out)
        columns.write(p, step, q, q_step, x.shape[1], n, streamed, columns.softmax, (maxima, factors))
        stream_fence(streamed)


@kernel
def softmax_tiles(y, g, out, probs):
    """``y`` and ``g`` are (N, C) with contiguous rows of few classes."""
    count, classes = y.shape
    width = lanes(y)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, upstream = scratch(y, MAX_CLASSES), scratch(y, MAX_CLASSES)
        tiles.prefetch_for_write(out, start, n)
        tiles.load_tile(y, start, n, tile)
        tiles.load_tile(g, start, n, upstream)
        dot = tiles.dot(static_if_present(probs, tile), upstream, classes)
        for c in range(0, classes * width, width):
            store(tile, c, softmax_vjp(load(tile, c), load(upstream, c), dot, probs))
        tiles.store_tile(out, start, n, tile)


@kernel
def softmax_short_rows(y, g, out, probs):
    """``y`` and ``g`` are (N, C) with contiguous rows of at most `short_rows.FEW` values."""
    classes = y.shape[1]
    for i in prange(y.shape[0]):
        p, upstream = row(y, i), row(g, i)
        if classes <= lanes(y):
            dot = reduce_add(
                long_rows.add_product(static_if_present(probs, p), upstream, 0, classes, full_like(y, 0.0))
            )
            store_n(row(out, i), 0, classes, long_rows.vjp(0, classes, p, upstream, dot, probs))
        else:
            dot = short_rows.dot(static_if_present(probs, p), upstream, classes)
            write_short(row(out, i), classes, long_rows.vjp, (p, upstream, dot, probs))


@kernel
def softmax_rows(y, g, out, probs, per_block):
    """``y`` and ``g`` are (N, C) with contiguous rows of one chunk, of which a thread takes ``per_block`` at a time."""
    count, classes = y.shape
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        stop = min(start + per_block, count)
        dot = long_rows.chunk_dot(static_if_present(probs, row(y, start)), row(g, start), classes)
        for i in range(start, stop):
            following = min(i + 1, stop - 1)
            p, upstream, terms = row(y, following), row(g, following), (row(y, i), row(g, i), dot, probs)
            dot = long_rows.dot_while_writing(static_if_present(probs, p), upstream, classes, row(out, i), terms)


@kernel
def softmax_long_rows(y, g, out, probs, streamed):
    """``y`` and ``g`` are (N, C) with contiguous rows."""
    classes = y.shape[1]
    for i in prange(y.shape[0]):
        p, upstream = row(y, i), row(g, i)
        dot = long_rows.dot(static_if_present(probs, p), upstream, classes)
        write(row(out, i), classes, streamed, long_rows.vjp, (p, upstream, dot, probs))
        stream_fence(streamed)


@kernel
def softmax_split(y, g, out, probs, streamed, parts):
    """``y`` and ``g`` are (N, C) with contiguous long rows, of whose chunks the dots are in ``parts``."""
    for task in prange(y.shape[0] * chunk_count(y)):
        i, start, n = chunk_of(y, task)
        terms = (offset(row(y, i), start), offset(row(g, i), start), merged_dot(parts, i), probs)
        write(offset(row(out, i), start), n, streamed, long_rows.vjp, terms)
        stream_fence(streamed)


@kernel
def softmax_columns(y, g, out, probs, panel, streamed):
    """``y`` and ``g`` are (outer, C, inner)."""
    classes = y.shape[1]
    step, g_step, q_step = columns.class_step(y), columns.class_step(g), columns.class_step(out)
    for b in prange(columns.block_count(y, panel)):
        start, n, lead = columns.block_range(y, b, panel)
        dots = scratch_from(y, ROOM, lead)
        p, upstream, q = columns.origin(y, start), columns.origin(g, start), columns.origin(out, start)
        columns.dots(static_if_present(probs, p), step, upstream, g_step, classes, n, dots)
        terms = (upstream, g_step, dots, probs)
        columns.write(p, step, q, q_step, classes, n, streamed, columns.vjp, terms)
        stream_fence(streamed)
