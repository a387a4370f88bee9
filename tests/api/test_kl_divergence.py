"""The divergence between the softmaxes of two arrays of logits."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastce import kl_divergence, kl_divergence_and_grad
from tests.api.divergences import SHAPES, pair
from tests.helpers import (
    SIZES,
    WIDE,
    assert_same_bits,
    assert_within,
    computed,
    finfo,
    logits,
    name_of,
    shapes_and_dtypes,
)
from tests.oracle import reference_losses
from tests.oracle.layouts import LAYOUTS


def expected(x, z, axis=-1, temperature=1.0):
    """The losses, the gradients of their sum and what those are measured by: exp(x) turns errors relative to x into
    absolute ones."""
    rows = (np.moveaxis(a, axis, -1) for a in (x, z))
    losses, grads, logp, logq = reference_losses.kl_divergence(*rows, temperature)
    with np.errstate(invalid="ignore"):
        size = sum(np.where(logs == -np.inf, 0, np.exp(logs) * (1 - logs)) for logs in (logp, logq)) / temperature
    return losses, np.moveaxis(grads, -1, axis), np.moveaxis(size, -1, axis)


@pytest.mark.parametrize("near", [3.0, 1e-2, 1e-5])
def test_the_oracle(rng, near):
    x, z = pair(rng, (5, 6), np.float64, near)
    losses = expected(x, z, temperature=0.3)[0]
    with mpmath.workdps(60):
        for loss, *rows in zip(losses, x, z, strict=True):
            (p, q) = ([mpmath.exp(mpmath.mpf(v) / mpmath.mpf(0.3)) for v in row] for row in rows)
            (p, q) = ([v / mpmath.fsum(e) for v in e] for e in (p, q))
            exact = mpmath.fsum(b * mpmath.log(b / a) for a, b in zip(p, q, strict=True))
            assert float(loss) == pytest.approx(float(exact), rel=1e-14)


@shapes_and_dtypes(SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.3])
def test_against_the_definition(rng, shape, dtype, temperature):
    x, z = pair(rng, shape, dtype)
    before = x.copy(), z.copy()
    loss, grad = kl_divergence_and_grad(x, z, temperature=temperature, reduction="none")
    losses, grads, size = expected(x, z, temperature=temperature)
    assert_within(loss, losses, 60, computed(dtype), message="loss")
    assert_within(grad, grads, 8, dtype, scale=size, message="gradient")
    assert_same_bits(kl_divergence(x, z, temperature=temperature, reduction="none"), loss)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(z, before[1])


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("near", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("shape", [(50, 10), (50, 100), (5, 3000)], ids=name_of)
def test_a_small_divergence_keeps_its_digits(rng, shape, near, dtype):
    x, z = pair(rng, shape, dtype, near)
    loss, grad = kl_divergence_and_grad(x, z, reduction="none")
    losses, grads, size = expected(x, z)
    assert losses.max() < 10 * near**2
    assert_within(loss, losses, 40, message="loss")
    assert_within(grad, grads, 8, scale=size, message="gradient")


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("offset", [1e3, -3e4, 1e30])
@pytest.mark.parametrize("classes", [3, 40])
def test_an_offset_hides_nothing(rng, classes, offset, dtype):
    """What the logits are apart is rounded from the logits, not from the offset between the two arrays."""
    x, z = pair(rng, (20, classes), dtype)
    x = (x + offset).astype(dtype)
    loss, grad = kl_divergence_and_grad(x, z, reduction="none")
    losses, grads, size = expected(x, z)
    assert_within(loss, losses, 60, message="loss")
    assert_within(grad, grads, 8, scale=size, message="gradient")


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(40, 10), (40, 100)], ids=name_of)
def test_against_torch(rng, shape, dtype, temperature):
    x, z = (torch.tensor(rng.normal(size=shape) * 3, dtype=dtype) for _ in range(2))
    x.requires_grad_()
    logp, logq = (torch.log_softmax(a / temperature, -1) for a in (x, z))
    theirs = torch.nn.functional.kl_div(logp, logq, log_target=True, reduction="batchmean") * temperature**2
    theirs.backward()
    options = {"temperature": temperature, "grad_output": temperature**2}
    loss, grad = kl_divergence_and_grad(x.detach().numpy(), z.numpy(), **options)
    eps = torch.finfo(dtype).eps
    assert float(loss) * temperature**2 == pytest.approx(float(theirs.detach()), rel=200 * eps)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=0, atol=20 * eps * temperature)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [7, 50])
def test_numeric_derivatives(rng, classes, reduction):
    x, z = pair(rng, (4, classes), np.float64)
    g = rng.normal(size=4) if reduction == "none" else 1.7
    options = {"temperature": 2.0, "reduction": reduction}
    grad = kl_divergence_and_grad(x, z, grad_output=g, **options).grad
    v, step = rng.normal(size=x.shape), 1e-5
    high, low = (np.sum(g * kl_divergence(x + s * v, z, **options)) for s in (step, -step))
    assert np.sum(grad * v) == pytest.approx((high - low) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("classes", [4, 40])
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_no_target_no_share(rng, classes, dtype):
    """-inf in the target's logits is the same as leaving the class out of its sum."""
    x, z = pair(rng, (6, classes), dtype)
    z[:, 1] = -np.inf
    x[2, 1] = -np.inf
    loss, grad = kl_divergence_and_grad(x, z, reduction="none")
    losses, grads, size = expected(x, z)
    assert_within(loss, losses, 60)
    assert_within(grad, grads, 8, scale=size)


