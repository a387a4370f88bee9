"""Kernels of what follows from the statistics of all shards; see ``shard_stats`` for their rows.

Merged in order, the statistics of the chunks of a long row have the bits of ``long_rows.stats``. ``summary``, in the
dtype of the computation, has the rows m and r, and then row 3 and on of the statistics. The gradient of a shard
follows from ``terms``, one column a sample, in the same dtype:

    of labels    m, factor of the exponentials, gradient at the label, smoothing term, bits of the label's integer
    of probs     m, r, pull, grad_scale

The integer is the label within the shard, the number of its classes for a label of another shard, and -1 for a sample
without gradient, whose grad_scale is 0. Factors u and u g of samples, in ``sample_factors``, are 0 for all samples that
are left out.
"""

import numpy as np
from numba import prange, types

from fastce.kernels.codegen.jit import inline, inline_for, kernel
from fastce.kernels.formulas import Sample, index_loss, logsumexp, prob_loss, times_weight, z_slope
from fastce.kernels.ops.cross_entropy import gradient_terms, read_stats, sample_scales
from fastce.kernels.rows import columns, long_rows, row_formulas, tiles
from fastce.kernels.rows.columns import GradientTerms, ProbGradientTerms
from fastce.kernels.rows.samples import shard_labels_at
from fastce.kernels.rows.split import chunk_count, chunk_of
from fastce.kernels.rows.targets import Targets
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import stream_fence, write
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import (
    load_n,
    load_one,
    narrow_labels,
    offset,
    row,
    scratch,
    static_if_present,
    store_n,
    store_one,
)
from fastce.kernels.simd.vector import bits, full_like, get_lane, lanes, where

BLOCK = 1024  # samples that a thread takes at a time


# --- one value a sample -----------------------------------------------------------


