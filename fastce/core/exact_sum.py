"""Sums without rounding, which do not depend on the order of their summands."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fastce import dispatch
from fastce.core.layout import Array
from fastce.core.reduction import mean
from fastce.kernels.ops.exact_sum import BIN_BITS, BINS, IS_NAN, IS_NEGATIVE_INFINITE, IS_POSITIVE_INFINITE

_UNIT_EXPONENT = 1074  # every finite float64 is a multiple of 2**-1074
_BLOCK = 1 << 15  # numbers that are converted at a time


@dataclass(slots=True)
class ExactSum:
    """A sum of float64 numbers without rounding; ``+`` adds two."""

    units: int = 0  # the sum of the finite numbers, in units of 2**-1074
    flags: int = 0  # which numbers there are that are not finite

    @classmethod
    def of_count(cls, count: int) -> ExactSum:
        """Return an integer as a sum."""
        return cls(count << _UNIT_EXPONENT)

    @classmethod
    def of(cls, values: Array) -> ExactSum:
        """Return the sum of an array of one dimension, float32 or float64."""
        bins = np.zeros(BINS + 1, np.int64)
        for start in range(0, len(values), _BLOCK):
            dispatch.run_exact_sum(values[start : start + _BLOCK].astype(np.float64), bins)
        *counts, flags = bins.tolist()
        return cls(sum(count << (BIN_BITS * k) for k, count in enumerate(counts) if count), flags)

    def __add__(self, other: ExactSum) -> ExactSum:
        """Return the sum of both."""
        return ExactSum(self.units + other.units, self.flags | other.flags)

    def __float__(self) -> float:
        """Return the sum rounded to the nearest float64."""
        if self.flags & IS_NAN or self.flags == IS_POSITIVE_INFINITE | IS_NEGATIVE_INFINITE:
            return math.nan
        if self.flags:
            return math.inf if self.flags == IS_POSITIVE_INFINITE else -math.inf
        return _quotient(self.units, 1 << _UNIT_EXPONENT)

    def over(self, other: ExactSum) -> float:
        """Return the quotient of two sums, rounded once; NaN if both are 0."""
        if self.flags or other.flags or not other.units:
            return mean(float(self), float(other))
        return _quotient(self.units, other.units)


def _quotient(numerator: int, denominator: int) -> float:
    """Divide integers and round to the nearest float."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if (numerator < 0) == (denominator < 0) else -math.inf
