"""The softmax family: log-sum-exp, softmax and log-softmax."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, Unpack, overload

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from fastce import dispatch
from fastce.core.layout import (
    FLOAT32,
    FLOAT64,
    Array,
    cast_into,
    cast_to,
    dtypes_of,
    is_native_matrix,
    kernel_views,
    staging_dtype,
)
from fastce.core.out import check_out, is_native_out
from fastce.core.staging import Block, rows_of, staged
from fastce.core.validation import as_array, as_mask, as_real, normalize_axes, normalize_axis
from fastce.core.weighted_logsumexp import weighted_logsumexp

if TYPE_CHECKING:
    from fastce.api.options import LogsumexpOptions


@overload
def logsumexp(
    x: npt.ArrayLike,
    axis: int | Sequence[int] | None = -1,
    *,
    return_sign: Literal[False] = False,
    **options: Unpack[LogsumexpOptions],
) -> Array: ...
@overload
def logsumexp(
    x: npt.ArrayLike,
    axis: int | Sequence[int] | None = -1,
    *,
    return_sign: Literal[True],
    **options: Unpack[LogsumexpOptions],
) -> tuple[Array, Array]: ...
@overload
def logsumexp(
    x: npt.ArrayLike, axis: int | Sequence[int] | None = -1, *, return_sign: bool, **options: Unpack[LogsumexpOptions]
) -> Array | tuple[Array, Array]: ...
def logsumexp(
    x: npt.ArrayLike,
    axis: int | Sequence[int] | None = -1,
    *,
    b: npt.ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    r"""Compute the logarithm of the sum of exponentials.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    b : array_like, broadcast with ``x``, optional
        Factors of the exponentials, of any sign. Elements with factor 0 are left out.
    keepdims : bool, default False
        Keep the axes of the classes, with length 1.
    return_sign : bool, default False
        Return (logarithm of the magnitude of the sum, its sign). Otherwise a negative sum gives
        NaN.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False are left out.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be float32 where the result has 16 bits.

    Returns
    -------
    lse : ndarray, shape (..., ...)
        In the dtype of ``x`` (float64 for integers), or with an array ``b`` in the dtype to which NumPy
        promotes both; ``out`` if given. A scalar if all axes are summed over. Rows of nothing but -inf
        and empty rows give -inf, rows with +inf give +inf, rows with NaN give NaN.
    sign : ndarray, shape and dtype of ``lse``
        -1, 0, 1 or NaN; only with ``return_sign``.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``x`` is a scalar and ``axis`` is not None, or another argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    See Also
    --------
    softmax, log_softmax

    Notes
    -----
    The exponentials are shifted by the greatest element, whose own exponential is then 1. It is not
    added to the sum of the others. So the result is exact to a few units in the last place even if
    that sum is tiny [1]_.

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
    if b is None and where is None and is_native_matrix(x, axis) and not (keepdims or return_sign):
        if out is None or is_native_out(out, x.dtype, 1):
            lse = np.empty(len(x), x.dtype) if out is None else out
            if dispatch.run_softmax(x, lse, None, None, False, False):  # positional, as in `_softmax`
                return lse
    x = as_real(x, "x")
    where = None if where is None else as_array(where, "where")
    if b is not None or return_sign:
        return weighted_logsumexp(x, axis, b, keepdims, return_sign, where, out)
    dtype, result_dtype = dtypes_of(x)
    joined, joined_axis = _join_axes(x, axis)
    mask = None if where is None else as_mask(where, x.shape)
    shape, result_shape = _reduced_shapes(x, axis, keepdims)
    if out is not None:
        check_out(out, result_shape, result_dtype, ("x", "where"), (x, where))
    lse = out if _is_kernel_vector(out, dtype) else np.empty(shape, dtype)
    if lse.size and not x.size:
        lse.fill(-np.inf)
    elif x.size:
        flat = lse if lse.ndim == 1 else lse.reshape(-1)
        for start, stop, (logits,), _ in _blocks(joined, joined_axis, mask):
            dispatch.run_softmax(logits, lse=flat[start:stop], probs=None, logs=None)
    if lse is out:
        return out
    lse = lse.reshape(result_shape)
    if out is None and result_dtype is dtype:
        return lse[()]
    if out is None:
        return cast_to(lse, result_dtype)[()]
    cast_into(out, lse)
    return out


def _join_axes(x: Array, axis: int | Sequence[int] | None) -> tuple[Array, int | tuple[int, ...]]:
    """Return (view, axis) with one class axis, or ``x`` and all its class axes if no view joins them."""
    if type(axis) is int and x.ndim:
        return x, normalize_axis(axis, x.ndim, "x")
    axes = normalize_axes(axis, x.ndim, "x")
    if len(axes) == 1:
        return x, axes[0]
    lead = x.ndim - len(axes)
    if axes == tuple(range(lead, x.ndim)) and x.flags.c_contiguous and x.size:
        return x.reshape(*x.shape[:lead], -1), lead
    return x, axes


