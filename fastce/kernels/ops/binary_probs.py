"""Kernel of binary cross-entropy from probabilities, element by element over flat arrays."""

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.ops.binary import without_nothing
from fastce.kernels.rows.elements import (
    BLOCK,
    block_count,
    block_stop,
    factors_at,
    weighted_loss,
    write_gradient,
    write_loss,
)
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load_n, row
from fastce.kernels.simd.vector import any_lane, full_like, get_lane, lanes, reduce_add, where, widen
from fastce.kernels.simd.whole_range import log, log1p


@inline
def _element(p, a, b):
    """Return (loss, derivative) of probabilities p; both are right at 0 and 1 too.

        loss       = -a log(p) - b log(1 - p)
        derivative = b / (1 - p) - a / p

    A term whose factor a or b is 0 is 0.

    Types: floats.
    Error: 1 rounding of each term beside those of the logarithms, 2 of each term of the derivative.
    Range: from 0 to 1.
    """
    nothing = full_like(p, 0.0)
    loss = where(a == 0.0, nothing, -a * log(p)) + where(b == 0.0, nothing, -b * log1p(-p))
    slope = where(b == 0.0, nothing, b / (full_like(p, 1.0) - p)) - where(a == 0.0, nothing, a / p)
    return loss, slope


@inline
def _first_invalid(p, weight, j, n):
    """Return the position of the first of ``n`` elements from ``j`` on that is no probability and counts, or -1."""
    invalid = where(((p >= 0.0) & (p <= 1.0)) | (weight == 0.0), 0.0, full_like(p, 1.0))
    if any_lane(invalid != 0.0):
        for lane in range(n):
            if get_lane(invalid, lane) != 0.0:
                return j + lane
    return -1


@kernel
def binary_probs(p, target, options, upstream, scale, invalid, sums, loss, grad):
    """Write the sum of each block of losses, and losses and gradient unless their arrays are None.

    ``invalid`` receives the position of an element of each block that is no probability, or -1. ``sums`` may be None.
    """
    weight, pos_weight, _, _ = options
    width = lanes(p)
    for block in prange(block_count(p)):
        part = widen(full_like(p, 0.0))
        first = -1
        for j in range(block * BLOCK, block_stop(p, block), width):
            n = smaller(width, p.size - j)
            probs, t = load_n(row(p, j), 0, n, 0.0), load_n(row(target, j), 0, n, 0.0)
            a, b = t * factors_at(p, pos_weight, j, n), full_like(p, 1.0) - t
            w = without_nothing(factors_at(p, weight, j, n), a, b, pos_weight)
            if first < 0:
                first = _first_invalid(probs, w, j, n)
            value, slope = _element(probs, a, b)
            part = part + write_loss(loss, j, n, weighted_loss(value, w))
            write_gradient(grad, j, n, slope, w, upstream, scale)
        invalid[block] = first
        if sums is not None:
            sums[block] = reduce_add(part)
