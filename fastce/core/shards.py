"""Shards of the classes: checked arguments, and the statistics of a shard.

``kernels.ops.shard_stats`` lists the rows of statistics. Their number says what they are of: 3 for logits alone, 4 for
class indices, 7 with class weights or label smoothing, 5 for class probabilities.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.factors import smoothing_parts
from fastce.core.layout import FLOAT64, Array, dtypes_of, without_axis
from fastce.core.out import check_out
from fastce.core.staging import Block, blocks, small_row_blocks
from fastce.core.targets import as_labels, check_none_ignored, check_target, raise_label
from fastce.core.validation import (
    INT64_MAX,
    as_array,
    as_ignore_index,
    as_index,
    as_logit_transform,
    as_real,
    as_smoothing,
    as_weights_of,
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
        if self.logits.size:
            self._write(stats)
        else:
            write_neutral(stats)
        if result is not stats:
            result[...] = stats
        return result

    def _write(self, stats: Array) -> None:
        """Write the statistics of at least one logit."""
        if self.rows == OF_WEIGHTED_LABELS:
            stats[5] = 0.0 if self.smoothing is None else self.smoothing[2]
            stats[6] = 0.0
        for block in self.blocks(self.inputs(), None):
            part = slice(block.start, block.stop)
            x, probs = block.inputs[0], block.inputs[1] if self.probs is not None else None
            labels = None if self.labels is None else self.labels[part]
            args = x, labels, self.start, probs, self.weight, self.smoothing, stats[:, part]
            dispatch.run_shard_stats(*args, self.is_chunk, self.is_whole)


def write_neutral(stats: Array) -> None:
    """Write the statistics of no classes, which change none that they are merged with."""
    stats.fill(0.0)
    stats[0] = -np.inf
    if len(stats) in (OF_LABELS, OF_WEIGHTED_LABELS):
        stats[3] = np.nan
