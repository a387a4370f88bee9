"""Elementary functions on SIMD values.

Each is one formula for both widths over a table of constants. The errors stated are the
greatest found by ``tests/test_vecmath.py`` against exact values: over every float32 of the
domain, and over samples of float64 as dense as that. One ulp is the spacing of the
format at the exact result.
"""

import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numba import types

from fastce.kernels.codegen.jit import inline, inline_for
from fastce.kernels.codegen.target import PORTABLE, has_bits_of_its_own
from fastce.kernels.simd.vector import (
    Simd,
    bits,
    fma,
    full_like,
    get_lane,
    less_multiples,
    maximum,
    pick,
    polynomial,
    to_float,
    where,
)


class _Format(NamedTuple):
    """What the formulas need to know of a floating-point format."""

    mantissa: int  # bits behind the point
    bias: int  # of the exponent
    lowest: float  # exp is 0 from here down
    ln2: tuple[float, ...]  # in parts, without those that times x / ln 2 are little beside the rounding of x
    expm1_over_x: tuple[float, ...]  # highest power first
    powers: tuple[int, ...]  # two registers' fractional powers of two: their bits behind the point
    small_series: tuple[float, ...]  # of (e**x - 1) / x up to half a step of them
    sqrt_half: int  # the bits of sqrt(1/2)
    log_ln2_hi: float  # few enough bits that its product with an exponent is exact
    log_ln2_lo: float
    log_series: tuple[float, ...]

    def magic(self, steps: int = 1) -> float:
        """Return what leaves x, rounded and in biased steps, in the low bits when it is added."""
        return 1.5 * 2.0**self.mantissa + self.bias * steps


def _powers(dtype: type, steps: int) -> tuple[int, ...]:
    exact = [Decimal(2) ** (Decimal(k) / steps) for k in range(steps)]
    values = np.array([float(power) for power in exact], dtype)
    behind = (1 << np.finfo(dtype).nmant) - 1
    return tuple((values.view(f"i{values.itemsize}") & behind).tolist())


_LN2_32, _LN2_64 = float(np.float32(math.log(2.0))), math.log(2.0)

# expm1_over_x: minimax for |x| <= ln(2)/2, weighted for the relative error of exp; small_series: the same for
# |x| <= ln(2)/2/len(powers).
# log_series, log_ln2: FreeBSD msun, e_logf.c and e_log.c (Sun Microsystems, 1993).
_FORMATS = {
    types.float32: _Format(
        mantissa=23,
        bias=127,
        lowest=-88.02,
        ln2=(_LN2_32,),
        expm1_over_x=(0.0013843603, 0.008374155, 0.041668, 0.16666432, 0.49999994, 1.0),
        powers=_powers(np.float32, 32),
        small_series=(0.500011077, 1.0000147425),
        sqrt_half=0x3F3504F3,
        log_ln2_hi=6.9313812256e-01,
        log_ln2_lo=9.0580006145e-06,
        log_series=(0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693),
    ),
    types.float64: _Format(
        mantissa=52,
        bias=1023,
        lowest=-709.0,
        ln2=(_LN2_64, 2.3190468138462996e-17),
        expm1_over_x=(
            2.4991426341915016e-08,
            2.763104712542035e-07,
            2.755762674848468e-06,
            2.4801490613203084e-05,
            0.00019841269436798008,
            0.0013888888946359279,
            0.008333333333549565,
            0.04166666666651788,
            0.1666666666666622,
            0.5000000000000012,
            1.0,
        ),
        powers=_powers(np.float64, 16),
        small_series=(
            0.0013889504067595169,
            0.008333497135437855,
            0.04166666664248308,
            0.16666666662802976,
            0.5000000000000020,
            1.0000000000000022,
        ),
        sqrt_half=0x3FE6A09E667F3BCD,
        log_ln2_hi=6.93147180369123816490e-01,
        log_ln2_lo=1.90821492927058770002e-10,
        log_series=(
            1.479819860511658591e-01,
            1.531383769920937332e-01,
            1.818357216161805012e-01,
            2.222219843214978396e-01,
            2.857142874366239149e-01,
            3.999999999940941908e-01,
            6.666666666666735130e-01,
        ),
    ),
}


def exp(x):
    """Return e**x for x up to some units above 0.

    At most 4.5 ulp in float32, 0.95 ulp in float64; with AVX-512 5.91 and 1.07 ulp. In float32 0.9
    (1.8) ulp near 0, and |x| / 40 eps more further down: a twentieth of what it may cost that x, a
    difference of logits, has been rounded. -inf and everything whose result would lie below the
    smallest normal number by more than half a binade give exactly 0; NaN stays NaN. Not for large
    positive x: the kernels subtract the maximum first, or what lags little behind it.
    """


@inline_for(exp)
def _exp(x):
    if not isinstance(x, Simd):
        return None
    return _exp_of_table(x.element) if has_bits_of_its_own() else exp_of_series(x.element)


