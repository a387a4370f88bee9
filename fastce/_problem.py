"""What all cross-entropies share: checked arguments, the loop over blocks, the reduction."""

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fastce._arrays import (
    Array,
    Block,
    as_real,
    blocks,
    check_out,
    normalize_axis,
    refuse_masked,
    rule,
    without_axis,
)
from fastce._targets import (
    are_probabilities,
    as_ignore_index,
    as_labels,
    as_number,
    as_weights,
    check_reduction,
    check_smoothing,
    kept_weight,
    mean,
)
from fastce.kernels import launch


class Problem:
    """Checked arguments of one cross-entropy, ready to be launched.

    ``logits`` is the array the gradient is taken of, whatever ``what`` calls it.
    """

    what = "logits"

    def __init__(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        axis: int,
        weight: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        ignore_index: int,
        label_smoothing: float,
        reduction: str,
    ) -> None:
        self.logits = logits = as_real(logits, self.what)
        self.axis = axis = normalize_axis(axis, logits.ndim, self.what)
        refuse_masked(target, "target")
        self.target = target = np.asarray(target)
        check_reduction(reduction)
        self.reduction = reduction
        self.dtype = rule(logits).compute
        self.shape = shape = without_axis(logits.shape, axis)
        self.ignore_index = as_ignore_index(ignore_index)
        self.given = {self.what: logits, "target": target, "weight": weight, "sample_weight": sample_weight}
        classes = logits.shape[axis]
        soft = are_probabilities(target, logits, axis, self.what)
        weight64 = as_weights(weight, (classes,), "weight", "one per class")
        sample_weight64 = as_weights(sample_weight, shape, "sample_weight", "one per sample")
        if sample_weight64 is not None:
            sample_weight64 = sample_weight64.reshape(-1)
        self.weight = None if weight64 is None else weight64.astype(self.dtype)
        self.sample_weight = None if sample_weight64 is None else sample_weight64.astype(self.dtype)
        self.smoothing = _smoothing(check_smoothing(label_smoothing), classes, weight64)
        self.labels: Array | None = None
        if not soft:
            self.labels = as_labels(target)
            kept = kept_weight(self.labels, target, classes, self.ignore_index, weight64, sample_weight64)
        elif sample_weight64 is None:
            kept = float(logits.size // max(classes, 1))
        else:
            kept = launch.total(sample_weight64)
        self.denominator = kept if reduction == "mean" else 1.0

    def grad_array(self, out: object = None) -> Array:
        """Return ``out`` if the gradient can be written there, or for None a new array."""
        dtype = rule(self.logits).result
        if out is None:
            return np.empty_like(self.logits, dtype, subok=False)
        return check_out(out, self.logits.shape, dtype, self.given)

    def fits(self, out: Array) -> bool:
        """Tell whether a gradient buffer of an earlier call serves this one."""
        if out.shape != self.logits.shape or out.dtype != rule(self.logits).result:
            return False
        return not any(isinstance(x, np.ndarray) and np.may_share_memory(out, x) for x in self.given.values())

    def solve(self, grad: Array | None, grad_output: npt.ArrayLike | None) -> Any:
        """Return the reduced loss; write the gradient where an array for it is given."""
        scale, upstream = self._scale(grad_output)
        loss = np.empty(math.prod(self.shape), self.dtype)
        if self.logits.size:
            self._fill(loss, grad, scale, upstream)
        else:
            loss.fill(0.0)
        if self.reduction == "none":
            return loss.reshape(self.shape)[()]
        return self.dtype.type(mean(launch.total(loss), self.denominator))

    def _fill(self, loss: Array, grad: Array | None, scale: float, upstream: Array | None) -> None:
        """Compute the losses of all samples, and the gradient times scale and upstream."""
        inputs = [self.logits] if self.labels is not None else [self.logits, self.target]
        for block in blocks(self.axis, self.dtype, inputs, grad):
            options = (
                self.weight,
                _part(self.sample_weight, block),
                self.smoothing,
                _part(upstream, block),
                scale,
                _part(loss, block),
                block.out,
            )
            if self.labels is None:
                launch.run_soft(*block.inputs, *options)
            else:
                launch.run_hard(block.inputs[0], _part(self.labels, block), self.ignore_index, *options)

    def _scale(self, grad_output: npt.ArrayLike | None) -> tuple[float, Array | None]:
        """Return what the gradient is multiplied by: one factor and, or None, one a sample."""
        scale = mean(1.0, self.denominator)
        if grad_output is None:
            return scale, None
        if self.reduction == "none" and np.ndim(grad_output):
            upstream = as_weights(grad_output, self.shape, "grad_output", "the loss's")
            return scale, cast(Array, upstream).astype(self.dtype).reshape(-1)
        return scale * as_number(grad_output, "grad_output"), None


def _smoothing(amount: float, classes: int, weight: Array | None) -> tuple[float, float, float] | None:
    """Return what the kernels take for label smoothing."""
    if not amount or not classes:
        return None
    spread = amount / classes
    return 1.0 - amount, spread, spread * (float(classes) if weight is None else float(weight.sum()))


def _part(values: Any, block: Block) -> Any:
    """Return the values of a block's samples, None for None."""
    if values is None or block.stop - block.start == len(values):
        return values
    return values[block.start : block.stop]
