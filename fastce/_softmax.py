"""The softmax family: logsumexp, softmax, log_softmax."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastce._arrays import (
    Array,
    as_real,
    blocks,
    check_out,
    normalize_axis,
    rule,
    without_axis,
)
from fastce.kernels import launch


def logsumexp(x: npt.ArrayLike, axis: int = -1, *, keepdims: bool = False, out: Array | None = None) -> Array:
    r"""Compute the logarithm of the sum of exponentials.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, default -1
        The axis that is summed over.
    keepdims : bool, default False
        Keep that axis with length 1.
    out : ndarray, optional
        Where to write the result; it has the result's shape and dtype.

    Returns
    -------
    ndarray, shape (..., ...)
        In the dtype of ``x`` (float64 for integers), ``out`` where that was given. A scalar
        for one-dimensional ``x``. Rows of nothing but -inf and empty rows give -inf, rows
        with +inf give +inf, rows with NaN give NaN.

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
    x = as_real(x, "x")
    axis = normalize_axis(axis, x.ndim, "x")
    shape = without_axis(x.shape, axis)
    full_shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :]) if keepdims else shape
    if out is not None:
        check_out(out, full_shape, rule(x).result, {"x": x})
    dtype = rule(x).compute
    lse = np.empty(shape, dtype)
    if x.shape[axis] == 0:
        lse.fill(-np.inf)
    elif x.size:
        flat = lse.reshape(-1)
        for block in blocks(axis, dtype, (x,)):
            launch.run_softmax(block.inputs[0], flat[block.start : block.stop], None, None)
        _tell_nan(lse, x, axis)
    lse = lse.reshape(full_shape)
    if out is not None:
        with np.errstate(over="ignore"):
            np.copyto(out, lse, casting="unsafe")
        return out
    with np.errstate(over="ignore"):
        return lse.astype(rule(x).result, copy=False)[()]


def _tell_nan(lse: Array, x: Array, axis: int) -> None:
    """Give NaN to rows with both +inf and NaN; the kernel gives +inf to all that have +inf."""
    infinite = lse == np.inf
    if infinite.any():
        rows = np.moveaxis(x, axis, -1)
        for start in range(0, len(places := np.argwhere(infinite)), 1024):
            index = tuple(places[start : start + 1024].T)
            lse[index] = np.where(np.isnan(rows[index]).any(axis=-1), np.nan, np.inf)


def softmax(x: npt.ArrayLike, axis: int = -1, *, out: Array | None = None) -> Array:
    r"""Compute the softmax.

    .. math:: p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, default -1
        The axis along which the result sums to 1.
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
    return _shaped_like(x, axis, out, logs=False)


def log_softmax(x: npt.ArrayLike, axis: int = -1, *, out: Array | None = None) -> Array:
    r"""Compute the logarithm of the softmax.

    .. math:: \log p_j = x_j - \operatorname{lse}(x)

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    axis : int, default -1
        The axis of the classes.
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
    return _shaped_like(x, axis, out, logs=True)


def _shaped_like(x: npt.ArrayLike, axis: int, out: Array | None, logs: bool) -> Array:
    x = as_real(x, "x")
    axis = normalize_axis(axis, x.ndim, "x")
    if out is None:
        out = np.empty_like(x, rule(x).result, subok=False)
    else:
        check_out(out, x.shape, rule(x).result, {"x": x})
    if x.size:
        for block in blocks(axis, rule(x).compute, (x,), out):
            probs, log_probs = (None, block.out) if logs else (block.out, None)
            launch.run_softmax(block.inputs[0], None, probs, log_probs)
    return out
