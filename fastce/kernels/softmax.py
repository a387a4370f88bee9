"""Drivers of the softmax family: one source for log-sum-exp, softmax and log-softmax.

Of ``lse``, ``probs`` and ``logs``, those that are not None are written. There is one driver
a memory layout; each handles a block of rows in the lanes of one value.
"""

import numpy as np
from numba import prange

from fastce.kernels import columns, rows
from fastce.kernels.jit import inline, kernel
from fastce.kernels.simd import full, get_lane, lanes, row, scratch, set_lane, store_n, where
from fastce.kernels.tiles import MAX_CLASSES, load_tile, store_tile
from fastce.kernels.vecmath import log1p


@inline
def _lse(top, rest):
    # -inf: nothing but -inf was there. +inf: see the callers.
    return where(top > -np.inf, top + log1p(rest), top)


@kernel
def softmax_rows(x, lse, probs, logs, per_block):
    """``x`` is (N, C) with contiguous rows."""
    count, classes = x.shape
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        top = full(x, 0.0)
        rest = full(x, 0.0)
        for r in range(n):
            row_top, row_rest = rows.stats(row(x, start + r), classes)
            top = set_lane(top, r, row_top)
            rest = set_lane(rest, r, row_rest)
        log_sum = log1p(rest)
        if lse is not None:
            store_n(row(lse, start), 0, n, _lse(top, rest))
        factor = full(x, 1.0) / (rest + 1.0)
        for r in range(n):
            p = row(x, start + r)
            if probs is not None:
                rows.write_softmax(p, row(probs, start + r), classes, get_lane(top, r), get_lane(factor, r))
            if logs is not None:
                rows.write_log_softmax(p, row(logs, start + r), classes, get_lane(top, r), get_lane(log_sum, r))


@kernel
def softmax_tiles(x, lse, probs, logs):
    """``x`` is (N, C) with contiguous rows of at most ``tiles.MAX_CLASSES`` classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange((count + width - 1) // width):
        start = b * width
        n = min(width, count - start)
        tile = scratch(x, MAX_CLASSES)
        load_tile(x, start, n, tile)
        top, rest = columns.stats(tile, width, classes, width)
        if lse is not None:
            store_n(row(lse, start), 0, n, _lse(top, rest))
        if probs is not None:
            factor = full(x, 1.0) / (rest + 1.0)
            columns.write_softmax(tile, width, tile, width, classes, width, top, factor)
            store_tile(probs, start, n, tile)
        if logs is not None:
            columns.write_log_softmax(tile, width, tile, width, classes, width, top, log1p(rest))
            store_tile(logs, start, n, tile)
