"""Kernels of scoring: log-probability, log-sum-exp, entropy, argmax and rank of every sample.

For sample i with label y and p = softmax(x_i), let m be the maximum, r (``sum_exp_rest``) the sum of exp(x - m) over
all classes but one greatest, and s (``entropy_sum``) the sum of exp(x - m) (m - x) over all classes:

    log_prob_i = (x_y - m) - log1p(r)
    lse_i      = m + log1p(r)
    entropy_i  = log1p(r) + s / (1 + r)
    argmax_i   = the first class whose logit is m
    rank_i     = the number of classes with a greater logit than y's, or with the same one and before y

A row with NaN has NaN for the first three, the first NaN as argmax, and the number of classes as rank. A label equal to
``ignore_index`` gives 0 for the first three and -1 for argmax and rank, whatever the logits. So does a label that
another thread puts out of range after the check.
"""

import math

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.ops.score_stats import first_nan_of, row_stats
from fastce.kernels.rows import short_rows, tiles
from fastce.kernels.rows.samples import label_at, labels_at
from fastce.kernels.rows.short_rows import EXP_VALUES
from fastce.kernels.rows.tiles import MAX_CLASSES
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
    store,
    store_n,
)
from fastce.kernels.simd.transpose import max_rows, sum_rows
from fastce.kernels.simd.vecmath import log1p
from fastce.kernels.simd.vector import (
    any_lane,
    fma,
    full_like,
    get_lane,
    lane_index,
    lanes,
    maximum,
    set_lane,
    to_float,
    where,
)


@inline
def _write(start, n, valid, stats, at_label, log_prob, lse, entropy):
    """Write the floating-point results; ``stats`` is (maximum, sum_exp_rest, entropy_sum), a sample in each lane."""
    row_max, sum_exp_rest, entropy_sum = stats
    log_sum = log1p(sum_exp_rest)
    # Without a softmax it is the maximum itself: -inf if all logits are -inf, +inf if one of them is.
    row_lse = where(sum_exp_rest == sum_exp_rest, row_max + log_sum, row_max)
    row_entropy = log_sum + entropy_sum / (sum_exp_rest + 1.0)
    store_n(row(log_prob, start), 0, n, where(valid, (at_label - row_max) - log_sum, 0.0))
    store_n(row(lse, start), 0, n, where(valid, row_lse, 0.0))
    store_n(row(entropy, start), 0, n, where(valid, row_entropy, 0.0))


# --- few classes: a sample in each lane --------------------------------------


@inline
def _tile_entropy_sum(tile, exps, classes, row_max):
    """Return the sum of exp(x - m) (m - x), added in two partial sums."""
    a = b = full_like(tile, 0.0)
    for c in range(classes):
        e = load(exps, c * lanes(tile))
        gap = where(e > 0.0, row_max - load(tile, c * lanes(tile)), 0.0)  # 0 * inf counts as 0
        a, b = b, fma(e, gap, a)
    return a + b


@inline
def _tile_order(tile, classes, row_max, at_label, labels):
    """Return (first class at the maximum, rank of the label)."""
    top_class = label_rank = full_like(labels, 0)
    for c in range(classes - 1, -1, -1):
        x = load(tile, c * lanes(tile))
        top_class = where(x == row_max, c, top_class)
        precedes = (x > at_label) | ((x == at_label) & (labels > c))
        label_rank = where(precedes, label_rank + 1, label_rank)
    return top_class, label_rank


@inline
def _tile_first_nan(tile, classes, labels):
    """Return the first class that is NaN, or -1."""
    first_nan = full_like(labels, -1)
    for c in range(classes - 1, -1, -1):
        x = load(tile, c * lanes(tile))
        first_nan = where(x != x, c, first_nan)
    return first_nan


