"""Kernels of vector-Jacobian products: the backward passes of the softmax family.

For an upstream gradient g, p = softmax(x) and l = log_softmax(x):

    log-sum-exp    g exp(x - lse)
    softmax        p (g - sum_j g_j p_j)
    log-softmax    g - exp(l) sum_j g_j

Softmax and log-softmax have one source: ``static_probs`` is True where ``y`` is p, None where it is l.
``out`` may be any of the inputs.
"""

from numba import prange

from fastce.kernels import formulas
from fastce.kernels.codegen.jit import kernel
from fastce.kernels.rows import columns, row_dots, row_formulas, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.split import chunk_count, chunk_of, merged_dot
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write, write_short
from fastce.kernels.simd.integer import smaller
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
        n = smaller(width, count - start)
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
        write_short(row(out, i), x.shape[1], row_formulas.gradient, (row(x, i), lse[i], g[i], None, None))


@kernel
def lse_rows(x, g, lse, out, streamed):
    """``x`` is (N, C) with contiguous rows; ``g`` and ``lse`` hold one value a row."""
    for i in prange(x.shape[0]):
        row_formulas.write_gradient(row(out, i), x.shape[1], streamed, row(x, i), lse[i], g[i], None, None)
        stream_fence(streamed)


@kernel
def lse_split(x, g, lse, out, streamed):
    """``x`` is (N, C) with contiguous long rows; ``g`` and ``lse`` hold one value a row."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, n = chunk_of(x, task)
        p, q = offset(row(x, i), start), offset(row(out, i), start)
        row_formulas.write_gradient(q, n, streamed, p, lse[i], g[i], None, None)
        stream_fence(streamed)


@kernel
def lse_columns(x, g, lse, out, panel_width, streamed):
    """``x`` is (outer, C, inner); ``g`` and ``lse`` hold one value a sample."""
    width = lanes(x)
    for b in prange(columns.panel_count(x, panel_width)):
        start, n, lead = columns.panel_range(x, b, panel_width)
        maxima, factors = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        for j in range(0, n, width):
            store(maxima, j, load_n(row(lse, start + j), 0, n - j, 0.0))
            store(factors, j, load_n(row(g, start + j), 0, n - j, 0.0))
        panel, out_panel = columns.panel_at(x, start), columns.panel_at(out, start)
        columns.write(panel, out_panel, x.shape[1], n, streamed, columns.softmax, (maxima, factors))
        stream_fence(streamed)


@kernel
def softmax_tiles(y, g, out, static_probs):
    """``y`` and ``g`` are (N, C) with contiguous rows of few classes."""
    count, classes = y.shape
    width = lanes(y)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, upstream = scratch(y, MAX_CLASSES), scratch(y, MAX_CLASSES)
        tiles.prefetch_for_write(out, start, n)
        tiles.load_tile(y, start, n, tile)
        tiles.load_tile(g, start, n, upstream)
        dot = tiles.dot(static_if_present(static_probs, tile), upstream, classes)
        for c in range(0, classes * width, width):
            value = formulas.softmax_vjp(load(tile, c), load(upstream, c), dot, static_probs)
            store(tile, c, value)
        tiles.store_tile(out, start, n, tile)


@kernel
def softmax_short_rows(y, g, out, static_probs):
    """``y`` and ``g`` are (N, C) with contiguous rows of at most `row_dots.SHORT_VALUES` values."""
    classes = y.shape[1]
    for i in prange(y.shape[0]):
        p, upstream = row(y, i), row(g, i)
        if classes <= lanes(y):
            dot = reduce_add(
                row_dots.add_product(static_if_present(static_probs, p), upstream, 0, classes, full_like(y, 0.0))
            )
            store_n(row(out, i), 0, classes, row_formulas.vjp(0, classes, p, upstream, dot, static_probs))
        else:
            dot = row_dots.short_dot(static_if_present(static_probs, p), upstream, classes)
            write_short(row(out, i), classes, row_formulas.vjp, (p, upstream, dot, static_probs))


@kernel
def softmax_rows(y, g, out, static_probs, per_block):
    """``y`` and ``g`` are (N, C) with contiguous rows of one chunk; a thread takes ``per_block`` at a time."""
    count, classes = y.shape
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        stop = smaller(start + per_block, count)
        dot = row_dots.chunk_dot(static_if_present(static_probs, row(y, start)), row(g, start), classes)
        for i in range(start, stop):
            next_row = smaller(i + 1, stop - 1)
            p, upstream, terms = row(y, next_row), row(g, next_row), (row(y, i), row(g, i), dot, static_probs)
            dot = row_dots.dot_while_writing(static_if_present(static_probs, p), upstream, classes, row(out, i), terms)


@kernel
def softmax_long_rows(y, g, out, static_probs, streamed):
    """``y`` and ``g`` are (N, C) with contiguous rows."""
    classes = y.shape[1]
    for i in prange(y.shape[0]):
        p, upstream = row(y, i), row(g, i)
        dot = row_dots.dot(static_if_present(static_probs, p), upstream, classes)
        write(row(out, i), classes, streamed, row_formulas.vjp, (p, upstream, dot, static_probs))
        stream_fence(streamed)


@kernel
def softmax_split(y, g, out, static_probs, streamed, parts):
    """``y`` and ``g`` are (N, C) with contiguous long rows; ``parts`` holds the dots of their chunks."""
    for task in prange(y.shape[0] * chunk_count(y)):
        i, start, n = chunk_of(y, task)
        terms = (offset(row(y, i), start), offset(row(g, i), start), merged_dot(parts, i), static_probs)
        write(offset(row(out, i), start), n, streamed, row_formulas.vjp, terms)
        stream_fence(streamed)


@kernel
def softmax_columns(y, g, out, static_probs, panel_width, streamed):
    """``y`` and ``g`` are (outer, C, inner)."""
    classes = y.shape[1]
    for b in prange(columns.panel_count(y, panel_width)):
        start, n, lead = columns.panel_range(y, b, panel_width)
        dots = scratch_from(y, ROOM, lead)
        panel, upstream = columns.panel_at(y, start), columns.panel_at(g, start)
        out_panel = columns.panel_at(out, start)
        columns.dots(static_if_present(static_probs, panel), upstream, classes, n, dots)
        columns.write(panel, out_panel, classes, n, streamed, columns.vjp, (upstream, dots, static_probs))
        stream_fence(streamed)
