"""Lazy arrays of fastce's results: blocks with all classes, and the statistics of blocks with some of them."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

import fastce
from fastce.interop import dask_blocks as blocks
from fastce.interop.extras import extra

with extra("dask", "dask"):
    from dask import array as da  # the error names dask

Index = tuple[int, ...]  # the axes of an array, by their numbers in the logits


# --- arguments ----------------------------------------------------------------------------------


def _known(array: Any, name: str) -> Any:
    if any(math.isnan(length) for length in array.shape):
        raise ValueError(
            f"{name} must have chunks of known sizes, got shape {array.shape}: call {name}.compute_chunk_sizes()"
        )
    return array


def _as_array(values: Any, name: str) -> Any:
    """Return an array of Dask as it is, and others as NumPy's, which would drop a mask."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it or drop what is masked")
    return values if isinstance(values, da.Array) else np.asarray(values)


def empty(dtype: Any, ndim: int) -> Any:
    """Return an array of no elements, which tells Dask the dtype."""
    return np.empty((0,) * ndim, dtype)


class Logits:
    """Checked logits of known chunks, and the axis of their classes."""

    def __init__(self, x: Any, axis: int, name: str) -> None:
        if not isinstance(x, da.Array):
            raise TypeError(f"{name} must be a dask array, got {type(x).__name__}: write dask.array.from_array({name})")
        self.array = _known(x, name)
        fastce.shards.statistics(empty(x.dtype, x.ndim), axis=axis)  # raises for a wrong dtype or axis
        self.axis = operator.index(axis) % x.ndim
        self.index: Index = tuple(range(x.ndim))
        self.samples: Index = self.index[: self.axis] + self.index[self.axis + 1 :]
        self.sample_chunks = tuple(x.chunks[i] for i in self.samples)
        self.sample_shape = tuple(x.shape[i] for i in self.samples)
        self.classes = x.shape[self.axis]
        self.class_chunks: tuple[int, ...] = x.chunks[self.axis]
        self.is_whole = len(self.class_chunks) == 1
        self.result = x.dtype.newbyteorder("=") if x.dtype.kind not in "biu" else np.dtype(np.float64)
        self.compute = np.dtype(np.float64 if self.result == np.float64 else np.float32)

    def of_samples(self, values: Any, name: str) -> Any:
        """Return one value a sample in the chunks of the samples."""
        array = _as_array(values, name)
        if _known(array, name).shape != self.sample_shape:
            raise ValueError(
                f"{name} must have the shape of logits without the class axis, {self.sample_shape}, got {array.shape}"
            )
        if isinstance(array, da.Array):
            return array.rechunk(self.sample_chunks) if array.ndim else array
        return da.from_array(array, chunks=self.sample_chunks)

    def of_classes(self, values: Any, name: str, chunks: tuple[int, ...]) -> Any:
        """Return one value a class in these chunks."""
        array = _as_array(values, name)
        if _known(array, name).shape != (self.classes,):
            raise ValueError(f"{name} must have shape ({self.classes},), one per class, got {array.shape}")
        return array.rechunk((chunks,)) if isinstance(array, da.Array) else da.from_array(array, chunks=(chunks,))

    def starts(self) -> Any:
        """Return the first class of each block, one a chunk."""
        first = np.cumsum((0, *self.class_chunks))[:-1]
        return da.from_array(first, chunks=1)


class Target:
    """A checked target in the chunks of the logits: labels, one-hot integers or class probabilities."""

    def __init__(self, target: Any, logits: Logits) -> None:
        array = _as_array(target, "target")
        x = logits.array
        self.is_one_hot = self.is_soft = False
        if array.ndim != x.ndim:
            self.array, self.index = logits.of_samples(array, "target"), logits.samples
            if array.dtype.kind not in "iu":
                raise TypeError(f"class indices must be integers, got dtype {array.dtype}; use target.astype(int)")
            return
        self.is_one_hot = array.dtype.kind in "biu"
        self.is_soft = not self.is_one_hot
        self.index = logits.index
        if _known(array, "target").shape != x.shape:
            raise ValueError(f"target must have the shape of logits, {x.shape}, got {array.shape}")
        if not isinstance(array, da.Array):
            array = da.from_array(array, chunks=x.chunks)
        if array.chunks != x.chunks:
            raise ValueError(
                f"target must have the chunks of logits, {x.chunks}, got {array.chunks}: "
                "write target.rechunk(logits.chunks)"
            )
        if self.is_one_hot and not logits.is_whole:
            raise TypeError(
                f"target must be class indices, or class probabilities as floats, got one {array.dtype} a class: "
                "a chunk of some classes need not hold the 1"
            )
        self.array = array


