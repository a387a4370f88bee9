"""Building blocks on one contiguous row of many classes.

A row is a pointer to its first class and their number. Tails shorter than a value are
masked, so that every class goes through the same lanes whatever the row's length.
"""

import math

import numpy as np

from fastce.kernels.columns import soft_gradient, soft_share
from fastce.kernels.jit import block, inline
from fastce.kernels.memory import (
    load,
    load_n,
    row,
    will_read,
)
from fastce.kernels.simd import (
    any_lane,
    count_true,
    first_lanes,
    full,
    lanes,
    maximum,
    reduce_add,
    reduce_max,
    where,
)
from fastce.kernels.vecmath import exp, two_sum

VALUES = 32  # a block: values whose exponentials are added in the logits' precision
CHUNK = 1 << 15  # classes that one thread sums at a time


@block
def _max(p, start, stop):
    """Return the greatest of ``p[start:stop]``; NaN is passed over."""
    width = lanes(p)
    a = b = full(p, -np.inf)
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
def _add(x, shift, rest, count):
    """Add exp(x - shift) to ``rest`` and 1 to ``count`` where x is below the shift."""
    d = x - shift
    below = d != 0.0  # true of NaN, which so reaches the sum
    return rest + where(below, exp(d), 0.0), count + count_true(below)


@block
def _sum(p, start, stop, shift):
    """Return (rest, ones) of ``p[start:stop]``: see ``stats``."""
    width = lanes(p)
    a = b = full(p, 0.0)
    below = 0
    j = start
    while j + 2 * width <= stop:
        a, below = _add(load(p, j), shift, a, below)
        b, below = _add(load(p, j + width), shift, b, below)
        j += 2 * width
    while j < stop:
        a, below = _add(load_n(p, j, stop - j, -np.inf), shift, a, below)
        j += width
    return reduce_add(a + b), j - start - below


@block
def _sum_and_next_max(p, start, shift, has_top):
    """Return (rest, ones) of one block and the maximum of the block behind it.

    The next block comes from memory while this one's exponentials keep the core busy, and
    the one after it is asked for. Only a block that ``has_top`` can have classes at the maximum.
    """
    width = lanes(p)
    size = VALUES * width
    a = b = full(p, 0.0)
    below = 0
    top_a = top_b = full(p, -np.inf)
    if has_top:
        for j in range(start, start + size, 2 * width):
            a, below = _add(load(p, j), shift, a, below)
            top_a = maximum(load(p, j + size), top_a)
            b, below = _add(load(p, j + width), shift, b, below)
            top_b = maximum(load(p, j + width + size), top_b)
    else:
        below = size
        for j in range(start, start + size, 2 * width):
            will_read(p, j + 2 * size)
            will_read(p, j + width + 2 * size)
            a = a + exp(load(p, j) - shift)
            top_a = maximum(load(p, j + size), top_a)
            b = b + exp(load(p, j + width) - shift)
            top_b = maximum(load(p, j + width + size), top_b)
    return reduce_add(a + b), size - below, reduce_max(maximum(top_a, top_b))


@inline
def _raise(top, higher, rest, ones):
    """Move (rest, ones) from the maximum ``top`` to one that may be higher."""
    if higher > top:
        return (rest + ones) * math.exp(np.float64(top) - np.float64(higher)), 0.0
    return rest, ones


@inline
def _shift(p, top):
    """Return what to subtract before exp: the maximum, or 0 while all classes are -inf."""
    return full(p, top if top > -np.inf else 0.0)


