"""Statistics of one long row for scoring, in one pass over memory; see ``score`` for the formulas."""

import math
from typing import NamedTuple

import numpy as np

from fastce.kernels.codegen.jit import block, inline
from fastce.kernels.rows.long_rows import PLAIN_SUM, max_of, shift_of
from fastce.kernels.simd.integer import larger, smaller
from fastce.kernels.simd.memory import load, load_n, load_one
from fastce.kernels.simd.vecmath import exp, exp_one, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    any_lane,
    count_true,
    fma,
    full_like,
    lanes,
    maximum,
    reduce_add,
    reduce_max,
)

LOWEST = -1000.0  # replaces lower x - m: exp is 0 here too, and 0 times this is 0, but 0 times -inf is NaN


class RowStats(NamedTuple):
    """The statistics of a row and its label."""

    row_max: float  # NaN if a class is
    sum_exp_rest: float
    entropy_sum: float
    argmax: int
    rank: int


@inline
def _add(x, shift, sums):
    """Add classes to ``sums``, (sum of exp(d), sum of d exp(d), count), over those where d = x - shift is not 0."""
    sum_exp, sum_d_exp, count = sums
    d = maximum(LOWEST, x - shift)  # in this order NaN stays
    e = exp(d)
    below = d != 0.0  # true for NaN, which has to reach the sum
    return add_where(sum_exp, below, e), fma(e, d, sum_d_exp), count + count_true(below)


@block
def _sums(p, start, stop, shift):
    """Return (sum of exp(x - shift) below the shift, entropy_sum, classes at the shift) of ``p[start:stop]``."""
    width = lanes(p)
    a = b = d_exp_a = d_exp_b = full_like(p, 0.0)
    below = 0
    j = start
    while j + 2 * width <= stop:
        a, d_exp_a, below = _add(load(p, j), shift, (a, d_exp_a, below))
        b, d_exp_b, below = _add(load(p, j + width), shift, (b, d_exp_b, below))
        j += 2 * width
    while j < stop:
        a, d_exp_a, below = _add(load_n(p, j, stop - j, -np.inf), shift, (a, d_exp_a, below))
        j += width
    return reduce_add(a + b), -reduce_add(d_exp_a + d_exp_b), j - start - below


@block
def _sums_and_next_max(p, start, shift):
    """Return `_sums` of one block and the maximum of the next block.

    The next block arrives from memory while the core computes the exponentials of this one.
    """
    width = lanes(p)
    size = PLAIN_SUM * width
    a = b = d_exp_a = d_exp_b = full_like(p, 0.0)
    below = 0
    max_a = max_b = full_like(p, -np.inf)
    for j in range(start, start + size, 2 * width):
        a, d_exp_a, below = _add(load(p, j), shift, (a, d_exp_a, below))
        max_a = maximum(load(p, j + size), max_a)
        b, d_exp_b, below = _add(load(p, j + width), shift, (b, d_exp_b, below))
        max_b = maximum(load(p, j + width + size), max_b)
    entropy_sum = -reduce_add(d_exp_a + d_exp_b)
    return reduce_add(a + b), entropy_sum, size - below, reduce_max(maximum(max_a, max_b))


@inline
def _is_greater(x, bound):
    return x > bound


@inline
def _is_at_least(x, bound):
    return x >= bound


@inline
def _count(p, start, stop, compare, bound):
    """Return the number of classes in ``p[start:stop]`` for which ``compare(x, bound)`` is true.

    It is inline: a block that takes a function holds its address, and Numba does not keep such a kernel on disk.
    """
    width = lanes(p)
    count = 0
    j = start
    while j + width <= stop:
        count += count_true(compare(load(p, j), bound))
        j += width
    if j < stop:
        count += count_true(compare(load_n(p, j, stop - j, np.nan), bound))
    return count


@block
def _count_greater(p, start, stop, bound):
    return _count(p, start, stop, _is_greater, bound)


@block
def _count_at_least(p, start, stop, bound):
    return _count(p, start, stop, _is_at_least, bound)


@block
def _stats(p, classes, label):
    """Return `RowStats` of a row, with the first class of the block of the maximum in place of the argmax.

    ``sum_exp_rest`` is NaN if a class is NaN or the maximum is not finite. Memory is read once: the maximum is
    computed one block ahead, and when it grows, the sums are rescaled.
    """
    size = PLAIN_SUM * lanes(p)
    at_label = full_like(p, load_one(p, label))
    row_max = max_of(p, 0, smaller(size, classes), None)
    sum_exp_rest = entropy_sum = comp = entropy_comp = 0.0
    max_block = rank = num_at_max = 0
    for start in range(0, classes, size):
        stop = smaller(start + size, classes)
        shift = shift_of(p, row_max)
        if stop + size <= classes:
            part, part_entropy_sum, part_num_at_max, next_max = _sums_and_next_max(p, start, shift)
        else:
            part, part_entropy_sum, part_num_at_max = _sums(p, start, stop, shift)
            next_max = max_of(p, stop, smaller(stop + size, classes), None)
        split = smaller(larger(label, start), stop)  # of the classes with the label's logit, those before it precede it
        rank += _count_at_least(p, start, split, at_label) + _count_greater(p, split, stop, at_label)
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(part))
        comp += err
        entropy_sum, err = two_sum(entropy_sum, np.float64(part_entropy_sum))
        entropy_comp += err
        num_at_max += part_num_at_max
        if next_max > row_max:
            step = np.float64(row_max) - np.float64(next_max)
            sum_exp_rest, entropy_sum = _rescale(sum_exp_rest + comp + num_at_max, entropy_sum + entropy_comp, step)
            comp = entropy_comp = 0.0
            num_at_max, row_max, max_block = 0, next_max, stop
    sum_exp_rest = sum_exp_rest + comp + (num_at_max - 1 if num_at_max else np.nan)
    return RowStats(np.float64(row_max), sum_exp_rest, entropy_sum + entropy_comp, max_block, rank)


@inline
def _rescale(sum_exp, entropy_sum, step):
    """Return both sums for a maximum that is higher by ``-step``."""
    if step < LOWEST:  # sum_exp * step could be infinite
        return sum_exp * 0.0, 0.0  # NaN stays
    factor = exp_one(step)
    return sum_exp * factor, (entropy_sum - step * sum_exp) * factor


@block
def first_nan_of(p, classes):
    """Return the first class that is NaN, or -1."""
    for c in range(classes):
        if math.isnan(load_one(p, c)):
            return c
    return -1


@block
def _first_equal(p, start, classes, value):
    """Return the first class from ``start`` on with this logit, or -1."""
    width = lanes(p)
    for j in range(start, classes, width):
        if any_lane(load_n(p, j, classes - j, np.nan) == value):
            for k in range(j, smaller(j + width, classes)):
                if load_one(p, k) == value:
                    return k
    return -1


@block
def row_stats(p, classes, label):
    """Return `RowStats` of a row and its label."""
    row_max, sum_exp_rest, entropy_sum, max_block, rank = _stats(p, classes, label)
    if math.isnan(sum_exp_rest):
        first_nan = first_nan_of(p, classes)
        if first_nan >= 0:
            return RowStats(np.nan, sum_exp_rest, entropy_sum, first_nan, classes)
    return RowStats(row_max, sum_exp_rest, entropy_sum, _first_equal(p, max_block, classes, row_max), rank)
