"""Vector-Jacobian products of the softmax family, for backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard, cast

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import Array, cast_to, dtypes_of, is_kernel_matrix
from fastce.core.out import is_kernel_out, result_like
from fastce.core.staging import blocks
from fastce.core.validation import as_real, normalize_axes


def logsumexp_vjp(
    g: npt.ArrayLike,
    x: npt.ArrayLike,
    lse: npt.ArrayLike,
    axis: int | Sequence[int] | None = -1,
    *,
    out: Array | None = None,
) -> Array:
    r"""Propagate a gradient back through `logsumexp`.

    With the upstream gradient g, the gradient with respect to x is

    .. math:: \bar x_j = g\, e^{x_j - \operatorname{lse}(x)}

    Parameters
    ----------
    g : array_like, shape of ``x`` without the axes, or with length 1 there
        Upstream gradient: the derivative of the final objective with respect to the result.
    x : array_like, shape (..., C, ...)
        Real numbers; integers and booleans are taken as float64.
    lse : array_like, shape of ``g``
        The result of ``logsumexp(x, axis)``.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be ``x`` itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``x``
        The gradient with respect to ``x``, in its dtype (float64 for integers).

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``x`` is a scalar and ``axis`` is not None, or an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    Examples
    --------
    >>> import fastce
    >>> x = [[1.0, 2.0, 3.0]]
    >>> fastce.logsumexp_vjp([1.0], x, fastce.logsumexp(x)).round(4)
    array([[0.09  , 0.2447, 0.6652]])
    """
    if is_kernel_matrix(x, axis) and _is_vector(g, x) and _is_vector(lse, x) and _is_ready(out, x, (x, g, lse)):
        result = np.empty(x.shape, x.dtype) if out is None else out
        dispatch.run_lse_vjp(x, g, lse, result, out_is_new=out is None)
        return result
    x = as_real(x, "x")
    axes = normalize_axes(axis, x.ndim, "x")
    g, lse = as_real(g, "g"), as_real(lse, "lse")
    result = result_like(x, out, ("g", "x", "lse"), (g, x, lse))
    dtype = dtypes_of(x).compute
    g, lse = (cast_to(_one_a_sample(y, name, x.shape, axes), dtype) for y, name in ((g, "g"), (lse, "lse")))
    if x.size:
        for block in blocks(_one_or_all(axes), dtype, (x,), result):
            part = slice(block.start, block.stop)
            dispatch.run_lse_vjp(block.inputs[0], g[part], lse[part], cast(Array, block.out), out_is_new=out is None)
    return result[()] if out is None and not x.ndim else result


def softmax_vjp(
    g: npt.ArrayLike, p: npt.ArrayLike, axis: int | Sequence[int] | None = -1, *, out: Array | None = None
) -> Array:
    r"""Propagate a gradient back through `softmax`.

    With the upstream gradient g and the softmax p of x, the gradient with respect to x is

    .. math:: \bar x_j = p_j \left(g_j - \sum_k g_k p_k\right)

    Parameters
    ----------
    g : array_like, shape of ``p``
        Upstream gradient: the derivative of the final objective with respect to the result.
    p : array_like, shape (..., C, ...)
        The result of ``softmax(x, axis)``.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be ``p`` or ``g`` itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``p``
        The gradient with respect to x, in the dtype of ``p`` (float64 for integers).

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``p`` is a scalar and ``axis`` is not None, or an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``p`` has no such axis.

    Examples
    --------
    >>> import fastce
    >>> fastce.softmax_vjp([1.0, 0.0, 0.0], fastce.softmax([1.0, 2.0, 3.0])).round(4)
    array([ 0.0819, -0.022 , -0.0599])
    """
    return _softmax_vjp(g, p, "p", axis, out, True)


def log_softmax_vjp(
    g: npt.ArrayLike, logp: npt.ArrayLike, axis: int | Sequence[int] | None = -1, *, out: Array | None = None
) -> Array:
    r"""Propagate a gradient back through `log_softmax`.

    With the upstream gradient g and the log-softmax l of x, the gradient with respect to x is

    .. math:: \bar x_j = g_j - e^{l_j} \sum_k g_k

    Parameters
    ----------
    g : array_like, shape of ``logp``
        Upstream gradient: the derivative of the final objective with respect to the result.
    logp : array_like, shape (..., C, ...)
        The result of ``log_softmax(x, axis)``.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be ``logp`` or ``g`` itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``logp``
        The gradient with respect to x, in the dtype of ``logp`` (float64 for integers).

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``logp`` is a scalar and ``axis`` is not None, or an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logp`` has no such axis.

    Examples
    --------
    >>> import fastce
    >>> fastce.log_softmax_vjp([1.0, 0.0, 0.0], fastce.log_softmax([1.0, 2.0, 3.0])).round(4)
    array([ 0.91  , -0.2447, -0.6652])
    """
    return _softmax_vjp(g, logp, "logp", axis, out, False)


def _softmax_vjp(
    g: npt.ArrayLike,
    y: npt.ArrayLike,
    name: str,
    axis: int | Sequence[int] | None,
    out: Array | None,
    are_probs: bool,
) -> Array:
    """Propagate a gradient back to the logits of ``y``, a softmax or a log-softmax."""
    out_is_new = out is None
    if is_kernel_matrix(y, axis) and _is_like(g, y) and _is_ready(out, y, (g, y)):
        result = np.empty(y.shape, y.dtype) if out is None else out
        dispatch.run_softmax_vjp(y, g, result, are_probs, out_is_new)
        return result
    y = as_real(y, name)
    g = as_real(g, "g")
    axes = normalize_axes(axis, y.ndim, name)
    if g.shape != y.shape:
        raise ValueError(f"g must have the shape of {name}, {y.shape}, got {g.shape}")
    result = result_like(y, out, ("g", name), (g, y))
    if y.size:
        for block in blocks(_one_or_all(axes), dtypes_of(y).compute, (y, g), result):
            dispatch.run_softmax_vjp(block.inputs[0], block.inputs[1], cast(Array, block.out), are_probs, out_is_new)
    return result[()] if out_is_new and not y.ndim else result  # a scalar for a scalar, as in NumPy


def _one_or_all(axes: tuple[int, ...]) -> int | tuple[int, ...]:
    """Return the axis as `blocks` takes it: alone if it is the only one."""
    return axes[0] if len(axes) == 1 else axes


def _is_like(g: object, y: Array) -> TypeGuard[Array]:
    """Tell whether ``g`` is a kernel-ready matrix of the shape and dtype of ``y``."""
    return is_kernel_matrix(g) and g.dtype is y.dtype and g.shape == y.shape


def _is_vector(values: object, x: Array) -> TypeGuard[Array]:
    """Tell whether ``values`` is a kernel-ready vector of one value for each row of ``x``, in its dtype."""
    if type(values) is not np.ndarray or values.dtype is not x.dtype:
        return False
    return values.shape == x.shape[:1] and (flags := values.flags).c_contiguous and flags.aligned


def _is_ready(out: object, x: Array, inputs: tuple[Array, ...]) -> bool:
    """Tell whether ``out``, if given, needs no further checks."""
    return out is None or is_kernel_out(out, x.shape, x.dtype, inputs)


def _one_a_sample(values: Array, name: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Return one value a sample as a flat array, or raise."""
    expected = tuple(n for i, n in enumerate(shape) if i not in axes)
    with_axes = tuple(1 if i in axes else n for i, n in enumerate(shape))
    if values.shape not in (expected, with_axes):
        raise ValueError(f"{name} must have shape {expected} or {with_axes}, got {values.shape}")
    return values.reshape(-1)
