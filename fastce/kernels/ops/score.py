"""Drivers of scoring: what is asked of each sample of an evaluation, in one pass over the logits.

For sample i with label y, p = softmax(x_i), m the maximum and rest the sum of exp(x - m) over
all classes but one greatest:

    log_prob_i = (x_y - m) - log1p(rest)
    lse_i      = m + log1p(rest)
    entropy_i  = log1p(rest) + (sum_j exp(x_j - m) (m - x_j)) / (1 + rest)
    argmax_i   = the first class whose logit is m
    rank_i     = classes with a greater logit than y's, or with the same and before y

A row with NaN has NaN for the first three, the first NaN as argmax and the number of classes
as rank. A label equal to ``ignore_index`` gives 0, and -1 for argmax and rank, whatever the
logits, as does one that another thread puts out of range after the check.
"""

import math

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import block, inline, kernel
from fastce.kernels.rows import short_rows, tiles
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.rows.samples import label_at, labels_at
from fastce.kernels.rows.short_rows import EXP_VALUES
from fastce.kernels.rows.tiles import MAX_CLASSES
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
from fastce.kernels.simd.vecmath import exp, exp_one, log1p, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    any_lane,
    count_true,
    fma,
    full_like,
    get_lane,
    lane_index,
    lanes,
    maximum,
    reduce_add,
    reduce_max,
    set_lane,
    to_float,
    where,
)

LOWEST = -1000.0  # exp is 0 from here down, and 0 times this is 0, as it is not of -inf


@inline
def _write(start, n, valid, row_max, sum_exp_rest, at_label, gaps, log_prob, lse, entropy):
    """Write the results that are not integers; ``gaps`` is the sum of exp(x - m) (m - x)."""
    log_sum = log1p(sum_exp_rest)
    # without a softmax the maximum itself: nothing but -inf gives -inf, +inf gives +inf
    of_sum = where(sum_exp_rest == sum_exp_rest, row_max + log_sum, row_max)
    entropy_of_row = log_sum + gaps / (sum_exp_rest + 1.0)
    store_n(row(log_prob, start), 0, n, where(valid, (at_label - row_max) - log_sum, 0.0))
    store_n(row(lse, start), 0, n, where(valid, of_sum, 0.0))
    store_n(row(entropy, start), 0, n, where(valid, entropy_of_row, 0.0))


# --- few classes: a sample in every lane -------------------------------------


@inline
def _tile_gaps(tile, exps, classes, row_max):
    """Return the sum of exp(x - top) (top - x), in two sums as ``tiles.stats``."""
    a = b = full_like(tile, 0.0)
    for c in range(classes):
        e = load(exps, c * lanes(tile))
        gap = where(e > 0.0, row_max - load(tile, c * lanes(tile)), 0.0)  # 0 x inf is 0 here
        a, b = b, fma(e, gap, a)
    return a + b


@inline
def _tile_order(tile, classes, row_max, at_label, labels):
    """Return (first class at the maximum, classes before the label's)."""
    first = rank = full_like(labels, 0)
    for c in range(classes - 1, -1, -1):
        x = load(tile, c * lanes(tile))
        first = where(x == row_max, c, first)
        ahead = (x > at_label) | ((x == at_label) & (labels > c))
        rank = where(ahead, rank + 1, rank)
    return first, rank


@inline
def _tile_first_nan(tile, classes, labels):
    """Return the first class that is NaN, -1 where there is none."""
    first = full_like(labels, -1)
    for c in range(classes - 1, -1, -1):
        x = load(tile, c * lanes(tile))
        first = where(x != x, c, first)
    return first


