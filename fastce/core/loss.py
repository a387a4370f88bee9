"""The core of all cross-entropies: checked arguments, the loop over blocks, the reduction."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from fastce import dispatch
from fastce.core.elementary import log1p
from fastce.core.factors import sample_factors, smoothing_parts
from fastce.core.layout import (
    FLOAT32,
    FLOAT64,
    Array,
    cast_to,
    dtypes_of,
    is_kernel_matrix,
    kernel_views,
    without_axis,
)
from fastce.core.out import is_kernel_out, result_like
from fastce.core.reduction import FloatArray, Scalar, as_loss, as_upstream, check_reduction, mean
from fastce.core.staging import Block, blocks, rows_of, small_row_blocks, staged
from fastce.core.targets import INT64, check_none_ignored, is_kernel_labels, raise_label, read_target
from fastce.core.validation import (
    INT64_MAX,
    INT64_MIN,
    as_array,
    as_ignore_index,
    as_logit_transform,
    as_mask,
    as_normalizer,
    as_real,
    as_smoothing,
    as_weights_of,
    as_z_loss,
    normalize_axis,
)
from fastce.kernels.ops.cross_entropy import MEAN, NO_OPTIONS, NOT_TAKEN, SUM, Options, Scaling

# Module state: the last call's buffer for losses, kept for the next call. Its pages are mapped already. To map new ones
# takes as long as to compute the gradient of rows of few classes.
_loss_buffers: deque[Array] = deque(maxlen=1)
MIN_KEPT_BYTES, MAX_KEPT_BYTES = 1 << 15, 1 << 23  # of a buffer that is kept
_FEW = MIN_KEPT_BYTES // 8  # losses, whose bytes need not be counted: the buffer is smaller


def solve_plain(
    logits: object, target: object, axis: object, ignore_index: object, reduction: str, out: object, has_grad: bool
) -> tuple[Scalar | FloatArray, Array | None] | None:
    """Return (loss, gradient) without options, or None if that takes a `LossCall`: nothing has been written then.

    A kernel takes the arrays as they are, or refuses them. What Python has to ask is asked here in one frame: to call
    functions that ask takes a tenth of a small loss.
    """
    if not (
        type(logits) is ndarray
        and ((dtype := logits.dtype) is FLOAT32 or dtype is FLOAT64)
        and logits.ndim == 2
        and type(axis) is int
        and (axis == -1 or axis == 1)
        and type(target) is ndarray
        and target.dtype is INT64
        and target.ndim == 1
        and type(ignore_index) is int
        and (ignore_index == -100 or INT64_MIN <= ignore_index <= INT64_MAX)
    ):
        return None
    if not has_grad:
        grad = None
    elif out is None:
        grad = np.empty(logits.shape, dtype)
    elif type(out) is ndarray and out.dtype is dtype and out.ndim == 2 and out.flags.writeable:
        grad = out
    else:
        return None
    if reduction == "mean":
        scaling = MEAN
    elif reduction == "sum" or reduction == "none":
        scaling = SUM
    else:
        return None
    loss = _loss_array(len(target), dtype, reduction)
    position, total_weight, total = dispatch.run_index_targets(
        logits, target, ignore_index, NO_OPTIONS, scaling, None, loss, grad, out is None, False
    )
    if position == NOT_TAKEN:
        return None
    if position >= 0:
        raise_label(target, position, logits.shape[1], ignore_index)
    return _reduced(loss, target.shape, reduction, total, total_weight), grad


class LossCall:
    """Checked arguments of one cross-entropy, ready to be launched.

    ``logits`` is the array the gradient is taken of, whatever ``input_name`` calls it.
    """

    input_name = "logits"
    given_names = ("target", "weight", "sample_weight", "where")  # of the arrays in ``given``
    is_matrix = False  # kernels take logits and labels as they are
    labels: Array | None = None
    weight: Array | None = None
    sample_weight: Array | None = None
    smoothing: tuple[float, float, float] | None = None
    normalizer: float | None = None
    z_loss: float | None = None
    logit_transform: tuple[float, float | None] | None = None
    mask: Array | None = None
    saved_stats: Array | None = None  # see `remember`

    def bind(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        axis: int = -1,
        weight: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        reduction: str = "mean",
        normalizer: float | None = None,
        where: npt.ArrayLike | None = None,
    ) -> Self:
        """Check the arguments of `cross_entropy` and keep them; return the call.

        This is a method because a constructor gets its keywords in a dict, which takes a tenth of a small call.
        """
        given = self._arrange(logits, target, axis)
        if reduction != "mean":
            check_reduction(reduction)
        self.reduction = reduction
        self.ignore_index = as_ignore_index(ignore_index)
        if ignore_index is None and self.labels is not None:
            check_none_ignored(self.target, self.labels, self.classes)
        if weight is not None:
            weight = as_real(weight, "weight")
            self.weight = as_weights_of(weight, (self.classes,), "weight", "one per class", self.dtype)
        if sample_weight is not None:
            sample_weight = as_real(sample_weight, "sample_weight")
            weights = as_weights_of(sample_weight, self.shape, "sample_weight", "one per sample", self.dtype)
            self.sample_weight = weights.reshape(-1)
        if type(label_smoothing) is not float or label_smoothing != 0.0:
            self.smoothing = smoothing_parts(as_smoothing(label_smoothing), self.classes, weight)
        if type(z_loss) is not float or z_loss != 0.0:
            self.z_loss = as_z_loss(z_loss, self.dtype)
        if type(logit_scale) is not float or logit_scale != 1.0 or softcap is not None:
            self.logit_transform = as_logit_transform(logit_scale, softcap, self.dtype)
        if where is not None:
            where = as_array(where, "where")
            self.mask = self._apply_where(where)
        if normalizer is not None:
            self.normalizer = as_normalizer(normalizer, reduction, self.dtype)
            if self.normalizer == 0.0:
                self._check_nothing_counts()
                self.normalizer = 1.0  # the sum is 0
        self.given = given, weight, sample_weight, where
        return self

    def _arrange(self, logits: npt.ArrayLike, target: npt.ArrayLike, axis: int) -> Array:
        """Check the arrays and keep them with what follows from their shapes and dtypes; return the target's."""
        if is_kernel_matrix(logits, axis) and is_kernel_labels(target) and target.shape[0] == logits.shape[0]:
            self.is_matrix = True
            self.logits, self.target, self.labels = logits, target, target
            self.axis, self.dtype, self.shape, self.classes = 1, logits.dtype, target.shape, logits.shape[1]
            return target
        self.logits = logits = as_real(logits, self.input_name)
        self.axis = axis = normalize_axis(axis, logits.ndim, self.input_name)
        target = as_array(target, "target")
        self.dtype = dtypes_of(logits).compute
        self.shape = without_axis(logits.shape, axis)
        self.classes = logits.shape[axis]
        self.target, self.labels = read_target(target, logits, axis, self.input_name)
        return target

    def _apply_where(self, where: Array) -> Array:
        """Return the mask in the shape of the logits; have samples without a class ignored.

        Their labels become ``ignore_index``. Where there are no labels, or smoothing, their weights become 0.
        """
        mask = as_mask(where, self.logits.shape)
        valid = mask.any(axis=self.axis).reshape(-1)
        if self.labels is not None:
            self.labels = np.where(valid, self.labels, self.ignore_index)
            valid = self.labels != self.ignore_index
        if not valid.all() and (self.labels is None or self.smoothing is not None):
            weights = np.ones(valid.size, self.dtype) if self.sample_weight is None else self.sample_weight
            self.sample_weight = np.where(valid, weights, self.dtype.type(0))
        return mask

    def _own_labels(self) -> None:
        """Copy the labels, as NumPy will index with them: another thread may change the caller's after the check.

        Kernels need no copy; see ``kernels.rows.samples``.
        """
        if self.labels is not None:
            self.labels = self.labels.copy()

    def grad_array(self, out: object = None) -> Array:
        """Return ``out`` if the gradient can be written there, or a new array for None."""
        if self.is_matrix:
            if out is None:
                return np.empty(self.logits.shape, self.dtype)
            if is_kernel_out(out, self.logits.shape, self.dtype, (self.logits, *self.given)):
                return out
        return result_like(self.logits, out, (self.input_name, *self.given_names), (self.logits, *self.given))

    def fits(self, out: Array) -> bool:
        """Tell whether a gradient buffer of an earlier call serves this one."""
        if out.shape != self.logits.shape or out.dtype != dtypes_of(self.logits).result:
            return False
        return not any(x is not None and np.may_share_memory(out, x) for x in (self.logits, *self.given))

    def remember(self) -> None:
        """Have `solve` save the statistics of every sample, for `lse` and `backward`."""
        self.saved_stats = np.full((2, math.prod(self.shape)), np.nan, self.dtype)

    def stats(self) -> Array:
        """Return the statistics of every sample after `remember` and `solve`.

        Both are NaN for samples that are left out. A maximum is NaN for no other sample.
        """
        assert self.saved_stats is not None
        stats = self.saved_stats
        is_nan = np.isnan(stats[0])
        has_weights = self.weight is not None or self.sample_weight is not None
        if self.mask is not None or has_weights or is_nan.any():
            stats[0, is_nan] = -np.inf  # of nothing but NaN, whose sum is NaN as well
            stats[:, ~self._counts()] = np.nan  # kernels saw other logits in their place, or none
        return stats

    def lse(self) -> Array:
        """Return the log-sum-exp of every sample after `remember` and `solve`, NaN for samples left out."""
        row_max, sum_exp_rest = self.stats()
        with np.errstate(all="ignore"):
            return np.asarray(row_max + log1p(sum_exp_rest)).reshape(self.shape)

    def solve(
        self, grad: Array | None, grad_output: npt.ArrayLike | None, out_is_new: bool = False
    ) -> tuple[Scalar | FloatArray, float]:
        """Return (reduced loss, total weight); write the gradient to ``grad``, unless that is None.

        ``out_is_new`` says that ``grad`` has never been written to.
        """
        scale, upstream = 1.0, None
        if grad_output is not None:  # `as_upstream` allows None, but calling it takes 1 % of a small loss
            scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        count = len(self.target) if self.is_matrix else math.prod(self.shape)
        loss = _loss_array(count, self.dtype, self.reduction)
        total, total_weight = self._fill(loss, grad, scale, upstream, out_is_new)
        return _reduced(loss, self.shape, self.reduction, total, total_weight), total_weight

    def backward(self, grad: Array, grad_output: npt.ArrayLike | None, out_is_new: bool = False) -> None:
        """Write the gradient after `remember` and `solve`."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        self._fill(None, grad, scale, upstream, out_is_new)

    def _fill(
        self,
        loss: Array | None,
        grad: Array | None,
        scale: float,
        upstream: Array | None,
        out_is_new: bool = False,
    ) -> tuple[float, float]:
        """Write the losses of all samples, and the gradient; return (sum of the losses, total weight).

        A kernel that gets all samples in one call also checks the labels and divides by the total weight. Otherwise
        `_divided` does both first, and kernels get one block after the other.
        """
        inputs = (self.logits,) if self.labels is not None else (self.logits, self.target)
        views = self._views(inputs, grad, out_is_new)
        options = self._options(upstream)
        if views is not None and self.labels is not None and self.normalizer is None:
            is_mean = self.reduction == "mean"
            if scale == 1.0:
                scaling = MEAN if is_mean else SUM
            else:
                scaling = Scaling(scale, is_mean)
            position, total_weight, total = dispatch.run_index_targets(
                views[0][0],
                self.labels,
                self.ignore_index,
                options,
                scaling,
                self.saved_stats,
                loss,
                views[1],
                out_is_new,
            )
            if position >= 0:
                self._raise_label(position)
            return total, total_weight
        scale, total_weight = self._divided(scale)
        if not self.logits.size:
            if loss is not None:
                loss.fill(0.0)
            return 0.0, total_weight
        parts = self._parts(inputs, grad) if views is None else (Block(0, math.prod(self.shape), *views),)
        for block in parts:
            self._run(block, loss, scale, options, out_is_new)
        return 0.0 if loss is None else dispatch.total(loss), total_weight

    def _divided(self, scale: float) -> tuple[float, float]:
        """Check the labels; return (``scale`` over the total weight for means, total weight)."""
        total_weight = self._total_weight()
        if self.reduction == "mean":
            scale *= mean(1.0, total_weight)
            if not total_weight and self.labels is not None and np.all(self.labels == self.ignore_index):
                scale = 0.0  # gradients of ignored samples are 0, although the mean of nothing is NaN
        return scale, total_weight

    def _views(
        self, inputs: Sequence[Array], grad: Array | None, out_is_new: bool
    ) -> tuple[Sequence[Array], Array | None] | None:
        """Return `kernel_views`, or None where the logits have to be changed first or there are none."""
        if self.logit_transform is not None or self.mask is not None or not self.logits.size:
            return None
        if self.is_matrix and (grad is None or out_is_new or (grad.dtype is self.dtype and grad.flags.carray)):
            return inputs, grad
        return kernel_views(self.axis, self.dtype, inputs, grad)

    def _options(self, upstream: Array | None) -> Options:
        """Return the options of the kernels."""
        weight, smoothing, z_loss = self.weight, self.smoothing, self.z_loss
        if weight is None and smoothing is None and z_loss is None and self.sample_weight is None and upstream is None:
            return NO_OPTIONS  # making a tuple takes a tenth of a small loss
        return Options(weight, self._sample_factors(upstream), smoothing, z_loss)

    def _sample_factors(self, upstream: Array | None) -> Array | None:
        """Return the factors of every sample's loss and gradient, of shape (2, N), or None where all are 1."""
        weight = self.sample_weight
        no_weight = None if self.weight is None else self._has_no_weight()
        if no_weight is not None:
            weight = np.where(no_weight, self.dtype.type(0), self.dtype.type(1) if weight is None else weight)
        return sample_factors(weight, upstream, math.prod(self.shape), self.dtype)

    def _has_no_weight(self) -> Array | None:
        """Return where class weights of 0 leave nothing of a sample, None where none does or kernels find out.

        Kernels find out from the class weight of the label, unless there is smoothing.
        """
        weight, smoothing = self.weight, self.smoothing
        if weight is None or (self.labels is not None and smoothing is None) or self.z_loss is not None:
            return None
        if np.count_nonzero(weight) == self.classes or not self.logits.size:
            return None
        if smoothing is not None:
            return None if weight.any() else np.ones(math.prod(self.shape), bool)
        has_none = np.empty(math.prod(self.shape), bool)
        for block in staged(self.axis, self.dtype, (self.target,), None):
            has_none[block.start : block.stop] = ~np.any((block.inputs[0] != 0.0) & (weight != 0.0), axis=1)
        return has_none

    def _check_nothing_counts(self) -> None:
        """Check the labels; raise ValueError if a sample counts, which a normalizer of 0 cannot divide."""
        self._total_weight()
        if self.classes and (count := np.count_nonzero(self._counts())):
            raise ValueError(f"normalizer must be positive where samples count, got 0.0 for {count} of them")

    def _counts(self) -> Array:
        """Return which samples are neither ignored nor left out by a factor of 0; labels have been checked."""
        counts: Array = np.ones(math.prod(self.shape), bool)
        if self.labels is not None:
            counts = self.labels != self.ignore_index
            if self.smoothing is None and self.z_loss is None and self.weight is not None:
                counts &= self._class_weights() != 0.0
        if self.sample_weight is not None:
            counts &= self.sample_weight != 0.0
        no_weight = self._has_no_weight()
        if no_weight is not None:
            counts &= ~no_weight
        return counts

    def _run(self, block: Block, loss: Array | None, scale: float, options: Options, out_is_new: bool) -> None:
        """Write the losses and gradient of a block; ``scale`` is divided by the total weight already."""

        def part(values: Any) -> Any:
            return None if values is None else values[..., block.start : block.stop]

        x, *targets = block.inputs
        stats = None if self.saved_stats is None else np.ascontiguousarray(part(self.saved_stats))
        if options.sample_factors is not None:
            options = options._replace(sample_factors=part(options.sample_factors))
        if self.mask is not None and targets:  # `_masked_targets` has applied class weights and smoothing
            options = options._replace(class_weight=None, smoothing=None)
        if targets:
            dispatch.run_prob_targets(x, targets[0], options, scale, stats, part(loss), block.out, out_is_new)
        else:
            scaling = Scaling(scale, is_mean=False)
            position, _, _ = dispatch.run_index_targets(
                x, part(self.labels), self.ignore_index, options, scaling, stats, part(loss), block.out, out_is_new
            )
            if position >= 0:  # another thread has changed it since it was checked
                self._raise_label(block.start + position)
        if stats is not None and loss is not None:
            part(self.saved_stats)[...] = stats

    def _parts(self, inputs: Sequence[Array], grad: Array | None) -> Iterator[Block]:
        """Yield blocks of rows; a buffer holds transformed or masked logits, and then their gradient."""
        if self.logit_transform is None and self.mask is None:
            yield from blocks(self.axis, self.dtype, inputs, grad)
            return
        scale, cap = self.logit_transform or (1.0, None)
        for block in small_row_blocks(self.axis, self.dtype, inputs, grad):
            x, *targets = block.inputs
            buffer = np.empty(x.shape, self.dtype)
            dispatch.run_logit_transform(x, scale, cap, buffer)
            mask = None
            if self.mask is not None:
                mask = rows_of(self.mask, self.axis, block.start, block.stop)
                valid = mask.any(axis=1, keepdims=True)
                if self.labels is not None:
                    valid &= (self.labels[block.start : block.stop] != self.ignore_index)[:, np.newaxis]
                np.copyto(buffer, -np.inf, where=~mask & valid)
                np.copyto(buffer, 0.0, where=~valid)
                with np.errstate(all="ignore"):
                    targets = self._masked_targets(block, mask)
            yield Block(block.start, block.stop, (buffer, *targets), None if block.out is None else buffer)
            if block.out is not None:
                dispatch.run_logit_transform_vjp(x, scale, cap, buffer, block.out)
                if mask is not None:
                    np.copyto(block.out, 0, where=~mask)

    def _masked_targets(self, block: Block, mask: Array) -> list[Array]:
        """Return the targets of a block as class probabilities after smoothing and weights, over unmasked classes.

        There are none for class indices without smoothing, which kernels take as they are.
        """
        keep = 1.0 if self.smoothing is None else self.smoothing[0]
        if self.labels is None:
            targets = np.multiply(block.inputs[1], keep, dtype=self.dtype)
        elif self.smoothing is None:
            return []
        else:
            labels = self.labels[block.start : block.stop]
            rows = np.flatnonzero(labels != self.ignore_index)
            targets = np.zeros(mask.shape, self.dtype)
            mask = mask & (labels != self.ignore_index)[:, np.newaxis]
        if self.smoothing is not None:
            targets += (1.0 - keep) / np.maximum(mask.sum(axis=1, keepdims=True), 1).astype(self.dtype)
        np.copyto(targets, 0.0, where=~mask)
        if self.labels is not None:
            targets[rows, labels[rows]] += keep  # of a masked label too, whose loss is +inf
        if self.weight is not None:
            targets *= self.weight
        return [targets]

    def _total_weight(self) -> float:
        """Return the total weight of the samples that are not ignored, or the normalizer; check the labels."""
        total_weight = float(self.logits.size // max(self.classes, 1))
        if self.labels is not None:
            factors = None if self.sample_weight is None else self.sample_weight[np.newaxis]
            weights = [None if w is None else cast_to(w, np.float64) for w in (self.weight, factors)]
            position, total_weight = dispatch.scan_labels(self.labels, self.classes, self.ignore_index, *weights)
            if position >= 0:
                self._raise_label(position)
        elif self.sample_weight is not None and self.classes:
            total_weight = dispatch.total(self.sample_weight)
        return total_weight if self.normalizer is None else self.normalizer

    def _class_weights(self) -> Array:
        """Return the class weight of each label, 1 for ignored samples."""
        assert self.labels is not None
        weights = np.ones(self.labels.size)
        if self.weight is not None:
            valid = self.labels != self.ignore_index
            weights[valid] = self.weight[self.labels[valid]]
        return weights

    def _raise_label(self, position: int) -> None:
        raise_label(self.target, position, self.classes, self.ignore_index)


def _loss_array(count: int, dtype: np.dtype[Any], reduction: str) -> Array:
    """Return an array for the losses of samples: a new one if it is the result, else the last call's if that fits."""
    if count >= _FEW and reduction != "none" and MIN_KEPT_BYTES <= count * dtype.itemsize <= MAX_KEPT_BYTES:
        try:
            buffer = _loss_buffers.pop()
        except IndexError:  # there is none, or another thread has it
            pass
        else:
            if buffer.dtype is dtype and buffer.size >= count:
                return buffer[:count]
    return np.empty(count, dtype)


def _reduced(
    loss: Array, shape: tuple[int, ...], reduction: str, total: float, total_weight: float
) -> Scalar | FloatArray:
    """Return the loss of samples of this shape, whose sum is ``total``; keep an array that is not the result."""
    if reduction == "none":
        return loss.reshape(shape)[()]
    if reduction == "mean":
        total = total / total_weight if total_weight else mean(total, total_weight)
    reduced = as_loss(total, loss.dtype, loss)
    if len(loss) >= _FEW and MIN_KEPT_BYTES <= loss.nbytes <= MAX_KEPT_BYTES:  # last: another thread may take it
        _loss_buffers.append(loss if loss.base is None else loss.base)
    return reduced
