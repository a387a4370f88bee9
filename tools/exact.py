"""What the accuracy report compares with: one row of logits and all that follows from it, by mpmath."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import mpmath
import numpy as np

TEMPERATURE, GAMMA, SMOOTHING = 2.0, 2.0, 0.125
POSITIVE = 0.25  # the target of binary cross-entropy
Real = Any  # mpmath.mpf


@dataclass
class Batch:
    """What all contenders compute from: arrays of one dtype, in the shape of the logits, and labels."""

    x: np.ndarray
    labels: np.ndarray
    teacher: np.ndarray  # logits near x
    upstream: np.ndarray  # gradients with respect to a result
    probs: np.ndarray  # the softmax, rounded


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
    def from_probs(self) -> list[Value]:
        """The cross-entropy from the rounded probabilities."""
        return [_value(-mpmath.log(self.probs[self.label]))]
