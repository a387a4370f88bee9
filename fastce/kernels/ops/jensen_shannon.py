"""Kernels of the generalised Jensen-Shannon divergence, and of the reversed Kullback-Leibler divergence.

For logits x, target logits z, beta = 1 / temperature, p = softmax(beta x), q = softmax(beta z), shares a + b = 1 and
m = a q + b p, a sample's loss and gradient are

    loss   = sum_j a q_j (log q_j - log m_j) + b p_j (log p_j - log m_j)
    grad_j = upstream scale b beta p_j (G_j - sum_k p_k G_k),  G = log p - log m

`REVERSED` stands for the limit of loss / b with b to 0, where m is q: the divergence sum_j p_j (log p_j - log q_j).

With t = log p - log q, let r be p where b p >= a q, else q. Then m - r is -a (p - q) or b (p - q), and the logarithm of
m / r loses no digits as plus or minus log(1 + |m - r| / min(m, r)), neither where p is near q nor where a or b is
tiny. A class's term is -m log(m / r) + l log(s / r) with the other softmax s and its part l of m. For small t the two
cancel: there, the term is q a b t**2 times a series in t (`series_of`). The reversed divergence is summed as
p (exp(-t) - 1 + t), see ``kl_divergence``.

A common error of t, from those of both log-sum-exps, changes each term in first order. Where all t are small, the sum
of p - q is this error, and half its square, times a b, is taken from the loss. The gradient is computed from G less
that of a class with the greatest logit: a common error of G cancels, and so confident rows keep the digits of a small
gradient. Against mpmath, errors of up to 9.2 eps of the loss and 5.5 eps of the gradient's greatest entry were found;
of the latter, more where a q is so little beside b p in all classes that count that G is nearly the same, -log(b).

The rows of a block are read once for their statistics and once for the loss; if ``grad`` is given, twice more, right
before and after the loss of the row. ``grad`` may be ``x`` or ``target`` itself. The kernels return the sum of the
losses.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import block, inline, kernel
from fastce.kernels.rows import row_formulas, tiles
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.rows.samples import has_factor, scaled, total_of
from fastce.kernels.rows.softmax_pairs import (
    differences,
    kl_terms,
    log_quotient,
    pair_of_lane,
    pair_of_rows,
    pair_of_tiles,
    softmaxes,
)
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import write
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load, load_n, row, scratch, static_if_present, store, store_n
from fastce.kernels.simd.vecmath import log1p
from fastce.kernels.simd.vector import (
    full_like,
    get_lane,
    lanes,
    maximum,
    polynomial,
    reduce_add,
    reduce_max,
    set_lane,
    where,
)

SMALL = 0.5  # a term is a series in t for |t| up to this; for greater t the difference loses at most 3 bits
SERIES_TERMS = {2: 9, 4: 9, 8: 21}  # by the bytes of an element; the coefficients fall at least as the powers of 1 / pi


class Mixture(NamedTuple):
    """The shares of the mixture m = a q + b p of two softmaxes; both are 1 for the reversed divergence."""

    a: float
    b: float


class _Slope(NamedTuple):
    """The numbers of a sample that give its gradient, p (G - base - mean) factor."""

    base: float  # G of a class with the greatest logit
    mean: float  # of G - base, weighted by p
    factor: float


REVERSED = Mixture(1.0, 1.0), None  # and no series


@functools.lru_cache
def mixture_of(a: float, itemsize: int) -> tuple[Mixture, tuple[float, ...]]:
    """Return the `Mixture` with the share ``a`` of q, and its `series_of`, for elements of so many bytes."""
    return Mixture(a, 1.0 - a), series_of(a, 1.0 - a, SERIES_TERMS[itemsize])


def series_of(a: float, b: float, terms: int) -> tuple[float, ...]:
    """Return the Taylor series in t of a term of the loss divided by q a b t**2, highest power first.

    The term of q = 1 and p = exp(t) is F = b exp(t) t - m log(m) with m = a + b exp(t), so that F' = b exp(t) G with
    G = t - log(m), and G' = a / m.
    """
    exp_t = [1.0 / math.factorial(k) for k in range(terms)]
    inverse = [1.0]  # of m
    for k in range(1, terms):
        inverse.append(-b * sum(inverse[k - i] * exp_t[i] for i in range(1, k + 1)))
    g = [c / (k + 1) for k, c in enumerate(inverse)]  # of G / (a t)
    slopes = [sum(g[k - i] * exp_t[i] for i in range(k + 1)) for k in range(terms)]
    return tuple(c / (k + 2) for k, c in reversed(list(enumerate(slopes))))


@inline
def _terms(x, z, p, q, pair, beta, mixture, series):
    """Return (term of the loss, G or 0 where p is 0, p - q) of classes with logits x and z and softmaxes p and q."""
    t, d = log_quotient(x, z, pair, beta)
    if series is None:
        difference, term = kl_terms(q, p, -t, -d)
        return term, where(p == 0.0, 0.0, t), -difference
    difference, _, _ = differences(p, q, t)
    p_part, q_part = p * mixture.b, q * mixture.a
    m = p_part + q_part
    is_p_greater = p_part >= q_part
    reference = where(is_p_greater, p, q)  # r
    excess = where(is_p_greater, difference * -mixture.a, difference * mixture.b)  # m - r
    lower = where(excess > 0.0, reference, m)
    size = log1p(where(excess < 0.0, -excess, excess) / where(lower == 0.0, 1.0, lower))
    log_m = where(excess < 0.0, -size, size)  # log(m / r)
    lesser, log_lesser = where(is_p_greater, q_part, p_part), where(is_p_greater, -t, t)
    far = where(lesser == 0.0, 0.0, lesser * log_lesser) - m * log_m
    near = q_part * mixture.b * (t * t) * polynomial(t, series)
    is_small = (t < SMALL) & (t > -SMALL)
    return where(is_small, near, far), where(p == 0.0, 0.0, where(is_p_greater, 0.0, t) - log_m), difference


@inline
def _loss_of(total, gap, mixture):
    """Return a loss, whose terms and p - q have these sums: without the square of an error of all t."""
    return total - gap * gap * (0.5 * mixture.a * mixture.b)


@inline
def _log_at_greatest(x_max, z_at, pair, beta, mixture, series):
    """Return G of a class with the greatest logit and the target logit ``z_at``."""
    p, q = softmaxes(x_max, z_at, pair, beta)
    return _terms(x_max, z_at, p, q, pair, beta, mixture, series)[1]


@block
def _target_at_greatest(p, z, classes, x_max):
    """Return the target logit of the class with the greatest logit, the greatest if there are several."""
    width = lanes(p)
    z_at = full_like(p, -np.inf)
    for j in range(0, classes, width):
        is_greatest = load_n(p, j, classes - j, -np.inf) == x_max
        z_at = maximum(where(is_greatest, load_n(z, j, classes - j, -np.inf), -np.inf), z_at)
    return reduce_max(z_at)


@block
def _sums_of_row(p, z, classes, beta, pair, mixture, series, base):
    """Return the loss of a row and the sum of p (G - base), which is NaN where the loss is infinite."""
    width = lanes(p)
    total = gap = slope = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = smaller(start + PLAIN_SUM * width, classes)
        part = part_of_gap = part_of_slope = full_like(p, 0.0)
        for j in range(start, stop, width):
            a, b = load_n(p, j, stop - j, -np.inf), load_n(z, j, stop - j, -np.inf)
            x_prob, z_prob = softmaxes(a, b, pair, beta)
            term, log_p, difference = _terms(a, b, x_prob, z_prob, pair, beta, mixture, series)
            part, part_of_gap = part + term, part_of_gap + difference
            part_of_slope = part_of_slope + x_prob * (log_p - base)
        total += np.float64(reduce_add(part))
        gap += np.float64(reduce_add(part_of_gap))
        slope += np.float64(reduce_add(part_of_slope))
    loss = _loss_of(total, gap, mixture)
    return 0.0 if loss < 0.0 else loss, np.nan if loss == np.inf else slope


@block
def _finish_row(p, z, g, classes, beta, pair, mixture, series, slope):
    """Write the gradient of a row to ``g``."""
    width = lanes(p)
    for j in range(0, classes, width):
        a, b = load_n(p, j, classes - j, -np.inf), load_n(z, j, classes - j, -np.inf)
        x_prob, z_prob = softmaxes(a, b, pair, beta)
        _, log_p, _ = _terms(a, b, x_prob, z_prob, pair, beta, mixture, series)
        store_n(g, j, classes - j, x_prob * (log_p - slope.base - slope.mean) * slope.factor)


@kernel
def mixture_rows(x, target, beta, mixture, series, upstream, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows; a block has as many rows as a value has lanes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        pair = pair_of_rows(x, target, start, n, classes, beta)
        grad_scale = scaled(x, upstream, scale * mixture.b * beta, start, n)
        losses = z_at = full_like(x, 0.0)
        if grad is not None:
            for r in range(n):
                at = _target_at_greatest(row(x, start + r), row(target, start + r), classes, get_lane(pair.x_max, r))
                z_at = set_lane(z_at, r, at)
        bases = _log_at_greatest(pair.x_max, z_at, pair, beta, mixture, series)
        for r in range(n):
            p, z, one, base = row(x, start + r), row(target, start + r), pair_of_lane(pair, r), get_lane(bases, r)
            value, mean = _sums_of_row(p, z, classes, beta, one, mixture, series, base)
            losses = set_lane(losses, r, value)
            if grad is not None:
                if has_factor(upstream, start + r):
                    slope = _Slope(base, mean, get_lane(grad_scale, r))
                    _finish_row(p, z, row(grad, start + r), classes, beta, one, mixture, series, slope)
                else:
                    write(row(grad, start + r), classes, False, row_formulas.zero, (full_like(x, 0.0),))
        store_n(row(loss, start), 0, n, losses)
    return total_of(loss)


@kernel
def mixture_tiles(x, target, beta, mixture, series, upstream, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, z_tile, shifted = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        exps, z_exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.load_tile(target, start, n, z_tile)
        pair = pair_of_tiles(tile, z_tile, classes, beta, shifted, exps, z_exps)
        grad_scale = scaled(x, upstream, scale * mixture.b * beta, start, n)
        z_at = full_like(x, -np.inf)
        for c in range(0, classes * width, width):
            z_at = maximum(where(load(tile, c) == pair.x_max, load(z_tile, c), -np.inf), z_at)
        base = _log_at_greatest(pair.x_max, z_at, pair, beta, mixture, series)
        total = gap = slope = full_like(x, 0.0)
        for c in range(0, classes * width, width):
            x_prob, z_prob = load(exps, c) * pair.x_factor, load(z_exps, c) * pair.z_factor
            a, b = load(tile, c), load(z_tile, c)
            term, log_p, difference = _terms(a, b, x_prob, z_prob, pair, beta, mixture, series)
            total, gap, slope = total + term, gap + difference, slope + x_prob * (log_p - base)
            if grad is not None:
                store(exps, c, x_prob)
                store(tile, c, log_p - base)
        value = _loss_of(total, gap, mixture)
        store_n(row(loss, start), 0, n, where(value < 0.0, 0.0, value))
        if grad is not None:
            slope = where(value == np.inf, np.nan, slope)
            for c in range(0, classes * width, width):
                store(tile, c, load(exps, c) * (load(tile, c) - slope) * grad_scale)
            tiles.clear(tile, classes, static_if_present(upstream, grad_scale))
            tiles.store_tile(grad, start, n, tile)
    return total_of(loss)
