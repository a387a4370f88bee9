"""The elementary functions: their greatest errors, measured, against the figures they state."""

import math
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import mpmath
import numba
import numpy as np
import pytest

from fastce.kernels.codegen.jit import inline, inline_for
from fastce.kernels.codegen.target import has_avx512
from fastce.kernels.simd import vecmath
from fastce.kernels.simd.memory import load, load_n, row, store_n
from fastce.kernels.simd.vector import bits, full_like, get_lane, lanes, where, widen


class Function(NamedTuple):
    """A function on SIMD values, and what it has to agree with."""

    vector: Callable
    extended: Callable  # of an array of long doubles
    exact: Callable
    hard: tuple[float, float]  # where results need care


@inline
def _tanh(x):
    return vecmath.tanh(x)[0]


@inline
def _slope(x):
    return vecmath.tanh(x)[1]


def _series(x):
    """The exp of machines without AVX-512, on any."""


@inline_for(_series)
def _series_of(x):
    return vecmath.exp_of_series(x.element)


TABLE = {
    "exp": Function(vecmath.exp, np.exp, mpmath.exp, (-40, 0)),
    "exp of series": Function(_series, np.exp, mpmath.exp, (-40, 0)),
    "log": Function(vecmath.log, np.log, mpmath.log, (0.4, 2.5)),
    "log1p": Function(vecmath.log1p, np.log1p, mpmath.log1p, (0, 3)),
    "tanh": Function(_tanh, np.tanh, mpmath.tanh, (0.12, 0.13)),
    "slope of tanh": Function(_slope, lambda x: np.cosh(x) ** -2, lambda x: mpmath.sech(x) ** 2, (3.1174, 3.1178)),
}
pytestmark = pytest.mark.usefixtures("uncounted")
EXPS = pytest.mark.parametrize("name", [name for name in TABLE if name.startswith("exp")])
FUNCTIONS = pytest.mark.parametrize("name", TABLE)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
CHUNK, LANES, THREADS = 2**14, 16, os.cpu_count() or 1


def stated(name):
    """The figures of the docstring, {dtype: ulp}: those with AVX-512 come last, if they differ."""
    word = name.split()[0] if name.startswith("exp") else name.split()[-1]
    lines = re.findall(r"^ *Error[^:]*: (.*)$", getattr(vecmath, word).__doc__, re.M)
    figures = [float(figure) for figure in re.findall(r"\d+\.\d+", lines[name.startswith("slope")])]
    assert len(figures) in (2, 4), f"{name} states no error: {lines!r}"
    first = len(figures) - 2 if has_avx512() and "series" not in name else 0
    return dict(zip((np.float32, np.float64), figures[first:], strict=False))


def apply(name, x):
    """The vectorised function on a 1-D array."""
    function = TABLE[name].vector

    @numba.njit
    def run(x, out):
        for k in range(0, x.size, lanes(x)):
            n = x.size - k
            store_n(row(out, 0), k, n, function(load_n(row(x, 0), k, n, 1.0)))

    out = np.empty_like(x)
    run(x, out)
    return out


def domain(name, dtype):
    """(first, last): the arguments whose results are normal numbers and not exact, by their bits a range."""
    info = np.finfo(dtype)
    lowest = np.nextafter(dtype(math.log(info.tiny)), dtype(0))
    if name.startswith("exp"):  # from the one next to 0 down
        return dtype(-0.0), lowest
    if "tanh" in name:  # below, tanh(x) is x; see `test_where_tanh_is_exact`
        return dtype(info.eps / 8), dtype(info.nmant + 3) if name == "tanh" else -lowest / 2
    return (info.tiny if name == "log" else dtype(0)), info.max


@inline
def error_bits(y, z):
    """The difference of float32 from float64 in ulp / 2**23 of the former, as integers, which put NaN above all."""
    exponent, least, inverse, magnitude = 0x7FF << 52, 0x300 << 52, 2046 << 52, (1 << 63) - 1
    e = bits(z) & exponent
    unit = bits(inverse - where(e > least, e, full_like(e, least)))  # 1 / the power of two at |z|
    return bits((widen(y) - z) * unit) & magnitude


def exhaustive(name):
    """A kernel: the greatest error in ulp of every ``CHUNK`` float32 bit patterns, as int32.

    What is exact is the same function in float64, whose own error is too small to be seen here.
    """
    function = TABLE[name].vector

    @numba.njit(nogil=True)
    def run(first, last, chunks, worst):
        for chunk in chunks:
            places = np.arange(LANES).astype(np.int32)
            lane = load(row(places, 0), 0)
            greatest = bits(full_like(widen(bits(lane)), 0.0))
            start = first + chunk * CHUNK
            for k in range(start, start + CHUNK, LANES):
                pattern = lane + k
                x = bits(where(pattern > last, full_like(pattern, last), pattern))
                error = error_bits(function(x), function(widen(x)))
                greatest = where(error > greatest, error, greatest)
            each = np.empty(LANES)
            for k in range(LANES):
                each[k] = get_lane(bits(greatest), k)
            worst[chunk] = np.max(each) * 2**23

    def run_in_threads(first, last):
        worst = np.zeros((last - first) // CHUNK + 1)
        parts = np.array_split(np.arange(worst.size), 2 * THREADS)
        run(first, first, parts[0][:1], worst)  # compiled once
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda chunks: run(first, last, chunks, worst), parts))
        return worst

    return run_in_threads


@FUNCTIONS
def test_error_over_every_float32(name):
    first, last = (int(v.view(np.int32)) for v in domain(name, np.float32))
    worst = exhaustive(name)(first, last)
    greatest = worst.max()
    limit, place = stated(name)[np.float32], np.int32(first + CHUNK * worst.argmax()).view(np.float32)
    assert greatest <= limit, f"{name} from {place!r} on: {greatest:.4f} ulp, {limit} stated"
    assert limit <= greatest + 0.01, f"{name}: {greatest:.4f} ulp measured, {limit} stated"


