"""Drivers of cross-entropy with class probabilities as targets: loss and gradient.

As in ``cross_entropy``, with t_j = w_j ((1 - e) target_j + e / C). Logits and targets are
read from far memory once. ``grad`` may be ``x`` or ``target`` itself. All return the sum of the
losses.
"""

from numba import prange

from fastce.kernels.codegen.jit import kernel
from fastce.kernels.formulas import prob_loss, z_slope
from fastce.kernels.ops.cross_entropy import sample_scales, save_stats
from fastce.kernels.rows import columns, long_rows, short_rows, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.samples import total_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write
from fastce.kernels.simd.memory import load, row, scratch, scratch_from, store, store_n, store_one
from fastce.kernels.simd.vector import full_like, get_lane, lanes


@kernel
def soft_short_rows(x, target, class_weight, sample_factors, smoothing, z_loss, scale, saved_stats, loss, grad):
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    count, classes = x.shape
    per_block = short_rows.together(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        row_max, sum_exp_rest, _ = short_rows.stats(x, start, n, None, None, None, None, None)
        target_sum, dot = short_rows.soft_sums(x, target, start, n, class_weight, row_max, smoothing)
        save_stats(saved_stats, start, n, row_max, sum_exp_rest)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        if loss is not None:
            store_n(row(loss, start), 0, n, weight * prob_loss(row_max, sum_exp_rest, target_sum, dot, z_loss))
        target_sum = target_sum + z_slope(row_max, sum_exp_rest, z_loss)
        if grad is not None:
            for r in range(n):
                terms = (
                    row(x, start + r),
                    get_lane(row_max, r),
                    row(target, start + r),
                    class_weight,
                    get_lane(sum_exp_rest, r),
                    get_lane(target_sum, r),
                    get_lane(grad_scale, r),
                    smoothing,
                )
                write(row(grad, start + r), classes, False, long_rows.soft, terms)
    return total_of(loss)


@kernel
def soft_rows(
    x,
    target,
    class_weight,
    sample_factors,
    smoothing,
    z_loss,
    scale,
    saved_stats,
    loss,
    grad,
    per_block,
    streamed,
    chunked,
    store_exp,
):
    """``x`` is (N, C) with contiguous rows, of which a thread takes ``per_block`` at a time."""
    count, classes = x.shape
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        stop = min(start + per_block, count)
        block_maxima, next_block_maxima, wide = (
            scratch(x, MAXIMA),
            scratch(x, MAXIMA),
            long_rows.static_exp_buffer(store_exp, b),
        )
        next_max = long_rows.look_at(x, start, stop, block_maxima, chunked)
        for i in range(start, stop):
            exps = long_rows.exp_buffer(store_exp, wide, grad, i)
            one_max, one_rest, next_max = long_rows.stats_of(
                x, i, min(i + 1, stop - 1), next_max, block_maxima, next_block_maxima, exps, chunked
            )
            block_maxima, next_block_maxima = next_block_maxima, block_maxima
            p, t = row(x, i), row(target, i)
            one_target_sum, row_dot = long_rows.soft_sums(p, t, class_weight, classes, one_max, smoothing)
            row_max, sum_exp_rest, target_sum = (
                full_like(x, one_max),
                full_like(x, one_rest),
                full_like(x, one_target_sum),
            )
            save_stats(saved_stats, i, 1, row_max, sum_exp_rest)
            weight, grad_scale = sample_scales(x, sample_factors, scale, i, 1)
            if loss is not None:
                value = weight * prob_loss(row_max, sum_exp_rest, target_sum, full_like(x, row_dot), z_loss)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None:
                target_sum = target_sum + z_slope(row_max, sum_exp_rest, z_loss)
                terms = get_lane(sum_exp_rest, 0), get_lane(target_sum, 0), get_lane(grad_scale, 0), smoothing
                exp_source = long_rows.static_exp_source(exps, p, one_max)
                write(row(grad, i), classes, streamed, long_rows.soft, (*exp_source, t, class_weight, *terms))
        stream_fence(streamed)
    return total_of(loss)


@kernel
def soft_tiles(x, target, class_weight, sample_factors, smoothing, z_loss, scale, saved_stats, loss, grad):
    """``x`` is (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, targets, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.load_tile(target, start, n, targets)
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        target_sum, dot = tiles.soft_sums(tile, targets, class_weight, classes, row_max, smoothing)
        save_stats(saved_stats, start, n, row_max, sum_exp_rest)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        if grad is not None:
            pull = target_sum + z_slope(row_max, sum_exp_rest, z_loss)
            tiles.write_soft(exps, targets, class_weight, classes, sum_exp_rest, pull, grad_scale, smoothing)
            tiles.store_tile(grad, start, n, exps)
        if loss is not None:
            store_n(row(loss, start), 0, n, weight * prob_loss(row_max, sum_exp_rest, target_sum, dot, z_loss))
    return total_of(loss)


@kernel
def soft_columns(
    x, target, class_weight, sample_factors, smoothing, z_loss, scale, saved_stats, loss, grad, panel, streamed
):
    """``x`` is (outer, C, inner); panels are ``panel`` values wide."""
    classes = x.shape[1]
    width = lanes(x)
    step, t_step = columns.class_step(x), columns.class_step(target)
    for b in prange(columns.block_count(x, panel)):
        start, n, lead = columns.block_range(x, b, panel)
        maxima, sum_exp_rests, grad_scales = (
            scratch_from(x, ROOM, lead),
            scratch_from(x, ROOM, lead),
            scratch_from(x, ROOM, lead),
        )
        target_sums, dots = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        p, t = columns.origin(x, start), columns.origin(target, start)
        columns.stats(p, step, classes, n, lead, maxima, sum_exp_rests)
        columns.soft_sums(p, step, t, t_step, class_weight, classes, n, maxima, smoothing, target_sums, dots)
        for j in range(0, n, width):
            weight, grad_scale = sample_scales(x, sample_factors, scale, start + j, n - j)
            row_max, sum_exp_rest, target_sum = load(maxima, j), load(sum_exp_rests, j), load(target_sums, j)
            save_stats(saved_stats, start + j, n - j, row_max, sum_exp_rest)
            if loss is not None:
                value = weight * prob_loss(row_max, sum_exp_rest, target_sum, load(dots, j), z_loss)
                store_n(row(loss, start + j), 0, n - j, value)
            store(target_sums, j, target_sum + z_slope(row_max, sum_exp_rest, z_loss))
            store(grad_scales, j, grad_scale)
        if grad is not None:
            q, q_step = columns.origin(grad, start), columns.class_step(grad)
            terms = (t, t_step, class_weight, maxima, sum_exp_rests, target_sums, grad_scales, smoothing)
            columns.write(p, step, q, q_step, classes, n, streamed, columns.soft, terms)
            stream_fence(streamed)
    return total_of(loss)
