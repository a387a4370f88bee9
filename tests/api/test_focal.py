"""Focal loss over softmax probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastce
from fastce import focal_loss, focal_loss_and_grad
from tests.helpers import (
    SIZES,
    WIDE,
    assert_same_bits,
    assert_within,
    computed,
    labels_for,
    logits,
    name_of,
    shapes_and_dtypes,
)
from tests.oracle import reference_losses
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS
from tests.oracle.reference import REAL, real

SHAPES = [(1, 1), (17, 10), (33, 32), (9, 33), (17, 100), (3, 2600), (5003, 10)]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.7]


def expected(x, y, gamma):
    """The losses and the gradients of their sum."""
    return reference_losses.focal_loss(x, np.eye(x.shape[-1])[y], gamma)[:2]


@shapes_and_dtypes(SHAPES)
@pytest.mark.parametrize("gamma", [gamma for gamma in GAMMAS if gamma])
def test_against_the_definition(rng, shape, gamma, dtype):
    x, y = logits(rng, shape, dtype), labels_for(rng, shape)
    y[::5] = -100
    alpha = rng.random(shape[1]) + 0.5
    before = x.copy()
    loss, _ = assert_matches_oracle("focal_loss_and_grad", x, y, gamma=gamma, alpha=alpha, reduction="none")
    assert_same_bits(focal_loss(x, y, gamma=gamma, alpha=alpha, reduction="none"), loss)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("alpha", [False, True])
def test_gamma_0_is_cross_entropy_to_the_bit(rng, reduction, dtype, alpha):
    x, y = logits(rng, (40, 12), dtype), labels_for(rng, (40, 12))
    y[3] = -100
    weight = rng.random(12) if alpha else None
    g = rng.normal(size=40) if reduction == "none" else 0.3
    got = focal_loss_and_grad(x, y, gamma=0, alpha=weight, reduction=reduction, grad_output=g)
    want = fastce.cross_entropy_and_grad(x, y, weight=weight, reduction=reduction, grad_output=g)
    assert_same_bits(np.asarray(got.loss), np.asarray(want.loss))
    assert_same_bits(got.grad, want.grad)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("gamma", [1e-3, 0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [2, 40])
def test_confident_samples_keep_their_digits(gamma, dtype, classes):
    x = np.full((5, classes), -np.inf, dtype)
    x[:, 0] = [5, 10, 20, 30, 35]
    x[:, 1] = 0
    y = np.zeros(5, int)
    loss, grad = focal_loss_and_grad(x, y, gamma=gamma, reduction="none")
    losses, grads = expected(x, y, gamma)
    assert (losses > 0).all()
    assert_within(loss, losses, 10)
    assert_within(grad, grads, 15)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [3, 40])
def test_certain_samples(gamma, classes):
    """p = 1 exactly and p = 0 exactly."""
    x = np.full((2, classes), -np.inf)
    x[:, 0] = 0
    loss, grad = focal_loss_and_grad(x, [0, 1], gamma=gamma, reduction="none")
    assert loss.tolist() == [0, np.inf]
    assert not grad[0].any()
    np.testing.assert_array_equal(grad[1], [1.0, -1.0] + [0.0] * (classes - 2))


@pytest.mark.parametrize("classes", [3, 40])
def test_invalid_samples_stay_by_themselves(rng, classes):
    x, y = logits(rng, (4, classes)), labels_for(rng, (4, classes))
    x[1, 0], x[2] = np.nan, np.nan
    y[2] = -100
    loss, grad = focal_loss_and_grad(x, y, gamma=2.0, reduction="none")
    np.testing.assert_array_equal(np.isnan(loss), [False, True, False, False])
    assert loss[2] == 0
    assert not grad[2].any()
    assert np.isnan(grad[1]).all()
    assert np.isfinite(grad[[0, 3]]).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_against_torch(rng, reduction, gamma, dtype):
    x = torch.tensor(rng.normal(size=(60, 9)) * 2, dtype=dtype, requires_grad=True)
    y = torch.tensor(rng.integers(0, 9, 60))
    alpha = torch.tensor(rng.random(9) + 0.2, dtype=dtype)
    logp = torch.log_softmax(x, -1).gather(1, y[:, None])[:, 0]
    theirs = -alpha[y] * (1 - logp.exp()) ** gamma * logp
    g = torch.tensor(rng.normal(size=60), dtype=dtype) if reduction == "none" else torch.tensor(0.6, dtype=dtype)
    theirs = {"mean": theirs.sum() / alpha[y].sum(), "sum": theirs.sum(), "none": theirs}[reduction]
    theirs.backward(g)
    arrays = x.detach().numpy(), y.numpy()
    options = {"gamma": gamma, "alpha": alpha.numpy(), "reduction": reduction, "grad_output": g.numpy()}
    loss, grad = focal_loss_and_grad(*arrays, **options)
    tolerance = {"rtol": 100 * torch.finfo(dtype).eps, "atol": 100 * torch.finfo(dtype).eps}
    np.testing.assert_allclose(loss, theirs.detach().numpy(), **tolerance)
    np.testing.assert_allclose(grad, x.grad.numpy(), **tolerance)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_numeric_derivatives(rng, gamma):
    x, y = logits(rng, (5, 8), spread=1), labels_for(rng, (5, 8))
    options = {"gamma": gamma, "alpha": rng.random(8)}
    grad = focal_loss_and_grad(x, y, **options).grad
    v, step = rng.normal(size=x.shape), 1e-5
    high, low = (focal_loss(x + s * v, y, **options) for s in (step, -step))
    assert np.sum(grad * v) == pytest.approx((high - low) / (2 * step), rel=1e-7)


@pytest.mark.parametrize("classes", [6, 60])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_layouts(rng, name, classes, dtype):
    x, y = logits(rng, (3, 4, classes), dtype), labels_for(rng, (3, 4, classes))
    want = focal_loss_and_grad(x, y, gamma=2.0, reduction="none")
    got = focal_loss_and_grad(LAYOUTS[name](x), LAYOUTS[name](y), gamma=2.0, reduction="none")
    # "leading axes swapped" goes through other kernels
    assert_within(got.loss, np.asarray(want.loss, REAL), 8, computed(dtype))
    assert_within(got.grad, real(want.grad), 8, dtype)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axes(rng, axis):
    x, y = logits(rng, (5, 7, 6), np.float32), labels_for(rng, (5, 7, 6), axis)
    assert_matches_oracle("focal_loss_and_grad", x, y, gamma=1.5, axis=axis, reduction="none")


def test_reductions(rng):
    x, y = logits(rng, (50, 6)), labels_for(rng, (50, 6))
    y[:4] = 2
    alpha = np.linspace(0.5, 2, 6)
    for reduction in ("mean", "sum"):
        options = {"gamma": 2, "alpha": alpha, "ignore_index": 2, "reduction": reduction}
        assert_matches_oracle("focal_loss_and_grad", x, y, **options)


@pytest.mark.parametrize("axis", [0, 1])
def test_out_may_be_the_logits(rng, axis):
    x, y = logits(rng, (30, 30), np.float32), labels_for(rng, (30, 30))
    want = focal_loss_and_grad(x, y, gamma=2.0, axis=axis)
    got = focal_loss_and_grad(x, y, gamma=2.0, axis=axis, out=x)
    assert got.grad is x
    assert_same_bits(x, want.grad)
    assert got.loss == want.loss


def test_integers_and_halves(rng):
    x, y = rng.integers(-3, 3, (5, 4)), labels_for(rng, (5, 4)).astype(np.uint8)
    loss, grad = focal_loss_and_grad(x, y, gamma=2)
    assert loss.dtype == grad.dtype == np.float64
    half = focal_loss_and_grad(x.astype(np.float16), y, gamma=2)
    assert (half.loss.dtype, half.grad.dtype) == (np.float32, np.float16)
    assert half.loss == pytest.approx(float(loss), rel=1e-6)


def test_empty_and_ignored():
    for gamma in (0.0, 2.0):
        loss, grad = focal_loss_and_grad(np.empty((0, 3)), np.empty(0, int), gamma=gamma)
        assert np.isnan(loss)
        assert grad.shape == (0, 3)
        loss, grad = focal_loss_and_grad(np.ones((2, 3)), [-100, -100], gamma=gamma, alpha=[1, 2, 3])
        assert np.isnan(loss)
        assert not grad.any()
        assert focal_loss(np.ones((2, 3)), [-100, -100], gamma=gamma, reduction="sum") == 0
        assert focal_loss(np.empty((2, 0)), [-100, -100], gamma=gamma, alpha=[], reduction="sum") == 0


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_errors(gamma):
    x, y = np.zeros((2, 3)), np.array([0, 3])
    out = np.ones((2, 3))
    with pytest.raises(IndexError, match=r"target\[1\] is 3, expected a class index from 0 to 2 or ignore_index -100"):
        focal_loss_and_grad(x, y, gamma=gamma, out=out)
    with pytest.raises(ValueError, match=r"alpha must have shape \(3,\), a number or one per class, got \(2,\)"):
        focal_loss_and_grad(x, y, gamma=gamma, alpha=[1, 2], out=out)
    with pytest.raises(ValueError, match=r"label_smoothing must be from 0 to 1, got -0\.1"):
        focal_loss_and_grad(x, y, gamma=gamma, label_smoothing=-0.1, out=out)
    with pytest.raises(ValueError, match="alpha must be 0 or within the range of float64"):
        focal_loss_and_grad(x, y, gamma=gamma, alpha=np.inf, out=out)
    with pytest.raises(ValueError, match="alpha must be 0 or within the range of float32"):
        focal_loss_and_grad(x.astype(np.float32), y, gamma=gamma, alpha=1e39)
    with pytest.raises(ValueError, match="reduction must be"):
        focal_loss_and_grad(x, y, gamma=gamma, reduction="average", out=out)
    assert (out == 1).all()


def test_bad_gamma():
    for value in (-0.5, np.inf, np.nan):
        with pytest.raises(ValueError, match="gamma must be finite and at least 0, got"):
            focal_loss(np.zeros((1, 2)), [0], gamma=value)
    with pytest.raises(TypeError, match="gamma must be a real number, got 'two'"):
        focal_loss(np.zeros((1, 2)), [0], gamma="two")


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_sample_weights(rng, reduction, gamma):
    """Those of whole numbers are repetitions."""
    x, y = logits(rng, (6, 7)), labels_for(rng, (6, 7))
    y[1] = -100
    alpha, times = rng.random(7) + 0.5, np.array([1, 3, 0, 2, 1, 0])
    again = np.repeat(np.arange(6), times)
    options = {"gamma": gamma, "alpha": alpha, "reduction": reduction}
    loss, grad = focal_loss_and_grad(x, y, sample_weight=times, **options)
    np.testing.assert_array_equal(focal_loss(x, y, sample_weight=times, **options), loss)
    want = focal_loss_and_grad(x[again], y[again], **options)
    summed = np.zeros_like(grad)
    np.add.at(summed, again, want.grad)
    np.testing.assert_allclose(grad, summed, rtol=1e-13, atol=1e-18)
    if reduction == "none":
        np.testing.assert_allclose(np.repeat(loss / np.maximum(times, 1), times), want.loss, rtol=1e-14)
    else:
        assert loss == pytest.approx(want.loss, rel=1e-14)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(6,\), one per sample, got \(7,\)"):
        focal_loss(x, y, gamma=gamma, sample_weight=alpha)


@given(
    case=st.sampled_from([((4, 3), -1), ((3, 35), 1), ((4, 20, 3), 1), ((12, 5), 0), ((6,), 0)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    gamma=st.floats(0.1, 5.0),  # 0 is cross-entropy, to the bit
    spread=st.floats(0.0, 8.0),
    weights=st.sets(st.sampled_from(["alpha", "sample_weight"])),
    ignored=st.sampled_from([-100, 0]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    grad_output=st.sampled_from([None, -0.5, "each"]),
    seed=st.integers(0, 10),
)
def test_any_options(case, dtype, layout, gamma, spread, weights, ignored, reduction, grad_output, seed):
    (shape, axis), rng = case, np.random.default_rng(seed)
    x, y = logits(rng, shape, dtype, spread), np.asarray(labels_for(rng, shape, axis))
    made = {"alpha": rng.random(shape[axis]) + 0.1, "sample_weight": rng.integers(0, 5, y.shape) / 4}
    given_weights = {name: made[name] for name in weights}
    g = grad_output or 1.0
    if g == "each":
        g = rng.normal(size=y.shape) if reduction == "none" else 0.3
    options = {"gamma": gamma, "axis": axis, "ignore_index": ignored, "reduction": reduction, **given_weights}
    given = None if grad_output is None else g
    assert_matches_oracle("focal_loss_and_grad", LAYOUTS[layout](x), y, grad_output=given, **options)


def definition(x, t, gamma, weight):
    """torch's autograd of the formula."""
    logp = torch.log_softmax(x, -1)
    return -(weight * t * (1 - logp.exp()) ** gamma * logp).sum(-1)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "soft"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_target_against_torch(rng, reduction, kind, gamma):
    """With label smoothing, weights of classes and of samples."""
    x = torch.tensor(rng.normal(size=(40, 9)) * 2, requires_grad=True)
    y, e = rng.integers(0, 9, 40), 0.2
    target = {"labels": y, "one-hot": np.eye(9, dtype=int)[y], "soft": rng.dirichlet(np.ones(9), 40)}[kind]
    hot = torch.tensor(target if kind == "soft" else np.eye(9)[y])
    alpha, u = torch.tensor(rng.random(9) + 0.2), torch.tensor(rng.random(40))
    theirs = u * definition(x, hot * (1 - e) + e / 9, gamma, alpha)
    total = u.sum() if kind == "soft" else (u * alpha[y]).sum()
    theirs = {"mean": theirs.sum() / total, "sum": theirs.sum(), "none": theirs}[reduction]
    theirs.backward(torch.full_like(theirs, 0.7))
    options = {"alpha": alpha.numpy(), "sample_weight": u.numpy(), "label_smoothing": e, "reduction": reduction}
    ours = focal_loss_and_grad(x.detach().numpy(), target, gamma=gamma, grad_output=0.7, **options)
    np.testing.assert_allclose(ours.loss, theirs.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.grad, x.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_a_number_for_alpha_multiplies_the_loss(rng, kind, reduction, gamma):
    """And stays out of the denominator."""
    x, y, u = logits(rng, (6, 5)), labels_for(rng, (6, 5)), rng.random(6)
    y[2] = -100
    target = y if kind == "labels" else rng.dirichlet(np.ones(5), 6)
    options = {"gamma": gamma, "reduction": reduction, "sample_weight": u, "grad_output": 1.5}
    want = focal_loss_and_grad(x, target, **options)
    for alpha in (0.25, np.float32(0.25), np.array(0.25)):
        loss, grad = focal_loss_and_grad(x, target, alpha=alpha, **options)
        np.testing.assert_allclose(loss, 0.25 * want.loss, rtol=1e-15)
        np.testing.assert_allclose(grad, 0.25 * want.grad, rtol=1e-14)
    loss, grad = focal_loss_and_grad(x, target, alpha=0, **options)
    assert not np.any(loss)
    assert not grad.any()
    if kind == "labels":
        assert np.isnan(focal_loss(x, np.full(6, -100), gamma=gamma, alpha=0.25))


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("classes", [2, 40])
def test_confident_one_hot_probabilities_keep_their_digits(gamma, dtype, classes):
    x = np.full((5, classes), -np.inf, dtype)
    x[:, 0] = [5, 10, 20, 30, 35]
    x[:, 1] = 0
    t = np.eye(classes)[np.zeros(5, int)]
    loss, grad = focal_loss_and_grad(x, t, gamma=gamma, reduction="none")
    losses, grads = expected(x, np.zeros(5, int), gamma)
    assert (losses > 0).all()
    assert_within(loss, losses, 12)
    assert_within(grad, grads, 18)


def test_certain_and_invalid_samples_of_probabilities():
    x = np.array([[0.0, -np.inf, -np.inf], [0, -np.inf, -np.inf], [np.nan, 0, 0], [np.nan, 0, 0], [1, 2, 3]])
    t = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [1, 0, 0], [1, 0, 0], [0.5, 0.25, 0.25]])
    loss, grad = focal_loss_and_grad(x, t, gamma=2.0, sample_weight=[1, 1, 1, 0, 1], reduction="none")
    assert (loss[0], loss[1], loss[3]) == (0, np.inf, 0)
    assert not grad[[0, 3]].any()
    np.testing.assert_array_equal(grad[1], [0.5, -0.5, 0])
    assert np.isnan(loss[2])
    assert np.isnan(grad[2]).all()
    assert np.isfinite(loss[4])


