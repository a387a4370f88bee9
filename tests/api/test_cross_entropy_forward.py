"""cross_entropy_forward and cross_entropy_backward: the two passes, and the statistics between them."""

import numpy as np
import pytest

import fastce
from tests.helpers import SIZES, assert_same_bits, assert_within, computed, labels_for, logits, name_of, soft_for
from tests.oracle import reference
from tests.oracle.layouts import LAYOUTS

# a shape of each regime
REGIMES = pytest.mark.parametrize(
    ("shape", "axis"), [((20, 5), -1), ((20, 50), -1), ((5, 1100), -1), ((3, 20, 9), 1), ((2, 70_001), -1)], ids=str
)
KINDS = pytest.mark.parametrize("kind", ["labels", "soft"])


def case(rng, shape, axis, kind, dtype=np.float32):
    x = logits(rng, shape, dtype)
    rows = np.moveaxis(x, axis, -1).reshape(-1, shape[axis]) if axis == -1 else None
    if rows is not None and len(rows) > 4:
        rows[0], rows[1, 0], rows[2] = np.nan, np.nan, -np.inf
        rows[3, 1] = np.inf
    if kind == "soft":
        return x, soft_for(rng, shape, axis, dtype=computed(np.dtype(dtype)))
    target = labels_for(rng, shape, axis)
    target.flat[-1] = -100
    return x, target


def both(x, target, **options):
    """The results of the two passes; the second must not write to the statistics."""
    loss, stats = fastce.cross_entropy_forward(x, target, **options)
    stats.flags.writeable = False
    return loss, stats, fastce.cross_entropy_backward(x, target, stats, **options)


@pytest.mark.usefixtures("one_thread")
@KINDS
@REGIMES
def test_same_bits_as_in_one_pass(shape, axis, kind, rng):
    x, target = case(rng, shape, axis, kind)
    loss, stats, grad = both(x, target, axis=axis)
    expected = fastce.cross_entropy_and_grad(x, target, axis=axis)
    assert_same_bits(loss, expected.loss)
    assert_same_bits(grad, expected.grad)
    ignored = np.isnan(stats).all(0)
    np.testing.assert_array_equal(np.isnan(stats[0]), ignored)
    np.testing.assert_array_equal(ignored, target.reshape(-1) == -100 if kind == "labels" else np.zeros(ignored.shape))


@KINDS
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_dtypes(dtype, kind, rng):
    x, target = case(rng, (20, 5), -1, kind, dtype)
    loss, stats, grad = both(x, target, reduction="none")
    expected = fastce.cross_entropy_and_grad(x, target, reduction="none")
    assert stats.dtype == loss.dtype == computed(dtype)
    assert_same_bits(grad, expected.grad)


@KINDS
def test_options(kind, rng):
    x, target = case(rng, (20, 5), -1, kind)
    options = {"weight": rng.random(5), "sample_weight": rng.random(20), "label_smoothing": 0.1, "z_loss": 0.1}
    options |= {"logit_scale": 0.5, "softcap": 9.0, "where": rng.random((20, 5)) < 0.7, "normalizer": 3.0}
    options["where"][4] = False
    with np.errstate(all="ignore"):
        loss, stats, grad = both(x, np.maximum(target, 0) if kind == "labels" else target, **options)
        expected = fastce.cross_entropy_and_grad(x, np.maximum(target, 0) if kind == "labels" else target, **options)
    assert_same_bits(loss, expected.loss)
    assert_same_bits(grad, expected.grad)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(stats[0])), [4])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_logits_and_statistics(layout, rng):
    x, target = case(rng, (20, 5), -1, "labels")
    _, stats = fastce.cross_entropy_forward(LAYOUTS[layout](x), target)
    grad = fastce.cross_entropy_backward(LAYOUTS[layout](x), target, LAYOUTS[layout](stats), grad_output=-2.0)
    assert_same_bits(grad, fastce.cross_entropy_and_grad(x, target, grad_output=-2.0).grad)


def test_statistics_against_the_oracle(rng):
    x = logits(rng, (20, 50))
    _, stats = fastce.cross_entropy_forward(x, labels_for(rng, x.shape))
    assert_same_bits(stats[0], x.max(-1))
    assert_within(stats[0] + np.log1p(stats[1]), reference.logsumexp(x, -1), 8, scale=8.0)
    _, stats = fastce.cross_entropy_forward([[40.0, 0.0]], [0])
    np.testing.assert_allclose(stats, [[40.0], [np.exp(-40.0)]], rtol=1e-15)


@pytest.mark.usefixtures("one_thread")
@KINDS
@REGIMES
def test_given_statistics_count(shape, axis, kind, rng):
    """A sum of exponentials that is twice as great halves the softmax, and NaN leaves a sample out."""
    x = logits(rng, shape, np.float32)
    target = labels_for(rng, shape, axis) if kind == "labels" else soft_for(rng, shape, axis, dtype=np.float32)
    _, stats = fastce.cross_entropy_forward(x, target, axis=axis, reduction="sum")
    stats[1] = 2 * stats[1] + 1
    stats[:, 1] = np.nan
    grad = np.moveaxis(fastce.cross_entropy_backward(x, target, stats, axis=axis, reduction="sum"), axis, -1)
    probs = np.moveaxis(fastce.softmax(x, axis), axis, -1) / 2
    t = np.arange(shape[axis]) == target[..., None] if kind == "labels" else np.moveaxis(target, axis, -1)
    expected = (probs * t.sum(-1, keepdims=True) - t).reshape(-1, shape[axis])
    expected[1] = 0
    np.testing.assert_allclose(grad.reshape(expected.shape), expected, rtol=1e-4, atol=1e-6)


def test_out(rng):
    x, target = case(rng, (20, 5), -1, "labels")
    _, stats, grad = both(x, target)
    assert fastce.cross_entropy_backward(x, target, stats, out=x) is x
    assert_same_bits(x, grad)


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0, 3)])
def test_empty(shape):
    loss, stats, grad = both(np.zeros(shape), np.zeros(shape[:-1], int), reduction="none")
    assert loss.shape == shape[:-1]
    assert stats.shape == (2, 0)
    assert grad.shape == shape


def test_errors():
    x, target, out = np.zeros((3, 2)), [0, 1, 0], np.ones((3, 2))
    stats = np.zeros((2, 3))

    def backward(stats, target=target, **options):
        return fastce.cross_entropy_backward(x, target, stats, **{"out": out, **options})

    for shape in ((3, 2), (2,), (2, 2), (1, 3)):
        with pytest.raises(ValueError, match=r"stats must have shape \(2, 3\), two numbers for each sample, .* got \("):
            backward(np.zeros(shape))
    for dtype in (np.float32, int, complex):
        with pytest.raises(TypeError, match="stats must have dtype float64, as from cross_entropy_forward, got"):
            backward(stats.astype(dtype))
    with pytest.raises(IndexError, match=r"target\[1\] is 2"):
        backward(stats, [0, 2, 0])
    with pytest.raises(ValueError, match="grad_output must have shape"):
        backward(stats, reduction="none", grad_output=[1.0])
    memory = np.zeros(12)
    with pytest.raises(ValueError, match="out must not overlap stats"):
        backward(memory[:6].reshape(2, 3), out=memory[3:9].reshape(3, 2))
    assert (out == 1).all()
