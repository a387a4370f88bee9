"""Drivers of vector-Jacobian products: the backward passes of the softmax family.

For an upstream gradient g, p = softmax(x) and l = log_softmax(x):

    log-sum-exp    g exp(x - lse)
    softmax        p (g - sum_j g_j p_j)
    log-softmax    g - exp(l) sum_j g_j

``out`` may be any of the inputs.
"""

from numba import prange

from fastce.kernels import columns, rows
from fastce.kernels.columns import BUFFER, PANEL
from fastce.kernels.jit import kernel
from fastce.kernels.memory import load_n, row, scratch, store
from fastce.kernels.simd import lanes
from fastce.kernels.tiles import MAX_CLASSES, block_count, block_range, fetch, place, put


@kernel
def lse_rows(x, g, lse, out):
    """``x`` is (N, C) with contiguous rows; ``g`` and ``lse`` hold one value a row."""
    for i in prange(x.shape[0]):
        rows.write_softmax(row(x, i), row(out, i), x.shape[1], lse[i], g[i])


@kernel
def lse_lanes(x, g, lse, out, panel):
    """``x`` is one of the shapes of ``tiles``; ``g`` and ``lse`` hold one value a sample."""
    width = lanes(x)
    for b in prange(block_count(x, panel)):
        start, n = block_range(x, b, panel)
        tile = scratch(x, BUFFER)
        tops, factors = scratch(x, PANEL), scratch(x, PANEL)
        p, step, count = fetch(x, start, n, tile)
        for j in range(0, n, width):
            store(tops, j, load_n(row(lse, start + j), 0, n - j, 0.0))
            store(factors, j, load_n(row(g, start + j), 0, n - j, 0.0))
        q, q_step, _ = place(out, start, n, tile)
        columns.write_softmax(p, step, q, q_step, x.shape[1], count, tops, factors)
        put(out, start, n, tile)


@kernel
def softmax_rows(p, g, out):
    """``p`` and ``g`` are (N, C) with contiguous rows."""
    classes = p.shape[1]
    for i in prange(p.shape[0]):
        dot = rows.dot(row(p, i), row(g, i), classes)
        rows.write_softmax_vjp(row(p, i), row(g, i), row(out, i), classes, dot)


@kernel
def softmax_lanes(p, g, out, panel):
    """``p`` and ``g`` are in one of the shapes of ``tiles``."""
    classes = p.shape[1]
    for b in prange(block_count(p, panel)):
        start, n = block_range(p, b, panel)
        tile, g_tile, dots = scratch(p, BUFFER), scratch(p, MAX_CLASSES), scratch(p, PANEL)
        source, step, count = fetch(p, start, n, tile)
        upstream, g_step, _ = fetch(g, start, n, g_tile)
        columns.dots(source, step, upstream, g_step, classes, count, dots)
        q, q_step, _ = place(out, start, n, tile)
        columns.write_softmax_vjp(source, step, upstream, g_step, q, q_step, classes, count, dots)
        put(out, start, n, tile)


@kernel
def log_softmax_rows(logp, g, out):
    """``logp`` and ``g`` are (N, C) with contiguous rows."""
    classes = logp.shape[1]
    for i in prange(logp.shape[0]):
        total = rows.dot(None, row(g, i), classes)
        rows.write_log_softmax_vjp(row(logp, i), row(g, i), row(out, i), classes, total)


@kernel
def log_softmax_lanes(logp, g, out, panel):
    """``logp`` and ``g`` are in one of the shapes of ``tiles``."""
    classes = logp.shape[1]
    for b in prange(block_count(logp, panel)):
        start, n = block_range(logp, b, panel)
        tile, g_tile, totals = scratch(logp, BUFFER), scratch(logp, MAX_CLASSES), scratch(logp, PANEL)
        source, step, count = fetch(logp, start, n, tile)
        upstream, g_step, _ = fetch(g, start, n, g_tile)
        columns.dots(None, 0, upstream, g_step, classes, count, totals)
        q, q_step, _ = place(out, start, n, tile)
        columns.write_log_softmax_vjp(source, step, upstream, g_step, q, q_step, classes, count, totals)
        put(out, start, n, tile)
