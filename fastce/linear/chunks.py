"""The loop over chunks of rows of the last layer: no more than one chunk of logits exists at a time.

A chunk has all classes, so that its gradient can replace its logits in place. If memory allows too few rows for that,
chunks have more rows and are cut into tiles of classes; see ``losses``.
"""

import math
from typing import NamedTuple

import numpy as np

from fastce.core.layout import Array
from fastce.core.workers import Workers, parts
from fastce.linear.layer import Backward, Layer, Rows
from fastce.linear.losses import LossOptions, Samples, run_tiled, run_whole

MIN_ROWS = 64  # in a chunk with all classes: fewer rows take longer than computing all logits twice
MIN_ROWS_FORWARD = 256  # without gradients, where tiles compute nothing twice
TILE_ROWS = 1024
TILE_BYTES = 1 << 24  # a tile stays in the cache between the product and the kernel
MIN_TILE = 64, 256  # rows and classes: with fewer, calls take longer than arithmetic


class Plan(NamedTuple):
    """The rows and classes that are computed together."""

    chunks: list[Rows]
    tiles: list[slice]  # of the classes, the same for all chunks
    ignored: Array  # rows in no chunk


def make_plan(labels: Array, ignore_index: int, layer: Layer, max_bytes: int, *, forward_only: bool) -> Plan:
    """Cut the rows that are not ignored into chunks of about equal size, and the classes into tiles."""
    is_ignored = labels == ignore_index
    count = len(labels) - int(np.count_nonzero(is_ignored))
    ignored, valid = np.empty(0, np.intp), None
    if count < len(labels):
        ignored, valid = np.flatnonzero(is_ignored), np.flatnonzero(~is_ignored)
    rows, classes = _sizes(count, layer, max_bytes, MIN_ROWS_FORWARD if forward_only else MIN_ROWS)
    chunks = parts(count, _even_step(count, rows))
    tiles = parts(layer.classes, _even_step(layer.classes, classes))
    return Plan([part if valid is None else valid[part] for part in chunks], list(tiles), ignored)


def _sizes(count: int, layer: Layer, max_bytes: int, min_rows: int) -> tuple[int, int]:
    """Return the greatest number of rows, and of classes, to compute together."""
    values = max_bytes // layer.dtype.itemsize
    other_values = 3 * layer.features  # of a row beside its logits: hidden, its gradient and one summand of that
    rows = values // max(layer.classes + other_values, 1)
    if rows >= min(count, min_rows):
        return rows, layer.classes
    values = min(values, TILE_BYTES // layer.dtype.itemsize)
    rows = max(min(count, TILE_ROWS, math.isqrt(values)), MIN_TILE[0])
    return rows, max(values // rows - other_values, MIN_TILE[1])


def _even_step(count: int, most: int) -> int:
    """Return a step of at most ``most`` that cuts ``count`` into parts of about equal size.

    >>> _even_step(10, 4)  # 4 + 4 + 2 needs three parts as well
    4
    >>> _even_step(9, 8)
    5
    """
    return max(-(-count // max(-(-count // max(most, 1)), 1)), 1)


def run(
    layer: Layer,
    labels: Array,
    options: LossOptions,
    factors: Array | None,
    losses: Array,
    stats: Array | None,
    plan: Plan,
    backward: Backward | None,
) -> None:
    """Write the losses and statistics of the rows in the plan, and pass their gradients to ``backward``."""
    if not plan.chunks:
        return
    labels_of_chunks = [labels[rows] for rows in plan.chunks]
    most_rows = max(map(len, labels_of_chunks))
    most_classes = max(part.stop - part.start for part in plan.tiles)
    buffer = np.empty(most_rows * most_classes, layer.dtype)
    with Workers() as workers:
        for rows, chunk_labels in zip(plan.chunks, labels_of_chunks, strict=True):
            parts_of_chunk = _columns(factors, rows), losses[rows], _columns(stats, rows)
            samples = Samples(layer.rows(rows), chunk_labels, *parts_of_chunk)
            if len(plan.tiles) == 1:
                run_whole(layer, samples, options, buffer, workers, backward)
            else:
                run_tiled(layer, samples, options, plan.tiles, buffer, workers, backward)
            if not isinstance(rows, slice):  # of slices, they are views
                losses[rows] = samples.loss
                if stats is not None:
                    stats[:, rows] = samples.stats
            if backward is not None:
                backward.end_chunk(rows)


def _columns(values: Array | None, rows: Rows) -> Array | None:
    """Return columns of C-ordered values, a view for a slice."""
    if values is None:
        return None
    return values[:, rows] if isinstance(rows, slice) else np.take(values, rows, axis=1)
