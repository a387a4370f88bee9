"""Shards of the classes: checked arguments, statistics of a shard, and results from the statistics of all shards.

``kernels.ops.shard_stats`` lists the rows of statistics. Their number says what they are of: 3 for logits alone, 4 for
class indices, 7 with class weights or label smoothing, 5 for class probabilities.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.factors import sample_factors, smoothing_parts
from fastce.core.layout import FLOAT64, Array, dtypes_from, dtypes_of, without_axis
from fastce.core.out import check_out, result_like
from fastce.core.reduction import FloatArray, Scalar, as_upstream, check_reduction, mean, reduce_losses
from fastce.core.staging import Block, blocks, row_blocks, small_row_blocks
from fastce.core.targets import as_labels, check_none_ignored, check_target, raise_label
from fastce.core.validation import (
    INT64_MAX,
    as_array,
    as_dtype,
    as_ignore_index,
    as_index,
    as_logit_transform,
    as_normalizer,
    as_real,
    as_smoothing,
    as_weights_of,
    as_z_loss,
    normalize_axis,
    shown,
)
from fastce.kernels.rows.long_rows import CHUNK
from fastce.kernels.rows.long_rows import chunk_length as _chunk_length

OF_LOGITS, OF_LABELS, OF_PROBS, OF_WEIGHTED_LABELS = 3, 4, 5, 7  # rows of statistics


def chunk_length(classes: int) -> int:
    """Return how many classes each chunk of a row has, all classes where the row is one chunk."""
    return classes if classes <= CHUNK else int(_chunk_length.py_func(classes))


class Shard:
    """Checked logits and targets of a shard, with the options that its statistics and its gradient share.

    ``labels`` count all classes; ``probs`` are the shard's. Both are None where there is no target.
    """

    labels: Array | None = None
    probs: Array | None = None
    given: Array | None = None  # the target, as an array
    weight: Array | None = None
    smoothing: tuple[float, float, float] | None = None  # (1 - e, e / C, e / C * sum of the shard's weights)
    total_classes: int | None = None

    def __init__(self, logits: npt.ArrayLike, axis: int) -> None:
        self.logits = as_real(logits, "logits")
        self.axis = normalize_axis(axis, self.logits.ndim, "logits")
        self.dtype = dtypes_of(self.logits).compute
        self.shape = without_axis(self.logits.shape, self.axis)
        self.count = math.prod(self.shape)
        self.classes = self.logits.shape[self.axis]

    def bind(
        self,
        target: npt.ArrayLike | None,
        *,
        start: int,
        classes: int | None,
        weight: npt.ArrayLike | None,
        ignore_index: int | None,
        label_smoothing: float,
        logit_scale: float,
        softcap: float | None,
    ) -> None:
        """Check the target and the options, and keep them."""
        self.start = as_index(start, "start")
        if not 0 <= self.start <= INT64_MAX - self.classes:
            raise ValueError(f"start must be at least 0, and the last class fit 64 bits, got {shown(self.start)}")
        self.ignore_index = as_ignore_index(ignore_index)
        if classes is not None:
            self._take_classes(as_index(classes, "classes"))
        if target is not None:
            self._take_target(as_array(target, "target"), ignore_index)
        smoothing = as_smoothing(label_smoothing)
        if target is None and (weight is not None or smoothing):
            raise ValueError("weight and label_smoothing belong to a target, got none")
        if weight is not None:
            weight = as_real(weight, "weight")
            self.weight = as_weights_of(weight, (self.classes,), "weight", "one per class of the shard", self.dtype)
        if smoothing:
            if self.total_classes is None:
                raise ValueError("label_smoothing needs classes, the number of classes of all shards; got None")
            keep, uniform_mass, _ = smoothing_parts(smoothing, max(self.total_classes, 1), None) or (1.0, 0.0, 0.0)
            with np.errstate(all="ignore"):
                total = self.classes if weight is None else float(np.sum(weight, dtype=np.float64))
            self.smoothing = keep, uniform_mass, uniform_mass * total
        self.logit_transform = as_logit_transform(logit_scale, softcap, self.dtype)

    def _take_classes(self, classes: int) -> None:
        """Keep the number of classes of all shards, which this one has to be among."""
        least = self.start + self.classes
        if not least <= classes <= INT64_MAX:
            raise ValueError(
                f"classes must be at least {least}, start and the classes of the shard, and fit 64 bits, "
                f"got {shown(classes)}"
            )
        self.total_classes = classes

    def _take_target(self, target: Array, ignore_index: int | None) -> None:
        """Keep labels or class probabilities; check labels against the number of all classes if that is known."""
        check_target(target, self.logits, self.axis)
        self.given = target
        if target.ndim == self.logits.ndim:
            if target.dtype.kind in "iub":
                raise TypeError(
                    f"target must be class indices, or class probabilities as floats, got one {target.dtype} a class: "
                    "a shard of a one-hot target need not hold the 1"
                )
            self.probs = target
            return
        self.labels = as_labels(target)
        if self.total_classes is None:
            return
        if ignore_index is None:
            check_none_ignored(target, self.labels, self.total_classes)
        position, _ = dispatch.scan_labels(self.labels, self.total_classes, self.ignore_index, None, None)
        if position >= 0:
            raise_label(target, position, self.total_classes, self.ignore_index)

    @property
    def rows(self) -> int:
        """How many rows its statistics have."""
        if self.probs is not None:
            return OF_PROBS
        if self.labels is None:
            return OF_LOGITS
        return OF_LABELS if self.weight is None and self.smoothing is None else OF_WEIGHTED_LABELS

    @property
    def is_chunk(self) -> bool:
        """Whether it is a whole chunk of longer rows."""
        total = self.total_classes
        if total is None or total <= CHUNK:
            return False
        length = chunk_length(total)
        return self.start % length == 0 and self.classes == min(length, total - self.start)

    @property
    def is_whole(self) -> bool:
        """Whether it is known to have all classes."""
        return bool(self.classes == self.total_classes)

    def blocks(self, inputs: Sequence[Array], out: Array | None) -> Iterator[Block]:
        """Yield kernel-ready blocks; a buffer holds transformed logits, and then their gradient."""
        if self.logit_transform is None:
            yield from blocks(self.axis, self.dtype, inputs, out)
            return
        scale, cap = self.logit_transform
        for block in small_row_blocks(self.axis, self.dtype, inputs, out):
            x, *probs = block.inputs
            buffer = np.empty(x.shape, self.dtype)
            dispatch.run_logit_transform(x, scale, cap, buffer)
            yield Block(block.start, block.stop, (buffer, *probs), None if block.out is None else buffer)
            if block.out is not None:
                dispatch.run_logit_transform_vjp(x, scale, cap, buffer, block.out)

    def inputs(self) -> tuple[Array, ...]:
        """Return the arrays that have the shape of the logits."""
        return (self.logits,) if self.probs is None else (self.logits, self.probs)

    def statistics(self, out: object) -> Array:
        """Return the statistics, in ``out`` unless that is None."""
        shape = self.rows, self.count
        inputs = self.logits, self.given
        stats = np.empty(shape) if out is None else check_out(out, shape, FLOAT64, ("logits", "target"), inputs)
        result = stats
        if not stats.flags.carray or not stats.dtype.isnative:
            stats = np.empty(shape)
        if not self.logits.size:
            write_neutral(stats)
        elif self.rows == OF_WEIGHTED_LABELS:
            stats[5:] = 0.0
        if self.smoothing is not None and self.labels is not None:
            stats[5] = self.smoothing[2]
        for block in self.blocks(self.inputs(), None) if self.logits.size else ():
            part = slice(block.start, block.stop)
            x, probs = block.inputs[0], block.inputs[1] if self.probs is not None else None
            labels = None if self.labels is None else self.labels[part]
            options = self.weight, self.smoothing
            dispatch.run_shard_stats(
                x, labels, self.start, probs, *options, stats[:, part], self.is_chunk, self.is_whole
            )
        if result is not stats:
            result[...] = stats
        return result


def write_neutral(stats: Array) -> None:
    """Write the statistics of no classes, which change none that they are merged with."""
    stats.fill(0.0)
    stats[0] = -np.inf
    if len(stats) in (OF_LABELS, OF_WEIGHTED_LABELS):
        stats[3] = np.nan


# --- statistics that were given -----------------------------------------------------


def as_stats(stats: npt.ArrayLike, count: int | None = None, rows: tuple[int, ...] = ()) -> Array:
    """Return statistics as contiguous float64, or raise; ``rows`` are those that the target at hand allows."""
    array = as_array(stats, "stats")
    if array.dtype.newbyteorder("=") != np.float64:
        raise TypeError(f"stats must have dtype float64, as from statistics, got {array.dtype}")
    allowed = (OF_LOGITS, OF_LABELS, OF_PROBS, OF_WEIGHTED_LABELS)
    if array.ndim != 2 or array.shape[0] not in allowed or count not in (None, array.shape[1]):
        samples = "N" if count is None else count
        raise ValueError(f"stats must have shape (S, {samples}), as from statistics and merge, got {array.shape}")
    if rows and array.shape[0] not in rows:
        raise ValueError(f"stats must be of {_OF[rows]}, got those of {_OF[array.shape[:1]]}: see statistics")
    return np.require(array, np.float64, ["C", "A"])


def check_labels(target: Array, stats: Array) -> None:
    """Raise unless ``target`` has one integer for each sample of these statistics, which have to be of labels."""
    as_stats(stats, rows=(OF_LABELS, OF_WEIGHTED_LABELS))
    if target.size != stats.shape[1]:
        raise ValueError(
            f"target must have a class index for each of the {stats.shape[1]} samples of stats, "
            f"got shape {target.shape}"
        )
    if target.dtype.kind not in "iu" and target.size:
        raise TypeError(f"class indices must be integers, got dtype {target.dtype}; use target.astype(int)")


_OF = {
    (OF_LOGITS,): "logits without a target",
    (OF_LABELS,): "class indices without weight and label_smoothing",
    (OF_WEIGHTED_LABELS,): "class indices with weight or label_smoothing",
    (OF_LABELS, OF_WEIGHTED_LABELS): "class indices",
    (OF_PROBS,): "class probabilities",
}


def merge(parts: npt.ArrayLike | Sequence[npt.ArrayLike]) -> Array:
    """Return the statistics of several shards together."""
    arrays = [as_stats(part) for part in parts]  # type: ignore[union-attr]
    if not arrays:
        raise ValueError("parts must hold the statistics of at least one shard, got none")
    if any(array.shape != arrays[0].shape for array in arrays):
        raise ValueError(f"parts must have one shape, got {', '.join(str(array.shape) for array in arrays)}")
    stacked = np.stack(arrays)
    if stacked.shape[1] in (OF_LABELS, OF_WEIGHTED_LABELS):
        holders = np.count_nonzero(stacked[:, 3] == stacked[:, 3], axis=0)
        if holders.max(initial=0) > 1:
            raise ValueError(
                f"parts must be of different classes, got the label of sample {int(np.argmax(holders))} in "
                f"{holders.max()} of them: start is the number of classes in front of a shard"
            )
    merged = np.empty(stacked.shape[1:])
    if merged.size:
        dispatch.run_shard_merge(stacked, merged)
    return merged


def summary_of(stats: Array, dtype: np.dtype[Any]) -> Array:
    """Return m and r, and the rows behind ``num_at_max``, of merged statistics in the dtype of the computation."""
    summary = np.empty((len(stats) - 1, stats.shape[1]), dtype)
    if summary.size:
        dispatch.run_shard_finish(summary, stats)
    return summary


def compute_dtype(dtype: npt.DTypeLike) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return (dtype of the computation, dtype of results in the shape of the logits) for logits of this dtype."""
    found = dtypes_from(as_dtype(dtype))
    if found is None:
        raise TypeError(f"dtype must be one of real numbers, as logits have, got {np.dtype(dtype)}")
    return found.compute, found.result