@given(
    case=st.sampled_from([((4, 3), -1), ((3, 35), 1), ((4, 20, 3), 1), ((12, 5), 0), ((6,), 0)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    gamma=st.floats(0.1, 5.0) | st.just(2.0),
    spread=st.floats(0.0, 8.0),
    weights=st.sets(st.sampled_from(["alpha", "sample_weight"])),
    kind=st.sampled_from(["labels", "soft"]),
    amount=st.sampled_from([0.1, 1.0]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    seed=st.integers(0, 10),
)
def test_any_options_of_classes(case, dtype, layout, gamma, spread, weights, kind, amount, reduction, seed):
    (shape, axis), rng = case, np.random.default_rng(seed)
    x, y = logits(rng, shape, dtype, spread), np.asarray(labels_for(rng, shape, axis))
    target = y if kind == "labels" else LAYOUTS[layout](rng.random(shape))
    alpha = rng.random() if seed % 2 else rng.random(shape[axis]) + 0.1
    made = {"alpha": alpha, "sample_weight": rng.integers(1, 5, y.shape) / 4}
    options = {"gamma": gamma, "axis": axis, "label_smoothing": amount, "reduction": reduction}
    options |= {name: made[name] for name in weights}
    assert_matches_oracle("focal_loss_and_grad", LAYOUTS[layout](x), target, eps=4, **options)