def optional(array: Any, index: Index) -> tuple[Any, Index | None]:
    """Return an argument of ``blockwise``, which may be None."""
    return (None, None) if array is None else (array, index)


# --- arrays -------------------------------------------------------------------------------------


def blockwise(function: Any, index: Index, *args: Any, dtype: Any, **options: Any) -> Any:
    """Return an array whose blocks a function makes of those of other arrays, whose chunks are aligned."""
    meta = empty(dtype, len(index))
    return da.blockwise(function, index, *args, dtype=dtype, meta=meta, align_arrays=False, **options)


def merged_statistics(
    logits: Logits, target: Target | None, weight: Any, split_every: int | None, rows: int, **options: Any
) -> Any:
    """Return the statistics of all classes, one element a sample, merged as a tree."""
    starts = np.cumsum((0, *logits.class_chunks))
    cuts = [blocks.pieces(int(a), width, logits.classes) for a, width in zip(starts, logits.class_chunks, strict=False)]
    step = max(fastce.shards.chunk_length(logits.classes), 1)
    if split_every is None and all(start % step == 0 for start in starts[:-1]):
        split_every = max(len(logits.class_chunks), 2)  # merged at once, they have the bits of the whole
    args = optional(None, ()) if target is None else (target.array, target.index)
    parts = blockwise(
        blocks.statistics,
        logits.index,
        *(logits.array, logits.index),
        *args,
        *optional(weight, (logits.axis,)),
        *(logits.starts(), (logits.axis,)),
        axis=logits.axis,
        classes=logits.classes,
        adjust_chunks={logits.axis: tuple(map(len, cuts))},
        dtype=blocks.stats_dtype(rows),
        **options,
    )
    merged = da.reduction(
        parts,
        blocks.keep,
        blocks.merge,
        combine=blocks.merge,
        axis=logits.axis,
        keepdims=True,
        split_every=split_every,
        concatenate=True,
        dtype=parts.dtype,
        meta=empty(parts.dtype, parts.ndim),
    )
    return merged.squeeze(logits.axis)


