"""What the accuracy report compares with: one row of logits and all that follows from it, by mpmath."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import mpmath
import numpy as np

TEMPERATURE, GAMMA, SMOOTHING = 2.0, 2.0, 0.125
SHARE = 0.5  # of the target in the mixture of the Jensen-Shannon divergence
ALPHA = 0.25  # the weight of positive targets in sigmoid focal loss
POSITIVE = 0.25  # the target of binary cross-entropy
Real = Any  # mpmath.mpf


@dataclass
class Batch:
    """What all contenders compute from: arrays of one dtype, in the shape of the logits, and labels."""

    x: np.ndarray
    labels: np.ndarray
    teacher: np.ndarray  # logits near x
    upstream: np.ndarray  # gradients with respect to a result
    probs: np.ndarray  # the softmax, rounded to between 0 and 1

    @property
    def one_hot(self) -> np.ndarray:
        """1 at the labels, 0 elsewhere."""
        return (np.arange(self.x.shape[1]) == self.labels[:, None]).astype(self.x.dtype)


class Value(NamedTuple):
    """One exact value, what an error is measured by, and what no method avoids of that error.

    ``size`` is the value's own magnitude, or the sum of its terms' where those cancel. ``unavoidable``, in eps, is what
    rounding each x - max(x) once costs; None where that was not worked out. ``factor`` is what a probability is
    multiplied by at most, which may be 0 where it is below the smallest normal number.
    """

    value: Real
    size: Real
    unavoidable: Real | None = None
    factor: Real = 1


def _value(value: Real, unavoidable: Real | None = None) -> Value:
    return Value(value, abs(value), unavoidable)


class Softmax:
    """Exact softmax and log-softmax of a row, without cancellation."""

    def __init__(self, x: list[Real]) -> None:
        row_max = max(x)
        self.row_max = row_max
        self.gaps = [row_max - v for v in x]
        self.terms = [mpmath.exp(-gap) for gap in self.gaps]
        self.total = mpmath.fsum(self.terms)
        self.p = [term / self.total for term in self.terms]
        at_max = x.index(row_max)
        self.log_total = mpmath.log1p(mpmath.fsum(term for j, term in enumerate(self.terms) if j != at_max))
        self.logs = [-gap - self.log_total for gap in self.gaps]
        self.spread = mpmath.fsum(p * gap for p, gap in zip(self.p, self.gaps, strict=True))

    def others(self, label: int) -> Real:
        """Return 1 minus the label's probability."""
        return mpmath.fsum(term for j, term in enumerate(self.terms) if j != label) / self.total


