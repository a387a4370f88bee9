"""What all cross-entropies share: checked arguments, the loop over blocks, the reduction."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.elementary import log1p
from fastce.core.layout import Array, cast_to, dtypes_of, is_kernel_matrix, kernel_views, without_axis
from fastce.core.out import is_kernel_out, result_like
from fastce.core.reduction import as_loss, as_upstream, check_reduction, mean
from fastce.core.staging import Block, blocks, rows_of, small_row_blocks
from fastce.core.targets import is_kernel_labels, raise_label, read_target
from fastce.core.validation import (
    as_array,
    as_ignore_index,
    as_logit_transform,
    as_mask,
    as_number,
    as_positive,
    as_real,
    as_smoothing,
    as_weights,
    normalize_axis,
)

SPARE_FROM, SPARE_TO = 1 << 15, 1 << 23  # bytes of room for losses that waits for the next call
_loss_buffers: deque[Array] = deque(
    maxlen=1
)  # its pages would have to be made anew, which takes as long as a narrow gradient


class LossCall:
    """Checked arguments of one cross-entropy, ready to be launched.

    ``logits`` is the array the gradient is taken of, whatever ``input_name`` calls it.
    """

    input_name = "logits"
    given_names = ("target", "weight", "sample_weight", "where")  # of the arrays in ``given``
    is_matrix = False  # kernels take logits and labels as they are
    out_is_new = False
    labels: Array | None = None
    weight: Array | None = None
    sample_weight: Array | None = None
    smoothing: tuple[float, float, float] | None = None
    normalizer: float | None = None
    z_loss: float | None = None
    logit_transform: tuple[float, float | None] | None = None
    mask: Array | None = None
    found: Array | None = None

    def bind(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        axis: int = -1,
        weight: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        reduction: str = "mean",
        normalizer: float | None = None,
        where: npt.ArrayLike | None = None,
    ) -> Self:
        """Check the arguments of `cross_entropy` and keep them; return the call.

        A method, as Python hands keywords to a constructor in a dict, a tenth of a small call.
        """
        given = self._arrange(logits, target, axis)
        if reduction != "mean":
            check_reduction(reduction)
        self.reduction = reduction
        self.ignore_index = as_ignore_index(ignore_index)
        if weight is not None:
            weight = as_real(weight, "weight")
            self.weight = cast_to(as_weights(weight, (self.classes,), "weight", "one per class"), self.dtype)
        if sample_weight is not None:
            sample_weight = as_real(sample_weight, "sample_weight")
            weights = as_weights(sample_weight, self.shape, "sample_weight", "one per sample")
            self.sample_weight = cast_to(weights, self.dtype).reshape(-1)
        if type(label_smoothing) is not float or label_smoothing != 0.0:
            self.smoothing = smoothing_terms(as_smoothing(label_smoothing), self.classes, weight)
        if normalizer is not None:
            self.normalizer = as_positive(normalizer, "normalizer")
        if type(z_loss) is not float or z_loss != 0.0:
            self.z_loss = as_number(z_loss, "z_loss") or None
        if type(logit_scale) is not float or logit_scale != 1.0 or softcap is not None:
            self.logit_transform = as_logit_transform(logit_scale, softcap)
        if where is not None:
            where = as_array(where, "where")
            self.mask = self._as_mask(where)
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

    def _as_mask(self, where: Array) -> Array:
        """Return the mask in the shape of the logits; samples without a class are ignored from here on."""
        mask = as_mask(where, self.logits.shape)
        counts = mask.any(axis=self.axis).reshape(-1)
        if self.labels is not None:
            self.labels = np.where(counts, self.labels, self.ignore_index)
            counts = self.labels != self.ignore_index
        if not counts.all() and (self.labels is None or self.smoothing is not None):
            weights = np.ones(counts.size, self.dtype) if self.sample_weight is None else self.sample_weight
            self.sample_weight = np.where(counts, weights, self.dtype.type(0))
        return mask

    def _own_labels(self) -> None:
        """Copy the labels, for NumPy to index with: another thread may change the caller's after they are checked.

        Kernels do without; see ``kernels.samples``.
        """
        if self.labels is not None:
            self.labels = self.labels.copy()

    def grad_array(self, out: object = None) -> Array:
        """Return ``out`` if the gradient can be written there, or for None a new array."""
        self.out_is_new = out is None
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
        """Have `solve` keep every sample's maximum and sum, for `lse` and a gradient without a second forward."""
        self.found = np.full((2, math.prod(self.shape)), np.nan, self.dtype)

    def lse(self) -> Array:
        """Return the log-sum-exp of every sample after `solve`, NaN for samples that were not looked at."""
        assert self.found is not None
        top, rest = self.found
        with np.errstate(all="ignore"):
            lse = np.asarray(top + log1p(rest)).reshape(self.shape)
        if self.mask is not None:  # such samples have zeros for logits
            unseen = ~self.mask.any(axis=self.axis)
            if self.labels is not None:
                unseen |= (self.labels == self.ignore_index).reshape(self.shape)
            lse = np.where(unseen, lse.dtype.type(np.nan), lse)
        return lse

    def solve(self, grad: Array | None, grad_output: npt.ArrayLike | None) -> Any:
        """Return the reduced loss; write the gradient where an array for it is given."""
        scale, upstream = 1.0, None
        if grad_output is not None:  # asked here, as a call takes a hundredth of a small loss
            scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        count = len(self.target) if self.is_matrix else math.prod(self.shape)
        loss = np.empty(count, self.dtype) if self.reduction == "none" else _take_buffer(count, self.dtype)
        total, kept = self._fill(loss, grad, scale, upstream)
        self.kept = kept
        if self.reduction == "none":
            return loss.reshape(self.shape)[()]
        _return_buffer(loss)
        return as_loss(mean(total, kept) if self.reduction == "mean" else total, self.dtype)

    def backward(self, grad: Array, grad_output: npt.ArrayLike | None) -> None:
        """Write the gradient after `remember` and `solve`."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        self._fill(None, grad, scale, upstream)

    def _fill(
        self, loss: Array | None, grad: Array | None, scale: float, upstream: Array | None
    ) -> tuple[float, float]:
        """Compute the losses of all samples, and the gradient; return the sum of losses and what means divide by."""
        inputs = (self.logits,) if self.labels is not None else (self.logits, self.target)
        views = self._views(inputs, grad)
        if views is not None and self.labels is not None and self.normalizer is None:
            options = self.weight, self._sample_factors(upstream), self.smoothing, self.z_loss, scale
            position, kept, total = dispatch.run_index_targets(
                views[0][0],
                self.labels,
                self.ignore_index,
                *options,
                self.reduction == "mean",
                self.found,
                loss,
                views[1],
                self.out_is_new,
            )
            if position >= 0:
                self._raise_label(position)
            return total, kept
        kept = self._kept()
        if self.reduction == "mean":
            scale *= mean(1.0, kept)
            if not kept and self.labels is not None and np.all(self.labels == self.ignore_index):
                scale = 0.0  # gradients of ignored samples are 0, whatever the mean of nothing is
        if not self.logits.size:
            if loss is not None:
                loss.fill(0.0)
            return 0.0, kept
        parts = self._parts(inputs, grad) if views is None else (Block(0, math.prod(self.shape), *views),)
        factors = self._sample_factors(upstream)
        for block in parts:
            self._run(block, loss, scale, factors)
        return 0.0 if loss is None else dispatch.total(loss), kept

    def _views(self, inputs: Sequence[Array], grad: Array | None) -> tuple[Sequence[Array], Array | None] | None:
        """Return `kernel_views`, or None where the logits have to be changed first or there are none."""
        if self.logit_transform is not None or self.mask is not None or not self.logits.size:
            return None
        if self.is_matrix and (grad is None or self.out_is_new or (grad.dtype is self.dtype and grad.flags.carray)):
            return inputs, grad
        return kernel_views(self.axis, self.dtype, inputs, grad)

    def _sample_factors(self, upstream: Array | None) -> Array | None:
        """Return what every sample's loss and gradient are multiplied by, of shape (2, N), or None."""
        if self.sample_weight is None and upstream is None:
            return None
        factors = np.ones((2, math.prod(self.shape)), self.dtype)
        with np.errstate(all="ignore"):
            if self.sample_weight is not None:
                factors *= self.sample_weight
            if upstream is not None:
                factors[1] *= upstream
        return factors

    def _run(self, block: Block, loss: Array | None, scale: float, factors: Array | None) -> None:
        """Launch the kernel on a block, whose gradient is divided by nothing more."""

        def part(values: Any) -> Any:
            return None if values is None else values[..., block.start : block.stop]

        found = None if self.found is None else np.ascontiguousarray(part(self.found))
        weight, smoothing = self.weight, self.smoothing
        if self.mask is not None and len(block.inputs) > 1:
            weight = smoothing = None  # they are in the targets already
        rest = weight, part(factors), smoothing, self.z_loss, scale
        if len(block.inputs) > 1:
            dispatch.run_prob_targets(*block.inputs, *rest, found, part(loss), block.out, out_is_new=self.out_is_new)
        else:
            options = (*rest, False, found, part(loss), block.out, self.out_is_new)
            position, _, _ = dispatch.run_index_targets(block.inputs[0], part(self.labels), self.ignore_index, *options)
            if position >= 0:  # another thread has changed it since it was checked
                self._raise_label(block.start + position)
        if found is not None:
            part(self.found)[...] = found

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
                counts = mask.any(axis=1, keepdims=True)
                if self.labels is not None:
                    counts &= (self.labels[block.start : block.stop] != self.ignore_index)[:, np.newaxis]
                np.copyto(buffer, -np.inf, where=~mask & counts)
                np.copyto(buffer, 0.0, where=~counts)
                with np.errstate(all="ignore"):
                    targets = self._masked_targets(block, mask)
            yield Block(block.start, block.stop, (buffer, *targets), None if block.out is None else buffer)
            if block.out is not None:
                dispatch.run_logit_transform_vjp(x, scale, cap, buffer, block.out)
                if mask is not None:
                    np.copyto(block.out, 0, where=~mask)
                if self.labels is not None and cap is not None:  # the slope of NaN is NaN, in ignored samples too
                    block.out[self.labels[block.start : block.stop] == self.ignore_index] = 0

    def _masked_targets(self, block: Block, mask: Array) -> list[Array]:
        """Return the targets of a block as class probabilities after smoothing and weights, of the classes there are.

        Class indices without smoothing stay what they are.
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
            targets[rows, labels[rows]] += keep  # of a class that is not there as well, which costs +inf
        if self.weight is not None:
            targets *= self.weight
        return [targets]

    def _kept(self) -> float:
        """Return the weight of the samples that count, or raise IndexError for a bad label."""
        classes = self.logits.shape[self.axis]
        kept = float(self.logits.size // max(classes, 1))
        if self.labels is not None:
            each = None if self.sample_weight is None else self.sample_weight[np.newaxis]
            weights = [None if w is None else cast_to(w, np.float64) for w in (self.weight, each)]
            position, kept = dispatch.scan_labels(self.labels, classes, self.ignore_index, *weights)
            if position >= 0:
                self._raise_label(position)
        elif self.sample_weight is not None and classes:
            kept = dispatch.total(self.sample_weight)
        return kept if self.normalizer is None else self.normalizer

    def _class_weights(self) -> Array:
        """Return the class weight of each label, 1 for ignored ones."""
        assert self.labels is not None
        weights = np.ones(self.labels.size)
        if self.weight is not None:
            kept = self.labels != self.ignore_index
            weights[kept] = self.weight[self.labels[kept]]
        return weights

    def _raise_label(self, position: int) -> None:
        raise_label(self.target, position, self.logits.shape[self.axis], self.ignore_index)


def _take_buffer(count: int, dtype: np.dtype[Any]) -> Array:
    """Return room for losses that no caller gets to see."""
    if SPARE_FROM <= count * dtype.itemsize <= SPARE_TO:
        try:
            room = _loss_buffers.pop()
        except IndexError:  # there is none, or another thread has it
            pass
        else:
            if room.dtype is dtype and room.size >= count:
                return room[:count]
    return np.empty(count, dtype)


def _return_buffer(room: Array) -> None:
    """Leave room to the next call, unless it is small or huge."""
    if SPARE_FROM <= room.nbytes <= SPARE_TO:
        _loss_buffers.append(room if room.base is None else room.base)


def smoothing_terms(amount: float, classes: int, weight: Array | None) -> tuple[float, float, float] | None:
    """Return what the kernels take for label smoothing."""
    if not amount or not classes:
        return None
    spread = amount / classes
    with np.errstate(all="ignore"):
        total = classes if weight is None else float(np.sum(weight, dtype=np.float64))
    return 1.0 - amount, spread, spread * total
