"""Building blocks for losses of elements: flat arrays, a value of neighbouring elements at a time.

A *block* is ``BLOCK`` elements, whose losses are added in one entry of an array of sums.
"""

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load_n, row, store_n
from fastce.kernels.simd.vector import count_true, first_lanes, full_like, lanes, where, widen

BLOCK = 4096


@inline
def block_count(x):
    """Return how many blocks an array has."""
    return (x.size + BLOCK - 1) // BLOCK


@inline
def block_stop(x, b):
    """Return the position after the last element of block ``b``."""
    return smaller((b + 1) * BLOCK, x.size)


@inline
def factors_at(like, factors, j, n):
    """Return ``n`` factors from ``j`` on; 1 where ``factors`` is None."""
    if factors is None:
        return full_like(like, 1.0)
    return load_n(row(factors, j), 0, n, 1.0)


@inline
def is_ignored(target, ignored):
    """Return whether targets are ``ignored``, a number that may be NaN."""
    number = full_like(target, ignored)
    return (target == number) | ((target != target) & (number != number))


@inline
def weights_at(target, weight, ignored, j, n):
    """Return the weights of ``n`` elements from ``j`` on with these targets: 0 where the target is ``ignored``."""
    result = factors_at(target, weight, j, n)
    if ignored is not None:
        result = where(is_ignored(target, ignored), 0.0, result)
    return result


@inline
def weighted_loss(value, weight):
    """Return ``value`` times ``weight``, where a weight of 0 gives 0, whatever the value."""
    return where(weight == 0.0, 0.0, value * weight)


@inline
def write_gradient(grad, j, n, slope, weight, upstream, scale):
    """Write slope times weight, ``upstream`` and ``scale``, unless ``grad`` is None.

    It is 0 where the weight or ``upstream`` is 0, whatever the slope.
    """
    if grad is not None:
        factor = factors_at(slope, upstream, j, n)
        slope = where(weight == 0.0, 0.0, slope * weight * factor * scale)
        if upstream is not None:
            slope = where(factor == 0.0, 0.0, slope)
        store_n(row(grad, j), 0, n, slope)


@inline
def write_loss(loss, j, n, value):
    """Write losses, unless ``loss`` is None; return them in float64, as they are added up."""
    if loss is not None:
        store_n(row(loss, j), 0, n, value)
    return where(first_lanes(value, n), widen(value), 0.0)


@kernel
def count_kept(target, ignored, sums):
    """Write how many elements of each block are not ``ignored``."""
    width = lanes(target)
    for b in prange(block_count(target)):
        count = 0
        for j in range(b * BLOCK, block_stop(target, b), width):
            n = smaller(width, target.size - j)
            ignored_lanes = is_ignored(load_n(row(target, j), 0, n, 0.0), ignored)
            count += n - count_true(ignored_lanes & first_lanes(target, n))
        sums[b] = count