@pytest.mark.parametrize("classes", [4, 40])
def test_infinite_loss(rng, classes):
    x, z = pair(rng, (3, classes), np.float32)
    x[1, 2] = -np.inf
    loss, grad = kl_divergence_and_grad(x, z, reduction="none")
    assert loss[1] == np.inf
    assert np.isfinite(loss[[0, 2]]).all()
    _, grads, size = expected(x, z)
    assert_within(grad, grads, 8, scale=size)


@pytest.mark.parametrize("classes", [4, 40])
def test_far_apart(classes):
    """Confident and opposite: shares that underflow are 0, what is left is finite."""
    x, z = np.zeros((2, 1, classes), np.float32)
    x[0, 0], z[0, 1] = 3e4, 3e4
    loss, grad = kl_divergence_and_grad(x, z)
    assert loss == 3e4
    np.testing.assert_array_equal(grad[0], [1.0, -1.0] + [0.0] * (classes - 2))


def test_errors():
    x = np.zeros((4, 3))
    for value in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"temperature must be from 2\.23e-308 to 4\.49e\+307 in float64, got"):
            kl_divergence(x, x, temperature=value)
    with pytest.raises(TypeError, match="temperature must be a real number, got 'hot'"):
        kl_divergence(x, x, temperature="hot")
    with pytest.raises(ValueError, match=r"target_logits must have the shape of logits, \(4, 3\), got \(4,\)"):
        kl_divergence(x, np.zeros(4))
    with pytest.raises(TypeError, match="target_logits must hold real numbers"):
        kl_divergence(x, x.astype(complex))
    with pytest.raises(TypeError, match="target_logits must not be a masked array"):
        kl_divergence(x, np.ma.masked_array(x))
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'batchmean'"):
        kl_divergence(x, x, reduction="batchmean")
    with pytest.raises(np.exceptions.AxisError):
        kl_divergence(x, x, axis=2)
    memory = np.zeros((5, 3))
    with pytest.raises(ValueError, match="out must not overlap target_logits, unless it is the very same array"):
        kl_divergence_and_grad(x, memory[:4], out=memory[1:])
    out = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"grad_output must have shape \(4,\), the loss's, got \(3,\)"):
        kl_divergence_and_grad(x, x, reduction="none", grad_output=np.ones(3), out=out)
    with pytest.raises(ValueError, match="grad_output must be a scalar here"):
        kl_divergence_and_grad(x, x, grad_output=np.ones(4), out=out)
    assert (out == 1).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [7, 50])