@kernel
def score_tiles(x, target, ignore_index, log_prob, lse, entropy, argmax, rank):
    """``x`` is (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.load_tile(x, start, n, tile)
        labels = labels_at(target, start, n, ignore_index, classes, x)
        valid = labels >= 0
        at_label = gather(tile, where(valid, labels, 0) * width + lane_index(x))
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        first, ahead = _tile_order(tile, classes, row_max, at_label, labels)
        if any_lane(sum_exp_rest != sum_exp_rest):
            first_nan = _tile_first_nan(tile, classes, labels)
            odd = first_nan >= 0
            first = where(odd, first_nan, first)
            ahead = where(odd, classes, ahead)
            row_max = where(odd, np.nan, row_max)
        gaps = _tile_gaps(tile, exps, classes, row_max)
        _write(start, n, valid, row_max, sum_exp_rest, at_label, gaps, log_prob, lse, entropy)
        store_n(row(argmax, start), 0, n, where(valid, first, -1))
        store_n(row(rank, start), 0, n, where(valid, ahead, -1))


# --- more classes: rows together ---------------------------------------------


@inline
def _order(p, exps, classes, row_max, label):
    """Return values whose lanes add up to gaps, reach minus the argmax at most, and add up to the rank.

    Class numbers are floats here, which hold those of short rows exactly.
    """
    width = lanes(p)
    bound = full_like(p, load_one(p, label))
    number = to_float(narrow_labels(lane_index(p), p))
    a = b = rank = full_like(p, 0.0)
    first = full_like(p, -np.inf)
    for j in range(0, classes, width):
        x = load_n(p, j, classes - j, np.nan)
        e = load(exps, j)
        a, b = b, fma(e, where(e > 0.0, row_max - x, 0.0), a)  # 0 x inf is 0 here
        first = maximum(where(x == row_max, -number, -np.inf), first)
        ahead = (x > bound) | ((x == bound) & (number < label))
        rank = rank + where(ahead, full_like(p, 1.0), 0.0)
        number = number + width
    return a + b, first, rank


@kernel
def score_short_rows(x, target, ignore_index, log_prob, lse, entropy, argmax, rank):
    """``x`` is (N, C) with contiguous rows of at most `EXP_VALUES` classes, so that every lane has one."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        exps, maxima, labels = scratch(x, EXP_VALUES), scratch(x, 1), scratch(lane_index(x), 1)
        gaps, firsts, ranks = scratch(x, 16), scratch(x, 16), scratch(x, 16)
        store(labels, 0, labels_at(target, start, n, ignore_index, classes, x))
        row_max, sum_exp_rest, _ = short_rows.stats(x, start, n, exps, None, labels, None, None)
        store(maxima, 0, row_max)
        at_label = valid = full_like(x, 0.0)
        for r in range(n):
            label = load_one(labels, r)
            if label >= 0:
                p = row(x, start + r)
                row_exps, one_max = offset(exps, r * short_rows.exp_step(x)), full_like(x, load_one(maxima, r))
                gap, first, ahead = _order(p, row_exps, classes, one_max, label)
                store(gaps, r * width, gap)
                store(firsts, r * width, first)
                store(ranks, r * width, ahead)
                at_label = set_lane(at_label, r, load_one(p, label))
                valid = set_lane(valid, r, 1.0)
        first, ahead = -max_rows(firsts), sum_rows(ranks)
        for r in range(n):
            if get_lane(valid, r) and math.isnan(get_lane(sum_exp_rest, r)):
                first_nan = _first_nan(row(x, start + r), classes)
                if first_nan >= 0:
                    row_max = set_lane(row_max, r, np.nan)
                    first = set_lane(first, r, first_nan)
                    ahead = set_lane(ahead, r, classes)
        _write(start, n, valid != 0.0, row_max, sum_exp_rest, at_label, sum_rows(gaps), log_prob, lse, entropy)
        _write_integers(start, n, valid, first, argmax)
        _write_integers(start, n, valid, ahead, rank)


@inline
def _write_integers(start, n, valid, values, out):
    """Write ``n`` lanes as integers, -1 where ``valid`` is 0."""
    lane = scratch(values, 1)
    store(lane, 0, where(valid != 0.0, values, -1.0))
    for r in range(n):
        out[start + r] = int(load_one(lane, r))


