"""Binary cross-entropy with logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.layout import Array, dtypes_of
from fastce.core.out import result_like
from fastce.core.reduction import Reduction, as_loss, check_reduction, mean
from fastce.core.staging import Block, staged
from fastce.core.validation import as_array, as_number, as_real


def binary_cross_entropy_with_logits(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any:
    r"""Compute the binary cross-entropy between logits and targets, element by element.

    With logits x, targets t, the sigmoid :math:`\sigma`, weights w and positive weights :math:`\pi`,

    .. math:: \ell = -w \left[\pi\, t \log \sigma(x) + (1 - t) \log \sigma(-x)\right]

    Parameters
    ----------
    logits : array_like
        Log-odds, of any shape; integers and booleans are taken as float64.
    target : array_like, shape of ``logits``
        Real numbers, usually from 0 to 1.
    weight : array_like, broadcast to the shape of ``logits``, optional
        Factor of the loss.
    pos_weight : array_like, broadcast to the shape of ``logits``, optional
        Factor of the term of positive targets.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss an element, "sum" their sum. "mean" divides the sum by the number of
        elements.

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
    All options mean the same as in ``torch.nn.functional.binary_cross_entropy_with_logits`` [1]_.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy_with_logits.html

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.binary_cross_entropy_with_logits([0.0, 2.0, -np.inf], [1, 1, 0], reduction="none").round(4)
    array([0.6931, 0.1269, 0.    ])
    """
    call = _BinaryCall().bind(logits, target, weight=weight, pos_weight=pos_weight, reduction=reduction)
    return call.solve(None)


def binary_cross_entropy_with_logits_and_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad:
    r"""Compute the binary cross-entropy and its gradient with respect to the logits.

    .. math:: \frac{\partial \ell}{\partial x} = w \left[(1 - t)\, \sigma(x) - \pi\, t\, \sigma(-x)\right]

    times ``grad_output``, and divided by the number of elements for "mean".

    Parameters
    ----------
    logits, target, weight, pos_weight, reduction
        As in `binary_cross_entropy_with_logits`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `binary_cross_entropy_with_logits`, the
        gradient in the shape and dtype of ``logits`` (float64 for integers).

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
        logits, target, weight=weight, pos_weight=pos_weight, reduction=reduction, grad_output=grad_output
    )
    grad = result_like(call.logits, out, tuple(call.inputs), tuple(call.inputs.values()))
    return LossAndGrad(call.solve(grad), grad)


class _BinaryCall:
    """The checked arguments of one binary cross-entropy, and its computation."""

    def bind(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        weight: npt.ArrayLike | None,
        pos_weight: npt.ArrayLike | None,
        reduction: str,
        grad_output: npt.ArrayLike | None = None,
    ) -> Self:
        """Check the arguments and keep them; return the call. A method for the reason given at `LossCall.bind`."""
        check_reduction(reduction)
        self.reduction = reduction
        self.logits = as_real(logits, "logits")
        self.target = as_real(target, "target")
        if self.target.shape != self.logits.shape:
            raise ValueError(f"target must have the shape of logits, {self.logits.shape}, got {self.target.shape}")
        self.inputs = {"logits": self.logits, "target": self.target}  # arrays that ``out`` must not overlap
        self.weight = self._broadcast(weight, "weight")
        self.pos_weight = self._broadcast(pos_weight, "pos_weight")
        self.dtype = dtypes_of(self.logits).compute
        self.denominator = float(self.logits.size) if reduction == "mean" else 1.0
        self.scale = mean(1.0, self.denominator)
        self.upstream: Array | None = None
        if grad_output is not None:
            values = as_array(grad_output, "grad_output")
            if reduction == "none" and values.ndim:
                self.upstream = self._broadcast(values, "grad_output")
            else:
                self.scale *= as_number(values if values.ndim else values.item(), "grad_output")
        return self

    def _broadcast(self, values: npt.ArrayLike | None, name: str) -> Array | None:
        """Return an option as an array in the shape of the logits, and add it to the inputs."""
        if values is None:
            return None
        self.inputs[name] = array = as_real(values, name)
        try:
            return np.broadcast_to(array, self.logits.shape)
        except ValueError:
            raise ValueError(
                f"{name} must broadcast to the shape of logits, {self.logits.shape}, got {array.shape}"
            ) from None

    def solve(self, grad: Array | None) -> Any:
        """Return the reduced loss; write the gradient if an array for it is given."""
        loss = np.empty(self.logits.shape, self.dtype) if self.reduction == "none" else None
        sums = [np.zeros(0)]
        arrays = [self.logits, self.target, self.weight, self.pos_weight, self.upstream]
        if self.logits.size:
            for part, inputs, flat_grad in self._flat_blocks(arrays, grad):
                flat_loss = None if loss is None else loss.reshape(-1)[part]
                sums.append(dispatch.run_binary(inputs, self.scale, flat_loss, flat_grad))
        if loss is not None:
            return loss[()]
        return as_loss(mean(dispatch.total(np.concatenate(sums)), self.denominator), self.dtype)

    def _flat_blocks(
        self, arrays: list[Array | None], grad: Array | None
    ) -> Iterator[tuple[slice, list[Array | None], Array | None]]:
        """Yield (slice of the elements, arrays, gradient), all arrays flat and in the dtype of the computation."""
        inputs = [np.atleast_1d(x) for x in arrays if x is not None]
        grad = None if grad is None else grad.reshape(inputs[0].shape) if grad.ndim == 0 else grad
        width = inputs[0].shape[-1]
        if all(_is_flat_ready(x, self.dtype) for x in (*inputs, *([] if grad is None else [grad]))):
            blocks: Iterable[Block] = [Block(0, inputs[0].size // width, inputs, grad)]
        else:
            blocks = staged(-1, self.dtype, inputs, grad)
        for block in blocks:
            flat = iter([x.reshape(-1) for x in block.inputs])
            flat_arrays = [None if x is None else next(flat) for x in arrays]
            out = None if block.out is None else block.out.reshape(-1)
            yield slice(block.start * width, block.stop * width), flat_arrays, out


def _is_flat_ready(x: Array, dtype: np.dtype[Any]) -> bool:
    """Tell whether kernels take this array as it is, once it is flat."""
    return bool(x.dtype == dtype and x.flags.c_contiguous and x.flags.aligned)