def test_sample_weights(rng, classes, reduction):
    """Those of whole numbers are repetitions, 0 among them."""
    x, z = pair(rng, (6, classes), np.float64)
    times = np.array([1, 3, 0, 2, 1, 0])
    again = np.repeat(np.arange(6), times)
    loss, grad = kl_divergence_and_grad(x, z, sample_weight=times, temperature=2.0, reduction=reduction)
    alone = kl_divergence(x, z, sample_weight=times, temperature=2.0, reduction=reduction)
    np.testing.assert_array_equal(alone, loss)
    want = kl_divergence_and_grad(x[again], z[again], temperature=2.0, reduction=reduction)
    summed = np.zeros_like(grad)
    np.add.at(summed, again, want.grad)
    np.testing.assert_allclose(grad, summed, rtol=1e-13, atol=1e-18)
    if reduction == "none":
        np.testing.assert_allclose(np.repeat(loss / np.maximum(times, 1), times), want.loss, rtol=1e-14)
    else:
        assert loss == pytest.approx(want.loss, rel=1e-14)
    assert np.isnan(kl_divergence(x, z, sample_weight=np.zeros(6)))
    x[2, 1] = -np.inf  # where the weight is 0
    assert kl_divergence(x, z, sample_weight=times, temperature=2.0, reduction=reduction).tolist() == loss.tolist()


def test_sample_weights_of_images(rng):
    x, z = pair(rng, (2, 40, 3, 4), np.float32)
    u = rng.random((2, 3, 4))
    each = kl_divergence(x, z, axis=1, reduction="none")
    weighted = kl_divergence(x, z, axis=1, sample_weight=u, reduction="none")
    np.testing.assert_allclose(weighted, u * each, rtol=2e-7)
    assert kl_divergence(x, z, axis=1, sample_weight=u) == pytest.approx((u * each).sum() / u.sum(), rel=1e-6)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(2, 3, 4\), one per sample, got \(2,\)"):
        kl_divergence(x, z, axis=1, sample_weight=[1, 1])


@given(
    case=st.sampled_from([((4, 3), -1), ((3, 35), 1), ((2, 600), -1), ((4, 20, 3), 1), ((12, 5), 0), ((6,), 0)]),
    dtype=st.sampled_from(SIZES),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    temperature=st.floats(0.5, 20.0),
    spread=st.floats(0.0, 10.0),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    grad_output=st.sampled_from([None, -0.5, "each"]),
    seed=st.integers(0, 10),
)
def test_any_options(case, dtype, layouts, temperature, spread, weighted, reduction, grad_output, seed):
    (shape, axis), rng = case, np.random.default_rng(seed)
    x, z = pair(rng, shape, dtype, spread)
    samples = tuple(np.delete(shape, axis))
    u = rng.integers(1, 5, samples) / 4 if weighted else np.ones(samples)
    g = grad_output or 1.0
    if g == "each":
        g = rng.normal(size=samples) if reduction == "none" else 0.3
    loss, grad = kl_divergence_and_grad(
        LAYOUTS[layouts[0]](x), LAYOUTS[layouts[1]](z), axis=axis, temperature=temperature,
        sample_weight=u if weighted else None, reduction=reduction, grad_output=None if grad_output is None else g,
    )  # fmt: skip
    losses, grads, size = expected(x, z, axis, temperature)
    losses = losses * u
    count = u.sum() if reduction == "mean" else 1
    wanted = losses if reduction == "none" else losses.sum() / count
    # log p - log q is as exact as x - max(x); its square counts, the root of what is then left of a small loss
    eps = float(finfo(computed(dtype)).eps)
    assert_within(loss, wanted, 100, computed(dtype), scale=wanted + 0.1 * np.sqrt(wanted) + eps)
    factor = np.expand_dims(u * g, axis) / count
    assert_within(grad, grads * factor, 8, dtype, scale=size * np.abs(factor))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_tiny_weights_raise_no_numpy_error(reduction, rng):
    """Seen to fail: where only overflow and invalid operations were left alone."""
    x, z = logits(rng, (5, 7), np.float32), logits(rng, (5, 7), np.float32)
    upstream = np.full(5, 1e-30, np.float32) if reduction == "none" else 1e-30
    weights = np.full(5, 1e-38, np.float32)
    with np.errstate(all="raise"):
        result = kl_divergence_and_grad(x, z, sample_weight=weights, reduction=reduction, grad_output=upstream)
    assert np.isfinite(result.loss).all()
    assert np.isfinite(result.grad).all()
