"""Elementary functions on SIMD values.

Each function is one formula for float32 and float64, with constants from a table. The stated errors are the greatest
that ``tests/kernels/test_vecmath.py`` finds against exact values: over every float32 in the range, and over an equally
dense sample of float64. One ulp is the spacing of the format at the exact result.
"""

import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numba import types

from fastce.kernels.codegen.jit import inline, inline_for
from fastce.kernels.codegen.target import PORTABLE, uses_avx512_algorithms
from fastce.kernels.simd.value import Simd
from fastce.kernels.simd.vector import (
    bits,
    fma,
    full_like,
    get_lane,
    maximum,
    polynomial,
    subtract_multiples,
    table_lookup,
    to_float,
    where,
)


class _Format(NamedTuple):
    """The constants of a floating-point format; coefficients of polynomials have the highest power first."""

    mantissa: int  # bits after the point
    bias: int  # of the exponent
    lowest: float  # exp is 0 below
    ln2: tuple[float, ...]  # parts with this sum; smaller parts would vanish in the rounding of x
    expm1_over_x: tuple[float, ...]  # (e**x - 1) / x for |x| <= ln(2) / 2
    powers: tuple[int, ...]  # 2**(k / steps) from two registers: the bits after the point
    small_series: tuple[float, ...]  # (e**x - 1) / x for |x| <= ln(2) / 2 / steps
    sqrt_half: int  # the bits of sqrt(1/2)
    log_ln2_hi: float  # so few bits that its product with an exponent is exact
    log_ln2_lo: float
    log_series: tuple[float, ...]

    def magic(self, steps: int = 1) -> float:
        """Return the constant that, added to x, puts round(x) + bias * steps into the low bits of the mantissa."""
        return 1.5 * 2.0**self.mantissa + self.bias * steps


def _powers(dtype: type, steps: int) -> tuple[int, ...]:
    """Return the mantissa bits of 2**(k / steps), correctly rounded."""
    exact = [Decimal(2) ** (Decimal(k) / steps) for k in range(steps)]
    values = np.array([float(power) for power in exact], dtype)
    mantissa_bits = (1 << np.finfo(dtype).nmant) - 1
    return tuple((values.view(f"i{values.itemsize}") & mantissa_bits).tolist())


_LN2_32, _LN2_64 = float(np.float32(math.log(2.0))), math.log(2.0)

# expm1_over_x, small_series: minimax, weighted for the relative error of exp.
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
    """Return e**x.

    Where the result would be below the smallest normal number by more than half a binade, it is exactly 0. This
    includes -inf. NaN stays NaN.

    In float32 the error is 0.9 ulp near 0 (1.8 ulp with AVX-512) and grows by |x| / 40 eps. This is a twentieth of
    the error that the rounding of x may cause, since x is a difference of logits.

    Types: floats.
    Error: 4.5 ulp in float32, 0.95 ulp in float64; with AVX-512 5.91 and 1.07 ulp.
    Range: up to a few units above 0. Kernels first subtract the maximum, or a number that is little below it.
    """


@inline_for(exp)
def _exp(x):
    if not isinstance(x, Simd):
        return None
    return _exp_of_table(x.element) if uses_avx512_algorithms() else exp_of_series(x.element)


def _exp_of_table(element):
    """Return exp by the table method, for AVX-512.

    2**(k / steps) from two registers leaves so small a rest of x that degree 2 (float32) or 6 (float64) suffices.
    """
    f = _FORMATS[element]
    steps = len(f.powers)
    steps_e, magic, lowest = steps / _LN2_64, f.magic(steps), (1 - f.bias) * _LN2_64
    shift, exponent, powers = f.mantissa - (steps.bit_length() - 1), -1 << f.mantissa, f.powers
    step_parts, series = tuple(part / steps for part in f.ln2), f.small_series

    def impl(x):
        biased = fma(x, steps_e, magic)  # n + bias * steps in the low bits, n = round(x / ln 2 * steps)
        power = bits((bits(biased) << shift) & exponent | table_lookup(powers, bits(biased)))  # 2**(n / steps)
        n = biased - magic
        r = subtract_multiples(x, n, step_parts)
        return where(x < lowest, 0.0, fma(power * r, polynomial(r, series), power))  # NaN < lowest is false

    return impl


