"""sigmoid_focal_loss and its gradient."""

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import fastce
from fastce import sigmoid_focal_loss, sigmoid_focal_loss_and_grad
from tests.helpers import DTYPES, SIZES, WIDE, assert_same_bits, computed, finfo, in_parallel, logits, name_of
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS

INF, NAN = np.inf, np.nan
GAMMAS = [0.0, 0.5, 1.0, 1.3, 2.0, 3.7]


def torchvision(x, t, alpha, gamma):
    """The loss as ``torchvision.ops.sigmoid_focal_loss`` documents it; -1 leaves out the factor of alpha."""
    p = torch.sigmoid(x)
    entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    p_t = p * t + (1 - p) * (1 - t)
    loss = entropy * (1 - p_t) ** gamma
    return loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_against_torchvision(rng, gamma, reduction):
    x = torch.tensor(rng.normal(size=(7, 9)) * 3, requires_grad=True)
    for t in (torch.tensor(rng.integers(0, 2, x.shape) * 1.0), torch.tensor(rng.random(x.shape))):
        for alpha in (None, 0.25, 0.9):
            x.grad = None
            theirs = torchvision(x, t, -1 if alpha is None else alpha, gamma)
            theirs = theirs if reduction == "none" else getattr(theirs, reduction)()
            theirs.backward(torch.full_like(theirs, 0.7))
            options = {"gamma": gamma, "alpha": alpha, "reduction": reduction}
            ours = sigmoid_focal_loss_and_grad(x.detach().numpy(), t.numpy(), grad_output=0.7, **options)
            np.testing.assert_allclose(ours.loss, theirs.detach().numpy(), rtol=1e-12)
            np.testing.assert_allclose(ours.grad, x.grad.numpy(), rtol=1e-11, atol=1e-14)


def test_the_defaults_are_torchvisions_but_for_the_reduction(rng):
    x, t = rng.normal(size=20), rng.integers(0, 2, 20) * 1.0
    theirs = torchvision(torch.tensor(x), torch.tensor(t), 0.25, 2.0).mean().item()
    assert sigmoid_focal_loss(x, t) == pytest.approx(theirs, rel=1e-14)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_gamma_0_is_binary_cross_entropy_to_the_bit(rng, dtype, alpha):
    x, t = logits(rng, 301, dtype, spread=9), rng.integers(0, 2, 301).astype(computed(dtype))
    x[:4] = [INF, -INF, INF, -INF]
    t[4:50] = rng.random(46)
    weight = None
    if alpha is not None:
        one = computed(dtype).type(1)
        weight = t * computed(dtype).type(alpha) + (one - t) * computed(dtype).type(1 - alpha)
    for options in ({"reduction": "none", "grad_output": rng.normal(size=301)}, {"reduction": "sum"}, {}):
        ours = sigmoid_focal_loss_and_grad(x, t, gamma=0, alpha=alpha, **options)
        theirs = fastce.binary_cross_entropy_with_logits_and_grad(x, t, weight=weight, **options)
        assert_same_bits(np.asarray(ours.loss), np.asarray(theirs.loss))
        assert_same_bits(ours.grad, theirs.grad)


def exact(x, t, gamma):
    """Loss and derivative of a target of 0 or 1."""
    x, gamma = mpmath.mpf(float(x)) * (1 if t else -1), mpmath.mpf(gamma)
    wrong, right = 1 / (1 + mpmath.exp(x)), 1 / (1 + mpmath.exp(-x))
    entropy = mpmath.log1p(mpmath.exp(-x))
    return wrong**gamma * entropy, -(wrong**gamma) * (wrong + gamma * right * entropy) * (1 if t else -1)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_relative_precision_however_confident(gamma, dtype):
    """Over all logits whose losses are normal numbers.

    Seen to fail: with a power of 1 - p_t whose exponent was rounded: errors of 90 eps.
    """
    x = np.linspace(-700, 700, 1201).astype(dtype) if dtype == np.float64 else np.linspace(-86, 86, 689, dtype=dtype)
    eps, tiny = (mpmath.mpf(float(v)) for v in (finfo(dtype).eps, finfo(dtype).tiny))
    with mpmath.workprec(150):
        for t in (0, 1):
            found = sigmoid_focal_loss_and_grad(x, np.full(x.size, t), gamma=gamma, alpha=None, reduction="none")
            for k, results in enumerate(found):
                wanted = [exact(v, t, gamma)[k] for v in x]
                errors = [
                    abs(mpmath.mpf(float(a)) / b - 1) / eps
                    for a, b in zip(results, wanted, strict=True)
                    if abs(b) > 4 * tiny
                ]
                assert len(errors) > 300
                assert max(errors) <= 9 + gamma, f"target {t}, {('loss', 'gradient')[k]}"


