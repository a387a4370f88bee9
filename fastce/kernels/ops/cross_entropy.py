"""Kernels of cross-entropy with class indices as targets: the loss and, where ``grad`` is given, the gradient.

For sample i with label y, class weights w, sample weight u, upstream gradient g and label
smoothing e over C classes, with t_j = w_j ((1 - e) [j = y] + e / C) and a = sum_j t_j:

    loss_i  = u (a lse - sum_j t_j x_j + z lse^2)
    grad_ij = u g scale ((a + 2 z lse) p_j - t_j)

``formulas`` has both as sums of terms of one sign, which keep full relative precision however confident the sample.

A label equal to ``ignore_index`` gives loss 0 and gradient 0, whatever the logits. So does a label that another thread
puts out of range after the check, and a factor of 0: u, and w_y where nothing else is added. Where u g is 0, so is the
gradient. ``grad`` may be ``x`` itself.

The kernels for tiles, short rows, long rows and columns return (position of the first label out of range or -1, total
weight of the samples that are not ignored, sum of the losses). After a label out of range nothing has been written.
``saved_stats``, of shape (2, N) or None, receives the maxima and ``sum_exp_rest`` of all samples; the maximum of an
ignored sample, or one of factor 0, is NaN. Without ``loss`` they are read from there instead.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastce.kernels import formulas
from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.formulas import Sample, index_gradient, index_loss
from fastce.kernels.rows import columns, long_rows, row_formulas, short_rows, tiles
from fastce.kernels.rows.callers_arrays import takes
from fastce.kernels.rows.columns import ROOM, GradientTerms
from fastce.kernels.rows.long_rows import MAXIMA
from fastce.kernels.rows.samples import label_at, labels_at, next_valid, scan, total_of
from fastce.kernels.rows.short_rows import EXP_VALUES
from fastce.kernels.rows.split import chunk_count, chunk_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write, write_cached
from fastce.kernels.simd.integer import smaller
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


class Options(NamedTuple):
    """What makes a loss other than plain cross-entropy; None where an option is not used."""

    class_weight: Any  # w, in the dtype of the computation
    sample_factors: Any  # (u, u g), of shape (2, N)
    smoothing: tuple[float, float, float] | None  # (1 - e, e / C, e / C * sum(w))
    z_loss: float | None  # z


class Scaling(NamedTuple):
    """A factor of all gradients, which the kernel divides by the total weight for means."""

    factor: float
    is_mean: bool


NO_OPTIONS = Options(None, None, None, None)
MEAN, SUM = Scaling(1.0, True), Scaling(1.0, False)
NOT_TAKEN = -2  # in the place of a label's position: kernels cannot take the arrays as they are


@inline
def scale_of(scaling, total_weight):
    """Return the factor of all gradients."""
    if scaling.is_mean:
        return scaling.factor / total_weight
    return scaling.factor


@inline
def sample_scales(like, sample_factors, scale, start, n):
    """Return (u, u g scale) of samples ``start`` to ``start + n``, 0 where u g is 0."""
    weight = full_like(like, 1.0)
    if sample_factors is None:
        return weight, weight * scale
    weight = load_n(row(sample_factors, 0), start, n, 0.0)
    factor = load_n(row(sample_factors, 1), start, n, 0.0)
    return weight, where(factor == 0.0, 0.0, factor * scale)


@inline
def _counted(labels, start, n, like, class_weight, sample_factors, smoothing, z_loss):
    """Return labels, -1 also for samples whose loss and gradient a factor of 0 leaves out."""
    if sample_factors is not None:
        labels = where(load_n(row(sample_factors, 0), start, n, 0.0) == 0.0, -1, labels)
    if class_weight is not None and smoothing is None and z_loss is None:
        labels = where(_weights_at(like, where(labels >= 0, labels, 0), class_weight) == 0.0, -1, labels)
    return labels


@inline
def _counts(i, label, class_weight, sample_factors, smoothing, z_loss):
    """Tell whether no factor of 0 leaves out sample ``i``, whose label is not negative."""
    counts = True
    if sample_factors is not None:
        counts = sample_factors[0, i] != 0.0
    if class_weight is not None and smoothing is None and z_loss is None:
        counts = counts and class_weight[label] != 0.0
    return counts


@inline
def _next_counted(target, i, stop, ignore_index, classes, class_weight, sample_factors, smoothing, z_loss):
    """Return ``samples.next_valid``, for samples that no factor of 0 leaves out."""
    i, label = next_valid(target, i, stop, ignore_index, classes)
    while i < stop and not _counts(i, label, class_weight, sample_factors, smoothing, z_loss):
        i, label = next_valid(target, i + 1, stop, ignore_index, classes)
    return i, label


@inline
def _with_gradient(labels, start, n, sample_factors):
    """Return labels, -1 also for samples whose gradient a factor of 0 leaves out."""
    if sample_factors is not None:
        labels = where(load_n(row(sample_factors, 1), start, n, 0.0) == 0.0, -1, labels)
    return labels


@inline
def has_gradient(i, sample_factors):
    """Tell whether no factor of 0 leaves out the gradient of sample ``i``."""
    if sample_factors is not None:
        return sample_factors[1, i] != 0.0
    return True


@inline
def gradient_terms(sample, grad_scale, smoothing, z_loss):
    """Return (factor of the exponentials, gradient at the label, smoothing term, of no use without smoothing)."""
    factor, at_label = index_gradient(sample, smoothing, z_loss)
    return factor * grad_scale, at_label * grad_scale, formulas.smoothing_term(grad_scale, smoothing)


@inline
def save_stats(saved_stats, loss, start, n, row_max, sum_exp_rest):
    """Write the statistics of ``n`` samples to ``saved_stats``, unless that or ``loss`` is None."""
    if saved_stats is not None and loss is not None:
        store_n(row(saved_stats, 0), start, n, row_max)
        store_n(row(saved_stats, 1), start, n, sum_exp_rest)


@inline
def read_stats(saved_stats, start, n):
    """Return (maximum, sum_exp_rest) of ``n`` samples, a lane each."""
    return load_n(row(saved_stats, 0), start, n, 0.0), load_n(row(saved_stats, 1), start, n, 0.0)


@inline
def _weights_at(like, labels, class_weight):
    """Return the class weights of the labels in the lanes of ``labels``, none of which is negative."""
    if class_weight is None:
        return full_like(like, 1.0)
    return gather(row(class_weight, 0), labels)


@inline
def _weight_at(like, label, class_weight):
    """Return the class weight of one label in all lanes."""
    if class_weight is None:
        return full_like(like, 1.0)
    return full_like(like, class_weight[label])


# --- tiles -----------------------------------------------------------------------


@kernel
def hard_tiles(x, target, ignore_index, options, scaling, saved_stats, loss, grad, is_checked):
    """``x`` is (N, C) with contiguous rows of few classes."""
    class_weight, sample_factors, smoothing, z_loss = options
    count, classes = x.shape
    if not takes(is_checked, x, grad, target):
        return NOT_TAKEN, 0.0, 0.0
    position, total_weight = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, total_weight, 0.0
    scale = scale_of(scaling, total_weight)
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        labels = _counted(
            labels_at(target, start, n, ignore_index, classes, x),
            start,
            n,
            x,
            class_weight,
            sample_factors,
            smoothing,
            z_loss,
        )
        narrow = narrow_labels(labels, x)
        valid, readable = narrow >= 0, where(labels >= 0, labels, 0)
        label_weight = _weights_at(x, readable, class_weight)
        if saved_stats is not None and loss is None:
            row_max, sum_exp_rest = read_stats(saved_stats, start, n)
            tiles.write_exps(tile, classes, row_max, exps)
        else:
            row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        sample = Sample(row_max, sum_exp_rest, gather(tile, readable * width + lane_index(x)), label_weight)
        save_stats(saved_stats, loss, start, n, where(valid, row_max, np.nan), sum_exp_rest)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        if grad is not None:
            factor, at_label, smoothing_term = gradient_terms(sample, grad_scale, smoothing, z_loss)
            smoothing_term = static_if_present(smoothing, smoothing_term)
            narrow = _with_gradient(narrow, start, n, sample_factors)
            tiles.write_gradient(exps, classes, factor, narrow, at_label, class_weight, smoothing_term)
            tiles.store_tile(grad, start, n, exps)
        if loss is not None:  # last: only this store depends on the logarithm
            sum_below_max = _tile_sum_below_max(tile, classes, row_max, class_weight, smoothing)
            value = weight * index_loss(sample, sum_below_max, smoothing, z_loss)
            store_n(row(loss, start), 0, n, where(valid, value, 0.0))
    return position, total_weight, total_of(loss)


@inline
def _tile_sum_below_max(tile, classes, row_max, class_weight, smoothing):
    """Return ``tiles.sum_below_max``, which only smoothing needs."""
    if smoothing is None:
        return full_like(tile, 0.0)
    return tiles.sum_below_max(tile, class_weight, classes, row_max)


# --- short rows ------------------------------------------------------------------


@kernel
def hard_short_rows(x, target, ignore_index, options, scaling, saved_stats, loss, grad, is_checked):
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    class_weight, sample_factors, smoothing, z_loss = options
    count, classes = x.shape
    if not takes(is_checked, x, grad, target):
        return NOT_TAKEN, 0.0, 0.0
    position, total_weight = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, total_weight, 0.0
    scale = scale_of(scaling, total_weight)
    per_block = short_rows.rows_a_block(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = smaller(per_block, count - start)
        labels, exps = scratch(lane_index(x), 1), scratch(x, EXP_VALUES)
        counted = _counted(
            labels_at(target, start, n, ignore_index, classes, x),
            start,
            n,
            x,
            class_weight,
            sample_factors,
            smoothing,
            z_loss,
        )
        store(labels, 0, counted)
        at_label, valid, label_weight = _at_labels(x, labels, start, n, class_weight)
        if saved_stats is not None and loss is None:
            row_max, sum_exp_rest = read_stats(saved_stats, start, n)
            sum_below_max = full_like(x, 0.0)
            short_rows.write_exps(x, start, n, row_max, exps, labels)
        else:
            row_max, sum_exp_rest, sum_below_max = short_rows.stats(
                x, start, n, static_if_present(grad, exps), grad, labels, class_weight, smoothing
            )
        sample = Sample(row_max, sum_exp_rest, at_label, label_weight)
        save_stats(saved_stats, loss, start, n, where(valid != 0.0, row_max, np.nan), sum_exp_rest)
        weight, grad_scale = sample_scales(x, sample_factors, scale, start, n)
        value = weight * index_loss(sample, sum_below_max, smoothing, z_loss)
        if loss is not None:
            store_n(row(loss, start), 0, n, where(valid != 0.0, value, 0.0))
        if grad is not None:
            store(labels, 0, _with_gradient(counted, start, n, sample_factors))
            terms = gradient_terms(sample, grad_scale, smoothing, z_loss)
            _write_gradients(grad, start, n, labels, exps, terms, class_weight, smoothing)
    return position, total_weight, total_of(loss)


@inline
def _at_labels(x, labels, start, n, class_weight):
    """Return (logit at the label, 1 for samples that are not ignored, weight of the label) of ``n`` rows."""
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


@inline
def _write_gradients(grad, start, n, labels, exps, terms, class_weight, smoothing):
    """Write the gradients of ``n`` short rows, whose exponentials are in ``exps``, from their `gradient_terms`."""
    classes = grad.shape[1]
    factor, at_label, smoothing_term = terms
    for r in range(n):
        q = row(grad, start + r)
        label = load_one(labels, r)
        if label < 0:
            write_cached(q, classes, row_formulas.zero, (factor,))
        else:
            e = offset(exps, r * short_rows.exp_step(grad))
            term = static_if_present(smoothing, get_lane(smoothing_term, r))
            write_cached(q, classes, short_rows.gradient, (e, get_lane(factor, r), class_weight, term))
            store_one(q, label, get_lane(at_label, r))


# --- long rows -------------------------------------------------------------------


@kernel
def hard_rows(x, target, ignore_index, options, scaling, saved_stats, loss, grad, is_checked, plan):
    """``x`` is (N, C) with contiguous rows; ``plan`` is a `long_rows.RowPlan`."""
    class_weight, sample_factors, smoothing, z_loss = options
    rows_a_block, streamed, static_chunked, static_store_exp = plan
    count, classes = x.shape
    if not takes(is_checked, x, grad, target):
        return NOT_TAKEN, 0.0, 0.0
    position, total_weight = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, total_weight, 0.0
    scale = scale_of(scaling, total_weight)
    for b in prange((count + rows_a_block - 1) // rows_a_block):
        start = b * rows_a_block
        stop = smaller(start + rows_a_block, count)
        maxima_cur, maxima_next = scratch(x, MAXIMA), scratch(x, MAXIMA)
        buffer = long_rows.static_exp_buffer(static_store_exp, b)
        next_row, next_label = _next_counted(
            target, start, stop, ignore_index, classes, class_weight, sample_factors, smoothing, z_loss
        )
        next_max = long_rows.lowest(x)
        if saved_stats is None or loss is not None:
            next_max = long_rows.first_max(x, next_row, stop, maxima_cur, static_chunked)
        for i in range(start, stop):
            if i < next_row:
                _write_ignored(x, i, saved_stats, loss, grad, streamed)
            else:
                label = next_label
                next_row, next_label = _next_counted(
                    target, i + 1, stop, ignore_index, classes, class_weight, sample_factors, smoothing, z_loss
                )
                exps = long_rows.exps_of(static_store_exp, buffer, grad, i)
                if saved_stats is not None and loss is None:
                    row_max, sum_exp_rest = np.float64(saved_stats[0, i]), np.float64(saved_stats[1, i])
                else:
                    peek_row = next_row if next_row < stop else i
                    row_max, sum_exp_rest, next_max = long_rows.stats_and_next_max(
                        x, i, peek_row, next_max, maxima_cur, maxima_next, exps, static_chunked
                    )
                    maxima_cur, maxima_next = maxima_next, maxima_cur
                sample = _sample_at(x, label, row_max, sum_exp_rest, load_one(row(x, i), label), class_weight)
                save_stats(saved_stats, loss, i, 1, sample.row_max, sample.sum_exp_rest)
                weight, grad_scale = sample_scales(x, sample_factors, scale, i, 1)
                if loss is not None:
                    sum_below_max = _row_sum_below_max(x, i, row_max, class_weight, smoothing)
                    value = weight * index_loss(sample, sum_below_max, smoothing, z_loss)
                    store_one(row(loss, i), 0, get_lane(value, 0))
                if grad is not None and not has_gradient(i, sample_factors):
                    write(row(grad, i), classes, streamed, row_formulas.zero, (full_like(x, 0.0),))
                elif grad is not None:
                    exp_source = row_formulas.static_exp_source(static_if_present(loss, exps), row(x, i), row_max)
                    terms = gradient_terms(sample, grad_scale, smoothing, z_loss)
                    _write_gradient(row(grad, i), classes, streamed, exp_source, terms, class_weight, smoothing)
                    store_one(row(grad, i), label, get_lane(terms[1], 0))
        stream_fence(streamed)
    return position, total_weight, total_of(loss)


@inline
def _write_ignored(x, i, saved_stats, loss, grad, streamed):
    """Write the loss and gradient of an ignored row."""
    save_stats(saved_stats, loss, i, 1, full_like(x, np.nan), full_like(x, 0.0))
    if loss is not None:
        store_one(row(loss, i), 0, 0.0)
    if grad is not None:
        write(row(grad, i), x.shape[1], streamed, row_formulas.zero, (full_like(x, 0.0),))


@inline
def _sample_at(like, label, row_max, sum_exp_rest, at_label, class_weight):
    """Return one sample in all lanes."""
    return Sample(
        full_like(like, row_max),
        full_like(like, sum_exp_rest),
        full_like(like, at_label),
        _weight_at(like, label, class_weight),
    )


@inline
def _row_sum_below_max(x, i, row_max, class_weight, smoothing):
    """Return ``long_rows.sum_below_max`` of row ``i``, which only smoothing needs."""
    if smoothing is None:
        return full_like(x, 0.0)
    return full_like(x, long_rows.sum_below_max(row(x, i), class_weight, x.shape[1], row_max))


@inline
def _write_gradient(q, classes, streamed, exp_source, terms, class_weight, smoothing):
    """Write the gradient of one row, or of a chunk, from its `gradient_terms`, as if there were no label."""
    factor, _, smoothing_term = terms
    term = static_if_present(smoothing, get_lane(smoothing_term, 0))
    row_formulas.write_gradient(q, classes, streamed, *exp_source, get_lane(factor, 0), class_weight, term)


# --- columns ---------------------------------------------------------------------


@kernel
def hard_columns(x, target, ignore_index, options, scaling, saved_stats, loss, grad, is_checked, plan):
    """``x`` is (outer, C, inner); ``plan`` is a `columns.ColumnPlan`."""
    class_weight, sample_factors, smoothing, z_loss = options
    panel_width, streamed = plan
    classes = x.shape[1]
    position, total_weight = scan(target, classes, ignore_index, class_weight, sample_factors)
    if position >= 0:
        return position, total_weight, 0.0
    scale = scale_of(scaling, total_weight)
    width = lanes(x)
    for b in prange(columns.panel_count(x, panel_width)):
        start, n, lead = columns.panel_range(x, b, panel_width)
        maxima, sum_exp_rests = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        factors, narrow_labels_ = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        smoothing_terms = scratch_from(x, ROOM, lead)
        panel = columns.panel_at(x, start)
        if loss is not None:
            columns.stats(panel, classes, n, lead, maxima, sum_exp_rests)
        elif saved_stats is not None:
            for j in range(0, n, width):
                row_max, sum_exp_rest = read_stats(saved_stats, start + j, n - j)
                store(maxima, j, row_max)
                store(sum_exp_rests, j, sum_exp_rest)
        # sums below the maxima and factors share memory, sums of exponentials and gradients at the labels too
        _column_sums_below_max(panel, classes, n, maxima, factors, class_weight, smoothing)
        for j in range(0, n, width):
            labels = _counted(
                labels_at(target, start + j, n - j, ignore_index, classes, x),
                start + j,
                n - j,
                x,
                class_weight,
                sample_factors,
                smoothing,
                z_loss,
            )
            narrow = narrow_labels(labels, x)
            valid = narrow >= 0
            at_label = gather(offset(panel.first, j), where(labels >= 0, labels * panel.step + lane_index(x), 0))
            label_weight = _weights_at(x, where(labels >= 0, labels, 0), class_weight)
            sample = Sample(load(maxima, j), load(sum_exp_rests, j), at_label, label_weight)
            weight, grad_scale = sample_scales(x, sample_factors, scale, start + j, n - j)
            save_stats(saved_stats, loss, start + j, n - j, where(valid, sample.row_max, np.nan), sample.sum_exp_rest)
            value = weight * index_loss(sample, load(factors, j), smoothing, z_loss)
            if loss is not None:
                store_n(row(loss, start + j), 0, n - j, where(valid, value, 0.0))
            if grad is not None:
                factor, at_label, smoothing_term = gradient_terms(sample, grad_scale, smoothing, z_loss)
                store(factors, j, factor)
                store(sum_exp_rests, j, at_label)
                store(narrow_labels_, j, bits(_with_gradient(narrow, start + j, n - j, sample_factors)))
                store(smoothing_terms, j, smoothing_term)
        if grad is not None:
            static_terms = static_if_present(smoothing, smoothing_terms)
            terms = GradientTerms(maxima, factors, narrow_labels_, sum_exp_rests, static_terms)
            out = columns.panel_at(grad, start)
            columns.write(panel, out, classes, n, streamed, columns.gradient, (terms, class_weight))
            stream_fence(streamed)
    return position, total_weight, total_of(loss)


@inline
def _column_sums_below_max(panel, classes, n, maxima, results, class_weight, smoothing):
    """Write ``columns.sums_below_max``, which only smoothing needs."""
    if smoothing is not None:
        columns.sums_below_max(panel, class_weight, classes, n, maxima, results)


# --- few rows of very many classes -----------------------------------------------


@kernel
def pick_labels(x, target, ignore_index, options, labels, at_labels):
    """Write the labels, -1 for ignored samples and those of factor 0, and the logits at the labels, 0 for those."""
    class_weight, sample_factors, smoothing, z_loss = options
    for i in range(x.shape[0]):
        label = label_at(target, i, ignore_index, x.shape[1])
        if label >= 0 and not _counts(i, label, class_weight, sample_factors, smoothing, z_loss):
            label = -1
        labels[i] = label
        at_labels[i] = load_one(row(x, i), label) if label >= 0 else 0.0


@kernel
def hard_split(x, labels, at_labels, stats, options, scale, loss, grad, streamed):
    """``x`` is (N, C) with contiguous long rows, whose maxima and ``sum_exp_rest`` are in ``stats``.

    ``pick_labels`` has written ``labels`` and ``at_labels``. It ran first because ``grad`` may be ``x``: one task may
    overwrite the logit at a label that another task has yet to read. There is no label smoothing.
    """
    class_weight, sample_factors, smoothing, z_loss = options
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, classes = chunk_of(x, task)
        label = labels[i]
        q = offset(row(grad, i), start)
        if label < 0:
            if start == 0 and loss is not None:
                store_one(row(loss, i), 0, 0.0)
            if grad is not None:
                write(q, classes, streamed, row_formulas.zero, (full_like(x, 0.0),))
        else:
            sample = _sample_at(x, label, stats[0, i], stats[1, i], at_labels[i], class_weight)
            weight, grad_scale = sample_scales(x, sample_factors, scale, i, 1)
            if start == 0 and loss is not None:
                value = weight * index_loss(sample, sample.row_max, smoothing, z_loss)
                store_one(row(loss, i), 0, get_lane(value, 0))
            if grad is not None and not has_gradient(i, sample_factors):
                write(q, classes, streamed, row_formulas.zero, (full_like(x, 0.0),))
            elif grad is not None:
                exp_source = (offset(row(x, i), start), stats[0, i])
                terms = gradient_terms(sample, grad_scale, smoothing, z_loss)
                _write_gradient(q, classes, streamed, exp_source, terms, class_weight, smoothing)
                if start <= label < start + classes:
                    store_one(q, label - start, get_lane(terms[1], 0))
        stream_fence(streamed)
