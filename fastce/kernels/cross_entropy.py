"""Drivers of cross-entropy with class indices: the loss and, where ``grad`` is given, the gradient.

For sample i with label y, class weights w, sample weight u, upstream gradient g and label
smoothing e over C classes, with t_j = w_j ((1 - e) [j = y] + e / C) and a = sum_j t_j:

    loss_i  = u (a lse - sum_j t_j x_j)
    grad_ij = u g scale (a p_j - t_j)

Both are formed from rest, the sum of all exponentials but the greatest, as sums of terms of
one sign, so that they keep full relative precision however confident the sample.

``class_weight``, ``sample_weight`` and ``upstream`` are arrays or None; ``smoothing`` is None
or (1 - e, e / C, e / C * sum(w)). A label equal to ``ignore_index`` gives loss 0 and
gradient 0, whatever the logits. ``grad`` may be ``x`` itself.
"""

from numba import prange

from fastce.kernels import columns, rows
from fastce.kernels.columns import BUFFER, PANEL
from fastce.kernels.jit import inline, kernel
from fastce.kernels.memory import (
    gather,
    load,
    load_labels,
    load_n,
    load_one,
    narrow_labels,
    offset,
    row,
    scratch,
    store,
    store_n,
    store_one,
)
from fastce.kernels.simd import bits, full, get_lane, lane_index, lanes, set_lane, where
from fastce.kernels.split import chunk_count, chunk_of
from fastce.kernels.tiles import (
    block_count,
    block_range,
    class_step,
    fetch,
    origin,
    place,
    put,
    sample_step,
)
from fastce.kernels.vecmath import exp, log1p


@inline
def sample_scales(like, sample_weight, upstream, scale, start, n):
    """Return (u, u g scale) of samples ``start`` to ``start + n``."""
    weight = full(like, 1.0)
    if sample_weight is not None:
        weight = load_n(row(sample_weight, start), 0, n, 0.0)
    slope = weight * scale
    if upstream is not None:
        slope = slope * load_n(row(upstream, start), 0, n, 0.0)
    return weight, slope


@inline
def _loss(top, rest, at_label, label_weight, gap_sum, smoothing):
    """Return a lse - sum_j t_j x_j."""
    log_sum = log1p(rest)
    loss = label_weight * ((top - at_label) + log_sum)
    if smoothing is not None:
        keep, spread, spread_total = smoothing
        loss = loss * keep + (log_sum * spread_total + gap_sum * spread)
    return loss


@inline
def _gradient(top, rest, at_label, label_weight, smoothing):
    """Return (a / sum, a p_y - t_y): what exponentials are multiplied by, and the label's gradient.

    Where both the label's softmax and its target are nearer to all than to nothing, what they
    lack is compared: (a - t_y) - a rest / sum.
    """
    amount = at_target = label_weight
    others = full(top, 0.0)  # a - t_y
    if smoothing is not None:
        keep, spread, spread_total = smoothing
        amount = label_weight * keep + spread_total
        at_target = label_weight * (keep + spread)
        others = full(top, spread_total) - label_weight * spread
    factor = amount / (rest + 1.0)
    near = (at_label == top) & (rest < 1.0) & (at_target + at_target > amount)
    return factor, where(near, others - factor * rest, exp(at_label - top) * factor - at_target)


@kernel
def hard_rows(
    x, target, ignore_index, class_weight, sample_weight, smoothing, upstream, scale, loss, grad, per_block
):  # fmt: skip
    """``x`` is (N, C) with contiguous rows; ``per_block`` rows, a lane each, go together."""
    count, classes = x.shape
    # exponentials of short rows wait for their factor where the gradient goes
    stored = smoothing is None and x.itemsize > 2 and rows.is_short(x, classes)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        top = rest = at_label = gap_sum = kept = full(x, 0.0)
        label_weight = full(x, 1.0)
        for r in range(n):
            label = target[start + r]
            if label != ignore_index:
                p = row(x, start + r)
                at_label = set_lane(at_label, r, load_one(p, label))
                if stored and grad is not None:
                    row_top, row_rest = rows.stats_and_exp(p, row(grad, start + r), classes)
                else:
                    row_top, row_rest = rows.stats(p, classes)
                top = set_lane(top, r, row_top)
                rest = set_lane(rest, r, row_rest)
                kept = set_lane(kept, r, 1.0)
                if class_weight is not None:
                    label_weight = set_lane(label_weight, r, class_weight[label])
                if smoothing is not None:
                    gap_sum = set_lane(gap_sum, r, rows.gap_sum(p, class_weight, classes, row_top))
        weight, slope = sample_scales(x, sample_weight, upstream, scale, start, n)
        value = weight * _loss(top, rest, at_label, label_weight, gap_sum, smoothing)
        store_n(row(loss, start), 0, n, where(kept != 0.0, value, 0.0))
        if grad is not None:
            factor, label_gradient = _gradient(top, rest, at_label, label_weight, smoothing)
            factor = factor * slope
            label_gradient = label_gradient * slope
            for r in range(n):
                p = row(x, start + r)
                q = row(grad, start + r)
                label = target[start + r]
                if label == ignore_index:
                    rows.fill_zero(q, classes)
                else:
                    if smoothing is None and stored:
                        rows.scale(q, classes, get_lane(factor, r))
                    elif smoothing is None:
                        rows.write_softmax(p, q, classes, get_lane(top, r), get_lane(factor, r))
                    else:
                        minus = get_lane(slope, r) * smoothing[1]
                        rows.write_smoothed(p, q, class_weight, classes, get_lane(top, r), get_lane(factor, r), minus)
                    store_one(q, label, get_lane(label_gradient, r))


