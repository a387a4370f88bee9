"""Building blocks with samples in the lanes: one class after the other, all lanes at once.

They serve a class axis that is not last, where neighbouring samples are neighbours in
memory, and narrow classes, once ``tiles`` has transposed them. A column is a pointer to
class 0 of the first lane; the next class is ``step`` elements on; ``n`` lanes are in use.
"""

import numpy as np

from fastce.kernels.jit import inline
from fastce.kernels.memory import (
    load_n,
    narrow_labels,
    store_n,
)
from fastce.kernels.simd import (
    full,
    maximum,
    narrow,
    where,
    widen,
)
from fastce.kernels.vecmath import exp

BLOCK = 16  # classes added in the logits' precision before the sum moves on to float64


@inline
def stats(p, step, classes, n):
    """Return (maximum, rest): rest sums exp(x - maximum) over all but one greatest class.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident sample would be rounded away. Without a finite maximum, and with NaN
    anywhere, rest is NaN. Every class is read once from far
    memory: a block's maximum first, then, from the cache, its exponentials.
    """
    top = full(p, -np.inf)
    rest = widen(full(p, 0.0))
    ones = widen(full(p, 0.0))  # classes equal to the maximum
    start = 0
    while start < classes:
        stop = min(start + BLOCK, classes)
        higher = top
        for c in range(start, stop):
            higher = maximum(load_n(p, c * step, n, 0.0), higher)
        shift = where(higher > -np.inf, higher, 0.0)
        if start:
            grown = higher > top
            rest = where(grown, (rest + ones) * widen(exp(top - shift)), rest)
            ones = where(grown, 0.0, ones)
        block_rest = full(p, 0.0)
        block_ones = full(p, 0.0)
        for c in range(start, stop):
            d = load_n(p, c * step, n, 0.0) - shift
            below = d != 0.0
            block_rest = block_rest + where(below, exp(d), 0.0)
            block_ones = block_ones + where(below, full(p, 0.0), 1.0)
        rest = rest + widen(block_rest)
        ones = ones + widen(block_ones)
        top = higher
        start = stop
    return top, narrow(where(ones > 0.0, rest + (ones - 1.0), np.nan), p)


@inline
def write_softmax(p, step, q, q_step, classes, n, top, factor):
    """Write exp(x - top) * factor."""
    for c in range(classes):
        store_n(q, c * q_step, n, exp(load_n(p, c * step, n, 0.0) - top) * factor)


@inline
def write_log_softmax(p, step, q, q_step, classes, n, top, log_sum):
    """Write (x - top) - log_sum."""
    for c in range(classes):
        store_n(q, c * q_step, n, (load_n(p, c * step, n, 0.0) - top) - log_sum)


@inline
def gap_sum(p, step, class_weight, classes, n, top):
    """Return the sum of w (top - x) over the classes."""
    total = widen(full(p, 0.0))
    for start in range(0, classes, BLOCK):
        block = full(p, 0.0)
        for c in range(start, min(start + BLOCK, classes)):
            gap = top - load_n(p, c * step, n, 0.0)
            if class_weight is not None:
                gap = gap * class_weight[c]
            block = block + gap
        total = total + widen(block)
    return narrow(total, p)


@inline
def write_gradient(p, step, q, q_step, classes, n, top, factor, labels, at_label, class_weight, minus):
    """Write exp(x - top) * factor - w * minus, ``at_label`` at the label, 0 where label < 0."""
    labels = narrow_labels(labels, p)
    kept = labels >= 0
    for c in range(classes):
        value = exp(load_n(p, c * step, n, 0.0) - top) * factor
        if minus is not None:
            if class_weight is not None:
                value = value - minus * class_weight[c]
            else:
                value = value - minus
        value = where(labels == c, at_label, value)
        store_n(q, c * q_step, n, where(kept, value, 0.0))


@inline
def soft_sums(p, step, t, t_step, class_weight, classes, n, top, smoothing):
    """Return the sums of t and of t (top - x), for targets after smoothing and weights."""
    amount = dot = widen(full(p, 0.0))
    for start in range(0, classes, BLOCK):
        block_amount = block_dot = full(p, 0.0)
        for c in range(start, min(start + BLOCK, classes)):
            share = soft_share(load_n(t, c * t_step, n, 0.0), smoothing)
            if class_weight is not None:
                share = share * class_weight[c]
            gap = top - load_n(p, c * step, n, 0.0)
            block_amount = block_amount + share
            block_dot = block_dot + where(share == 0.0, full(p, 0.0), share * gap)  # 0 x inf is 0 here
        amount = amount + widen(block_amount)
        dot = dot + widen(block_dot)
    return narrow(amount, p), narrow(dot, p)


@inline
def write_soft(p, step, t, t_step, q, q_step, class_weight, classes, n, top, rest, amount, slope, smoothing):
    """Write slope * (amount * softmax - t), for targets after smoothing and weights."""
    factor = amount * slope / (rest + 1.0)
    for c in range(classes):
        share = soft_share(load_n(t, c * t_step, n, 0.0), smoothing)
        if class_weight is not None:
            share = share * class_weight[c]
        value = soft_gradient(load_n(p, c * step, n, 0.0) - top, share, factor, rest, amount, slope)
        store_n(q, c * q_step, n, value)


@inline
def soft_share(t, smoothing):
    """Return the smoothed target."""
    if smoothing is not None:
        t = t * smoothing[0] + smoothing[1]
    return t


@inline
def soft_gradient(d, share, factor, rest, amount, slope):
    """Return slope * (amount * softmax - share) for x - maximum = d.

    At the maximum the softmax is 1 - rest / total, and amount - share is formed first: exact
    where a one-hot target and a confident prediction agree.
    """
    at_top = (amount - share) * slope - factor * rest
    return where(d == 0.0, at_top, exp(d) * factor - share * slope)
