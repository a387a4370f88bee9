"""Drivers of cross-entropy with class indices: the loss and, where ``grad`` is given, the gradient.

For sample i with label y, class weights w, sample weight u, upstream gradient g and label
smoothing e over C classes, with t_j = w_j ((1 - e) [j = y] + e / C) and a = sum_j t_j:

    loss_i  = u (a lse - sum_j t_j x_j + z lse^2)
    grad_ij = u g scale ((a + 2 z lse) p_j - t_j)

Both are formed from rest, the sum of all exponentials but the greatest, as sums of terms of
one sign, so that they keep full relative precision however confident the sample.

``class_weight`` is w or None, ``sample_factors`` (u, u g) of shape (2, N) or None; ``smoothing`` is
None or (1 - e, e / C, e / C * sum(w)); ``z_loss`` is z or None. A label equal to ``ignore_index``
gives loss 0 and gradient 0, whatever the logits, as does one that another thread puts out of
range after the check. ``grad`` may be ``x`` itself.

All but ``hard_split`` return (position of the first label out of range or -1, weight of the
kept samples, sum of the losses). With ``is_mean`` the gradient is divided by that weight.
After a label out of range nothing has been written. ``found``, of shape (2, N) or None, is
where maxima and rests are left, NaN for ignored samples; without ``loss`` they are taken from
there where that saves anything.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.rows import columns, long_rows, short_rows, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.samples import label_at, labels_at, next_kept, scan, total_of
from fastce.kernels.rows.short_rows import KEPT
from fastce.kernels.rows.split import chunk_count, chunk_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import settle, write
from fastce.kernels.simd.memory import (
    gather,
    given,
    load,
    load_n,
    load_one,
    narrow_labels,
    offset,
    row,
    scratch,
    scratch_from,
    store,
    store_n,
    store_one,
)
from fastce.kernels.simd.vecmath import exp, log1p
from fastce.kernels.simd.vector import bits, full, get_lane, lane_index, lanes, set_lane, where


@inline
def sample_scales(like, sample_factors, scale, start, n):
    """Return (u, u g scale) of samples ``start`` to ``start + n``."""
    weight = slope = full(like, 1.0)
    if sample_factors is not None:
        weight = load_n(row(sample_factors, 0), start, n, 0.0)
        slope = load_n(row(sample_factors, 1), start, n, 0.0)
    return weight, slope * scale


@inline
def _loss(top, rest, at_label, label_weight, gap_sum, smoothing, z_loss):
    """Return a lse - sum_j t_j x_j + z lse^2."""
    log_sum = log1p(rest)
    loss = label_weight * ((top - at_label) + log_sum)
    if smoothing is not None:
        keep, spread, spread_total = smoothing
        loss = loss * keep + (log_sum * spread_total + gap_sum * spread)
    return loss + z_term(top, log_sum, z_loss)


@inline
def z_term(top, log_sum, z_loss):
    """Return z lse^2, or 0 where there is no z."""
    if z_loss is None:
        return full(top, 0.0)
    lse = top + log_sum
    return lse * lse * z_loss


@inline
def z_slope(top, rest, z_loss):
    """Return the derivative of z lse^2 with respect to the lse, or 0 where there is no z."""
    if z_loss is None:
        return full(top, 0.0)
    return (top + log1p(rest)) * (z_loss + z_loss)


@inline
def _gradient(top, rest, at_label, label_weight, smoothing, z_loss):
    """Return (a / sum, a p_y - t_y): what exponentials are multiplied by, and the label's gradient.

    The slope of z lse^2 is part of a. Where both the label's softmax and its target are nearer
    to all than to nothing, what they lack is compared: (a - t_y) - a rest / sum.
    """
    amount = at_target = label_weight
    others = full(top, 0.0)  # a - t_y
    if smoothing is not None:
        keep, spread, spread_total = smoothing
        amount = label_weight * keep + spread_total
        at_target = label_weight * (keep + spread)
        others = full(top, spread_total) - label_weight * spread
    slope = z_slope(top, rest, z_loss)
    amount = amount + slope
    others = others + slope
    factor = amount / (rest + 1.0)
    near = (at_label == top) & (rest < 1.0) & (at_target + at_target > amount)
    return factor, where(near, others - factor * rest, exp(at_label - top) * factor - at_target)


@inline
def keep_found(found, start, n, top, rest):
    """Leave the maxima and rests of ``n`` samples in ``found``, unless that is None."""
    if found is not None:
        store_n(row(found, 0), start, n, top)
        store_n(row(found, 1), start, n, rest)


@inline
def _at_labels(x, labels, start, n, class_weight):
    """Return the labels' logits and weights of ``n`` rows, and 1 for those that are not ignored."""
    at_label = kept = full(x, 0.0)
    label_weight = full(x, 1.0)
    for r in range(n):
        label = load_one(labels, r)
        if label >= 0:
            at_label = set_lane(at_label, r, load_one(row(x, start + r), label))
            kept = set_lane(kept, r, 1.0)
            if class_weight is not None:
                label_weight = set_lane(label_weight, r, class_weight[label])
    return at_label, kept, label_weight


