"""From the logits of a chunk of rows to their losses and gradients.

Where all classes of the rows are there, this is the fused kernel's. Where they come in tiles, the
tiles' maxima and sums of exponentials are merged first; then the logits are computed once more,
and each tile's gradient takes their place.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fastce import dispatch
from fastce.core.elementary import exp, log1p
from fastce.core.layout import Array
from fastce.core.staging import STAGED_ELEMENTS
from fastce.core.workers import Workers, parts
from fastce.kernels.ops.cross_entropy import NO_OPTIONS, SUM, Options, Scaling
from fastce.linear.layer import Backward, Layer


class Terms(NamedTuple):
    """What a logit's loss and gradient depend on beside label and logits."""

    ignore_index: int
    class_weight: Array | None  # in the dtype of the computation
    smoothing: tuple[float, float, float] | None
    z_loss: float
    softcap: float | None
    scale: float  # of the gradient


class Samples(NamedTuple):
    """The rows of a chunk, none of them ignored."""

    hidden: Array
    labels: Array
    upstream: Array | None
    loss: Array  # to be written


def whole(
    layer: Layer, samples: Samples, terms: Terms, buffer: Array, workers: Workers, backward: Backward | None
) -> None:
    """Write the losses and give the gradients to ``backward``, with all logits in the buffer."""
    classes = slice(0, layer.classes)
    x = _tile(buffer, samples, classes)
    layer.logits(samples.hidden, classes, x)
    workers.run(lambda rows: _fused(x, samples, terms, backward is not None, rows), x)
    if backward is not None:
        backward.take(samples.hidden, x, classes)


def _tile(buffer: Array, samples: Samples, classes: slice) -> Array:
    count, width = len(samples.labels), classes.stop - classes.start
    return buffer[: count * width].reshape(count, width)


def _fused(x: Array, samples: Samples, terms: Terms, with_grad: bool, rows: slice) -> None:
    """Write the losses of some rows, and the gradient over their logits."""
    if terms.softcap is None:
        _run_hard(x, samples, terms, with_grad, rows)
        return
    for part in _staged(x, rows):
        raw = x[part].copy()
        dispatch.run_logit_transform(raw, 1.0, terms.softcap, x[part])
        _run_hard(x, samples, terms, with_grad, part)
        if with_grad:
            dispatch.run_logit_transform_vjp(raw, 1.0, terms.softcap, x[part], x[part])