def _exp_of_table(element):
    """Powers of two from two registers leave so little of x that a third of the polynomial does, or half of it."""
    f = _FORMATS[element]
    steps = len(f.powers)
    steps_e, magic, lowest = steps / _LN2_64, f.magic(steps), (1 - f.bias) * _LN2_64
    shift, exponent, powers = f.mantissa - (steps.bit_length() - 1), -1 << f.mantissa, f.powers
    step_parts, series = tuple(part / steps for part in f.ln2), f.small_series

    def impl(x):
        biased = fma(x, steps_e, magic)  # n + bias in the low bits, n = x / ln 2 in steps
        power = bits((bits(biased) << shift) & exponent | pick(powers, bits(biased)))  # 2**(n / steps)
        n = biased - magic
        r = less_multiples(x, n, step_parts)
        return where(x < lowest, 0.0, fma(power * r, polynomial(r, series), power))  # false of NaN

    return impl


def exp_of_series(element):
    """Of all of x but its power of two, for machines that find no lane by index in an instruction."""
    f = _FORMATS[element]
    log2e, magic, lowest, mantissa = 1.0 / _LN2_64, f.magic(), f.lowest, f.mantissa
    ln2, series = f.ln2, f.expm1_over_x

    def impl(x):
        x = maximum(lowest, x)  # in this order NaN passes
        biased = fma(x, log2e, magic)  # n + bias in the low bits, n = round(x / ln 2)
        power = bits(bits(biased) << mantissa)  # 2**n; n = -bias gives 0
        n = biased - magic
        r = less_multiples(x, n, ln2)
        return fma(power * r, polynomial(r, series), power)

    return impl


if PORTABLE:

    @inline
    def exp_one(x):
        """Return e**x for one float64 up to some units above 0, as ``exp`` does: C libraries differ."""
        return get_lane(exp(full_like(x, x)), 0)

else:
    exp_one = math.exp


def tanh(x):
    """Return (tanh(x), 1 - tanh(x)**2), the slope not as a difference.

    At most 3.19 ulp in float32, 2.8 ulp in float64. The slope is off by at most 4.5 ulp in
    float32, 4.5 ulp in float64, with AVX-512 5.91 and 4.5 ulp, where exp(-2 |x|) is a normal
    number; from there on it may be 0.
    """


@inline_for(tanh)
def _tanh(x):
    if not isinstance(x, Simd):
        return None

    def impl(x):
        size = where(x < 0.0, -x, x)
        below = expm1(size * -2.0)
        e = below + 1.0
        t = -below / (e + 1.0)
        e = exp(size * -2.0)
        return where(x < 0.0, -t, t), e * 4.0 / ((e + 1.0) * (e + 1.0))

    return impl


def expm1(x):
    """Return e**x - 1 for x up to 0, where a difference would lose what is next to 0. NaN stays NaN."""


@inline_for(expm1)
def _expm1(x):
    if not isinstance(x, Simd):
        return None
    f = _FORMATS[x.element]
    log2e, magic, lowest, mantissa = 1.0 / _LN2_64, f.magic(), f.lowest, f.mantissa
    ln2, series = f.ln2, f.expm1_over_x

    def impl(x):
        x = maximum(lowest, x)
        biased = fma(x, log2e, magic)
        power = bits(bits(biased) << mantissa)
        n = biased - magic
        r = less_multiples(x, n, ln2)
        return fma(power * r, polynomial(r, series), power - 1.0)

    return impl


def log(x):
    """Return the natural logarithm of a positive normal x.

    At most 0.83 ulp in float32, 0.85 ulp in float64. +inf and NaN give themselves; 0,
    subnormal and negative x are not handled.
    """


@inline_for(log)
def _log_of(x):
    if not isinstance(x, Simd):
        return None

    def impl(x):
        return _log_plus(x, 0.0)

    return impl


def log1p(x):
    """Return log(1 + x) for x >= 0.

    At most 0.87 ulp in float32, 0.85 ulp in float64, for tiny x too. +inf and NaN give themselves.
    """


@inline_for(log1p)
def _log1p(x):
    if not isinstance(x, Simd):
        return None

    def impl(x):
        u = x + 1.0
        rounded = u - x
        lost = (x - (u - rounded)) + (1.0 - rounded)  # 1 + x = u + lost exactly
        return _log_plus(u, lost / u)

    return impl


def _log_plus(x, small):
    """Return log(x) + small; x as in ``log``."""


@inline_for(_log_plus)
def _log_plus_impl(x, small):
    f = _FORMATS[x.element]
    mantissa, low_bits, sqrt_half = f.mantissa, (1 << f.mantissa) - 1, f.sqrt_half
    ln2_hi, ln2_lo, series = f.log_ln2_hi, f.log_ln2_lo, f.log_series

    def impl(x, small):
        above = bits(x) - sqrt_half
        k = to_float(above >> mantissa)
        f = bits((above & low_bits) + sqrt_half) - 1.0  # x = 2**k (1 + f)
        s = f / (f + 2.0)
        z = s * s
        half_square = f * f * 0.5
        tail = s * fma(z, polynomial(z, series), half_square) + (k * ln2_lo + small)
        return where(x < np.inf, k * ln2_hi - ((half_square - tail) - f), x)

    return impl


@inline
def two_sum(a, b):
    """Return a + b and exactly what its rounding lost; scalars or values (Knuth 1969)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)
