"""Log-sum-exp with weights of any sign, which has no kernel: NumPy on blocks of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.core.elementary import exp, log, log1p
from fastce.core.layout import Array, as_mask, as_real, normalize_axes, rule
from fastce.core.out import check_out
from fastce.core.staging import rows_of, staged


def weighted_logsumexp(
    x: Array,
    axis: int | Sequence[int] | None,
    b: npt.ArrayLike | None,
    keepdims: bool,
    return_sign: bool,
    where: Array | None,
    out: Array | None,
) -> Any:
    """Return what `logsumexp` does with ``b`` or ``return_sign``."""
    mask = None if where is None else as_mask(where, x.shape)
    weights = np.asarray(1.0) if b is None else as_real(b, "b")
    given = x, weights, where
    # Python's numbers leave the dtype alone; NumPy makes float64 of them and bfloat16
    promoted = x.dtype if b is None or type(b) in (bool, int, float) else np.result_type(x, weights)
    try:
        x, weights = np.broadcast_arrays(x, weights)
    except ValueError:
        raise ValueError(f"b must broadcast with x, of shape {x.shape}, got {weights.shape}") from None
    axes = normalize_axes(axis, x.ndim, "x")
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape)) if keepdims else shape
    dtype, result = rule(np.empty(0, promoted))
    if out is not None:
        check_out(out, kept, result, ("x", "b", "where"), given)
    lse, sign = np.full(math.prod(shape), -np.inf, dtype), np.zeros(math.prod(shape), dtype)
    if x.size:
        if mask is not None:
            mask = np.broadcast_to(mask, x.shape)
        for block in staged(axes, dtype, (x, weights), None):
            part = slice(block.start, block.stop)
            logits, w = block.inputs
            if mask is not None:
                np.copyto(w, 0.0, where=~rows_of(mask, axes, block.start, block.stop))
            lse[part], sign[part] = _rows(logits, w)
    if not return_sign:
        lse[sign < 0] = np.nan
    with np.errstate(all="ignore"):  # rounding to 16 bits
        lse_, sign_ = (v.reshape(kept).astype(result, copy=False) for v in (lse, sign))
    if out is not None:
        np.copyto(out, lse_)
        lse_ = out
    else:
        lse_ = lse_[()]
    return (lse_, sign_[()]) if return_sign else lse_


def _rows(x: Array, w: Array) -> tuple[Array, Array]:
    """Return log|sum_j w_j exp(x_j)| and the sum's sign, row by row; ``x`` is overwritten.

    The weights of the greatest elements are kept apart from the sum of the others, as in
    `logsumexp`.
    """
    np.copyto(x, -np.inf, where=w == 0.0)
    top = x.max(axis=1)
    with np.errstate(all="ignore"):
        shift = np.where(np.isfinite(top), top, x.dtype.type(0))
        at_top = x == top[:, np.newaxis]
        main = np.where(at_top & (w != 0.0), w, 0.0).sum(axis=1, dtype=np.float64)
        np.subtract(x, shift[:, np.newaxis], out=x)
        exp(x, out=x)
        np.multiply(x, w, out=x)
        infinite = top == np.inf
        np.copyto(x, 0.0, where=at_top | (w == 0.0))
        rest = x.sum(axis=1, dtype=np.float64)
        total = main + rest
        size = np.where(main == 0.0, log(np.abs(rest)), log(np.abs(main)) + log1p(_ratio(main, rest)))
        lse = np.where(infinite, np.where(main == 0.0, np.nan, np.inf), shift + size)
        nothing = top == -np.inf
        lse = np.where(nothing, -np.inf, lse)
        sign = np.where(infinite, np.sign(main), np.sign(total))
        sign = np.where(nothing, 0.0, sign)
        bad = np.isnan(top)
        return np.where(bad, np.nan, lse).astype(x.dtype), np.where(bad, np.nan, sign).astype(x.dtype)


def _ratio(main: Array, rest: Array) -> Array:
    """Return |main + rest| / |main| - 1 where that is a number."""
    ratio = rest / np.where(main == 0.0, 1.0, main)
    return np.where(ratio < -1.0, -ratio - 2.0, ratio)
