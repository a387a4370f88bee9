"""Drivers of cross-entropy with class probabilities as targets: loss and gradient.

As in ``cross_entropy``, with t_j = w_j ((1 - e) target_j + e / C). Logits and targets are
read from far memory once. ``grad`` may be ``x`` or ``target`` itself.
"""

from numba import prange

from fastce.kernels import columns, rows
from fastce.kernels.columns import BUFFER, PANEL
from fastce.kernels.cross_entropy import sample_scales
from fastce.kernels.jit import kernel
from fastce.kernels.memory import load, row, scratch, store, store_n
from fastce.kernels.simd import full, get_lane, lanes, set_lane
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
def soft_lanes(x, target, class_weight, sample_weight, smoothing, upstream, scale, loss, grad, panel):
    """``x`` is one of the shapes of ``tiles``."""
    classes = x.shape[1]
    width = lanes(x)
    for b in prange(block_count(x, panel)):
        start, n = block_range(x, b, panel)
        tile, target_tile = scratch(x, BUFFER), scratch(x, MAX_CLASSES)
        tops, rests, slopes = scratch(x, PANEL), scratch(x, PANEL), scratch(x, PANEL)
        amounts, dots = scratch(x, PANEL), scratch(x, PANEL)
        p, step, count = fetch(x, start, n, tile)
        t, t_step, _ = fetch(target, start, n, target_tile)
        columns.stats(p, step, classes, count, tile, tops, rests)
        columns.soft_sums(p, step, t, t_step, class_weight, classes, count, tops, smoothing, amounts, dots)
        for j in range(0, n, width):
            weight, slope = sample_scales(x, sample_weight, upstream, scale, start + j, n - j)
            value = weight * (load(amounts, j) * log1p(load(rests, j)) + load(dots, j))
            store_n(row(loss, start + j), 0, n - j, value)
            store(slopes, j, slope)
        if grad is not None:
            q, q_step, _ = place(grad, start, n, tile)
            columns.write_soft(
                p, step, t, t_step, q, q_step, class_weight, classes, count, tops, rests, amounts, slopes, smoothing
            )  # fmt: skip
            put(grad, start, n, tile)
