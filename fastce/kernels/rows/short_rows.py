"""Building blocks on as many contiguous rows of classes as a value has lanes, each short enough for the cache.

What a row costs beside its exponentials is paid for all of them at once: each row leaves one
value of partial results, and a tree of shuffles reduces all values together, a lane a row.
The maximum is known before the exponentials, which are computed once: they wait in scratch
memory, in the first-level cache, for the factor that turns them into the result.
"""

import numpy as np

from fastce.kernels.codegen.jit import block, inline
from fastce.kernels.formulas import target_times_gap
from fastce.kernels.rows import long_rows
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

VALUES = 64  # a row: values whose exponentials are added in the logits' precision
FEW = 2 * long_rows.TERMS  # a row: values of products that are added in two sums
KEPT = 256  # values of exponentials that wait: 16 KB


@inline
def together(x):
    """Return how many rows go together: at most a lane each, and more than one only if all exponentials can be kept."""
    return max(min(KEPT // -(-x.shape[1] // lanes(x)), lanes(x)), 1)


@inline
def stride(x):
    """Return how many elements it is from row to row of the kept exponentials."""
    return -(-x.shape[1] // lanes(x)) * lanes(x)


@inline
def _greatest(p, classes):
    """Return a value whose greatest lane is the row's maximum; NaN is passed over."""
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
def _add(x, shift, q, j, sum_exp_rest, count):
    """Where x is below the shift, add exp(x - shift) to ``sum_exp_rest`` and 1 to ``count``.

    The exponentials are left in ``q`` unless that is None.
    """
    d = x - shift
    e = exp(d)
    if q is not None:
        store(q, j, e)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, e), count + count_true(below)


@inline
def _exponentials(p, q, goal, classes, shift, ahead):
    """Return (a value whose lanes add up to rest, classes at the maximum).

    The exponentials are left in ``q``, in whole values, and ``goal`` is made ready to be
    written to, unless those are None.
    """
    width = lanes(p)
    total, below = full_like(p, 0.0), 0
    whole = classes // width * width
    for start in range(0, whole, long_rows.TERMS * width):
        sum_exp_rest = full_like(p, 0.0)
        for j in range(start, min(start + long_rows.TERMS * width, whole), width):
            prefetch_read(p, j + ahead)
            if goal is not None:
                prefetch_write(goal, j)
            sum_exp_rest, below = _add(load(p, j), shift, q, j, sum_exp_rest, below)
        total = total + sum_exp_rest
    if whole < classes:
        total, below = _add(load_n(p, whole, classes - whole, -np.inf), shift, q, whole, total, below)
    return total, -(-classes // width) * width - below


@block
def _sums(x, start, n, shifts, keep, goal, labels, square, counts):
    """Write ``_exponentials`` of ``n`` rows to ``square`` and ``counts``; the others as in ``stats``.

    Among all that a driver holds, exp's constants would have no registers, and be loaded for every value.
    """
    width = lanes(x)
    ahead = n * step_of(x, 0)
    if start + 2 * n > x.shape[0]:  # behind the last row another thread may be writing
        ahead = 0
    for r in range(n):
        if labels is None or load_one(labels, r) >= 0:
            p, q, goal_row = row(x, start + r), offset(keep, r * stride(x)), row(goal, start + r)
            shift = full_like(x, load_one(shifts, r))
            sum_exp_rest, num_at_max = _exponentials(p, q, goal_row, x.shape[1], shift, ahead)
            store(square, r * width, sum_exp_rest)
            store_one(counts, r, num_at_max)


@inline
def _gaps(p, shift, classes, class_weight):
    """Return a value whose lanes add up to the sum of w (shift - x)."""
    width = lanes(p)
    a = b = full_like(p, 0.0)
    for j in range(0, classes, 2 * width):
        a = a + _gap(p, j, shift, classes, class_weight)
        if j + width < classes:
            b = b + _gap(p, j + width, shift, classes, class_weight)
    return a + b


@inline
def _gap(p, j, shift, classes, class_weight):
    gap = shift - load_n(p, j, classes - j, 0.0)
    if class_weight is not None:
        gap = gap * load_n(row(class_weight, j), 0, classes - j, 0.0)
    return where(first_lanes(p, classes - j), gap, 0.0)


@inline
def stats(x, start, n, keep, goal, labels, class_weight, smoothing):
    """Return (maximum, rest, sum of w (maximum - x)) of ``n`` rows, a lane each: see ``long_rows.stats``.

    The exponentials are left in ``keep``, ``stride`` apart, and the rows of ``goal`` are made
    ready to be written to, unless those are None. Rows whose label is below 0 are passed over;
    ``labels`` may be None. The last sum is 0 where ``smoothing`` is None.
    """
    width = lanes(x)
    classes = x.shape[1]
    square, shifts, counts = scratch(x, 16), scratch(x, 1), scratch(x, 1)
    for r in range(n):
        if labels is None or load_one(labels, r) >= 0:
            store(square, r * width, _greatest(row(x, start + r), classes))
    row_max = max_rows(square)
    store(shifts, 0, where(row_max > -np.inf, row_max, 0.0))
    below_max = full_like(x, 0.0)
    if smoothing is not None:
        for r in range(n):
            if labels is None or load_one(labels, r) >= 0:
                shift = full_like(x, load_one(shifts, r))
                store(square, r * width, _gaps(row(x, start + r), shift, classes, class_weight))
        below_max = sum_rows(square)
    _sums(x, start, n, shifts, keep, goal, labels, square, counts)
    sum_exp_rest = sum_rows(square)
    num_at_max = load(counts, 0)
    # without a maximum: -inf, or NaN where a NaN is in the sum
    row_max = where(row_max > -np.inf, row_max, row_max + sum_exp_rest)
    return row_max, where(num_at_max > 0.0, sum_exp_rest + (num_at_max - 1.0), np.nan), below_max


@inline
def soft_sums(x, target, start, n, class_weight, row_max, smoothing):
    """Return the sums of t and of t (top - x) of ``n`` rows, a lane each, after smoothing and weights."""
    width = lanes(x)
    classes = x.shape[1]
    target_sums, dots, maxima = scratch(x, 1), scratch(x, 1), scratch(x, 1)
    store(maxima, 0, row_max)
    for r in range(n):
        p, t = row(x, start + r), row(target, start + r)
        one_max = full_like(x, load_one(maxima, r))
        target_sum = comp = dot = widen(full_like(x, 0.0))
        for j in range(0, classes, width):
            target_prob = long_rows.target_probs_of(t, j, classes - j, class_weight, smoothing)
            gap = one_max - load_n(p, j, classes - j, 0.0)
            target_sum, err = two_sum(target_sum, widen(target_prob))  # the gradient is a difference of it
            comp = comp + err
            dot = dot + widen(target_times_gap(target_prob, gap))
        store_one(target_sums, r, reduce_add(target_sum + comp))
        store_one(dots, r, reduce_add(dot))
    return load(target_sums, 0), load(dots, 0)


@inline
def dot(p, g, classes):
    """Return the sum of p g over at most `FEW` values of classes, of g where ``p`` is None."""
    width = lanes(g)
    whole = classes // width * width
    a = b = full_like(g, 0.0)
    for j in range(0, whole - width, 2 * width):
        a = long_rows.add_product(p, g, j, width, a)
        b = long_rows.add_product(p, g, j + width, width, b)
    if whole // width % 2:
        a = long_rows.add_product(p, g, whole - width, width, a)
    if whole < classes:
        b = long_rows.add_product(p, g, whole, classes - whole, b)
    return reduce_add(a + b)


@inline
def gradient(j, n, e, factor, class_weight, smoothing_term):
    """Return exponentials times ``factor``, less w * minus unless that is None."""
    value = load_n(e, j, n, 0.0) * factor
    if smoothing_term is not None:
        value = value - long_rows.smoothing_term_of(class_weight, j, n, smoothing_term, value)
    return value
