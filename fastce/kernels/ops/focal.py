"""Kernel of the focal loss with class probabilities as targets: losses and, if ``grad`` is given, the gradient.

For logits x, p = softmax(x), c_j = -log(p_j) and targets t, after smoothing and class weights:

    loss   = u sum_j t_j (1 - p_j)^gamma c_j
    s_j    = t_j (1 - p_j)^gamma (1 + gamma p_j c_j / (1 - p_j))
    grad_j = u g scale (p_j sum_k s_k - s_j)

The terms of the loss have one sign. 1 - p is formed without this difference, as in ``formulas.hessian_diagonal``.
Where p_j exceeds 1/2, the gradient is formed as p_j sum_{k != j} s_k - (1 - p_j) s_j: a one-hot target and a confident
prediction that agree keep full relative precision.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import block, inline, kernel
from fastce.kernels.rows import long_rows, row_formulas
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.rows.write import write
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load_n, row, store_one
from fastce.kernels.simd.vecmath import exp, log1p, power_of_logs, split_log
from fastce.kernels.simd.vector import full_like, lanes, reduce_add, where


class _Row(NamedTuple):
    """A sample's logits, targets and statistics."""

    logits: Any
    target: Any
    row_max: Any
    sum_exp_rest: Any
    gamma: Any


@inline
def _power(x, gamma):
    """Return x^gamma for x from 0 to 1, and gamma, of which None stands for 2."""
    if gamma is None:
        return x * x, 2.0
    high, low = split_log(x)
    return where(x == 0.0, 0.0, power_of_logs(high, low, gamma)), gamma[0]


@inline
def _terms(j, n, row_):
    """Return (p, 1 - p, term of the loss, s, whether p exceeds 1/2) of ``n`` classes; terms are 0 in other lanes."""
    logits, target, row_max, sum_exp_rest, gamma = row_
    t = load_n(target, j, n, 0.0)
    below = full_like(logits, row_max) - load_n(logits, j, n, -np.inf)
    rest = full_like(logits, sum_exp_rest)
    factor = full_like(logits, 1.0) / (rest + 1.0)
    exp_x = exp(-below)
    p, miss = exp_x * factor, ((1.0 - exp_x) + rest) * factor
    entropy = below + log1p(rest)
    focus, exponent = _power(miss, gamma)
    share = t * focus
    pull = where((p == 0.0) | (miss == 0.0), full_like(logits, 0.0), p * entropy / miss)
    term = where(t == 0.0, full_like(logits, 0.0), share * entropy)
    slope = where(t == 0.0, full_like(logits, 0.0), share * (pull * exponent + 1.0))
    return p, miss, term, slope, (exp_x == 1.0) & (rest < 1.0)


@block
def _sums(row_, classes):
    """Return the sums of the loss's terms, of s where p is at most 1/2, and of s elsewhere."""
    width = lanes(row_.logits)
    loss = others = top = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = smaller(start + PLAIN_SUM * width, classes)
        of_loss = of_others = of_top = full_like(row_.logits, 0.0)
        for j in range(start, stop, width):
            _, _, term, slope, is_top = _terms(j, stop - j, row_)
            of_loss = of_loss + term
            of_top = of_top + where(is_top, slope, 0.0)
            of_others = of_others + where(is_top, 0.0, slope)
        loss += np.float64(reduce_add(of_loss))
        others += np.float64(reduce_add(of_others))
        top += np.float64(reduce_add(of_top))
    return loss, others, top


@inline
def _gradient(j, n, row_, others, total, grad_scale):
    """Return the gradient of ``n`` classes."""
    p, miss, _, slope, is_top = _terms(j, n, row_)
    return where(is_top, p * others - slope * miss, p * total - slope) * grad_scale


@kernel
def focal_rows(x, target, gamma, factors, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows; ``grad`` may be ``x`` itself.

    ``factors`` are (u, u g) of every sample, of shape (2, N). A factor of 0 gives 0, whatever the logits.
    """
    classes = x.shape[1]
    for i in prange(x.shape[0]):
        weight, grad_scale = factors[0, i], factors[1, i] * scale
        value = 0.0
        if weight != 0.0:
            row_max, sum_exp_rest = long_rows.stats(row(x, i), classes, None)
            row_ = _Row(row(x, i), row(target, i), row_max, sum_exp_rest, gamma)
            value, others, top = _sums(row_, classes)
            value *= weight
            if grad is not None and grad_scale != 0.0:
                write(row(grad, i), classes, False, _gradient, (row_, others, others + top, grad_scale))
        if grad is not None and grad_scale == 0.0:
            write(row(grad, i), classes, False, row_formulas.zero, (full_like(x, 0.0),))
        store_one(row(loss, i), 0, value)