def logsumexp(stats: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """Return the log-sum-exp of all samples."""
    compute, result = compute_dtype(dtype)
    array = as_stats(stats)
    lse = np.empty(array.shape[1], compute)
    if lse.size:
        dispatch.run_shard_lse(summary_of(array[:3], compute), lse)
    with np.errstate(all="ignore"):
        return lse.astype(result, copy=False)


def softmax(logits: npt.ArrayLike, stats: npt.ArrayLike, axis: int, out: Array | None, are_logs: bool) -> Array:
    """Return the softmax of a shard, or its logarithms."""
    shard = Shard(logits, axis)
    array = as_stats(stats, shard.count)
    x = shard.logits
    result = result_like(x, out, ("logits", "stats"), (x, array))
    if not x.size:
        return result
    summary = summary_of(array[:3], shard.dtype)
    if are_logs:
        for block in row_blocks(shard.axis, shard.dtype, (x,), result):
            assert block.out is not None
            block_summary = summary[:, block.start : block.stop]
            dispatch.run_log_softmax_from(block.inputs[0], block_summary, block.out, out is None)
        return result
    with np.errstate(all="ignore"):
        factors = shard.dtype.type(1) / (summary[1] + shard.dtype.type(1))
    for block in blocks(shard.axis, shard.dtype, (x,), result):
        assert block.out is not None
        part = slice(block.start, block.stop)
        dispatch.run_lse_vjp(block.inputs[0], factors[part], summary[0, part], block.out, out is None)
    return result


# --- the loss and its gradient ------------------------------------------------------


class Loss:
    """Merged statistics, and the options that a loss and its gradient share."""

    def __init__(
        self,
        stats: Array,
        labels: Array | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        target: Array | None,
        sample_weight: npt.ArrayLike | None,
        ignore_index: int | None,
        label_smoothing: float,
        z_loss: float,
        reduction: str,
        normalizer: float | None,
    ) -> None:
        check_reduction(reduction)
        self.stats, self.shape, self.dtype, self.reduction = stats, shape, dtype, reduction
        self.count = math.prod(shape)
        self.keep = 1.0 - as_smoothing(label_smoothing)
        self.z_loss = as_z_loss(z_loss, dtype)
        self.sample_weight = None
        if sample_weight is not None:
            weights = as_weights_of(sample_weight, shape, "sample_weight", "one per sample", dtype)
            self.sample_weight = weights.reshape(-1)
        self.is_weighted = len(stats) == OF_WEIGHTED_LABELS
        self.uniform_total = float(stats[5, 0]) if self.is_weighted and self.count else 0.0
        if labels is not None:
            self._check_smoothing(label_smoothing)
        counts = self._kept(labels, target, ignore_index)
        self.total_weight = self._total_weight(counts, labels is None)
        self.counts = self._counts(counts)
        if normalizer is not None:
            self.total_weight = as_normalizer(normalizer, reduction, dtype)
            if self.total_weight == 0.0:
                if count := np.count_nonzero(self.counts):
                    raise ValueError(f"normalizer must be positive where samples count, got 0.0 for {count} of them")
                self.total_weight = 1.0  # the sum is 0

    def _check_smoothing(self, label_smoothing: float) -> None:
        """Raise ValueError for label smoothing that only one of the statistics and the call has."""
        if self.keep == 1.0 and self.uniform_total != 0.0:
            raise ValueError(f"label_smoothing must be that of the statistics, got {label_smoothing!r}")
        if self.keep != 1.0 and not self.is_weighted:
            raise ValueError(f"label_smoothing must be that of the statistics, 0.0, got {label_smoothing!r}")

    def _kept(self, labels: Array | None, target: Array | None, ignore_index: int | None) -> Array:
        """Return which samples are not ignored; raise IndexError for a label that no shard has."""
        kept = np.ones(self.count, bool)
        if labels is None:
            return kept
        if ignore_index is not None:
            kept = labels != as_ignore_index(ignore_index)
        is_missing = kept & np.isnan(self.stats[3])
        if is_missing.any():
            assert target is not None
            index = np.unravel_index(int(np.argmax(is_missing)), target.shape)
            where = f"target[{', '.join(str(int(i)) for i in index)}]" if index else "target"
            ignored = "" if ignore_index is None else f" or ignore_index {ignore_index}"
            raise IndexError(f"{where} is {int(target[index])}, expected a class index of one of the shards{ignored}")
        return kept

    def _total_weight(self, kept: Array, is_soft: bool) -> float:
        """Return the sum of class weight times sample weight over the samples that are not ignored."""
        weight = self.sample_weight
        if self.is_weighted:
            with np.errstate(all="ignore"):
                label_weight = self.stats[4] if weight is None else self.stats[4] * weight
            return dispatch.total(label_weight[kept])
        if weight is None:
            return float(np.count_nonzero(kept))
        return dispatch.total(weight if is_soft else weight[kept].astype(np.float64))

    def _counts(self, kept: Array) -> Array:
        """Return which samples are neither ignored nor left out by a factor of 0."""
        if self.sample_weight is not None:
            kept = kept & (self.sample_weight != 0.0)
        if self.z_loss is None and self.is_weighted and self.uniform_total == 0.0:
            kept = kept & (self.stats[4] != 0.0)
        elif self.z_loss is None and len(self.stats) == OF_PROBS:
            kept = kept & ((self.stats[3] != 0.0) | (self.stats[4] != 0.0))
        return kept

    def factors(self, upstream: Array | None) -> Array | None:
        """Return the factors of every sample's loss and gradient, 0 for samples that are left out."""
        weight = self.sample_weight
        if not self.counts.all():
            weight = np.where(self.counts, self.dtype.type(1) if weight is None else weight, self.dtype.type(0))
        return sample_factors(weight, upstream, self.count, self.dtype)

    def smoothing(self, uniform_mass: float) -> tuple[float, float, float] | None:
        """Return (1 - e, ``uniform_mass``, e / C times the sum of all weights), None without smoothing."""
        return None if self.keep == 1.0 else (self.keep, uniform_mass, self.uniform_total)

    def solve(self) -> Scalar | FloatArray:
        """Return the loss."""
        losses = np.empty(self.count, self.dtype)
        if self.count:
            static_soft = dispatch.static_flag(len(self.stats) == OF_PROBS)
            static_weighted = dispatch.static_flag(self.is_weighted)
            smoothing = None if static_soft else self.smoothing(1.0)
            summary = summary_of(self.stats, self.dtype)
            dispatch.run_shard_losses(
                summary, self.factors(None), smoothing, self.z_loss, static_soft, static_weighted, losses
            )
        return reduce_losses(losses, self.shape, self.reduction, self.total_weight)

    def backward(self, shard: Shard, grad: Array, grad_output: npt.ArrayLike | None, out_is_new: bool) -> None:
        """Write the gradient of a shard."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        if not grad.size:
            return
        if self.reduction == "mean":
            scale = mean(scale, self.total_weight)
        factors = self.factors(upstream)
        smoothing = None
        if shard.smoothing is not None:
            smoothing = shard.smoothing if shard.labels is None else self.smoothing(shard.smoothing[1])
        terms = np.empty((4 if shard.labels is None else 5, self.count), self.dtype)
        static_weighted = dispatch.static_flag(self.is_weighted)
        numbers = shard.start, shard.classes, factors, scale, smoothing, self.z_loss, static_weighted
        dispatch.run_shard_terms(summary_of(self.stats, self.dtype), shard.labels, *numbers, terms)
        weight = shard.weight if smoothing is not None or shard.labels is None else None
        for block in shard.blocks(shard.inputs(), grad):
            probs = block.inputs[1] if shard.probs is not None else None
            assert block.out is not None
            dispatch.run_shard_gradient(
                block.inputs[0],
                probs,
                terms[:, block.start : block.stop],
                weight,
                smoothing,
                factors is not None,
                block.out,
                out_is_new,
            )