def _staged(x: Array, rows: slice) -> Iterator[slice]:
    """Cut rows into slices so small that a copy of their logits stays in the cache."""
    for part in parts(rows.stop - rows.start, max(STAGED_ELEMENTS // x.shape[1], 1)):
        yield slice(rows.start + part.start, rows.start + part.stop)


def _run_hard(x: Array, samples: Samples, terms: Terms, with_grad: bool, rows: slice) -> None:
    """Run the fused kernel, whose arguments only this function knows."""
    _, labels, upstream, loss = samples
    factors = None if upstream is None else np.stack([np.ones_like(upstream[rows]), upstream[rows]])
    options = Options(terms.class_weight, factors, terms.smoothing, terms.z_loss or None)
    scaling = Scaling(terms.scale, is_mean=False)
    grad = x[rows] if with_grad else None
    dispatch.run_index_targets(x[rows], labels[rows], terms.ignore_index, options, scaling, None, loss[rows], grad)


# --- tiles of classes ----------------------------------------------------------


def tiled(
    layer: Layer,
    samples: Samples,
    terms: Terms,
    tiles: list[slice],
    buffer: Array,
    workers: Workers,
    backward: Backward | None,
) -> None:
    """Write the losses and give the gradients to ``backward``, with a tile of the logits in the buffer."""
    merged = Merged(samples, terms)
    for classes in tiles:
        x = _tile(buffer, samples, classes)
        layer.logits(samples.hidden, classes, x)
        merged.add(x, classes, workers)
    samples.loss[...] = merged.losses()
    if backward is None:
        return
    factor, at_label = merged.gradients()
    for classes in tiles:
        x = _tile(buffer, samples, classes)
        layer.logits(samples.hidden, classes, x)
        merged.write_gradient(x, classes, factor, at_label, workers)
        backward.take(samples.hidden, x, classes)


class Merged:
    """What is known of the rows from all tiles that were added, in float64."""

    def __init__(self, samples: Samples, terms: Terms) -> None:
        self.labels, self.terms = samples.labels, terms
        count = len(samples.labels)
        self.top = np.full(count, -np.inf)
        self.rest = np.zeros(count)  # the sum of exp(x - top) over all classes but one greatest
        self.at_label = np.zeros(count)
        self.weighted = np.zeros(count)  # the sum of w x
        weight = terms.class_weight
        self.label_weight = 1.0 if weight is None else weight[samples.labels].astype(np.float64)
        self.slope = terms.scale * (np.ones(count) if samples.upstream is None else samples.upstream)

    def add(self, x: Array, classes: slice, workers: Workers) -> None:
        """Add a tile of logits, which are capped in place."""
        found, losses = np.empty((2, len(x)), x.dtype), np.empty(len(x), x.dtype)
        first = np.zeros_like(self.labels)  # the statistics are those of any label

        def work(rows: slice) -> None:
            if self.terms.softcap is not None:
                dispatch.run_logit_transform(x[rows], 1.0, self.terms.softcap, x[rows])
            dispatch.run_index_targets(x[rows], first[rows], -1, NO_OPTIONS, SUM, found[:, rows], losses[rows], None)

        workers.run(work, x)
        rows, columns = _in_tile(self.labels, classes)
        self.at_label[rows] = x[rows, columns]
        if self.terms.smoothing is not None:
            weight = self.terms.class_weight
            self.weighted += x.sum(axis=1) if weight is None else x @ weight[classes]
        self._merge(*found.astype(np.float64))

    def _merge(self, top: Array, rest: Array) -> None:
        """Merge maxima and rests as ``long_rows.merge`` does."""
        rest[top == -np.inf] = 0.0  # NaN, which it is of a row of nothing else only
        higher = np.maximum(self.top, top)
        fade, other = (np.where(t == higher, 1.0, exp(t - higher)) for t in (self.top, top))
        lower = np.where(self.top >= top, (rest + 1.0) * other + self.rest, (self.rest + 1.0) * fade + rest)
        self.top, self.rest = higher, lower

    def losses(self) -> Array:
        """Return the losses, once all tiles are there: `hard_rows` has the formula."""
        self.rest[self.top == -np.inf] = np.nan
        log_sum: Array = log1p(self.rest)
        lse = self.top + log_sum
        loss = self.label_weight * ((self.top - self.at_label) + log_sum)
        if self.terms.smoothing is not None:
            keep, spread, spread_total = self.terms.smoothing
            loss = loss * keep + (lse * spread_total - self.weighted * spread)
        return loss + self.terms.z_loss * lse * lse if self.terms.z_loss else loss

    def gradients(self) -> tuple[Array, Array]:
        """Return what exponentials are multiplied by, and the gradients at the labels."""
        keep, spread, spread_total = self.terms.smoothing or (1.0, 0.0, 0.0)
        of_lse = 2.0 * self.terms.z_loss * (self.top + log1p(self.rest))
        amount = self.label_weight * keep + spread_total + of_lse
        at_target = self.label_weight * (keep + spread)
        others = spread_total - self.label_weight * spread + of_lse
        factor = amount / (self.rest + 1.0)
        # where both are nearer to all than to nothing, what they lack is compared
        near = (self.at_label == self.top) & (self.rest < 1.0) & (at_target + at_target > amount)
        far = exp(self.at_label - self.top) * factor - at_target
        return factor * self.slope, np.where(near, others - factor * self.rest, far) * self.slope

    def write_gradient(self, x: Array, classes: slice, factor: Array, at_label: Array, workers: Workers) -> None:
        """Write the gradient over a tile of logits."""
        top, factor = self.top.astype(x.dtype), factor.astype(x.dtype)
        cap, smoothing, weight = self.terms.softcap, self.terms.smoothing, self.terms.class_weight
        minus = None if smoothing is None else (self.slope * smoothing[1]).astype(x.dtype)[:, None]
        shares = 1.0 if weight is None else weight[classes]

        def work(rows: slice) -> None:
            for part in _staged(x, rows):
                y = x[part]
                raw = None if cap is None else y.copy()
                if raw is not None:
                    dispatch.run_logit_transform(raw, 1.0, cap, y)
                dispatch.run_lse_vjp(y, factor[part], top[part], y)
                if minus is not None:
                    y -= minus[part] * shares
                chosen, columns = _in_tile(self.labels[part], classes)
                y[chosen, columns] = at_label[part][chosen]
                if raw is not None:
                    dispatch.run_logit_transform_vjp(raw, 1.0, cap, y, y)

        workers.run(work, x)


def _in_tile(labels: Array, classes: slice) -> tuple[Array, Array]:
    """Return the rows whose labels are among these classes, and where they are there."""
    rows = np.flatnonzero((labels >= classes.start) & (labels < classes.stop))
    return rows, labels[rows] - classes.start
