"""The softmax family: logsumexp, softmax, log_softmax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import (
    Array,
    as_array,
    as_mask,
    as_real,
    cast_to,
    copy_to,
    is_matrix,
    normalize_axes,
    normalize_axis,
    rule,
)
from fastce.core.out import check_out, is_apart
from fastce.core.staging import Block, direct, rows_of, staged, staged_bits
from fastce.core.weighted_logsumexp import weighted_logsumexp

Axis = int | Sequence[int] | None


def logsumexp(
    x: npt.ArrayLike,
    axis: Axis = -1,
    *,
    b: npt.ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Any:
    r"""Compute the logarithm of the sum of exponentials.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, tuple of int or None, default -1
        The axes that are summed over, all for None.
    b : array_like, broadcast with ``x``, optional
        What each exponential is multiplied by; it may be negative or 0. Elements with weight
        0 take no part.
    keepdims : bool, default False
        Keep those axes with length 1.
    return_sign : bool, default False
        Return the logarithm of the sum's magnitude, and its sign; without it, a negative sum
        gives NaN.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False take no part.
    out : ndarray, optional
        Where to write the result; it has the result's shape and dtype.

    Returns
    -------
    lse : ndarray, shape (..., ...)
        In the dtype of ``x`` (float64 for integers), or with an array ``b`` in what NumPy promotes
        both to; ``out`` where that was given. A scalar where all axes are summed over. Rows of
        nothing but -inf and empty rows give -inf, rows with +inf give +inf, rows with NaN
        give NaN.
    sign : ndarray, shape and dtype of ``lse``
        -1, 0, 1 or NaN; only with ``return_sign``.

    Raises
    ------
    TypeError
        If ``x`` is not real.
    ValueError
        If ``x`` is a scalar and ``axis`` is not None, or another argument does not fit.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    See Also
    --------
    softmax, log_softmax

    Notes
    -----
    The greatest element's own exponential, 1 after the shift, is kept apart from the sum of
    the others, so that the result is exact to a few units in the last place even where that
    sum is tiny [1]_.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.logsumexp(np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, -np.inf]])).round(5)
    array([   3.40761, 1000.69315])
    """
    if b is None and where is None and is_matrix(x, axis) and x.size and not (keepdims or return_sign):
        lse = np.empty(len(x), x.dtype) if out is None else check_out(out, x.shape[:1], x.dtype, ("x",), (x,))
        if out is None or _serves(out, x.dtype):
            dispatch.run_softmax(x, lse, None, None)
            return lse
    x = as_real(x, "x")
    where = None if where is None else as_array(where, "where")
    if b is not None or return_sign:
        return weighted_logsumexp(x, axis, b, keepdims, return_sign, where, out)
    dtype, result = rule(x)
    x_, axis_ = _arrange(x, axis)
    mask = None if where is None else as_mask(where, x.shape)
    shape, full_shape = _reduced(x, axis, keepdims)
    if out is not None:
        check_out(out, full_shape, result, ("x", "where"), (x, where))
    lse = out if _serves(out, dtype) else np.empty(shape, dtype)
    if lse.size and not x.size:
        lse.fill(-np.inf)
    elif x.size:
        flat = lse if lse.ndim == 1 else lse.reshape(-1)
        for start, stop, (part,), _ in _blocks(x_, axis_, mask, None, 0.0):
            dispatch.run_softmax(part, flat[start:stop], None, None)
    if lse is out:
        return out
    lse = lse.reshape(full_shape)
    if out is None and result is dtype:
        return lse[()]
    if out is None:
        return cast_to(lse, result)[()]
    copy_to(out, lse)
    return out


def _arrange(x: Array, axis: Axis) -> tuple[Array, int | tuple[int, ...]]:
    """Return an array and one axis of it, or several that no view joins."""
    if type(axis) is int and x.ndim:
        return x, normalize_axis(axis, x.ndim, "x")
    axes = normalize_axes(axis, x.ndim, "x")
    if len(axes) == 1:
        return x, axes[0]
    lead = x.ndim - len(axes)
    if axes == tuple(range(lead, x.ndim)) and x.flags.c_contiguous and x.size:
        return x.reshape(*x.shape[:lead], -1), lead
    return x, axes


def _reduced(x: Array, axis: Axis, keepdims: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape without the axes, and with them of length 1 if they are kept."""
    if type(axis) is int:
        axis %= x.ndim
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        return shape, (*x.shape[:axis], 1, *x.shape[axis + 1 :]) if keepdims else shape
    axes = normalize_axes(axis, x.ndim, "x")
    shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
    return shape, tuple(1 if i in axes else n for i, n in enumerate(x.shape)) if keepdims else shape


