"""The Jensen-Shannon divergence, and the reversed Kullback-Leibler divergence, which has the same kernels."""

import functools

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastce
from fastce import jensen_shannon, jensen_shannon_and_grad, kl_divergence, kl_divergence_and_grad
from tests.api.divergences import BETAS, FUNCTIONS, SHAPES, pair
from tests.helpers import SIZES, WIDE, assert_same_bits, name_of, shapes_and_dtypes
from tests.oracle import reference_losses
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS

SHARES = [*BETAS, "reverse"]
EACH = pytest.mark.parametrize("share", SHARES)
FEW_AND_MANY = pytest.mark.parametrize("classes", [4, 40])


def exact(x, z, share):
    """The loss of a row and the gradient, by the definition, to 60 digits."""
    with mpmath.workdps(60):
        p, q = ([mpmath.exp(mpmath.mpf(float(v))) for v in row] for row in (x, z))
        p, q = ([v / mpmath.fsum(e) for v in e] for e in (p, q))
        pairs = list(zip(p, q, strict=True))
        if share == "reverse":
            b, m, loss = mpmath.mpf(1), q, mpmath.fsum(u * mpmath.log(u / v) for u, v in pairs)
        else:
            a, b = mpmath.mpf(share), 1 - mpmath.mpf(share)
            m = [a * v + b * u for u, v in pairs]
            each = (a * v * mpmath.log(v / w) + b * u * mpmath.log(u / w) for (u, v), w in zip(pairs, m, strict=True))
            loss = mpmath.fsum(each)
        g = [mpmath.log(u / w) for u, w in zip(p, m, strict=True)]
        k = mpmath.fsum(u * v for u, v in zip(p, g, strict=True))
        return loss, [b * u * (v - k) for u, v in zip(p, g, strict=True)]


def assert_exact(loss, grad, x, z, share, of_loss=20, of_grad=12):
    """Errors below so many eps: of the loss itself, and of the greatest entry of a sample's gradient."""
    eps = float(np.finfo(loss.dtype).eps)
    for actual, slope, *rows in zip(loss, grad, x, z, strict=True):
        value, slopes = exact(*rows, share)
        assert abs(float((actual - value) / value)) <= of_loss * eps
        error = max(abs(float(s) - e) for s, e in zip(slope, slopes, strict=True))
        assert error <= of_grad * eps * max(map(abs, slopes))


# --- values ----------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("near", [3.0, 1e-2, 1e-4])
def test_the_oracle(rng, near, share):
    x, z = pair(rng, (5, 6), np.float64, near)
    found = reference_losses.reversed_kl(x, z) if share == "reverse" else reference_losses.jensen_shannon(x, z, share)
    for loss, grad, *rows in zip(*found[:2], x, z, strict=True):
        value, slopes = exact(*rows, share)
        assert float(loss) == pytest.approx(float(value), rel=1e-12)
        np.testing.assert_allclose(grad.astype(float), np.float64(slopes), rtol=0, atol=1e-13 * float(max(slopes)))


@shapes_and_dtypes(SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.3])
@EACH
def test_against_the_oracle(rng, shape, dtype, temperature, share):
    x, z = pair(rng, shape, dtype)
    before = x.copy(), z.copy()
    name, option = ("kl_divergence", {"reverse": True}) if share == "reverse" else ("jensen_shannon", {"beta": share})
    options = {"temperature": temperature, "reduction": "none", **option}
    loss, _ = assert_matches_oracle(f"{name}_and_grad", x, z, **options)
    assert_same_bits(getattr(fastce, name)(x, z, **options), loss)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(z, before[1])


@pytest.mark.parametrize("share", [*SHARES, 1e-6, 1 - 1e-6])
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("near", [10.0, 1.0, 0.4, 1e-2, 1e-5])
@pytest.mark.parametrize("classes", [2, 7, 50])
def test_all_digits(rng, classes, near, dtype, share):
    """However near p and q, however confident, and however small the share of one of them."""
    x, z = pair(rng, (4, classes), dtype, near)
    call = FUNCTIONS.get(share) or functools.partial(jensen_shannon_and_grad, beta=share)
    loss, grad = call(x, z, reduction="none")
    assert_exact(loss, grad, x, z, share)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@EACH
