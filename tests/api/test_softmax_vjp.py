"""The vector-Jacobian products of the softmax family."""

import ml_dtypes
import numpy as np
import pytest

import fastce
from tests.oracle import reference
from tests.oracle.layouts import LAYOUTS

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
# tiles, packed ones too, rows of one value and of more, columns, several panels, and what has to be staged
MATRICES = [(5, 7), (33, 100)] + [
    (70, classes) for classes in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 100, 512, 513, 1500)
]
SHAPES = pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *((shape, 1) for shape in MATRICES),
        ((9, 1500), -1),
        ((4, 10, 6, 5), 1),
        ((2, 40, 70), 1),
        ((300, 3), 0),
        ((6,), 0),
    ],
    ids=str,
)


def exact(name, g, x, axis):
    """The product from the oracle's result."""
    return reference.vjp(name, g, getattr(reference, name)(x, axis), axis, x)


def product(name, g, x, axis, **options):
    result = getattr(fastce, name)(x, axis)
    function = getattr(fastce, f"{name}_vjp")
    return function(g, x, result, axis, **options) if name == "logsumexp" else function(g, result, axis, **options)


def arguments(name, shape, axis, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 3).astype(dtype)
    of = np.delete(shape, axis) if name == "logsumexp" else shape
    return rng.standard_normal(tuple(of)).astype(dtype), x


NAMES = pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])


@pytest.mark.usefixtures("parallel_in_float32")
@NAMES
@SHAPES
@DTYPES
def test_against_the_formula(name, shape, axis, dtype):
    g, x = arguments(name, shape, axis, dtype)
    before = g.copy(), x.copy()
    got = product(name, g, x, axis)
    want = exact(name, g, x, axis)
    assert got.dtype == dtype
    assert got.shape == x.shape
    # the sums cancel: errors are relative to their terms
    assert np.max(np.abs(got - want)) < 200 * np.finfo(dtype).eps * np.abs(g).max()
    np.testing.assert_array_equal(g, before[0])
    np.testing.assert_array_equal(x, before[1])


@NAMES
def test_against_numeric_derivatives(name):
    g, x = arguments(name, (4, 12), 1, np.float64)
    v = np.random.default_rng(1).standard_normal(x.shape)
    function = getattr(fastce, name)
    step = 1e-6
    numeric = np.sum(g * (function(x + step * v) - function(x - step * v))) / (2 * step)
    assert np.sum(product(name, g, x, 1) * v) == pytest.approx(numeric, rel=1e-7)


@NAMES
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_halves_are_rounded_once(name, dtype):
    g, x = arguments(name, (20, 50), 1, dtype)
    result = getattr(fastce, name)(x)
    more = () if name != "logsumexp" else (result,)
    first = x if name == "logsumexp" else result
    function = getattr(fastce, f"{name}_vjp")
    got = function(g, first, *more)
    wide = function(*(a.astype(np.float32) for a in (g, first, *more)))
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.astype(np.float32), wide.astype(dtype).astype(np.float32))


@NAMES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(40, 10), (20, 80), (3, 4, 6)], ids=str)
def test_layouts(name, layout, shape):
    """Of the gradient, and of what stands beside it."""
    for dtype in (np.float32, ml_dtypes.bfloat16):
        g, x = arguments(name, shape, -1, dtype)
        y = x if name == "logsumexp" else getattr(fastce, name)(x)
        more = [fastce.logsumexp(x)] if name == "logsumexp" else []
        function = getattr(fastce, f"{name}_vjp")
        want = function(g, y, *more).astype(np.float64)
        scale = 4 * float(ml_dtypes.finfo(dtype).eps) * np.abs(want).max()
        for given in ((LAYOUTS[layout](g), y), (g, LAYOUTS[layout](y)), (LAYOUTS[layout](g), LAYOUTS[layout](y))):
            got = function(*given, *more)
            assert got.dtype == dtype
            np.testing.assert_allclose(got.astype(np.float64), want, rtol=0, atol=scale)  # some take other kernels


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(40, 3), (40, 10), (20, 80), (40, 600), (3, 40, 70)], ids=str)
def test_out_may_be_an_argument(name, shape):
    axis = 1
    g, x = arguments(name, shape, axis, np.float32)
    want = product(name, g, x, axis)
    y = getattr(fastce, name)(x, axis)
    function = getattr(fastce, f"{name}_vjp")
    for position in (0, 1):
        args = [g.copy(), y.copy()]
        assert function(*args, axis, out=args[position]) is args[position]
        np.testing.assert_array_equal(args[position], want)


def test_lse_may_keep_its_axis():
    g, x = arguments("logsumexp", (5, 7), 1, np.float64)
    lse = fastce.logsumexp(x)
    np.testing.assert_array_equal(fastce.logsumexp_vjp(g[:, None], x, lse[:, None]), fastce.logsumexp_vjp(g, x, lse))


