"""Class probabilities as targets: t_j = w_j ((1 - e) target_j + e / C)."""

from typing import Any, NamedTuple

from fastce.kernels.codegen.jit import inline
from fastce.kernels.formulas import smoothed_target, times_weight
from fastce.kernels.simd.memory import load_n, row
from fastce.kernels.simd.vector import first_lanes, full_like, where


class Targets(NamedTuple):
    """The targets of the samples at hand, and what makes t of them; see `formulas`."""

    values: Any  # an array, or a pointer to a row or a tile, or a panel of columns
    class_weight: Any
    smoothing: Any


@inline
def of_class(target, c, targets):
    """Return t from the targets of class ``c``, a sample a lane."""
    return _weighted(smoothed_target(target, targets.smoothing), c, targets.class_weight)


@inline
def _weighted(target_prob, c, class_weight):
    """Return ``target_prob`` times the weight of class ``c``, 0 for the weight 0 even where that is NaN."""
    if class_weight is None:
        return target_prob
    return times_weight(target_prob, full_like(target_prob, class_weight[c]))


@inline
def of_row(targets, j, n):
    """Return t of ``n`` classes from ``j`` on of one sample, and 0 in the other lanes."""
    target_prob = smoothed_target(load_n(targets.values, j, n, 0.0), targets.smoothing)
    return _weighted_row(target_prob, targets.values, j, n, targets.class_weight, targets.smoothing)


@inline
def _weighted_row(target_prob, like, j, n, class_weight, smoothing):
    """Return ``target_prob`` times the weights of ``n`` classes, and 0 in the other lanes."""
    if class_weight is not None:
        return times_weight(target_prob, load_n(row(class_weight, j), 0, n, 0.0))
    if smoothing is not None:
        return where(first_lanes(like, n), target_prob, 0.0)
    return target_prob
