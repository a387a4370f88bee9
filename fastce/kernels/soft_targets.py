"""Drivers of cross-entropy with class probabilities as targets: loss and gradient.

As in ``cross_entropy``, with t_j = w_j ((1 - e) target_j + e / C). Logits and targets are
read from far memory once. ``grad`` may be ``x`` or ``target`` itself.
"""

from numba import prange

from fastce.kernels import columns, rows
from fastce.kernels.cross_entropy import sample_scales
from fastce.kernels.jit import kernel
from fastce.kernels.memory import (
    row,
    scratch,
    store_n,
)
from fastce.kernels.simd import (
    full,
    get_lane,
    set_lane,
)
from fastce.kernels.tiles import MAX_CLASSES, block_count, block_range, fetch, place, put
from fastce.kernels.vecmath import log1p


@kernel
def soft_rows(x, target, class_weight, sample_weight, smoothing, upstream, scale, loss, grad, per_block):
    """``x`` is (N, C) with contiguous rows; ``per_block`` rows, a lane each, go together."""
    count, classes = x.shape
    for b in prange((count + per_block - 1) // per_block):
        start = b * per_block
        n = min(per_block, count - start)
        top = rest = amount = dot = full(x, 0.0)
        for r in range(n):
            p = row(x, start + r)
            row_top, row_rest = rows.stats(p, classes)
            row_amount, row_dot = rows.soft_sums(
                p, row(target, start + r), class_weight, classes, row_top, smoothing
            )  # fmt: skip
            top = set_lane(top, r, row_top)
            rest = set_lane(rest, r, row_rest)
            amount = set_lane(amount, r, row_amount)
            dot = set_lane(dot, r, row_dot)
        weight, slope = sample_scales(x, sample_weight, upstream, scale, start, n)
        store_n(row(loss, start), 0, n, weight * (amount * log1p(rest) + dot))
        if grad is not None:
            for r in range(n):
                rows.write_soft(
                    row(x, start + r), row(target, start + r), row(grad, start + r), class_weight, classes,
                    get_lane(top, r), get_lane(rest, r), get_lane(amount, r), get_lane(slope, r), smoothing,
                )  # fmt: skip


@kernel
def soft_lanes(x, target, class_weight, sample_weight, smoothing, upstream, scale, loss, grad):
    """``x`` is one of the shapes of ``tiles``."""
    classes = x.shape[1]
    for b in prange(block_count(x)):
        start, n = block_range(x, b)
        tile = scratch(x, MAX_CLASSES)
        target_tile = scratch(x, MAX_CLASSES)
        p, step = fetch(x, b, tile)
        t, t_step = fetch(target, b, target_tile)
        top, rest = columns.stats(p, step, classes, n)
        amount, dot = columns.soft_sums(p, step, t, t_step, class_weight, classes, n, top, smoothing)
        weight, slope = sample_scales(x, sample_weight, upstream, scale, start, n)
        store_n(row(loss, start), 0, n, weight * (amount * log1p(rest) + dot))
        if grad is not None:
            q, q_step = place(grad, b, tile)
            columns.write_soft(
                p, step, t, t_step, q, q_step, class_weight, classes, n, top, rest, amount, slope, smoothing
            )  # fmt: skip
            put(grad, b, tile)