@kernel
def hard_short_rows(
    x, target, ignore_index, class_weight, sample_factors, smoothing, z_loss, scale, is_mean,
    found, loss, grad,
):  # fmt: skip
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    count, classes = x.shape
    position, denominator = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, denominator, 0.0
    if is_mean:
        scale = scale / denominator
    per_block = short_rows.together(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        labels, exps = scratch(lane_index(x), 1), scratch(x, KEPT)
        store(labels, 0, labels_at(target, start, n, ignore_index, classes, x))
        at_label, kept, label_weight = _at_labels(x, labels, start, n, class_weight)
        top, rest, gap_sum = short_rows.stats(x, start, n, given(grad, exps), grad, labels, class_weight, smoothing)
        keep_found(found, start, n, where(kept != 0.0, top, np.nan), rest)
        weight, slope = sample_scales(x, sample_factors, scale, start, n)
        value = weight * _loss(top, rest, at_label, label_weight, gap_sum, smoothing, z_loss)
        if loss is not None:
            store_n(row(loss, start), 0, n, where(kept != 0.0, value, 0.0))
        if grad is not None:
            factor, label_gradient = _gradient(top, rest, at_label, label_weight, smoothing, z_loss)
            factor = factor * slope
            label_gradient = label_gradient * slope
            for r in range(n):
                q = row(grad, start + r)
                label = load_one(labels, r)
                if label < 0:
                    write(q, classes, False, long_rows.zero, (top,))
                else:
                    e = offset(exps, r * short_rows.stride(x))
                    minus = given(smoothing, get_lane(_spread(slope, smoothing), r))
                    terms = (e, get_lane(factor, r), class_weight, minus)
                    write(q, classes, False, short_rows.gradient, terms)
                    store_one(q, label, get_lane(label_gradient, r))
    return position, denominator, total_of(loss)


@inline
def _spread(slope, smoothing):
    """Return what smoothing takes off all gradients of a row, before class weights."""
    if smoothing is None:
        return slope
    return slope * smoothing[1]


@kernel
def hard_rows(
    x, target, ignore_index, class_weight, sample_factors, smoothing, z_loss, scale, is_mean,
    found, loss, grad, per_block, streamed, chunked, kept,
):  # fmt: skip
    """``x`` is (N, C) with contiguous rows, of which a thread takes ``per_block`` at a time."""
    count, classes = x.shape
    position, denominator = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, denominator, 0.0
    if is_mean:
        scale = scale / denominator
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        stop = min(start + per_block, count)
        tops, next_tops, wide = scratch(x, MAXIMA), scratch(x, MAXIMA), long_rows.waiting(kept, b)
        following, next_label = next_kept(target, start, stop, ignore_index, classes)
        next_top = long_rows.no_class(x)
        if found is None or loss is not None:
            next_top = long_rows.look_at(x, following, stop, tops, chunked)
        for i in range(start, stop):
            if i < following:
                _write_ignored(x, i, found, loss, grad, streamed)
            else:
                label = next_label
                following, next_label = next_kept(target, i + 1, stop, ignore_index, classes)
                exps = long_rows.exponentials(kept, wide, grad, i)
                if found is not None and loss is None:
                    row_top, row_rest = np.float64(found[0, i]), np.float64(found[1, i])
                else:
                    ahead = following if following < stop else i
                    row_top, row_rest, next_top = long_rows.stats_of(
                        x, i, ahead, next_top, tops, next_tops, exps, chunked
                    )  # fmt: skip
                    tops, next_tops = next_tops, tops
                _write_row(
                    x, i, label, row_top, row_rest, class_weight, sample_factors, smoothing, z_loss, scale,
                    found, loss, grad, streamed, given(loss, exps),
                )  # fmt: skip
        settle(streamed)
    return position, denominator, total_of(loss)


@inline
def _write_ignored(x, i, found, loss, grad, streamed):
    """Write the loss and gradient of an ignored row."""
    keep_found(found, i, 1, full(x, np.nan), full(x, 0.0))
    if loss is not None:
        store_one(row(loss, i), 0, 0.0)
    if grad is not None:
        write(row(grad, i), x.shape[1], streamed, long_rows.zero, (full(x, 0.0),))


@inline
def _write_row(
    x, i, label, row_top, row_rest, class_weight, sample_factors, smoothing, z_loss, scale,
    found, loss, grad, streamed, exps,
):  # fmt: skip
    """Write the loss and gradient of one row, of exponentials unless those are None."""
    p, classes = row(x, i), x.shape[1]
    top, rest, at_label, label_weight = full(x, row_top), full(x, row_rest), full(x, load_one(p, label)), full(x, 1.0)
    if class_weight is not None:
        label_weight = full(x, class_weight[label])
    keep_found(found, i, 1, top, rest)
    weight, slope = sample_scales(x, sample_factors, scale, i, 1)
    if loss is not None:
        gaps = top
        if smoothing is not None:
            gaps = full(x, long_rows.gap_sum(p, class_weight, classes, row_top))
        value = weight * _loss(top, rest, at_label, label_weight, gaps, smoothing, z_loss)
        store_one(row(loss, i), 0, get_lane(value, 0))
    if grad is not None:
        factor, label_gradient = _gradient(top, rest, at_label, label_weight, smoothing, z_loss)
        q, factor = row(grad, i), get_lane(factor * slope, 0)
        minus = given(smoothing, get_lane(_spread(slope, smoothing), 0))
        source = long_rows.source(exps, p, row_top)
        write(q, classes, streamed, long_rows.gradient, (*source, factor, class_weight, minus))
        store_one(q, label, get_lane(label_gradient * slope, 0))


@kernel
def hard_tiles(
    x, target, ignore_index, class_weight, sample_factors, smoothing, z_loss, scale, is_mean, found, loss, grad
):
    """``x`` is (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    position, denominator = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, denominator, 0.0
    if is_mean:
        scale = scale / denominator
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.announce(grad, start, n)
        tiles.fetch(x, start, n, tile)
        labels = labels_at(target, start, n, ignore_index, classes, x)
        marks = narrow_labels(labels, x)
        kept, readable = marks >= 0, where(labels >= 0, labels, 0)
        label_weight = full(x, 1.0)
        if class_weight is not None:
            label_weight = gather(row(class_weight, 0), readable)
        top, rest = tiles.stats(tile, classes, exps)
        at_label = gather(tile, readable * width + lane_index(x))
        keep_found(found, start, n, where(kept, top, np.nan), rest)
        weight, slope = sample_scales(x, sample_factors, scale, start, n)
        if grad is not None:
            factor, label_gradient = _gradient(top, rest, at_label, label_weight, smoothing, z_loss)
            minus = given(smoothing, _spread(slope, smoothing))
            tiles.write_gradient(exps, classes, factor * slope, marks, label_gradient * slope, class_weight, minus)
            tiles.put(grad, start, n, exps)
        if loss is not None:  # last: nothing waits for the logarithm but the store
            gap_sum = full(x, 0.0)
            if smoothing is not None:
                gap_sum = tiles.gap_sum(tile, class_weight, classes, top)
            value = weight * _loss(top, rest, at_label, label_weight, gap_sum, smoothing, z_loss)
            store_n(row(loss, start), 0, n, where(kept, value, 0.0))
    return position, denominator, total_of(loss)


@kernel
def hard_columns(
    x, target, ignore_index, class_weight, sample_factors, smoothing, z_loss, scale, is_mean,
    found, loss, grad, panel, streamed,
):  # fmt: skip
    """``x`` is (outer, C, inner); panels are ``panel`` values wide."""
    classes = x.shape[1]
    position, denominator = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, denominator, 0.0
    if is_mean:
        scale = scale / denominator
    width = lanes(x)
    step = columns.class_step(x)
    for b in prange(columns.block_count(x, panel)):
        start, n, lead = columns.block_range(x, b, panel)
        tops, rests, terms = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        marks, minuses = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        p = columns.origin(x, start)
        if loss is not None:
            columns.stats(p, step, classes, n, lead, tops, rests)
        elif found is not None:
            for j in range(0, n, width):
                store(tops, j, load_n(row(found, 0), start + j, n - j, 0.0))
                store(rests, j, load_n(row(found, 1), start + j, n - j, 0.0))
        if smoothing is not None:
            columns.gap_sums(p, step, class_weight, classes, n, tops, terms)
        for j in range(0, n, width):
            top, rest = load(tops, j), load(rests, j)
            labels = labels_at(target, start + j, n - j, ignore_index, classes, x)
            mark = narrow_labels(labels, x)
            kept = mark >= 0
            at_label = gather(offset(p, j), where(labels >= 0, labels * step + lane_index(x), 0))
            label_weight = full(x, 1.0)
            if class_weight is not None:
                label_weight = gather(row(class_weight, 0), where(labels >= 0, labels, 0))
            weight, slope = sample_scales(x, sample_factors, scale, start + j, n - j)
            keep_found(found, start + j, n - j, where(kept, top, np.nan), rest)
            value = weight * _loss(top, rest, at_label, label_weight, load(terms, j), smoothing, z_loss)
            if loss is not None:
                store_n(row(loss, start + j), 0, n - j, where(kept, value, 0.0))
            if grad is not None:
                factor, label_gradient = _gradient(top, rest, at_label, label_weight, smoothing, z_loss)
                store(terms, j, factor * slope)
                store(rests, j, label_gradient * slope)
                store(marks, j, bits(mark))
                store(minuses, j, _spread(slope, smoothing))
        if grad is not None:
            q, q_step = columns.origin(grad, start), columns.class_step(grad)
            options = (tops, terms, marks, rests, class_weight, given(smoothing, minuses))
            columns.write(p, step, q, q_step, classes, n, streamed, columns.gradient, options)
            settle(streamed)
    return position, denominator, total_of(loss)


@kernel
def pick_labels(x, target, ignore_index, at_labels):
    """Write the logits at the labels, 0 for ignored samples."""
    for i in range(x.shape[0]):
        label = label_at(target, i, ignore_index, x.shape[1])
        at_labels[i] = load_one(row(x, i), label) if label >= 0 else 0.0


@kernel
def hard_split(
    x,
    target,
    ignore_index,
    class_weight,
    sample_factors,
    z_loss,
    scale,
    loss,
    grad,
    streamed,
    found,
    at_labels,
):
    """``x`` is (N, C) with contiguous long rows whose (maximum, rest) are in ``found``.

    The logits at the labels come in ``at_labels``: another thread may have overwritten them.
    There is no label smoothing.
    """
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, classes = chunk_of(x, task)
        label = label_at(target, i, ignore_index, x.shape[1])
        q = row(x, i)
        if grad is not None:
            q = offset(row(grad, i), start)
        if label < 0:
            if start == 0 and loss is not None:
                store_one(row(loss, i), 0, 0.0)
            if grad is not None:
                write(q, classes, streamed, long_rows.zero, (full(x, 0.0),))
        else:
            top = full(x, found[0, i])
            rest = full(x, found[1, i])
            at_label = full(x, at_labels[i])
            label_weight = full(x, 1.0)
            if class_weight is not None:
                label_weight = full(x, class_weight[label])
            weight, slope = sample_scales(x, sample_factors, scale, i, 1)
            if start == 0 and loss is not None:
                value = weight * _loss(top, rest, at_label, label_weight, top, None, z_loss)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None:
                factor, label_gradient = _gradient(top, rest, at_label, label_weight, None, z_loss)
                p = offset(row(x, i), start)
                terms = (p, found[0, i], get_lane(factor * slope, 0), None, None)
                write(q, classes, streamed, long_rows.gradient, terms)
                if start <= label < start + classes:
                    store_one(q, label - start, get_lane(label_gradient * slope, 0))
        settle(streamed)
