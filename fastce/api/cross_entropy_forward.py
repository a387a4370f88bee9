"""Cross-entropy in two passes: the loss first, and its gradient later."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastce.core.layout import Array, axes_last
from fastce.core.loss import LossCall
from fastce.core.out import result_like
from fastce.core.reduction import FloatArray, Loss, Reduced, Reduction, Scalar
from fastce.core.validation import as_array

if TYPE_CHECKING:
    from fastce.api.options import CrossEntropyOptions


class Forward(NamedTuple, Generic[Loss]):
    """A loss and the statistics of its samples, from which `cross_entropy_backward` computes the gradient.

    Attributes
    ----------
    loss : scalar or ndarray
        The result of `cross_entropy`.
    stats : ndarray, shape (2, N)
        For each of N samples in C order, the greatest logit m, and the sum of exp(x - m) over all classes but
        one that has m. The log-sum-exp is m + log(1 + sum). The dtype is that of the loss. Both numbers are
        NaN for samples that are ignored or have weight 0.
    """

    loss: Loss
    stats: Array


@overload
def cross_entropy_forward(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[CrossEntropyOptions]
) -> Forward[Scalar]: ...
@overload
def cross_entropy_forward(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[CrossEntropyOptions]
) -> Forward[FloatArray]: ...
@overload
def cross_entropy_forward(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[CrossEntropyOptions]
) -> Forward[Scalar | FloatArray]: ...
def cross_entropy_forward(
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
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    where: npt.ArrayLike | None = None,
) -> Forward[Scalar | FloatArray]:
    r"""Compute the cross-entropy, and the statistics that its backward pass needs.

    With the logits :math:`x_i` of sample i, scaled and capped,

    .. math::
        m_i = \max_j x_{ij}, \qquad r_i = \sum_j e^{x_{ij} - m_i} - 1, \qquad
        \operatorname{lse}(x_i) = m_i + \log(1 + r_i)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`.
    axis : int, default -1
        The axis of the classes.
    weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As in `cross_entropy`.
    reduction, normalizer, where
        As in `cross_entropy`.

    Returns
    -------
    Forward
        A named tuple ``(loss, stats)``: the loss as from `cross_entropy`, and m and r of the N
        samples in C order. ``stats`` has the shape (2, N) and the dtype of the loss, and is NaN for
        samples that are ignored or have weight 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`.

    See Also
    --------
    cross_entropy_backward : the gradient from these statistics.
    cross_entropy_and_grad : loss and gradient in one call, which reads the logits once.
    CrossEntropyLoss : an object that keeps the arguments and the statistics.

    Notes
    -----
    r is the sum over all classes but one that has the maximum, not a difference. So it keeps its digits
    however confident the sample.

    Examples
    --------
    >>> import fastce
    >>> logits = [[1.0, 2.0, 3.0]]
    >>> loss, stats = fastce.cross_entropy_forward(logits, [0])
    >>> loss.round(4), stats.round(4)
    (np.float64(2.4076), array([[3.    ],
           [0.5032]]))
    >>> fastce.cross_entropy_backward(logits, [0], stats).round(4)
    array([[-0.91  ,  0.2447,  0.6652]])
    """
    call = LossCall().bind(
        logits,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        where=where,
    )
    call.remember()
    loss, _ = call.solve(None, None)
    return Forward(loss, call.stats())


def cross_entropy_backward(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    stats: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    where: npt.ArrayLike | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    r"""Compute the gradient of cross-entropy from the statistics of its forward pass.

    With m and r of `cross_entropy_forward` in place of a pass over the logits x, scaled and capped,

    .. math:: \operatorname{softmax}(x_i)_j = \frac{e^{x_{ij} - m_i}}{1 + r_i}

    in the gradient of `cross_entropy_and_grad`.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`.
    stats : array_like, shape (2, N)
        The ``stats`` of `cross_entropy_forward` for these logits and options. Samples whose maximum is
        NaN have gradient 0.
    axis : int, default -1
        The axis of the classes.
    weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As in `cross_entropy`.
    reduction, normalizer, where
        As in `cross_entropy`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    ndarray, shape of ``logits``
        The gradient of `cross_entropy_and_grad`, to the bit, in the dtype of ``logits`` (float64 for
        integers).

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype, or ``stats`` has another dtype than the loss.
    ValueError
        If an argument has a wrong shape or value.
    IndexError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    See Also
    --------
    cross_entropy_forward : the loss and the statistics.

    Notes
    -----
    Give both passes the same options: other options change the gradient without an error. For parts of a
    batch, give both passes the number of samples of the whole batch as ``normalizer``.

    The logits are read once, and each exponential is computed once. ``stats`` is not checked to belong to these
    logits, and the pass is exact for any. With statistics of more classes than ``logits`` has, the softmax is
    over all of those classes.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits, target = np.array([[2.0, 1.0, 0.1], [0.0, 1.0, 3.0]]), [0, -100]
    >>> loss, stats = fastce.cross_entropy_forward(logits, target)
    >>> fastce.cross_entropy_backward(logits, target, stats, grad_output=2.0).round(4)
    array([[-0.682 ,  0.4849,  0.1971],
           [ 0.    ,  0.    ,  0.    ]])
    """
    call = _BackwardCall().bind(
        logits,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        where=where,
    )
    call.take_stats(stats)
    grad = result_like(
        call.logits, out, ("logits", *call.given_names, "stats"), (call.logits, *call.given, call.given_stats)
    )
    call.backward(grad, grad_output, out is None)
    return grad


class _BackwardCall(LossCall):
    """Cross-entropy whose statistics are given."""

    given_stats: Array

    def take_stats(self, stats: npt.ArrayLike) -> None:
        """Check the statistics, and keep them where a forward pass would have saved them."""
        self.given_stats = array = as_array(stats, "stats")
        shape = 2, math.prod(self.shape)
        if array.shape != shape:
            raise ValueError(
                f"stats must have shape {shape}, two numbers for each sample, as from cross_entropy_forward, "
                f"got {array.shape}"
            )
        if array.dtype.newbyteorder("=") != self.dtype:
            raise TypeError(f"stats must have dtype {self.dtype}, as from cross_entropy_forward, got {array.dtype}")
        self.saved_stats = np.require(array, self.dtype, ["C", "A"])

    def backward(self, grad: Array, grad_output: npt.ArrayLike | None, out_is_new: bool = False) -> None:
        """Write the gradient: 0 for samples whose maximum is NaN."""
        super().backward(grad, grad_output, out_is_new)
        assert self.saved_stats is not None
        missing = np.isnan(self.saved_stats[0])
        if missing.any():
            axes_last(grad, self.axis)[missing.reshape(self.shape)] = 0
