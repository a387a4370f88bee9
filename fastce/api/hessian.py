"""Second derivatives of cross-entropy: for gradient boosting, and for Newton and curvature methods."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.elementary import dots
from fastce.core.layout import Array, as_real, cast_to
from fastce.core.loss import LossCall
from fastce.core.out import result_like, share_memory
from fastce.core.staging import row_blocks, staged
from fastce.core.validation import Reduction, as_number, raise_label

_NO_LABEL = -(2**63)  # a label that is none, so that no other one is ignored


class GradAndHessian(NamedTuple):
    """The gradient of each sample's loss and the diagonal of its Hessian.

    Attributes
    ----------
    grad, hessian : ndarray
        In the shape and dtype of the logits.

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
    sample_weight: npt.ArrayLike | None = None,
    hessian_scale: float = 1.0,
    out: Array | None = None,
    hessian_out: Array | None = None,
) -> GradAndHessian:
    r"""Compute each sample's gradient of cross-entropy and the diagonal of its Hessian.

    With :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i)`, the target as probabilities t
    (one-hot for indices), sample weights u and the factor s, ``hessian_scale``,

    .. math:: \mathrm{grad}_{ij} = u_i \left(p_{ij} - t_{ij}\right), \qquad
        \mathrm{hessian}_{ij} = s\, u_i\, p_{ij} \left(1 - p_{ij}\right)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities, boosting's raw predictions; integers and booleans are
        taken as float64.
    target : array_like
        Class indices, one-hot or not, or class probabilities that sum to 1, as in `cross_entropy`.
    axis : int, default -1
        The axis of the classes.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample.
    hessian_scale : float, default 1.0
        What the Hessian is multiplied by: 1 is scikit-learn's, 2 is XGBoost's and C / (C - 1)
        is LightGBM's.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient; it may be ``logits`` itself.
    hessian_out : ndarray, shape and dtype of the Hessian, optional
        Where to write the Hessian; it may share memory with no other argument.

    Returns
    -------
    GradAndHessian
        A named tuple ``(grad, hessian)``, both in the shape and dtype of ``logits`` (float64
        for integers) and exact to a few units in the last place however confident a sample.

    Raises
    ------
    IndexError
        If a class index is outside 0 to C - 1; none is ignored.
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
    Gradient boosting libraries take one gradient and one second derivative per sample and
    class: the diagonal, as in ``sklearn._loss.HalfMultinomialLoss.gradient_hessian``, which this
    function returns the results of.

    Examples
    --------
    >>> import fastce
    >>> grad, hessian = fastce.cross_entropy_grad_and_hessian([[1.0, 2.0, 3.0]], [2])
    >>> grad.round(4)
    array([[ 0.09  ,  0.2447, -0.3348]])
    >>> hessian.round(4)
    array([[0.0819, 0.1848, 0.2227]])
    """
    problem = _Diagonal(logits, target, axis, sample_weight)
    scale = as_number(hessian_scale, "hessian_scale")
    grad = problem.grad_array(out)
    hessian = problem.hessian_array(hessian_out, grad)
    problem.check_labels()
    problem.diagonal(scale, hessian)
    problem.solve(grad, None, out is None)
    return GradAndHessian(grad, hessian)


class _Diagonal(LossCall):
    """Cross-entropy without reduction, with the diagonal of its Hessian."""

    def __init__(
        self, logits: npt.ArrayLike, target: npt.ArrayLike, axis: int, sample_weight: npt.ArrayLike | None
    ) -> None:
        super().__init__(logits, target, axis, None, sample_weight, _NO_LABEL, 0.0, "none")

    def hessian_array(self, given: object, grad: Array) -> Array:
        """Return ``given`` if the Hessian can be written there, or for None a new array."""
        try:
            array = result_like(self.logits, given, (), ())
        except (TypeError, ValueError) as error:
            raise type(error)(f"hessian_{error}") from None
        target, _, sample_weight, _ = self.given
        others = {"logits": self.logits, "target": target, "sample_weight": sample_weight, "out": grad}
        for name, other in others.items():
            if other is not None and share_memory(array, other):
                raise ValueError(f"hessian_out must not share memory with {name}")
        return array

    def check_labels(self) -> None:
        """Raise IndexError for a bad label."""
        if self.labels is None:
            return
        position, kept = dispatch.scan_labels(self.labels, self.logits.shape[self.axis], _NO_LABEL, None, None)
        if position < 0 and kept < self.labels.size:
            position = int(np.argmax(self.labels == _NO_LABEL))
        if position >= 0:
            raise_label(self.target, position, self.logits.shape[self.axis], None)

    def diagonal(self, scale: float, hessian: Array) -> None:
        """Write the diagonal of the Hessian."""
        if self.logits.size:
            for block in row_blocks(self.axis, self.dtype, (self.logits,), hessian):
                weight = None if self.sample_weight is None else self.sample_weight[block.start : block.stop]
                dispatch.run_hessian_diag(block.inputs[0], weight, scale, block.out)


