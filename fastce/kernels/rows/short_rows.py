"""Building blocks on up to as many contiguous rows as a value has lanes, each short enough for the cache.

The cost of a row beside its exponentials is shared by all rows: each row gives one value of partial results, and a
tree of shuffles reduces all these values together, a lane a row. The maximum is known before the exponentials, which
are computed once: scratch memory in the first-level cache holds them until the factor of the result is known.
"""

import numpy as np

from fastce.kernels.codegen.jit import block, inline
from fastce.kernels.formulas import target_term, times_weight
from fastce.kernels.rows.long_rows import TERMS
from fastce.kernels.rows.row_formulas import smoothing_term_of
from fastce.kernels.rows.targets import Targets, of_row
from fastce.kernels.simd.integer import larger, smaller
from fastce.kernels.simd.memory import (
    load,
    load_n,
    load_one,
    offset,
    prefetch_read,
    prefetch_write,
    row,
    scratch,
    step_of,
    store,
    store_one,
)
from fastce.kernels.simd.transpose import max_rows, sum_rows
from fastce.kernels.simd.vecmath import exp, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    count_true,
    first_lanes,
    full_like,
    lanes,
    maximum,
    reduce_add,
    where,
    widen,
)

MAX_VALUES = 64  # of a row, whose exponentials are added in the logits' precision
EXP_VALUES = 256  # values of stored exponentials of all rows of a block: 16 KB