# --- one row after the other -------------------------------------------------


@block
def _max(p, start, stop):
    """Return the greatest of ``p[start:stop]``; NaN is passed over."""
    width = lanes(p)
    a = b = full_like(p, -np.inf)
    j = start
    while j + 2 * width <= stop:
        a = maximum(load(p, j), a)
        b = maximum(load(p, j + width), b)
        j += 2 * width
    while j < stop:
        a = maximum(load_n(p, j, stop - j, -np.inf), a)
        j += width
    return reduce_max(maximum(a, b))


@inline
def _add(x, shift, sums):
    """Add exp(d) and d exp(d) to the sums, and 1 to the count where d = x - shift is not 0."""
    sum_exp_rest, gaps, count = sums
    d = maximum(LOWEST, x - shift)  # in this order NaN passes
    e = exp(d)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, e), fma(e, d, gaps), count + count_true(below)


@block
def _sums(p, start, stop, shift):
    """Return (rest, gaps, ones) of ``p[start:stop]``: see ``_stats``."""
    width = lanes(p)
    a = b = gaps_a = gaps_b = full_like(p, 0.0)
    below = 0
    j = start
    while j + 2 * width <= stop:
        a, gaps_a, below = _add(load(p, j), shift, (a, gaps_a, below))
        b, gaps_b, below = _add(load(p, j + width), shift, (b, gaps_b, below))
        j += 2 * width
    while j < stop:
        a, gaps_a, below = _add(load_n(p, j, stop - j, -np.inf), shift, (a, gaps_a, below))
        j += width
    return reduce_add(a + b), -reduce_add(gaps_a + gaps_b), j - start - below


@block
def _sums_and_next_max(p, start, shift):
    """Return (rest, gaps, ones) of one block and the maximum of the block behind it.

    The next block comes from memory while this one's exponentials keep the core busy.
    """
    width = lanes(p)
    size = PLAIN_SUM * width
    a = b = gaps_a = gaps_b = full_like(p, 0.0)
    below = 0
    top_a = top_b = full_like(p, -np.inf)
    for j in range(start, start + size, 2 * width):
        a, gaps_a, below = _add(load(p, j), shift, (a, gaps_a, below))
        top_a = maximum(load(p, j + size), top_a)
        b, gaps_b, below = _add(load(p, j + width), shift, (b, gaps_b, below))
        top_b = maximum(load(p, j + width + size), top_b)
    gaps = -reduce_add(gaps_a + gaps_b)
    return reduce_add(a + b), gaps, size - below, reduce_max(maximum(top_a, top_b))


@block
def _count_greater(p, start, stop, bound):
    """Count the classes of ``p[start:stop]`` above the bound."""
    width = lanes(p)
    count = 0
    j = start
    while j + width <= stop:
        count += count_true(load(p, j) > bound)
        j += width
    if j < stop:
        count += count_true(load_n(p, j, stop - j, np.nan) > bound)
    return count


@block
def _count_at_least(p, start, stop, bound):
    """Count the classes of ``p[start:stop]`` at or above the bound."""
    width = lanes(p)
    count = 0
    j = start
    while j + width <= stop:
        count += count_true(load(p, j) >= bound)
        j += width
    if j < stop:
        count += count_true(load_n(p, j, stop - j, np.nan) >= bound)
    return count


