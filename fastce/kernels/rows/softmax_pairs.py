"""Pairs of softmaxes p and q, of logits x and target logits z: their statistics, log p - log q and p - q.

beta is 1 / temperature, p = softmax(beta x) and q = softmax(beta z). Where p is near q, t = log p - log q is computed
from z - x, and p - q as q (exp(t) - 1), so that nothing cancels. Where x and z are further apart than from their
maxima, as with a constant offset, t is computed from x - max(x) and z - max(z).
"""

import math
from typing import NamedTuple

import numpy as np
from numba import types

from fastce.kernels.codegen.jit import block, inline, inline_for
from fastce.kernels.rows import long_rows, tiles
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load, load_n, row, store
from fastce.kernels.simd.value import Simd
from fastce.kernels.simd.vecmath import exp, exp_one, log1p
from fastce.kernels.simd.vector import (
    add_where,
    count_true,
    full_like,
    get_lane,
    lanes,
    polynomial,
    reduce_add,
    set_lane,
    where,
)

NEAR = 1.0  # exp(t) - 1 - t is a series for |t| up to this; for greater t the difference loses at most 3 bits
# The Taylor series of (exp(t) - 1 - t) / t**2, highest power first. Further terms are negligible beside 1/2.
_SERIES = {
    types.float32: tuple(1.0 / math.factorial(k + 2) for k in range(10, -1, -1)),
    types.float64: tuple(1.0 / math.factorial(k + 2) for k in range(17, -1, -1)),
}


class Pair(NamedTuple):
    """Statistics of logits x and target logits z: values with a sample in each lane, or scalars of one sample.

    r_x is the sum of exp(beta (x - x_max)) over all classes but one greatest, and r_z the same sum of z.
    """

    x_max: float
    x_factor: float  # 1 / (1 + r_x)
    z_max: float
    z_factor: float  # 1 / (1 + r_z)
    max_gap: float  # z_max - x_max
    log_ratio: float  # log((1 + r_z) / (1 + r_x))


@inline
def pair_of(x_max, x_rest, z_max, z_rest):
    """Return the `Pair` of samples in the lanes from their statistics."""
    one = full_like(x_max, 1.0)
    x_factor, z_factor = one / (x_rest + 1.0), one / (z_rest + 1.0)
    return Pair(x_max, x_factor, z_max, z_factor, z_max - x_max, _log_ratio(z_rest, x_rest))


@inline
def pair_of_lane(pair, r):
    """Return the `Pair` of one sample."""
    return Pair(
        get_lane(pair.x_max, r),
        get_lane(pair.x_factor, r),
        get_lane(pair.z_max, r),
        get_lane(pair.z_factor, r),
        get_lane(pair.max_gap, r),
        get_lane(pair.log_ratio, r),
    )


def _exp_minus_1_minus(t):
    """Return exp(t) - 1 - t, to a few ulp.

    Types: floats.
    Range: |t| <= NEAR.
    """


@inline_for(_exp_minus_1_minus)
def _exp_minus_1_minus_of(t):
    if not isinstance(t, Simd):
        return None
    series = _SERIES[t.element]
    return lambda t: t * t * polynomial(t, series)


@block
def stats(p, classes, beta):
    """Return (maximum, sum_exp_rest) as `long_rows.stats` does, but the sum of exp(beta (x - maximum))."""
    width = lanes(p)
    row_max = long_rows.lowest(p)
    sum_exp_rest = num_at_max = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = smaller(start + PLAIN_SUM * width, classes)
        higher = long_rows.max_of(p, start, stop, None)
        if higher > row_max:
            sum_exp_rest = (sum_exp_rest + num_at_max) * exp_one(beta * (np.float64(row_max) - np.float64(higher)))
            num_at_max, row_max = 0.0, higher
        shift = long_rows.shift_of(p, row_max)
        total = full_like(p, 0.0)
        count = 0
        for j in range(start, stop, width):
            d = (load_n(p, j, stop - j, -np.inf) - shift) * beta
            below = d != 0.0  # true for NaN, which has to reach the sum
            total = add_where(total, below, exp(d))
            count += width - count_true(below)
        sum_exp_rest += np.float64(reduce_add(total))
        num_at_max += count
    return long_rows.finish(row_max, sum_exp_rest, num_at_max)


