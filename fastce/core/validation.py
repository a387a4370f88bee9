"""Checks of arguments, with their messages: arrays, numbers, axes, and the options of losses.

Each ``as_…`` function returns its argument in the form that the code below works with, or raises.
"""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.core.hints import dtype_hint
from fastce.core.layout import FLOAT32, FLOAT64, Array, cast_to, dtypes_from

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# The ignore_index of calls that ignore no label; `targets.check_none_ignored` refuses that label.
IGNORE_NONE = INT64_MIN


# --- arrays ---------------------------------------------------------------------


def as_array(values: npt.ArrayLike, name: str) -> Array:
    """Return an array; raise TypeError for a masked one, whose mask would be lost, and ValueError for ragged lists."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it or drop what is masked")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must be an array, or lists of equal lengths: {error}") from None


def as_real(values: npt.ArrayLike, name: str) -> Array:
    """Return an array of real numbers of a dtype that fastce computes with."""
    if type(values) is np.ndarray and (values.dtype is FLOAT32 or values.dtype is FLOAT64):
        return values
    array = as_array(values, name)
    if dtypes_from(array.dtype) is None:
        if array.dtype.kind == "O" and (position := beyond_64_bits(array)) is not None:
            raise ValueError(f"{name} must hold numbers of at most 64 bits, got {shown(array.reshape(-1)[position])}")
        raise TypeError(
            f"{name} must hold real numbers (float16, bfloat16, float32, float64, integers or booleans), "
            f"got dtype {array.dtype}{dtype_hint(values, array, name)}"
        )
    return array


def beyond_64_bits(array: Array) -> int | None:
    """Return the flat position of the first integer that no NumPy integer holds, None if there is none."""
    flat = enumerate(array.reshape(-1).tolist())
    return next((i for i, value in flat if type(value) is int and not INT64_MIN <= value < 2**64), None)


def as_mask(where: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """Return ``where`` as a boolean view of this shape."""
    mask = as_array(where, "where")
    if mask.dtype != np.bool_:
        raise TypeError(f"where must be boolean, got dtype {mask.dtype}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        raise ValueError(f"where must broadcast to the shape {shape}, got {mask.shape}") from None


def as_weights(values: npt.ArrayLike, shape: tuple[int, ...], name: str, per: str) -> Array:
    """Return weights as contiguous float64 of this shape; ``per`` says in the message to whom they belong."""
    array = as_real(values, name)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {per}, got {array.shape}")
    is_ready = array.dtype is FLOAT64 and array.flags.c_contiguous and array.flags.aligned
    return array if is_ready else cast_to(array, np.float64)


def as_weights_of(values: npt.ArrayLike, shape: tuple[int, ...], name: str, per: str, dtype: np.dtype[Any]) -> Array:
    """Return a copy of weights in this dtype and shape; raise ValueError for one that its range does not hold.

    Subnormal numbers are in the range; 0, infinity and NaN stay what they are.
    """
    weights = as_weights(values, shape, name, per)
    if dtype is FLOAT64:
        return weights.copy()
    try:
        with np.errstate(over="raise", under="raise", invalid="ignore"):
            return weights.astype(dtype, order="C")
    except FloatingPointError:  # some are subnormal, or out of range
        cast = cast_to(weights, dtype)
    _check_kept(weights, cast, name)
    return cast


def check_weights(weights: Array, name: str, dtype: np.dtype[Any]) -> None:
    """Raise ValueError for a weight that the range of this dtype does not hold.

    In blocks: of elements, there may be as many weights as logits.
    """
    if weights.dtype.kind != "f" or weights.dtype.itemsize <= dtype.itemsize or not weights.size:
        return
    if weights.min() > 1e-30 and weights.max() < 1e30:  # in the range of every dtype
        return
    flags = ["external_loop", "buffered"]
    start = 0
    with np.errstate(all="ignore"):
        for block in np.nditer(weights, flags, op_dtypes=[FLOAT64], order="C"):  # type: ignore[call-overload]
            _check_kept(block, block.astype(dtype), name, start, weights.shape)
            start += block.size


def _check_kept(weights: Array, cast: Array, name: str, start: int = 0, shape: tuple[int, ...] | None = None) -> None:
    """Raise ValueError for a weight that a cast has made 0 or infinite.

    ``weights`` are part of an array of the given shape, from its flat position ``start``; by default all of it.
    """
    is_lost = ((cast == 0.0) & (weights != 0.0)) | (np.isinf(cast) & np.isfinite(weights))
    if is_lost.any():
        position = int(np.flatnonzero(is_lost)[0])
        index = np.unravel_index(start + position, weights.shape if shape is None else shape)
        element = f"{name}[{', '.join(str(int(i)) for i in index)}]" if index else name
        value = float(weights.flat[position])
        raise ValueError(f"{element} must be 0 or within the range of {_range(cast.dtype)}, got {value!r}")


def _range(dtype: np.dtype[Any], least: float | None = None, most: float | None = None) -> str:
    """Return a dtype and its range in words, from the smallest subnormal to the greatest number unless given."""
    info = np.finfo(dtype)
    least = float(info.smallest_subnormal) if least is None else least
    most = float(info.max) if most is None else most
    return f"{dtype}, {least:.3g} to {most:.3g} in size"


def as_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a dtype; the name "bfloat16" is known too if ml_dtypes is installed."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    return np.dtype(dtype)


# --- axes -----------------------------------------------------------------------


def normalize_axis(axis: int, ndim: int, name: str) -> int:
    """Return the class axis counted from the front, or raise AxisError."""
    if ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, the classes; got a scalar")
    index = axis if type(axis) is int else as_index(axis, "axis")
    if not -ndim <= index < ndim:
        if index.bit_length() > 64:  # whose digits Python may refuse to print
            raise np.exceptions.AxisError(f"axis {shown(index)} is out of bounds for array of dimension {ndim}")
        raise np.exceptions.AxisError(index, ndim)
    return index % ndim


def normalize_axes(axis: int | Sequence[int] | None, ndim: int, name: str) -> tuple[int, ...]:
    """Return the class axes counted from the front, all for None, or raise AxisError or ValueError."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, Sequence):
        return (normalize_axis(axis, ndim, name),)
    axes = tuple(normalize_axis(i, ndim, name) for i in axis)
    if len(set(axes)) != len(axes):
        raise ValueError(f"axis must not name an axis twice, got {tuple(axis)}")
    return axes


