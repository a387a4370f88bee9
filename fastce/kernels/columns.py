"""Building blocks with samples in the lanes: one class after the other, all lanes at once.

They serve a class axis that is not last, where neighbouring samples are neighbours in
memory, and narrow classes, once ``tiles`` has transposed them. A column is a pointer to
class 0 of the first lane; the next class is ``step`` elements on; ``n`` lanes are in use.
"""

import numpy as np

from fastce.kernels.jit import inline
from fastce.kernels.simd import full, load_n, maximum, narrow, store_n, where, widen
from fastce.kernels.vecmath import exp

BLOCK = 16  # classes added in the logits' precision before the sum moves on to float64


@inline
def stats(p, step, classes, n):
    """Return (maximum, rest): rest sums exp(x - maximum) over all but one greatest class.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident sample would be rounded away. Every class is read once from far
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
    return top, narrow(rest + (ones - 1.0), p)


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
