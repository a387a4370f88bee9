"""Kernels of the softmax family: one source for log-sum-exp, softmax and log-softmax.

They write each of ``lse``, ``probs`` and ``logs`` that is not None; ``probs`` or ``logs`` may be ``x`` itself.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.formulas import logsumexp
from fastce.kernels.rows import columns, long_rows, row_formulas, short_rows, tiles
from fastce.kernels.rows.callers_arrays import takes
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.short_rows import EXP_VALUES
from fastce.kernels.rows.split import chunk_count, chunk_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write, write_cached
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import (
    load,
    offset,
    row,
    scratch,
    scratch_from,
    static_first_present,
    static_if_present,
    store,
    store_n,
    store_one,
)
from fastce.kernels.simd.vecmath import log1p
from fastce.kernels.simd.vector import any_lane, full_like, get_lane, lanes, set_lane


@inline
def _lse_of_rows(x, start, n, row_max, sum_exp_rest):
    """Return the log-sum-exp of ``n`` rows, a lane each: NaN where a row has NaN, which +inf hides."""
    lse = logsumexp(row_max, sum_exp_rest)
    if any_lane(lse == np.inf):
        for r in range(n):
            if get_lane(lse, r) == np.inf and long_rows.has_nan(row(x, start + r), x.shape[1]):
                lse = set_lane(lse, r, np.nan)
    return lse


@kernel
def softmax_short_rows(x, lse, probs, logs, is_checked):
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    if not takes(is_checked, x, static_first_present(probs, logs), lse):
        return False
    count, classes = x.shape
    per_block = short_rows.rows_a_block(x)
    out = static_first_present(probs, logs)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = smaller(per_block, count - start)
        exps = scratch(x, EXP_VALUES)
        row_max, sum_exp_rest, _ = short_rows.stats(x, start, n, static_if_present(probs, exps), out, None, None, None)
        if lse is not None:
            store_n(row(lse, start), 0, n, _lse_of_rows(x, start, n, row_max, sum_exp_rest))
        if probs is not None:
            factor = full_like(x, 1.0) / (sum_exp_rest + 1.0)
            for r in range(n):
                e = offset(exps, r * short_rows.exp_step(x))
                terms = (e, get_lane(factor, r), None, None)
                write_cached(row(probs, start + r), classes, short_rows.gradient, terms)
        if logs is not None:
            log_sum = log1p(sum_exp_rest)
            for r in range(n):
                terms = (row(x, start + r), get_lane(row_max, r), get_lane(log_sum, r))
                write_cached(row(logs, start + r), classes, row_formulas.log_softmax, terms)
    return True


@kernel
def softmax_rows(x, lse, probs, logs, is_checked, plan):
    """``x`` is (N, C) with contiguous rows; ``plan`` is a `long_rows.RowPlan`."""
    if not takes(is_checked, x, static_first_present(probs, logs), lse):
        return False
    rows_a_block, streamed, static_chunked, static_store_exp = plan
    count, classes = x.shape
    for b in prange((count + rows_a_block - 1) // rows_a_block):
        start = b * rows_a_block
        stop = smaller(start + rows_a_block, count)
        maxima_cur, maxima_next = scratch(x, MAXIMA), scratch(x, MAXIMA)
        buffer = long_rows.static_exp_buffer(static_store_exp, b)
        next_max = long_rows.first_max(x, start, stop, maxima_cur, static_chunked)
        for i in range(start, stop):
            exps = long_rows.exps_of(static_store_exp, buffer, static_first_present(probs, logs), i)
            one_max, one_rest, next_max = long_rows.stats_and_next_max(
                x, i, smaller(i + 1, stop - 1), next_max, maxima_cur, maxima_next, exps, static_chunked
            )
            maxima_cur, maxima_next = maxima_next, maxima_cur
            row_max, sum_exp_rest = full_like(x, one_max), full_like(x, one_rest)
            if lse is not None:
                store_one(row(lse, i), 0, get_lane(_lse_of_rows(x, i, 1, row_max, sum_exp_rest), 0))
            if probs is not None:
                factor = get_lane(full_like(x, 1.0) / (sum_exp_rest + 1.0), 0)
                exp_source = row_formulas.static_exp_source(exps, row(x, i), one_max)
                row_formulas.write_gradient(row(probs, i), classes, streamed, *exp_source, factor, None, None)
            if logs is not None:
                terms = (row(x, i), one_max, get_lane(log1p(sum_exp_rest), 0))
                write(row(logs, i), classes, streamed, row_formulas.log_softmax, terms)
        stream_fence(streamed)
    return True


@kernel
def softmax_tiles(x, lse, probs, logs, is_checked):
    """``x`` is (N, C) with contiguous rows of few classes."""
    if not takes(is_checked, x, static_first_present(probs, logs), lse):
        return False
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(static_first_present(probs, logs), start, n)
        tiles.load_tile(x, start, n, tile)
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        if probs is not None:
            tiles.write_softmax(exps, classes, full_like(x, 1.0) / (sum_exp_rest + 1.0))
            tiles.store_tile(probs, start, n, exps)
        if logs is not None:
            tiles.write_log_softmax(tile, exps, classes, row_max, log1p(sum_exp_rest))
            tiles.store_tile(logs, start, n, exps)
        if lse is not None:
            value = logsumexp(row_max, sum_exp_rest)
            if any_lane(value == np.inf):
                value = tiles.or_nan(value, tile, classes)
            store_n(row(lse, start), 0, n, value)
    return True


@kernel
def softmax_columns(x, lse, probs, logs, is_checked, plan):
    """``x`` is (outer, C, inner); ``plan`` is a `columns.ColumnPlan`."""
    panel_width, streamed = plan
    classes = x.shape[1]
    width = lanes(x)
    for b in prange(columns.panel_count(x, panel_width)):
        start, n, lead = columns.panel_range(x, b, panel_width)
        maxima, sum_exp_rests = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        terms = scratch_from(x, ROOM, lead)
        panel = columns.panel_at(x, start)
        columns.stats(panel, classes, n, lead, maxima, sum_exp_rests)
        if lse is not None:
            for j in range(0, n, width):
                value = logsumexp(load(maxima, j), load(sum_exp_rests, j))
                if any_lane(value == np.inf):
                    value = columns.or_nan(value, panel, j, classes, n)
                store_n(row(lse, start + j), 0, n - j, value)
        if probs is not None:
            for j in range(0, n, width):
                store(terms, j, full_like(x, 1.0) / (load(sum_exp_rests, j) + 1.0))
            out = columns.panel_at(probs, start)
            columns.write(panel, out, classes, n, streamed, columns.softmax, (maxima, terms))
        if logs is not None:
            for j in range(0, n, width):
                store(terms, j, log1p(load(sum_exp_rests, j)))
            out = columns.panel_at(logs, start)
            columns.write(panel, out, classes, n, streamed, columns.log_softmax, (maxima, terms))
        stream_fence(streamed)
    return True


@kernel
def softmax_split(x, lse, probs, logs, streamed, stats):
    """``x`` is (N, C) with contiguous long rows, whose maxima and ``sum_exp_rest`` are in ``stats``."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, classes = chunk_of(x, task)
        row_max = full_like(x, stats[0, i])
        sum_exp_rest = full_like(x, stats[1, i])
        p = offset(row(x, i), start)
        if lse is not None and start == 0:
            store_one(row(lse, i), 0, get_lane(_lse_of_rows(x, i, 1, row_max, sum_exp_rest), 0))
        if probs is not None:
            factor = get_lane(full_like(x, 1.0) / (sum_exp_rest + 1.0), 0)
            q = offset(row(probs, i), start)
            row_formulas.write_gradient(q, classes, streamed, p, stats[0, i], factor, None, None)
        if logs is not None:
            log_sum = get_lane(log1p(sum_exp_rest), 0)
            q = offset(row(logs, i), start)
            write(q, classes, streamed, row_formulas.log_softmax, (p, stats[0, i], log_sum))
        stream_fence(streamed)
