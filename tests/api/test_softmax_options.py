"""Several axes, weights, signs and masks of the softmax family, against SciPy and against leaving elements out."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy import special

import fastce
from tests.helpers import DTYPES, HALF, assert_within, finfo, logits, name_of
from tests.oracle import reference
from tests.oracle.layouts import LAYOUTS

AXES = [None, (0, 1), (1, 2), (0, 2), (2, 0), (1,), (), 1, -1, [0, 2]]
FUNCTIONS = {"logsumexp": special.logsumexp, "softmax": special.softmax, "log_softmax": special.log_softmax}
PAIRS = pytest.mark.parametrize("name", FUNCTIONS)


def close(actual, expected, dtype=np.float64, times=16):
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=times * float(finfo(dtype).eps), atol=times * finfo(dtype).eps
    )


@PAIRS
@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_axes(name, axis, dtype, rng):
    x = logits(rng, (3, 4, 5), dtype)
    result = getattr(fastce, name)(x, axis)
    assert result.dtype == dtype
    close(result, FUNCTIONS[name](x.astype(np.float64), tuple(axis) if isinstance(axis, list) else axis), dtype)


@PAIRS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_axes_of_layouts(name, layout, rng):
    x = LAYOUTS[layout](logits(rng, (3, 4, 6)))
    for axis in (None, (0, 1), (1, 2), (0, 2)):
        close(getattr(fastce, name)(x, axis), FUNCTIONS[name](x, axis))


@pytest.mark.parametrize("axis", [None, (1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_axes_with_out(name, axis, order, rng):
    x = logits(rng, (3, 4, 5))
    expected = getattr(fastce, name)(x, axis)
    out = np.empty(x.shape, order=order)
    assert getattr(fastce, name)(x, axis, out=out) is out
    close(out, expected, times=2)
    copy = np.array(x, order=order)
    assert getattr(fastce, name)(copy, axis, out=copy) is copy
    close(copy, expected, times=2)


def test_keepdims_and_scalars(rng):
    x = logits(rng, (3, 4, 5))
    for axis in AXES[:-1]:
        for keepdims in (False, True):
            expected = special.logsumexp(x, axis, keepdims=keepdims)
            assert np.shape(fastce.logsumexp(x, axis, keepdims=keepdims)) == np.shape(expected)
    assert fastce.logsumexp(5.0, None) == 5.0
    assert fastce.softmax(5.0, None) == 1.0
    out = np.empty((1, 4, 1))
    assert fastce.logsumexp(x, (0, 2), keepdims=True, out=out) is out
    close(out, special.logsumexp(x, (0, 2), keepdims=True))


def test_empty_axes():
    assert fastce.logsumexp(np.zeros((0, 3)), None) == -np.inf
    np.testing.assert_array_equal(fastce.logsumexp(np.zeros((2, 0, 3)), (1, 2)), [-np.inf] * 2)
    assert fastce.softmax(np.zeros((2, 0, 3)), (1, 2)).shape == (2, 0, 3)
    lse, sign = fastce.logsumexp(np.zeros((2, 0)), return_sign=True)
    np.testing.assert_array_equal(lse, [-np.inf] * 2)
    np.testing.assert_array_equal(sign, [0, 0])


@pytest.mark.parametrize("axis", [None, -1, 0, (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_weights(axis, dtype, rng):
    x, b = logits(rng, (3, 4, 5), dtype), rng.normal(size=(4, 1))
    b[2] = 0
    b = b.astype(dtype)
    lse, sign = fastce.logsumexp(x, axis, b=b, return_sign=True)
    assert lse.dtype == sign.dtype == dtype
    expected, signs = special.logsumexp(x.astype(np.float64), axis, b=b.astype(np.float64), return_sign=True)
    close(lse, expected, dtype, times=200)  # the sum may cancel
    np.testing.assert_array_equal(sign, signs)
    with np.errstate(invalid="ignore"):
        positive = fastce.logsumexp(x, axis, b=np.abs(b), keepdims=True)
        close(positive, special.logsumexp(x.astype(np.float64), axis, b=np.abs(b).astype(float), keepdims=True), dtype)
        assert np.array_equal(np.isnan(fastce.logsumexp(x, axis, b=b)), np.asarray(sign) < 0)


def test_dtype_with_weights():
    x = np.zeros(3, np.float32)
    for b, expected in ((2.0, np.float32), (np.ones(3, np.float32), np.float32), (np.ones(3), np.float64)):
        assert fastce.logsumexp(x, b=b).dtype == expected
    assert fastce.logsumexp(np.zeros(3, np.float16), b=np.ones(3, np.float32)).dtype == np.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("b", [2, 2.0, True], ids=repr)
def test_numbers_leave_the_dtype_alone(dtype, b):
    """Seen to fail: for bfloat16 and 2.0, of which NumPy makes float64."""
    assert fastce.logsumexp(np.zeros(3, dtype), b=b).dtype == dtype


def test_weights_in_the_corners():
    assert fastce.logsumexp([0.0, 0.0], b=[1, -1], return_sign=True) == (-np.inf, 0.0)
    assert fastce.logsumexp([1000.0, 1.0], b=[0, 1]) == 1.0
    assert fastce.logsumexp([np.inf, 1.0], b=[0, 1]) == 1.0
    assert fastce.logsumexp([np.inf, 1.0], b=[-1, 1], return_sign=True) == (np.inf, -1.0)
    assert np.isnan(fastce.logsumexp([np.nan, 1.0], b=[1, 1]))
    lse, sign = fastce.logsumexp([5.0, 5.0, 3.0], b=[1, -1, -2], return_sign=True)
    assert sign == -1
    close(lse, 3 + np.log(2))
    tiny = fastce.logsumexp([0.0, -50.0], b=[1.0, 1.0], return_sign=True)[0]
    close(tiny, np.exp(-50.0), times=0)  # beside the maximum's own 1


@PAIRS
@pytest.mark.parametrize("axis", [None, -1, 0, (0, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_masks(name, axis, dtype, rng):
    x, where = logits(rng, (3, 4, 5), dtype), rng.random((4, 5)) > 0.3
    where[0] = True
    x[:, ~where] = np.nan
    result = getattr(fastce, name)(x, axis, where=where)
    filled = np.where(where, x.astype(np.float64), -np.inf)
    with np.errstate(invalid="ignore"):  # where nothing is left
        expected = FUNCTIONS[name](filled, axis)
    if name != "logsumexp":
        expected = np.where(where, expected, 0.0 if name == "softmax" else -np.inf)
    close(result, expected, dtype)
    out = np.empty_like(result)
    if out.ndim:
        getattr(fastce, name)(x, axis, where=where, out=out)
        np.testing.assert_array_equal(np.asarray(out, np.float64), np.asarray(result, np.float64))


def test_nothing_left():
    x, where = np.zeros((2, 3)), np.array([[True, False, True], [False] * 3])
    np.testing.assert_array_equal(fastce.softmax(x, where=where), [[0.5, 0, 0.5], [0, 0, 0]])
    np.testing.assert_array_equal(fastce.log_softmax(x, where=where)[1], [-np.inf] * 3)
    np.testing.assert_array_equal(fastce.logsumexp(x, where=where), [np.log(2), -np.inf])
    np.testing.assert_array_equal(fastce.logsumexp(x, b=2.0, where=where), [np.log(4), -np.inf])


def test_half_results_are_rounded_once(rng):
    for dtype in HALF:
        x = logits(rng, (4, 6), dtype)
        exact = special.logsumexp(x.astype(np.float64), (0, 1))
        assert fastce.logsumexp(x, (0, 1)) == exact.astype(dtype)


def test_half_results_that_are_subnormal_are_no_error():
    """Seen to fail: with NumPy's FloatingPointError."""
    x = np.array([-0.6934, -0.6929], np.float16)  # log-sum-exp: 3.2e-5
    with np.errstate(all="raise"):
        plain = fastce.logsumexp(x)
        weighted = fastce.logsumexp(x, b=np.ones(2, np.float16))
        several = fastce.logsumexp(x[:, np.newaxis], (0, 1))
    exact = special.logsumexp(x.astype(np.float64))
    assert 0 < exact < finfo(np.float16).tiny
    np.testing.assert_allclose([plain, weighted, several], exact, rtol=0, atol=2 * finfo(np.float16).smallest_subnormal)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: fastce.softmax(np.zeros((2, 3)), (0, 0)),
            ValueError,
            r"axis must not name an axis twice, got \(0, 0\)",
        ),
        (lambda: fastce.softmax(np.zeros((2, 3)), (0, 5)), np.exceptions.AxisError, "axis 5 is out of bounds"),
        (lambda: fastce.softmax(np.zeros((2, 3)), "ab"), TypeError, "axis must be an integer"),
        (lambda: fastce.softmax(1.0), ValueError, "x must have at least one dimension"),
        (lambda: fastce.logsumexp(np.zeros(3), b=[1, 2]), ValueError, r"b must broadcast with x, of shape \(3,\)"),
        (lambda: fastce.logsumexp(np.zeros(3), b=[1j] * 3), TypeError, "b must hold real numbers"),
        (lambda: fastce.softmax(np.zeros(3), where=[1, 0, 1]), TypeError, "where must be boolean"),
        (lambda: fastce.logsumexp(np.zeros(0), where=[]), TypeError, "where must be boolean"),
        (
            lambda: fastce.logsumexp(np.zeros(3), where=[True] * 2),
            ValueError,
            r"where must broadcast to the shape \(3,\)",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def weights_for(rng, kind, shape):
    made = {"number": rng.normal(), "row": rng.integers(-3, 4, shape[-1:]) / 2, "all": rng.integers(-1, 4, shape) / 2}
    return None if kind is None else made[kind]


@given(
    shape=st.sampled_from([(3, 4, 5), (2, 40), (7,), (2, 1, 3, 2)]),
    axes=st.sampled_from(["int", "tuple", "all", "none"]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    b=st.sampled_from([None, None, "number", "row", "all"]),
    masked=st.booleans(),
    flags=st.tuples(st.booleans(), st.booleans()),
    with_out=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_options(shape, axes, dtype, layout, b, masked, flags, with_out, seed):
    """Masked elements are at -inf; SciPy, in float64, knows of weights."""
    rng = np.random.default_rng(seed)
    x = logits(rng, shape, dtype)
    some = tuple(int(i) for i in rng.permutation(len(shape))[: rng.integers(1, len(shape) + 1)])
    axis = {"int": some[0] - len(shape), "tuple": some, "all": tuple(range(len(shape))), "none": None}[axes]
    where = rng.random(shape[-1]) > 0.3 if masked else True
    given_x, wide = LAYOUTS[layout](x), np.where(where, x.astype(np.float64), -np.inf)
    options = {"where": where} if masked else {}
    for name, fill in (("softmax", 0.0), ("log_softmax", -np.inf)):
        out = np.empty(shape, dtype) if with_out else None
        result = getattr(fastce, name)(given_x, axis, out=out, **options)
        assert out is None or result is out
        with np.errstate(invalid="ignore"):
            wanted = np.where(where, getattr(reference, name)(wide, axis), fill)
        assert_within(result, wanted, 24, dtype, message=name)
    keepdims, return_sign = flags
    weights = weights_for(rng, b, shape)
    result = fastce.logsumexp(given_x, axis, b=weights, keepdims=keepdims, return_sign=return_sign, **options)
    with np.errstate(invalid="ignore", divide="ignore"):
        lse, sign = special.logsumexp(wide, axis, b=weights, keepdims=keepdims, return_sign=True)
        terms = special.logsumexp(wide, axis, b=None if weights is None else np.abs(weights), keepdims=keepdims)
        lost = np.nan_to_num(np.exp(np.minimum(terms - lse, 40)), posinf=1.0)  # the sum may cancel
    actual, actual_sign = result if return_sign else (result, sign)
    known = lost < 1e3
    wanted = lse if return_sign else np.where(sign < 0, np.nan, lse)
    scale = np.maximum(np.abs(np.nan_to_num(lse, neginf=0)), lost)
    assert actual.shape == lse.shape
    assert_within(np.asarray(actual)[known], wanted[known], 24, scale=scale[known])
    np.testing.assert_array_equal(np.asarray(actual_sign, np.float64)[known], sign[known])
