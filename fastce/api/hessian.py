"""Second derivatives of cross-entropy, for gradient boosting, Newton and curvature methods."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.elementary import dots
from fastce.core.layout import Array, cast_to
from fastce.core.loss import LossCall
from fastce.core.out import result_like, share_memory
from fastce.core.reduction import Reduction, as_upstream
from fastce.core.staging import row_blocks, staged
from fastce.core.validation import as_number, as_real, check_range


class GradAndHessian(NamedTuple):
    """The gradient of each sample's loss and the diagonal of its Hessian.

    Attributes
    ----------
    grad, hessian : ndarray
        In the shape of the logits and in their dtype (float64 for integers).

    Examples
    --------
    >>> import fastce
    >>> fastce.cross_entropy_grad_and_hessian([[0.0, 0.0]], [1]).hessian
    array([[0.25, 0.25]])
    """

    grad: Array
    hessian: Array


def cross_entropy_grad_and_hessian(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    hessian_scale: float = 1.0,
    out: Array | None = None,
    hessian_out: Array | None = None,
) -> GradAndHessian:
    r"""Compute each sample's gradient of cross-entropy and the diagonal of its Hessian.

    With :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i)`, t and u of `cross_entropy`,
    :math:`a_i = \sum_j t_{ij}` and ``hessian_scale`` s,

    .. math:: \mathrm{grad}_{ij} = u_i \left(a_i p_{ij} - t_{ij}\right), \qquad
        \mathrm{hessian}_{ij} = s\, u_i a_i\, p_{ij} \left(1 - p_{ij}\right)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`.
    axis : int, default -1
        The axis of the classes.
    weight, sample_weight, ignore_index, label_smoothing
        As in `cross_entropy`.
    hessian_scale : float, default 1.0
        Factor s of the Hessian: 1 in scikit-learn, 2 in XGBoost and C / (C - 1) in LightGBM.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.
    hessian_out : ndarray, shape and dtype of the gradient, optional
        Where to write the diagonal of the Hessian. It must not share memory with another argument.

    Returns
    -------
    GradAndHessian
        A named tuple ``(grad, hessian)``, both in the shape and dtype of ``logits`` (float64 for
        integers). They are exact to a few units in the last place however confident a sample.
        Samples that are ignored or have weight 0 give 0, whatever their logits.

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
    cross_entropy_and_grad : the loss, and reductions.
    cross_entropy_hvp : the whole Hessian, times a vector.

    Notes
    -----
    Gradient boosting libraries take one gradient and one second derivative per sample and class. Their
    raw predictions are the logits. ``sklearn._loss.HalfMultinomialLoss`` returns the same from its
    method ``gradient_hessian``. Class probabilities have to sum to 1, which is not checked: the Hessian
    takes a to be 1 where there is no ``weight``.

    Examples
    --------
    >>> import fastce
    >>> grad, hessian = fastce.cross_entropy_grad_and_hessian([[1.0, 2.0, 3.0]], [2])
    >>> grad.round(4)
    array([[ 0.09  ,  0.2447, -0.3348]])
    >>> hessian.round(4)
    array([[0.0819, 0.1848, 0.2227]])
    """
    call = _HessianDiagCall().bind(
        logits,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    scale = check_range(as_number(hessian_scale, "hessian_scale"), "hessian_scale", call.dtype)
    grad = call.grad_array(out)
    hessian = call.hessian_array(hessian_out, grad)
    call.write_hessian_diag(scale, hessian)  # first, as the gradient may replace the logits
    call.solve(grad, None, out is None)
    return GradAndHessian(grad, hessian)


class _SecondOrderCall(LossCall):
    """Cross-entropy with the factor u a of each sample's Hessian."""

    def factors(self, scale: float = 1.0, upstream: Array | None = None) -> Array:
        """Return u a times the scale and the upstream gradient, 0 where any of these is 0; labels are checked."""
        factors = self._target_sums()
        if self.labels is not None:
            factors[self.labels == self.ignore_index] = 0.0
        with np.errstate(all="ignore"):  # 0 / 0 where the weights add up to 0, for one
            for more in (self.sample_weight, upstream):
                if more is not None:
                    factors = np.where((factors == 0.0) | (more == 0.0), 0.0, factors * more)
            if scale != 1.0:
                left_out = factors == 0.0
                factors *= scale
                factors[left_out] = 0.0
        return cast_to(factors, self.dtype)

    def _target_sums(self) -> Array:
        """Return a, the sum of the target after smoothing and class weights, of each sample."""
        sums = self._weighted_prob_sums() if self.labels is None else self._class_weights()
        if self.smoothing is None:
            return sums
        keep, _, uniform_total = self.smoothing
        with np.errstate(all="ignore"):
            return sums * keep + uniform_total

    def _weighted_prob_sums(self) -> Array:
        """Return the sums of class probabilities times class weights."""
        sums = np.ones(math.prod(self.shape))
        if not self.logits.size:
            return sums
        weight = np.ones(self.classes) if self.weight is None else self.weight
        for block in staged(self.axis, self.dtype, (self.target,), None):
            probs = block.inputs[0]
            probs[:, weight == 0.0] = 0.0  # leaves out NaN and infinity
            sums[block.start : block.stop] = dots(probs, weight)
        return sums