def cross_entropy_hvp(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    v: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    out: Array | None = None,
) -> Array:
    r"""Multiply the Hessian of cross-entropy, with respect to the logits, with a vector.

    With :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i)`, t and u of `cross_entropy`,
    :math:`a_i = \sum_j t_{ij}` and the denominator D of the reduction (1 for "sum" and "none"),

    .. math:: (H v)_{ij} = \frac{u_i a_i}{D}\, p_{ij} \left(v_{ij} - \sum_k p_{ik} v_{ik}\right)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`. Of indices only
        ``weight`` and ``ignore_index`` take notice: the Hessian does not depend on the label.
    v : array_like, shape of ``logits``
        The vector.
    axis, weight, sample_weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy`. For "none", the Hessian is that of the losses' sum.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result; it may be ``logits`` or ``v`` itself.

    Returns
    -------
    ndarray, shape of ``logits``
        In the dtype of ``logits`` (float64 for integers). Samples that are ignored or weigh
        nothing give 0, whatever their logits.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    See Also
    --------
    cross_entropy_grad_and_hessian : the diagonal of each sample's Hessian.

    Notes
    -----
    The Hessian is block-diagonal, one block :math:`\operatorname{diag}(p_i) - p_i p_i^\top` a
    sample times its factor. It is positive semi-definite, so that the function serves conjugate
    gradients as it is and, with the Jacobian of a model on both sides, is the Gauss-Newton
    matrix [1]_.

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
    problem = _Product(logits, target, axis, weight, sample_weight, ignore_index, label_smoothing, reduction)
    vector = as_real(v, "v")
    if vector.shape != problem.logits.shape:
        raise ValueError(f"v must have the shape of logits, {problem.logits.shape}, got {vector.shape}")
    result = problem.product_array(out, vector)
    slopes = problem.slopes()
    if problem.logits.size:
        for block in row_blocks(problem.axis, problem.dtype, (problem.logits, vector), result):
            x, v = block.inputs
            dispatch.run_hvp(x, v, slopes[block.start : block.stop], block.out)
    return result


class _Product(LossCall):
    """Cross-entropy whose Hessian is multiplied with a vector."""

    def product_array(self, out: object, vector: Array) -> Array:
        """Return ``out`` if the product can be written there, or for None a new array."""
        names = "logits", "target", "weight", "sample_weight", "where", "v"
        return result_like(self.logits, out, names, (self.logits, *self.given, vector))

    def slopes(self) -> Array:
        """Return u a / D of each sample, or raise IndexError for a bad label."""
        self._own_labels()
        scale, _ = self._divided(1.0)
        with np.errstate(all="ignore"):  # 0 / 0 where the weights add up to 0, for one
            slopes = self._amounts()
            if self.sample_weight is not None:
                slopes = slopes * self.sample_weight
            slopes = slopes * scale
        if self.labels is not None:
            slopes[self.labels == self.ignore_index] = 0.0
        return cast_to(slopes, self.dtype)

    def _amounts(self) -> Array:
        """Return the sums of the targets after smoothing and weights."""
        keep, _, spread_total = self.smoothing or (1.0, 0.0, 0.0)
        amounts = self._target_sums() if self.labels is None else self._class_weights()
        return amounts * keep + spread_total

    def _target_sums(self) -> Array:
        amounts = np.ones(math.prod(self.shape))
        if not self.logits.size:
            return amounts
        weight = np.ones(self.logits.shape[self.axis]) if self.weight is None else self.weight
        for block in staged(self.axis, self.dtype, (self.target,), None):
            amounts[block.start : block.stop] = dots(block.inputs[0], weight)
        return amounts