def _blocks(
    x: Array,
    axis: int | tuple[int, ...],
    mask: Array | None,
    out: Array | None,
    fill: float,
) -> Iterable[tuple[int, int | None, Sequence[Array], Array | None]]:
    """Return kernel-ready blocks, in which masked logits are -inf; results there become ``fill``."""
    dtype = rule(x).compute
    if mask is None and type(axis) is int:
        views = direct(axis, dtype, (x,), out)  # what `blocks` does, without the tenth of a small call that it takes
        return staged_bits(axis, dtype, (x,), out) if views is None else ((0, None, *views),)
    return _masked_blocks(x, axis, None if mask is None else mask.reshape(x.shape), out, fill)


def _masked_blocks(
    x: Array, axis: int | tuple[int, ...], mask: Array | None, out: Array | None, fill: float
) -> Iterator[Block]:
    for block in staged(axis, rule(x).compute, (x,), out):
        if mask is None:
            yield block
            continue
        others = ~rows_of(mask, axis, block.start, block.stop)
        np.copyto(block.inputs[0], -np.inf, where=others)
        yield block
        if block.out is not None:
            np.copyto(block.out, fill, where=others)


def _serves(out: Array | None, dtype: np.dtype[Any]) -> TypeGuard[Array]:
    """Tell whether kernels can write to ``out`` themselves."""
    return out is not None and out.dtype is dtype and out.flags.carray


def softmax(
    x: npt.ArrayLike, axis: Axis = -1, *, where: npt.ArrayLike | None = None, out: Array | None = None
) -> Array:
    r"""Compute the softmax.

    .. math:: p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, tuple of int or None, default -1
        The axes along which the result sums to 1, all for None.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False take no part and give 0, even where there are no others.
    out : ndarray, optional
        Where to write the result; it has the result's shape and dtype and may be ``x``.

    Returns
    -------
    ndarray, shape of ``x``
        In the dtype of ``x`` (float64 for integers), ``out`` where that was given. Rows of
        nothing but -inf and rows with +inf or NaN give NaN. Results below the smallest
        normal number may be 0.

    Raises
    ------
    TypeError
        If ``x`` is not real.
    ValueError
        If ``x`` is a scalar or ``out`` does not fit.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    See Also
    --------
    log_softmax, logsumexp

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.softmax([1, 2, 3]).round(8)
    array([0.09003057, 0.24472847, 0.66524096])
    """
    return _shaped_like(x, axis, where, out, logs=False)


def log_softmax(
    x: npt.ArrayLike, axis: Axis = -1, *, where: npt.ArrayLike | None = None, out: Array | None = None
) -> Array:
    r"""Compute the logarithm of the softmax.

    .. math:: \log p_j = x_j - \operatorname{lse}(x)

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all for None.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False take no part and give -inf, even where there are no others.
    out : ndarray, optional
        Where to write the result; it has the result's shape and dtype and may be ``x``.

    Returns
    -------
    ndarray, shape of ``x``
        In the dtype of ``x`` (float64 for integers), ``out`` where that was given. Rows of
        nothing but -inf and rows with +inf or NaN give NaN.

    Raises
    ------
    TypeError
        If ``x`` is not real.
    ValueError
        If ``x`` is a scalar or ``out`` does not fit.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    See Also
    --------
    softmax, logsumexp

    Examples
    --------
    A confident row keeps its digits:

    >>> import numpy as np, fastce
    >>> fastce.log_softmax(np.array([40.0, 0.0]))
    array([-4.24835426e-18, -4.00000000e+01])
    """
    return _shaped_like(x, axis, where, out, logs=True)


def _shaped_like(x: npt.ArrayLike, axis: Axis, where: npt.ArrayLike | None, out: Array | None, logs: bool) -> Array:
    out_is_new = out is None
    if where is None and is_matrix(x, axis) and x.size and (out is None or is_apart(out, x.shape, x.dtype, (x,))):
        if out is None:
            out = np.empty(x.shape, x.dtype)
        if logs:
            dispatch.run_softmax(x, None, None, out, out_is_new)
        else:
            dispatch.run_softmax(x, None, out, None, out_is_new)
        return out
    x = as_real(x, "x")
    x_, axis_ = _arrange(x, axis)
    where = None if where is None else as_array(where, "where")
    mask = None if where is None else as_mask(where, x.shape)
    if out is None:
        out = np.empty_like(x, rule(x).result, subok=False)
    else:
        check_out(out, x.shape, rule(x).result, ("x", "where"), (x, where))
    goal = out
    if x_ is not x:
        if out.flags.c_contiguous:
            goal = x_ if out is x else out.reshape(x_.shape)
        else:
            x_, axis_ = x, normalize_axes(axis, x.ndim, "x")
    if x.size:
        for _, _, (part,), result in _blocks(x_, axis_, mask, goal, -np.inf if logs else 0.0):
            if logs:
                dispatch.run_softmax(part, None, None, result, out_is_new)
            else:
                dispatch.run_softmax(part, None, result, None, out_is_new)
    return out[()] if out_is_new and not x.ndim else out  # a scalar for a scalar, as in NumPy
