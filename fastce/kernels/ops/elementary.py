"""Kernels of elementary functions of whole arrays, and of sums of products along rows.

They replace NumPy's functions where results have to be the same on every processor. Errors are at most 6 ulp in float32
and 2 ulp in float64. That of a power is greater by |y log x| ulp.
"""

import numpy as np

from fastce.kernels.codegen.jit import inline, inline_for, kernel
from fastce.kernels.simd import vecmath
from fastce.kernels.simd.memory import load_n, row, store_n
from fastce.kernels.simd.value import Simd
from fastce.kernels.simd.vector import full_like, lanes, reduce_add, where, widen

_SCALE, _LOG_SCALE = 2.0**54, 37.42994775023705  # this factor makes subnormal numbers normal; its logarithm


def _exp(x):
    """Return e**x for all x: outside the range of `vecmath.exp`, the square of e**(x/2)."""


@inline_for(_exp)
def _exp_of(x):
    if not isinstance(x, Simd):
        return None
    high = 87.0 if x.element.bitwidth == 32 else 708.0
    most = 1.3 * high

    def impl(x):
        x = where(x > most, most, where(x < -most, -most, x))  # both comparisons are false for NaN, which stays
        is_far = where(x < 0.0, -x, x) > high
        e = vecmath.exp(where(is_far, x * 0.5, x))
        return where(is_far, e * e, e)

    return impl


def _log(x):
    """Return log(x) for all x, NaN below 0."""


@inline_for(_log)
def _log_of(x):
    if not isinstance(x, Simd):
        return None
    tiny = 2.0**-126 if x.element.bitwidth == 32 else 2.0**-1022

    def impl(x):
        is_tiny = x < tiny
        result = vecmath.log(where(is_tiny, x * _SCALE, x))
        result = where(is_tiny, result - _LOG_SCALE, result)
        return where(x == 0.0, -np.inf, where(x < 0.0, np.nan, result))

    return impl


@inline
def _log1p(x):
    """Return log(1 + x) for all x, NaN below -1."""
    result = vecmath.log1p(where(x > -1.0, x, 0.0))
    return where(x > -1.0, result, where(x == -1.0, -np.inf, full_like(x, np.nan)))


@inline
def _expm1(x):
    """Return e**x - 1 for all x."""
    below = vecmath.expm1(where(x < 0.0, x, -x))
    return where(x < 0.0, below, -below * _exp(x))


@inline
def _power(x, exponent):
    """Return x**exponent for x >= 0."""
    return _exp(_log(x) * exponent)


@inline
def _apply(x, function, args):
    """Replace ``x``, a contiguous array of one dimension, by ``function(x, *args)``."""
    p = row(x, 0)
    for j in range(0, x.size, lanes(x)):
        n = x.size - j
        store_n(p, j, n, function(load_n(p, j, n, 1.0), *args))


@kernel
def exp(x):
    """Replace x by e**x."""
    _apply(x, _exp, ())


@kernel
def expm1(x):
    """Replace x by e**x - 1."""
    _apply(x, _expm1, ())


@kernel
def log(x):
    """Replace x by log(x)."""
    _apply(x, _log, ())


@kernel
def log1p(x):
    """Replace x by log(1 + x)."""
    _apply(x, _log1p, ())


@kernel
def power(x, exponent):
    """Replace x by x**exponent, for x and the exponent at least 0 and not both 0."""
    _apply(x, _power, (exponent,))


@kernel
def dots(x, y, out):
    """Write to ``out`` the sum of x * y over each row, in float64; ``x`` and ``y`` are (N, C) with contiguous rows."""
    for i in range(x.shape[0]):
        p, q = row(x, i), row(y, i)
        total = widen(full_like(x, 0.0))
        for j in range(0, x.shape[1], lanes(x)):
            n = x.shape[1] - j
            total = total + widen(load_n(p, j, n, 0.0)) * widen(load_n(q, j, n, 0.0))
        out[i] = reduce_add(total)
