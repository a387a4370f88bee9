"""binary_cross_entropy_from_probs and its gradient."""

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import fastce
from fastce import binary_cross_entropy_from_probs, binary_cross_entropy_from_probs_and_grad
from tests.helpers import DTYPES, SIZES, WIDE, assert_same_bits, finfo, name_of
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_against_torch(rng, reduction):
    p = torch.tensor(rng.random((7, 9)), requires_grad=True)
    t, w = torch.tensor(rng.random((7, 9))), torch.tensor(rng.random(9))
    theirs = F.binary_cross_entropy(p, t, weight=w, reduction=reduction)
    theirs.backward(torch.full_like(theirs, 0.7))
    arrays = p.detach().numpy(), t.numpy()
    ours = binary_cross_entropy_from_probs_and_grad(*arrays, weight=w.numpy(), reduction=reduction, grad_output=0.7)
    np.testing.assert_allclose(ours.loss, theirs.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(ours.grad, p.grad.numpy(), rtol=1e-13, atol=1e-14)


def test_where_torch_clamps():
    """torch takes no logarithm to be below -100."""
    p, t = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert F.binary_cross_entropy(p, t, reduction="none").tolist() == [100, 100, 0, 0]
    ours = binary_cross_entropy_from_probs_and_grad(p.numpy(), t.numpy(), reduction="none")
    assert ours.loss.tolist() == [INF, INF, 0, 0]
    assert ours.grad.tolist() == [-INF, INF, -1, 1]
    for soft in (0.0, 1.0):
        loss, grad = binary_cross_entropy_from_probs_and_grad(soft, 0.5)
        assert loss == INF
        assert grad == (INF if soft else -INF)


def test_pos_weight_is_that_of_logits(rng):
    x, t, w = rng.normal(size=(4, 5)), rng.random((4, 5)), rng.random(5)
    p = 1 / (1 + np.exp(-x))
    ours = binary_cross_entropy_from_probs_and_grad(p, t, pos_weight=w)
    theirs = fastce.binary_cross_entropy_with_logits_and_grad(x, t, pos_weight=w)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-14)
    np.testing.assert_allclose(ours.grad * p * (1 - p), theirs.grad, rtol=1e-12, atol=1e-16)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_accuracy(dtype):
    """Over all probabilities, those next to 0 and 1 and subnormal ones among them.

    Seen to fail: with log(1 - p), which loses the digits of small probabilities.
    """
    info = finfo(dtype)
    small = 2.0 ** np.linspace(-140 if dtype == np.float32 else -1060, 0, 301)
    p = np.concatenate([small, 1 - small, np.linspace(0, 1, 301)]).astype(dtype)
    p = p[(p > 0) & (p < 1)]
    eps, tiny = (mpmath.mpf(float(v)) for v in (info.eps, info.tiny))
    with mpmath.workprec(150):
        for t in (0, 1):
            loss, grad = binary_cross_entropy_from_probs_and_grad(p, np.full(p.size, t), reduction="none")
            for value, a, b in zip(p.tolist(), loss, grad, strict=True):
                own = mpmath.mpf(value)
                wanted = (-mpmath.log(own), -1 / own) if t else (-mpmath.log1p(-own), 1 / (1 - own))
                assert abs(mpmath.mpf(float(a)) - wanted[0]) <= 2 * eps * wanted[0] + tiny
                if abs(wanted[1]) < float(info.max):
                    assert abs(mpmath.mpf(float(b)) / wanted[1] - 1) <= 2 * eps


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [(), (1,), (17,), (4097,), (3, 4, 5), (220, 300)], ids=name_of)
@pytest.mark.usefixtures("parallel_in_float32")
def test_against_the_definition(rng, shape, dtype):
    p, t = np.asarray(rng.random(shape).astype(dtype)), rng.random(shape)
    loss, _ = assert_matches_oracle("binary_cross_entropy_from_probs_and_grad", p, t, reduction="none")
    assert_same_bits(np.asarray(binary_cross_entropy_from_probs(p, t, reduction="none")), np.asarray(loss))


