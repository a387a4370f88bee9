"""One value a sample: labels, factors, and the sum of losses.

Labels belong to the caller, and another thread or process may change them at any time, even after `scan` has checked
them. So kernels get each label from `label_at`, `labels_at`, `shard_labels_at` or `next_valid`, which read it once and
make it safe. They keep it, and never read it a second time.
"""

import math

from fastce.kernels.codegen.jit import block, inline, kernel
from fastce.kernels.simd.memory import load, load_labels, load_n, load_once, row
from fastce.kernels.simd.vecmath import two_sum
from fastce.kernels.simd.vector import any_lane, full_like, get_lane, lanes, reduce_add, where, widen


@inline
def label_at(target, i, ignore_index, classes):
    """Return the label of sample ``i``, -1 where it is ignored or out of range."""
    label = load_once(row(target, i), 0)
    return label if 0 <= label < classes and label != ignore_index else -1


@inline
def labels_at(target, start, n, ignore_index, classes, like):
    """Return `label_at` of ``n`` samples for the lanes of ``like``; -1 in the other lanes."""
    labels = load_labels(row(target, start), n, -1, like)
    labels = where((labels | (classes - 1 - labels)) < 0, -1, labels)
    return where(labels == ignore_index, -1, labels)


@inline
def shard_labels_at(target, start, n, first, classes, like):
    """Return the labels of ``n`` samples within the shard of ``classes`` that begins with class ``first``.

    There are as many lanes as ``like`` has; -1 for labels of other shards, and in the other lanes.
    """
    labels = load_labels(row(target, start), n, -1, like)
    local = labels - first
    return where((labels | local | (classes - 1 - local)) < 0, -1, local)


@inline
def next_valid(target, i, stop, ignore_index, classes):
    """Return (first sample from ``i`` on that is not ignored, its label), or (``stop``, -1)."""
    label = -1
    while i < stop:
        label = label_at(target, i, ignore_index, classes)
        if label >= 0:
            break
        i += 1
    return i, label


@block
def scan(target, classes, ignore_index, class_weight, sample_factors):
    """Return (position of the first label out of range or -1, total weight of the samples that are not ignored).

    A sample weighs its class weight times its sample weight, the first of its factors; each is 1 where it is None.
    """
    width = lanes(target)
    whole = target.size // width * width
    p = row(target, 0)
    signs = full_like(target, 0)  # negative in a lane once a label or its distance to the last class is
    for i in range(0, whole, width):
        labels = load(p, i)
        signs = signs | labels | (full_like(target, classes - 1) - labels)
    all_fine = not any_lane(signs < 0)
    count = 0
    for i in range(whole if all_fine and not 0 <= ignore_index < classes else 0, target.size):
        label = load_once(row(target, i), 0)
        if label != ignore_index:
            count += 1
            if not 0 <= label < classes:
                return i, 0.0
    if class_weight is None and sample_factors is None:
        return -1, float(count + (whole if all_fine and not 0 <= ignore_index < classes else 0))
    return -1, _weigh(target, classes, ignore_index, class_weight, sample_factors)


@inline
def _weigh(target, classes, ignore_index, class_weight, sample_factors):
    """Return the total weight, as if rounded once. Four sums in turn hide the latency of an addition."""
    options = classes, ignore_index, class_weight, sample_factors
    a = b = c = d = low = 0.0
    for i in range(0, target.size, 4):
        n = target.size - i
        a, err_a = two_sum(a, _weight(target, i, n > 0, *options))
        b, err_b = two_sum(b, _weight(target, i + 1, n > 1, *options))
        c, err_c = two_sum(c, _weight(target, i + 2, n > 2, *options))
        d, err_d = two_sum(d, _weight(target, i + 3, n > 3, *options))
        low += (err_a + err_b) + (err_c + err_d)
    high, err = two_sum(a, b)
    low += err
    high, err = two_sum(high, c)
    low += err
    high, err = two_sum(high, d)
    low += err
    return high + low if math.isfinite(high) else high


@inline
def _weight(target, i, exists, classes, ignore_index, class_weight, sample_factors):
    """Return the weight of sample ``i``, 0 if it is ignored or does not exist."""
    label = label_at(target, i, ignore_index, classes) if exists else -1
    if label < 0:
        return 0.0
    weight = 1.0
    if class_weight is not None:
        weight *= class_weight[label]
    if sample_factors is not None:
        weight *= sample_factors[0, i]
    return weight


@inline
def scaled(like, factors, scale, start, n):
    """Return ``scale`` times the factors of samples ``start`` to ``start + n``; factors are 1 where they are None.

    A factor of 0 gives 0, also where ``scale`` is infinite or NaN, as in the mean of samples that all have weight 0.
    """
    result = full_like(like, scale)
    if factors is not None:
        factor = load_n(row(factors, start), 0, n, 0.0)
        result = where(factor == 0.0, 0.0, result * factor)
    return result


@inline
def has_factor(factors, i):
    """Tell whether the factor of sample ``i`` is not 0; it is 1 where ``factors`` is None."""
    if factors is not None:
        return factors[i] != 0.0
    return True


@block
def total_of(values):
    """Return the sum in float64, in a fixed order, or 0 of None; the sum of float64 values is as if rounded once."""
    if values is None:
        return 0.0
    if values.itemsize == 8:
        return _exact_total(values)
    width = lanes(values)
    p = row(values, 0)
    a = b = widen(full_like(values, 0.0))
    whole = values.size // (2 * width) * (2 * width)
    for j in range(0, whole, 2 * width):
        a = a + widen(load(p, j))
        b = b + widen(load(p, j + width))
    a = a + widen(load_n(p, whole, values.size - whole, 0.0))
    b = b + widen(load_n(p, whole + width, values.size - whole - width, 0.0))
    return reduce_add(a + b)


@inline
def _exact_total(values):
    """Return the sum of float64 values: a compensated sum in each lane, then across the lanes."""
    width = lanes(values)
    p = row(values, 0)
    high = low = widen(full_like(values, 0.0))
    for j in range(0, values.size, width):
        high, err = two_sum(high, widen(load_n(p, j, values.size - j, 0.0)))
        low = low + err
    result = comp = plain = 0.0
    for lane in range(width):
        result, err = two_sum(result, get_lane(high, lane))
        comp += err + get_lane(low, lane)
        plain += get_lane(high, lane)
    if math.isfinite(result):
        return result + comp
    return plain


@kernel
def scan_labels(target, classes, ignore_index, class_weight, sample_factors):
    """Return `scan`."""
    return scan(target, classes, ignore_index, class_weight, sample_factors)


@kernel
def total(values):
    """Return `total_of`."""
    return total_of(values)
