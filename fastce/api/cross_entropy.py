"""Cross-entropy with logits: the loss, and the loss with its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Unpack, overload

import numpy.typing as npt

from fastce.core.layout import Array
from fastce.core.loss import LossCall, solve_plain
from fastce.core.reduction import FloatArray, Loss, Reduced, Reduction, Scalar

if TYPE_CHECKING:
    from fastce.api.options import CrossEntropyGradOptions, CrossEntropyOptions


_new_tuple = tuple.__new__  # takes half the time of a NamedTuple's own


class LossAndGrad(NamedTuple, Generic[Loss]):
    """A loss and its gradient with respect to the first argument.

    Attributes
    ----------
    loss : scalar or ndarray
        The result of the function without ``_and_grad`` in its name.
    grad : ndarray
        The gradient, in the shape of the first argument and in its dtype (float64 for integers).
    """

    loss: Loss
    grad: Array


@overload
def cross_entropy(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[CrossEntropyOptions]
) -> Scalar: ...
@overload
def cross_entropy(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[CrossEntropyOptions]
) -> FloatArray: ...
@overload
def cross_entropy(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[CrossEntropyOptions]
) -> Scalar | FloatArray: ...
def cross_entropy(
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
) -> Scalar | FloatArray:
    r"""Compute the cross-entropy between logits and class indices or probabilities.

    With logits :math:`x`, class weights :math:`w`, sample weights :math:`u`, label smoothing
    :math:`\varepsilon` over C classes, the factor z and the target as probabilities :math:`y_{ij}`
    (one-hot for class indices), the loss of sample i is

    .. math::
        t_{ij} = w_j \left((1 - \varepsilon)\, y_{ij} + \frac{\varepsilon}{C}\right), \qquad
        \ell_i = u_i \left(z \operatorname{lse}(x_i)^2 - \sum_j t_{ij} \log \operatorname{softmax}(x_i)_j\right)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like
        Class indices of any integer dtype, in the shape of ``logits`` without the class axis. Or an
        array in the shape of ``logits``. Floats are class probabilities. Integers and booleans are
        one-hot, a single 1 a sample and 0 elsewhere, and give the same results as class indices.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample. A sample of weight 0 is left out, whatever NaN or infinity it holds.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    z_loss : float, default 0.0
        Factor z of the squared log-sum-exp in the loss, which keeps logits from drifting.
        Class weights do not scale it.
    logit_scale : float, default 1.0
        Factor of the logits, applied before ``softcap``: one over a temperature.
    softcap : float, optional
        Smooth cap c: each logit x becomes c tanh(x / c).
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the total weight
        of the samples that are not ignored: class weight times sample weight, or for class
        probabilities the sample weight alone.
    normalizer : float, optional
        Divisor for "mean" instead of the sum of weights, for batches that are parts of a larger
        one. The mean of nothing is then 0. The divisor may be 0 where no sample counts. With
        another reduction it is refused.
    where : array_like of bool, broadcast to the shape of ``logits``, optional
        Classes where it is False are left out: their logits count as -inf, smoothing spreads over
        the other classes, and the gradient is 0. A label there costs +inf. A sample without any
        class left is ignored.

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
        If an argument has a wrong shape or value, or an integer target is not one-hot. If an option
        other than 0 is too large or too small for the dtype of the computation: float32 unless the
        loss is float64. Weights may be subnormal numbers.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    cross_entropy_and_grad : the gradient as well, in the same pass.

    Notes
    -----
    The logits of ignored samples have no effect, NaN included. ``ignore_index`` has no effect on
    class probabilities. A class weight of 0 leaves out its class's term of each loss, so that no NaN
    or infinity is multiplied by 0. The term of ``z_loss`` has no class weight and stays.

    The options of ``torch.nn.functional.cross_entropy`` [1]_ mean the same here. The class axis
    differs: PyTorch's is the second, here it is the last by default. Pass ``axis=1`` for images of
    shape (N, C, H, W). ``z_loss`` is from [2]_.

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
    if (
        weight is sample_weight is softcap is normalizer is where is None
        and type(label_smoothing) is type(z_loss) is type(logit_scale) is float
        and label_smoothing == z_loss == 0.0
        and logit_scale == 1.0
    ):
        solved = solve_plain(logits, target, axis, ignore_index, reduction, None, False)
        if solved is not None:
            return solved[0]
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
    return call.solve(None, None)[0]


@overload
def cross_entropy_and_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[CrossEntropyGradOptions],
) -> LossAndGrad[Scalar]: ...
@overload
def cross_entropy_and_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[CrossEntropyGradOptions],
) -> LossAndGrad[FloatArray]: ...
@overload
def cross_entropy_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[CrossEntropyGradOptions]
) -> LossAndGrad[Scalar | FloatArray]: ...
def cross_entropy_and_grad(
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
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the cross-entropy and its gradient with respect to the logits in one pass.

    With x, t, u and z of `cross_entropy`, :math:`a_i = \sum_j t_{ij}`, the denominator D of the
    reduction (1 for "sum" and "none") and the upstream gradient g,

    .. math:: \frac{\partial}{\partial x_{ij}} =
        \frac{g_i u_i}{D} \left((a_i + 2 z \operatorname{lse}(x_i)) \operatorname{softmax}(x_i)_j - t_{ij}\right)

    times the derivative of ``logit_scale`` and ``softcap``: the gradient is with respect to the
    logits as they are passed.

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
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

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

    Notes
    -----
    A new array of many megabytes costs more time than the computation. So pass ``out`` in a training
    loop, in the memory order of the logits.

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
    if (
        weight is sample_weight is softcap is normalizer is where is None
        and type(label_smoothing) is type(z_loss) is type(logit_scale) is float
        and label_smoothing == z_loss == 0.0
        and logit_scale == 1.0
        and grad_output is None
    ):
        solved = solve_plain(logits, target, axis, ignore_index, reduction, out, True)
        if solved is not None:
            return _new_tuple(LossAndGrad, solved)
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
    grad = call.grad_array(out)
    return LossAndGrad(call.solve(grad, grad_output, out is None)[0], grad)
