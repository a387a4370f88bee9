"""Where fastce differs from PyTorch on purpose: a test for each row of the page's table, of both its sides."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastce
from tests.helpers import HALF, ROOT, labels_for, logits

INF, NAN = math.inf, math.nan


def torch_grad(x, target, **options):
    """torch's loss and gradient."""
    leaf = torch.tensor(x).requires_grad_()
    loss = F.cross_entropy(leaf, torch.tensor(target), **options)
    loss.backward()
    return loss.item(), leaf.grad.numpy()


def class_axis(rng):
    x = logits(rng, (2, 3, 4))
    second, last = labels_for(rng, x.shape, 1), labels_for(rng, x.shape)
    theirs = F.cross_entropy(torch.tensor(x), torch.tensor(second)).item()
    assert fastce.cross_entropy(x, second, axis=1) == pytest.approx(theirs, rel=1e-14)
    with pytest.raises(RuntimeError):
        F.cross_entropy(torch.tensor(x), torch.tensor(last))
    theirs = F.cross_entropy(torch.tensor(x).movedim(-1, 1), torch.tensor(last)).item()
    assert fastce.cross_entropy(x, last) == pytest.approx(theirs, rel=1e-14)


def dtype_of_labels(rng):
    x, target = logits(rng, (5, 4)), np.array([0, 3, 1, 2, 2])
    expected = F.cross_entropy(torch.tensor(x), torch.tensor(target)).item()
    for dtype in "bBhHiIlLqQ":
        assert fastce.cross_entropy(x, target.astype(dtype)) == pytest.approx(expected, rel=1e-14)
    for dtype in (torch.int8, torch.int16, torch.int32):
        with pytest.raises(RuntimeError):
            F.cross_entropy(torch.tensor(x), torch.tensor(target).to(dtype))
    assert F.cross_entropy(torch.tensor(x), torch.tensor(target).to(torch.uint8)).item() == expected


def label_smoothing_below_0(rng):
    x, target = logits(rng, (5, 4)), np.array([0, 3, 1, 2, 2])
    plain = F.cross_entropy(torch.tensor(x), torch.tensor(target))
    for value in (-0.5, -1e-9, NAN):
        assert F.cross_entropy(torch.tensor(x), torch.tensor(target), label_smoothing=value) == plain
        with pytest.raises(ValueError, match=f"label_smoothing must be from 0 to 1, got {value}"):
            fastce.cross_entropy(x, target, label_smoothing=value)


def ignored_logits(rng):
    for bad in (NAN, INF):
        x, target = logits(rng, (3, 4)), np.array([1, -100, 2])
        x[1, 0] = bad
        loss, theirs = torch_grad(x, target)
        ours = fastce.cross_entropy_and_grad(x, target)
        assert np.isnan(theirs[1]).any()
        assert not ours.grad[1].any()
        assert ours.loss == pytest.approx(loss, rel=1e-14)
        np.testing.assert_allclose(ours.grad[[0, 2]], theirs[[0, 2]], rtol=1e-14)


def a_logit_of_minus_inf(rng):
    x, target = logits(rng, (1, 4)), np.array([[0.5, 0.0, 0.25, 0.25]])
    x[0, 1] = -INF
    loss, grad = torch_grad(x, target)
    assert math.isnan(loss)
    ours = fastce.cross_entropy_and_grad(x, target)
    np.testing.assert_allclose(ours.grad, grad, rtol=1e-14)
    there = [0, 2, 3]
    without = fastce.cross_entropy_and_grad(x[:, there], target[:, there])
    assert ours.loss == pytest.approx(without.loss, rel=1e-15)
    np.testing.assert_allclose(ours.grad[:, there], without.grad, rtol=1e-15)
    assert ours.grad[0, 1] == 0


def a_confident_row(rng):
    x = np.array([[20, 0]], np.float32)
    loss, grad = torch_grad(x, [0])
    assert (loss, grad[0, 0]) == (0, 0)
    ours = fastce.cross_entropy_and_grad(x, [0])
    assert (f"{ours.loss:.2e}", f"{ours.grad[0, 0]:.2e}") == ("2.06e-09", "-2.06e-09")
    exact = math.log1p(math.exp(-20))
    assert ours.loss == pytest.approx(exact, rel=2e-7)
    assert ours.grad[0, 0] == pytest.approx(-math.exp(-20) / (1 + math.exp(-20)), rel=2e-7)


def mean_over_70_000_rows(rng):
    x = np.zeros((70_000, 2), np.float16)
    target = np.zeros(70_000, int)
    assert F.cross_entropy(torch.tensor(x), torch.tensor(target)).item() == 0.0
    assert fastce.cross_entropy(x, target) == np.float32(math.log(2))


def dtype_of_the_loss(rng):
    for dtype, theirs in zip(HALF, (torch.float16, torch.bfloat16), strict=True):
        assert F.cross_entropy(torch.zeros(2, 3, dtype=theirs), torch.tensor([0, 1])).dtype == theirs
        loss, grad = fastce.cross_entropy_and_grad(np.zeros((2, 3), dtype), [0, 1])
        assert (loss.dtype, grad.dtype) == (np.float32, dtype)


def binary_at_infinite_logits(rng):
    x, target = np.array([INF, -INF, INF, -INF]), np.array([1.0, 0.0, 0.0, 1.0])
    theirs = F.binary_cross_entropy_with_logits(torch.tensor(x), torch.tensor(target), reduction="none").numpy()
    assert np.isnan(theirs[:2]).any()
    ours = fastce.binary_cross_entropy_with_logits_and_grad(x, target, reduction="none")
    np.testing.assert_array_equal(ours.loss, [0, 0, INF, INF])
    np.testing.assert_array_equal(ours.grad, [0, 0, 1, -1])