@block
def chunk_stats(p, start, stop):
    """Return (maximum, rest, ones) of ``p[start:stop]``: see ``stats``.

    It is read once: the maximum looks one block ahead of the sum, which is rescaled when the
    maximum grows.
    """
    size = VALUES * lanes(p)
    ahead = max((stop - start) // size - 1, 0)
    top = next_top = _max(p, start, start + size if ahead else stop)
    rest = lost = ones = 0.0
    for _ in range(ahead):
        block_rest, block_ones, next_top = _sum_and_next_max(p, start, _shift(p, top), next_top == top)
        rest, rounded = two_sum(rest, np.float64(block_rest))
        lost += rounded
        ones += block_ones
        if next_top > top:
            fade = math.exp(np.float64(top) - np.float64(next_top))
            rest, lost, ones, top = (rest + ones) * fade, lost * fade, 0.0, next_top
        start += size
    if ahead:
        higher = max(top, _max(p, start + size, stop))
        rest, ones = _raise(top, higher, rest + lost, ones)
        lost, top = 0.0, higher
    while start < stop:
        end = min(start + size, stop)
        block_rest, block_ones = _sum(p, start, end, _shift(p, top))
        rest, rounded = two_sum(rest, np.float64(block_rest))
        lost += rounded
        ones += block_ones
        start = end
    return top, rest + lost, ones


@inline
def merge(top, rest, ones, other_top, other_rest, other_ones):
    """Return (maximum, rest, ones) of two parts of a row together."""
    higher = max(top, other_top)
    rest, ones = _raise(top, higher, rest, ones)
    other_rest, other_ones = _raise(other_top, higher, other_rest, other_ones)
    return higher, rest + other_rest, ones + other_ones


@inline
def finish(top, rest, ones):
    """Return (maximum, rest) of a whole row from (maximum, rest, ones)."""
    if ones:
        return np.float64(top), rest + (ones - 1.0)
    if top > -np.inf:
        return np.float64(top), np.nan
    return top + rest, np.nan  # -inf, or NaN where a NaN is in the sum


@block
def stats(p, classes):
    """Return (maximum, rest): rest sums exp(x - maximum) over all but one greatest class.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident row would be rounded away. Without a finite maximum, and with NaN
    anywhere, rest is NaN. Long rows are summed in chunks that are
    merged in order, so that several threads that share a row come to the same bits.
    """
    top, rest, ones = chunk_stats(p, 0, min(CHUNK, classes))
    for start in range(CHUNK, classes, CHUNK):
        part_top, part_rest, part_ones = chunk_stats(p, start, min(start + CHUNK, classes))
        top, rest, ones = merge(top, rest, ones, part_top, part_rest, part_ones)
    return finish(top, rest, ones)


@block
def has_nan(p, classes):
    """Tell whether there is a NaN."""
    width = lanes(p)
    for j in range(0, classes, width):
        x = load_n(p, j, classes - j, 0.0)
        if any_lane(x != x):
            return True
    return False


@inline
def gradient(j, n, p, top, factor, class_weight, minus):
    """Return exp(x - top) * factor - w * minus; softmax where ``minus`` is None."""
    value = exp(load_n(p, j, n, 0.0) - top) * factor
    if minus is not None:
        value = value - share_of(class_weight, j, n, minus, value)
    return value


@inline
def share_of(class_weight, j, n, minus, like):
    """Return what label smoothing takes off the gradients of ``n`` classes."""
    if class_weight is None:
        return full(like, minus)
    return load_n(row(class_weight, j), 0, n, 0.0) * minus


@inline
def log_softmax(j, n, p, top, log_sum):
    """Return (x - top) - log_sum."""
    return (load_n(p, j, n, 0.0) - top) - log_sum


@block
def gap_sum(p, class_weight, classes, top):
    """Return the sum of w (top - x) over the classes, in float64."""
    width = lanes(p)
    total = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        part = full(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            gap = full(p, top) - load_n(p, j, n, top)  # 0 behind the end
            if class_weight is not None:
                gap = gap * load_n(row(class_weight, j), 0, n, 0.0)
            part = part + gap
        total += reduce_add(part)
    return total


@inline
def zero(j, n, like):
    """Return 0."""
    return full(like, 0.0)


@block
def soft_sums(p, t, class_weight, classes, top, smoothing):
    """Return the sums of t and of t (top - x), for targets after smoothing and weights."""
    width = lanes(p)
    amount = dot = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        block_amount = block_dot = full(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            share = soft_share_of(t, j, n, class_weight, smoothing)
            gap = full(p, top) - load_n(p, j, n, top)
            block_amount = block_amount + share
            block_dot = block_dot + where(share == 0.0, full(p, 0.0), share * gap)  # 0 x inf is 0 here
        amount += reduce_add(block_amount)
        dot += reduce_add(block_dot)
    return amount, dot


@inline
def soft(j, n, p, t, class_weight, top, rest, amount, slope, smoothing):
    """Return slope * (amount * softmax - t), for targets after smoothing and weights."""
    share = soft_share_of(t, j, n, class_weight, smoothing)
    rest_, amount_, slope_ = full(p, rest), full(p, amount), full(p, slope)
    factor = amount_ * slope_ / (rest_ + 1.0)
    return soft_gradient(load_n(p, j, n, 0.0) - top, share, factor, rest_, amount_, slope_)


@inline
def soft_share_of(t, j, n, class_weight, smoothing):
    """Return ``n`` targets after smoothing and weights, 0 behind them."""
    share = soft_share(load_n(t, j, n, 0.0), smoothing)
    if class_weight is not None:
        return share * load_n(row(class_weight, j), 0, n, 0.0)
    if smoothing is not None:
        return where(first_lanes(t, n), share, 0.0)
    return share


@block
def dot(p, g, classes):
    """Return the sum of p g over the classes in float64, of g where ``p`` is None."""
    width = lanes(g)
    total = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        part = full(g, 0.0)
        for j in range(start, stop, width):
            term = load_n(g, j, stop - j, 0.0)
            if p is not None:
                term = term * load_n(p, j, stop - j, 0.0)
            part = part + term
        total += reduce_add(part)
    return total


@inline
def softmax_vjp(j, n, p, g, dot):
    """Return p (g - dot)."""
    return load_n(p, j, n, 0.0) * (load_n(g, j, n, 0.0) - dot)


@inline
def log_softmax_vjp(j, n, p, g, total):
    """Return g - exp(p) total."""
    return load_n(g, j, n, 0.0) - exp(load_n(p, j, n, 0.0)) * total
