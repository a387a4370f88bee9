"""Drivers of vector-Jacobian products: the backward passes of the softmax family.

For an upstream gradient g, p = softmax(x) and l = log_softmax(x):

    log-sum-exp    g exp(x - lse)
    softmax        p (g - sum_j g_j p_j)
    log-softmax    g - exp(l) sum_j g_j

``out`` may be any of the inputs.
"""

from numba import prange

from fastce.kernels import columns, rows, tiles
from fastce.kernels.columns import ROOM
from fastce.kernels.jit import kernel
from fastce.kernels.memory import load, load_n, row, scratch, scratch_from, store
from fastce.kernels.simd import lanes
from fastce.kernels.streams import settle, write
from fastce.kernels.tiles import MAX_CLASSES
from fastce.kernels.vecmath import exp


@kernel
def lse_rows(x, g, lse, out, streamed):
    """``x`` is (N, C) with contiguous rows; ``g`` and ``lse`` hold one value a row."""
    for i in prange(x.shape[0]):
        write(row(out, i), x.shape[1], streamed, rows.gradient, (row(x, i), lse[i], g[i], None, None))
        settle(streamed)


@kernel
def lse_columns(x, g, lse, out, panel, streamed):
    """``x`` is (outer, C, inner); ``g`` and ``lse`` hold one value a sample."""
    width = lanes(x)
    for b in prange(columns.block_count(x, panel)):
        start, n, lead = columns.block_range(x, b, panel)
        tops, factors = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        for j in range(0, n, width):
            store(tops, j, load_n(row(lse, start + j), 0, n - j, 0.0))
            store(factors, j, load_n(row(g, start + j), 0, n - j, 0.0))
        p, q = columns.origin(x, start), columns.origin(out, start)
        step, q_step = columns.class_step(x), columns.class_step(out)
        columns.write(p, step, q, q_step, x.shape[1], n, streamed, columns.softmax, (tops, factors))
        settle(streamed)


@kernel
def softmax_rows(p, g, out, streamed):
    """``p`` and ``g`` are (N, C) with contiguous rows."""
    classes = p.shape[1]
    for i in prange(p.shape[0]):
        dot = rows.dot(row(p, i), row(g, i), classes)
        write(row(out, i), classes, streamed, rows.softmax_vjp, (row(p, i), row(g, i), dot))
        settle(streamed)


@kernel
def softmax_tiles(p, g, out):
    """``p`` and ``g`` are (N, C) with contiguous rows of few classes."""
    count, classes = p.shape
    width = lanes(p)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, upstream = scratch(p, MAX_CLASSES), scratch(p, MAX_CLASSES)
        tiles.announce(out, start, n)
        tiles.fetch(p, start, n, tile)
        tiles.fetch(g, start, n, upstream)
        dot = tiles.dot(tile, upstream, classes)
        for c in range(0, classes * width, width):
            store(tile, c, load(tile, c) * (load(upstream, c) - dot))
        tiles.put(out, start, n, tile)


@kernel
def softmax_columns(p, g, out, panel, streamed):
    """``p`` and ``g`` are (outer, C, inner)."""
    classes = p.shape[1]
    step, g_step, q_step = columns.class_step(p), columns.class_step(g), columns.class_step(out)
    for b in prange(columns.block_count(p, panel)):
        start, n, lead = columns.block_range(p, b, panel)
        dots = scratch_from(p, ROOM, lead)
        source, upstream, q = columns.origin(p, start), columns.origin(g, start), columns.origin(out, start)
        columns.dots(source, step, upstream, g_step, classes, n, dots)
        terms = (upstream, g_step, dots)
        columns.write(source, step, q, q_step, classes, n, streamed, columns.softmax_vjp, terms)
        settle(streamed)


@kernel
def log_softmax_rows(logp, g, out, streamed):
    """``logp`` and ``g`` are (N, C) with contiguous rows."""
    classes = logp.shape[1]
    for i in prange(logp.shape[0]):
        total = rows.dot(None, row(g, i), classes)
        write(row(out, i), classes, streamed, rows.log_softmax_vjp, (row(logp, i), row(g, i), total))
        settle(streamed)


@kernel
def log_softmax_tiles(logp, g, out):
    """``logp`` and ``g`` are (N, C) with contiguous rows of few classes."""
    count, classes = logp.shape
    width = lanes(logp)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, upstream = scratch(logp, MAX_CLASSES), scratch(logp, MAX_CLASSES)
        tiles.announce(out, start, n)
        tiles.fetch(logp, start, n, tile)
        tiles.fetch(g, start, n, upstream)
        total = tiles.dot(None, upstream, classes)
        for c in range(0, classes * width, width):
            store(tile, c, load(upstream, c) - exp(load(tile, c)) * total)
        tiles.put(out, start, n, tile)


@kernel
def log_softmax_columns(logp, g, out, panel, streamed):
    """``logp`` and ``g`` are (outer, C, inner)."""
    classes = logp.shape[1]
    step, g_step, q_step = columns.class_step(logp), columns.class_step(g), columns.class_step(out)
    for b in prange(columns.block_count(logp, panel)):
        start, n, lead = columns.block_range(logp, b, panel)
        totals = scratch_from(logp, ROOM, lead)
        source, upstream, q = columns.origin(logp, start), columns.origin(g, start), columns.origin(out, start)
        columns.dots(None, 0, upstream, g_step, classes, n, totals)
        terms = (upstream, g_step, totals)
        columns.write(source, step, q, q_step, classes, n, streamed, columns.log_softmax_vjp, terms)
        settle(streamed)