class Exact:
    """One sample; each property is a quantity."""

    def __init__(self, batch: Batch, i: int) -> None:
        arrays = (batch.x, batch.teacher, batch.upstream, batch.probs)
        self.x, self.z, self.g, self.probs = ([mpmath.mpf(float(v)) for v in array[i]] for array in arrays)
        self.label = int(batch.labels[i])

    @cached_property
    def s(self) -> Softmax:
        """The softmax of the row."""
        return Softmax(self.x)

    @cached_property
    def others(self) -> Real:
        """1 minus the label's probability."""
        return self.s.others(self.label)

    @cached_property
    def lse(self) -> list[Value]:
        """The log-sum-exp."""
        return [_value(self.s.row_max + self.s.log_total, self.s.spread)]

    @cached_property
    def weighted(self) -> list[Value]:
        """The log-sum-exp with the magnitudes of the upstream gradient for weights."""
        total = mpmath.fsum(abs(g) * term for g, term in zip(self.g, self.s.terms, strict=True))
        return [_value(self.s.row_max + mpmath.log(total))]

    @cached_property
    def softmax(self) -> list[Value]:
        """The softmax."""
        return [_value(p, p * (gap + self.s.spread)) for p, gap in zip(self.s.p, self.s.gaps, strict=True)]

    @cached_property
    def log_softmax(self) -> list[Value]:
        """The log-softmax."""
        return [_value(log, gap + self.s.spread) for log, gap in zip(self.s.logs, self.s.gaps, strict=True)]

    @cached_property
    def lse_vjp(self) -> list[Value]:
        """The first upstream gradient through the log-sum-exp."""
        return [Value(self.g[0] * p, abs(self.g[0]) * p, factor=abs(self.g[0])) for p in self.s.p]

    @cached_property
    def softmax_vjp(self) -> list[Value]:
        """The upstream gradient through the softmax, which is also the Hessian of cross-entropy times it."""
        products = [g * p for g, p in zip(self.g, self.s.p, strict=True)]
        dot, size = mpmath.fsum(products), mpmath.fsum(abs(v) for v in products)
        pairs = zip(self.g, self.s.p, strict=True)
        return [Value(p * (g - dot), p * (abs(g) + size), factor=abs(g) + size) for g, p in pairs]

    @cached_property
    def log_softmax_vjp(self) -> list[Value]:
        """The upstream gradient through the log-softmax."""
        total, size = mpmath.fsum(self.g), mpmath.fsum(abs(g) for g in self.g)
        pairs = zip(self.g, self.s.p, strict=True)
        return [Value(g - p * total, abs(g) + p * size, factor=size) for g, p in pairs]

    @cached_property
    def loss(self) -> list[Value]:
        """The cross-entropy."""
        gap = self.s.gaps[self.label]
        return [_value(-self.s.logs[self.label], self.s.spread + gap * (self.others - self.s.p[self.label]))]

    @cached_property
    def gradient(self) -> list[Value]:
        """The gradient of cross-entropy."""
        values = []
        for j, (p, gap) in enumerate(zip(self.s.p, self.s.gaps, strict=True)):
            values.append(_value(-self.others if j == self.label else p, p * (gap * (1 - 2 * p) + self.s.spread)))
        return values

    @cached_property
    def smoothed(self) -> list[Value]:
        """The cross-entropy with label smoothing."""
        each = mpmath.fsum(-log for log in self.s.logs) / len(self.x)
        return [_value((1 - SMOOTHING) * -self.s.logs[self.label] + SMOOTHING * each)]

    @cached_property
    def hessian(self) -> list[Value]:
        """The diagonal p (1 - p)."""
        return [_value(p * (self.s.total - t) / self.s.total) for p, t in zip(self.s.p, self.s.terms, strict=True)]

    @cached_property
    def entropy(self) -> list[Value]:
        """The entropy of the softmax."""
        return [_value(mpmath.fsum(-p * log for p, log in zip(self.s.p, self.s.logs, strict=True)))]

    @cached_property
    def focal(self) -> list[Value]:
        """The focal loss."""
        return [_value(self.others**GAMMA * self.loss[0].value)]

    @cached_property
    def focal_gradient(self) -> list[Value]:
        """The gradient of focal loss."""
        slope = self.others**GAMMA + GAMMA * self.others ** (GAMMA - 1) * self.s.p[self.label] * self.loss[0].value
        return [_value(slope * g.value) for g in self.gradient]

    @cached_property
    def _focal_terms(self) -> list[tuple[Real, Real]]:
        """Of each class, its term of focal loss with the rounded probabilities for target, and that term's slope."""
        terms = []
        for p, term, log, target in zip(self.s.p, self.s.terms, self.s.logs, self.probs, strict=True):
            rest = (self.s.total - term) / self.s.total
            factor = rest**GAMMA
            terms.append((target * factor * -log, target * (factor - GAMMA * rest ** (GAMMA - 1) * p * log)))
        return terms

    @cached_property
    def focal_of_probs(self) -> list[Value]:
        """The focal loss with the rounded probabilities for target."""
        return [_value(mpmath.fsum(term for term, _ in self._focal_terms))]

    @cached_property
    def focal_of_probs_gradient(self) -> list[Value]:
        """The gradient of that."""
        slopes = [slope for _, slope in self._focal_terms]
        total = mpmath.fsum(slopes)
        pairs = zip(self.s.p, slopes, strict=True)
        return [Value(p * total - slope, p * total + slope, factor=total) for p, slope in pairs]

    @cached_property
    def _both(self) -> tuple[Softmax, Softmax]:
        return Softmax([v / TEMPERATURE for v in self.x]), Softmax([v / TEMPERATURE for v in self.z])

    @cached_property
    def divergence(self) -> list[Value]:
        """The divergence from the teacher."""
        student, teacher = self._both
        return [_value(mpmath.fsum(q * (t - s) for q, s, t in zip(teacher.p, student.logs, teacher.logs, strict=True)))]

    @cached_property
    def divergence_gradient(self) -> list[Value]:
        """The gradient of the divergence."""
        pairs = zip(*(s.p for s in self._both), strict=True)
        return [Value((p - q) / TEMPERATURE, (p + q) / TEMPERATURE) for p, q in pairs]

    @cached_property
    def _ratios(self) -> list[Real]:
        """The logarithm of the probability divided by the teacher's."""
        student, teacher = self._both
        return [s - t for s, t in zip(student.logs, teacher.logs, strict=True)]

    def _sloped(self, slopes: list[Real], share: Real) -> list[Value]:
        """Return the gradient ``share`` p (slope - the mean of the slopes under p)."""
        pairs = list(zip(self._both[0].p, slopes, strict=True))
        products = [p * v for p, v in pairs]
        mean, size = mpmath.fsum(products), mpmath.fsum(abs(v) for v in products)
        factor = share / TEMPERATURE
        return [Value(factor * p * (v - mean), factor * p * (abs(v) + size), factor=abs(v) + size) for p, v in pairs]

    @cached_property
    def reversed(self) -> list[Value]:
        """The divergence of the teacher from the student."""
        return [_value(mpmath.fsum(p * t for p, t in zip(self._both[0].p, self._ratios, strict=True)))]

    @cached_property
    def reversed_gradient(self) -> list[Value]:
        """The gradient of that."""
        return self._sloped(self._ratios, 1)

    @cached_property
    def _over_mixture(self) -> tuple[list[Real], list[Real]]:
        """The logarithms of the probability and the teacher's, each divided by their mixture."""
        student = [-mpmath.log1p(SHARE * mpmath.expm1(-t)) for t in self._ratios]
        return student, [-mpmath.log1p((1 - SHARE) * mpmath.expm1(t)) for t in self._ratios]

    @cached_property
    def jensen_shannon(self) -> list[Value]:
        """The Jensen-Shannon divergence of student and teacher."""
        shares = zip((1 - SHARE, SHARE), self._both, self._over_mixture, strict=True)
        terms = [share * p * log for share, s, logs in shares for p, log in zip(s.p, logs, strict=True)]
        return [_value(mpmath.fsum(terms))]

    @cached_property
    def jensen_shannon_gradient(self) -> list[Value]:
        """The gradient of that."""
        return self._sloped(self._over_mixture[0], 1 - SHARE)

    @cached_property
    def binary(self) -> list[Value]:
        """The binary cross-entropy of each logit."""
        softplus = [(mpmath.log1p(mpmath.exp(-v)), mpmath.log1p(mpmath.exp(v))) for v in self.x]
        return [_value(POSITIVE * negative + (1 - POSITIVE) * positive) for negative, positive in softplus]

    @cached_property
    def binary_gradient(self) -> list[Value]:
        """Its gradient."""
        shares = [1 / (1 + mpmath.exp(-v)) for v in self.x]
        return [Value(p - POSITIVE, (1 - POSITIVE) * p + POSITIVE * (1 - p)) for p in shares]

    @cached_property
    def _signed(self) -> list[tuple[int, Real, Real, Real]]:
        """Of each logit with the one-hot target: sign, weight, 1 minus the target's probability, cross-entropy."""
        signed = []
        for j, v in enumerate(self.x):
            sign, weight = (-1, ALPHA) if j == self.label else (1, 1 - ALPHA)
            odds = mpmath.exp(sign * v)
            signed.append((sign, weight, odds / (1 + odds), mpmath.log1p(odds)))
        return signed

    @cached_property
    def sigmoid_focal(self) -> list[Value]:
        """The focal loss of each logit's sigmoid, with the one-hot target."""
        return [_value(weight * rest**GAMMA * loss) for _, weight, rest, loss in self._signed]

    @cached_property
    def sigmoid_focal_gradient(self) -> list[Value]:
        """The gradient of that."""
        return [
            _value(sign * weight * rest**GAMMA * (rest + GAMMA * (1 - rest) * loss))
            for sign, weight, rest, loss in self._signed
        ]

    @cached_property
    def binary_from_probs(self) -> list[Value]:
        """The binary cross-entropy of each rounded probability, with the one-hot target."""
        return [_value(-mpmath.log(p) if j == self.label else -mpmath.log1p(-p)) for j, p in enumerate(self.probs)]

    @cached_property
    def binary_from_probs_gradient(self) -> list[Value]:
        """The gradient of that."""
        return [_value(-1 / p if j == self.label else 1 / (1 - p)) for j, p in enumerate(self.probs)]

    @cached_property
    def from_probs(self) -> list[Value]:
        """The cross-entropy from the rounded probabilities."""
        return [_value(-mpmath.log(self.probs[self.label]))]
