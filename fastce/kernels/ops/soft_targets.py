"""Kernels of cross-entropy with class probabilities as targets: loss and gradient.

As in ``cross_entropy``, with t_j = w_j ((1 - e) target_j + e / C). Logits and targets are read from main memory once.
A factor u of 0 gives loss 0 and gradient 0, and u g of 0 gradient 0, whatever the logits and targets.
``grad`` may be ``x`` or ``target`` itself. All kernels return the sum of the losses.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import kernel
from fastce.kernels.formulas import prob_loss, times_weight, z_slope
from fastce.kernels.ops.cross_entropy import has_gradient, read_stats, sample_scales, save_stats
from fastce.kernels.rows import columns, long_rows, row_formulas, short_rows, tiles
from fastce.kernels.rows.columns import ROOM, ProbGradientTerms
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.samples import total_of
from fastce.kernels.rows.targets import Targets
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write, write_cached
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load, row, scratch, scratch_from, static_if_present, store, store_n, store_one
from fastce.kernels.simd.vector import full_like, get_lane, lanes, where


@kernel
def soft_tiles(x, target, options, scale, saved_stats, loss, grad):
    """``x`` is (N, C) with contiguous rows of few classes."""
    class_weight, sample_factors, smoothing, z_loss = options
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, target_tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.load_tile(target, start, n, target_tile)
        targets = Targets(target_tile, class_weight, smoothing)
        if saved_stats is not None and loss is None:
            row_max, sum_exp_rest = read_stats(saved_stats, start, n)
            tiles.write_exps(tile, classes, row_max, exps)
        else:
            row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        target_sum, dot = tiles.target_sum_and_dot(tile, targets, classes, row_max)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        save_stats(saved_stats, loss, start, n, where(weight != 0.0, row_max, np.nan), sum_exp_rest)
        if grad is not None:
            pull = target_sum + z_slope(row_max, sum_exp_rest, z_loss)
            tiles.write_prob_gradient(exps, targets, classes, sum_exp_rest, pull, grad_scale)
            tiles.clear(exps, classes, static_if_present(sample_factors, grad_scale))
            tiles.store_tile(grad, start, n, exps)
        if loss is not None:
            value = times_weight(prob_loss(row_max, sum_exp_rest, target_sum, dot, z_loss), weight)
            store_n(row(loss, start), 0, n, value)
    return total_of(loss)


@kernel
def soft_short_rows(x, target, options, scale, saved_stats, loss, grad):
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    class_weight, sample_factors, smoothing, z_loss = options
    count, classes = x.shape
    per_block = short_rows.rows_a_block(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = smaller(per_block, count - start)
        if saved_stats is not None and loss is None:
            row_max, sum_exp_rest = read_stats(saved_stats, start, n)
        else:
            row_max, sum_exp_rest, _ = short_rows.stats(x, start, n, None, None, None, None, None)
        targets = Targets(target, class_weight, smoothing)
        target_sum, dot = short_rows.target_sum_and_dot(x, targets, start, n, row_max)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        save_stats(saved_stats, loss, start, n, where(weight != 0.0, row_max, np.nan), sum_exp_rest)
        if loss is not None:
            value = times_weight(prob_loss(row_max, sum_exp_rest, target_sum, dot, z_loss), weight)
            store_n(row(loss, start), 0, n, value)
        pull = target_sum + z_slope(row_max, sum_exp_rest, z_loss)
        if grad is not None:
            for r in range(n):
                row_targets = Targets(row(target, start + r), class_weight, smoothing)
                sums = get_lane(sum_exp_rest, r), get_lane(pull, r), get_lane(grad_scale, r)
                terms = (row(x, start + r), get_lane(row_max, r), row_targets, *sums)
                if has_gradient(start + r, sample_factors):
                    write_cached(row(grad, start + r), classes, row_formulas.prob_gradient, terms)
                else:
                    write_cached(row(grad, start + r), classes, row_formulas.zero, (full_like(x, 0.0),))
    return total_of(loss)


@kernel
def soft_rows(x, target, options, scale, saved_stats, loss, grad, plan):
    """``x`` is (N, C) with contiguous rows; ``plan`` is a `long_rows.RowPlan`."""
    class_weight, sample_factors, smoothing, z_loss = options
    rows_a_block, streamed, static_chunked, static_store_exp = plan
    count, classes = x.shape
    for b in prange((count + rows_a_block - 1) // rows_a_block):
        start = b * rows_a_block
        stop = smaller(start + rows_a_block, count)
        maxima_cur, maxima_next = scratch(x, MAXIMA), scratch(x, MAXIMA)
        buffer = long_rows.static_exp_buffer(static_store_exp, b)
        next_max = long_rows.lowest(x)
        if saved_stats is None or loss is not None:
            next_max = long_rows.first_max(x, start, stop, maxima_cur, static_chunked)
        for i in range(start, stop):
            exps = long_rows.exps_of(static_store_exp, buffer, grad, i)
            if saved_stats is not None and loss is None:
                one_max, one_rest = np.float64(saved_stats[0, i]), np.float64(saved_stats[1, i])
            else:
                one_max, one_rest, next_max = long_rows.stats_and_next_max(
                    x, i, smaller(i + 1, stop - 1), next_max, maxima_cur, maxima_next, exps, static_chunked
                )
                maxima_cur, maxima_next = maxima_next, maxima_cur
            targets = Targets(row(target, i), class_weight, smoothing)
            one_target_sum, one_dot = long_rows.target_sum_and_dot(row(x, i), targets, classes, one_max)
            row_max, sum_exp_rest = full_like(x, one_max), full_like(x, one_rest)
            target_sum = full_like(x, one_target_sum)
            weight, grad_scale = sample_scales(x, sample_factors, scale, i, 1)
            save_stats(saved_stats, loss, i, 1, where(weight != 0.0, row_max, np.nan), sum_exp_rest)
            if loss is not None:
                one_loss = prob_loss(row_max, sum_exp_rest, target_sum, full_like(x, one_dot), z_loss)
                value = times_weight(one_loss, weight)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None:
                pull = target_sum + z_slope(row_max, sum_exp_rest, z_loss)
                sums = get_lane(sum_exp_rest, 0), get_lane(pull, 0), get_lane(grad_scale, 0)
                exp_source = row_formulas.static_exp_source(static_if_present(loss, exps), row(x, i), one_max)
                terms = (*exp_source, targets, *sums)
                if has_gradient(i, sample_factors):
                    write(row(grad, i), classes, streamed, row_formulas.prob_gradient, terms)
                else:
                    write(row(grad, i), classes, streamed, row_formulas.zero, (full_like(x, 0.0),))
        stream_fence(streamed)
    return total_of(loss)


@kernel
def soft_columns(x, target, options, scale, saved_stats, loss, grad, plan):
    """``x`` is (outer, C, inner); ``plan`` is a `columns.ColumnPlan`."""
    class_weight, sample_factors, smoothing, z_loss = options
    panel_width, streamed = plan
    classes = x.shape[1]
    width = lanes(x)
    for b in prange(columns.panel_count(x, panel_width)):
        start, n, lead = columns.panel_range(x, b, panel_width)
        maxima, sum_exp_rests = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        target_sums, dots = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        grad_scales, pulls = scratch_from(x, ROOM, lead), target_sums  # the pulls replace the sums
        panel = columns.panel_at(x, start)
        targets = Targets(columns.panel_at(target, start), class_weight, smoothing)
        if saved_stats is not None and loss is None:
            for j in range(0, n, width):
                row_max, sum_exp_rest = read_stats(saved_stats, start + j, n - j)
                store(maxima, j, row_max)
                store(sum_exp_rests, j, sum_exp_rest)
        else:
            columns.stats(panel, classes, n, lead, maxima, sum_exp_rests)
        columns.target_sums_and_dots(panel, targets, classes, n, maxima, target_sums, dots)
        for j in range(0, n, width):
            weight, grad_scale = sample_scales(x, sample_factors, scale, start + j, n - j)
            row_max, sum_exp_rest, target_sum = load(maxima, j), load(sum_exp_rests, j), load(target_sums, j)
            save_stats(saved_stats, loss, start + j, n - j, where(weight != 0.0, row_max, np.nan), sum_exp_rest)
            if loss is not None:
                one_loss = prob_loss(row_max, sum_exp_rest, target_sum, load(dots, j), z_loss)
                value = times_weight(one_loss, weight)
                store_n(row(loss, start + j), 0, n - j, value)
            store(pulls, j, target_sum + z_slope(row_max, sum_exp_rest, z_loss))
            store(grad_scales, j, grad_scale)
        if grad is not None:
            static_scales = static_if_present(sample_factors, grad_scales)
            terms = ProbGradientTerms(maxima, sum_exp_rests, pulls, grad_scales, static_scales)
            out = columns.panel_at(grad, start)
            columns.write(panel, out, classes, n, streamed, columns.prob_gradient, (targets, terms))
            stream_fence(streamed)
    return total_of(loss)