def mean_over_nothing(rng):
    x, target = logits(rng, (3, 4)), np.full(3, -100)
    assert math.isnan(torch_grad(x, target)[0])
    assert math.isnan(fastce.cross_entropy(x, target))
    loss, grad = fastce.cross_entropy_and_grad(x, target, normalizer=7)
    assert loss == 0
    assert not grad.any()


def one_hot_integers(rng):
    x, target = logits(rng, (5, 4)), np.array([0, 3, 1, 2, 2])
    one_hot = np.eye(4, dtype=int)[target]
    with pytest.raises(RuntimeError):
        F.cross_entropy(torch.tensor(x), torch.tensor(one_hot))
    assert fastce.cross_entropy(x, one_hot) == fastce.cross_entropy(x, target)


def weight_0(rng):
    x, target = logits(rng, (3, 4)), np.array([1, 3, 2])
    x[1] = NAN
    weight = np.array([1.0, 2.0, 3.0, 0.0])
    loss, theirs = torch_grad(x, target, weight=torch.tensor(weight))
    assert math.isnan(loss) or np.isnan(theirs).any()
    kept = fastce.cross_entropy_and_grad(x[[0, 2]], target[[0, 2]], weight=weight)
    for options in ({"weight": weight}, {"weight": weight, "sample_weight": [1, 0, 1]}):
        ours = fastce.cross_entropy_and_grad(x, target, **options)
        assert ours.loss == pytest.approx(kept.loss, rel=1e-15)
        np.testing.assert_allclose(ours.grad[[0, 2]], kept.grad, rtol=1e-15)
        assert not ours.grad[1].any()
    element, t, w = torch.tensor([NAN, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert math.isnan(F.binary_cross_entropy_with_logits(element, t, weight=w).item())
    ours = fastce.binary_cross_entropy_with_logits_and_grad(element.numpy(), t.numpy(), weight=w.numpy())
    assert ours.loss == pytest.approx(math.log1p(math.e) / 2, rel=1e-6)
    assert ours.grad[0] == 0


def ignore_index_none(rng):
    x, target = logits(rng, (2, 4)), np.array([1, -100])
    with pytest.raises(TypeError):
        F.cross_entropy(torch.tensor(x), torch.tensor(target), ignore_index=None)
    with pytest.raises(IndexError, match="-100, expected a class index from 0 to 3"):
        fastce.cross_entropy(x, target, ignore_index=None)


def mean_of_divergences(rng):
    x, z = torch.tensor(logits(rng, (5, 4))), torch.tensor(logits(rng, (5, 4)))
    with warnings.catch_warnings(action="ignore"):  # which says the same as this row
        theirs = {
            reduction: F.kl_div(F.log_softmax(x, -1), F.softmax(z, -1), reduction=reduction).item()
            for reduction in ("mean", "batchmean")
        }
    ours = fastce.kl_divergence(x.numpy(), z.numpy())
    assert ours == pytest.approx(theirs["batchmean"], rel=1e-13)
    assert ours == pytest.approx(theirs["mean"] * 4, rel=1e-13)


def gradient_of_a_mean_of_halves(rng):
    x, target = np.zeros((70_000, 64), np.float16), np.zeros(70_000, int)
    leaf = torch.tensor(x).requires_grad_()
    F.cross_entropy(leaf, torch.tensor(target)).backward()
    assert not leaf.grad[:, 1:].any()
    out = np.empty(x.shape, np.float32)
    fastce.cross_entropy_and_grad(x, target, out=out)
    np.testing.assert_allclose(out[:, 1:], 1 / 64 / 70_000, rtol=1e-6)


def binary_of_certain_probabilities(rng):
    p, t = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert F.binary_cross_entropy(p, t, reduction="none").tolist() == [100, 100, 0, 0]
    ours = fastce.binary_cross_entropy_from_probs(p.numpy(), t.numpy(), reduction="none")
    assert ours.tolist() == [INF, INF, 0, 0]


ROWS = {
    "class axis": class_axis,
    "dtype of labels": dtype_of_labels,
    "integers in the shape of the logits": one_hot_integers,
    "`label_smoothing` below 0 or NaN": label_smoothing_below_0,
    "NaN or inf in the logits of an ignored sample": ignored_logits,
    "NaN or inf in the logits of a sample, class or element of weight 0": weight_0,
    "`ignore_index=None`": ignore_index_none,
    "a logit of -inf where the soft target is 0": a_logit_of_minus_inf,
    "a confident row, float32 logits [20, 0], label 0": a_confident_row,
    "mean over 70,000 rows of float16 logits, each ln 2": mean_over_70_000_rows,
    "dtype of the loss for half-precision logits": dtype_of_the_loss,
    '`reduction="mean"` of the KL divergence': mean_of_divergences,
    "gradient of a mean of float16 logits": gradient_of_a_mean_of_halves,
    "binary cross-entropy at infinite logits": binary_at_infinite_logits,
    "probabilities of 0 or 1 in binary cross-entropy": binary_of_certain_probabilities,
    "mean over nothing, with a `normalizer`": mean_over_nothing,
}


@pytest.mark.parametrize("row", ROWS)
def test_row(row, rng):
    ROWS[row](rng)


def test_every_row_is_tested():
    page = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
    header, *rows = re.findall(r"^\| (.*?) \|", page, re.M)
    assert header == "case"
    assert rows == list(ROWS)