@kernel
def merge_shards(parts, merged):
    """Write the statistics of ``parts``, (P, S, N), together, in order, to ``merged``, (S, N)."""
    size, count = merged.shape
    for b in prange(-(-count // BLOCK)):
        for i in range(b * BLOCK, smaller((b + 1) * BLOCK, count)):
            merged[0, i], merged[1, i], merged[2, i] = _merged_maxima(parts, i)
            if size == 4 or size == 7:
                shard = _shard_of_label(parts, i)
                merged[3, i] = parts[shard, 3, i]
                if size == 7:
                    merged[4, i] = parts[shard, 4, i]
                    merged[5, i], merged[6, i] = _merged_sums(parts, 5, i)
            elif size == 5:
                merged[3, i], merged[4, i] = _merged_sums(parts, 3, i)


@inline
def _merged_maxima(parts, i):
    """Return rows 0 to 2 of sample ``i``."""
    row_max, sum_exp_rest, num_at_max = parts[0, 0, i], parts[0, 1, i], parts[0, 2, i]
    for shard in range(1, parts.shape[0]):
        row_max, sum_exp_rest, num_at_max = long_rows.merge(
            row_max, sum_exp_rest, num_at_max, parts[shard, 0, i], parts[shard, 1, i], parts[shard, 2, i]
        )
    return row_max, sum_exp_rest, num_at_max


@inline
def _shard_of_label(parts, i):
    """Return the shard that has the label of sample ``i``, 0 if none has."""
    for shard in range(1, parts.shape[0]):
        if parts[shard, 3, i] == parts[shard, 3, i]:
            return shard
    return 0


@inline
def _merged_sums(parts, k, i):
    """Return rows ``k`` and ``k + 1`` of sample ``i``: the sums of t and of t (m - x)."""
    row_max = -np.inf
    target_sum = dot = 0.0
    for shard in range(parts.shape[0]):
        part_max, part_sum, part_dot = parts[shard, 0, i], parts[shard, k, i], parts[shard, k + 1, i]
        higher = max(row_max, part_max)
        dot = _raised(dot, target_sum, row_max, higher) + _raised(part_dot, part_sum, part_max, higher)
        target_sum += part_sum
        row_max = higher
    return target_sum, dot


@inline
def _raised(dot, target_sum, row_max, higher):
    """Return the sum of t (``higher`` - x) from that for ``row_max``, which may be lower; 0 stands for -inf there."""
    shift = row_max if row_max > -np.inf else 0.0
    if higher > row_max and target_sum != 0.0:
        return dot + target_sum * (higher - shift)
    return dot


@kernel
def finish_shards(summary, stats):
    """Write the summary of the statistics of all shards."""
    size, count = stats.shape
    for b in prange(-(-count // BLOCK)):
        for i in range(b * BLOCK, smaller((b + 1) * BLOCK, count)):
            row_max, sum_exp_rest = long_rows.finish(stats[0, i], stats[1, i], stats[2, i])
            if row_max == np.inf:  # +inf - inf is no difference; a NaN hides behind +inf
                row_max, sum_exp_rest = row_max + stats[1, i], np.nan
            store_one(row(summary, 0), i, row_max)
            store_one(row(summary, 1), i, sum_exp_rest)
            for k in range(3, size):
                store_one(row(summary, k - 1), i, stats[k, i])


@kernel
def shard_lse(summary, lse):
    """Write the log-sum-exp of all samples."""
    count, width = summary.shape[1], lanes(summary)
    for b in prange(-(-count // BLOCK)):
        for start in range(b * BLOCK, smaller((b + 1) * BLOCK, count), width):
            n = smaller(width, count - start)
            row_max, sum_exp_rest = read_stats(summary, start, n)
            store_n(row(lse, start), 0, n, logsumexp(row_max, sum_exp_rest))


@inline
def _sample_at(summary, start, n, static_weighted):
    """Return (`formulas.Sample`, sum below the maximum) of ``n`` samples with labels."""
    row_max, sum_exp_rest = read_stats(summary, start, n)
    at_label = load_n(row(summary, 2), start, n, 0.0)
    label_weight, sum_below_max = full_like(summary, 1.0), full_like(summary, 0.0)
    if static_weighted is not None:
        label_weight = load_n(row(summary, 3), start, n, 0.0)
        sum_below_max = load_n(row(summary, 5), start, n, 0.0)
    return Sample(row_max, sum_exp_rest, at_label, label_weight), sum_below_max


@kernel
def shard_losses(summary, sample_factors, smoothing, z_loss, static_soft, static_weighted, losses):
    """Write the losses of all samples.

    ``static_soft`` is True for statistics of class probabilities, ``static_weighted`` where there are class weights or
    smoothing, of which the statistics hold e / C times the sums.
    """
    count, width = summary.shape[1], lanes(summary)
    for b in prange(-(-count // BLOCK)):
        for start in range(b * BLOCK, smaller((b + 1) * BLOCK, count), width):
            n = smaller(width, count - start)
            weight, _ = sample_scales(summary, sample_factors, 1.0, start, n)
            if static_soft is not None:
                row_max, sum_exp_rest = read_stats(summary, start, n)
                target_sum, dot = load_n(row(summary, 2), start, n, 0.0), load_n(row(summary, 3), start, n, 0.0)
                value = prob_loss(row_max, sum_exp_rest, target_sum, dot, z_loss)
            else:
                sample, sum_below_max = _sample_at(summary, start, n, static_weighted)
                value = index_loss(sample, sum_below_max, smoothing, z_loss)
            store_n(row(losses, start), 0, n, times_weight(value, weight))


@kernel
def shard_terms(summary, target, first, classes, sample_factors, scale, smoothing, z_loss, static_weighted, terms):
    """Write the terms of the gradient of a shard of ``classes`` that begins with class ``first``.

    ``target`` is None for statistics of class probabilities; ``static_weighted`` is as in `shard_losses`.
    """
    count, width = summary.shape[1], lanes(summary)
    for b in prange(-(-count // BLOCK)):
        for start in range(b * BLOCK, smaller((b + 1) * BLOCK, count), width):
            n = smaller(width, count - start)
            _, grad_scale = sample_scales(summary, sample_factors, scale, start, n)
            row_max, sum_exp_rest = read_stats(summary, start, n)
            store_n(row(terms, 0), start, n, row_max)
            if target is None:
                pull = load_n(row(summary, 2), start, n, 0.0) + z_slope(row_max, sum_exp_rest, z_loss)
                store_n(row(terms, 1), start, n, sum_exp_rest)
                store_n(row(terms, 2), start, n, pull)
                store_n(row(terms, 3), start, n, grad_scale)
            else:
                sample, _ = _sample_at(summary, start, n, static_weighted)
                factor, at_label, smoothing_term = gradient_terms(sample, grad_scale, smoothing, z_loss)
                local = shard_labels_at(target, start, n, first, classes, summary)
                marks = narrow_labels(where(local >= 0, local, classes), summary)
                marks = _where_factor(marks, sample_factors, start, n)
                store_n(row(terms, 1), start, n, factor)
                store_n(row(terms, 2), start, n, at_label)
                store_n(row(terms, 3), start, n, smoothing_term)
                store_n(row(terms, 4), start, n, bits(marks))


@inline
def _where_factor(marks, sample_factors, start, n):
    """Return ``marks``, -1 where a factor of 0 leaves out the gradient."""
    if sample_factors is not None:
        marks = where(load_n(row(sample_factors, 1), start, n, 0.0) == 0.0, -1, marks)
    return marks


# --- the gradient -----------------------------------------------------------------


@inline
def _marks(terms, start, n):
    """Return the integers of labels from their bits; 0 in the lanes past the end."""
    return bits(load_n(row(terms, 4), start, n, 0.0))


@kernel
def gradient_tiles(x, probs, terms, class_weight, smoothing, static_factors, grad):
    """``x`` is (N, C) with contiguous rows of few classes; ``static_factors`` is None if all samples count."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.write_exps(tile, classes, load_n(row(terms, 0), start, n, 0.0), exps)
        first = load_n(row(terms, 1), start, n, 0.0)
        second, third = load_n(row(terms, 2), start, n, 0.0), load_n(row(terms, 3), start, n, 0.0)
        if probs is None:
            term = static_if_present(smoothing, third)
            tiles.write_gradient(exps, classes, first, _marks(terms, start, n), second, class_weight, term)
        else:
            tiles.load_tile(probs, start, n, tile)
            targets = Targets(tile, class_weight, smoothing)
            tiles.write_prob_gradient(exps, targets, classes, first, second, third)
            tiles.clear(exps, classes, static_if_present(static_factors, third))
        tiles.store_tile(grad, start, n, exps)


def static_weights_from(class_weight, start):
    """Return the class weights from class ``start`` on, or None without any; Numba decides when it compiles."""


@inline_for(static_weights_from)
def _static_weights_from(class_weight, start):
    if isinstance(class_weight, types.NoneType):
        return lambda class_weight, start: None
    return lambda class_weight, start: class_weight[start:]


@kernel
def gradient_rows(x, probs, terms, class_weight, smoothing, static_factors, grad, streamed):
    """``x`` is (N, C) with contiguous rows; the other arguments are as in `gradient_tiles`."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, classes = chunk_of(x, task)
        p, q = offset(row(x, i), start), offset(row(grad, i), start)
        row_max, first = load_one(row(terms, 0), i), load_one(row(terms, 1), i)
        second, third = load_one(row(terms, 2), i), load_one(row(terms, 3), i)
        weights = static_weights_from(class_weight, start)
        if probs is None:
            label = get_lane(_marks(terms, i, 1), 0)
            if label < 0:
                write(q, classes, streamed, row_formulas.zero, (full_like(x, 0.0),))
            else:
                term = static_if_present(smoothing, third)
                row_formulas.write_gradient(q, classes, streamed, p, row_max, first, weights, term)
                if start <= label < start + classes:
                    store_one(q, label - start, second)
        elif third == 0.0 and static_factors is not None:
            write(q, classes, streamed, row_formulas.zero, (full_like(x, 0.0),))
        else:
            targets = Targets(offset(row(probs, i), start), weights, smoothing)
            write(q, classes, streamed, row_formulas.prob_gradient, (p, row_max, targets, first, second, third))
        stream_fence(streamed)


@kernel
def gradient_columns(x, probs, terms, class_weight, smoothing, static_factors, grad, panel_width, streamed):
    """``x`` is (outer, C, inner); the other arguments are as in `gradient_tiles`."""
    classes = x.shape[1]
    for b in prange(columns.panel_count(x, panel_width)):
        start, n, _ = columns.panel_range(x, b, panel_width)
        panel, out = columns.panel_at(x, start), columns.panel_at(grad, start)
        maxima, first = offset(row(terms, 0), start), offset(row(terms, 1), start)
        second, third = offset(row(terms, 2), start), offset(row(terms, 3), start)
        if probs is None:
            marks = offset(row(terms, 4), start)
            columns_of_labels = GradientTerms(maxima, first, marks, second, static_if_present(smoothing, third))
            columns.write(panel, out, classes, n, streamed, columns.gradient, (columns_of_labels, class_weight))
        else:
            targets = Targets(columns.panel_at(probs, start), class_weight, smoothing)
            columns_of_probs = ProbGradientTerms(maxima, first, second, third, static_if_present(static_factors, third))
            columns.write(panel, out, classes, n, streamed, columns.prob_gradient, (targets, columns_of_probs))
        stream_fence(streamed)
