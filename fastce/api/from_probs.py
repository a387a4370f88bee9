"""Cross-entropy from probabilities, for models that end in a softmax of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elementary import dots, log
from fastce.core.layout import Array
from fastce.core.loss import LossCall
from fastce.core.staging import Block, staged
from fastce.core.validation import Reduction


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

    With t of `cross_entropy` and the smallest normal number :math:`\tau` of float64 for float64
    and integer probabilities, else of float32,

    .. math:: \ell_i = -u_i \sum_j t_{ij} \log \max(p_{ij}, \tau)

    Prefer `cross_entropy` where the logits are at hand: probabilities have already lost what
    a confident or a hopeless prediction says.

    Parameters
    ----------
    probs : array_like, shape (..., C, ...)
        Probabilities p; they are not checked to be from 0 to 1, nor to sum to 1.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`; and so all
        other arguments.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class.
    sample_weight : array_like, shape of ``probs`` without the class axis, optional
        One weight per sample.
    ignore_index : int, default -100
        Samples with this class index count for nothing.
    label_smoothing : float, default 0.0
        From 0 to 1: how much of each target is spread evenly over all classes.
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
    problem = _FromProbs(probs, target, axis, weight, sample_weight, ignore_index, label_smoothing, reduction)
    return problem.solve(None, None)[0]


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

    in the notation of `cross_entropy_and_grad` and `cross_entropy_from_probs`. Below
    :math:`\tau` this is the slope at :math:`\tau`, which still points the right way.

    Parameters
    ----------
    probs, target, axis, weight, sample_weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy_from_probs`.
    grad_output : scalar or array_like in the shape of the loss, optional
        The gradient with respect to the loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient; it may be ``probs`` itself.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``.

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
    problem = _FromProbs(probs, target, axis, weight, sample_weight, ignore_index, label_smoothing, reduction)
    grad = problem.grad_array(out)
    return LossAndGrad(problem.solve(grad, grad_output, out is None)[0], grad)


class _FromProbs(LossCall):
    """Cross-entropy from probabilities.

    One class index a sample needs one probability a sample; the rest is memory traffic that
    NumPy does at full speed. So there is no kernel here.
    """

    what = "probs"

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
        weight = np.ones_like(loss) if self.sample_weight is None else self.sample_weight
        slope = weight * self.dtype.type(scale)
        if upstream is not None:
            slope = slope * upstream
        if self.labels is not None and self.smoothing is None:
            self._fill_picked(loss, grad, weight, slope)
            return
        inputs = [self.logits] if self.labels is not None else [self.logits, self.target]
        for block in staged(self.axis, self.dtype, inputs, grad):
            part = slice(block.start, block.stop)
            shares = self._shares(block)
            probs = np.maximum(block.inputs[0], np.finfo(self.dtype).tiny)
            loss[part] = weight[part] * -dots(shares, log(probs))
            if block.out is not None:
                np.divide(shares, probs, out=block.out)
                np.multiply(block.out, -slope[part, None], out=block.out)
            if self.labels is not None:
                ignored = self.labels[part] == self.ignore_index
                loss[part][ignored] = 0.0
                if block.out is not None:
                    block.out[ignored] = 0.0

    def _fill_picked(self, loss: Array, grad: Array | None, weight: Array, slope: Array) -> None:
        """Handle class indices without smoothing: one probability a sample."""
        labels = self.labels
        assert labels is not None
        kept = labels != self.ignore_index
        safe = labels if kept.all() else np.where(kept, labels, 0)
        shares = np.ones_like(loss) if self.weight is None else self.weight[safe]
        places = np.expand_dims(safe.reshape(self.shape), self.axis)
        picked = np.take_along_axis(self.logits, places, self.axis).reshape(-1).astype(self.dtype)
        picked = np.maximum(picked, np.finfo(self.dtype).tiny)
        loss[:] = np.where(kept, -weight * shares * log(picked), 0.0)
        if grad is not None:
            values = np.where(kept, -slope * shares / picked, 0.0).reshape(places.shape)
            grad.fill(0.0)
            np.put_along_axis(grad, places, values.astype(grad.dtype), self.axis)

    def _shares(self, block: Block) -> Array:
        """Return the target as probabilities after smoothing and class weights."""
        keep, spread, _ = self.smoothing or (1.0, 0.0, 0.0)
        if self.labels is None:
            shares = block.inputs[1] * self.dtype.type(keep) + self.dtype.type(spread)
            return self._weighted(shares)
        labels = self.labels[block.start : block.stop]
        kept = labels != self.ignore_index
        shares = np.full_like(block.inputs[0], spread)
        shares[kept, labels[kept]] += self.dtype.type(keep)
        return self._weighted(shares)

    def _weighted(self, shares: Array) -> Array:
        return shares if self.weight is None else np.multiply(shares, self.weight)
