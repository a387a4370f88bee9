"""Drivers of the Kullback-Leibler divergence between two softmaxes: loss and, where ``grad`` is given, gradient.

For logits x, target logits z, beta = 1 / temperature, p = softmax(beta x), q = softmax(beta z)
and t = log p - log q, a sample's loss and gradient are

    loss   = sum_j q_j (exp(t_j) - 1 - t_j)
    grad_j = upstream scale beta (p_j - q_j)

The loss equals -sum_j q_j t_j, since p and q have one sum, but no term of it is negative. Where
p is near q, p - q is formed as q (exp(t) - 1), and t from z - x, so that nothing cancels; an
error in both log-sum-exps then counts for its square only. Where x and z are further apart than
from their maxima, as with an offset, t is formed from those distances. Both arrays are read from far
memory once. ``grad`` may be ``x`` or ``target`` itself. All return the sum of the losses.
"""

import math

import numpy as np
from numba import prange, types

from fastce.kernels.codegen.jit import block, inline, inline_for, kernel
from fastce.kernels.rows import long_rows, tiles
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.rows.samples import scaled, total_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.simd.memory import load, load_n, row, scratch, store, store_n
from fastce.kernels.simd.vecmath import exp, exp_one, log1p
from fastce.kernels.simd.vector import (
    Simd,
    add_where,
    count_true,
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

NEAR = 1.0  # |t| up to which the series of exp(t) - 1 - t is used; beyond, it loses at most 3 bits
# Taylor's, highest power first, as far as 2 / (k + 2)! counts beside 1
_SERIES = {
    types.float32: tuple(1.0 / math.factorial(k + 2) for k in range(10, -1, -1)),
    types.float64: tuple(1.0 / math.factorial(k + 2) for k in range(17, -1, -1)),
}


def _excess(t):
    """Return exp(t) - 1 - t for |t| <= NEAR, to a few units in the last place."""


@inline_for(_excess)
def _excess_of(t):
    if not isinstance(t, Simd):
        return None
    series = _SERIES[t.element]
    return lambda t: t * t * polynomial(t, series)


@block
def _greatest(p, start, stop):
    """Return the greatest of ``p[start:stop]``; NaN is passed over."""
    width = lanes(p)
    row_max = full_like(p, -np.inf)
    for j in range(start, stop, width):
        row_max = maximum(load_n(p, j, stop - j, -np.inf), row_max)
    return reduce_max(row_max)


@block
def _stats(p, classes, beta):
    """Return (maximum, rest) as ``long_rows.stats`` does, but rest of exp(beta (x - maximum))."""
    width = lanes(p)
    row_max = get_lane(full_like(p, -np.inf), 0)
    sum_exp_rest = num_at_max = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = min(start + PLAIN_SUM * width, classes)
        higher = _greatest(p, start, stop)
        if higher > row_max:
            sum_exp_rest = (sum_exp_rest + num_at_max) * exp_one(beta * (np.float64(row_max) - np.float64(higher)))
            num_at_max, row_max = 0.0, higher
        shift = full_like(p, row_max if row_max > -np.inf else 0.0)
        total = full_like(p, 0.0)
        count = 0
        for j in range(start, stop, width):
            d = (load_n(p, j, stop - j, -np.inf) - shift) * beta
            below = d != 0.0  # true of NaN, which so reaches the sum
            total = add_where(total, below, exp(d))
            count += width - count_true(below)
        sum_exp_rest += np.float64(reduce_add(total))
        num_at_max += count
    return long_rows.finish(row_max, sum_exp_rest, num_at_max)


@inline
def _log_ratio(a, b):
    """Return log((1 + a) / (1 + b)), which is small where a is near b and exactly 0 where they are equal."""
    low, high = where(a < b, a, b), where(a < b, b, a)
    size = log1p((high - low) / (low + 1.0))
    return where(a < b, -size, size)


@inline
def _difference(p, q, x, z, row_max, z_max, max_gap, log_ratio, beta):
    """Return (p - q, what the class adds to the loss)."""
    d, below, z_below = z - x, x - row_max, z - z_max
    lower = below + z_below
    t = log_ratio + where((d > lower) & (-d > lower), max_gap - d, below - z_below) * beta
    near = (t < NEAR) & (t > -NEAR)
    excess = _excess(t)
    difference = where(near, q * (t + excess), p - q)
    # without a share of q a class adds p, or all there is where only p is strictly 0
    far = where(q == 0.0, where(d == np.inf, np.inf, difference), difference - q * t)
    return difference, where(near, q * excess, far)


@block
def _finish_row(p, z, g, classes, beta, row_max, factor, z_max, z_factor, max_gap, log_ratio, grad_scale):
    """Return the loss of a row and write its gradient to ``g`` unless that is None."""
    width = lanes(p)
    loss = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = min(start + PLAIN_SUM * width, classes)
        part = full_like(p, 0.0)
        for j in range(start, stop, width):
            a, b = load_n(p, j, stop - j, -np.inf), load_n(z, j, stop - j, -np.inf)
            prob, goal = exp((a - row_max) * beta) * factor, exp((b - z_max) * beta) * z_factor
            difference, term = _difference(prob, goal, a, b, row_max, z_max, max_gap, log_ratio, beta)
            part = part + term
            if g is not None:
                store_n(g, j, stop - j, difference * grad_scale)
        loss += np.float64(reduce_add(part))
    return loss


@kernel
def kl_rows(x, target, beta, upstream, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows, of which as many as lanes go together."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        row_max = sum_exp_rest = z_max = z_rest = losses = full_like(x, 0.0)
        for r in range(n):
            one_max, one_rest = _stats(row(x, start + r), classes, beta)
            row_max, sum_exp_rest = set_lane(row_max, r, one_max), set_lane(sum_exp_rest, r, one_rest)
            one_max, one_rest = _stats(row(target, start + r), classes, beta)
            z_max, z_rest = set_lane(z_max, r, one_max), set_lane(z_rest, r, one_rest)
        factor, z_factor = full_like(x, 1.0) / (sum_exp_rest + 1.0), full_like(x, 1.0) / (z_rest + 1.0)
        max_gap, log_ratio = z_max - row_max, _log_ratio(z_rest, sum_exp_rest)
        grad_scale = scaled(x, upstream, scale * beta, start, n)
        for r in range(n):
            value = _finish_row(
                row(x, start + r),
                row(target, start + r),
                row(grad, start + r),
                classes,
                beta,
                get_lane(row_max, r),
                get_lane(factor, r),
                get_lane(z_max, r),
                get_lane(z_factor, r),
                get_lane(max_gap, r),
                get_lane(log_ratio, r),
                get_lane(grad_scale, r),
            )
            losses = set_lane(losses, r, value)
        store_n(row(loss, start), 0, n, losses)
    return total_of(loss)


@inline
def _tile_stats(tile, classes, beta, shifted, exps):
    """Return (maximum, rest) of samples in the lanes; leave exp(beta (x - maximum)) in ``exps``."""
    width = lanes(tile)
    row_max = tiles.maximum_of(tile, classes)
    shift = where(row_max > -np.inf, row_max, 0.0)
    for c in range(classes):
        store(shifted, c * width, (load(tile, c * width) - shift) * beta)
    _, sum_exp_rest = tiles.stats(shifted, classes, exps)
    return row_max, sum_exp_rest


@kernel
def kl_tiles(x, target, beta, upstream, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, z_tile, shifted = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        exps, z_exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.load_tile(target, start, n, z_tile)
        row_max, sum_exp_rest = _tile_stats(tile, classes, beta, shifted, exps)
        z_max, z_rest = _tile_stats(z_tile, classes, beta, shifted, z_exps)
        factor, z_factor = full_like(x, 1.0) / (sum_exp_rest + 1.0), full_like(x, 1.0) / (z_rest + 1.0)
        max_gap, log_ratio = z_max - row_max, _log_ratio(z_rest, sum_exp_rest)
        grad_scale = scaled(x, upstream, scale * beta, start, n)
        value = full_like(x, 0.0)
        for c in range(0, classes * width, width):
            difference, term = _difference(
                load(exps, c) * factor,
                load(z_exps, c) * z_factor,
                load(tile, c),
                load(z_tile, c),
                row_max,
                z_max,
                max_gap,
                log_ratio,
                beta,
            )
            value = value + term
            if grad is not None:
                store(tile, c, difference * grad_scale)
        store_n(row(loss, start), 0, n, value)
        if grad is not None:
            tiles.store_tile(grad, start, n, tile)
    return total_of(loss)