def test_values_of_each_row_in_other_layouts():
    """What the function for plain arrays does not take comes to the same."""
    g, x = arguments("logsumexp", (40, 10), 1, np.float32)
    lse = fastce.logsumexp(x)
    want = fastce.logsumexp_vjp(g, x, lse)
    for layout in ("every other row", "rows reversed", "unaligned", "read-only"):
        for given in ((LAYOUTS[layout](g), lse), (g, LAYOUTS[layout](lse))):
            np.testing.assert_array_equal(fastce.logsumexp_vjp(given[0], x, given[1]), want)


def test_one_matrix_with_infinities_and_nan():
    """As in the formula, wherever in a row they are."""
    for classes in (3, 10, 40, 600):
        p = np.full((20, classes), 1 / classes, np.float32)
        g = np.ones_like(p)
        g[1, 0], g[2, -1], g[3, classes // 2] = np.inf, -np.inf, np.nan
        with np.errstate(invalid="ignore"):
            want = p * (g - np.sum(p * g, axis=1, keepdims=True))
        got = fastce.softmax_vjp(g, p)
        columns = fastce.softmax_vjp(g.T.copy(), p.T.copy(), 0).T
        for found in (got, columns):
            np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
            np.testing.assert_array_equal(found[np.isinf(want)], want[np.isinf(want)])


def test_empty():
    assert fastce.softmax_vjp(np.empty((0, 3)), np.empty((0, 3))).shape == (0, 3)
    assert fastce.logsumexp_vjp(np.empty(3), np.empty((3, 0)), np.full(3, -np.inf)).shape == (3, 0)


def test_wrong_shapes():
    x = np.zeros((4, 3))
    with pytest.raises(ValueError, match=r"g must have the shape of p, \(4, 3\), got \(4,\)"):
        fastce.softmax_vjp(np.zeros(4), x)
    with pytest.raises(ValueError, match=r"lse must have shape \(4,\) or \(4, 1\), got \(3,\)"):
        fastce.logsumexp_vjp(np.zeros(4), x, np.zeros(3))
    memory = np.zeros((5, 3))
    with pytest.raises(ValueError, match="out must not overlap logp"):
        fastce.log_softmax_vjp(x, memory[:4], out=memory[1:])


# --- several axes -------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("axis", [(-1,), (1, 2), (0, 2), (2, 0), [0, -1], None, ()], ids=str)
@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every other class"])
def test_several_axes(name, axis, layout):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 4, 5))
    axes = tuple(range(3)) if axis is None else tuple(i % 3 for i in axis)
    axis = axis if not isinstance(axis, tuple) or axis else ()
    x = LAYOUTS[layout](x)
    function = getattr(fastce, name)
    y = function(x, axis)
    g = rng.standard_normal(np.shape(y))
    last = range(-len(axes), 0)
    lead = tuple(np.delete(x.shape, axes))

    def rows(a):
        return np.moveaxis(a, axes, last).reshape(*lead, -1)

    p = fastce.softmax(rows(np.array(x))) if axes else np.ones((*x.shape, 1))
    if name == "logsumexp":
        want = g[..., None] * p
    elif name == "softmax":
        want = p * (rows(g) - (rows(g) * p).sum(-1, keepdims=True))
    else:
        want = rows(g) - p * rows(g).sum(-1, keepdims=True)
    want = np.moveaxis(want.reshape(np.moveaxis(x, axes, last).shape), last, axes)
    out = np.full(x.shape, np.nan)
    for options in ({}, {"out": out}, {"out": LAYOUTS[layout](out)}):
        np.testing.assert_allclose(product(name, g, x, axis, **options), want, rtol=1e-12, atol=1e-14)
    if name == "logsumexp":
        kept = fastce.logsumexp(x, axis, keepdims=True)
        got = fastce.logsumexp_vjp(g.reshape(kept.shape), x, kept, axis)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@NAMES
def test_scalars_and_empty_arrays_of_several_axes(name):
    got = product(name, np.float32(2.0), np.float32(3.0), None)
    assert got == (2.0 if name == "logsumexp" else 0.0)
    assert isinstance(got, np.float32)
    with pytest.raises(ValueError, match="must have at least one dimension"):
        getattr(fastce, f"{name}_vjp")(*[np.float32(1.0)] * (3 if name == "logsumexp" else 2))
    for shape, axis in (((0, 3), None), ((2, 0, 3), (1, 2)), ((2, 0, 3), (0, 2)), ((0,), ())):
        x = np.zeros(shape)
        assert product(name, np.zeros(np.shape(getattr(fastce, name)(x, axis))), x, axis).shape == shape
    with pytest.raises(ValueError, match="axis must not name an axis twice"):
        product(name, np.zeros((2, 3)), np.zeros((2, 3)), (0, 0))
