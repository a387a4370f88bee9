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
After a label out of range nothing has been written. ``saved_stats``, of shape (2, N) or None, is
where maxima and rests are left, NaN for ignored samples; without ``loss`` they are taken from
there where that saves anything.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.formulas import index_gradient, index_loss, smoothing_term
from fastce.kernels.rows import columns, long_rows, short_rows, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.samples import label_at, labels_at, next_kept, scan, total_of
from fastce.kernels.rows.short_rows import KEPT
from fastce.kernels.rows.split import chunk_count, chunk_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write
from fastce.kernels.simd.memory import (
    gather,
    load,
    load_n,
    load_one,
    narrow_labels,
    offset,
    row,
    scratch,
    scratch_from,
    static_if_present,
    store,
    store_n,
    store_one,
)
from fastce.kernels.simd.vector import bits, full_like, get_lane, lane_index, lanes, set_lane, where


@inline
def sample_scales(like, sample_factors, scale, start, n):
    """Return (u, u g scale) of samples ``start`` to ``start + n``."""
    weight = grad_scale = full_like(like, 1.0)
    if sample_factors is not None:
        weight = load_n(row(sample_factors, 0), start, n, 0.0)
        grad_scale = load_n(row(sample_factors, 1), start, n, 0.0)
    return weight, grad_scale * scale


@inline
def save_stats(saved_stats, start, n, row_max, sum_exp_rest):
    """Leave the maxima and rests of ``n`` samples in ``saved_stats``, unless that is None."""
    if saved_stats is not None:
        store_n(row(saved_stats, 0), start, n, row_max)
        store_n(row(saved_stats, 1), start, n, sum_exp_rest)


@inline
def _at_labels(x, labels, start, n, class_weight):
    """Return the labels' logits and weights of ``n`` rows, and 1 for those that are not ignored."""
    at_label = valid = full_like(x, 0.0)
    label_weight = full_like(x, 1.0)
    for r in range(n):
        label = load_one(labels, r)
        if label >= 0:
            at_label = set_lane(at_label, r, load_one(row(x, start + r), label))
            valid = set_lane(valid, r, 1.0)
            if class_weight is not None:
                label_weight = set_lane(label_weight, r, class_weight[label])
    return at_label, valid, label_weight


@kernel
def hard_short_rows(
    x,
    target,
    ignore_index,
    class_weight,
    sample_factors,
    smoothing,
    z_loss,
    scale,
    is_mean,
    saved_stats,
    loss,
    grad,
):
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
        at_label, valid, label_weight = _at_labels(x, labels, start, n, class_weight)
        row_max, sum_exp_rest, below_max = short_rows.stats(
            x, start, n, static_if_present(grad, exps), grad, labels, class_weight, smoothing
        )
        save_stats(saved_stats, start, n, where(valid != 0.0, row_max, np.nan), sum_exp_rest)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        value = weight * index_loss(row_max, sum_exp_rest, at_label, label_weight, below_max, smoothing, z_loss)
        if loss is not None:
            store_n(row(loss, start), 0, n, where(valid != 0.0, value, 0.0))
        if grad is not None:
            factor, label_gradient = index_gradient(row_max, sum_exp_rest, at_label, label_weight, smoothing, z_loss)
            factor = factor * grad_scale
            label_gradient = label_gradient * grad_scale
            for r in range(n):
                q = row(grad, start + r)
                label = load_one(labels, r)
                if label < 0:
                    write(q, classes, False, long_rows.zero, (row_max,))
                else:
                    e = offset(exps, r * short_rows.stride(x))
                    uniform = static_if_present(smoothing, get_lane(smoothing_term(grad_scale, smoothing), r))
                    terms = (e, get_lane(factor, r), class_weight, uniform)
                    write(q, classes, False, short_rows.gradient, terms)
                    store_one(q, label, get_lane(label_gradient, r))
    return position, denominator, total_of(loss)