# --- numbers --------------------------------------------------------------------


def as_index(value: Any, name: str) -> int:
    """Return an integer option as an int."""
    try:
        return int(operator.index(value))  # operator.index alone returns True for True
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def as_integers(values: int | Iterable[int], name: str, least: int) -> tuple[int, ...]:
    """Return one integer or several, none of them below ``least``."""
    try:
        integers = tuple(int(operator.index(v)) for v in (values if isinstance(values, Iterable) else (values,)))
    except TypeError:
        raise TypeError(f"{name} must be an integer or several, such as (65536, 10), got {values!r}") from None
    if min(integers, default=least) < least:
        raise ValueError(f"{name} must be at least {least}, got {shown(min(integers))}")
    if max(integers, default=least) > INT64_MAX:
        raise ValueError(f"{name} must fit 64 bits, got {shown(max(integers))}")
    return integers


def shown(value: Any) -> str:
    """Return a value as messages show it: a huge integer by its size, as Python may refuse its digits."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def as_number(value: Any, name: str) -> float:
    """Return a real scalar as a float."""
    if type(value) is float:
        return value
    if np.ndim(value):
        raise ValueError(f"{name} must be a scalar here, got an array of shape {np.shape(value)}")
    try:
        if np.iscomplexobj(value) or isinstance(value, str | bytes):
            raise TypeError
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be in the range of float64, got a larger {type(value).__name__}") from None
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}") from None


def as_flag(value: Any, name: str) -> bool:
    """Return True or False, NumPy's too; TypeError for all else, whose truth may not be what was meant."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def as_positive(value: Any, name: str) -> float:
    """Return a real scalar as a float that is greater than 0 and finite."""
    number = as_number(value, name)
    if not 0.0 < number < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return number


