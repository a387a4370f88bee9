"""Targets, and the options that scale a sample's loss: what they may be, and what is said if not."""

import math
from typing import Any, Literal, NamedTuple, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from fastce.core.layout import Array, as_array, as_index, as_real, cast_to, without_axis
from fastce.core.one_hot import one_hot_labels

Reduction = Literal["mean", "sum", "none"]

_REDUCTIONS = get_args(Reduction)
_INT64, _FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_LEAST, _MOST = 2e-38, 3e38  # float32 between them is normal and finite


class Target(NamedTuple):
    """A target, read."""

    values: Array  # class indices in the shape of the samples, or class probabilities
    labels: Array | None  # the class indices, contiguous int64, one a sample; None for class probabilities


def read_target(target: Array, logits: Array, axis: int, what: str = "logits") -> Target:
    """Return class indices, those that one-hot integers stand for, or class probabilities; or raise."""
    check_target(target, logits, axis, what)
    if target.ndim < logits.ndim:
        return Target(target, as_labels(target))
    if target.dtype.kind not in "iub":
        return Target(target, None)
    labels = one_hot_labels(target, axis)
    return Target(labels.reshape(without_axis(logits.shape, axis)), labels)


def check_target(target: Array, logits: Array, axis: int, what: str = "logits") -> None:
    """Raise where a target has neither the shape and dtype of class indices nor those of one value a class."""
    expected = without_axis(logits.shape, axis)
    if target.shape == expected and (target.dtype.kind in "iu" or target.size == 0):
        return
    as_real(target, "target")
    if target.shape == expected:
        raise TypeError(f"class indices must be integers, got dtype {target.dtype}; use target.astype(int)")
    if target.shape != logits.shape:
        raise ValueError(_shape_message(target.shape, logits.shape, axis, expected, what))


def _shape_message(
    got: tuple[int, ...], shape: tuple[int, ...], axis: int, expected: tuple[int, ...], what: str
) -> str:
    message = (
        f"target has shape {got}, expected {expected} for class indices or {shape} for one-hot targets and class "
        f"probabilities: {what} have shape {shape}, with the classes along axis {axis}"
    )
    for other in range(len(shape)):
        if other != axis and got == without_axis(shape, other):
            return f"{message}; with axis={other} it would fit"
        if other != axis and got == (*expected[:other], shape[axis], *expected[other:]):
            return f"{message}; np.moveaxis(target, {other}, {axis}) would fit"
    return message + advice(got, expected, axis)


def advice(got: tuple[int, ...], expected: tuple[int, ...], axis: int) -> str:
    """Return what to say of class indices in a shape that is not the expected one, where another would fit."""
    if got == (*expected[:axis], 1, *expected[axis:]):
        return f"; a column of class indices must lose its axis: np.squeeze(target, axis={axis}) would fit"
    if len(got) > 1 and got == expected[::-1]:
        return "; np.transpose(target) would fit"
    sizes, wanted = ([n for n in shape if n != 1] for shape in (got, expected))
    is_flat = 1 in (len(got), len(expected)) and math.prod(got) == math.prod(expected)
    return f"; np.reshape(target, {expected}) would fit" if sizes == wanted or is_flat else ""


def is_labels(target: object) -> TypeGuard[Array]:
    """Tell whether these are class indices that kernels take as they are."""
    return type(target) is np.ndarray and target.dtype is _INT64 and target.ndim == 1 and target.flags.carray


def as_labels(target: Array) -> Array:
    """Return class indices as contiguous int64, one a sample."""
    if target.dtype == np.int64 and target.flags.c_contiguous:
        return target if target.ndim == 1 else target.reshape(-1)
    if target.dtype.kind == "u" and target.dtype.itemsize == 8:
        # no class has such a number: the greatest int64 says the same to the range check
        target = np.minimum(target, np.uint64(_INT64_MAX))
    return np.ascontiguousarray(target, np.int64).reshape(-1)