def exp_of_series(element):
    """Return exp by a longer polynomial of x less a multiple of ln 2, for processors without table lookups."""
    f = _FORMATS[element]
    log2e, magic, lowest, mantissa = 1.0 / _LN2_64, f.magic(), f.lowest, f.mantissa
    ln2, series = f.ln2, f.expm1_over_x

    def impl(x):
        x = maximum(lowest, x)  # in this order NaN stays
        biased = fma(x, log2e, magic)  # n + bias in the low bits, n = round(x / ln 2)
        power = bits(bits(biased) << mantissa)  # 2**n; n = -bias gives 0
        n = biased - magic
        r = subtract_multiples(x, n, ln2)
        return fma(power * r, polynomial(r, series), power)

    return impl


if PORTABLE:

    @inline
    def exp_one(x):
        """Return e**x for one float64 as ``exp`` does, whose bits do not depend on a C library."""
        return get_lane(exp(full_like(x, x)), 0)

else:
    exp_one = math.exp


def tanh(x):
    """Return (tanh(x), 1 - tanh(x)**2); the second, the derivative, is computed without this subtraction.

    Types: floats.
    Error: 3.19 ulp in float32, 2.8 ulp in float64.
    Error of the derivative: 4.5 ulp in float32, 4.5 ulp in float64; with AVX-512 5.91 and 4.5 ulp.
    Range: all inputs; the derivative may be 0 where exp(-2 |x|) is not a normal number.
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
    """Return e**x - 1, without the cancellation of this difference near 0. NaN stays NaN.

    Types: floats.
    Range: up to 0.
    """


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
        r = subtract_multiples(x, n, ln2)
        return fma(power * r, polynomial(r, series), power - 1.0)

    return impl


def log(x):
    """Return the natural logarithm of x.

    Types: floats.
    Error: 0.83 ulp in float32, 0.85 ulp in float64.
    Range: positive normal numbers, +inf and NaN.
    """


@inline_for(log)
def _log_of(x):
    if not isinstance(x, Simd):
        return None

    def impl(x):
        return _log_plus(x, 0.0)

    return impl


def log1p(x):
    """Return log(1 + x), accurate for tiny x too.

    Types: floats.
    Error: 0.87 ulp in float32, 0.85 ulp in float64.
    Range: x >= 0, +inf and NaN.
    """


@inline_for(log1p)
def _log1p(x):
    if not isinstance(x, Simd):
        return None

    def impl(x):
        u = x + 1.0
        rounded = u - x
        err = (x - (u - rounded)) + (1.0 - rounded)  # 1 + x = u + err exactly
        return _log_plus(u, err / u)

    return impl


def _log_plus(x, small):
    """Return log(x) + small, with types and range of x as in ``log``."""


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


def split_log(x):
    """Return (high, low) whose sum is the natural logarithm of x; ``low`` is within 0.4 of 0.

    ``high`` is the exact product of an integer and a number near ln 2.

    Types: floats.
    Error: of ``low`` 0.9 ulp of 0.35.
    Range: positive normal numbers; 0 gives -88 in float32 and -709 in float64, NaN stays NaN in ``low``.
    """


@inline_for(split_log)
def _split_log(x):
    if not isinstance(x, Simd):
        return None
    f = _FORMATS[x.element]
    mantissa, low_bits, sqrt_half = f.mantissa, (1 << f.mantissa) - 1, f.sqrt_half
    ln2_hi, ln2_lo = f.log_ln2_hi, f.log_ln2_lo

    def impl(x):
        above = bits(x) - sqrt_half
        k = to_float(above >> mantissa)
        low = _log_plus(bits((above & low_bits) + sqrt_half), k * ln2_lo)
        return k * ln2_hi, where(x == x, low, x)

    return impl


@inline
def power_of_logs(high, low, exponent):
    """Return exp(high + low)**exponent; ``exponent`` is (a number of the format, what it lacks).

    The product with ``high`` is computed with its rounding error: so the result has full relative precision, although
    its logarithm may be large.

    Types: floats; a tuple of two scalars.
    Error: that of exp, and exponent |low| ulp.
    Range: high + low from -1e4 to little above 0, and NaN; an exponent from 0 on.
    """
    factor = full_like(high, exponent[0])
    product = factor * high
    err = fma(factor, high, -product) + high * exponent[1]
    total, err_of_sum = two_sum(product, low * factor)
    power = exp(total)
    return where(total < -1e3, 0.0, power + power * (err + err_of_sum))  # where errors of overflow are NaN


@inline
def two_sum(a, b):
    """Return (a + b rounded, the rounding error), whose sum is a + b exactly (Knuth 1969).

    Types: floats or scalars.
    Range: finite sums.
    """
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)