@inline
def rows_a_block(x):
    """Return how many rows make a block: at most a lane each, and more than one only if all exponentials fit."""
    return larger(smaller(EXP_VALUES // -(-x.shape[1] // lanes(x)), lanes(x)), 1)


@inline
def exp_step(x):
    """Return how many elements it is from row to row of the stored exponentials."""
    return -(-x.shape[1] // lanes(x)) * lanes(x)


@inline
def _max_value(p, classes):
    """Return a value whose greatest lane is the row's maximum, ignoring NaN."""
    width = lanes(p)
    whole = classes // width * width
    a = b = full_like(p, -np.inf)
    for j in range(0, whole - width, 2 * width):
        a = maximum(load(p, j), a)
        b = maximum(load(p, j + width), b)
    if whole // width % 2:
        a = maximum(load(p, whole - width), a)
    if whole < classes:
        b = maximum(load_n(p, whole, classes - whole, -np.inf), b)
    return maximum(a, b)


@inline
def _add_exp(x, shift, q, j, sum_exp_rest, count):
    """Where x is not the shift, add exp(x - shift) to ``sum_exp_rest`` and 1 to ``count``.

    The exponentials are stored to ``q``, unless that is None.
    """
    d = x - shift
    e = exp(d)
    if q is not None:
        store(q, j, e)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, e), count + count_true(below)


@inline
def _sum_row(p, q, out, classes, shift, prefetch_distance):
    """Return (a value whose lanes add up to ``sum_exp_rest``, number of classes at the maximum).

    The exponentials are stored to ``q``, in whole values, and ``out`` is prefetched for writing, unless those are None.
    """
    width = lanes(p)
    total, below = full_like(p, 0.0), 0
    whole = classes // width * width
    for start in range(0, whole, TERMS * width):
        sum_exp_rest = full_like(p, 0.0)
        for j in range(start, smaller(start + TERMS * width, whole), width):
            prefetch_read(p, j + prefetch_distance)
            if out is not None:
                prefetch_write(out, j)
            sum_exp_rest, below = _add_exp(load(p, j), shift, q, j, sum_exp_rest, below)
        total = total + sum_exp_rest
    if whole < classes:
        total, below = _add_exp(load_n(p, whole, classes - whole, -np.inf), shift, q, whole, total, below)
    return total, -(-classes // width) * width - below


@block
def _sum_rows(x, start, n, shifts, exps, out, labels, square, counts):
    """Write ``_sum_row`` of ``n`` rows to ``square`` and ``counts``; the other arguments are as in ``stats``.

    This is a block of its own so that the constants of exp have registers: inlined in a kernel, they would be loaded
    for every value.
    """
    width = lanes(x)
    prefetch_distance = n * step_of(x, 0)
    if start + 2 * n > x.shape[0]:  # another thread may be writing past the last row
        prefetch_distance = 0
    for r in range(n):
        if labels is None or load_one(labels, r) >= 0:
            p, q, out_row = row(x, start + r), offset(exps, r * exp_step(x)), row(out, start + r)
            shift = full_like(x, load_one(shifts, r))
            sum_exp_rest, num_at_max = _sum_row(p, q, out_row, x.shape[1], shift, prefetch_distance)
            store(square, r * width, sum_exp_rest)
            store_one(counts, r, num_at_max)


@inline
def _sum_below_max(p, shift, classes, class_weight):
    """Return a value whose lanes add up to the sum of w (shift - x) over the classes."""
    width = lanes(p)
    a = b = full_like(p, 0.0)
    for j in range(0, classes, 2 * width):
        a = a + _below_max(p, j, shift, classes, class_weight)
        if j + width < classes:
            b = b + _below_max(p, j + width, shift, classes, class_weight)
    return a + b


@inline
def _below_max(p, j, shift, classes, class_weight):
    """Return w (shift - x) of one value, 0 in the lanes past the end."""
    below_max = shift - load_n(p, j, classes - j, 0.0)
    if class_weight is not None:
        below_max = times_weight(below_max, load_n(row(class_weight, j), 0, classes - j, 0.0))
    return where(first_lanes(p, classes - j), below_max, 0.0)


@inline
def stats(x, start, n, exps, out, labels, class_weight, smoothing):
    """Return (maximum, sum_exp_rest, sum of w (maximum - x)) of ``n`` rows, a lane each: see ``long_rows.stats``.

    The exponentials are stored to ``exps``, `exp_step` apart, and the rows of ``out`` are prefetched for writing,
    unless those are None. Rows whose label is negative are skipped; ``labels`` may be None. The last sum is 0 where
    ``smoothing`` is None.
    """
    width = lanes(x)
    classes = x.shape[1]
    square, shifts, counts = scratch(x, 16), scratch(x, 1), scratch(x, 1)
    for r in range(n):
        if labels is None or load_one(labels, r) >= 0:
            store(square, r * width, _max_value(row(x, start + r), classes))
    row_max = max_rows(square)
    store(shifts, 0, where(row_max > -np.inf, row_max, 0.0))
    sum_below_max = full_like(x, 0.0)
    if smoothing is not None:
        for r in range(n):
            if labels is None or load_one(labels, r) >= 0:
                shift = full_like(x, load_one(shifts, r))
                store(square, r * width, _sum_below_max(row(x, start + r), shift, classes, class_weight))
        sum_below_max = sum_rows(square)
    _sum_rows(x, start, n, shifts, exps, out, labels, square, counts)
    sum_exp_rest = sum_rows(square)
    num_at_max = load(counts, 0)
    # without a maximum: -inf, or NaN where a NaN is in the sum
    row_max = where(row_max > -np.inf, row_max, row_max + sum_exp_rest)
    return row_max, where(num_at_max > 0.0, sum_exp_rest + (num_at_max - 1.0), np.nan), sum_below_max


@inline
def write_exps(x, start, n, row_max, exps, labels):
    """Write exp(x - maximum) of ``n`` rows to ``exps``, the bits of `stats`, but of rows whose label is negative."""
    shifts = scratch(x, 1)
    store(shifts, 0, where(row_max > -np.inf, row_max, 0.0))
    _exp_rows(x, start, n, shifts, exps, labels)


@block
def _exp_rows(x, start, n, shifts, exps, labels):
    """Write the exponentials of `write_exps`."""
    width, classes = lanes(x), x.shape[1]
    for r in range(n):
        if load_one(labels, r) >= 0:
            p, q, shift = row(x, start + r), offset(exps, r * exp_step(x)), full_like(x, load_one(shifts, r))
            for j in range(0, classes, width):
                store(q, j, exp(load_n(p, j, classes - j, -np.inf) - shift))


@inline
def target_sum_and_dot(x, targets, start, n, row_max):
    """Return the sums of t and of t (maximum - x) of ``n`` rows, a lane each; ``targets`` holds a whole array."""
    width = lanes(x)
    classes = x.shape[1]
    target_sums, dots, maxima = scratch(x, 1), scratch(x, 1), scratch(x, 1)
    store(maxima, 0, row_max)
    for r in range(n):
        p = row(x, start + r)
        row_targets = Targets(row(targets.values, start + r), targets.class_weight, targets.smoothing)
        one_max = full_like(x, load_one(maxima, r))
        target_sum = comp = dot = widen(full_like(x, 0.0))
        for j in range(0, classes, width):
            target_prob = of_row(row_targets, j, classes - j)
            below_max = one_max - load_n(p, j, classes - j, 0.0)
            target_sum, err = two_sum(target_sum, widen(target_prob))  # compensated: the gradient is a difference of it
            comp = comp + err
            dot = dot + widen(target_term(target_prob, below_max))
        store_one(target_sums, r, reduce_add(target_sum + comp))
        store_one(dots, r, reduce_add(dot))
    return load(target_sums, 0), load(dots, 0)


@inline
def gradient(j, n, e, factor, class_weight, smoothing_term):
    """Return the gradient of ``n`` classes from stored exponentials: see ``row_formulas.gradient``."""
    value = load_n(e, j, n, 0.0) * factor
    if smoothing_term is not None:
        value = value - smoothing_term_of(class_weight, j, n, smoothing_term, value)
    return value
