"""Focal loss over softmax probabilities."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elementary import expm1, power
from fastce.core.layout import Array
from fastce.core.loss import LossCall
from fastce.core.reduction import Reduction
from fastce.core.validation import as_number, as_weights_of


def focal_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float,
    alpha: npt.ArrayLike | None = None,
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
) -> Any:
    r"""Compute the focal loss between logits and class indices.

    With :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i)`, the labels y, class weights
    :math:`\alpha` and sample weights u,

    .. math:: \ell_i = -u_i\, \alpha_{y_i} \left(1 - p_{i y_i}\right)^\gamma \log p_{i y_i}

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like, shape of ``logits`` without the class axis
        Class indices of any integer dtype. Or an array in the shape of ``logits``: one-hot
        integers or booleans.
    gamma : float
        At least 0: the greater, the less confident samples count. 2 is usual.
    alpha : array_like, shape (C,), optional
        One weight per class.
    axis : int, default -1
        The axis of the classes.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the sum of
        ``alpha`` at the label times sample weight over the samples that are not ignored.

    Returns
    -------
    scalar, or ndarray in the shape of ``logits`` without the class axis for "none"
        float64 for float64 and integer logits, else float32. "mean" of nothing is NaN.

    Raises
    ------
    IndexError
        If a class index is outside 0 to C - 1 and not ``ignore_index``.
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    focal_loss_and_grad : the gradient as well.
    cross_entropy : the same bits as with ``gamma=0``, if ``weight`` is ``alpha``.

    Notes
    -----
    In [1]_ the probability is a sigmoid, here it is a softmax. ``1 - p`` is computed as
    ``-expm1(-cross_entropy)``, which keeps its digits however confident the sample. The logits of
    ignored samples have no effect, NaN included.

    References
    ----------
    .. [1] T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár, "Focal loss for dense object
       detection", arXiv:1708.02002 (2017).

    Examples
    --------
    >>> import fastce
    >>> logits = [[1.0, 2.0, 3.0], [5.0, 0.0, 0.0]]
    >>> fastce.focal_loss(logits, [0, 0], gamma=0.0, reduction="none").round(6)
    array([2.407606, 0.013386])
    >>> fastce.focal_loss(logits, [0, 0], gamma=2.0, reduction="none").round(6)
    array([1.993605e+00, 2.000000e-06])
    """
    call = _FocalCall().bind(
        logits, target, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index, reduction=reduction
    )
    return call.focus(gamma, alpha).solve(None, None)[0]


def focal_loss_and_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float,
    alpha: npt.ArrayLike | None = None,
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad:
    r"""Compute the focal loss and its gradient with respect to the logits.

    In the notation of `focal_loss`, with the cross-entropy :math:`c_i = -\log p_{i y_i}`, the
    denominator D of the reduction (1 for "sum" and "none") and the upstream gradient g,

    .. math:: \frac{\partial}{\partial x_{ij}} = \frac{g_i u_i \alpha_{y_i}}{D} (1 - p_{i y_i})^\gamma
        \left(1 + \gamma \frac{c_i}{e^{c_i} - 1}\right) \left(p_{ij} - [j = y_i]\right)

    Parameters
    ----------
    logits, target, gamma, alpha, axis, sample_weight, ignore_index, reduction
        As in `focal_loss`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `focal_loss`, the gradient in the
        shape and dtype of ``logits`` (float64 for integers). Ignored samples have gradient 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `focal_loss`, before anything is written.

    See Also
    --------
    focal_loss, cross_entropy_and_grad

    Notes
    -----
    The logits are read twice, as the gradient has a factor that depends on the loss.

    Examples
    --------
    >>> import fastce
    >>> loss, grad = fastce.focal_loss_and_grad([[1.0, 2.0, 3.0]], [0], gamma=2.0)
    >>> grad.round(4)
    array([[-1.1125,  0.2992,  0.8133]])
    """
    call = _FocalCall().bind(
        logits, target, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index, reduction=reduction
    )
    grad = call.focus(gamma, alpha).grad_array(out)
    return LossAndGrad(call.solve(grad, grad_output, out is None)[0], grad)


class _FocalCall(LossCall):
    """Focal loss: the cross-entropy of each sample, times a factor that depends on it."""

    def focus(self, gamma: float, alpha: npt.ArrayLike | None) -> Self:
        """Check and keep the options of focal loss; return the call."""
        if self.labels is None:
            raise TypeError(
                "target must hold class indices, integers in the shape of logits without the class axis, or one-hot "
                "integers in the shape of logits: focal loss takes no class probabilities, "
                f"got dtype {self.target.dtype} and shape {self.target.shape}"
            )
        self.gamma = as_number(gamma, "gamma")
        if not 0.0 <= self.gamma < math.inf:
            raise ValueError(f"gamma must be finite and at least 0, got {gamma!r}")
        if alpha is not None:
            classes = self.classes
            self.weight = as_weights_of(alpha, (classes,), "alpha", "one per class", self.dtype)
        return self

    def _fill(
        self,
        loss: Array | None,
        grad: Array | None,
        scale: float,
        upstream: Array | None,
        out_is_new: bool = False,
    ) -> tuple[float, float]:
        assert loss is not None and self.labels is not None
        if self.gamma == 0.0:
            return super()._fill(loss, grad, scale, upstream, out_is_new)
        self._own_labels()
        scale, total_weight = self._divided(scale)
        labels = self.labels.reshape(self.shape)
        plain = LossCall().bind(self.logits, labels, axis=self.axis, ignore_index=self.ignore_index, reduction="none")
        if grad is not None:
            plain.remember()
        plain._fill(loss, None, 1.0, None)
        entropy = loss.astype(np.float64)
        with np.errstate(all="ignore"):
            weight = self._class_weights()
            if self.sample_weight is not None:
                weight *= self.sample_weight
            left_out = weight == 0.0
            factor = power(-expm1(-entropy), self.gamma) * weight
            loss[:] = np.where(left_out, 0.0, factor * entropy)
            if grad is not None:
                slope = factor * (1.0 + self.gamma * _ratio(entropy)) * scale
                if upstream is not None:
                    slope, left_out = slope * upstream, left_out | (upstream == 0.0)
                slope = np.where(left_out, 0.0, slope).astype(self.dtype)
                plain._fill(None, grad, 1.0, slope)
        return dispatch.total(loss), total_weight


def _ratio(x: Array) -> Array:
    """Return x / (exp(x) - 1) for x >= 0: 1 at 0, 0 at infinity."""
    result: Array = np.where(x == 0.0, 1.0, np.where(x == np.inf, 0.0, x / expm1(x)))
    return result
