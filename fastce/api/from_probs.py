"""Cross-entropy from probabilities, for models that end in their own softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elementary import dots, log
from fastce.core.layout import Array
from fastce.core.loss import LossCall
from fastce.core.reduction import Reduction
from fastce.core.staging import Block, staged


def cross_entropy_from_probs(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Any:
    r"""Compute the cross-entropy between predicted probabilities and a target.

    With t and u of `cross_entropy` and the smallest normal number :math:`\tau` of float64 for float64
    and integer probabilities, else of float32,

    .. math:: \ell_i = -u_i \sum_j t_{ij} \log \max(p_{ij}, \tau)

    Prefer `cross_entropy` if you have the logits: probabilities near 0 and 1 have lost digits.

    Parameters
    ----------
    probs : array_like, shape (..., C, ...)
        Probabilities p; they are not checked to be from 0 to 1, nor to sum to 1.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class.
    sample_weight : array_like, shape of ``probs`` without the class axis, optional
        One weight per sample.
    ignore_index : int, default -100
        Samples with this class index are ignored: they add nothing to the result.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `cross_entropy`.

    Returns
    -------
    scalar, or ndarray in the shape of ``probs`` without the class axis for "none"
        float64 for float64 and integer probabilities, else float32. A probability of 0 at
        the target costs about 87.3 in float32 and 708.4 in float64.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`.

    Examples
    --------
    >>> import fastce
    >>> fastce.cross_entropy_from_probs([[0.7, 0.2, 0.1]], [0]).round(8)
    np.float64(0.35667494)
    """
    call = _FromProbsCall().bind(
        probs,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return call.solve(None, None)[0]


def cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad:
    r"""Compute the cross-entropy from probabilities and its gradient with respect to them.

    .. math:: \frac{\partial}{\partial p_{ij}} = -\frac{g_i u_i}{D} \frac{t_{ij}}{\max(p_{ij}, \tau)}

    in the notation of `cross_entropy_and_grad` and `cross_entropy_from_probs`. Below :math:`\tau`
    the loss is constant; the gradient is the one at :math:`\tau`, which points the right way.

    Parameters
    ----------
    probs, target, axis, weight, sample_weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy_from_probs`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `cross_entropy_from_probs`, the gradient in
        the shape and dtype of ``probs`` (float64 for integers). Ignored samples have gradient 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    Examples
    --------
    >>> import fastce
    >>> loss, grad = fastce.cross_entropy_from_probs_and_grad([[0.7, 0.2, 0.1]], [0])
    >>> grad.round(4)
    array([[-1.4286,  0.    ,  0.    ]])
    """
    call = _FromProbsCall().bind(
        probs,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    grad = call.grad_array(out)
    return LossAndGrad(call.solve(grad, grad_output, out is None)[0], grad)


MAX_INDEXED = 63  # of an array that NumPy takes elements from by indices along each axis


class _FromProbsCall(LossCall):
    """Cross-entropy from probabilities, computed by NumPy.

    A kernel would save nothing: class indices need one probability a sample, and all other work is memory traffic,
    which NumPy does at full speed.
    """

    input_name = "probs"

    def _fill(
        self,
        loss: Array | None,
        grad: Array | None,
        scale: float,
        upstream: Array | None,
        out_is_new: bool = False,
    ) -> tuple[float, float]:
        assert loss is not None
        self._own_labels()
        scale, total_weight = self._divided(scale)
        if self.logits.size:
            with np.errstate(all="ignore"):  # as in kernels: 0 / 0 where weights add up to 0, for one
                self._fill_blocks(loss, grad, scale, upstream)
        else:
            loss.fill(0.0)
        return dispatch.total(loss), total_weight

    def _fill_blocks(self, loss: Array, grad: Array | None, scale: float, upstream: Array | None) -> None:
        """Write losses and gradient, a block of rows at a time."""
        weight = np.ones_like(loss) if self.sample_weight is None else self.sample_weight
        grad_scale = weight * self.dtype.type(scale)
        if upstream is not None:
            grad_scale = grad_scale * upstream
        if self.labels is not None and self.smoothing is None:
            self._fill_at_labels(loss, grad, weight, grad_scale)
            return
        inputs = [self.logits] if self.labels is not None else [self.logits, self.target]
        for block in staged(self.axis, self.dtype, inputs, grad):
            part = slice(block.start, block.stop)
            targets = self._target_probs(block)
            probs = np.maximum(block.inputs[0], np.finfo(self.dtype).tiny)
            loss[part] = weight[part] * -dots(targets, log(probs))
            if block.out is not None:
                np.divide(targets, probs, out=block.out)
                np.multiply(block.out, -grad_scale[part, None], out=block.out)
            if self.labels is not None:
                ignored = self.labels[part] == self.ignore_index
                loss[part][ignored] = 0.0
                if block.out is not None:
                    block.out[ignored] = 0.0

    def _fill_at_labels(self, loss: Array, grad: Array | None, weight: Array, grad_scale: Array) -> None:
        """Handle class indices without smoothing: one probability a sample."""
        labels = self.labels
        assert labels is not None
        if self.logits.ndim > MAX_INDEXED:
            raise ValueError(
                f"probs must have at most {MAX_INDEXED} dimensions for class indices, got {self.logits.ndim}"
            )
        valid = labels != self.ignore_index
        safe_labels = labels if valid.all() else np.where(valid, labels, 0)
        label_weight = np.ones_like(loss) if self.weight is None else self.weight[safe_labels]
        index = np.expand_dims(safe_labels.reshape(self.shape), self.axis)
        at_label = np.take_along_axis(self.logits, index, self.axis).reshape(-1).astype(self.dtype)
        at_label = np.maximum(at_label, np.finfo(self.dtype).tiny)
        loss[:] = np.where(valid, -weight * label_weight * log(at_label), 0.0)
        if grad is not None:
            values = np.where(valid, -grad_scale * label_weight / at_label, 0.0).reshape(index.shape)
            grad.fill(0.0)
            np.put_along_axis(grad, index, values.astype(grad.dtype), self.axis)

    def _target_probs(self, block: Block) -> Array:
        """Return the target as probabilities after smoothing and class weights."""
        keep, uniform_mass, _ = self.smoothing or (1.0, 0.0, 0.0)
        if self.labels is None:
            targets: Array = block.inputs[1] * self.dtype.type(keep) + self.dtype.type(uniform_mass)
        else:
            labels = self.labels[block.start : block.stop]
            valid = labels != self.ignore_index
            targets = np.full_like(block.inputs[0], uniform_mass)
            targets[valid, labels[valid]] += self.dtype.type(keep)
        return targets if self.weight is None else np.multiply(targets, self.weight)