def check_range(value: float, name: str, dtype: np.dtype[Any]) -> float:
    """Return an option, or raise ValueError unless it is 0 or its size is normal in this dtype.

    Half the greatest number is the limit, so that twice the option is in the range too.
    """
    if value == 0.0 or 1e-30 < abs(value) < 1e30:  # in the range of every dtype
        return value
    info = np.finfo(dtype)
    least, most = float(info.tiny), float(info.max) / 2.0
    if least <= abs(value) <= most:
        return value
    zero = "" if name == "softcap" else "0 or "
    raise ValueError(f"{name} must be {zero}within the range of {_range(dtype, least, most)}, got {value!r}")


# --- options of losses ----------------------------------------------------------


def as_ignore_index(ignore_index: Any) -> int:
    """Return ``ignore_index`` as an int that can be compared with labels: `IGNORE_NONE` for None."""
    if ignore_index is None:
        return IGNORE_NONE
    index = ignore_index if type(ignore_index) is int else as_index(ignore_index, "ignore_index")
    if not INT64_MIN <= index <= INT64_MAX:
        raise ValueError(f"ignore_index must fit 64 bits, got {shown(index)}")
    return index


def as_smoothing(label_smoothing: float) -> float:
    """Return ``label_smoothing`` as a float from 0 to 1."""
    value = as_number(label_smoothing, "label_smoothing")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing!r}")
    return value


def as_gamma(gamma: float, dtype: np.dtype[Any]) -> float:
    """Return the exponent of a focal loss as a float that is finite and not negative."""
    value = as_number(gamma, "gamma")
    if not 0.0 <= value < math.inf:
        raise ValueError(f"gamma must be finite and at least 0, got {gamma!r}")
    return check_range(value, "gamma", dtype)


def as_z_loss(z_loss: float, dtype: np.dtype[Any]) -> float | None:
    """Return ``z_loss`` as a float, None for 0."""
    value = as_number(z_loss, "z_loss")
    return check_range(value, "z_loss", dtype) or None


def as_normalizer(normalizer: float, reduction: str, dtype: np.dtype[Any] = FLOAT64) -> float:
    """Return ``normalizer`` as a float that is finite and not negative; it belongs to means."""
    value = as_number(normalizer, "normalizer")
    if reduction != "mean":
        raise ValueError(
            f"normalizer must be None with reduction={reduction!r}, got {normalizer!r}: "
            "it is the divisor of reduction='mean'"
        )
    if not 0.0 <= value < math.inf:
        raise ValueError(f"normalizer must be positive and finite, or 0 where nothing counts, got {normalizer!r}")
    return check_range(value, "normalizer", dtype)


def as_logit_transform(
    logit_scale: float, softcap: float | None, dtype: np.dtype[Any] = FLOAT64
) -> tuple[float, float | None] | None:
    """Return (scale, cap), which act on the logits before anything else; None if they change nothing."""
    scale = as_number(logit_scale, "logit_scale")
    if not math.isfinite(scale):
        raise ValueError(f"logit_scale must be finite, got {logit_scale!r}")
    check_range(scale, "logit_scale", dtype)
    cap = None
    if softcap is not None:
        cap = check_range(as_positive(softcap, "softcap"), "softcap", dtype)
        ratio = max(abs(scale / cap), math.ulp(0.0)) if scale else 0.0  # not 0 where it underflows
        check_range(ratio, "logit_scale / softcap", dtype)
    return None if scale == 1.0 and cap is None else (scale, cap)