@kernel
def score_tiles(x, target, ignore_index, log_prob, lse, entropy, argmax, rank):
    """``x`` is (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.load_tile(x, start, n, tile)
        labels = labels_at(target, start, n, ignore_index, classes, x)
        valid = labels >= 0
        at_label = gather(tile, where(valid, labels, 0) * width + lane_index(x))
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        top_class, label_rank = _tile_order(tile, classes, row_max, at_label, labels)
        if any_lane(sum_exp_rest != sum_exp_rest):
            first_nan = _tile_first_nan(tile, classes, labels)
            has_nan = first_nan >= 0
            top_class = where(has_nan, first_nan, top_class)
            label_rank = where(has_nan, classes, label_rank)
            row_max = where(has_nan, np.nan, row_max)
        stats = row_max, sum_exp_rest, _tile_entropy_sum(tile, exps, classes, row_max)
        _write(start, n, valid, stats, at_label, log_prob, lse, entropy)
        store_n(row(argmax, start), 0, n, where(valid, top_class, -1))
        store_n(row(rank, start), 0, n, where(valid, label_rank, -1))


# --- short rows: several at a time -------------------------------------------


@inline
def _partials(p, exps, classes, row_max, label):
    """Return values for a row: their lanes' sum is the entropy_sum, minus their maximum the argmax, their sum the rank.

    Class numbers are floats here. For short rows that is exact.
    """
    width = lanes(p)
    at_label = full_like(p, load_one(p, label))
    number = to_float(narrow_labels(lane_index(p), p))
    a = b = rank = full_like(p, 0.0)
    negative_argmax = full_like(p, -np.inf)
    for j in range(0, classes, width):
        x = load_n(p, j, classes - j, np.nan)
        e = load(exps, j)
        a, b = b, fma(e, where(e > 0.0, row_max - x, 0.0), a)  # 0 * inf counts as 0
        negative_argmax = maximum(where(x == row_max, -number, -np.inf), negative_argmax)
        precedes = (x > at_label) | ((x == at_label) & (number < label))
        rank = rank + where(precedes, full_like(p, 1.0), 0.0)
        number = number + width
    return a + b, negative_argmax, rank


@kernel
def score_short_rows(x, target, ignore_index, log_prob, lse, entropy, argmax, rank):
    """``x`` is (N, C) with contiguous rows of at most `EXP_VALUES` classes, so that a lane is left for each row."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        exps, maxima, labels = scratch(x, EXP_VALUES), scratch(x, 1), scratch(lane_index(x), 1)
        entropy_sums, negative_argmaxes, ranks = scratch(x, 16), scratch(x, 16), scratch(x, 16)
        store(labels, 0, labels_at(target, start, n, ignore_index, classes, x))
        row_max, sum_exp_rest, _ = short_rows.stats(x, start, n, exps, None, labels, None, None)
        store(maxima, 0, row_max)
        at_label = valid = full_like(x, 0.0)
        for r in range(n):
            label = load_one(labels, r)
            if label >= 0:
                p = row(x, start + r)
                row_exps, one_max = offset(exps, r * short_rows.exp_step(x)), full_like(x, load_one(maxima, r))
                one_sum, one_negative_argmax, one_rank = _partials(p, row_exps, classes, one_max, label)
                store(entropy_sums, r * width, one_sum)
                store(negative_argmaxes, r * width, one_negative_argmax)
                store(ranks, r * width, one_rank)
                at_label = set_lane(at_label, r, load_one(p, label))
                valid = set_lane(valid, r, 1.0)
        top_class, label_rank = -max_rows(negative_argmaxes), sum_rows(ranks)
        for r in range(n):
            if get_lane(valid, r) and math.isnan(get_lane(sum_exp_rest, r)):
                first_nan = first_nan_of(row(x, start + r), classes)
                if first_nan >= 0:
                    row_max = set_lane(row_max, r, np.nan)
                    top_class = set_lane(top_class, r, first_nan)
                    label_rank = set_lane(label_rank, r, classes)
        stats = row_max, sum_exp_rest, sum_rows(entropy_sums)
        _write(start, n, valid != 0.0, stats, at_label, log_prob, lse, entropy)
        _write_integers(start, n, valid, top_class, argmax)
        _write_integers(start, n, valid, label_rank, rank)


@inline
def _write_integers(start, n, valid, values, out):
    """Write ``n`` lanes as integers, -1 where ``valid`` is 0."""
    lane = scratch(values, 1)
    store(lane, 0, where(valid != 0.0, values, -1.0))
    for r in range(n):
        out[start + r] = int(load_one(lane, r))


# --- long rows: one after the other ------------------------------------------


@kernel
def score_rows(x, target, ignore_index, log_prob, lse, entropy, argmax, rank):
    """``x`` is (N, C) with contiguous rows; a block has as many rows as in `short_rows`."""
    count, classes = x.shape
    per_block = short_rows.rows_a_block(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = smaller(per_block, count - start)
        row_max = sum_exp_rest = entropy_sum = at_label = valid = full_like(x, 0.0)
        for r in range(n):
            label = label_at(target, start + r, ignore_index, classes)
            if label < 0:
                argmax[start + r] = rank[start + r] = -1
            else:
                p = row(x, start + r)
                stats = row_stats(p, classes, label)
                row_max = set_lane(row_max, r, stats.row_max)
                sum_exp_rest = set_lane(sum_exp_rest, r, stats.sum_exp_rest)
                entropy_sum = set_lane(entropy_sum, r, stats.entropy_sum)
                at_label = set_lane(at_label, r, load_one(p, label))
                valid = set_lane(valid, r, 1.0)
                argmax[start + r] = stats.argmax
                rank[start + r] = stats.rank
        _write(start, n, valid != 0.0, (row_max, sum_exp_rest, entropy_sum), at_label, log_prob, lse, entropy)
