"""Kernel of the focal loss of sigmoids, element by element over flat arrays.

For a logit x, its target t, p = sigmoid(x) and the binary cross-entropy c:

    q    = 1 - (p t + (1 - p) (1 - t)) = t sigmoid(-x) + (1 - t) sigmoid(x)
    loss = A q^gamma c               with A = alpha t + (1 - alpha) (1 - t)
    grad = A q^gamma (dc/dx + gamma (dq/dx / q) c)

q and dq/dx / q are formed from exp(-|x|), not from 1 - p: nothing cancels, however confident the element. Where q is
small, its logarithm is split: log q = -|x| + log(q exp(|x|)), and gamma |x| is computed with its rounding error. So
q^gamma has full relative precision, although its logarithm is large.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.ops.binary import element
from fastce.kernels.rows.elements import BLOCK, block_count, block_stop, weighted_loss, write_gradient, write_loss
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load_n, row
from fastce.kernels.simd.vecmath import exp, log, power_of_logs
from fastce.kernels.simd.vector import full_like, lanes, maximum, reduce_add, where, widen

FAR = 1e4  # exp(-FAR) is 0


@inline
def _power(distance, exp_neg, rest, gamma):
    """Return (exp(-distance) rest)^gamma, and gamma; ``exp_neg`` is exp(-distance).

    ``gamma`` is as `power_of_logs` takes an exponent, or None for 2, the usual one.

    Types: floats.
    Error: that of `power_of_logs`; for a square twice that of ``exp_neg``, and 2 roundings.
    Range: distances from 0 on, positive normal ``rest`` and NaN.
    """
    if gamma is None:
        root = exp_neg * rest
        return root * root, 2.0
    return power_of_logs(-where(distance > FAR, FAR, distance), log(rest), gamma), gamma[0]


@inline
def _focused(x, t, gamma):
    """Return (loss, derivative) of logits x and targets t, before the factor A.

    Types: floats.
    Range: all logits; targets from 0 to 1.
    """
    rest = full_like(x, 1.0) - t
    value, slope = element(x, t, rest)
    size = maximum(x, -x)
    exp_neg = exp(-size)
    high = full_like(x, 1.0) / (exp_neg + 1.0)  # sigmoid(|x|)
    right, wrong = where(x > 0.0, t, rest), where(x > 0.0, rest, t)  # shares of what x says, and of its contrary
    is_right = wrong == 0.0
    share = where(is_right, right, right * exp_neg + wrong)  # q / sigmoid(|x|), times exp(|x|) where x is right
    focus, exponent = _power(where(is_right, size, 0.0), where(is_right, exp_neg, 1.0), high * share, gamma)
    ratio = (rest - t) * high * where(is_right, 1.0, exp_neg) / share  # dq/dx / q
    pull = where(ratio == 0.0, full_like(x, 0.0), ratio * value * exponent)
    loss = where(value == np.inf, value, focus * value)  # however small the share of the contrary is
    return loss, focus * (slope + pull)


@inline
def _alpha_at(t, alpha):
    """Return A for targets t; 1 where ``alpha``, which is (alpha, 1 - alpha), is None."""
    if alpha is None:
        return full_like(t, 1.0)
    return t * alpha[0] + (full_like(t, 1.0) - t) * alpha[1]


@kernel
def sigmoid_focal(x, target, alpha, gamma, upstream, scale, sums, loss, grad):
    """Write the sum of each block of losses, and losses and gradient unless their arrays are None."""
    width = lanes(x)
    for block in prange(block_count(x)):
        part = widen(full_like(x, 0.0))
        for j in range(block * BLOCK, block_stop(x, block), width):
            n = smaller(width, x.size - j)
            t = load_n(row(target, j), 0, n, 0.0)
            w = _alpha_at(t, alpha)
            value, slope = _focused(load_n(row(x, j), 0, n, 0.0), t, gamma)
            part = part + write_loss(loss, j, n, weighted_loss(value, w))
            write_gradient(grad, j, n, slope, w, upstream, scale)
        sums[block] = reduce_add(part)
