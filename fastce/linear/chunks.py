"""The last layer and its loss, a chunk of rows at a time: there is never more than a chunk of logits.

A chunk has all classes, so that its logits give way to their gradient in place. Where memory
allows too few rows for that, chunks are cut into tiles of some classes; see ``_linear_losses``.
"""

import math
from typing import NamedTuple

import numpy as np

from fastce.core.layout import Array
from fastce.core.workers import Workers, parts
from fastce.linear.layer import Backward, Layer, Rows
from fastce.linear.losses import Samples, Terms, tiled, whole

MIN_ROWS = 64  # of a chunk with all classes: fewer take longer than computing all logits twice
MIN_ROWS_FORWARD = 256  # where tiles compute nothing twice
TILE_ROWS = 1024
TILE_BYTES = 1 << 24  # stays in the cache between products and kernel
MIN_TILE = 64, 256  # rows and classes: fewer, and there are more calls than arithmetic


class Plan(NamedTuple):
    """What is computed together."""

    chunks: list[Rows]
    tiles: list[slice]  # of the classes, the same for all chunks
    ignored: Array  # rows in no chunk


def make_plan(labels: Array, ignore_index: int, layer: Layer, max_bytes: int, forward_only: bool) -> Plan:
    """Return the kept rows in chunks, about equally long, as ``max_bytes`` allows, and the classes in tiles."""
    ignored = np.flatnonzero(labels == ignore_index)
    kept = None if not len(ignored) else np.flatnonzero(labels != ignore_index)
    count = len(labels) - len(ignored)
    rows, classes = _sizes(count, layer, max_bytes, MIN_ROWS_FORWARD if forward_only else MIN_ROWS)
    chunks = parts(count, _even(count, rows))
    tiles = parts(layer.classes, _even(layer.classes, classes))
    return Plan([part if kept is None else kept[part] for part in chunks], list(tiles), ignored)


def _sizes(count: int, layer: Layer, max_bytes: int, min_rows: int) -> tuple[int, int]:
    """Return how many rows and classes at most to take together."""
    values = max_bytes // layer.dtype.itemsize
    beside = 3 * layer.features  # of a row: hidden, its gradient and a part of that
    rows = values // max(layer.classes + beside, 1)
    if rows >= min(count, min_rows):
        return rows, layer.classes
    values = min(values, TILE_BYTES // layer.dtype.itemsize)
    rows = max(min(count, TILE_ROWS, math.isqrt(values)), MIN_TILE[0])
    return rows, max(values // rows - beside, MIN_TILE[1])


def _even(count: int, most: int) -> int:
    """Return a step of at most ``most`` that cuts ``count`` into about equal parts."""
    return max(-(-count // max(-(-count // max(most, 1)), 1)), 1)


def run(
    layer: Layer,
    labels: Array,
    terms: Terms,
    upstream: Array | None,
    losses: Array,
    plan: Plan,
    backward: Backward | None,
) -> None:
    """Write the losses of the rows in the plan, and give their gradients to ``backward``."""
    if not plan.chunks:
        return
    most = max(len(labels[rows]) for rows in plan.chunks)
    buffer = np.empty(most * max(part.stop - part.start for part in plan.tiles), layer.dtype)
    with Workers() as workers:
        for rows in plan.chunks:
            loss = np.empty(len(labels[rows]), layer.dtype)
            samples = Samples(layer.rows(rows), labels[rows], None if upstream is None else upstream[rows], loss)
            if len(plan.tiles) == 1:
                whole(layer, samples, terms, buffer, workers, backward)
            else:
                tiled(layer, samples, terms, plan.tiles, buffer, workers, backward)
            losses[rows] = loss
            if backward is not None:
                backward.end_chunk(rows)
