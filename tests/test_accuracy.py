"""Errors against exact arithmetic: losses within 4 eps, softmax and gradient within 5.

What cannot be avoided comes on top: x_j − max x is rounded once, by at most |x_j − max x| eps,
and a result f inherits Σ_j |∂f/∂x_j| of it.
"""

import mpmath
import numpy as np
import pytest

import fastce
from tests.helpers import WIDE, finfo, name_of

WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)
LOSS, OTHERS = 4, 5


class Exact:
    """One row's softmax and all that follows from it, in 150-bit arithmetic."""

    def __init__(self, row):
        self.eps, self.tiny = (mpmath.mpf(float(v)) for v in (finfo(row.dtype).eps, finfo(row.dtype).tiny))
        x = [mpmath.mpf(v) for v in row.tolist()]
        top = max(x)
        self.gaps = [v - top for v in x]
        self.terms = [mpmath.exp(gap) for gap in self.gaps]
        self.total = mpmath.fsum(self.terms)
        self.p = [term / self.total for term in self.terms]
        self.spread = mpmath.fsum(-p * gap for p, gap in zip(self.p, self.gaps, strict=True))

    def others(self, label):
        """The sum of all probabilities but the label's, without cancellation."""
        return mpmath.fsum(p for j, p in enumerate(self.p) if j != label)

    def error(self, actual, exact, inherited):
        """|actual − exact| in eps of exact, beyond the inherited error; 0 is as good as what is below tiny."""
        distance = abs(mpmath.mpf(float(actual)) - exact) - inherited * self.eps
        return float(max(distance - self.tiny, 0) / (abs(exact) * self.eps)) if distance > self.tiny else 0.0

    def softmax(self, actual):
        return max(
            self.error(a, p, p * (-gap + self.spread)) for a, p, gap in zip(actual, self.p, self.gaps, strict=True)
        )

    def loss(self, actual, label):
        exact = mpmath.log1p(self.others(label) / self.p[label])
        inherited = self.spread - self.p[label] * -self.gaps[label] + self.others(label) * -self.gaps[label]
        return self.error(actual, exact, inherited)

    def gradient(self, actual, label):
        worst = 0.0
        for j, (a, p, gap) in enumerate(zip(actual, self.p, self.gaps, strict=True)):
            exact = -self.others(label) if j == label else p
            worst = max(worst, self.error(a, exact, p * (-gap * (1 - p) + self.spread + p * gap)))
        return worst

    def soft(self, loss, grad, t):
        """The greatest errors of (loss, gradient); the gradient's, of two terms that may cancel, in eps of both."""
        a = mpmath.fsum(t)
        both = [a * p + share for p, share in zip(self.p, t, strict=True)]
        exact = a * mpmath.log(self.total) + mpmath.fsum(-s * gap for s, gap in zip(t, self.gaps, strict=True))
        inherited = mpmath.fsum(b * -gap for b, gap in zip(both, self.gaps, strict=True))
        worst = 0.0
        for v, p, gap, share, terms in zip(grad, self.p, self.gaps, t, both, strict=True):
            off = abs(mpmath.mpf(float(v)) - (a * p - share)) - a * p * (-gap + self.spread) * self.eps
            worst = max(worst, float((off - self.tiny) / (terms * self.eps)))
        return self.error(loss, exact, inherited), worst


@pytest.fixture(autouse=True)
def _precision():
    with mpmath.workprec(150):
        yield


def rows(classes, dtype):
    """Rows of many kinds: ordinary, spread wide, confident, tied, rising, with all but one far below."""
    rng = np.random.default_rng(classes)
    normal = rng.normal(size=classes)
    peak = np.full(classes, -1.0)
    peak[classes // 2] = 30
    ramp = np.linspace(-20, 0, classes)
    tied = np.where(np.arange(classes) % 2, 1.5, -3)
    found = [normal, 3 * normal, 25 * normal, rng.random(classes), peak, ramp, ramp[::-1], tied, 1000 + normal]
    return np.array(found).astype(dtype)


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


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [2, 10, 40, 513, 1100])
def test_confident_rows(classes, dtype):
    """Label ahead by 0 to 80: the loss and the label's gradient at full relative precision."""
    gaps = np.arange(81)
    x = np.zeros((81, classes), dtype)
    place = classes // 3
    x[:, place] = gaps
    for where, given, axis, back in all_axes(x):
        loss, grad = fastce.cross_entropy_and_grad(given, np.full(81, place), axis=axis, reduction="none")
        for gap in gaps.tolist():
            eps, rest = mpmath.mpf(float(np.finfo(dtype).eps)), (classes - 1) * mpmath.exp(-gap)
            off = abs(mpmath.mpf(float(loss[gap])) / mpmath.log1p(rest) - 1) / eps
            assert off <= LOSS, f"loss, gap {gap}, class axis {where}: {float(off):.2f} eps"
            slopes = back(grad)[gap]
            for j, share in ((place, -rest), (place + 1, rest / (classes - 1))):
                off = abs(mpmath.mpf(float(slopes[j])) * (1 + rest) / share - 1) / eps
                assert off <= OTHERS, f"gradient at {j}, gap {gap}, class axis {where}: {float(off):.2f} eps"


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [3, 40])
def test_confident_rows_with_weights(classes, dtype):
    """Class and sample weights scale; they cost one rounding each."""
    x = np.zeros((41, classes), dtype)
    x[:, 1] = np.arange(41)
    weight = np.full(classes, 0.3)
    loss, grad = fastce.cross_entropy_and_grad(
        x, np.ones(41, int), weight=weight, sample_weight=np.full(41, 0.7), reduction="none", grad_output=1.1
    )
    for gap in range(41):
        eps, rest = mpmath.mpf(float(np.finfo(dtype).eps)), (classes - 1) * mpmath.exp(-gap)
        assert abs(mpmath.mpf(float(loss[gap])) / (mpmath.mpf(0.3) * 0.7 * mpmath.log1p(rest)) - 1) / eps <= LOSS + 2
        scale = mpmath.mpf(0.3) * 0.7 * mpmath.mpf(1.1)
        assert abs(mpmath.mpf(float(grad[gap, 1])) / (-scale * rest / (1 + rest)) - 1) / eps <= OTHERS + 3


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
