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
from fastce.kernels.rows.long_rows import VALUES
from fastce.kernels.rows.samples import scaled, total_of
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.simd.memory import load, load_n, row, scratch, store, store_n
from fastce.kernels.simd.vecmath import exp, exp_one, log1p
from fastce.kernels.simd.vector import (
    Simd,
    add_where,
    count_true,
    full,
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
    top = full(p, -np.inf)
    for j in range(start, stop, width):
        top = maximum(load_n(p, j, stop - j, -np.inf), top)
    return reduce_max(top)


@block
def _stats(p, classes, beta):
    """Return (maximum, rest) as ``long_rows.stats`` does, but rest of exp(beta (x - maximum))."""
    width = lanes(p)
    top = get_lane(full(p, -np.inf), 0)
    rest = ones = 0.0
    for start in range(0, classes, VALUES * width):
        stop = min(start + VALUES * width, classes)
        higher = _greatest(p, start, stop)
        if higher > top:
            rest = (rest + ones) * exp_one(beta * (np.float64(top) - np.float64(higher)))
            ones, top = 0.0, higher
        shift = full(p, top if top > -np.inf else 0.0)
        total = full(p, 0.0)
        count = 0
        for j in range(start, stop, width):
            d = (load_n(p, j, stop - j, -np.inf) - shift) * beta
            below = d != 0.0  # true of NaN, which so reaches the sum
            total = add_where(total, below, exp(d))
            count += width - count_true(below)
        rest += np.float64(reduce_add(total))
        ones += count
    return long_rows.finish(top, rest, ones)


@inline
def _log_ratio(a, b):
    """Return log((1 + a) / (1 + b)), which is small where a is near b and exactly 0 where they are equal."""
    low, high = where(a < b, a, b), where(a < b, b, a)
    size = log1p((high - low) / (low + 1.0))
    return where(a < b, -size, size)


@inline
def _difference(p, q, x, z, top, z_top, top_gap, log_ratio, beta):
    """Return (p - q, what the class adds to the loss)."""
    d, below, z_below = z - x, x - top, z - z_top
    lower = below + z_below
    t = log_ratio + where((d > lower) & (-d > lower), top_gap - d, below - z_below) * beta
    near = (t < NEAR) & (t > -NEAR)
    excess = _excess(t)
    difference = where(near, q * (t + excess), p - q)
    # without a share of q a class adds p, or all there is where only p is strictly 0
    far = where(q == 0.0, where(d == np.inf, np.inf, difference), difference - q * t)
    return difference, where(near, q * excess, far)


@block
def _finish_row(p, z, g, classes, beta, top, factor, z_top, z_factor, top_gap, log_ratio, slope):
    """Return the loss of a row and write its gradient to ``g`` unless that is None."""
    width = lanes(p)
    loss = 0.0
    for start in range(0, classes, VALUES * width):
        stop = min(start + VALUES * width, classes)
        part = full(p, 0.0)
        for j in range(start, stop, width):
            a, b = load_n(p, j, stop - j, -np.inf), load_n(z, j, stop - j, -np.inf)
            prob, goal = exp((a - top) * beta) * factor, exp((b - z_top) * beta) * z_factor
            difference, term = _difference(prob, goal, a, b, top, z_top, top_gap, log_ratio, beta)
            part = part + term
            if g is not None:
                store_n(g, j, stop - j, difference * slope)
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
        top = rest = z_top = z_rest = losses = full(x, 0.0)
        for r in range(n):
            row_top, row_rest = _stats(row(x, start + r), classes, beta)
            top, rest = set_lane(top, r, row_top), set_lane(rest, r, row_rest)
            row_top, row_rest = _stats(row(target, start + r), classes, beta)
            z_top, z_rest = set_lane(z_top, r, row_top), set_lane(z_rest, r, row_rest)
        factor, z_factor = full(x, 1.0) / (rest + 1.0), full(x, 1.0) / (z_rest + 1.0)
        top_gap, log_ratio = z_top - top, _log_ratio(z_rest, rest)
        slope = scaled(x, upstream, scale * beta, start, n)
        for r in range(n):
            value = _finish_row(
                row(x, start + r), row(target, start + r), row(grad, start + r), classes, beta,
                get_lane(top, r), get_lane(factor, r), get_lane(z_top, r), get_lane(z_factor, r),
                get_lane(top_gap, r), get_lane(log_ratio, r), get_lane(slope, r),
            )  # fmt: skip
            losses = set_lane(losses, r, value)
        store_n(row(loss, start), 0, n, losses)
    return total_of(loss)


@inline
def _tile_stats(tile, classes, beta, shifted, exps):
    """Return (maximum, rest) of samples in the lanes; leave exp(beta (x - maximum)) in ``exps``."""
    width = lanes(tile)
    top = tiles.maximum_of(tile, classes)
    shift = where(top > -np.inf, top, 0.0)
    for c in range(classes):
        store(shifted, c * width, (load(tile, c * width) - shift) * beta)
    _, rest = tiles.stats(shifted, classes, exps)
    return top, rest


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
        tiles.announce(grad, start, n)
        tiles.fetch(x, start, n, tile)
        tiles.fetch(target, start, n, z_tile)
        top, rest = _tile_stats(tile, classes, beta, shifted, exps)
        z_top, z_rest = _tile_stats(z_tile, classes, beta, shifted, z_exps)
        factor, z_factor = full(x, 1.0) / (rest + 1.0), full(x, 1.0) / (z_rest + 1.0)
        top_gap, log_ratio = z_top - top, _log_ratio(z_rest, rest)
        slope = scaled(x, upstream, scale * beta, start, n)
        value = full(x, 0.0)
        for c in range(0, classes * width, width):
            difference, term = _difference(
                load(exps, c) * factor, load(z_exps, c) * z_factor, load(tile, c), load(z_tile, c),
                top, z_top, top_gap, log_ratio, beta,
            )  # fmt: skip
            value = value + term
            if grad is not None:
                store(tile, c, difference * slope)
        store_n(row(loss, start), 0, n, value)
        if grad is not None:
            tiles.put(grad, start, n, tile)
    return total_of(loss)
