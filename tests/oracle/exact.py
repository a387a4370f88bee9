"""Softmax and cross-entropy of single rows in exact arithmetic, by mpmath; and rows of many kinds."""

import mpmath
import numpy as np

from tests.helpers import finfo


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
