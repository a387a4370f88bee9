"""Binary cross-entropy with logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elements import ElementCall
from fastce.core.layout import Array
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.core.validation import as_number, as_smoothing
from fastce.kernels.ops.binary import Options

if TYPE_CHECKING:
    from fastce.api.options import BinaryGradOptions, BinaryOptions


@overload
def binary_cross_entropy_with_logits(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[BinaryOptions]
) -> Scalar: ...
@overload
def binary_cross_entropy_with_logits(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[BinaryOptions]
) -> FloatArray: ...
@overload
def binary_cross_entropy_with_logits(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[BinaryOptions]
) -> Scalar | FloatArray: ...
def binary_cross_entropy_with_logits(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Scalar | FloatArray:
    r"""Compute the binary cross-entropy between logits and targets, element by element.

    With logits x, targets y, the sigmoid :math:`\sigma`, weights w, positive weights :math:`\pi` and
    label smoothing e,

    .. math:: \ell = -w \left[\pi\, t \log \sigma(x) + (1 - t) \log \sigma(-x)\right],
        \qquad t = (1 - e)\, y + \frac{e}{2}

    Parameters
    ----------
    logits : array_like
        Log-odds, of any shape; integers and booleans are taken as float64.
    target : array_like, shape of ``logits``
        Real numbers, usually from 0 to 1.
    weight : array_like, broadcast to the shape of ``logits``, optional
        Factor of the loss. An element of weight 0 is left out of the sum, whatever its logit and target
        are, NaN included; it still counts as an element.
    pos_weight : array_like, broadcast to the shape of ``logits``, optional
        Factor of the term of positive targets.
    ignore_index : number, optional
        Elements with this target are ignored: they add nothing to the result, and the mean does not
        count them. Targets are compared with it in the precision of the computation. NaN ignores
        targets that are NaN.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is replaced by 1/2.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss an element, "sum" their sum. "mean" divides the sum by the number of
        elements that are not ignored.

    Returns
    -------
    scalar, or ndarray in the shape of ``logits`` for "none"
        float64 for float64 and integer logits, else float32. An infinite logit gives 0 if it agrees
        with the target, else +inf. "mean" of nothing is NaN.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.

    Notes
    -----
    ``weight``, ``pos_weight`` and ``reduction`` mean the same as in
    ``torch.nn.functional.binary_cross_entropy_with_logits`` [1]_, which has no other options. Without
    label smoothing, losses of targets 0 and 1 are within 4 ulp, however confident the element.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy_with_logits.html

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.binary_cross_entropy_with_logits([0.0, 2.0, -np.inf], [1, 1, 0], reduction="none").round(4)
    array([0.6931, 0.1269, 0.    ])
    >>> float(fastce.binary_cross_entropy_with_logits([0.0, 2.0, -3.0], [1, 1, -1], ignore_index=-1).round(4))
    0.41
    """
    call = _BinaryCall().bind(
        logits,
        target,
        weight=weight,
        pos_weight=pos_weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    return call.solve(None)


@overload
def binary_cross_entropy_with_logits_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[BinaryGradOptions]
) -> LossAndGrad[Scalar]: ...
@overload
def binary_cross_entropy_with_logits_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[BinaryGradOptions]
) -> LossAndGrad[FloatArray]: ...
@overload
def binary_cross_entropy_with_logits_and_grad(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[BinaryGradOptions]
) -> LossAndGrad[Scalar | FloatArray]: ...
def binary_cross_entropy_with_logits_and_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    ignore_index: float | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the binary cross-entropy and its gradient with respect to the logits.

    .. math:: \frac{\partial \ell}{\partial x} = w \left[(1 - t)\, \sigma(x) - \pi\, t\, \sigma(-x)\right]

    in the notation of `binary_cross_entropy_with_logits`, times ``grad_output``, and divided by the
    number of elements that are not ignored for "mean".

    Parameters
    ----------
    logits, target, weight, pos_weight, ignore_index, label_smoothing, reduction
        As in `binary_cross_entropy_with_logits`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `binary_cross_entropy_with_logits`, the
        gradient in the shape and dtype of ``logits`` (float64 for integers). Elements that are ignored
        or have weight 0 have gradient 0.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_with_logits`, before anything is written.

    Examples
    --------
    >>> import fastce
    >>> loss, grad = fastce.binary_cross_entropy_with_logits_and_grad([0.0, 2.0], [1, 1])
    >>> grad.round(4)
    array([-0.25  , -0.0596])
    """
    call = _BinaryCall().bind(
        logits,
        target,
        weight=weight,
        pos_weight=pos_weight,
        reduction=reduction,
        grad_output=grad_output,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    grad = call.grad_array(out)
    return LossAndGrad(call.solve(grad), grad)


class _BinaryCall(ElementCall):
    """Binary cross-entropy with logits."""

    smoothing: tuple[float, float] | None = None

    def bind(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        ignore_index: float | None = None,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> Self:
        """Check the arguments and keep them; return the call."""
        if ignore_index is not None:
            self.ignored = as_number(ignore_index, "ignore_index")
        if type(label_smoothing) is not float or label_smoothing != 0.0:
            amount = as_smoothing(label_smoothing)
            self.smoothing = (1.0 - amount, amount / 2) if amount else None
        return super().bind(logits, target, **options)

    def _run(
        self, start: int, inputs: list[Array | None], sums: bool, loss: Array | None, grad: Array | None
    ) -> Array | None:
        x, target, weight, pos_weight, upstream = inputs
        assert x is not None and target is not None
        options = Options(weight, pos_weight, self.smoothing, self.ignored)
        return dispatch.run_binary(x, target, options, upstream, self.scale, loss, grad)
