"""Vector-Jacobian products of the softmax family, for those who write backward passes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastce._arrays import (
    Array,
    as_real,
    blocks,
    is_apart,
    is_matrix,
    normalize_axis,
    result_like,
    rule,
    without_axis,
)
from fastce.kernels import launch


def logsumexp_vjp(
    g: npt.ArrayLike, x: npt.ArrayLike, lse: npt.ArrayLike, axis: int = -1, *, out: Array | None = None
) -> Array:
    r"""Propagate a gradient back through `logsumexp`.

    .. math:: \bar x_j = g\, e^{x_j - \operatorname{lse}(x)}

    Parameters
    ----------
    g : array_like, shape of ``x`` without the axis, or with length 1 there
        The gradient with respect to the result.
    x : array_like, shape (..., C, ...)
        The argument.
    lse : array_like, shape of ``g``
        The result, ``logsumexp(x, axis)``.
    axis : int, default -1
        The axis that was summed over.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result; it may be ``x``.

    Returns
    -------
    ndarray, shape of ``x``
        The gradient with respect to ``x``, in its dtype (float64 for integers).

    Raises
    ------
    TypeError
        If an argument is not real.
    ValueError
        If a shape or ``out`` does not fit.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    Examples
    --------
    >>> import fastce
    >>> x = [[1.0, 2.0, 3.0]]
    >>> fastce.logsumexp_vjp([1.0], x, fastce.logsumexp(x)).round(4)
    array([[0.09  , 0.2447, 0.6652]])
    """
    x = as_real(x, "x")
    axis = normalize_axis(axis, x.ndim, "x")
    given = {"g": as_real(g, "g"), "x": x, "lse": as_real(lse, "lse")}
    result = _result(x, out, given)
    dtype = rule(x).compute
    per_sample = [_flat(given[name], name, x.shape, axis).astype(dtype) for name in ("g", "lse")]
    if x.size:
        for block in blocks(axis, dtype, (x,), result):
            parts = [values[block.start : block.stop] for values in per_sample]
            launch.run_vjp(launch.LOGSUMEXP_VJP, block.inputs[0], *parts, block.out, fresh=out is None)
    return result


def softmax_vjp(g: npt.ArrayLike, p: npt.ArrayLike, axis: int = -1, *, out: Array | None = None) -> Array:
    r"""Propagate a gradient back through `softmax`.

    .. math:: \bar x_j = p_j \left(g_j - \sum_k g_k p_k\right)

    Parameters
    ----------
    g : array_like, shape of ``p``
        The gradient with respect to the result.
    p : array_like, shape (..., C, ...)
        The result, ``softmax(x, axis)``.
    axis : int, default -1
        The axis along which it sums to 1.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result; it may be ``p`` or ``g``.

    Returns
    -------
    ndarray, shape of ``p``
        The gradient with respect to the argument, in the dtype of ``p`` (float64 for integers).

    Raises
    ------
    TypeError
        If an argument is not real.
    ValueError
        If a shape or ``out`` does not fit.
    numpy.exceptions.AxisError
        If ``p`` has no such axis.

    Examples
    --------
    >>> import fastce
    >>> fastce.softmax_vjp([1.0, 0.0, 0.0], fastce.softmax([1.0, 2.0, 3.0])).round(4)
    array([ 0.0819, -0.022 , -0.0599])
    """
    return _like_result(g, p, "p", axis, out, launch.SOFTMAX_VJP)


def log_softmax_vjp(g: npt.ArrayLike, logp: npt.ArrayLike, axis: int = -1, *, out: Array | None = None) -> Array:
    r"""Propagate a gradient back through `log_softmax`.

    .. math:: \bar x_j = g_j - e^{l_j} \sum_k g_k

    Parameters
    ----------
    g : array_like, shape of ``logp``
        The gradient with respect to the result.
    logp : array_like, shape (..., C, ...)
        The result l, ``log_softmax(x, axis)``.
    axis : int, default -1
        The axis of the classes.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result; it may be ``logp`` or ``g``.

    Returns
    -------
    ndarray, shape of ``logp``
        The gradient with respect to the argument, in the dtype of ``logp`` (float64 for
        integers).

    Raises
    ------
    TypeError
        If an argument is not real.
    ValueError
        If a shape or ``out`` does not fit.
    numpy.exceptions.AxisError
        If ``logp`` has no such axis.

    Examples
    --------
    >>> import fastce
    >>> fastce.log_softmax_vjp([1.0, 0.0, 0.0], fastce.log_softmax([1.0, 2.0, 3.0])).round(4)
    array([ 0.91  , -0.2447, -0.6652])
    """
    return _like_result(g, logp, "logp", axis, out, launch.LOG_SOFTMAX_VJP)


def _like_result(g: npt.ArrayLike, y: npt.ArrayLike, name: str, axis: int, out: Array | None, op: launch.Vjp) -> Array:
    fresh = out is None
    if (
        (is_matrix(y, axis) and is_matrix(g, axis))
        and (g.dtype is y.dtype and g.shape == y.shape and y.size)
        and (out is None or is_apart(out, y.shape, y.dtype, (g, y)))
    ):
        if out is None:
            out = np.empty(y.shape, y.dtype)
        launch.run_vjp(op, y, g, out, fresh=fresh)
        return out
    y = as_real(y, name)
    g = as_real(g, "g")
    axis = normalize_axis(axis, y.ndim, name)
    if g.shape != y.shape:
        raise ValueError(f"g must have the shape of {name}, {y.shape}, got {g.shape}")
    result = _result(y, out, {"g": g, name: y})
    if y.size:
        for block in blocks(axis, rule(y).compute, (y, g), result):
            launch.run_vjp(op, *block.inputs, block.out, fresh=fresh)
    return result


def _result(x: Array, out: Array | None, given: dict[str, Array]) -> Array:
    return result_like(x, out, tuple(given), tuple(given.values()))


def _flat(values: Array, name: str, shape: tuple[int, ...], axis: int) -> Array:
    """Return one value a sample as a flat array."""
    expected = without_axis(shape, axis)
    kept = (*shape[:axis], 1, *shape[axis + 1 :])
    if values.shape not in (expected, kept):
        raise ValueError(f"{name} must have shape {expected} or {kept}, got {values.shape}")
    return values.reshape(-1)