@pytest.mark.usefixtures("parallel_in_float32")
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [(), (1,), (17,), (4097,), (3, 4, 5), (220, 300)], ids=name_of)
def test_against_the_definition(rng, shape, dtype):
    assert in_parallel((220, 300))
    x, t = np.asarray(logits(rng, shape, dtype, spread=6)), rng.random(shape)
    for gamma in (2.0, 0.7):
        loss, _ = assert_matches_oracle("sigmoid_focal_loss_and_grad", x, t, gamma=gamma, reduction="none", eps=9)
        assert_same_bits(np.asarray(sigmoid_focal_loss(x, t, gamma=gamma, reduction="none")), np.asarray(loss))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_infinite_logits(dtype, gamma):
    x, t = np.array([INF, -INF, INF, -INF, INF], dtype), np.array([1.0, 0, 0, 1, 0.5])
    loss, grad = sigmoid_focal_loss_and_grad(x, t, gamma=gamma, alpha=None, reduction="none")
    np.testing.assert_array_equal(loss, [0, 0, INF, INF, INF])
    np.testing.assert_array_equal(grad[:4], np.array([0, 0, 1, -1], dtype))
    assert grad[4] == np.array(0.5 ** (1 + gamma), dtype) or abs(float(grad[4]) / 0.5 ** (1 + gamma) - 1) < 1e-3
    least = np.finfo(np.float32).smallest_subnormal
    assert sigmoid_focal_loss(np.float32(-INF), least, gamma=gamma) == INF


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_weight_0_leaves_out(bad):
    """An alpha of 0 leaves out the positive elements, one of 1 the negative ones."""
    for alpha, out in ((0.0, 1), (1, 0)):
        loss, grad = sigmoid_focal_loss_and_grad([bad, 0.5], [out, 1 - out], alpha=alpha, reduction="none")
        assert loss[0] == grad[0] == 0
        assert loss[1] > 0
        assert np.isfinite(sigmoid_focal_loss([bad, 0.5], [out, 1 - out], alpha=alpha))


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_nan_stays_where_it_is(rng, dtype):
    x, t = logits(rng, 20, dtype), rng.random(20).astype(dtype)
    x[3], t[18] = NAN, NAN
    for gamma in (2.0, 0.7):
        for result in sigmoid_focal_loss_and_grad(x, t, gamma=gamma, reduction="none"):
            np.testing.assert_array_equal(np.flatnonzero(np.isnan(result)), [3, 18])


@pytest.mark.parametrize("gamma", [1e-3, 60.0, 1e6, 1.5e38])
def test_exponents_of_any_size(gamma):
    x = np.array([-INF, -90, -2, 0, 2, 90, INF], np.float32)
    loss, grad = sigmoid_focal_loss_and_grad(x, np.ones(7), gamma=gamma, alpha=None, reduction="none")
    assert not np.isnan(loss).any()
    assert not np.isnan(grad).any()
    assert (np.diff(loss) <= 0).all()
    assert (grad <= 0).all()


def test_empty_and_types():
    loss, grad = sigmoid_focal_loss_and_grad(np.empty((0, 3), np.float16), np.empty((0, 3)))
    assert np.isnan(loss)
    assert (loss.dtype, grad.dtype, grad.shape) == (np.float32, np.float16, (0, 3))
    assert sigmoid_focal_loss([], [], reduction="sum") == 0
    loss, grad = sigmoid_focal_loss_and_grad([1, 2], [True, False])
    assert loss.dtype == grad.dtype == np.float64


def test_out(rng):
    x, t = logits(rng, (30, 8), np.float32), rng.integers(0, 2, (30, 8))
    want = sigmoid_focal_loss_and_grad(x, t, gamma=1.5)
    got = sigmoid_focal_loss_and_grad(x, t, gamma=1.5, out=x)
    assert got.grad is x
    assert_same_bits(x, want.grad)


def test_errors():
    x, t, out = np.zeros(3), np.zeros(3), np.ones(3)
    for gamma in (-0.5, INF, NAN):
        with pytest.raises(ValueError, match="gamma must be finite and at least 0, got"):
            sigmoid_focal_loss_and_grad(x, t, gamma=gamma, out=out)
    with pytest.raises(ValueError, match=r"gamma must be 0 or within the range of float32"):
        sigmoid_focal_loss(np.float32(0), 0, gamma=1e39)
    for alpha in (-1, 1.5, NAN):
        with pytest.raises(ValueError, match="alpha must be from 0 to 1, or None for no weights, got"):
            sigmoid_focal_loss_and_grad(x, t, alpha=alpha, out=out)
    with pytest.raises(TypeError, match="gamma must be a real number, got 'two'"):
        sigmoid_focal_loss(x, t, gamma="two")
    with pytest.raises(ValueError, match=r"target must have the shape of logits, \(3,\), got \(2,\)"):
        sigmoid_focal_loss_and_grad(x, t[:2], out=out)
    assert (out == 1).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_numeric_derivatives(rng, gamma):
    x, t = logits(rng, (5, 8), spread=1), rng.random((5, 8))
    grad = sigmoid_focal_loss_and_grad(x, t, gamma=gamma).grad
    v, step = rng.normal(size=x.shape), 1e-5
    high, low = (sigmoid_focal_loss(x + s * v, t, gamma=gamma) for s in (step, -step))
    assert np.sum(grad * v) == pytest.approx((high - low) / (2 * step), rel=1e-7)


@given(
    shape=st.sampled_from([(), (5,), (4, 6), (3, 4, 6)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    target=st.sampled_from(["hard", "soft"]),
    gamma=st.just(0.0) | st.floats(0.01, 5.0),
    alpha=st.sampled_from([None, 0.0, 0.25, 1.0]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    grad_output=st.sampled_from([None, -1.7, "each"]),
    infinite=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_options(shape, dtype, layout, target, gamma, alpha, reduction, grad_output, infinite, seed):
    rng = np.random.default_rng(seed)
    x = np.asarray(logits(rng, shape, np.float64))
    if infinite:
        x = np.where(rng.random(shape) < 0.3, np.inf * np.sign(x), x)
    x = x.astype(dtype)
    x = LAYOUTS[layout](x) if shape else x
    t = rng.integers(0, 2, shape) if target == "hard" else rng.integers(0, 5, shape) / 4
    if grad_output == "each":
        grad_output = rng.normal(size=shape) if reduction == "none" else 0.3
    options = {"gamma": gamma, "alpha": alpha, "reduction": reduction, "grad_output": grad_output}
    assert_matches_oracle("sigmoid_focal_loss_and_grad", x, t, eps=9, **options)
