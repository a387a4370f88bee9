"""Results from the statistics of all shards: log-sum-exp, softmax, the loss and its gradient."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.factors import sample_factors
from fastce.core.layout import Array, dtypes_from
from fastce.core.out import result_like
from fastce.core.reduction import FloatArray, Scalar, as_upstream, check_reduction, mean, reduce_losses
from fastce.core.shards import OF_LABELS, OF_LOGITS, OF_PROBS, OF_WEIGHTED_LABELS, Shard
from fastce.core.staging import blocks, row_blocks
from fastce.core.targets import as_labels
from fastce.core.validation import (
    as_array,
    as_dtype,
    as_ignore_index,
    as_normalizer,
    as_smoothing,
    as_weights_of,
    as_z_loss,
)


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


def check_labels(target: Array | None, stats: Array) -> None:
    """Raise unless ``target`` has one integer for each sample, or is None for statistics of class probabilities."""
    if target is None:
        as_stats(stats, rows=(OF_PROBS,))
        return
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
    """Merged statistics, and the options that a loss and its gradient share.

    ``target`` has class indices; it is None for class probabilities, which are in the statistics.
    """

    def __init__(
        self,
        stats: Array,
        target: Array | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
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
        if target is not None:
            self._check_smoothing(label_smoothing)
        kept = self._kept(target, ignore_index)
        self.total_weight = self._total_weight(kept, target is None)
        self.counts = self._counts(kept)
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

    def _kept(self, target: Array | None, ignore_index: int | None) -> Array:
        """Return which samples are not ignored; raise IndexError for a label that no shard has."""
        kept = np.ones(self.count, bool)
        if target is None:
            return kept
        if ignore_index is not None:
            kept = as_labels(target) != as_ignore_index(ignore_index)
        is_missing = kept & np.isnan(self.stats[3])
        if is_missing.any():
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
            is_soft = len(self.stats) == OF_PROBS
            smoothing = None if is_soft else self.smoothing(1.0)
            args = summary_of(self.stats, self.dtype), self.factors(None), smoothing, self.z_loss
            dispatch.run_shard_losses(*args, is_soft=is_soft, is_weighted=self.is_weighted, losses=losses)
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
        args = shard.labels, shard.start, shard.classes, factors, scale, smoothing, self.z_loss
        dispatch.run_shard_terms(summary_of(self.stats, self.dtype), *args, is_weighted=self.is_weighted, terms=terms)
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
