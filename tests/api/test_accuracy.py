"""Errors against exact arithmetic: losses within 4 eps, softmax and gradient within 5, with weights within 6.

What cannot be avoided comes on top: x_j − max x is rounded once, by at most |x_j − max x| eps,
and a result f inherits Σ_j |∂f/∂x_j| of it.
"""

import mpmath
import numpy as np
import pytest

import fastce
from tests.helpers import WIDE, finfo, name_of
from tests.oracle.exact import Exact, rows

pytestmark = pytest.mark.usefixtures("uncounted")
WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)
LOSS, OTHERS, WEIGHTED = 4, 5, 6


@pytest.fixture(autouse=True)
def _precision():
    with mpmath.workprec(150):
        yield


def all_axes(x):
    """Class axis last and first: rows and columns take different kernels."""
    yield "last", x, -1, lambda result: result
    yield "first", np.ascontiguousarray(x.T), 0, lambda result: result.T


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 32, 33, 100, 1030])
def test_accuracy(classes, dtype):
    x = rows(classes, dtype)
    exact = [Exact(row) for row in x]
    labels = np.stack([x.argmax(1), x.argmin(1), np.full(len(x), classes // 3)])
    for where, given, axis, back in all_axes(x):
        p = back(fastce.softmax(given, axis))
        worst = max(e.softmax(row) for e, row in zip(exact, p, strict=True))
        assert worst <= OTHERS, f"softmax, class axis {where}: {worst:.2f} eps"
        for target in labels:
            loss, grad = fastce.cross_entropy_and_grad(given, target, axis=axis, reduction="none")
            worst = max(e.loss(v, label) for e, v, label in zip(exact, loss, target, strict=True))
            assert worst <= LOSS, f"loss, class axis {where}: {worst:.2f} eps"
            worst = max(e.gradient(row, label) for e, row, label in zip(exact, back(grad), target, strict=True))
            assert worst <= OTHERS, f"gradient, class axis {where}: {worst:.2f} eps"


@WIDE_DTYPES
def test_accuracy_of_many_classes(dtype):
    x = (np.random.default_rng(9).normal(size=(1, 30_000)) * 3).astype(dtype)
    exact = Exact(x[0])
    label = int(x.argmax())
    assert exact.softmax(fastce.softmax(x)[0]) <= OTHERS
    loss, grad = fastce.cross_entropy_and_grad(x, [label], reduction="none")
    assert exact.loss(loss[0], label) <= LOSS
    assert exact.gradient(grad[0], label) <= OTHERS


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [2, 10, 33, 1100])
def test_soft_targets_and_label_smoothing(classes, dtype):
    """From undecided logits, as of a fresh network, to confident ones."""
    rng = np.random.default_rng(classes)
    normal = rng.normal(size=classes)
    x = np.stack([np.zeros(classes), normal, 3 * normal, np.where(np.arange(classes) == 1, 20, normal)]).astype(dtype)
    exact = [Exact(row) for row in x]
    labels = np.array([0, 1, classes // 2, 1])
    one_hot = np.eye(classes, dtype=dtype)[labels]
    cases = [(t, t, 0.0) for t in (one_hot, rng.dirichlet(np.ones(classes), 4).astype(dtype), 2 * one_hot)]
    cases += [(labels, one_hot, amount) for amount in (0.125, 0.5, 1.0)]
    for where, given, axis, back in all_axes(x):
        for target, t, amount in cases:
            arranged = target if target is labels or axis else np.ascontiguousarray(target.T)
            options = {"axis": axis, "label_smoothing": amount, "reduction": "none"}
            loss, grad = fastce.cross_entropy_and_grad(given, arranged, **options)
            for e, value, slopes, shares in zip(exact, loss, back(grad), t, strict=True):
                shares = [mpmath.mpf(s) * (1 - amount) + mpmath.mpf(amount) / classes for s in shares.tolist()]
                of_loss, of_grad = e.soft(value, slopes, shares)
                message = f"{'labels' if target is labels else 'soft'}, smoothing {amount}, class axis {where}"
                assert of_loss <= LOSS, f"loss, {message}: {of_loss:.2f} eps"
                assert of_grad <= OTHERS, f"gradient, {message}: {of_grad:.2f} eps"


def confident(gaps, classes, dtype):
    """(rows of zeros in which the label is ahead by a gap, the labels)."""
    x = np.zeros((len(gaps), classes), dtype)
    x[:, classes // 3] = gaps
    return x, np.full(len(gaps), classes // 3)


def errors_of_confident(gaps, loss, grad, labels, of_loss=1.0, of_grad=1.0):
    """The greatest relative errors, in eps, of such rows' (losses, gradients), which exact factors multiply.

    Beyond gap / 40, which the exponential of a gap costs in float32.
    """
    exps = 1 / 40 if grad.dtype == np.float32 else 0.0
    eps, worst = mpmath.mpf(float(finfo(grad.dtype).eps)), [0.0, 0.0]
    classes = grad.shape[1]
    for gap, value, slopes, label in zip(gaps.tolist(), loss, grad, labels, strict=True):
        each = mpmath.exp(-gap)
        rest = (classes - 1) * each
        pairs = [(0, value, of_loss * mpmath.log1p(rest))]
        pairs += [(1, slopes[label], -of_grad * rest / (1 + rest)), (1, slopes[label - 1], of_grad * each / (1 + rest))]
        for k, actual, exact in pairs:
            worst[k] = max(worst[k], float(abs(mpmath.mpf(float(actual)) / exact - 1) / eps) - gap * exps)
    return worst


WIDTHS = pytest.mark.parametrize("classes", [2, 10, 32, 40, 1100])


@pytest.mark.usefixtures("parallel_in_float32")
@WIDE_DTYPES
@WIDTHS
def test_confident_rows(classes, dtype):
    """Label ahead by 0 to 80: the loss and the gradient at full relative precision."""
    gaps = np.arange(81)
    x, labels = confident(gaps, classes, dtype)
    for where, given, axis, back in all_axes(x):
        loss, grad = fastce.cross_entropy_and_grad(given, labels, axis=axis, reduction="none")
        of_loss, of_grad = errors_of_confident(gaps, loss, back(grad), labels)
        assert of_loss <= LOSS, f"loss, class axis {where}: {of_loss:.2f} eps"
        assert of_grad <= OTHERS, f"gradient, class axis {where}: {of_grad:.2f} eps"


@WIDE_DTYPES
@WIDTHS
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_confident_rows_with_weights(reduction, classes, dtype):
    """Class and sample weights, an upstream gradient and a mean cost a rounding each: within 6 eps in all."""
    gaps = np.arange(0, 81, 4)
    x, labels = confident(gaps, classes, dtype)
    weight = np.full(classes, 7.0)
    weight[labels[0]] = 0.3
    options = {"weight": weight, "sample_weight": np.full(len(gaps), 0.7), "reduction": reduction}
    scale = mpmath.mpf(0.3) * mpmath.mpf(0.7)
    for where, given, axis, back in all_axes(x):
        loss, grad = fastce.cross_entropy_and_grad(given, labels, axis=axis, grad_output=1.1, **options)
        slope = mpmath.mpf(1.1) * scale
        if reduction == "mean":
            slope = mpmath.mpf(1.1) / len(gaps)
            loss = fastce.cross_entropy_and_grad(given, labels, axis=axis, **(options | {"reduction": "none"})).loss
        of_loss, of_grad = errors_of_confident(gaps, loss, back(grad), labels, scale, slope)
        assert of_loss <= WEIGHTED, f"loss, class axis {where}: {of_loss:.2f} eps"
        assert of_grad <= WEIGHTED, f"gradient, class axis {where}: {of_grad:.2f} eps"


@WIDE_DTYPES
@pytest.mark.parametrize("weighted", [False, True])
def test_confident_rows_of_very_many_classes(weighted, dtype):
    """Rows that threads share."""
    gaps = np.array([0, 20, 50, 80])
    x, labels = confident(gaps, 70_001, dtype)
    options = {"weight": np.full(70_001, 0.3), "sample_weight": np.full(4, 0.7)} if weighted else {}
    scale = mpmath.mpf(0.3) * mpmath.mpf(0.7) if weighted else 1
    loss, grad = fastce.cross_entropy_and_grad(x, labels, reduction="none", **options)
    of_loss, of_grad = errors_of_confident(gaps, loss, grad, labels, scale, scale)
    assert of_loss <= (WEIGHTED if weighted else LOSS), f"loss: {of_loss:.2f} eps"
    assert of_grad <= (WEIGHTED if weighted else OTHERS), f"gradient: {of_grad:.2f} eps"


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduced_losses(reduction, classes, dtype):
    """Summed in float64, rounded once."""
    x = (np.random.default_rng(2).normal(size=(3000, classes)) * 3).astype(dtype)
    target = np.arange(3000) % classes
    losses = fastce.cross_entropy(x, target, reduction="none")
    exact = mpmath.fsum(mpmath.mpf(v) for v in losses.tolist()) / (3000 if reduction == "mean" else 1)
    actual = fastce.cross_entropy(x, target, reduction=reduction)
    assert abs(mpmath.mpf(float(actual)) / exact - 1) <= float(np.finfo(dtype).eps)


@pytest.mark.parametrize("classes", [3, 40])
def test_mean_with_weights_of_many_samples(classes):
    """The weights' sum does not get worse with the number of samples, of which each might be rounded the same way."""
    x, target = 3 * np.random.default_rng(2).normal(size=(60_000, classes)), np.arange(60_000) % classes
    options = {"weight": np.full(classes, 0.7), "sample_weight": np.full(60_000, 1.1)}
    losses = fastce.cross_entropy(x, target, **options, reduction="none")
    exact = mpmath.fsum(mpmath.mpf(v) for v in losses.tolist()) / (60_000 * mpmath.mpf(0.7) * 1.1)
    actual = fastce.cross_entropy(x, target, **options)
    assert abs(mpmath.mpf(float(actual)) / exact - 1) <= 3 * float(np.finfo(np.float64).eps)
