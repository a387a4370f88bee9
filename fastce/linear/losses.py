"""From the logits of a chunk of rows to their losses and gradients.

If a chunk has all classes, the fused kernel of `cross_entropy` computes both. If the classes come in tiles, the
maxima and sums of exponentials of the tiles are merged first. Then the logits are computed once more, and the gradient
of each tile replaces them.
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

Smoothing = tuple[float, float, float]  # (1 - e, e / C, e / C * sum(w)), as kernels take it


class LossOptions(NamedTuple):
    """Options of the loss, in the form that kernels take."""

    ignore_index: int
    class_weight: Array | None  # in the dtype of the computation
    smoothing: Smoothing | None
    z_loss: float
    transform: tuple[float, float | None] | None  # logit_scale and softcap
    grad_scale: float  # factor of all gradients: the upstream gradient, divided by the denominator for means


class Samples(NamedTuple):
    """The rows of a chunk, none of them ignored."""

    hidden: Array
    labels: Array
    factors: Array | None  # of the losses and of the gradients, of shape (2, N)
    loss: Array  # is written
    stats: Array | None  # of shape (2, N): their maxima and ``sum_exp_rest`` are written


def run_whole(
    layer: Layer, samples: Samples, options: LossOptions, buffer: Array, workers: Workers, backward: Backward | None
) -> None:
    """Write the losses of rows, and pass the gradients to ``backward``, unless that is None.

    The buffer has room for the logits of all classes.
    """
    classes = slice(0, layer.classes)
    x = _tile(buffer, samples, classes)
    layer.logits(samples.hidden, classes, x)
    workers.run(lambda rows: _run_rows(x, samples, options, rows, with_grad=backward is not None), x)
    if backward is not None:
        backward.take(_differentiated(samples), x, classes)


def _differentiated(samples: Samples) -> Array:
    """Return the rows of the hidden layer, 0 where the factor of the gradient is 0, as NaN times 0 would be NaN."""
    if samples.factors is None or np.all(samples.factors[1]):
        return samples.hidden
    return np.where((samples.factors[1] == 0.0)[:, np.newaxis], samples.hidden.dtype.type(0), samples.hidden)


def _tile(buffer: Array, samples: Samples, classes: slice) -> Array:
    """Return a part of the buffer for the logits of some classes."""
    count, width = len(samples.labels), classes.stop - classes.start
    return buffer[: count * width].reshape(count, width)


def _run_rows(x: Array, samples: Samples, options: LossOptions, rows: slice, *, with_grad: bool) -> None:
    """Write the losses of some rows; the gradient replaces their logits."""
    if options.transform is None:
        _run_kernel(x, samples, options, rows, with_grad=with_grad)
        return
    for part in _cache_sized(x, rows):
        uncapped = _transform(x[part], options.transform)
        _run_kernel(x, samples, options, part, with_grad=with_grad)
        if with_grad:
            dispatch.run_logit_transform_vjp(uncapped, *options.transform, x[part], x[part])


def _transform(x: Array, transform: tuple[float, float | None]) -> Array:
    """Scale and cap logits in place; return them as the chain rule takes them: as they were, if there is a cap."""
    uncapped = x if transform[1] is None else x.copy()
    dispatch.run_logit_transform(uncapped, *transform, x)
    return uncapped


def _cache_sized(x: Array, rows: slice) -> Iterator[slice]:
    """Cut rows into slices so small that a copy of their logits stays in the cache."""
    for part in parts(rows.stop - rows.start, max(STAGED_ELEMENTS // x.shape[1], 1)):
        yield slice(rows.start + part.start, rows.start + part.stop)


def _run_kernel(x: Array, samples: Samples, terms: LossOptions, rows: slice, *, with_grad: bool) -> None:
    """Run the fused kernel on some rows."""
    logits, labels, factors, stats = x[rows], samples.labels[rows], samples.factors, samples.stats
    factors = None if factors is None else factors[:, rows]
    stats = None if stats is None else stats[:, rows]
    options = Options(terms.class_weight, factors, terms.smoothing, terms.z_loss or None)
    scaling = Scaling(terms.grad_scale, is_mean=False)
    loss, grad = samples.loss[rows], logits if with_grad else None
    dispatch.run_index_targets(logits, labels, terms.ignore_index, options, scaling, stats, loss, grad)


# --- tiles of classes ----------------------------------------------------------


def run_tiled(
    layer: Layer,
    samples: Samples,
    options: LossOptions,
    tiles: list[slice],
    buffer: Array,
    workers: Workers,
    backward: Backward | None,
) -> None:
    """Write the losses of rows, and pass the gradients to ``backward``, unless that is None.

    The buffer has room for the logits of one tile of classes.
    """
    stats = MergedStats(samples, options)
    for classes in tiles:
        x = _tile(buffer, samples, classes)
        layer.logits(samples.hidden, classes, x)
        stats.add(x, classes, workers)
    samples.loss[...] = stats.losses()
    if samples.stats is not None:
        samples.stats[...] = stats.row_max, stats.final_sums()
    if backward is None:
        return
    factor, grad_at_label = stats.gradient_terms()
    hidden = _differentiated(samples)
    for classes in tiles:
        x = _tile(buffer, samples, classes)
        layer.logits(samples.hidden, classes, x)
        stats.write_gradient(x, classes, factor, grad_at_label, workers)
        backward.take(hidden, x, classes)


class MergedStats:
    """Statistics of the rows over the tiles added so far.

    Those of one tile are computed in the dtype of the logits; tiles are merged in float64.
    """

    def __init__(self, samples: Samples, options: LossOptions) -> None:
        self.labels, self.options = samples.labels, options
        count = len(samples.labels)
        self.row_max = np.full(count, -np.inf)
        self.sum_exp_rest = np.zeros(count)  # the sum of exp(x - row_max) over all classes but one at the maximum
        self.at_label = np.zeros(count)
        self.weighted_sum = np.zeros(count)  # the sum of w x, with class weights w
        weight = options.class_weight
        self.label_weight = 1.0 if weight is None else weight[samples.labels].astype(np.float64)
        factors = np.ones((2, count)) if samples.factors is None else samples.factors
        self.loss_scale, self.grad_scale = factors[0], options.grad_scale * factors[1]

    def add(self, x: Array, classes: slice, workers: Workers) -> None:
        """Add a tile of logits, which are scaled and capped in place."""
        stats, losses = np.empty((2, len(x)), x.dtype), np.empty(len(x), x.dtype)
        zero_labels = np.zeros_like(self.labels)  # the statistics do not depend on the labels

        def work(rows: slice) -> None:
            if self.options.transform is not None:
                dispatch.run_logit_transform(x[rows], *self.options.transform, x[rows])
            dispatch.run_index_targets(
                x[rows], zero_labels[rows], -1, NO_OPTIONS, SUM, stats[:, rows], losses[rows], None
            )

        workers.run(work, x)
        rows, columns = _in_tile(self.labels, classes)
        self.at_label[rows] = x[rows, columns]
        if self.options.smoothing is not None:
            weight = self.options.class_weight
            if weight is not None and not np.all(weight[classes]):  # a weight of 0 leaves out infinities
                x = np.where(weight[classes] == 0.0, x.dtype.type(0), x)
            self.weighted_sum += x.sum(axis=1) if weight is None else x @ weight[classes]
        self._merge(*stats.astype(np.float64))

    def _merge(self, row_max: Array, sum_exp_rest: Array) -> None:
        """Merge the maxima and sums of a tile, as ``long_rows.merge`` does in kernels."""
        sum_exp_rest = np.where(row_max == -np.inf, 0.0, sum_exp_rest)  # NaN if all classes of the tile are -inf
        higher = np.maximum(self.row_max, row_max)
        rescale, rescale_tile = (np.where(m == higher, 1.0, exp(m - higher)) for m in (self.row_max, row_max))
        self.sum_exp_rest = np.where(
            self.row_max >= row_max,
            (sum_exp_rest + 1.0) * rescale_tile + self.sum_exp_rest,
            (self.sum_exp_rest + 1.0) * rescale + sum_exp_rest,
        )
        self.row_max = higher

    def final_sums(self) -> Array:
        """Return the sums once all tiles are there: NaN for rows of nothing but -inf, as in kernels."""
        return np.where(self.row_max == -np.inf, np.nan, self.sum_exp_rest)

    def losses(self) -> Array:
        """Return the losses, once all tiles are there."""
        loss: Array = self.loss_scale * index_loss(
            self.row_max,
            self.final_sums(),
            self.at_label,
            self.label_weight,
            self.weighted_sum,
            self.options.smoothing,
            self.options.z_loss,
        )
        return loss

    def gradient_terms(self) -> tuple[Array, Array]:
        """Return the factors of exp(x - row_max) in the gradient, and the gradients at the labels."""
        factor, grad_at_label = index_gradient(
            self.row_max,
            self.final_sums(),
            self.at_label,
            self.label_weight,
            self.options.smoothing,
            self.options.z_loss,
        )
        return factor * self.grad_scale, grad_at_label * self.grad_scale

    def write_gradient(self, x: Array, classes: slice, factor: Array, grad_at_label: Array, workers: Workers) -> None:
        """Replace a tile of logits, as the product gives them, by their gradient."""
        row_max, factor = self.row_max.astype(x.dtype), factor.astype(x.dtype)
        transform, smoothing, weight = self.options.transform, self.options.smoothing, self.options.class_weight
        smoothing_term = None if smoothing is None else (self.grad_scale * smoothing[1]).astype(x.dtype)[:, None]
        class_weight = 1.0 if weight is None else weight[classes]

        def work(rows: slice) -> None:
            for part in _cache_sized(x, rows):
                y = x[part]
                uncapped = y if transform is None else _transform(y, transform)
                dispatch.run_lse_vjp(y, factor[part], row_max[part], y)
                if smoothing_term is not None:
                    y -= smoothing_term[part] * class_weight
                labelled, columns = _in_tile(self.labels[part], classes)
                y[labelled, columns] = grad_at_label[part][labelled]
                y[self.grad_scale[part] == 0.0] = 0
                if transform is not None:
                    dispatch.run_logit_transform_vjp(uncapped, *transform, y, y)

        workers.run(work, x)


def _in_tile(labels: Array, classes: slice) -> tuple[Array, Array]:
    """Return the rows whose labels are among these classes, and the columns of the labels in the tile."""
    rows = np.flatnonzero((labels >= classes.start) & (labels < classes.stop))
    return rows, labels[rows] - classes.start


# --- the formulas of ``kernels.formulas``, on arrays -----------------------------


def index_loss(
    row_max: Array,
    sum_exp_rest: Array,
    at_label: Array,
    label_weight: Array | float,
    weighted_sum: Array,
    smoothing: Smoothing | None,
    z_loss: float,
) -> Array:
    """Return the losses of samples by their statistics, as ``formulas.index_loss`` does.

    ``weighted_sum`` takes the place of ``sum_below_max``, which tiles cannot add up: the maximum is not known yet.
    """
    log_sum: Array = log1p(sum_exp_rest)
    lse = row_max + log_sum
    loss = np.where(label_weight == 0.0, 0.0, label_weight * ((row_max - at_label) + log_sum))
    if smoothing is not None:
        keep, uniform_mass, uniform_total = smoothing
        loss = loss * keep + (lse * uniform_total - weighted_sum * uniform_mass)
    return loss + z_loss * lse * lse if z_loss else loss


def index_gradient(
    row_max: Array,
    sum_exp_rest: Array,
    at_label: Array,
    label_weight: Array | float,
    smoothing: Smoothing | None,
    z_loss: float,
) -> tuple[Array, Array]:
    """Return the factors of exp(x - row_max) in the gradient, and the gradients at the labels.

    As ``formulas.index_gradient`` does, with the same care where softmax and target at the label are nearly 1.
    """
    keep, uniform_mass, uniform_total = smoothing or (1.0, 0.0, 0.0)
    slope = 2.0 * z_loss * (row_max + log1p(sum_exp_rest))
    pull = label_weight * keep + uniform_total + slope
    target_at_label = label_weight * (keep + uniform_mass)
    pull_elsewhere = uniform_total - label_weight * uniform_mass + slope
    factor = pull / (sum_exp_rest + 1.0)
    is_close = (at_label == row_max) & (sum_exp_rest < 1.0) & (target_at_label + target_at_label > pull)
    return factor, np.where(
        is_close, pull_elsewhere - factor * sum_exp_rest, exp(at_label - row_max) * factor - target_at_label
    )
