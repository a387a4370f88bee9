"""Cross-entropy as an object that remembers the last step of a training loop."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastce.api.cross_entropy import cross_entropy
from fastce.core.layout import Array
from fastce.core.loss import LossCall
from fastce.core.reduction import FloatArray, Loss, Reduced, Reduction, Scalar, check_reduction, z_part
from fastce.core.validation import (
    as_ignore_index,
    as_index,
    as_logit_transform,
    as_number,
    as_real,
    as_smoothing,
)

if TYPE_CHECKING:
    from fastce.api.options import CriterionOptions


class LossParts(NamedTuple, Generic[Loss]):
    """The parts of a loss, which add up to it.

    Attributes
    ----------
    cross_entropy : scalar or ndarray
        The cross-entropy, reduced as the loss.
    z_loss : scalar or ndarray
        The part of the squared log-sum-exp, reduced as the loss.
    """

    cross_entropy: Loss
    z_loss: Loss


class _Call(LossCall):
    """Cross-entropy of a batch."""

    plain_loss: Any = None  # without the z-loss, where the loss is not finite because of it


class _Last(threading.local):
    """The last step of an object in each thread."""

    call: _Call | None = None
    loss: Any = None
    total_weight = 0.0
    grad: Array | None = None


class CrossEntropyLoss(Generic[Loss]):
    """Cross-entropy as an object that keeps its options, its gradient buffer and the last step's sums.

    Parameters
    ----------
    axis, weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap, reduction
        As in `cross_entropy`. Each is an attribute that can be read but not set: make a new object for
        other options. ``weight`` is copied.

    See Also
    --------
    cross_entropy_and_grad : loss and gradient in one call, which reads the logits once.
    cross_entropy_forward, cross_entropy_backward : the same two passes as functions.

    Notes
    -----
    ``sample_weight``, ``where`` and ``normalizer`` change from batch to batch, so they are arguments of the
    call.

    Several threads may use one object at once. Each thread has its own last step and its own buffer, so
    `backward` belongs to the last call in the same thread. Pickles and copies hold the options alone.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> criterion = fastce.CrossEntropyLoss(label_smoothing=0.1)
    >>> criterion(np.array([[2.0, 1.0, 0.1]]), [0]).round(6)
    np.float64(0.513697)
    >>> criterion.backward().round(4)
    array([[-0.2743,  0.2091,  0.0652]])
    >>> criterion.lse.round(4)
    array([2.417])
    >>> criterion.label_smoothing
    0.1

    Weights of samples come with their batch:

    >>> criterion(np.array([[2.0, 1.0, 0.1], [0.0, 0.0, 0.0]]), [0, 1], sample_weight=[1.0, 0.0]).round(6)
    np.float64(0.513697)
    """

    axis: int
    weight: Array | None
    ignore_index: int | None
    label_smoothing: float
    z_loss: float
    logit_scale: float
    softcap: float | None
    reduction: Reduction

    @overload
    def __init__(
        self: CrossEntropyLoss[Scalar], *, reduction: Reduced = "mean", **options: Unpack[CriterionOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: CrossEntropyLoss[FloatArray], *, reduction: Literal["none"], **options: Unpack[CriterionOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: CrossEntropyLoss[Scalar | FloatArray], *, reduction: Reduction, **options: Unpack[CriterionOptions]
    ) -> None: ...
    def __init__(
        self,
        *,
        axis: int = -1,
        weight: npt.ArrayLike | None = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        check_reduction(reduction)
        as_smoothing(label_smoothing)
        as_ignore_index(ignore_index)
        as_index(axis, "axis")
        as_number(z_loss, "z_loss")
        as_logit_transform(logit_scale, softcap)
        state = {
            "axis": axis,
            "weight": None if weight is None else as_real(weight, "weight").copy(),
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "z_loss": z_loss,
            "logit_scale": logit_scale,
            "softcap": softcap,
            "reduction": reduction,
        }
        self.__setstate__(state)

    def __getstate__(self) -> dict[str, Any]:
        """Return the options alone: a copy has no loss yet, and a buffer of its own."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_last", "_options")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the options."""
        self.__dict__.update(state)
        if self.weight is not None:
            self.weight.flags.writeable = False
        self._options: dict[str, Any] = {name: state[name] for name in _OPTIONS}
        self._last = _Last()

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse to change an option."""
        if name in _OPTIONS:
            raise AttributeError(f"{name} cannot be changed: make a new object, CrossEntropyLoss({name}={value!r})")
        if name in ("sample_weight", "where", "normalizer"):
            raise AttributeError(f"{name} is given with each batch: criterion(logits, target, {name}=...)")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Refuse to delete an option."""
        if name in _OPTIONS:
            raise AttributeError(f"{name} cannot be deleted: make a new object without this option")
        super().__delattr__(name)

    def __repr__(self) -> str:
        """Show the options that are not the defaults."""
        defaults: dict[str, Any] = cross_entropy.__kwdefaults__  # type: ignore[assignment]
        options = [f"{k}={v!r}" for k, v in self._options.items() if np.ndim(v) or v != defaults[k]]
        return f"CrossEntropyLoss({', '.join(options)})"

    def forward(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        where: npt.ArrayLike | None = None,
        normalizer: float | None = None,
    ) -> Loss:
        """Compute the loss, and remember the arguments for `backward`.

        Parameters
        ----------
        logits, target : array_like
            As in `cross_entropy`. They are not copied: do not change them before `backward`.
        sample_weight, where, normalizer : optional
            As in `cross_entropy`, for this batch.

        Returns
        -------
        scalar or ndarray
            As from `cross_entropy`.

        Raises
        ------
        IndexError, TypeError, ValueError, numpy.exceptions.AxisError
            As `cross_entropy`.
        """
        last = self._last
        last.call = None
        if sample_weight is None and where is None and normalizer is None:  # a tenth of a small loss faster
            call = _Call().bind(logits, target, **self._options)
        else:
            batch: dict[str, Any] = {"sample_weight": sample_weight, "where": where, "normalizer": normalizer}
            call = _Call().bind(logits, target, **batch, **self._options)
        call.remember()
        last.loss, last.total_weight = call.solve(None, None)
        if call.z_loss is not None and not np.isfinite(last.loss).all():
            call.plain_loss = _without_z_loss(call)
        last.call = call
        return last.loss  # type: ignore[no-any-return]

    __call__ = forward

    @property
    def lse(self) -> Array:
        """The log-sum-exp of every sample in the last call, of scaled and capped logits.

        In the dtype of the loss and the shape of ``logits`` without the class axis. It is NaN for
        samples that are ignored or have weight 0, and for samples without a softmax: with NaN or
        +inf, or nothing but -inf.
        """
        return self._last_call().lse()

    @property
    def parts(self) -> LossParts[Loss]:
        """The last loss as `LossParts`: cross-entropy and z-loss apart."""
        call = self._last_call()
        weight = None if call.sample_weight is None else call.sample_weight.reshape(call.shape)
        of_z = z_part(call.lse(), call.z_loss, weight, call.reduction, self._last.total_weight)
        with np.errstate(all="ignore"):  # of infinite losses
            return LossParts(self._last.loss - of_z if call.plain_loss is None else call.plain_loss, of_z)

    def _last_call(self) -> _Call:
        call = self._last.call
        if call is None:
            raise RuntimeError("there is no loss yet: call the object with logits and target first, in this thread")
        return call

    def backward(self, grad_output: npt.ArrayLike | None = None, *, out: Array | None = None) -> Array:
        """Compute the gradient of the last loss with respect to its logits.

        The logits are read again: they must not have changed since the call. The maxima and sums of
        the forward pass are used again where this saves a pass over the logits.

        Parameters
        ----------
        grad_output : scalar or array_like in the shape of the loss, optional
            Derivative of the final objective with respect to this loss, 1 by default.
        out : ndarray, shape and dtype of the gradient, optional
            Where to write the gradient. By default a buffer of this object, which the next
            `backward` for logits of the same shape and dtype overwrites. It may be float32 where the
            gradient has 16 bits.

        Returns
        -------
        ndarray, shape of the logits
            The gradient, in the dtype of the logits (float64 for integers).

        Raises
        ------
        RuntimeError
            If no loss has been computed yet in this thread.
        TypeError, ValueError
            If ``grad_output`` or ``out`` does not fit.
        """
        last = self._last
        call = last.call
        if call is None:
            raise RuntimeError("backward needs a loss first: call the object with logits and target, in this thread")
        is_new = False
        if out is not None:
            grad = call.grad_array(out)
        else:
            is_new = last.grad is None or not call.fits(last.grad)
            if last.grad is None or is_new:
                last.grad = call.grad_array()
            grad = last.grad
        call.backward(grad, grad_output, is_new)
        return grad


_OPTIONS = tuple(CrossEntropyLoss.__init__.__kwdefaults__)  # type: ignore[arg-type]


def _without_z_loss(call: LossCall) -> Any:
    """Return the loss of a call without its z-loss."""
    plain = copy.copy(call)
    plain.z_loss = plain.saved_stats = None
    return plain.solve(None, None)[0]
