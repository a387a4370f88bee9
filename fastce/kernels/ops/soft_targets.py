"""Drivers of cross-entropy with class probabilities as targets: loss and gradient.

As in ``cross_entropy``, with t_j = w_j ((1 - e) target_j + e / C). Logits and targets are
read from far memory once. ``grad`` may be ``x`` or ``target`` itself. All return the sum of the
losses.
"""

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.ops.cross_entropy import keep_found, sample_scales, z_slope, z_term
from fastce.kernels.rows import columns, long_rows, short_rows, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.samples import total_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import settle, write
from fastce.kernels.simd.memory import load, row, scratch, scratch_from, store, store_n, store_one
from fastce.kernels.simd.vecmath import log1p
from fastce.kernels.simd.vector import full, get_lane, lanes


@inline
def _loss(top, rest, amount, dot, z_loss):
    """Return a lse - sum_j t_j x_j + z lse^2 from a and sum_j t_j (maximum - x_j)."""
    log_sum = log1p(rest)
    return amount * log_sum + dot + z_term(top, log_sum, z_loss)


@kernel
def soft_short_rows(x, target, class_weight, sample_factors, smoothing, z_loss, scale, found, loss, grad):
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    count, classes = x.shape
    per_block = short_rows.together(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        top, rest, _ = short_rows.stats(x, start, n, None, None, None, None, None)
        amount, dot = short_rows.soft_sums(x, target, start, n, class_weight, top, smoothing)
        keep_found(found, start, n, top, rest)
        weight, slope = sample_scales(x, sample_factors, scale, start, n)
        if loss is not None:
            store_n(row(loss, start), 0, n, weight * _loss(top, rest, amount, dot, z_loss))
        amount = amount + z_slope(top, rest, z_loss)
        if grad is not None:
            for r in range(n):
                terms = (
                    row(x, start + r), get_lane(top, r), row(target, start + r), class_weight,
                    get_lane(rest, r), get_lane(amount, r), get_lane(slope, r), smoothing,
                )  # fmt: skip
                write(row(grad, start + r), classes, False, long_rows.soft, terms)
    return total_of(loss)


@kernel
def soft_rows(
    x, target, class_weight, sample_factors, smoothing, z_loss, scale, found, loss, grad, per_block, streamed,
    chunked, kept,
):  # fmt: skip
    """``x`` is (N, C) with contiguous rows, of which a thread takes ``per_block`` at a time."""
    count, classes = x.shape
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        stop = min(start + per_block, count)
        tops, next_tops, wide = scratch(x, MAXIMA), scratch(x, MAXIMA), long_rows.waiting(kept, b)
        next_top = long_rows.look_at(x, start, stop, tops, chunked)
        for i in range(start, stop):
            exps = long_rows.exponentials(kept, wide, grad, i)
            row_top, row_rest, next_top = long_rows.stats_of(
                x, i, min(i + 1, stop - 1), next_top, tops, next_tops, exps, chunked
            )  # fmt: skip
            tops, next_tops = next_tops, tops
            p, t = row(x, i), row(target, i)
            row_amount, row_dot = long_rows.soft_sums(p, t, class_weight, classes, row_top, smoothing)
            top, rest, amount = full(x, row_top), full(x, row_rest), full(x, row_amount)
            keep_found(found, i, 1, top, rest)
            weight, slope = sample_scales(x, sample_factors, scale, i, 1)
            if loss is not None:
                value = weight * _loss(top, rest, amount, full(x, row_dot), z_loss)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None:
                amount = amount + z_slope(top, rest, z_loss)
                terms = get_lane(rest, 0), get_lane(amount, 0), get_lane(slope, 0), smoothing
                source = long_rows.source(exps, p, row_top)
                write(row(grad, i), classes, streamed, long_rows.soft, (*source, t, class_weight, *terms))
        settle(streamed)
    return total_of(loss)


@kernel
def soft_tiles(x, target, class_weight, sample_factors, smoothing, z_loss, scale, found, loss, grad):
    """``x`` is (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, targets, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.announce(grad, start, n)
        tiles.fetch(x, start, n, tile)
        tiles.fetch(target, start, n, targets)
        top, rest = tiles.stats(tile, classes, exps)
        amount, dot = tiles.soft_sums(tile, targets, class_weight, classes, top, smoothing)
        keep_found(found, start, n, top, rest)
        weight, slope = sample_scales(x, sample_factors, scale, start, n)
        if grad is not None:
            pull = amount + z_slope(top, rest, z_loss)
            tiles.write_soft(exps, targets, class_weight, classes, rest, pull, slope, smoothing)
            tiles.put(grad, start, n, exps)
        if loss is not None:
            store_n(row(loss, start), 0, n, weight * _loss(top, rest, amount, dot, z_loss))
    return total_of(loss)


@kernel
def soft_columns(x, target, class_weight, sample_factors, smoothing, z_loss, scale, found, loss, grad, panel, streamed):
    """``x`` is (outer, C, inner); panels are ``panel`` values wide."""
    classes = x.shape[1]
    width = lanes(x)
    step, t_step = columns.class_step(x), columns.class_step(target)
    for b in prange(columns.block_count(x, panel)):
        start, n, lead = columns.block_range(x, b, panel)
        tops, rests, slopes = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        amounts, dots = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        p, t = columns.origin(x, start), columns.origin(target, start)
        columns.stats(p, step, classes, n, lead, tops, rests)
        columns.soft_sums(p, step, t, t_step, class_weight, classes, n, tops, smoothing, amounts, dots)
        for j in range(0, n, width):
            weight, slope = sample_scales(x, sample_factors, scale, start + j, n - j)
            top, rest, amount = load(tops, j), load(rests, j), load(amounts, j)
            keep_found(found, start + j, n - j, top, rest)
            if loss is not None:
                value = weight * _loss(top, rest, amount, load(dots, j), z_loss)
                store_n(row(loss, start + j), 0, n - j, value)
            store(amounts, j, amount + z_slope(top, rest, z_loss))
            store(slopes, j, slope)
        if grad is not None:
            q, q_step = columns.origin(grad, start), columns.class_step(grad)
            terms = (t, t_step, class_weight, tops, rests, amounts, slopes, smoothing)
            columns.write(p, step, q, q_step, classes, n, streamed, columns.soft, terms)
            settle(streamed)
    return total_of(loss)