def _reduced_shapes(
    x: Array, axis: int | Sequence[int] | None, keepdims: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (shape without the class axes, shape of the result, which may keep them with length 1)."""
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
    out: Array | None = None,
    masked_result: float = 0.0,
) -> Iterable[tuple[int, int | None, Sequence[Array], Array | None]]:
    """Return kernel-ready blocks (start, stop, inputs, out); masked logits are -inf, and their results are set."""
    dtype = dtypes_of(x).compute
    if mask is None and type(axis) is int:
        views = kernel_views(axis, dtype, (x,), out)  # as `staging.blocks`, which would take a tenth of a small call
        return staged(axis, staging_dtype(dtype, (x,), out), (x,), out) if views is None else ((0, None, *views),)
    return _masked_blocks(x, axis, None if mask is None else mask.reshape(x.shape), out, masked_result)


def _masked_blocks(
    x: Array, axis: int | tuple[int, ...], mask: Array | None, out: Array | None, masked_result: float
) -> Iterator[Block]:
    """Yield staged blocks; see `_blocks`."""
    for block in staged(axis, dtypes_of(x).compute, (x,), out):
        if mask is None:
            yield block
            continue
        is_masked = ~rows_of(mask, axis, block.start, block.stop)
        np.copyto(block.inputs[0], -np.inf, where=is_masked)
        yield block
        if block.out is not None:
            np.copyto(block.out, masked_result, where=is_masked)


def _is_kernel_vector(out: Array | None, dtype: np.dtype[Any]) -> TypeGuard[Array]:
    """Tell whether kernels can write one value a sample to ``out``."""
    return out is not None and out.dtype is dtype and out.flags.carray


def softmax(
    x: npt.ArrayLike,
    axis: int | Sequence[int] | None = -1,
    *,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    r"""Compute the softmax, whose results sum to 1 over the classes.

    .. math:: p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False are left out and give 0, even if there are no others.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be the first argument itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``x``
        In the dtype of ``x`` (float64 for integers); ``out`` if given. Rows of nothing but -inf and
        rows with +inf or NaN give NaN. Results below the smallest normal number may be 0.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``x`` is a scalar and ``axis`` is not None, or another argument has a wrong shape or value.
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
    return _softmax(x, axis, where, out, False)


def log_softmax(
    x: npt.ArrayLike,
    axis: int | Sequence[int] | None = -1,
    *,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    r"""Compute the logarithm of the softmax.

    .. math:: \log p_j = x_j - \operatorname{lse}(x)

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False are left out and give -inf, even if there are no others.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be the first argument itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``x``
        In the dtype of ``x`` (float64 for integers); ``out`` if given. Rows of nothing but -inf and
        rows with +inf or NaN give NaN.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``x`` is a scalar and ``axis`` is not None, or another argument has a wrong shape or value.
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
    return _softmax(x, axis, where, out, True)


def _softmax(
    x: npt.ArrayLike, axis: int | Sequence[int] | None, where: npt.ArrayLike | None, out: Array | None, are_logs: bool
) -> Array:
    """Return the softmax, or its logarithms."""
    out_is_new = out is None
    if (  # as `is_native_matrix` and `is_native_out`, whose calls take a tenth of a small softmax
        where is None
        and type(x) is ndarray
        and ((dtype := x.dtype) is FLOAT32 or dtype is FLOAT64)
        and x.ndim == 2
        and type(axis) is int
        and (axis == -1 or axis == 1)
        and (out is None or (type(out) is ndarray and out.dtype is dtype and out.ndim == 2 and out.flags.writeable))
    ):
        written = np.empty(x.shape, dtype) if out is None else out
        probs, logs = (None, written) if are_logs else (written, None)
        if dispatch.run_softmax(x, None, probs, logs, out_is_new, False):  # positional: keywords take 4 %
            return written
    x = as_real(x, "x")
    joined, joined_axis = _join_axes(x, axis)
    where = None if where is None else as_array(where, "where")
    mask = None if where is None else as_mask(where, x.shape)
    if out is None:
        out = np.empty_like(x, dtypes_of(x).result, subok=False)
    else:
        check_out(out, x.shape, dtypes_of(x).result, ("x", "where"), (x, where))
    joined_out = out
    if joined is not x:
        if out.flags.c_contiguous:
            joined_out = joined if out is x else out.reshape(joined.shape)
        else:
            joined, joined_axis = x, normalize_axes(axis, x.ndim, "x")
    if x.size:
        for _, _, (logits,), result in _blocks(joined, joined_axis, mask, joined_out, -np.inf if are_logs else 0.0):
            probs, logs = (None, result) if are_logs else (result, None)
            dispatch.run_softmax(logits, lse=None, probs=probs, logs=logs, out_is_new=out_is_new)
    return out[()] if out_is_new and not x.ndim else out  # a scalar for a scalar, as in NumPy
