"""Binary cross-entropy with logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.layout import Array, as_array, as_real, rule
from fastce.core.out import result_like
from fastce.core.staging import Block, staged
from fastce.core.validation import Reduction, as_loss, as_number, check_reduction, mean


def binary_cross_entropy_with_logits(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    weight: npt.ArrayLike | None = None,
    pos_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any:
    r"""Compute the binary cross-entropy between logits and targets, element by element.

    With the sigmoid :math:`\sigma`, weight w and positive weight :math:`\pi`,

    .. math:: \ell = -w \left[\pi\, t \log \sigma(x) + (1 - t) \log \sigma(-x)\right]

    Parameters
    ----------
    logits : array_like
        Unnormalised log-odds x, of any shape.
    target : array_like, shape of ``logits``
        Usually from 0 to 1; booleans and integers are welcome.
    weight : array_like, optional
        Multiplies the loss; broadcast to the shape of ``logits``.
    pos_weight : array_like, optional
        Multiplies the term of positive targets; broadcast to the shape of ``logits``.
    reduction : {"mean", "sum", "none"}, default "mean"
        "mean" divides the sum by the number of elements.

    Returns
    -------
    scalar, or ndarray in the shape of ``logits`` for "none"
        float64 for float64 and integer logits, else float32. Infinite logits give 0 where
        they agree with the target and +inf where not.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.

    Notes
    -----
    The meaning of every option is that of
    ``torch.nn.functional.binary_cross_entropy_with_logits`` [1]_.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.binary_cross_entropy_with_logits.html

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.binary_cross_entropy_with_logits([0.0, 2.0, -np.inf], [1, 1, 0], reduction="none").round(4)
    array([0.6931, 0.1269, 0.    ])
    """
    return _Binary(logits, target, weight, pos_weight, reduction).solve(None)


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
        The gradient with respect to the loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient; it may be ``logits`` itself.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``, the gradient in the shape and dtype of ``logits``
        (float64 for integers).

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
    problem = _Binary(logits, target, weight, pos_weight, reduction, grad_output)
    out = result_like(problem.logits, out, tuple(problem.given), tuple(problem.given.values()))
    return LossAndGrad(problem.solve(out), out)


class _Binary:
    """Checked arguments of one binary cross-entropy, ready to be launched."""

    def __init__(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        weight: npt.ArrayLike | None,
        pos_weight: npt.ArrayLike | None,
        reduction: str,
        grad_output: npt.ArrayLike | None = None,
    ) -> None:
        check_reduction(reduction)
        self.reduction = reduction
        self.logits = as_real(logits, "logits")
        self.target = as_real(target, "target")
        if self.target.shape != self.logits.shape:
            raise ValueError(f"target must have the shape of logits, {self.logits.shape}, got {self.target.shape}")
        self.given = {"logits": self.logits, "target": self.target}
        self.weight = self._broadcast(weight, "weight")
        self.pos_weight = self._broadcast(pos_weight, "pos_weight")
        self.dtype = rule(self.logits).compute
        self.denominator = float(self.logits.size) if reduction == "mean" else 1.0
        self.scale = mean(1.0, self.denominator)
        self.upstream: Array | None = None
        if grad_output is not None:
            self._take_upstream(as_array(grad_output, "grad_output"))

    def _broadcast(self, values: npt.ArrayLike | None, name: str) -> Array | None:
        if values is None:
            return None
        self.given[name] = array = as_real(values, name)
        try:
            return np.broadcast_to(array, self.logits.shape)
        except ValueError:
            raise ValueError(
                f"{name} must broadcast to the shape of logits, {self.logits.shape}, got {array.shape}"
            ) from None

    def _take_upstream(self, values: Array) -> None:
        if self.reduction == "none" and values.ndim:
            self.upstream = self._broadcast(values, "grad_output")
        else:
            self.scale *= as_number(values if values.ndim else values.item(), "grad_output")

    def solve(self, grad: Array | None) -> Any:
        """Return the reduced loss; write the gradient where an array for it is given."""
        loss = np.empty(self.logits.shape, self.dtype) if self.reduction == "none" else None
        sums = [np.zeros(0)]
        arrays = [self.logits, self.target, self.weight, self.pos_weight, self.upstream]
        if self.logits.size:
            for part, inputs, flat_grad in self._flat(arrays, grad):
                flat_loss = None if loss is None else loss.reshape(-1)[part]
                sums.append(dispatch.run_flat(inputs, self.scale, flat_loss, flat_grad))
        if loss is not None:
            return loss[()]
        return as_loss(mean(dispatch.total(np.concatenate(sums)), self.denominator), self.dtype)

    def _flat(
        self, arrays: list[Array | None], grad: Array | None
    ) -> Iterator[tuple[slice, list[Array | None], Array | None]]:
        """Yield (elements, arrays, gradient), the latter flat and of the dtype to compute in."""
        given = [np.atleast_1d(x) for x in arrays if x is not None]
        grad = None if grad is None else grad.reshape(given[0].shape) if grad.ndim == 0 else grad
        width = given[0].shape[-1]
        if all(_is_flat(x, self.dtype) for x in (*given, *([] if grad is None else [grad]))):
            batches: Iterable[Block] = [Block(0, given[0].size // width, given, grad)]
        else:
            batches = staged(-1, self.dtype, given, grad)
        for block in batches:
            flat = iter([x.reshape(-1) for x in block.inputs])
            places = [None if x is None else next(flat) for x in arrays]
            out = None if block.out is None else block.out.reshape(-1)
            yield slice(block.start * width, block.stop * width), places, out


def _is_flat(x: Array, dtype: np.dtype[Any]) -> bool:
    return bool(x.dtype == dtype and x.flags.c_contiguous and x.flags.aligned)
