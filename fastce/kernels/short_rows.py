"""Building blocks on as many contiguous rows of classes as a value has lanes, each short enough for the cache.

What a row costs beside its exponentials is paid for all of them at once: each row leaves one
value of partial results, and a tree of shuffles reduces all values together, a lane a row.
The maximum is known before the exponentials, which are computed once: they wait in scratch
memory, in the first-level cache, for the factor that turns them into the result.
"""

import numpy as np

from fastce.kernels import rows
from fastce.kernels.jit import inline
from fastce.kernels.memory import (
    load,
    load_n,
    load_one,
    offset,
    row,
    scratch,
    store,
    store_one,
    will_write,
)
from fastce.kernels.simd import count_true, first_lanes, full, lanes, maximum, reduce_add, where, widen
from fastce.kernels.squares import max_rows, sum_rows
from fastce.kernels.vecmath import exp, two_sum

VALUES = 64  # a row: values whose exponentials are added in the logits' precision, in four sums
KEPT = 256  # values of exponentials that wait: 16 KB


@inline
def stride(x):
    """Return how many elements it is from row to row of the kept exponentials."""
    return -(-x.shape[1] // lanes(x)) * lanes(x)


@inline
def _greatest(p, classes):
    """Return a value whose greatest lane is the row's maximum; NaN is passed over."""
    width = lanes(p)
    a = b = c = d = full(p, -np.inf)
    j = 0
    while j + 4 * width <= classes:
        a = maximum(load(p, j), a)
        b = maximum(load(p, j + width), b)
        c = maximum(load(p, j + 2 * width), c)
        d = maximum(load(p, j + 3 * width), d)
        j += 4 * width
    while j + width <= classes:
        a = maximum(load(p, j), a)
        j += width
    if j < classes:
        b = maximum(load_n(p, j, classes - j, -np.inf), b)
    return maximum(maximum(a, b), maximum(c, d))


@inline
def _exp(x, shift, sums):
    """Return exp(x - shift), and the sum and count of those below 1 with it added.

    Two of one value are not told apart by the exponential but by the logit.
    """
    rest, count = sums
    d = x - shift
    e = exp(d)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return e, (rest + where(below, e, 0.0), count + count_true(below))


@inline
def _exponentials(p, q, goal, classes, shift):
    """Return (a value whose lanes add up to rest, classes at the maximum).

    The exponentials are left in ``q``, in whole values, and ``goal`` is made ready to be
    written to, unless those are None.
    """
    width = lanes(p)
    a = b = c = d = full(p, 0.0)
    below = j = 0
    while j + 4 * width <= classes:
        exp_a, (a, below) = _exp(load(p, j), shift, (a, below))
        exp_b, (b, below) = _exp(load(p, j + width), shift, (b, below))
        exp_c, (c, below) = _exp(load(p, j + 2 * width), shift, (c, below))
        exp_d, (d, below) = _exp(load(p, j + 3 * width), shift, (d, below))
        if goal is not None:
            for k in range(j, j + 4 * width, width):
                will_write(goal, k)
        if q is not None:
            store(q, j, exp_a)
            store(q, j + width, exp_b)
            store(q, j + 2 * width, exp_c)
            store(q, j + 3 * width, exp_d)
        j += 4 * width
    while j + width <= classes:
        exp_a, (a, below) = _exp(load(p, j), shift, (a, below))
        if q is not None:
            store(q, j, exp_a)
        j += width
    if j < classes:
        exp_b, (b, below) = _exp(load_n(p, j, classes - j, -np.inf), shift, (b, below))
        if q is not None:
            store(q, j, exp_b)
    return (a + b) + (c + d), -(-classes // width) * width - below


@inline
def _gaps(p, shift, classes, class_weight):
    """Return a value whose lanes add up to the sum of w (shift - x)."""
    width = lanes(p)
    a = b = full(p, 0.0)
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
def stats(x, start, n, keep, goal, target, ignore_index, class_weight, smoothing):
    """Return (maximum, rest, sum of w (maximum - x)) of ``n`` rows, a lane each: see ``rows.stats``.

    The exponentials are left in ``keep``, ``stride`` apart, and the rows of ``goal`` are made
    ready to be written to, unless those are None. Rows whose
    ``target`` is ``ignore_index`` are passed over; ``target`` may be None. The last sum is 0
    where ``smoothing`` is None.
    """
    width = lanes(x)
    classes = x.shape[1]
    square, shifts, counts = scratch(x, 16), scratch(x, 1), scratch(x, 1)
    for r in range(n):
        if target is None or target[start + r] != ignore_index:
            store(square, r * width, _greatest(row(x, start + r), classes))
    top = max_rows(square)
    store(shifts, 0, where(top > -np.inf, top, 0.0))
    gap_sum = full(x, 0.0)
    if smoothing is not None:
        for r in range(n):
            if target is None or target[start + r] != ignore_index:
                shift = full(x, load_one(shifts, r))
                store(square, r * width, _gaps(row(x, start + r), shift, classes, class_weight))
        gap_sum = sum_rows(square)
    for r in range(n):
        if target is None or target[start + r] != ignore_index:
            shift = full(x, load_one(shifts, r))
            rest, ones = _exponentials(
                row(x, start + r), offset(keep, r * stride(x)), row(goal, start + r), classes, shift
            )
            store(square, r * width, rest)
            store_one(counts, r, ones)
    rest = sum_rows(square)
    ones = load(counts, 0)
    # without a maximum: -inf, or NaN where a NaN is in the sum
    top = where(top > -np.inf, top, top + rest)
    return top, where(ones > 0.0, rest + (ones - 1.0), np.nan), gap_sum


@inline
def soft_sums(x, target, start, n, class_weight, top, smoothing):
    """Return the sums of t and of t (top - x) of ``n`` rows, a lane each, after smoothing and weights."""
    width = lanes(x)
    classes = x.shape[1]
    amounts, dots, tops = scratch(x, 1), scratch(x, 1), scratch(x, 1)
    store(tops, 0, top)
    for r in range(n):
        p, t = row(x, start + r), row(target, start + r)
        row_top = full(x, load_one(tops, r))
        amount = lost = dot = widen(full(x, 0.0))
        for j in range(0, classes, width):
            share = rows.soft_share_of(t, j, classes - j, class_weight, smoothing)
            gap = row_top - load_n(p, j, classes - j, 0.0)
            amount, rounded = two_sum(amount, widen(share))  # the gradient is a difference of it
            lost = lost + rounded
            dot = dot + widen(where(share == 0.0, full(x, 0.0), share * gap))  # 0 x inf is 0 here
        store_one(amounts, r, reduce_add(amount + lost))
        store_one(dots, r, reduce_add(dot))
    return load(amounts, 0), load(dots, 0)


@inline
def gradient(j, n, e, factor, class_weight, minus):
    """Return exponentials times ``factor``, less w * minus unless that is None."""
    value = load(e, j) * factor
    if minus is not None:
        value = value - rows.share_of(class_weight, j, n, minus, value)
    return value
