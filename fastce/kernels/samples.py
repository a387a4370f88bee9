"""Passes over one value a sample: labels, and the sum of losses."""

import math

from fastce.kernels.jit import kernel
from fastce.kernels.memory import (
    load_n,
    row,
)
from fastce.kernels.simd import full, get_lane, lanes, reduce_add, where, widen
from fastce.kernels.vecmath import two_sum


@kernel
def scan_labels(target, classes, ignore_index, class_weight, sample_weight):
    """Return (position of the first label out of range or -1, weight of the kept samples).

    A kept sample weighs its class weight times its sample weight, each 1 where it is None.
    """
    p = row(target, 0)
    one = full(target, 1)
    kept = good = full(target, 0)
    for i in range(0, target.size, lanes(target)):
        labels = load_n(p, i, target.size - i, ignore_index)
        is_kept = labels != ignore_index
        kept = kept + where(is_kept, one, 0)
        good = good + where(is_kept & (labels >= 0) & (labels < classes), one, 0)
    count = reduce_add(kept)
    if count != reduce_add(good):
        for i in range(target.size):
            if target[i] != ignore_index and not 0 <= target[i] < classes:
                return i, 0.0
    if class_weight is None and sample_weight is None:
        return -1, float(count)
    total = 0.0
    for i in range(target.size):
        if target[i] != ignore_index:
            weight = 1.0
            if class_weight is not None:
                weight *= class_weight[target[i]]
            if sample_weight is not None:
                weight *= sample_weight[i]
            total += weight
    return -1, total


@kernel
def total(values):
    """Return the sum in float64, in a fixed order and as if rounded once."""
    width = lanes(values)
    p = row(values, 0)
    high = low = widen(full(values, 0.0))
    for j in range(0, values.size, width):
        high, lost = two_sum(high, widen(load_n(p, j, values.size - j, 0.0)))
        low = low + lost
    result = compensation = plain = 0.0
    for lane in range(width):
        result, lost = two_sum(result, get_lane(high, lane))
        compensation += lost + get_lane(low, lane)
        plain += get_lane(high, lane)
    if math.isfinite(result):
        return result + compensation
    return plain
