"""All divergences of two softmaxes alike: Kullback-Leibler either way, and Jensen-Shannon."""

import ml_dtypes
import numpy as np
import pytest

from tests.api.divergences import FUNCTIONS, LOSSES, SHAPES, pair
from tests.helpers import SIZES, WIDE, assert_same_bits, logits, name_of, shapes_and_dtypes
from tests.oracle.layouts import LAYOUTS

EACH = pytest.mark.parametrize("share", FUNCTIONS)


@shapes_and_dtypes(SHAPES)
@EACH
def test_equal_logits_give_exactly_nothing(rng, shape, dtype, share):
    x = logits(rng, shape, dtype)
    x[0, 0] = -np.inf if shape[1] > 1 else 0
    loss, grad = FUNCTIONS[share](x, x.copy(), temperature=3.0, reduction="none")
    assert not loss.any()
    assert not grad.any()


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("classes", [5, 70])
@EACH
def test_equal_up_to_a_constant(rng, classes, dtype, share):
    x = (rng.integers(-50, 50, (20, classes)) / 8).astype(dtype)
    loss, grad = FUNCTIONS[share](x + dtype.type(64), x, reduction="none")
    assert not loss.any()
    assert not grad.any()


@pytest.mark.parametrize("classes", [4, 40])
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "target nan", "target inf", "target -inf"])
@EACH
def test_samples_without_a_softmax(rng, classes, bad, share):
    x, z = pair(rng, (3, classes), np.float32)
    array = z if "target" in bad else x
    array[1, 2] = float(bad.split()[-1])
    if "-inf" in bad:
        array[1] = -np.inf
    loss, grad = FUNCTIONS[share](x, z, reduction="none")
    assert np.isnan(loss[1])
    assert np.isnan(grad[1]).all()
    assert np.isfinite(loss[[0, 2]]).all()
    assert np.isfinite(grad[[0, 2]]).all()


@pytest.mark.parametrize("classes", [6, 60])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("share", ["kl", 0.5, "reverse"])
def test_layouts_give_the_same_bits(rng, name, classes, dtype, share):
    x, z = pair(rng, (3, 4, classes), dtype)
    want = FUNCTIONS[share](x, z, temperature=2.0, reduction="none")
    first, second = LAYOUTS[name](x), LAYOUTS[name](z)
    for arguments in ((first, z), (x, second), (first, second)):
        got = FUNCTIONS[share](*arguments, temperature=2.0, reduction="none")
        assert_same_bits(got.loss, want.loss)
        assert_same_bits(got.grad, want.grad)


@pytest.mark.parametrize("axis", [0, 1, -2, 2])
@pytest.mark.parametrize("dtype", [np.dtype(np.float16), np.dtype(np.float32)], ids=name_of)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("share", ["kl", 0.5, "reverse"])
def test_axes(rng, axis, dtype, reduction, share):
    x, z = pair(rng, (5, 40, 6), dtype)
    g = 3.0 if reduction == "mean" else rng.normal(size=np.delete(x.shape, axis)).astype(np.float32)
    got = FUNCTIONS[share](x, z, axis=axis, reduction=reduction, grad_output=g)
    moved = [np.ascontiguousarray(np.moveaxis(a, axis, -1)) for a in (x, z)]
    want = FUNCTIONS[share](*moved, reduction=reduction, grad_output=g)
    assert_same_bits(np.asarray(got.loss), np.asarray(want.loss))
    assert_same_bits(got.grad, np.moveaxis(want.grad, -1, axis))


@pytest.mark.parametrize("classes", [6, 60])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("share", ["kl", 0.1, "reverse"])
def test_out(classes, axis, share):
    shape = (5, classes) if axis else (classes, 5)
    want = FUNCTIONS[share](*pair(np.random.default_rng(1), shape, np.float32), axis=axis)
    for place in range(3):
        arrays = [*pair(np.random.default_rng(1), shape, np.float32), np.full(shape, np.nan, np.float32)]
        got = FUNCTIONS[share](*arrays[:2], axis=axis, out=arrays[place])
        assert got.grad is arrays[place]
        assert_same_bits(got.grad, want.grad)
        assert got.loss == want.loss


@EACH
def test_mean_divides_by_samples(rng, share):
    x, z = pair(rng, (3, 5, 7), np.float64)
    each = LOSSES[share](x, z, reduction="none")
    assert each.shape == (3, 5)
    assert LOSSES[share](x, z) == pytest.approx(each.mean(), rel=1e-14)
    assert LOSSES[share](x, z, reduction="sum") == pytest.approx(each.sum(), rel=1e-14)
    grads = [FUNCTIONS[share](x, z, reduction=r).grad for r in ("mean", "sum")]
    np.testing.assert_allclose(grads[0] * 15, grads[1], rtol=1e-13, atol=1e-18)


@EACH
def test_integers_and_mixed_dtypes(rng, share):
    x, z = rng.integers(-4, 4, (2, 5, 6))
    loss, grad = FUNCTIONS[share](x, z)
    assert loss.dtype == grad.dtype == np.float64
    assert loss == LOSSES[share](x.astype(float), z.tolist())
    got = FUNCTIONS[share](x.astype(np.float16), z.astype(float))
    assert (got.loss.dtype, got.grad.dtype) == (np.float32, np.float16)
    assert got.loss == pytest.approx(float(loss), rel=1e-6)
    assert LOSSES[share](x.astype(ml_dtypes.bfloat16), z.astype(np.float16)) == pytest.approx(float(loss), rel=1e-6)


@EACH
def test_empty(share):
    loss, grad = FUNCTIONS[share](np.empty((0, 3)), np.empty((0, 3)))
    assert np.isnan(loss)
    assert grad.shape == (0, 3)
    assert LOSSES[share](np.empty((0, 3)), np.empty((0, 3)), reduction="sum") == 0
    assert LOSSES[share](np.empty((2, 0)), np.empty((2, 0)), reduction="none").tolist() == [0, 0]
    assert LOSSES[share](np.zeros(3), np.zeros(3), reduction="none").shape == ()
