"""Vector-Jacobian products of the softmax family, for those who write backward passes."""

from __future__ import annotations

from typing import TypeGuard, cast

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import Array, as_real, cast_to, is_matrix, normalize_axis, rule, without_axis
from fastce.core.out import is_apart, result_like
from fastce.core.staging import blocks


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
    if is_matrix(x, axis) and _is_vector(g, x) and _is_vector(lse, x) and _is_ready(out, x, (x, g, lse)):
        result = np.empty(x.shape, x.dtype) if out is None else out
        dispatch.run_lse_vjp(x, g, lse, result, out_is_new=out is None)
        return result
    x = as_real(x, "x")
    axis = normalize_axis(axis, x.ndim, "x")
    given = {"g": as_real(g, "g"), "x": x, "lse": as_real(lse, "lse")}
    result = _result(x, out, given)
    dtype = rule(x).compute
    g, lse = (cast_to(_flat(given[name], name, x.shape, axis), dtype) for name in ("g", "lse"))
    if x.size:
        for block in blocks(axis, dtype, (x,), result):
            samples = slice(block.start, block.stop)
            dispatch.run_lse_vjp(
                block.inputs[0], g[samples], lse[samples], cast(Array, block.out), out_is_new=out is None
            )
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
    return _like_result(g, p, "p", axis, out)


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
    return _like_result(g, logp, "logp", axis, out)


def _like_result(g: npt.ArrayLike, y: npt.ArrayLike, name: str, axis: int, out: Array | None) -> Array:
    out_is_new, are_logs = out is None, name == "logp"
    if is_matrix(y, axis) and _is_like(g, y) and _is_ready(out, y, (g, y)):
        result = np.empty(y.shape, y.dtype) if out is None else out
        dispatch.run_softmax_vjp(y, g, result, are_logs, out_is_new)
        return result
    y = as_real(y, name)
    g = as_real(g, "g")
    axis = normalize_axis(axis, y.ndim, name)
    if g.shape != y.shape:
        raise ValueError(f"g must have the shape of {name}, {y.shape}, got {g.shape}")
    result = _result(y, out, {"g": g, name: y})
    if y.size:
        for block in blocks(axis, rule(y).compute, (y, g), result):
            dispatch.run_softmax_vjp(block.inputs[0], block.inputs[1], cast(Array, block.out), are_logs, out_is_new)
    return result


def _is_like(g: object, y: Array) -> TypeGuard[Array]:
    """Tell whether this is a matrix of the shape and dtype of ``y`` that kernels take as it is."""
    return is_matrix(g) and g.dtype is y.dtype and g.shape == y.shape


def _is_vector(values: object, x: Array) -> TypeGuard[Array]:
    """Tell whether these are one value a row of ``x``, in its dtype, as kernels take them."""
    if type(values) is not np.ndarray or values.dtype is not x.dtype:
        return False
    return values.shape == x.shape[:1] and values.flags.carray


def _is_ready(out: object, x: Array, inputs: tuple[Array, ...]) -> bool:
    """Tell whether there is something to write, and ``out``, if given, fits without further checks."""
    return x.size > 0 and (out is None or is_apart(out, x.shape, x.dtype, inputs))


def _result(x: Array, out: Array | None, given: dict[str, Array]) -> Array:
    return result_like(x, out, tuple(given), tuple(given.values()))


def _flat(values: Array, name: str, shape: tuple[int, ...], axis: int) -> Array:
    """Return one value a sample as a flat array."""
    expected = without_axis(shape, axis)
    kept = (*shape[:axis], 1, *shape[axis + 1 :])
    if values.shape not in (expected, kept):
        raise ValueError(f"{name} must have shape {expected} or {kept}, got {values.shape}")
    return values.reshape(-1)