def test_confident(dtype, share):
    x, z = np.zeros((2, 1, 5), dtype)
    x[0, 1], z[0, 1] = 18, 15
    assert_exact(*FUNCTIONS[share](x, z, reduction="none"), x, z, share)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("offset", [1e3, -3e4])
@EACH
def test_an_offset_hides_nothing(rng, offset, dtype, share):
    x, z = pair(rng, (5, 6), dtype)
    x = (x + offset).astype(dtype)
    loss, grad = FUNCTIONS[share](x, z, reduction="none")
    assert_exact(loss, grad, x - dtype.type(offset), z, share, 60, 40)


@FEW_AND_MANY
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_the_ends_of_beta(rng, classes, dtype):
    x, z = pair(rng, (6, classes), dtype)
    for beta, reverse in ((0, False), (1, True), (np.float32(1), True)):
        got = jensen_shannon_and_grad(x, z, beta=beta, reduction="none")
        want = kl_divergence_and_grad(x, z, reverse=reverse, reduction="none")
        assert_same_bits(got.loss, want.loss)
        assert_same_bits(got.grad, want.grad)


@FEW_AND_MANY
def test_symmetry(rng, classes):
    """Reversed is the divergence of swapped arrays; beta of the one is 1 - beta of the other."""
    x, z = pair(rng, (6, classes), np.float64)
    np.testing.assert_allclose(
        kl_divergence(x, z, reverse=True, reduction="none"), kl_divergence(z, x, reduction="none"), rtol=1e-14
    )
    for beta in (0.5, 0.25):
        ours = jensen_shannon(x, z, beta=beta, reduction="none")
        np.testing.assert_allclose(ours, jensen_shannon(z, x, beta=1 - beta, reduction="none"), rtol=1e-14)


@FEW_AND_MANY
@pytest.mark.parametrize("beta", [1e-9, 1 - 1e-9])
def test_limits_of_beta(rng, classes, beta):
    """Divided by beta (1 - beta), it tends to the divergences of either direction."""
    x, z = pair(rng, (6, classes), np.float64)
    loss, grad = jensen_shannon_and_grad(x, z, beta=beta, reduction="none")
    want = kl_divergence_and_grad(x, z, reverse=beta > 0.5, reduction="none")
    np.testing.assert_allclose(loss / (beta * (1 - beta)), want.loss, rtol=1e-5)
    np.testing.assert_allclose(grad / (beta * (1 - beta)), want.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(40, 10), (40, 100)], ids=name_of)
@EACH
def test_against_torch(rng, shape, dtype, temperature, share):
    """The formula of Liger's own tests."""
    x, z = (torch.tensor(rng.normal(size=shape) * 3, dtype=dtype) for _ in range(2))
    x.requires_grad_()
    logp, logq = (torch.log_softmax(a / temperature, -1) for a in (x, z))
    kl = torch.nn.KLDivLoss(reduction="batchmean", log_target=True)
    if share == "reverse":
        theirs = kl(logq, logp)
    else:
        logm = torch.log(share * logq.exp() + (1 - share) * logp.exp())
        theirs = share * kl(logm, logq) + (1 - share) * kl(logm, logp)
    theirs = theirs * temperature**2
    theirs.backward()
    options = {"temperature": temperature, "grad_output": temperature**2}
    loss, grad = FUNCTIONS[share](x.detach().numpy(), z.numpy(), **options)
    eps = torch.finfo(dtype).eps
    assert float(loss) * temperature**2 == pytest.approx(float(theirs.detach()), rel=200 * eps)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=0, atol=40 * eps * temperature)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [7, 50])