BAD = [-0.25, 1.5, NAN, INF, -INF]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("layout", ["C order", "every other class"])
def test_what_is_no_probability_is_refused(rng, layout, bad, reduction):
    """The first one is named, and nothing is written; in float16 too, whose blocks are copies."""
    for dtype, shape, place in (
        (np.float64, (3, 4), (1, 2)),
        (np.float32, (300, 400), (299, 1)),
        (np.float16, (3, 4), (0, 0)),
    ):
        p, t = rng.random(shape).astype(dtype), np.zeros(shape, dtype)
        p[place], p[-1, -1] = bad, 2.0
        p, out = LAYOUTS[layout](p), np.full(shape, 7, dtype)
        message = rf"probs\[{place[0]}, {place[1]}\] is {bad}, expected a probability from 0 to 1"
        for call in (
            lambda p=p, t=t: binary_cross_entropy_from_probs(p, t, reduction=reduction),
            lambda p=p, t=t: binary_cross_entropy_from_probs_and_grad(p, t, reduction=reduction),
            lambda p=p, t=t, out=out: binary_cross_entropy_from_probs_and_grad(p, t, reduction=reduction, out=out),
        ):
            with pytest.raises(ValueError, match=message):
                call()
        assert (out == 7).all()
        before = p.copy()
        with pytest.raises(ValueError, match=message):
            binary_cross_entropy_from_probs_and_grad(p, t, reduction=reduction, out=p)
        np.testing.assert_array_equal(p, before)
    with pytest.raises(ValueError, match=f"probs is {bad}, expected a probability from 0 to 1"):
        binary_cross_entropy_from_probs(bad, 1)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_weight_0_leaves_out(dtype, bad):
    p, t = np.array([bad, 0.25], dtype), np.array([NAN, 1])
    options = {"weight": [0, 2.0]}
    for out in (None, np.empty(2, dtype)):
        loss, grad = binary_cross_entropy_from_probs_and_grad(p, t, reduction="none", out=out, **options)
        np.testing.assert_allclose(loss, [0, 2 * np.log(4)], rtol=1e-6)
        assert grad.tolist() == [0, -8]
    assert binary_cross_entropy_from_probs(p, t, **options) == pytest.approx(np.log(4), rel=1e-6)


def test_empty_and_types():
    loss, grad = binary_cross_entropy_from_probs_and_grad(np.empty((0, 3), np.float16), np.empty((0, 3)))
    assert np.isnan(loss)
    assert (loss.dtype, grad.dtype, grad.shape) == (np.float32, np.float16, (0, 3))
    assert binary_cross_entropy_from_probs([], [], reduction="sum") == 0
    loss, grad = binary_cross_entropy_from_probs_and_grad([1, 0], [True, False])
    assert loss.dtype == grad.dtype == np.float64
    assert loss == 0


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_out(rng, dtype):
    p, t = rng.random((30, 8)).astype(dtype), rng.random((30, 8))
    want = binary_cross_entropy_from_probs_and_grad(p, t)
    for out in (np.empty((30, 8), dtype), np.empty((8, 30), dtype).T, p):
        got = binary_cross_entropy_from_probs_and_grad(p, t, out=out)
        assert got.grad is out
        assert_same_bits(np.ascontiguousarray(out), want.grad)
        assert_same_bits(np.asarray(got.loss), np.asarray(want.loss))


def test_shapes():
    with pytest.raises(ValueError, match=r"target must have the shape of probs, \(3,\), got \(2,\)"):
        binary_cross_entropy_from_probs([0.5] * 3, [0, 1])
    with pytest.raises(ValueError, match=r"weight must broadcast to the shape of probs, \(3,\), got \(2,\)"):
        binary_cross_entropy_from_probs([0.5] * 3, [0, 1, 1], weight=[0, 1])


@given(
    shape=st.sampled_from([(), (5,), (4, 6), (3, 4, 6)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    target=st.sampled_from(["hard", "soft"]),
    weights=st.tuples(*[st.sampled_from([None, "number", "row", "all"])] * 2),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    grad_output=st.sampled_from([None, -1.7, "each"]),
    seed=st.integers(0, 1000),
)
def test_any_options(shape, dtype, layout, target, weights, reduction, grad_output, seed):
    """Probabilities of 0 and 1 among them, and weights of 0, which outweigh infinite losses."""
    rng = np.random.default_rng(seed)
    p = np.asarray(np.clip(rng.random(shape) * 1.4 - 0.2, 0, 1)).astype(dtype)
    p = LAYOUTS[layout](p) if shape else p
    t = rng.integers(0, 2, shape) if target == "hard" else rng.integers(0, 5, shape) / 4
    made = [{"number": 1.5, "row": rng.integers(0, 4, shape[-1:]), "all": rng.integers(0, 4, shape) / 2} for _ in "wp"]
    weight, pos_weight = (None if kind is None else values[kind] for kind, values in zip(weights, made, strict=True))
    if grad_output == "each":
        grad_output = rng.normal(size=shape) if reduction == "none" else 0.3
    options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction, "grad_output": grad_output}
    assert_matches_oracle("binary_cross_entropy_from_probs_and_grad", p, t, **options)


def test_upstream_gradient_of_zero_with_out():
    """Seen to fail: with ``out``, 0 times infinity. ``out`` may be an argument, which the loss needs."""
    p, t = np.array([0.0, 0.5]), np.array([1.0, 0.0])
    loss, grad = fastce.binary_cross_entropy_from_probs_and_grad(p, t, grad_output=0.0)
    assert grad.tolist() == [0.0, 0.0]
    for out in (np.full(2, 7.0), p.copy(), t.copy()):
        arguments = [out if np.array_equal(out, a) else a for a in (p, t)]
        found = fastce.binary_cross_entropy_from_probs_and_grad(*arguments, grad_output=0.0, out=out)
        assert found.loss == loss
        assert found.grad is out
        assert out.tolist() == [0.0, 0.0]