@inline
def _log_ratio(a, b):
    """Return log((1 + a) / (1 + b)) without cancellation where a is near b; 0 where they are equal.

    Range: a and b are at least 0.
    """
    low, high = where(a < b, a, b), where(a < b, b, a)
    size = log1p((high - low) / (low + 1.0))
    return where(a < b, -size, size)


@block
def pair_of_rows(x, target, start, n, classes, beta):
    """Return the `Pair` of rows ``start`` to ``start + n``, at most as many as a value has lanes."""
    x_max = x_rest = z_max = z_rest = full_like(x, 0.0)
    for r in range(n):
        one_max, one_rest = stats(row(x, start + r), classes, beta)
        x_max, x_rest = set_lane(x_max, r, one_max), set_lane(x_rest, r, one_rest)
        one_max, one_rest = stats(row(target, start + r), classes, beta)
        z_max, z_rest = set_lane(z_max, r, one_max), set_lane(z_rest, r, one_rest)
    return pair_of(x_max, x_rest, z_max, z_rest)


@inline
def softmaxes(x, z, pair, beta):
    """Return (p, q) of classes with logits x and z."""
    return exp((x - pair.x_max) * beta) * pair.x_factor, exp((z - pair.z_max) * beta) * pair.z_factor


@inline
def log_quotient(x, z, pair, beta):
    """Return (t, z - x) of classes with logits x and z; t is infinite or NaN where one logit or both are -inf."""
    d, x_below, z_below = z - x, x - pair.x_max, z - pair.z_max
    lower = x_below + z_below
    is_offset_small = (d > lower) & (-d > lower)  # |z - x| is less than both distances from the maxima together
    return pair.log_ratio + where(is_offset_small, pair.max_gap - d, x_below - z_below) * beta, d


@inline
def differences(p, q, t):
    """Return (p - q, exp(t) - 1 - t, the mask of where this is exact) for softmaxes p and q with p = q exp(t)."""
    is_near = (t < NEAR) & (t > -NEAR)
    excess = _exp_minus_1_minus(t)
    return where(is_near, q * (t + excess), p - q), excess, is_near


@inline
def kl_terms(p, q, t, d):
    """Return (p - q, the term of KL(q || p)) of classes; d is z - x.

    The terms are q (exp(t) - 1 - t), whose sum is the divergence, as the sums of p and q are equal.
    """
    difference, excess, is_near = differences(p, q, t)
    # If q underflows to 0, the term is p. But it is infinite if x is -inf and z is not: then p is 0 and q is not.
    far = where(q == 0.0, where(d == np.inf, np.inf, difference), difference - q * t)
    return difference, where(is_near, q * excess, far)


@inline
def pair_of_tiles(tile, z_tile, classes, beta, shifted, exps, z_exps):
    """Return the `Pair` of samples in the lanes; write p and q without their factors to ``exps`` and ``z_exps``."""
    x_max, x_rest = _tile_stats(tile, classes, beta, shifted, exps)
    z_max, z_rest = _tile_stats(z_tile, classes, beta, shifted, z_exps)
    return pair_of(x_max, x_rest, z_max, z_rest)


@inline
def _tile_stats(tile, classes, beta, shifted, exps):
    """Return (maximum, sum_exp_rest) of samples in the lanes; write exp(beta (x - maximum)) to ``exps``."""
    width = lanes(tile)
    row_max = tiles.maximum_of(tile, classes)
    shift = where(row_max > -np.inf, row_max, 0.0)
    for c in range(classes):
        store(shifted, c * width, (load(tile, c * width) - shift) * beta)
    _, sum_exp_rest = tiles.stats(shifted, classes, exps)
    return row_max, sum_exp_rest