@EACH
def test_numeric_derivatives(rng, classes, reduction, share):
    x, z = pair(rng, (4, classes), np.float64)
    g = rng.normal(size=4) if reduction == "none" else 1.7
    call = functools.partial(FUNCTIONS[share], temperature=2.0, reduction=reduction)
    grad = call(x, z, grad_output=g).grad
    v, step = rng.normal(size=x.shape), 1e-5
    high, low = (np.sum(g * call(x + s * v, z).loss) for s in (step, -step))
    assert np.sum(grad * v) == pytest.approx((high - low) / (2 * step), rel=1e-6)


# --- corners ---------------------------------------------------------------------------------


@FEW_AND_MANY
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("beta", BETAS)
def test_classes_without_a_share(rng, classes, dtype, beta):
    """-inf in either array or both is the limit of ever lower logits: never NaN."""
    x, z = pair(rng, (6, classes), dtype)
    x[:4, 1], z[2:, 1] = -np.inf, -np.inf
    z[1, 2] = -np.inf
    loss, grad = jensen_shannon_and_grad(x, z, beta=beta, reduction="none")
    low = [np.where(v == -np.inf, -50000, v).astype(dtype) for v in (x, z)]
    want = jensen_shannon_and_grad(*low, beta=beta, reduction="none")
    assert_same_bits(loss, want.loss)
    np.testing.assert_array_equal(grad, want.grad)
    assert np.isfinite(loss).all()
    assert_matches_oracle("jensen_shannon_and_grad", x, z, beta=beta, reduction="none")


@FEW_AND_MANY
def test_disjoint(classes):
    """The greatest loss that there is; what is left of the gradient is 0."""
    x, z = np.zeros((2, 1, classes), np.float32)
    x[0, 1:], z[0, :1] = -np.inf, -np.inf
    for beta in BETAS:
        loss, grad = jensen_shannon_and_grad(x, z, beta=beta)
        assert loss == pytest.approx(-beta * np.log(beta) - (1 - beta) * np.log1p(-beta), rel=1e-6)
        assert not grad.any()


@FEW_AND_MANY
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("size", [3e4, 1e30, "max"])
def test_huge_values(classes, dtype, size):
    size = np.finfo(dtype).max / 2 if size == "max" else size
    x, z = np.zeros((2, 1, classes), dtype)
    x[0, 0], z[0, 1] = size, size
    for beta in BETAS:
        loss, grad = jensen_shannon_and_grad(x, z, beta=beta)
        assert loss == pytest.approx(-beta * np.log(beta) - (1 - beta) * np.log1p(-beta), rel=1e-6)
        assert not grad.any()
    loss, grad = kl_divergence_and_grad(x, z, reverse=True)
    assert loss == dtype.type(size)
    assert not grad[0, 2:].any()
    assert np.isfinite(grad).all()


@FEW_AND_MANY
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_reversed_without_a_share(rng, classes, dtype):
    x, z = pair(rng, (6, classes), dtype)
    x[:3, 1] = -np.inf  # adds nothing
    z[2:4, 1] = -np.inf  # an infinite loss where logits are not -inf too
    loss, grad = kl_divergence_and_grad(x, z, reverse=True, reduction="none")
    assert loss[3] == np.inf
    assert np.isnan(grad[3]).all()
    assert np.isfinite(np.delete(loss, 3)).all()
    assert np.isfinite(np.delete(grad, 3, 0)).all()
    assert not grad[:3, 1].any()
    assert_matches_oracle("kl_divergence_and_grad", x, z, reverse=True, reduction="none")


# --- arrays and options ----------------------------------------------------------------------


