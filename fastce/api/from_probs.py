"""Cross-entropy from probabilities, for models that end in their own softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.elementary import dots, log
from fastce.core.layout import Array, dtypes_of, epsilon
from fastce.core.loss import LossCall
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.core.staging import Block, staged
from fastce.core.validation import as_array, as_real

if TYPE_CHECKING:
    from fastce.api.options import FromProbsGradOptions, FromProbsOptions


@overload
def cross_entropy_from_probs(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[FromProbsOptions]
) -> Scalar: ...
@overload
def cross_entropy_from_probs(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[FromProbsOptions]
) -> FloatArray: ...
@overload
def cross_entropy_from_probs(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[FromProbsOptions]
) -> Scalar | FloatArray: ...
def cross_entropy_from_probs(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Scalar | FloatArray:
    r"""Compute the cross-entropy between predicted probabilities and a target.

    With t and u of `cross_entropy` and the smallest normal number :math:`\tau` of float64 for float64
    and integer probabilities, else of float32,

    .. math:: \ell_i = -u_i \sum_j t_{ij} \log \max(p_{ij}, \tau)

    Prefer `cross_entropy` if you have the logits: probabilities near 0 and 1 have lost digits.

    Parameters
    ----------
    probs : array_like, shape (..., C, ...)
        Probabilities p. Each one that is read has to be from 0 to 1, within four times the machine
        epsilon of the dtype. For class indices without smoothing, only the probability at the label
        is read, else all of a sample. Sums are not checked.
    target : array_like
        Class indices, one-hot or not, or class probabilities, as in `cross_entropy`.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class.
    sample_weight : array_like, shape of ``probs`` without the class axis, optional
        One weight per sample. A sample of weight 0 is left out, whatever NaN or infinity it holds.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `cross_entropy`.

    Returns
    -------
    scalar, or ndarray in the shape of ``probs`` without the class axis for "none"
        float64 for float64 and integer probabilities, else float32. A probability of 0 at
        the target costs about 87.3 in float32 and 708.4 in float64.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`. ValueError also if a probability that is read is NaN, negative or greater
        than 1, unless its sample is ignored or has weight 0. ValueError also for arguments in
        Keras's order, with a one-hot target first.

    Examples
    --------
    >>> import fastce
    >>> fastce.cross_entropy_from_probs([[0.7, 0.2, 0.1]], [0]).round(8)
    np.float64(0.35667494)
    """
    call = _FromProbsCall().bind(
        probs,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    return call.solve(None, None)[0]


@overload
def cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[FromProbsGradOptions]
) -> LossAndGrad[Scalar]: ...
@overload
def cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[FromProbsGradOptions]
) -> LossAndGrad[FloatArray]: ...
@overload
def cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike, target: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[FromProbsGradOptions]
) -> LossAndGrad[Scalar | FloatArray]: ...
def cross_entropy_from_probs_and_grad(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the cross-entropy from probabilities and its gradient with respect to them.

    .. math:: \frac{\partial}{\partial p_{ij}} = -\frac{g_i u_i}{D} \frac{t_{ij}}{\max(p_{ij}, \tau)}

    in the notation of `cross_entropy_and_grad` and `cross_entropy_from_probs`. Below :math:`\tau`
    the loss is constant; the gradient is the one at :math:`\tau`, which points the right way.

    Parameters
    ----------
    probs, target, axis, weight, sample_weight, ignore_index, label_smoothing, reduction
        As in `cross_entropy_from_probs`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `cross_entropy_from_probs`, the gradient in
        the shape and dtype of ``probs`` (float64 for integers). Ignored samples have gradient 0.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `cross_entropy`, before anything is written.

    Examples
    --------
    >>> import fastce
    >>> loss, grad = fastce.cross_entropy_from_probs_and_grad([[0.7, 0.2, 0.1]], [0])
    >>> grad.round(4)
    array([[-1.4286,  0.    ,  0.    ]])
    """
    call = _FromProbsCall().bind(
        probs,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )
    grad = call.grad_array(out)
    return LossAndGrad(call.solve(grad, grad_output, out is None)[0], grad)


MAX_INDEXED = 63  # dimensions of an array that NumPy takes elements from by indices along each axis
_ORDER = "the order is (probs, target), where Keras has (target, probs)"
_SUM_TOLERANCE = 1e-2  # of a target that looks like predictions: theirs may be in 16 bits


class _FromProbsCall(LossCall):
    """Cross-entropy from probabilities, computed by NumPy.

    A kernel would save nothing: class indices need one probability a sample, and all other work is memory traffic,
    which NumPy does at full speed.
    """

    input_name = "probs"

    def _arrange(self, logits: npt.ArrayLike, target: npt.ArrayLike, axis: int) -> Array:
        """Check the arrays as `LossCall` does; say so where they come in Keras's order."""
        probs, target_array = as_real(logits, "probs"), as_array(target, "target")
        try:
            return super()._arrange(probs, target_array, axis)
        except ValueError as error:
            if target_array.ndim == probs.ndim + 1:
                raise ValueError(f"{error}; {_ORDER}") from None
            raise

    def _fill(
        self,
        loss: Array | None,
        grad: Array | None,
        scale: float,
        upstream: Array | None,
        out_is_new: bool = False,
    ) -> tuple[float, float]:
        assert loss is not None
        self._own_labels()
        scale, total_weight = self._divided(scale)
        if self.logits.size:
            with np.errstate(all="ignore"):  # as in kernels: 0 / 0 where weights add up to 0, for one
                self._fill_blocks(loss, grad, scale, upstream, out_is_new)
        else:
            loss.fill(0.0)
        return dispatch.total(loss), total_weight

    def _fill_blocks(
        self, loss: Array, grad: Array | None, scale: float, upstream: Array | None, out_is_new: bool
    ) -> None:
        """Write losses and gradient, a block of rows at a time."""
        weight = np.ones_like(loss) if self.sample_weight is None else self.sample_weight
        counts = self._counts()
        grad_scale = weight * self.dtype.type(scale)
        if upstream is not None:
            grad_scale = np.where(upstream == 0.0, 0.0, grad_scale * upstream)
        grad_scale[~counts] = 0.0
        if self.labels is not None and self.smoothing is None:
            self._fill_at_labels(loss, grad, counts, weight, grad_scale)
            return
        self._check_order(counts)
        if grad is None or out_is_new:
            self._fill_classes(loss, grad, counts, weight, grad_scale)
        else:  # the caller's array is written to once all is checked
            self._fill_classes(loss, None, counts, weight, grad_scale)
            self._fill_classes(None, grad, counts, weight, grad_scale)

    def _fill_classes(
        self, loss: Array | None, grad: Array | None, counts: Array, weight: Array, grad_scale: Array
    ) -> None:
        """Handle targets with a share for each class; write losses and gradient where arrays for them are given."""
        inputs = [self.logits] if self.labels is not None else [self.logits, self.target]
        for block in staged(self.axis, self.dtype, inputs, grad):
            part = slice(block.start, block.stop)
            probs, targets = self._checked(block, counts), self._target_probs(block)
            if loss is not None:
                loss[part] = np.where(counts[part], weight[part] * -dots(targets, log(probs)), 0.0)
            if block.out is not None:
                np.divide(targets, probs, out=block.out)
                np.multiply(block.out, -grad_scale[part, None], out=block.out)
                block.out[grad_scale[part] == 0.0] = 0.0

    def _checked(self, block: Block, counts: Array) -> Array:
        """Return the probabilities of a block, at least tau; raise for one that is read and is none.

        Those of samples that do not count and of classes of weight 0 are not read: they become 1.
        """
        probs = block.inputs[0]
        probs[~counts[block.start : block.stop]] = 1.0
        if self.weight is not None:
            probs[:, self.weight == 0.0] = 1.0
        if not (probs.min() >= 0.0 and probs.max() <= self._most()):
            row, label = (int(i) for i in np.argwhere(~((probs >= 0.0) & (probs <= self._most())))[0])
            self._raise_probability(block.start + row, label, probs[row, label])
        np.maximum(probs, np.finfo(self.dtype).tiny, out=probs)
        return probs

    def _most(self) -> float:
        """Return the greatest number that is taken as a probability: 1 and four times the epsilon of the dtype."""
        return 1.0 + 4.0 * epsilon(dtypes_of(self.logits).result)

    def _raise_probability(self, sample: int, label: int, value: Any) -> None:
        index = [str(int(i)) for i in np.unravel_index(sample, self.shape)]
        index.insert(self.axis, str(label))
        raise ValueError(f"probs[{', '.join(index)}] is {float(value)!r}, expected a probability from 0 to 1; {_ORDER}")

    def _check_order(self, counts: Array) -> None:
        """Raise ValueError where ``probs`` is one-hot and the target is not: they came in Keras's order.

        One sample of floats may be a prediction that has rounded to 0 and 1; integers, or two samples, are not.
        """
        count = np.count_nonzero(counts)
        if self.labels is not None or count < (1 if self.logits.dtype.kind in "iub" else 2):
            return
        for block in staged(self.axis, self.dtype, (self.logits, self.target), None):
            probs, target = (x[counts[block.start : block.stop]] for x in block.inputs)
            is_one_hot = (np.count_nonzero(probs, axis=1) == 1) & (probs.max(axis=1, initial=0.0) == 1.0)
            if not is_one_hot.all() or np.any(target.max(axis=1, initial=0.0) >= 1.0):
                return
            if np.any(np.abs(target.sum(axis=1) - 1.0) > _SUM_TOLERANCE):
                return
        raise ValueError(
            "probs must hold predicted probabilities, got one-hot samples alone and a target that is not one-hot; "
            f"{_ORDER}; predictions that have rounded to 0 and 1 can be clipped: np.clip(probs, 1e-7, 1)"
        )

    def _fill_at_labels(self, loss: Array, grad: Array | None, counts: Array, weight: Array, grad_scale: Array) -> None:
        """Handle class indices without smoothing: one probability a sample."""
        labels = self.labels
        assert labels is not None
        if self.logits.ndim > MAX_INDEXED:
            raise ValueError(
                f"probs must have at most {MAX_INDEXED} dimensions for class indices, got {self.logits.ndim}"
            )
        is_all_kept = counts.all()
        safe_labels = labels if is_all_kept else np.where(counts, labels, 0)
        label_weight = np.ones_like(loss) if self.weight is None else self.weight[safe_labels]
        index = np.expand_dims(safe_labels.reshape(self.shape), self.axis)
        at_label = np.take_along_axis(self.logits, index, self.axis).reshape(-1).astype(self.dtype)
        if not (at_label.min() >= 0.0 and at_label.max() <= self._most()):
            is_wrong = counts & ~((at_label >= 0.0) & (at_label <= self._most()))
            if is_wrong.any():
                sample = int(np.argmax(is_wrong))
                self._raise_probability(sample, int(safe_labels[sample]), at_label[sample])
        at_label = np.maximum(at_label, np.finfo(self.dtype).tiny)
        np.multiply(-weight * label_weight, log(at_label), out=loss)
        if not is_all_kept:
            loss[~counts] = 0.0
        if grad is not None:
            values = -grad_scale * label_weight / at_label
            values[grad_scale == 0.0] = 0.0
            grad.fill(0.0)
            np.put_along_axis(grad, index, values.reshape(index.shape).astype(grad.dtype), self.axis)

    def _target_probs(self, block: Block) -> Array:
        """Return the target as probabilities after smoothing and class weights."""
        keep, uniform_mass, _ = self.smoothing or (1.0, 0.0, 0.0)
        if self.labels is None:
            targets: Array = block.inputs[1]
            if self.smoothing is not None:
                targets *= self.dtype.type(keep)
                targets += self.dtype.type(uniform_mass)
        else:
            labels = self.labels[block.start : block.stop]
            valid = labels != self.ignore_index
            targets = np.full_like(block.inputs[0], uniform_mass)
            targets[valid, labels[valid]] += self.dtype.type(keep)
        if self.weight is None:
            return targets
        return np.where(self.weight == 0.0, self.dtype.type(0), targets * self.weight)
