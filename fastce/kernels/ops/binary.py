"""Kernel of binary cross-entropy with logits, element by element over flat arrays."""

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.simd.memory import load_n, row, store_n
from fastce.kernels.simd.vecmath import exp, log1p
from fastce.kernels.simd.vector import first_lanes, full_like, lanes, maximum, reduce_add, where, widen

BLOCK = 4096  # elements whose losses are added in one entry of ``sums``


@inline
def _element(x, t, pos_weight):
    """Return (loss, derivative) of logits x and targets t; both are right at infinities too.

    With a = pos_weight t and b = 1 - t

        loss       = a softplus(-x) + b softplus(x)
        derivative = b sigmoid(x) - a sigmoid(-x)

    where softplus(x) = max(x, 0) + log1p(exp(-|x|)).

    Types: floats.
    """
    a = t * pos_weight
    b = full_like(x, 1.0) - t
    exp_neg = exp(-maximum(x, -x))
    log_term = log1p(exp_neg)
    loss = where(a == 0.0, full_like(x, 0.0), a * (log_term + maximum(-x, 0.0)))
    loss = loss + where(b == 0.0, full_like(x, 0.0), b * (log_term + maximum(x, 0.0)))
    high = full_like(x, 1.0) / (exp_neg + 1.0)  # sigmoid(|x|)
    low = exp_neg * high  # sigmoid(-|x|)
    slope = where(x > 0.0, b * high - a * low, b * low - a * high)
    return where(x == x, loss, x), slope


@kernel
def binary(x, target, weight, pos_weight, upstream, scale, sums, loss, grad):
    """Write the sum of each ``BLOCK`` losses, and losses and gradient unless their arrays are None."""
    width = lanes(x)
    for b in prange((x.size + BLOCK - 1) // BLOCK):
        part = widen(full_like(x, 0.0))
        for j in range(b * BLOCK, min((b + 1) * BLOCK, x.size), width):
            n = min(width, x.size - j)
            positive = full_like(x, 1.0)
            if pos_weight is not None:
                positive = load_n(row(pos_weight, j), 0, n, 1.0)
            value, slope = _element(load_n(row(x, j), 0, n, 0.0), load_n(row(target, j), 0, n, 0.0), positive)
            if weight is not None:
                w = load_n(row(weight, j), 0, n, 0.0)
                value = where(w == 0.0, full_like(x, 0.0), value * w)  # 0 for an infinite loss too
                slope = slope * w
            if loss is not None:
                store_n(row(loss, j), 0, n, value)
            if grad is not None:
                if upstream is not None:
                    slope = slope * load_n(row(upstream, j), 0, n, 0.0)
                store_n(row(grad, j), 0, n, slope * scale)
            part = part + where(first_lanes(x, n), widen(value), 0.0)
        sums[b] = reduce_add(part)