@kernel
def hard_lanes(x, target, ignore_index, class_weight, sample_weight, smoothing, upstream, scale, loss, grad, panel):
    """``x`` is one of the shapes of ``tiles``."""
    classes = x.shape[1]
    width = lanes(x)
    for b in prange(block_count(x, panel)):
        start, n = block_range(x, b, panel)
        tile = scratch(x, BUFFER)
        tops, rests, terms = scratch(x, PANEL), scratch(x, PANEL), scratch(x, PANEL)
        marks, minuses = scratch(x, PANEL), scratch(x, PANEL)
        p, step, count = fetch(x, start, n, tile)
        columns.stats(p, step, classes, count, tile, tops, rests)
        if smoothing is not None:
            columns.gap_sums(p, step, class_weight, classes, count, tops, terms)
        for j in range(0, n, width):
            top, rest = load(tops, j), load(rests, j)
            labels = load_labels(row(target, start + j), n - j, ignore_index, x)
            kept = labels != ignore_index
            places = labels * class_step(x) + lane_index(x) * sample_step(x)
            at_label = gather(offset(origin(x, start), j * sample_step(x)), where(kept, places, 0))
            label_weight = full(x, 1.0)
            if class_weight is not None:
                label_weight = gather(row(class_weight, 0), where(kept, labels, 0))
            weight, slope = sample_scales(x, sample_weight, upstream, scale, start + j, n - j)
            value = weight * _loss(top, rest, at_label, label_weight, load(terms, j), smoothing)
            store_n(row(loss, start + j), 0, n - j, where(kept, value, 0.0))
            if grad is not None:
                factor, label_gradient = _gradient(top, rest, at_label, label_weight, smoothing)
                store(terms, j, factor * slope)
                store(rests, j, label_gradient * slope)
                store(marks, j, bits(narrow_labels(where(kept, labels, -1), x)))
                if smoothing is not None:
                    store(minuses, j, slope * smoothing[1])
        if grad is not None:
            q, q_step, _ = place(grad, start, n, tile)
            if smoothing is None:
                columns.write_gradient(p, step, q, q_step, classes, count, tops, terms, marks, rests, None, None)
            else:
                columns.write_gradient(
                    p, step, q, q_step, classes, count, tops, terms, marks, rests, class_weight, minuses
                )  # fmt: skip
            put(grad, start, n, tile)


@kernel
def pick_labels(x, target, ignore_index, at_labels):
    """Write the logits at the labels, 0 for ignored samples."""
    for i in range(x.shape[0]):
        at_labels[i] = 0.0
        if target[i] != ignore_index:
            at_labels[i] = load_one(row(x, i), target[i])


@kernel
def hard_split(x, target, ignore_index, class_weight, sample_weight, upstream, scale, loss, grad, stats, at_labels):
    """``x`` is (N, C) with contiguous long rows whose (maximum, rest) are in ``stats``.

    The logits at the labels come in ``at_labels``: another thread may have overwritten them.
    There is no label smoothing.
    """
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, classes = chunk_of(x, task)
        label = target[i]
        q = row(x, i)
        if grad is not None:
            q = offset(row(grad, i), start)
        if label == ignore_index:
            if start == 0:
                store_one(row(loss, i), 0, 0.0)
            if grad is not None:
                rows.fill_zero(q, classes)
        else:
            top = full(x, stats[0, i])
            rest = full(x, stats[1, i])
            at_label = full(x, at_labels[i])
            label_weight = full(x, 1.0)
            if class_weight is not None:
                label_weight = full(x, class_weight[label])
            weight, slope = sample_scales(x, sample_weight, upstream, scale, i, 1)
            if start == 0:
                value = weight * _loss(top, rest, at_label, label_weight, top, None)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None:
                factor, label_gradient = _gradient(top, rest, at_label, label_weight, None)
                p = offset(row(x, i), start)
                rows.write_softmax(p, q, classes, stats[0, i], get_lane(factor * slope, 0))
                if start <= label < start + classes:
                    store_one(q, label - start, get_lane(label_gradient * slope, 0))
