"""From the losses of samples to one loss, and from the gradient of that loss back to samples."""

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import FLOAT64, Array, cast_to
from fastce.core.validation import as_array, as_number, as_weights

Reduction = Literal["mean", "sum", "none"]
Reduced = Literal["mean", "sum"]
Scalar = np.floating[Any]
FloatArray = npt.NDArray[np.floating[Any]]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Loss = TypeVar("Loss", covariant=True, default=Scalar)  # makes `LossAndGrad` alone a type; takes a newer Python
else:
    from typing import TypeVar

    Loss = TypeVar("Loss", covariant=True)

_REDUCTIONS = get_args(Reduction)
_LEAST, _MOST = 2e-38, 3e38  # float32 between them is normal and finite


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless this is a reduction."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def as_upstream(
    grad_output: npt.ArrayLike | None, reduction: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[float, Array | None]:
    """Return the upstream gradient of samples of this shape as (scale, upstream).

    ``scale`` is one factor for all samples. ``upstream`` has one factor a sample, flat and of this dtype, or is None.
    A scalar 0 becomes a factor of 0 for each sample: that leaves out its logits, whatever they are.
    """
    if grad_output is None:
        return 1.0, None
    values = as_array(grad_output, "grad_output")
    if reduction == "none" and values.ndim:
        return 1.0, cast_to(as_weights(values, shape, "grad_output", "the loss's"), dtype).reshape(-1)
    scale = as_number(values if values.ndim else values.item(), "grad_output")
    return (scale, None) if scale else (1.0, np.zeros(math.prod(shape), dtype))


def mean(total: float, denominator: float) -> float:
    """Divide as IEEE 754 does: the mean of nothing is NaN, not an error."""
    if denominator:
        return total / denominator
    return math.nan if total == 0.0 else total * math.inf


def as_loss(value: float, dtype: np.dtype[np.floating[Any]], buffer: Array | None = None) -> Scalar:
    """Return a loss as a scalar of this dtype, rounded as quietly as `layout.cast_to` does.

    ``buffer`` is an array of this dtype that may be overwritten. Scalars come faster out of it.
    """
    if buffer is not None and _LEAST < value < _MOST:
        buffer[0] = value
        return buffer[0]  # type: ignore[no-any-return]
    if _LEAST < value < _MOST or value == 0.0 or dtype is FLOAT64:
        return dtype.type(value)
    with np.errstate(all="ignore"):
        return dtype.type(value)


def z_part(lse: Array, z_loss: float | None, weight: Array | None, reduction: str, denominator: float) -> Any:
    """Return the part z lse^2 of a loss, reduced as the loss; samples whose ``lse`` is NaN add nothing."""
    with np.errstate(all="ignore"):  # of extreme log-sum-exps
        terms = np.zeros(lse.shape)
        if z_loss:
            terms = np.nan_to_num(lse.astype(np.float64), nan=0.0) ** 2 * z_loss
        if weight is not None:
            terms = np.where(weight == 0.0, 0.0, terms * weight)
        if reduction == "none":
            return terms.astype(lse.dtype)[()]
        total = float(terms.sum())
        return lse.dtype.type(mean(total, denominator) if reduction == "mean" else total)


def reduce_losses(losses: Array, shape: tuple[int, ...], reduction: str, denominator: float) -> Scalar | FloatArray:
    """Return the loss of samples of this shape, whose losses are flat; a mean divides by ``denominator``."""
    if reduction == "none":
        return losses.reshape(shape)[()]
    total = dispatch.total(losses)
    return as_loss(mean(total, denominator) if reduction == "mean" else total, losses.dtype)