class LossCall:
    """A bound call of a loss: its arrays, and its options by the functions of blocks that take them."""

    def __init__(
        self,
        logits: Any,
        target: Any,
        *,
        axis: int,
        weight: Any,
        sample_weight: Any,
        reduction: str,
        normalizer: float | None,
        split_every: int | None,
        **options: Any,
    ) -> None:
        self.logits = Logits(logits, axis, "logits")
        self.target = Target(target, self.logits)
        self.split_every, self.reduction, self.normalizer = split_every, reduction, normalizer
        self.options = options
        no_logits = np.empty((0, 1), self.logits.array.dtype)
        no_target = np.empty((0, 1)[: 1 + len(self.target.index) - len(self.logits.samples)], self.target.array.dtype)
        fastce.cross_entropy(no_logits, no_target, reduction=reduction, normalizer=normalizer, **options)  # type: ignore[call-overload]
        self.weight = self.class_weight = None  # all in one chunk, and in the chunks of the classes
        if weight is not None:
            self.weight = self.logits.of_classes(weight, "weight", (self.logits.classes,))
            self.class_weight = self.logits.of_classes(weight, "weight", self.logits.class_chunks)
        self.sample_weight = None
        if sample_weight is not None:
            self.sample_weight = self.logits.of_samples(sample_weight, "sample_weight")
        self.stats = None if self.logits.is_whole else self._statistics()

    def _only(self, *names: str) -> dict[str, Any]:
        return {name: self.options[name] for name in names}

    def _statistics(self) -> Any:
        of_labels = 4 if self.weight is None and not self.options["label_smoothing"] else 7
        return merged_statistics(
            self.logits,
            self.target,
            self.class_weight,
            self.split_every,
            5 if self.target.is_soft else of_labels,
            **self._only("ignore_index", "label_smoothing", "logit_scale", "softcap"),
        )

    def _inputs(self) -> tuple[Any, ...]:
        """Return the arguments that all functions of blocks take."""
        logits, target = self.logits, self.target
        arrays = (logits.array, logits.index), (target.array, target.index), optional(self.class_weight, (logits.axis,))
        return tuple(value for pair in arrays for value in pair)

    def losses(self) -> Any:
        """Return the loss of each sample."""
        logits, weights = self.logits, optional(self.sample_weight, self.logits.samples)
        dtype = logits.compute
        if self.stats is None:
            args = *self._inputs(), *weights
            return blockwise(blocks.losses, logits.samples, *args, axis=logits.axis, dtype=dtype, **self.options)
        labels = optional(None if self.target.is_soft else self.target.array, self.target.index)
        options = {"kind": dtype, **self._only("ignore_index", "label_smoothing", "z_loss")}
        args = self.stats, logits.samples, *labels, *weights
        return blockwise(blocks.losses_of_stats, logits.samples, *args, dtype=dtype, **options)

    def denominator(self) -> Any:
        """Return the divisor of a mean: a number, or an array of no dimensions that reads the labels alone."""
        if self.normalizer is None:
            if self.target.is_soft and self.sample_weight is None:
                return float(math.prod(self.logits.sample_shape))
            return total(self._weights(self.weight), self.split_every)
        if self.normalizer:
            return float(self.normalizer)
        counts_by_weight = not self.options["label_smoothing"] and not self.options["z_loss"]
        count = total(self._weights(self.weight if counts_by_weight else None) != 0.0, self.split_every)
        return blockwise(blocks.divisor_of_nothing, (), count, (), dtype=count.dtype)

    def _weights(self, class_weight: Any) -> Any:
        """Return what each sample weighs in a mean, from the labels and weights alone."""
        samples, kind = self.logits.samples, self.logits.compute
        sample_weight = None if self.sample_weight is None else self.sample_weight.astype(kind)
        if self.target.is_soft and sample_weight is None:
            return da.ones(self.logits.sample_shape, chunks=self.logits.sample_chunks)
        if self.target.is_soft:
            return sample_weight
        weight = None if class_weight is None else class_weight.astype(kind)
        return blockwise(
            blocks.label_weights,
            samples,
            *(self.target.array, self.target.index),
            *optional(weight, (len(self.logits.index),)),
            *optional(sample_weight, samples),
            axis=self.logits.axis if self.target.is_one_hot else None,
            ignore_index=self.options["ignore_index"],
            dtype=np.dtype(np.float64),
        )

    def reduced(self, losses: Any) -> Any:
        """Return the loss of all samples."""
        if self.reduction == "none":
            return losses
        divisor = self.denominator() if self.reduction == "mean" else 1.0
        args = total(losses, self.split_every), (), divisor, _index_of(divisor)
        return blockwise(blocks.ratio, (), *args, dtype=losses.dtype, kind=losses.dtype)

    def scale(self, grad_output: Any) -> tuple[Any, Index | None]:
        """Return the derivative of the objective by each loss, with its index: one number, or one a sample."""
        if grad_output is not None and np.ndim(grad_output):
            if self.reduction != "none":
                raise ValueError(
                    f"grad_output must be a scalar for reduction={self.reduction!r}, got shape {np.shape(grad_output)}"
                )
            return self.logits.of_samples(grad_output, "grad_output"), self.logits.samples
        divisor = self.denominator() if self.reduction == "mean" else 1.0
        upstream = 1.0 if grad_output is None else grad_output
        if not isinstance(upstream, da.Array):
            fastce.cross_entropy_and_grad(
                np.empty((0, 1)), np.empty(0, int), grad_output=upstream
            )  # raises for no number
        if not isinstance(divisor, da.Array) and not isinstance(upstream, da.Array):
            return float(blocks.upstream_ratio(upstream, divisor)), None
        args = upstream, _index_of(upstream), divisor, _index_of(divisor)
        return blockwise(blocks.upstream_ratio, (), *args, dtype=np.dtype(np.float64)), ()

    def losses_and_grad(self, grad_output: Any) -> tuple[Any, Any]:
        """Return the loss of each sample, and the gradient of the loss."""
        logits, scale = self.logits, self.scale(grad_output)
        weights = optional(self.sample_weight, logits.samples)
        if self.stats is not None:
            args = *self._inputs(), logits.starts(), (logits.axis,), self.stats, logits.samples, *weights, *scale
            options = {"axis": logits.axis, "classes": logits.classes, **self.options}
            return self.losses(), blockwise(blocks.grad_of_shard, logits.index, *args, dtype=logits.result, **options)
        args = *self._inputs(), *weights, *scale
        pairs = blockwise(
            blocks.losses_and_grad, logits.samples, *args, axis=logits.axis, dtype=np.dtype(object), **self.options
        )
        one = pairs, logits.samples
        new = {logits.axis: logits.classes}
        losses = blockwise(blocks.member, logits.samples, *one, which=0, dtype=logits.compute)
        return losses, blockwise(blocks.member, logits.index, *one, which=1, new_axes=new, dtype=logits.result)


def _index_of(value: Any) -> Index | None:
    """Return the index of a number: none, or that of an array of no dimensions."""
    return () if isinstance(value, da.Array) else None


def total(array: Any, split_every: int | None) -> Any:
    """Return the sum in float64, as an array of no dimensions."""
    return array.sum(dtype=np.float64, split_every=split_every)
