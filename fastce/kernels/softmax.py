"""Drivers of the softmax family: one source for log-sum-exp, softmax and log-softmax.

Of ``lse``, ``probs`` and ``logs``, those that are not None are written; ``probs`` or
``logs`` may be ``x`` itself.
"""

from numba import prange

from fastce.kernels import columns, rows
from fastce.kernels.columns import BUFFER, PANEL
from fastce.kernels.jit import inline, kernel
from fastce.kernels.memory import load, offset, row, scratch, store, store_n, store_one
from fastce.kernels.simd import (
    full,
    get_lane,
    lanes,
    set_lane,
    where,
)
from fastce.kernels.split import chunk_count, chunk_of
from fastce.kernels.tiles import block_count, block_range, fetch, place, put
from fastce.kernels.vecmath import log1p


@inline
def _lse(top, rest):
    # nothing but -inf gives -inf; +inf gives +inf, and the caller looks for a NaN beside it
    return where(top - top == 0.0, top + log1p(rest), top)


@kernel
def softmax_rows(x, lse, probs, logs, per_block):
    """``x`` is (N, C) with contiguous rows; ``per_block`` rows, a lane each, go together."""
    count, classes = x.shape
    # exponentials of short rows wait for their factor where the result goes
    stored = x.itemsize > 2 and rows.is_short(x, classes)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        top = rest = full(x, 0.0)
        for r in range(n):
            if stored and probs is not None:
                row_top, row_rest = rows.stats_and_exp(row(x, start + r), row(probs, start + r), classes)
            else:
                row_top, row_rest = rows.stats(row(x, start + r), classes)
            top = set_lane(top, r, row_top)
            rest = set_lane(rest, r, row_rest)
        if lse is not None:
            store_n(row(lse, start), 0, n, _lse(top, rest))
        if probs is not None:
            factor = full(x, 1.0) / (rest + 1.0)
            for r in range(n):
                q = row(probs, start + r)
                if stored:
                    rows.scale(q, classes, get_lane(factor, r))
                else:
                    rows.write_softmax(row(x, start + r), q, classes, get_lane(top, r), get_lane(factor, r))
        if logs is not None:
            log_sum = log1p(rest)
            for r in range(n):
                q = row(logs, start + r)
                rows.write_log_softmax(row(x, start + r), q, classes, get_lane(top, r), get_lane(log_sum, r))


@kernel
def softmax_lanes(x, lse, probs, logs, panel):
    """``x`` is one of the shapes of ``tiles``."""
    classes = x.shape[1]
    width = lanes(x)
    for b in prange(block_count(x, panel)):
        start, n = block_range(x, b, panel)
        tile = scratch(x, BUFFER)
        tops, rests, terms = scratch(x, PANEL), scratch(x, PANEL), scratch(x, PANEL)
        p, step, count = fetch(x, start, n, tile)
        columns.stats(p, step, classes, count, tile, tops, rests)
        if lse is not None:
            for j in range(0, n, width):
                store_n(row(lse, start + j), 0, n - j, _lse(load(tops, j), load(rests, j)))
        if probs is not None:
            for j in range(0, n, width):
                store(terms, j, full(x, 1.0) / (load(rests, j) + 1.0))
            q, q_step, _ = place(probs, start, n, tile)
            columns.write_softmax(p, step, q, q_step, classes, count, tops, terms)
            put(probs, start, n, tile)
        if logs is not None:
            for j in range(0, n, width):
                store(terms, j, log1p(load(rests, j)))
            q, q_step, _ = place(logs, start, n, tile)
            columns.write_log_softmax(p, step, q, q_step, classes, count, tops, terms)
            put(logs, start, n, tile)


@kernel
def softmax_split(x, lse, probs, logs, stats):
    """``x`` is (N, C) with contiguous long rows whose (maximum, rest) are in ``stats``."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, classes = chunk_of(x, task)
        top = full(x, stats[0, i])
        rest = full(x, stats[1, i])
        p = offset(row(x, i), start)
        if lse is not None and start == 0:
            store_one(row(lse, i), 0, get_lane(_lse(top, rest), 0))
        if probs is not None:
            factor = get_lane(full(x, 1.0) / (rest + 1.0), 0)
            rows.write_softmax(p, offset(row(probs, i), start), classes, stats[0, i], factor)
        if logs is not None:
            log_sum = get_lane(log1p(rest), 0)
            rows.write_log_softmax(p, offset(row(logs, i), start), classes, stats[0, i], log_sum)
