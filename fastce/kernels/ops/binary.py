"""Kernel of binary cross-entropy with logits, element by element over flat arrays."""

from typing import Any, NamedTuple

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.rows.elements import (
    BLOCK,
    block_count,
    block_stop,
    factors_at,
    weighted_loss,
    weights_at,
    write_gradient,
    write_loss,
)
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load_n, row
from fastce.kernels.simd.vecmath import exp, log1p
from fastce.kernels.simd.vector import full_like, lanes, maximum, reduce_add, where, widen


class Options(NamedTuple):
    """What makes a loss other than plain binary cross-entropy; None where an option is not used."""

    weight: Any  # w, in the shape of the logits, as pos_weight
    pos_weight: Any
    smoothing: tuple[float, float] | None = None  # (1 - e, e / 2)
    ignored: float | None = None  # the target of elements that are left out


@inline
def element(x, a, b):
    """Return (loss, derivative) of logits x; both are right at infinities too.

    With factors a of positive targets and b of negative ones, t pos_weight and 1 - t for a target t,

        loss       = a softplus(-x) + b softplus(x)
        derivative = b sigmoid(x) - a sigmoid(-x)

    where softplus(x) = max(x, 0) + log1p(exp(-|x|)).

    Types: floats.
    """
    exp_neg = exp(-maximum(x, -x))
    log_term = log1p(exp_neg)
    loss = where(a == 0.0, full_like(x, 0.0), a * (log_term + maximum(-x, 0.0)))
    loss = loss + where(b == 0.0, full_like(x, 0.0), b * (log_term + maximum(x, 0.0)))
    high = full_like(x, 1.0) / (exp_neg + 1.0)  # sigmoid(|x|)
    low = exp_neg * high  # sigmoid(-|x|)
    slope = where(x > 0.0, b * high - a * low, b * low - a * high)
    return where(x == x, loss, x), slope


@inline
def _smoothed(t, smoothing):
    """Return t (1 - e) + e / 2, and 1 less that, without cancellation."""
    rest = full_like(t, 1.0) - t
    if smoothing is not None:
        keep, half = smoothing
        return t * keep + half, rest * keep + half
    return t, rest


@inline
def without_nothing(weight, a, b, pos_weight):
    """Return ``weight``, or 0 where a positive weight of 0 leaves neither term."""
    if pos_weight is not None:
        return where((a == 0.0) & (b == 0.0), 0.0, weight)
    return weight


@kernel
def binary(x, target, options, upstream, scale, sums, loss, grad):
    """Write the sum of each block of losses, and losses and gradient unless their arrays are None."""
    weight, pos_weight, smoothing, ignored = options
    width = lanes(x)
    for block in prange(block_count(x)):
        part = widen(full_like(x, 0.0))
        for j in range(block * BLOCK, block_stop(x, block), width):
            n = smaller(width, x.size - j)
            t = load_n(row(target, j), 0, n, 0.0)
            w = weights_at(t, weight, ignored, j, n)
            a, b = _smoothed(t, smoothing)
            a = a * factors_at(x, pos_weight, j, n)
            w = without_nothing(w, a, b, pos_weight)
            value, slope = element(load_n(row(x, j), 0, n, 0.0), a, b)
            part = part + write_loss(loss, j, n, weighted_loss(value, w))
            write_gradient(grad, j, n, slope, w, upstream, scale)
        sums[block] = reduce_add(part)
