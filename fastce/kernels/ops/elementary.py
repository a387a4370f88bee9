"""Kernels of elementary functions of whole arrays, and of sums of products along rows.

They replace NumPy's functions where results have to be the same on every processor. ``simd.whole_range`` states the
errors.
"""

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.simd import whole_range
from fastce.kernels.simd.memory import load_n, row, store_n
from fastce.kernels.simd.vector import full_like, lanes, reduce_add, widen


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
    _apply(x, whole_range.exp, ())


@kernel
def expm1(x):
    """Replace x by e**x - 1."""
    _apply(x, whole_range.expm1, ())


@kernel
def log(x):
    """Replace x by log(x)."""
    _apply(x, whole_range.log, ())


@kernel
def log1p(x):
    """Replace x by log(1 + x)."""
    _apply(x, whole_range.log1p, ())


@kernel
def power(x, exponent):
    """Replace x by x**exponent, for x and the exponent at least 0 and not both 0."""
    _apply(x, whole_range.power, (exponent,))


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