class _HessianDiagCall(_SecondOrderCall):
    """Cross-entropy without reduction, with the diagonal of its Hessian."""

    def hessian_array(self, out: object, grad: Array) -> Array:
        """Return ``out`` if the Hessian can be written there, or for None a new array."""
        array = result_like(self.logits, out, (), (), out_name="hessian_out")
        if out is not None:
            names, others = ("logits", *self.given_names, "out"), (self.logits, *self.given, grad)
            for name, other in zip(names, others, strict=True):
                if other is not None and share_memory(array, other):
                    raise ValueError(f"hessian_out must not share memory with {name}")
        return array

    def write_hessian_diag(self, scale: float, hessian: Array) -> None:
        """Check the labels and write the diagonal of the Hessian."""
        factors = self._diag_factors()
        if scale == 0.0:
            hessian.fill(0)
        elif self.logits.size:
            for block in row_blocks(self.axis, self.dtype, (self.logits,), hessian):
                part = None if factors is None else factors[block.start : block.stop]
                dispatch.run_hessian_diag(block.inputs[0], part, scale, block.out)

    def _diag_factors(self) -> Array | None:
        """Return u a of each sample, None where all are 1; only class weights make a another number than 1."""
        counts_all = True
        if self.labels is not None:
            position, counted = dispatch.scan_labels(self.labels, self.classes, self.ignore_index, None, None)
            if position >= 0:
                self._raise_label(position)
            counts_all = counted == self.labels.size
        if self.weight is None and counts_all:
            return self.sample_weight
        self._own_labels()
        return self.factors()


def cross_entropy_hvp(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    r"""Multiply the Hessian of cross-entropy with respect to the logits by a vector.

    With :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i)`, the vector v, t and u of
    `cross_entropy`, :math:`a_i = \sum_j t_{ij}`, the denominator D of the reduction (1 for "sum" and
    "none") and the upstream gradient g,

    .. math:: (H v)_{ij} = \frac{g_i u_i a_i}{D}\, p_{ij} \left(v_{ij} - \sum_k p_{ik} v_{ik}\right)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`.
    v : array_like, shape of ``logits``
        The vector.
    axis, weight, sample_weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy`. "none" multiplies with the same Hessian as "sum".
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be ``logits`` or ``v`` itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``logits``
        In the dtype of ``logits`` (float64 for integers). Samples that are ignored or have weight 0
        give 0, whatever their logits.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    See Also
    --------
    cross_entropy_grad_and_hessian : the diagonal of each sample's Hessian.

    Notes
    -----
    The Hessian is block-diagonal, with one block :math:`\operatorname{diag}(p_i) - p_i p_i^\top`, times
    a factor, for each sample. It does not depend on class indices, except through ``weight`` and
    ``ignore_index``. It is positive semi-definite, so conjugate gradients can use this function as it
    is. With the Jacobian of a model on both sides it is the Gauss-Newton matrix [1]_.

    References
    ----------
    .. [1] N. N. Schraudolph, "Fast curvature matrix-vector products for second-order gradient
       descent", Neural Computation 14 (2002).

    Examples
    --------
    >>> import fastce
    >>> fastce.cross_entropy_hvp([[1.0, 2.0, 3.0]], [0], [[1.0, 0.0, 0.0]]).round(4)
    array([[ 0.0819, -0.022 , -0.0599]])
    """
    call = _HvpCall().bind(
        logits,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    vector = as_real(v, "v")
    if vector.shape != call.logits.shape:
        raise ValueError(f"v must have the shape of logits, {call.logits.shape}, got {vector.shape}")
    names = "logits", *call.given_names, "v"
    result = result_like(call.logits, out, names, (call.logits, *call.given, vector))
    factors = call.reduced_factors(grad_output)
    if call.logits.size:
        for block in row_blocks(call.axis, call.dtype, (call.logits, vector), result):
            x, vectors = block.inputs
            dispatch.run_hvp(x, vectors, factors[block.start : block.stop], block.out)
    return result


class _HvpCall(_SecondOrderCall):
    """Cross-entropy whose Hessian is multiplied with a vector."""

    def reduced_factors(self, grad_output: npt.ArrayLike | None) -> Array:
        """Return the factor g u a / D of each sample, or raise IndexError for a bad label."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        self._own_labels()
        scale, _ = self._divided(scale)
        return self.factors(scale, upstream)
