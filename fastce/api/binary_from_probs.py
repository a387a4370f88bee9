"""Binary cross-entropy from probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elements import ElementCall
from fastce.core.layout import Array
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.kernels.ops.binary import Options

if TYPE_CHECKING:
    from fastce.api.options import BinaryProbsGradOptions, BinaryProbsOptions


@overload
def binary_cross_entropy_from_probs(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[BinaryProbsOptions]
) -> Scalar: ...
@overload
def binary_cross_entropy_from_probs(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[BinaryProbsOptions]
) -> FloatArray: ...
@overload
def binary_cross_entropy_from_probs(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[BinaryProbsOptions]
) -> Scalar | FloatArray: ...
def binary_cross_entropy_from_probs(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Scalar | FloatArray:
    r"""Compute the binary cross-entropy between probabilities and targets, element by element.

    With probabilities p, targets t, weights w and positive weights :math:`\pi`,

    .. math:: \ell = -w \left[\pi\, t \log p + (1 - t) \log(1 - p)\right]

    Parameters
    ----------
    probs : array_like
        Probabilities of the positive class, of any shape; integers and booleans are taken as float64.
    target : array_like, shape of ``probs``
        Real numbers, usually from 0 to 1.
    weight : array_like, broadcast to the shape of ``probs``, optional
        Factor of the loss. An element of weight 0 is left out of the sum, whatever its probability and
        target are, NaN included; it still counts as an element.
    pos_weight : array_like, broadcast to the shape of ``probs``, optional
        Factor of the term of positive targets.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss an element, "sum" their sum. "mean" divides the sum by the number of
        elements.

    Returns
    -------
    scalar, or ndarray in the shape of ``probs`` for "none"
        float64 for float64 and integer probabilities, else float32. "mean" of nothing is NaN.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value, or if a probability whose weight is not 0 is NaN or
        outside 0 to 1.

    See Also
    --------
    binary_cross_entropy_with_logits : from log-odds, which keeps the digits of confident elements.

    Notes
    -----
    A probability of 0 or 1 gives 0 where it agrees with the target, else +inf.
    ``torch.nn.functional.binary_cross_entropy`` [1]_ gives 100 there, as it clamps logarithms at -100.
    Keras clips probabilities to 1e-7 from 0 and 1. Losses of targets 0 and 1 are within 4 ulp.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy.html

    Examples
    --------
    >>> import fastce
    >>> fastce.binary_cross_entropy_from_probs([0.5, 0.9, 0.0], [1, 1, 0], reduction="none").round(4)
    array([0.6931, 0.1054, 0.    ])
    """
    call = _ProbsCall().bind(probs, target, weight=weight, pos_weight=pos_weight, reduction=reduction)
    return call.solve(None)


@overload
def binary_cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[BinaryProbsGradOptions],
) -> LossAndGrad[Scalar]: ...
@overload
def binary_cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[BinaryProbsGradOptions],
) -> LossAndGrad[FloatArray]: ...
@overload
def binary_cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[BinaryProbsGradOptions]
) -> LossAndGrad[Scalar | FloatArray]: ...
def binary_cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the binary cross-entropy from probabilities and its gradient with respect to them.

    .. math:: \frac{\partial \ell}{\partial p} = w \left[\frac{1 - t}{1 - p} - \frac{\pi\, t}{p}\right]

    in the notation of `binary_cross_entropy_from_probs`, times ``grad_output``, and divided by the number
    of elements for "mean". A term is 0 if its factor, 1 - t or :math:`\pi t`, is 0.

    Parameters
    ----------
    probs, target, weight, pos_weight, reduction
        As in `binary_cross_entropy_from_probs`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `binary_cross_entropy_from_probs`, the gradient
        in the shape and dtype of ``probs`` (float64 for integers). Elements of weight 0 have gradient 0.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_from_probs`, before anything is written.

    Examples
    --------
    >>> import fastce
    >>> loss, grad = fastce.binary_cross_entropy_from_probs_and_grad([0.5, 0.9], [1, 1])
    >>> grad.round(4)
    array([-1.    , -0.5556])
    """
    call = _ProbsCall().bind(
        probs, target, weight=weight, pos_weight=pos_weight, reduction=reduction, grad_output=grad_output
    )
    grad = call.grad_array(out)
    return LossAndGrad(call.solve_checked(grad, out is None), grad)


class _ProbsCall(ElementCall):
    """Binary cross-entropy from probabilities."""

    input_name = "probs"

    def solve_checked(self, grad: Array, out_is_new: bool) -> Scalar | FloatArray:
        """Return the reduced loss and write the gradient, after all probabilities are known to be some.

        A pass for the losses checks them. Only the caller's own array needs it before anything is written.
        """
        if out_is_new:
            return self.solve(grad)
        loss = self.solve(None)
        self._fill(False, None, grad)
        return loss

    def _run(
        self, start: int, inputs: list[Array | None], sums: bool, loss: Array | None, grad: Array | None
    ) -> Array | None:
        p, target, weight, pos_weight, upstream = inputs
        assert p is not None and target is not None
        found = dispatch.block_sums(p) if sums else None
        options = Options(weight, pos_weight)
        position = dispatch.run_binary_probs(p, target, options, upstream, self.scale, found, loss, grad)
        if position >= 0:
            self._raise_invalid(start + position)
        return found

    def _raise_invalid(self, position: int) -> None:
        """Raise ValueError for the probability at this flat position."""
        index = tuple(int(i) for i in np.unravel_index(position, self.logits.shape))
        where = f"probs[{', '.join(map(str, index))}]" if index else "probs"
        value = float(self.logits[index])
        if 0.0 <= value <= 1.0:
            raise ValueError(
                f"{where} was no probability; it is {value} since another thread or process has changed it"
            )
        raise ValueError(
            f"{where} is {value}, expected a probability from 0 to 1; binary_cross_entropy_with_logits takes log-odds"
        )
