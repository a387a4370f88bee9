"""Kernels of the statistics of a shard: some of the classes of all samples; ``shard_results`` makes results of them.

``stats``, float64 of shape (S, N), receives for every sample

    always         rows 0, 1, 2: the maximum, ``sum_exp_rest`` and ``num_at_max``, as `long_rows.merge` takes them
    with target    row 3: the logit at the label; NaN where the label is in another shard
                   row 4, of 7: the class weight of that label
                   row 6, of 7, with smoothing: e / C sum_j w_j (m - x_j); the caller fills row 5 with e / C sum_j w_j
    with probs     rows 3, 4: the sums of t_j and of t_j (m - x_j)

with the names of ``formulas``; C counts the classes of all shards. Where all classes are -inf, 0 replaces m in the last
sums. Row 1 has NaN for a sample with a NaN, and 0 beside a maximum of +inf. A NaN at the label has 0 in row 3: it is
there, and row 1 is NaN. ``target`` holds class indices among all classes, ``first`` of which are in front of the shard.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.rows import columns, long_rows, short_rows, tiles
from fastce.kernels.rows.columns import ROOM
from fastce.kernels.rows.samples import shard_labels_at
from fastce.kernels.rows.targets import Targets
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import (
    gather,
    load,
    load_one,
    offset,
    row,
    scratch,
    scratch_from,
    store,
    store_n,
)
from fastce.kernels.simd.vector import any_lane, full_like, get_lane, lane_index, lanes, set_lane, where, widen


@inline
def _save(stats, k, start, n, value):
    """Write ``n`` numbers to row ``k`` of the statistics."""
    store_n(row(stats, k), start, n, widen(value))


@inline
def _save_maxima(stats, start, n, row_max, sum_exp_rest, nan_or_zero):
    """Write rows 0 to 2 from `tiles.stats`; ``nan_or_zero`` replaces ``sum_exp_rest`` beside a maximum of +inf."""
    has_max = row_max > -np.inf
    rest_without_max = where(row_max == row_max, full_like(row_max, 0.0), np.nan)
    sum_exp_rest = where(row_max == np.inf, nan_or_zero, sum_exp_rest)
    _save(stats, 0, start, n, where(has_max, row_max, -np.inf))
    _save(stats, 1, start, n, where(has_max, sum_exp_rest, rest_without_max))
    _save(stats, 2, start, n, where(has_max, full_like(row_max, 1.0), 0.0))


@inline
def _shift(row_max):
    """Return the maximum, or 0 where there is none."""
    return where(row_max > -np.inf, row_max, 0.0)


@inline
def _save_labels(stats, start, n, local, at_label, class_weight):
    """Write row 3, and row 4 if there is one; ``at_label`` is any number where ``local`` is -1."""
    at_label = where(at_label == at_label, at_label, 0.0)
    _save(stats, 3, start, n, where(local >= 0, at_label, np.nan))
    if stats.shape[0] > 4:
        _save(stats, 4, start, n, where(local >= 0, _weights_at(at_label, local, class_weight), 0.0))


@inline
def _weights_at(like, local, class_weight):
    """Return the class weights of labels, of any class where ``local`` is -1."""
    if class_weight is None:
        return full_like(like, 1.0)
    return gather(row(class_weight, 0), where(local >= 0, local, 0))


@inline
def _save_below_max(stats, start, n, sum_below_max, smoothing):
    """Write row 6 from the sum of w (maximum - x), with smoothing."""
    if smoothing is not None:
        store_n(row(stats, 6), start, n, widen(sum_below_max) * smoothing[1])


@inline
def _tile_below_max(tile, classes, row_max, class_weight, smoothing):
    """Return ``tiles.sum_below_max``, which only smoothing needs."""
    if smoothing is None:
        return full_like(tile, 0.0)
    return tiles.sum_below_max(tile, class_weight, classes, _shift(row_max))


@kernel
def shard_tiles(x, target, first, probs, class_weight, smoothing, stats):
    """``x`` is (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.load_tile(x, start, n, tile)
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        nan_or_zero = full_like(x, 0.0)
        if any_lane(row_max == np.inf):
            nan_or_zero = tiles.or_nan(nan_or_zero, tile, classes)
        _save_maxima(stats, start, n, row_max, sum_exp_rest, nan_or_zero)
        if target is not None:
            local = shard_labels_at(target, start, n, first, classes, x)
            at_label = gather(tile, where(local >= 0, local * width + lane_index(x), 0))
            _save_labels(stats, start, n, local, at_label, class_weight)
            sum_below_max = _tile_below_max(tile, classes, row_max, class_weight, smoothing)
            _save_below_max(stats, start, n, sum_below_max, smoothing)
        if probs is not None:
            tiles.load_tile(probs, start, n, exps)
            targets = Targets(exps, class_weight, smoothing)
            target_sum, dot = tiles.target_sum_and_dot(tile, targets, classes, _shift(row_max))
            _save(stats, 3, start, n, target_sum)
            _save(stats, 4, start, n, dot)


@kernel
def shard_short_rows(x, target, first, probs, class_weight, smoothing, stats):
    """``x`` is (N, C) with contiguous rows as in ``short_rows``."""
    count, classes = x.shape
    per_block = short_rows.rows_a_block(x)
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = smaller(per_block, count - start)
        if probs is None:
            row_max, sum_exp_rest, sum_below_max = short_rows.stats(
                x, start, n, None, None, None, class_weight, smoothing
            )
        else:
            row_max, sum_exp_rest, sum_below_max = short_rows.stats(x, start, n, None, None, None, None, None)
        nan_or_zero = full_like(x, 0.0)
        if any_lane(row_max == np.inf):
            for r in range(n):
                if long_rows.has_nan(row(x, start + r), classes):
                    nan_or_zero = set_lane(nan_or_zero, r, np.nan)
        _save_maxima(stats, start, n, row_max, sum_exp_rest, nan_or_zero)
        if target is not None:
            local = shard_labels_at(target, start, n, first, classes, x)
            at_label = full_like(x, 0.0)
            for r in range(n):
                if get_lane(local, r) >= 0:
                    at_label = set_lane(at_label, r, load_one(row(x, start + r), get_lane(local, r)))
            _save_labels(stats, start, n, local, at_label, class_weight)
            _save_below_max(stats, start, n, sum_below_max, smoothing)
        if probs is not None:
            targets = Targets(probs, class_weight, smoothing)
            target_sum, dot = short_rows.target_sum_and_dot(x, targets, start, n, _shift(row_max))
            _save(stats, 3, start, n, target_sum)
            _save(stats, 4, start, n, dot)


@kernel
def shard_rows(x, parts, target, first, probs, class_weight, smoothing, stats):
    """``x`` is (N, C) with contiguous rows, the statistics of whose chunks are in ``parts``; see ``rows.split``."""
    classes = x.shape[1]
    for i in prange(x.shape[0]):
        row_max, sum_exp_rest, num_at_max = parts[i, 0, 0], parts[i, 0, 1], parts[i, 0, 2]
        for chunk in range(1, parts.shape[1]):
            part = parts[i, chunk]
            row_max, sum_exp_rest, num_at_max = long_rows.merge(
                row_max, sum_exp_rest, num_at_max, part[0], part[1], part[2]
            )
        if row_max == np.inf:
            sum_exp_rest = np.nan if long_rows.has_nan(row(x, i), classes) else 0.0
            num_at_max = 1.0
        stats[0, i], stats[1, i], stats[2, i] = row_max, sum_exp_rest, num_at_max
        shift = row_max if row_max > -np.inf else 0.0
        if target is not None:
            local = shard_labels_at(target, i, 1, first, classes, x)
            at_label = load_one(row(x, i), get_lane(local, 0)) if get_lane(local, 0) >= 0 else 0.0
            _save_labels(stats, i, 1, local, full_like(x, at_label), class_weight)
            sum_below_max = _row_below_max(row(x, i), class_weight, classes, shift, smoothing)
            _save_below_max(stats, i, 1, full_like(widen(full_like(x, 0.0)), sum_below_max), smoothing)
        if probs is not None:
            targets = Targets(row(probs, i), class_weight, smoothing)
            stats[3, i], stats[4, i] = long_rows.target_sum_and_dot(row(x, i), targets, classes, shift)


@inline
def _row_below_max(p, class_weight, classes, row_max, smoothing):
    """Return ``long_rows.sum_below_max``, which only smoothing needs."""
    if smoothing is None:
        return 0.0
    return long_rows.sum_below_max(p, class_weight, classes, row_max)


@kernel
def shard_columns(x, target, first, probs, class_weight, smoothing, stats, panel_width):
    """``x`` is (outer, C, inner)."""
    classes = x.shape[1]
    width = lanes(x)
    for b in prange(columns.panel_count(x, panel_width)):
        start, n, lead = columns.panel_range(x, b, panel_width)
        maxima, sum_exp_rests = scratch_from(x, ROOM, lead), scratch_from(x, ROOM, lead)
        panel = columns.panel_at(x, start)
        columns.stats(panel, classes, n, lead, maxima, sum_exp_rests)
        for j in range(0, n, width):
            row_max = load(maxima, j)
            nan_or_zero = full_like(x, 0.0)
            if any_lane(row_max == np.inf):
                nan_or_zero = columns.or_nan(nan_or_zero, panel, j, classes, n)
            _save_maxima(stats, start + j, n - j, row_max, load(sum_exp_rests, j), nan_or_zero)
            store(maxima, j, _shift(row_max))
        if target is not None:
            _column_below_max(panel, classes, n, maxima, sum_exp_rests, class_weight, smoothing)
            for j in range(0, n, width):
                local = shard_labels_at(target, start + j, n - j, first, classes, x)
                at_label = gather(offset(panel.first, j), where(local >= 0, local * panel.step + lane_index(x), 0))
                _save_labels(stats, start + j, n - j, local, at_label, class_weight)
                _save_below_max(stats, start + j, n - j, load(sum_exp_rests, j), smoothing)
        if probs is not None:
            target_sums = scratch_from(x, ROOM, lead)
            targets = Targets(columns.panel_at(probs, start), class_weight, smoothing)
            columns.target_sums_and_dots(panel, targets, classes, n, maxima, target_sums, sum_exp_rests)
            for j in range(0, n, width):
                _save(stats, 3, start + j, n - j, load(target_sums, j))
                _save(stats, 4, start + j, n - j, load(sum_exp_rests, j))


@inline
def _column_below_max(panel, classes, n, maxima, results, class_weight, smoothing):
    """Write ``columns.sums_below_max``, which only smoothing needs."""
    if smoothing is not None:
        columns.sums_below_max(panel, class_weight, classes, n, maxima, results)
