"""Log-sum-exp with weights of any sign, computed by NumPy on blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.core.elementary import exp, log, log1p
from fastce.core.layout import Array, cast_into, cast_to, dtypes_of
from fastce.core.out import check_out
from fastce.core.staging import rows_of, staged
from fastce.core.validation import as_mask, as_real, as_weights_of, normalize_axes


def weighted_logsumexp(
    x: Array,
    axis: int | Sequence[int] | None,
    b: npt.ArrayLike | None,
    keepdims: bool,
    return_sign: bool,
    where: Array | None,
    out: Array | None,
) -> Array | tuple[Array, Array]:
    """Compute `fastce.logsumexp` with ``b`` or ``return_sign``."""
    mask = None if where is None else as_mask(where, x.shape)
    weights = np.asarray(1.0) if b is None else as_real(b, "b")
    inputs = x, weights, where
    # a Python number leaves the dtype as it is; NumPy would promote bfloat16 to float64
    promoted = x.dtype if b is None or type(b) in (bool, int, float) else _promoted(x.dtype, weights.dtype)
    if type(b) in (int, float):  # others promote the dtype
        as_weights_of(weights, (), "b", "a number", dtypes_of(x).compute)
    try:
        x, weights = _broadcast(x, weights)
    except ValueError:
        raise ValueError(f"b must broadcast with x, of shape {x.shape}, got {weights.shape}") from None
    axes = normalize_axes(axis, x.ndim, "x")
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    result_shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape)) if keepdims else shape
    dtype, result_dtype = dtypes_of(np.empty(0, promoted))
    if out is not None:
        check_out(out, result_shape, result_dtype, ("x", "b", "where"), inputs)
    lse, sign = np.full(math.prod(shape), -np.inf, dtype), np.zeros(math.prod(shape), dtype)
    if x.size:
        if mask is not None:
            mask = np.broadcast_to(mask, x.shape)
        for block in staged(axes, dtype, (x, weights), None):
            part = slice(block.start, block.stop)
            logits, w = block.inputs
            if mask is not None:
                np.copyto(w, 0.0, where=~rows_of(mask, axes, block.start, block.stop))
            lse[part], sign[part] = _weighted_rows(logits, w)
    if not return_sign:
        lse[sign < 0] = np.nan
    lse, sign = lse.reshape(result_shape), sign.reshape(result_shape)
    if out is None:
        result = cast_to(lse, result_dtype)[()]
    else:
        cast_into(out, lse)  # float32, where results have 16 bits, is rounded to once
        result = out
    return (result, cast_to(sign, result_dtype)[()]) if return_sign else result


def _promoted(x: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that NumPy promotes two to; bfloat16, where it knows none, counts as float32."""
    try:
        return np.result_type(x, b)
    except TypeError:  # bfloat16 with integers of 16 bits and more, and with float16
        return np.result_type(np.float32, *(dtype for dtype in (x, b) if dtype.kind in "iu"))


def _broadcast(x: Array, y: Array) -> tuple[Array, Array]:
    """Return views of one shape, as `numpy.broadcast_arrays` does for up to 32 dimensions."""
    ndim = max(x.ndim, y.ndim)
    shapes = ((1,) * (ndim - z.ndim) + z.shape for z in (x, y))
    shape = tuple(n if m == 1 else m for m, n in zip(*shapes, strict=True))
    return np.broadcast_to(x, shape), np.broadcast_to(y, shape)


def _weighted_rows(x: Array, w: Array) -> tuple[Array, Array]:
    """Return (log|sum_j w_j exp(x_j)|, sign of the sum) of each row; ``x`` is overwritten.

    The sum is split in two, as in `fastce.logsumexp`: the weights of the elements at the maximum, and the rest.
    """
    np.copyto(x, -np.inf, where=w == 0.0)
    row_max = x.max(axis=1)
    with np.errstate(all="ignore"):
        shift = np.where(np.isfinite(row_max), row_max, x.dtype.type(0))
        is_max = x == row_max[:, np.newaxis]
        sum_at_max = np.where(is_max & (w != 0.0), w, 0.0).sum(axis=1, dtype=np.float64)
        np.subtract(x, shift[:, np.newaxis], out=x)
        exp(x, out=x)
        np.multiply(x, w, out=x)
        np.copyto(x, 0.0, where=is_max | (w == 0.0))
        sum_rest = x.sum(axis=1, dtype=np.float64)
        log_at_max = log(np.abs(sum_at_max)) + log1p(_relative_growth(sum_at_max, sum_rest))
        lse = shift + np.where(sum_at_max == 0.0, log(np.abs(sum_rest)), log_at_max)
        sign = np.sign(sum_at_max + sum_rest)
        is_inf = row_max == np.inf
        infinite = sum_at_max * np.inf + sum_rest  # NaN where infinities cancel
        lse = np.where(is_inf, np.abs(infinite), lse)
        sign = np.where(is_inf, np.sign(infinite), sign)
        is_empty = row_max == -np.inf
        lse, sign = np.where(is_empty, -np.inf, lse), np.where(is_empty, 0.0, sign)
        has_nan = np.isnan(row_max)
        return np.where(has_nan, np.nan, lse).astype(x.dtype), np.where(has_nan, np.nan, sign).astype(x.dtype)


def _relative_growth(main: Array, rest: Array) -> Array:
    """Return |main + rest| / |main| - 1, or any number where ``main`` is 0."""
    ratio = rest / np.where(main == 0.0, 1.0, main)
    return np.where(ratio < -1.0, -ratio - 2.0, ratio)