def test_errors():
    x = np.zeros((4, 3))
    for value in (-0.1, 1.5, np.inf, np.nan, 1e-310):
        with pytest.raises(
            ValueError, match=r"beta must be 0, or from 2\.23e-308, the least number of float64, to 1, got"
        ):
            jensen_shannon(x, x, beta=value)
    with pytest.raises(ValueError, match=r"beta must be 0, or from 1\.18e-38, the least number of float32, to 1, got"):
        jensen_shannon(np.float32(x), x, beta=1e-40)
    with pytest.raises(TypeError, match="beta must be a real number, got 'half'"):
        jensen_shannon(x, x, beta="half")
    with pytest.raises(ValueError, match="beta must be a scalar here, got an array of shape"):
        jensen_shannon(x, x, beta=[0.5, 0.5])
    for value in (1, None, "yes", np.ones(2, bool)):
        with pytest.raises(TypeError, match="reverse must be True or False, got"):
            kl_divergence(x, x, reverse=value)
    assert kl_divergence(x, x, reverse=np.True_) == 0
    with pytest.raises(ValueError, match=r"temperature must be from 2\.23e-308 to 4\.49e\+307 in float64, got 0\.0"):
        jensen_shannon(x, x, temperature=0.0)
    with pytest.raises(ValueError, match=r"target_logits must have the shape of logits, \(4, 3\), got \(4,\)"):
        jensen_shannon(x, np.zeros(4))
    with pytest.raises(TypeError, match="target_logits must hold real numbers"):
        jensen_shannon(x, x.astype(complex))
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'batchmean'"):
        jensen_shannon(x, x, reduction="batchmean")
    with pytest.raises(np.exceptions.AxisError):
        jensen_shannon(x, x, axis=2)
    memory = np.zeros((5, 3))
    with pytest.raises(ValueError, match="out must not overlap target_logits, unless it is the very same array"):
        jensen_shannon_and_grad(x, memory[:4], out=memory[1:])
    out = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"grad_output must have shape \(4,\), the loss's, got \(3,\)"):
        jensen_shannon_and_grad(x, x, reduction="none", grad_output=np.ones(3), out=out)
    assert (out == 1).all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("classes", [7, 50])
def test_sample_weights_of_the_reversed_divergence(rng, classes, reduction):
    """Those of whole numbers are repetitions."""
    x, z = pair(rng, (6, classes), np.float64)
    times = np.array([1, 3, 2, 2, 1, 4])
    again = np.repeat(np.arange(6), times)
    options = {"reverse": True, "reduction": reduction}
    loss, grad = kl_divergence_and_grad(x, z, sample_weight=times, **options)
    want = kl_divergence_and_grad(x[again], z[again], **options)
    summed = np.zeros_like(grad)
    np.add.at(summed, again, want.grad)
    np.testing.assert_allclose(grad, summed, rtol=1e-12, atol=1e-18)
    np.testing.assert_allclose(np.repeat(loss / times, times) if reduction == "none" else loss, want.loss, rtol=1e-14)


@given(
    case=st.sampled_from([((4, 3), -1), ((3, 35), 1), ((2, 600), -1), ((4, 20, 3), 1), ((12, 5), 0), ((6,), 0)]),
    dtype=st.sampled_from(SIZES),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    beta=st.sampled_from([0.0, 1e-3, 0.3, 0.5, 0.9, 1.0]),
    temperature=st.floats(0.5, 20.0),
    spread=st.floats(0.0, 10.0),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    grad_output=st.sampled_from([None, -0.5, "each"]),
    seed=st.integers(0, 10),
)
def test_any_options(case, dtype, layouts, beta, temperature, spread, reduction, grad_output, seed):
    (shape, axis), rng = case, np.random.default_rng(seed)
    x, z = pair(rng, shape, dtype, spread)
    if grad_output == "each":
        grad_output = rng.normal(size=np.delete(shape, axis)) if reduction == "none" else 0.3
    options = {"axis": axis, "beta": beta, "temperature": temperature, "reduction": reduction}
    arrays = LAYOUTS[layouts[0]](x), LAYOUTS[layouts[1]](z)
    assert_matches_oracle("jensen_shannon_and_grad", *arrays, **options, grad_output=grad_output, eps=16)
