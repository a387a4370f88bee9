"""Cross-entropy with logits: the loss, the loss with its gradient, and a loss object."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from fastce.core.layout import Array
from fastce.core.loss import LossCall
from fastce.core.validation import Reduction


class LossAndGrad(NamedTuple):
    """A loss and its gradient with respect to the first argument.

    Attributes
    ----------
    loss : scalar or ndarray
        As the function without the gradient returns it.
    grad : ndarray
        In the shape and dtype of the first argument.
    """

    loss: Any
    grad: Array


def cross_entropy(
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
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    where: npt.ArrayLike | None = None,
) -> Any:
    r"""Compute the cross-entropy between logits and class indices or probabilities.

    With class weights :math:`w`, sample weights :math:`u`, label smoothing
    :math:`\varepsilon` and the target as probabilities :math:`y_{ij}` (one-hot for indices),

    .. math::
        t_{ij} = w_j \left((1 - \varepsilon)\, y_{ij} + \frac{\varepsilon}{C}\right), \qquad
        \ell_i = u_i \left(z \operatorname{lse}(x_i)^2 - \sum_j t_{ij} \log \operatorname{softmax}(x_i)_j\right)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities x; integers and booleans are taken as float64.
    target : array_like
        Either class indices of any integer dtype, in the shape of ``logits`` without the
        class axis; or, in the shape of ``logits``, class probabilities if floating-point, and
        one-hot class indices if integer or boolean: a single 1 a sample, 0 elsewhere. One-hot
        targets have the results of the class indices that they stand for.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample.
    ignore_index : int, default -100
        Samples with this class index count for nothing and their logits are not looked at.
        It has no effect on class probabilities.
    label_smoothing : float, default 0.0
        From 0 to 1: how much of each target is spread evenly over all classes.
    z_loss : float, default 0.0
        z: how much of the squared log-sum-exp is added, which keeps logits from drifting [2]_.
    logit_scale : float, default 1.0
        What the logits are multiplied by first: one over a temperature.
    softcap : float, optional
        c: scaled logits are then capped smoothly, to c tanh(x / c).
    reduction : {"mean", "sum", "none"}, default "mean"
        For "mean", the sum is divided by the sum of class weight times sample weight over
        the samples that count; for class probabilities by the sum of the sample weights.
    normalizer : float, optional
        What "mean" divides by instead: for batches that are parts of a larger one. The mean
        of nothing is then 0.
    where : array_like of bool, broadcast to the shape of ``logits``, optional
        Classes where it is False take no part, as if they were not there: smoothing spreads
        over the others, and the gradient is 0. A label there costs +inf. Samples without any
        class are ignored.

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
        If an argument has a wrong shape or value, an integer target that is not one-hot included.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    cross_entropy_and_grad : the gradient as well, in the same pass.

    Notes
    -----
    Options that ``torch.nn.functional.cross_entropy`` [1]_ has mean what they mean there. The
    class axis is another: here the last by default, there the second; pass ``axis=1`` for
    images of shape (N, C, H, W).

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    .. [2] A. Chowdhery et al., "PaLM: Scaling language modeling with Pathways", section 5 (2022).

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    >>> round(float(fastce.cross_entropy(logits, [0, 2])), 4)
    1.2753
    >>> round(float(fastce.cross_entropy(logits, [[1, 0, 0], [0, 0, 1]])), 4)
    1.2753
    >>> fastce.cross_entropy(logits, [0, -100], reduction="none").round(4)
    array([2.4076, 0.    ])

    The class axis of images is the second:

    >>> images = np.zeros((2, 3, 4, 4))
    >>> fastce.cross_entropy(images, np.zeros((2, 4, 4), int), axis=1).round(4)
    np.float64(1.0986)
    """
    problem = LossCall(
        logits,
        target,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        reduction,
        normalizer,
        z_loss,
        logit_scale,
        softcap,
        where,
    )
    return problem.solve(None, None)[0]


def cross_entropy_and_grad(
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
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    where: npt.ArrayLike | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad:
    r"""Compute the cross-entropy and its gradient with respect to the logits in one pass.

    With t and u of `cross_entropy`, :math:`a_i = \sum_j t_{ij}`, the denominator D of the
    reduction (1 for "sum" and "none") and the upstream gradient g,

    .. math:: \frac{\partial}{\partial x_{ij}} =
        \frac{g_i u_i}{D} \left((a_i + 2 z \operatorname{lse}(x_i)) \operatorname{softmax}(x_i)_j - t_{ij}\right)

    times the slope of scale and cap, so that it is with respect to the logits as they came.

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
    grad_output : scalar or array_like in the shape of the loss, optional
        The gradient of whatever the loss goes into with respect to the loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be ``logits`` itself, which is then overwritten;
        that saves an array. A fresh array of many megabytes costs more than the
        computation: give ``out`` in a training loop, in the memory order of the logits.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `cross_entropy`, the gradient in the
        shape and dtype of ``logits`` (float64 for integers). Ignored samples have gradient 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    See Also
    --------
    cross_entropy, CrossEntropyLoss

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1]])
    >>> loss, grad = fastce.cross_entropy_and_grad(logits, [0])
    >>> round(float(loss), 8), grad.round(4)
    (0.41703002, array([[-0.341 ,  0.2424,  0.0986]]))

    A confident prediction keeps its digits:

    >>> fastce.cross_entropy_and_grad(np.array([[20.0, 0.0]], np.float32), [0])
    LossAndGrad(loss=np.float32(2.0611537e-09), grad=array([[-2.0611537e-09,  2.0611537e-09]], dtype=float32))
    """
    problem = LossCall(
        logits,
        target,
        axis,
        weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        reduction,
        normalizer,
        z_loss,
        logit_scale,
        softcap,
        where,
    )
    grad = problem.grad_array(out)
    return LossAndGrad(problem.solve(grad, grad_output, out is None)[0], grad)
