"""Building blocks with samples in the lanes: one class after the other, many samples at once.

They serve a class axis that is not last, where neighbouring samples are neighbours in
memory, and narrow classes, once ``tiles`` has transposed them. A *panel* is a pointer to
class 0 of the first sample, the distance ``step`` from class to class, and ``n`` samples,
contiguous in memory, up to ``PANEL`` values of them. Per-sample terms (maxima, factors) lie
in scratch memory, one value after the other.

The loops run over the samples inside those over the classes: memory is read in streaks.
"""

import numpy as np

from fastce.kernels.jit import inline
from fastce.kernels.memory import load, load_as, load_n, offset, scratch, store, store_n
from fastce.kernels.simd import full, lanes, maximum, narrow, where, widen
from fastce.kernels.vecmath import exp

PANEL = 64  # values across
BLOCK = 16  # classes added in the logits' precision before the sum moves on to float64
BUFFER = BLOCK * PANEL


@inline
def stats(p, step, classes, n, tops, rests):
    """Write (maximum, rest) of every sample; rest sums exp(x - maximum) over all but one greatest class.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident sample would be rounded away. Without a finite maximum, and with NaN
    anywhere, rest is NaN. Classes come in blocks, copied to where the cache keeps them
    however far apart they lie: first a block's maximum, then its exponentials.
    """
    width = lanes(p)
    across = -(-n // width) * width
    wide = widen(full(p, 0.0))
    sums = scratch(wide, PANEL)
    ones = scratch(wide, PANEL)  # classes equal to the maximum
    buffer = scratch(p, BUFFER)
    for j in range(0, across, width):
        store(tops, j, full(p, -np.inf))
        store(sums, j, wide)
        store(ones, j, wide)
    for start in range(0, classes, BLOCK):
        count = min(BLOCK, classes - start)
        near = offset(p, start * step)
        if step != across:
            _copy(near, step, buffer, across, count, n)
            near = buffer
        for j in range(0, across, width):
            top, total, one = _add_block(
                offset(near, j), across, count, start, load(tops, j), load_as(sums, j, wide), load_as(ones, j, wide)
            )
            store(tops, j, top)
            store(sums, j, total)
            store(ones, j, one)
    for j in range(0, across, width):
        total, one = load_as(sums, j, wide), load_as(ones, j, wide)
        store(rests, j, narrow(where(one > 0.0, total + (one - 1.0), np.nan), p))


@inline
def _copy(p, step, q, q_step, count, n):
    """Copy ``count`` classes of a panel; the lanes that fill up the last value become 0."""
    width = lanes(p)
    whole = n // width * width
    for c in range(count):
        source = offset(p, c * step)
        goal = offset(q, c * q_step)
        for j in range(0, whole, width):
            store(goal, j, load(source, j))
        if whole < n:
            store(goal, whole, load_n(source, whole, n - whole, 0.0))


@inline
def _add_block(p, step, count, start, top, total, ones):
    """Add ``count`` classes to one value's (maximum, sum, ones); ``start`` is how many went before."""
    higher = top
    for c in range(count):
        higher = maximum(load(p, c * step), higher)
    shift = where(higher > -np.inf, higher, 0.0)
    if start:
        grown = higher > top
        total = where(grown, (total + ones) * widen(exp(top - shift)), total)
        ones = where(grown, 0.0, ones)
    block_rest = full(p, 0.0)
    block_ones = full(p, 0.0)
    for c in range(count):
        d = load(p, c * step) - shift
        below = d != 0.0  # true of NaN, which so reaches the sum
        block_rest = block_rest + where(below, exp(d), 0.0)
        block_ones = block_ones + where(below, full(p, 0.0), 1.0)
    return higher, total + widen(block_rest), ones + widen(block_ones)


@inline
def write_softmax(p, step, q, q_step, classes, n, tops, factors):
    """Write exp(x - top) * factor."""
    width = lanes(p)
    whole = n // width * width
    for c in range(classes):
        source = offset(p, c * step)
        goal = offset(q, c * q_step)
        for j in range(0, whole, width):
            store(goal, j, exp(load(source, j) - load(tops, j)) * load(factors, j))
        if whole < n:
            x = load_n(source, whole, n - whole, 0.0)
            store_n(goal, whole, n - whole, exp(x - load(tops, whole)) * load(factors, whole))


@inline
def write_log_softmax(p, step, q, q_step, classes, n, tops, log_sums):
    """Write (x - top) - log_sum."""
    width = lanes(p)
    for c in range(classes):
        source = offset(p, c * step)
        goal = offset(q, c * q_step)
        for j in range(0, n, width):
            x = load_n(source, j, n - j, 0.0)
            store_n(goal, j, n - j, (x - load(tops, j)) - load(log_sums, j))


@inline
def write_smoothed(p, step, q, q_step, classes, n, tops, factors, class_weight, minuses):
    """Write exp(x - top) * factor - w * minus."""
    width = lanes(p)
    for c in range(classes):
        source = offset(p, c * step)
        goal = offset(q, c * q_step)
        for j in range(0, n, width):
            x = load_n(source, j, n - j, 0.0)
            minus = load(minuses, j)
            if class_weight is not None:
                minus = minus * class_weight[c]
            store_n(goal, j, n - j, exp(x - load(tops, j)) * load(factors, j) - minus)


@inline
def gap_sums(p, step, class_weight, classes, n, tops, results):
    """Write the sums of w (top - x) over the classes."""
    width = lanes(p)
    wide = widen(full(p, 0.0))
    sums = scratch(wide, PANEL)
    for j in range(0, n, width):
        store(sums, j, wide)
    for c in range(classes):
        source = offset(p, c * step)
        for j in range(0, n, width):
            gap = load(tops, j) - load_n(source, j, n - j, 0.0)
            if class_weight is not None:
                gap = gap * class_weight[c]
            store(sums, j, load_as(sums, j, wide) + widen(gap))
    for j in range(0, n, width):
        store(results, j, narrow(load_as(sums, j, wide), p))


@inline
def soft_sums(p, step, t, t_step, class_weight, classes, n, tops, smoothing, amounts, dots):
    """Write the sums of t and of t (top - x), for targets after smoothing and weights."""
    width = lanes(p)
    wide = widen(full(p, 0.0))
    wide_amounts = scratch(wide, PANEL)
    wide_dots = scratch(wide, PANEL)
    for j in range(0, n, width):
        store(wide_amounts, j, wide)
        store(wide_dots, j, wide)
    for c in range(classes):
        source = offset(p, c * step)
        for j in range(0, n, width):
            share = _share(offset(t, c * t_step), j, n, c, class_weight, smoothing)
            gap = load(tops, j) - load_n(source, j, n - j, 0.0)
            product = where(share == 0.0, full(p, 0.0), share * gap)  # 0 x inf is 0 here
            store(wide_amounts, j, load_as(wide_amounts, j, wide) + widen(share))
            store(wide_dots, j, load_as(wide_dots, j, wide) + widen(product))
    for j in range(0, n, width):
        store(amounts, j, narrow(load_as(wide_amounts, j, wide), p))
        store(dots, j, narrow(load_as(wide_dots, j, wide), p))


@inline
def write_soft(p, step, t, t_step, q, q_step, class_weight, classes, n, tops, rests, amounts, slopes, smoothing):
    """Write slope * (amount * softmax - t), for targets after smoothing and weights."""
    width = lanes(p)
    for c in range(classes):
        source = offset(p, c * step)
        goal = offset(q, c * q_step)
        for j in range(0, n, width):
            share = _share(offset(t, c * t_step), j, n, c, class_weight, smoothing)
            rest, amount, slope = load(rests, j), load(amounts, j), load(slopes, j)
            d = load_n(source, j, n - j, 0.0) - load(tops, j)
            value = soft_gradient(d, share, amount * slope / (rest + 1.0), rest, amount, slope)
            store_n(goal, j, n - j, value)


@inline
def _share(t, j, n, c, class_weight, smoothing):
    """Return the targets of class ``c`` after smoothing and weights."""
    share = soft_share(load_n(t, j, n - j, 0.0), smoothing)
    if class_weight is not None:
        share = share * class_weight[c]
    return share


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
