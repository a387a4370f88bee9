"""16-bit logits: computed in float32, rounded to nearest even once, in every regime."""

import ml_dtypes
import numpy as np
import pytest

import fastce
from fastce.kernels.rows.long_rows import CHUNK
from tests.helpers import finfo

pytestmark = pytest.mark.usefixtures("one_thread")
HALVES = pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
# bfloat16 differs in loads and stores alone, which tiles and rows have all of
CASES = pytest.mark.parametrize(
    ("half", "shape", "axis"),
    [
        pytest.param(np.float16, (50, 10), 1, id="float16 tiles"),
        pytest.param(np.float16, (33, 100), 1, id="float16 rows"),
        pytest.param(np.float16, (3, 2100), 1, id="float16 look-ahead"),
        pytest.param(np.float16, (2, 40, 37), 1, id="float16 columns"),
        pytest.param(np.float16, (1, 140_000), 1, id="float16 split"),
        pytest.param(ml_dtypes.bfloat16, (50, 10), 1, id="bfloat16 tiles"),
        pytest.param(ml_dtypes.bfloat16, (33, 100), 1, id="bfloat16 rows"),
    ],
)


def logits(shape, half):
    return (np.random.default_rng(3).standard_normal(shape) * 3).astype(half)


def same(got, wide, half):
    """Equality of ``got`` with float32 results rounded by NumPy; NaN equals NaN."""
    assert got.dtype == half
    np.testing.assert_array_equal(got.astype(np.float32), wide.astype(half).astype(np.float32))


@CASES
def test_softmax_family(shape, axis, half):
    x = logits(shape, half)
    x.flat[3], x.flat[-1] = np.nan, -np.inf
    functions = (fastce.softmax, fastce.log_softmax, fastce.logsumexp)
    for function in functions if half == np.float16 else functions[:1]:
        same(function(x, axis), function(x.astype(np.float32), axis), half)


@CASES
def test_class_indices(shape, axis, half):
    x = logits(shape, half)
    target = np.random.default_rng(4).integers(0, shape[axis], np.delete(shape, axis))
    target.flat[0] = -100
    got = fastce.cross_entropy_and_grad(x, target, axis=axis, reduction="none")
    wide = fastce.cross_entropy_and_grad(x.astype(np.float32), target, axis=axis, reduction="none")
    assert got.loss.dtype == np.float32
    np.testing.assert_array_equal(got.loss, wide.loss)
    same(got.grad, wide.grad, half)


@HALVES
@pytest.mark.parametrize("target_dtype", ["half", np.float32], ids=["same dtype", "float32"])
def test_class_probabilities(half, target_dtype):
    x = logits((40, 60), half)
    target = np.random.default_rng(5).dirichlet(np.ones(60), 40)
    target = target.astype(half if target_dtype == "half" else target_dtype)
    got = fastce.cross_entropy_and_grad(x, target)
    wide = fastce.cross_entropy_and_grad(x.astype(np.float32), target.astype(np.float32))
    assert got.loss == wide.loss
    same(got.grad, wide.grad, half)


@HALVES
def test_every_finite_value_survives_a_round_trip(half):
    """A row of one class is its own log-sum-exp: every bit pattern passes a load and a store."""
    x = np.arange(2**16, dtype=np.uint16).view(half)[:, None]
    finite = np.isfinite(x[:, 0].astype(np.float32))
    got = fastce.logsumexp(x)
    same(got[finite], x[finite, 0].astype(np.float32), half)
    # and through the gradient of a column regime, in place
    columns = np.ascontiguousarray(x[finite].T)
    same(fastce.log_softmax(columns, 0), np.zeros(columns.shape, np.float32), half)


def assert_rounded(got, wide, half):
    """``got`` is what some float32 within a few units of ``wide`` rounds to."""
    assert got.dtype == half
    got, info = got.astype(np.float64), finfo(half)
    unit = np.ldexp(float(info.eps), np.maximum(np.frexp(wide)[1] - 1, info.minexp))
    bad = np.isnan(wide) != np.isnan(got)
    assert not bad.any() and not (np.abs(got - wide) > 0.502 * unit).any()


@pytest.mark.parametrize(
    ("half", "classes"), [(np.float16, CHUNK + 600), (np.float16, 2 * CHUNK - 1), (ml_dtypes.bfloat16, CHUNK + 1700)]
)
def test_long_rows(half, classes):
    """Exponentials wait below the maximum of their time; it rises late, after -inf, or not at all."""
    x = logits((10, classes), half)
    x[1, -1], x[2, : CHUNK + 550], x[3, 7], x[4, 9], x[5], x[6, CHUNK] = 30, -np.inf, np.nan, np.inf, -np.inf, 40
    wide = x.astype(np.float32)
    target = np.random.default_rng(4).integers(CHUNK + 550, classes, 10)
    probs = fastce.softmax(x)
    assert_rounded(probs, fastce.softmax(wide), half)
    got = fastce.cross_entropy_and_grad(x, target, reduction="none")
    assert_rounded(got.grad, fastce.cross_entropy_and_grad(wide, target, reduction="none").grad, half)
    np.testing.assert_array_equal(got.loss, fastce.cross_entropy(x, target, reduction="none"))
    soft = np.zeros_like(wide)
    soft[np.arange(10), target] = 1
    got = fastce.cross_entropy_and_grad(x, soft, reduction="none")
    assert_rounded(got.grad, fastce.cross_entropy_and_grad(wide, soft, reduction="none").grad, half)
    same(fastce.softmax(x, out=x), probs.astype(np.float32), half)


def test_subnormal_gradients_of_float16():
    x = logits((64, 50), np.float16)
    target = np.zeros(64, int)
    got = fastce.cross_entropy_and_grad(x, target).grad
    wide = fastce.cross_entropy_and_grad(x.astype(np.float32), target).grad
    assert np.any((got != 0) & (np.abs(got) < np.finfo(np.float16).tiny))
    same(got, wide, np.float16)
