"""Focal loss over softmax probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elementary import expm1, power
from fastce.core.factors import smoothing_parts
from fastce.core.layout import Array, split_number
from fastce.core.loss import LossCall
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.core.staging import Block, staged
from fastce.core.validation import as_gamma, as_number, as_real, as_smoothing, as_weights_of, check_range

if TYPE_CHECKING:
    from fastce.api.options import FocalGradOptions, FocalOptions

BLOCK_SAMPLES = 1 << 15  # whose factors are computed at a time


@overload
def focal_loss(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[FocalOptions]
) -> Scalar: ...
@overload
def focal_loss(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[FocalOptions]
) -> FloatArray: ...
@overload
def focal_loss(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[FocalOptions]
) -> Scalar | FloatArray: ...
def focal_loss(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float,
    alpha: npt.ArrayLike | None = None,
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Scalar | FloatArray:
    r"""Compute the focal loss between logits and class indices or class probabilities.

    With :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i)`, the target q (one-hot for class
    indices), label smoothing e over C classes, class weights :math:`\alpha` and sample weights u,

    .. math:: \ell_i = -u_i \sum_j \alpha_j\, t_{ij} \left(1 - p_{ij}\right)^\gamma \log p_{ij},
        \qquad t_{ij} = (1 - e)\, q_{ij} + \frac{e}{C}

    For class indices y without label smoothing, this is
    :math:`-u_i\, \alpha_{y_i} (1 - p_{i y_i})^\gamma \log p_{i y_i}`.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like, shape of ``logits`` without the class axis
        Class indices of any integer dtype. Or an array in the shape of ``logits``: one-hot
        integers or booleans, or class probabilities as floats.
    gamma : float
        At least 0. The greater it is, the less weight confident samples have. 2 is usual.
    alpha : float or array_like, shape (C,), optional
        One weight per class; or a number, which multiplies the loss and does not change the denominator
        of a mean.
    axis : int, default -1
        The axis of the classes.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample. A sample of weight 0 is left out, whatever NaN or infinity it holds.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the total weight
        of the samples that are not ignored: class weight at the label times sample weight, or for
        class probabilities the sample weight alone.

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
    sigmoid_focal_loss : over sigmoid probabilities, element by element.
    cross_entropy : the same bits as ``gamma=0``, with ``alpha`` as ``weight``.

    Notes
    -----
    In [1]_ the probability is a sigmoid, here it is a softmax. ``1 - p`` is never computed as this
    difference, so it keeps its digits however confident the sample. The logits of ignored samples have
    no effect, NaN included.

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
    >>> fastce.focal_loss(logits, [[0.5, 0.5, 0.0], [0.9, 0.1, 0.0]], gamma=2.0, reduction="none").round(4)
    array([1.3983, 0.4947])
    """
    call = _FocalCall().bind(
        logits, target, axis=axis, sample_weight=sample_weight, ignore_index=ignore_index, reduction=reduction
    )
    return call.focus(gamma, alpha, label_smoothing).solve(None, None)[0]


@overload
def focal_loss_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[FocalGradOptions]
) -> LossAndGrad[Scalar]: ...
@overload
def focal_loss_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[FocalGradOptions]
) -> LossAndGrad[FloatArray]: ...
@overload
def focal_loss_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[FocalGradOptions]
) -> LossAndGrad[Scalar | FloatArray]: ...
def focal_loss_and_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    gamma: float,
    alpha: npt.ArrayLike | None = None,
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the focal loss and its gradient with respect to the logits.

    In the notation of `focal_loss`, with :math:`c_{ij} = -\log p_{ij}`, the denominator D of the
    reduction (1 for "sum" and "none") and the upstream gradient g,

    .. math:: \frac{\partial}{\partial x_{ij}} = \frac{g_i u_i}{D} \left(p_{ij} \sum_k s_{ik} - s_{ij}\right),
        \qquad s_{ij} = \alpha_j\, t_{ij} (1 - p_{ij})^\gamma
        \left(1 + \gamma \frac{p_{ij}\, c_{ij}}{1 - p_{ij}}\right)

    Parameters
    ----------
    logits, target, gamma, alpha, axis, sample_weight, ignore_index, label_smoothing, reduction
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
    grad = call.focus(gamma, alpha, label_smoothing).grad_array(out)
    return LossAndGrad(call.solve(grad, grad_output, out is None)[0], grad)


class _FocalCall(LossCall):
    """Focal loss: each class's term of the cross-entropy, times a factor that depends on its probability."""

    factor = 1.0  # alpha where it is a number; it stays out of the denominator of the mean

    def focus(self, gamma: float, alpha: npt.ArrayLike | None, label_smoothing: float) -> Self:
        """Check and keep the options of focal loss; return the call."""
        self.gamma = as_gamma(gamma, self.dtype)
        if alpha is not None:
            alpha = as_real(alpha, "alpha")
            if alpha.ndim:
                self.weight = as_weights_of(alpha, (self.classes,), "alpha", "a number or one per class", self.dtype)
            else:
                self.factor = check_range(as_number(alpha, "alpha"), "alpha", self.dtype)
        self.smoothing = smoothing_parts(as_smoothing(label_smoothing), self.classes, self.weight)
        return self

    def _fill(
        self,
        loss: Array | None,
        grad: Array | None,
        scale: float,
        upstream: Array | None,
        out_is_new: bool = False,
    ) -> tuple[float, float]:
        if self.factor == 1.0:
            return self._fill_unscaled(loss, grad, scale, upstream, out_is_new)
        assert loss is not None
        written = grad if self.factor else None  # a factor of 0 leaves out all logits
        _, total_weight = self._fill_unscaled(loss, written, scale * self.factor, upstream, out_is_new)
        with np.errstate(all="ignore"):
            np.multiply(loss, self.dtype.type(self.factor), out=loss)
        if not self.factor:
            loss.fill(0.0)
            if grad is not None:
                grad.fill(0.0)
        return dispatch.total(loss), total_weight

    def _fill_unscaled(
        self, loss: Array | None, grad: Array | None, scale: float, upstream: Array | None, out_is_new: bool
    ) -> tuple[float, float]:
        """Write losses and gradient before a number for alpha multiplies the losses."""
        if self.gamma == 0.0:
            return super()._fill(loss, grad, scale, upstream, out_is_new)
        assert loss is not None
        self._own_labels()
        scale, total_weight = self._divided(scale)
        if self.labels is not None and self.smoothing is None:
            self._fill_at_labels(loss, grad, scale, upstream)
        elif self.logits.size:
            with np.errstate(all="ignore"):
                self._fill_classes(loss, grad, scale, upstream)
        else:
            loss.fill(0.0)
        return dispatch.total(loss), total_weight

    def _fill_at_labels(self, loss: Array, grad: Array | None, scale: float, upstream: Array | None) -> None:
        """Handle class indices without smoothing: a factor of the cross-entropy, and another of its gradient."""
        assert self.labels is not None
        labels = self.labels.reshape(self.shape)
        plain = LossCall().bind(self.logits, labels, axis=self.axis, ignore_index=self.ignore_index, reduction="none")
        if grad is not None:
            plain.remember()
        plain._fill(loss, None, 1.0, None)
        weight = self._class_weights()
        if self.sample_weight is not None:
            weight = weight * self.sample_weight
        slope = loss if grad is None else loss.copy()
        is_all_kept = np.count_nonzero(weight) == weight.size and (upstream is None or upstream.all())
        with np.errstate(all="ignore"):
            for start in range(0, len(loss), BLOCK_SAMPLES):
                part = slice(start, start + BLOCK_SAMPLES)
                entropy = loss[part].astype(np.float64)
                factor = power(-expm1(-entropy), self.gamma) * weight[part]
                loss[part] = factor * entropy
                if grad is not None:
                    factor *= 1.0 + self.gamma * _ratio(entropy)
                    factor *= scale
                    slope[part] = factor if upstream is None else factor * upstream[part]
            if not is_all_kept:
                left_out = weight == 0.0
                loss[left_out] = 0.0
                slope[left_out if upstream is None else left_out | (upstream == 0.0)] = 0.0
            if grad is not None:
                plain._fill(None, grad, 1.0, slope)

    def _fill_classes(self, loss: Array, grad: Array | None, scale: float, upstream: Array | None) -> None:
        """Handle targets with a share for each class, a block of rows at a time."""
        factors = self._sample_factors(upstream)
        if factors is None:
            factors = np.ones((2, loss.size), self.dtype)
        if self.labels is not None:
            factors[:, self.labels == self.ignore_index] = 0.0
        gamma = None if self.gamma == 2.0 else split_number(self.gamma, self.dtype)
        inputs = [self.logits] if self.labels is not None else [self.logits, self.target]
        for block in staged(self.axis, self.dtype, inputs, grad):
            part = slice(block.start, block.stop)
            targets = self._shares(block)
            dispatch.run_focal(block.inputs[0], targets, gamma, factors[:, part], scale, loss[part], block.out)

    def _shares(self, block: Block) -> Array:
        """Return the targets of a block as class probabilities after smoothing and class weights."""
        keep, uniform_mass, _ = self.smoothing or (1.0, 0.0, 0.0)
        if self.labels is None:
            targets: Array = block.inputs[1]
            if self.smoothing is not None:
                targets *= self.dtype.type(keep)
                targets += self.dtype.type(uniform_mass)
        else:
            labels = self.labels[block.start : block.stop]
            kept = np.flatnonzero(labels != self.ignore_index)
            targets = np.full_like(block.inputs[0], uniform_mass)
            targets[kept, labels[kept]] += self.dtype.type(keep)
        if self.weight is not None:
            targets *= self.weight
            targets[:, self.weight == 0.0] = 0.0  # NaN and infinity too
        return targets


def _ratio(x: Array) -> Array:
    """Return x / (exp(x) - 1) for x >= 0: 1 at 0, 0 at infinity."""
    result: Array = np.where(x == 0.0, 1.0, np.where(x == np.inf, 0.0, x / expm1(x)))
    return result