def samples(name, dtype, count):
    """Arguments spread evenly over the bit patterns, and more of them where results are hard."""
    rng = np.random.default_rng(7)
    first, last = (int(v.view(f"u{v.itemsize}")) for v in domain(name, dtype))
    spread = rng.integers(first, last, count, dtype=np.uint64, endpoint=True).astype(f"u{dtype().itemsize}").view(dtype)
    return np.concatenate([spread, rng.uniform(*TABLE[name].hard, count).astype(dtype)])


def errors(name, x, y):
    """The exact errors in ulp."""
    mantissa = np.finfo(x.dtype).nmant
    result = np.empty(x.size)
    with mpmath.workprec(200):
        for k, (argument, value) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
            exact = TABLE[name].exact(mpmath.mpf(argument))
            unit = mpmath.ldexp(1, mpmath.frexp(exact)[1] - 1 - mantissa)
            result[k] = abs(value - exact) / unit if exact else abs(value)
    return result


@FUNCTIONS
def test_error_in_float64(name):
    x = samples(name, np.float64, 2**20)
    y = apply(name, x)
    # extended precision picks the candidates, arithmetic of 200 bits judges them
    estimate = np.abs(y - TABLE[name].extended(x.astype(np.longdouble))) / np.spacing(np.abs(y))
    worst = np.argsort(estimate)[-2000:]
    measured = errors(name, x[worst], y[worst])
    greatest = measured.max()
    limit = stated(name)[np.float64]
    assert greatest <= limit, f"{name}({x[worst][measured.argmax()]!r}): {greatest:.4f} ulp, {limit} stated"
    assert limit <= greatest + 0.1, f"{name}: {greatest:.4f} ulp measured, {limit} stated"


@DTYPES
@EXPS
def test_exp_below_the_normal_numbers(name, dtype):
    """Flushed somewhere in the last half binade, exactly 0 from there on."""
    info = np.finfo(dtype)
    edge = math.log(info.tiny)
    x = np.linspace(edge - 3, edge, 4001).astype(dtype)
    y = apply(name, x)
    assert np.all(np.abs(y - np.exp(x.astype(np.longdouble))) < info.tiny)
    far = np.array([edge - 1, -1e3, -1e5, info.min, -np.inf], dtype)
    np.testing.assert_array_equal(apply(name, far), np.zeros_like(far))


@DTYPES
@EXPS
def test_exp_above_zero(name, dtype):
    x = np.linspace(0, 5, 5000).astype(dtype)
    assert errors(name, x, apply(name, x)).max() <= stated(name)[dtype]


@DTYPES
@pytest.mark.parametrize(
    ("name", "argument", "result"),
    [
        ("exp", 0.0, 1.0),
        ("exp", -0.0, 1.0),
        ("exp", np.nan, np.nan),
        ("exp of series", 0.0, 1.0),
        ("exp of series", -0.0, 1.0),
        ("exp of series", np.nan, np.nan),
        ("log", 1.0, 0.0),
        ("log", np.inf, np.inf),
        ("log", np.nan, np.nan),
        ("log1p", 0.0, 0.0),
        ("log1p", np.inf, np.inf),
        ("log1p", np.nan, np.nan),
        ("tanh", 0.0, 0.0),
        ("tanh", -np.inf, -1.0),
        ("tanh", np.inf, 1.0),
        ("tanh", np.nan, np.nan),
        ("slope of tanh", 0.0, 1.0),
        ("slope of tanh", -np.inf, 0.0),
        ("slope of tanh", np.nan, np.nan),
    ],
)
def test_special_arguments(name, argument, result, dtype):
    # in every lane, with ordinary values in the others
    x = np.full((lane_count(dtype),) * 2, 0.5, dtype)
    np.fill_diagonal(x, argument)
    y = apply(name, x.reshape(-1)).reshape(x.shape)
    np.testing.assert_array_equal(np.diag(y), np.full(len(x), result, dtype))


@DTYPES
def test_log1p_of_tiny_arguments(dtype):
    x = (np.finfo(dtype).tiny * 2.0 ** np.arange(0, 20)).astype(dtype)
    np.testing.assert_array_equal(apply("log1p", x), x)


@DTYPES
def test_where_tanh_is_exact(dtype):
    """Arguments so small that they are the result, so large that it is 1, and all of either sign."""
    info = np.finfo(dtype)
    first, last = domain("tanh", dtype)
    small = np.geomspace(info.tiny, np.nextafter(first, dtype(0)), 1_000_003).astype(dtype)
    large = np.append(np.geomspace(np.nextafter(last, info.max), info.max / 2, 100_003), [info.max, np.inf])
    large = large.astype(dtype)
    for x, tanh in ((small, small), (large, 1)):
        np.testing.assert_array_equal(apply("tanh", x), np.broadcast_to(dtype(tanh), x.shape))
    flat = small[small < 0.999 * first]  # from there on 1 is no nearer than the number before it
    np.testing.assert_array_equal(apply("slope of tanh", flat), np.ones_like(flat))
    far = large[large > -2 * math.log(info.tiny)]
    assert not apply("slope of tanh", far).any()
    x = samples("tanh", dtype, 100_000)
    np.testing.assert_array_equal(apply("tanh", -x), -apply("tanh", x))
    np.testing.assert_array_equal(apply("slope of tanh", -x), apply("slope of tanh", x))


def lane_count(dtype):
    return 64 // np.dtype(dtype).itemsize