@kernel
def hard_rows(
    x,
    target,
    ignore_index,
    class_weight,
    sample_factors,
    smoothing,
    z_loss,
    scale,
    is_mean,
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
    position, denominator = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, denominator, 0.0
    if is_mean:
        scale = scale / denominator
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        stop = min(start + per_block, count)
        block_maxima, next_block_maxima, wide = (
            scratch(x, MAXIMA),
            scratch(x, MAXIMA),
            long_rows.static_exp_buffer(store_exp, b),
        )
        following, next_label = next_kept(target, start, stop, ignore_index, classes)
        next_max = long_rows.no_class(x)
        if saved_stats is None or loss is not None:
            next_max = long_rows.look_at(x, following, stop, block_maxima, chunked)
        for i in range(start, stop):
            if i < following:
                _write_ignored(x, i, saved_stats, loss, grad, streamed)
            else:
                label = next_label
                following, next_label = next_kept(target, i + 1, stop, ignore_index, classes)
                exps = long_rows.exp_buffer(store_exp, wide, grad, i)
                if saved_stats is not None and loss is None:
                    one_max, one_rest = np.float64(saved_stats[0, i]), np.float64(saved_stats[1, i])
                else:
                    ahead = following if following < stop else i
                    one_max, one_rest, next_max = long_rows.stats_of(
                        x, i, ahead, next_max, block_maxima, next_block_maxima, exps, chunked
                    )
                    block_maxima, next_block_maxima = next_block_maxima, block_maxima
                _write_row(
                    x,
                    i,
                    label,
                    one_max,
                    one_rest,
                    class_weight,
                    sample_factors,
                    smoothing,
                    z_loss,
                    scale,
                    saved_stats,
                    loss,
                    grad,
                    streamed,
                    static_if_present(loss, exps),
                )
        stream_fence(streamed)
    return position, denominator, total_of(loss)


@inline
def _write_ignored(x, i, saved_stats, loss, grad, streamed):
    """Write the loss and gradient of an ignored row."""
    save_stats(saved_stats, i, 1, full_like(x, np.nan), full_like(x, 0.0))
    if loss is not None:
        store_one(row(loss, i), 0, 0.0)
    if grad is not None:
        write(row(grad, i), x.shape[1], streamed, long_rows.zero, (full_like(x, 0.0),))


@inline
def _write_row(
    x,
    i,
    label,
    one_max,
    one_rest,
    class_weight,
    sample_factors,
    smoothing,
    z_loss,
    scale,
    saved_stats,
    loss,
    grad,
    streamed,
    exps,
):
    """Write the loss and gradient of one row, of exponentials unless those are None."""
    p, classes = row(x, i), x.shape[1]
    row_max, sum_exp_rest, at_label, label_weight = (
        full_like(x, one_max),
        full_like(x, one_rest),
        full_like(x, load_one(p, label)),
        full_like(x, 1.0),
    )
    if class_weight is not None:
        label_weight = full_like(x, class_weight[label])
    save_stats(saved_stats, i, 1, row_max, sum_exp_rest)
    weight, grad_scale = sample_scales(x, sample_factors, scale, i, 1)
    if loss is not None:
        gaps = row_max
        if smoothing is not None:
            gaps = full_like(x, long_rows.sum_below_max(p, class_weight, classes, one_max))
        value = weight * index_loss(row_max, sum_exp_rest, at_label, label_weight, gaps, smoothing, z_loss)
        store_one(row(loss, i), 0, get_lane(value, 0))
    if grad is not None:
        factor, label_gradient = index_gradient(row_max, sum_exp_rest, at_label, label_weight, smoothing, z_loss)
        q, factor = row(grad, i), get_lane(factor * grad_scale, 0)
        uniform = static_if_present(smoothing, get_lane(smoothing_term(grad_scale, smoothing), 0))
        exp_source = long_rows.static_exp_source(exps, p, one_max)
        write(q, classes, streamed, long_rows.gradient, (*exp_source, factor, class_weight, uniform))
        store_one(q, label, get_lane(label_gradient * grad_scale, 0))


@kernel
def hard_tiles(
    x, target, ignore_index, class_weight, sample_factors, smoothing, z_loss, scale, is_mean, saved_stats, loss, grad
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
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        labels = labels_at(target, start, n, ignore_index, classes, x)
        marks = narrow_labels(labels, x)
        valid, readable = marks >= 0, where(labels >= 0, labels, 0)
        label_weight = full_like(x, 1.0)
        if class_weight is not None:
            label_weight = gather(row(class_weight, 0), readable)
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        at_label = gather(tile, readable * width + lane_index(x))
        save_stats(saved_stats, start, n, where(valid, row_max, np.nan), sum_exp_rest)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        if grad is not None:
            factor, label_gradient = index_gradient(row_max, sum_exp_rest, at_label, label_weight, smoothing, z_loss)
            uniform = static_if_present(smoothing, smoothing_term(grad_scale, smoothing))
            tiles.write_gradient(
                exps, classes, factor * grad_scale, marks, label_gradient * grad_scale, class_weight, uniform
            )
            tiles.store_tile(grad, start, n, exps)
        if loss is not None:  # last: nothing waits for the logarithm but the store
            below_max = full_like(x, 0.0)
            if smoothing is not None:
                below_max = tiles.sum_below_max(tile, class_weight, classes, row_max)
            value = weight * index_loss(row_max, sum_exp_rest, at_label, label_weight, below_max, smoothing, z_loss)
            store_n(row(loss, start), 0, n, where(valid, value, 0.0))
    return position, denominator, total_of(loss)


@kernel
def hard_columns(
    x,
    target,
    ignore_index,
    class_weight,
    sample_factors,
    smoothing,
    z_loss,
    scale,
    is_mean,
    saved_stats,
    loss,
    grad,
    panel,
    streamed,
):
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
        maxima, sum_exp_rests, terms = (
            scratch_from(x, ROOM, lead),
            scratch_from(x, ROOM, lead),
            scratch_from(x, ROOM, lead),
        )
        marks, smoothing_terms = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        p = columns.origin(x, start)
        if loss is not None:
            columns.stats(p, step, classes, n, lead, maxima, sum_exp_rests)
        elif saved_stats is not None:
            for j in range(0, n, width):
                store(maxima, j, load_n(row(saved_stats, 0), start + j, n - j, 0.0))
                store(sum_exp_rests, j, load_n(row(saved_stats, 1), start + j, n - j, 0.0))
        if smoothing is not None:
            columns.sums_below_max(p, step, class_weight, classes, n, maxima, terms)
        for j in range(0, n, width):
            row_max, sum_exp_rest = load(maxima, j), load(sum_exp_rests, j)
            labels = labels_at(target, start + j, n - j, ignore_index, classes, x)
            mark = narrow_labels(labels, x)
            valid = mark >= 0
            at_label = gather(offset(p, j), where(labels >= 0, labels * step + lane_index(x), 0))
            label_weight = full_like(x, 1.0)
            if class_weight is not None:
                label_weight = gather(row(class_weight, 0), where(labels >= 0, labels, 0))
            weight, grad_scale = sample_scales(x, sample_factors, scale, start + j, n - j)
            save_stats(saved_stats, start + j, n - j, where(valid, row_max, np.nan), sum_exp_rest)
            value = weight * index_loss(
                row_max, sum_exp_rest, at_label, label_weight, load(terms, j), smoothing, z_loss
            )
            if loss is not None:
                store_n(row(loss, start + j), 0, n - j, where(valid, value, 0.0))
            if grad is not None:
                factor, label_gradient = index_gradient(
                    row_max, sum_exp_rest, at_label, label_weight, smoothing, z_loss
                )
                store(terms, j, factor * grad_scale)
                store(sum_exp_rests, j, label_gradient * grad_scale)
                store(marks, j, bits(mark))
                store(smoothing_terms, j, smoothing_term(grad_scale, smoothing))
        if grad is not None:
            q, q_step = columns.origin(grad, start), columns.class_step(grad)
            options = (maxima, terms, marks, sum_exp_rests, class_weight, static_if_present(smoothing, smoothing_terms))
            columns.write(p, step, q, q_step, classes, n, streamed, columns.gradient, options)
            stream_fence(streamed)
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
    saved_stats,
    at_labels,
):
    """``x`` is (N, C) with contiguous long rows whose (maximum, rest) are in ``saved_stats``.

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
                write(q, classes, streamed, long_rows.zero, (full_like(x, 0.0),))
        else:
            row_max = full_like(x, saved_stats[0, i])
            sum_exp_rest = full_like(x, saved_stats[1, i])
            at_label = full_like(x, at_labels[i])
            label_weight = full_like(x, 1.0)
            if class_weight is not None:
                label_weight = full_like(x, class_weight[label])
            weight, grad_scale = sample_scales(x, sample_factors, scale, i, 1)
            if start == 0 and loss is not None:
                value = weight * index_loss(row_max, sum_exp_rest, at_label, label_weight, row_max, None, z_loss)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None:
                factor, label_gradient = index_gradient(row_max, sum_exp_rest, at_label, label_weight, None, z_loss)
                p = offset(row(x, i), start)
                terms = (p, saved_stats[0, i], get_lane(factor * grad_scale, 0), None, None)
                write(q, classes, streamed, long_rows.gradient, terms)
                if start <= label < start + classes:
                    store_one(q, label - start, get_lane(label_gradient * grad_scale, 0))
        stream_fence(streamed)