@block
def _stats(p, classes, label):
    """Return (maximum, rest, gaps, a class, rank): the maximum is first met in the block from that class on.

    ``sum_exp_rest`` sums e = exp(x - maximum) over all but one greatest class, NaN without a finite
    maximum and with NaN anywhere; ``gaps`` sums e (maximum - x). Memory is read once: the
    maximum looks one block ahead, and when it grows, the sums are rescaled.
    """
    size = PLAIN_SUM * lanes(p)
    bound = full_like(p, load_one(p, label))
    row_max = _max(p, 0, min(size, classes))
    sum_exp_rest = gaps = comp = gaps_comp = 0.0
    place = rank = num_at_max = 0
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        shift = full_like(p, row_max if row_max > -np.inf else 0.0)
        if stop + size <= classes:
            part, part_gaps, part_num_at_max, next_max = _sums_and_next_max(p, start, shift)
        else:
            part, part_gaps, part_num_at_max = _sums(p, start, stop, shift)
            next_max = _max(p, stop, min(stop + size, classes))
        label_or_end = min(max(label, start), stop)
        rank += _count_at_least(p, start, label_or_end, bound) + _count_greater(p, label_or_end, stop, bound)
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(part))
        comp += err
        gaps, err = two_sum(gaps, np.float64(part_gaps))
        gaps_comp += err
        num_at_max += part_num_at_max
        if next_max > row_max:
            sum_exp_rest, gaps = _rescale(
                sum_exp_rest + comp + num_at_max, gaps + gaps_comp, np.float64(row_max) - np.float64(next_max)
            )
            comp = gaps_comp = 0.0
            num_at_max, row_max, place = 0, next_max, stop
    return (
        np.float64(row_max),
        sum_exp_rest + comp + (num_at_max - 1 if num_at_max else np.nan),
        gaps + gaps_comp,
        place,
        rank,
    )


@inline
def _rescale(total, gaps, step):
    """Move the sum of exponentials and ``gaps`` to a maximum higher by ``-step``."""
    if step < LOWEST:  # the product with it may be infinite
        return total * 0.0, 0.0  # NaN stays
    fade = exp_one(step)
    return total * fade, (gaps - step * total) * fade


@block
def _first_nan(p, classes):
    """Return the first class that is NaN, -1 if there is none."""
    for c in range(classes):
        if math.isnan(load_one(p, c)):
            return c
    return -1


@block
def _first_equal(p, start, classes, value):
    """Return the first class from ``start`` on with this logit, -1 if there is none."""
    width = lanes(p)
    for j in range(start, classes, width):
        if any_lane(load_n(p, j, classes - j, np.nan) == value):
            for k in range(j, min(j + width, classes)):
                if load_one(p, k) == value:
                    return k
    return -1


@block
def _row(p, classes, label):
    """Return (maximum, rest, gaps, argmax, rank) of a row; the maximum is NaN where a class is."""
    row_max, sum_exp_rest, gaps, place, rank = _stats(p, classes, label)
    if math.isnan(sum_exp_rest):
        first_nan = _first_nan(p, classes)
        if first_nan >= 0:
            return np.nan, sum_exp_rest, gaps, first_nan, classes
    return row_max, sum_exp_rest, gaps, _first_equal(p, place, classes, row_max), rank


@kernel
def score_rows(x, target, ignore_index, log_prob, lse, entropy, argmax, rank):
    """``x`` is (N, C) with contiguous rows, as many together as in ``short_rows``."""
    count, classes = x.shape
    per_block = short_rows.rows_a_block(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        row_max = sum_exp_rest = gaps = at_label = valid = full_like(x, 0.0)
        for r in range(n):
            label = label_at(target, start + r, ignore_index, classes)
            if label < 0:
                argmax[start + r] = rank[start + r] = -1
            else:
                p = row(x, start + r)
                one_max, one_rest, row_gaps, row_argmax, row_rank = _row(p, classes, label)
                row_max = set_lane(row_max, r, one_max)
                sum_exp_rest = set_lane(sum_exp_rest, r, one_rest)
                gaps = set_lane(gaps, r, row_gaps)
                at_label = set_lane(at_label, r, load_one(p, label))
                valid = set_lane(valid, r, 1.0)
                argmax[start + r] = row_argmax
                rank[start + r] = row_rank
        _write(start, n, valid != 0.0, row_max, sum_exp_rest, at_label, gaps, log_prob, lse, entropy)
