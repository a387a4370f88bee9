"""Factors of losses and targets, as kernels take them: sample weights with upstream gradients, label smoothing."""

from typing import Any

import numpy as np

from fastce.core.layout import Array


def sample_factors(weight: Array | None, upstream: Array | None, count: int, dtype: np.dtype[Any]) -> Array | None:
    """Return the factors of every sample's loss and gradient, of shape (2, N), or None where all are 1."""
    if weight is None and upstream is None:
        return None
    factors = np.ones((2, count), dtype)
    with np.errstate(all="ignore"):
        if weight is not None:
            factors *= weight
        if upstream is not None:
            factors[1] *= upstream
            factors[1, (factors[0] == 0.0) | (upstream == 0.0)] = 0.0
    return factors


def smoothing_parts(smoothing: float, classes: int, weight: Array | None) -> tuple[float, float, float] | None:
    """Return (1 - e, e / C, e / C * sum(w)) of label smoothing e, which kernels take; None if e is 0."""
    if not smoothing or not classes:
        return None
    uniform_mass = smoothing / classes
    with np.errstate(all="ignore"):
        total = classes if weight is None else float(np.sum(weight, dtype=np.float64))
    return 1.0 - smoothing, uniform_mass, uniform_mass * total