def raise_label(target: Array, position: int, classes: int, ignore_index: int | None) -> None:
    """Raise IndexError for the label at this flat position; None for ``ignore_index`` where no label is ignored."""
    index = tuple(int(i) for i in np.unravel_index(position, target.shape))
    where = f"target[{', '.join(map(str, index))}]" if index else "target"
    expected = f"a class index from 0 to {classes - 1}" if classes else "no class index, as there are no classes"
    if ignore_index is not None:
        expected += f"{'' if classes else ','} or ignore_index {ignore_index}"
    value = int(target[index])
    if value == ignore_index or 0 <= value < classes:
        raise IndexError(f"{where} was not {expected}; it is {value} since another thread or process has changed it")
    raise IndexError(f"{where} is {value}, expected {expected}")


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless this is a reduction."""
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def check_smoothing(label_smoothing: float) -> float:
    """Return label smoothing as a float, or raise ValueError outside 0 to 1."""
    value = as_number(label_smoothing, "label_smoothing")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing!r}")
    return value


def as_number(value: Any, name: str) -> float:
    """Return a real scalar as a float, or raise TypeError."""
    if type(value) is float:
        return value
    if np.ndim(value):
        raise ValueError(f"{name} must be a scalar here, got an array of shape {np.shape(value)}")
    try:
        if np.iscomplexobj(value) or isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}") from None


def positive(value: Any, name: str) -> float:
    """Return a real scalar greater than 0 as a float, or raise."""
    number = as_number(value, name)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def as_logit_transform(logit_scale: float, softcap: float | None) -> tuple[float, float | None] | None:
    """Return what acts on the logits first, (scale, cap), None for nothing."""
    scale = as_number(logit_scale, "logit_scale")
    if not math.isfinite(scale):
        raise ValueError(f"logit_scale must be finite, got {logit_scale!r}")
    cap = None if softcap is None else positive(softcap, "softcap")
    return None if scale == 1.0 and cap is None else (scale, cap)


def as_ignore_index(ignore_index: Any) -> int:
    """Return ignore_index as an int that labels can be compared with."""
    index = ignore_index if type(ignore_index) is int else as_index(ignore_index, "ignore_index")
    if not _INT64_MIN <= index <= _INT64_MAX:
        raise ValueError(f"ignore_index must fit 64 bits, got {index}")
    return index


def as_weights(values: npt.ArrayLike, shape: tuple[int, ...], name: str, what: str) -> Array:
    """Return weights as contiguous float64 of this shape."""
    array = as_real(values, name)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {what}, got {array.shape}")
    is_ready = array.dtype is _FLOAT64 and array.flags.c_contiguous and array.flags.aligned
    return array if is_ready else cast_to(array, np.float64)


def as_upstream(
    grad_output: npt.ArrayLike | None, reduction: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[float, Array | None]:
    """Return what the gradients of samples of this shape are multiplied by: one factor and, or None, one a sample."""
    if grad_output is None:
        return 1.0, None
    values = as_array(grad_output, "grad_output")
    if reduction == "none" and values.ndim:
        return 1.0, cast_to(as_weights(values, shape, "grad_output", "the loss's"), dtype).reshape(-1)
    return as_number(values if values.ndim else values.item(), "grad_output"), None


def as_loss(value: float, dtype: np.dtype[Any]) -> Any:
    """Return a loss as a scalar of this dtype, rounded as quietly as `cast_to` does."""
    if _LEAST < value < _MOST or value == 0.0 or dtype is _FLOAT64:
        return dtype.type(value)
    with np.errstate(all="ignore"):
        return dtype.type(value)


def mean(total: float, denominator: float) -> float:
    """Divide as IEEE 754 does: nothing to average gives NaN, not an error."""
    if denominator:
        return total / denominator
    return math.nan if total == 0.0 else total * math.inf
