"""fastce's functions for autograd (HIPS): differentiable, to any order, in reverse and in forward mode.

A first derivative comes from fastce's kernels, in one pass with the loss. So does a product with the Hessian of
cross-entropy. Other higher derivatives are autograd's own, of a formula in ``autograd.numpy``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop.extras import extra
from fastce.interop.gradients import Gradients

with extra("autograd", "autograd"):
    from autograd import make_jvp, make_vjp
    from autograd import numpy as anp
    from autograd.extend import Box, defjvp, defjvp_argnums, defvjp, defvjp_argnums, primitive

__all__ = [
    "cross_entropy",
    "focal_loss",
    "kl_divergence",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "softmax",
]

FLOOR = 1e-30  # of 1 − p under a power
Axis = int | tuple[int, ...] | None
Function = TypeVar("Function", bound=Callable[..., Any])


# --- losses -------------------------------------------------------------------------------------


def _signature_of(function: Callable[..., Any]) -> Callable[[Function], Function]:
    """Show the signature of a function of fastce, all of whose options a loss passes on."""

    def decorate(loss: Function) -> Function:
        loss.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return loss

    return decorate


@_signature_of(fastce.cross_entropy)
def cross_entropy(logits: Any, target: npt.ArrayLike, **options: Any) -> Any:
    """Compute the cross-entropy between logits and class indices or probabilities: `fastce.cross_entropy`.

    Parameters
    ----------
    logits : array_like or Box
        The logits, with respect to which it is differentiable.
    target : array_like
        As in `fastce.cross_entropy`.
    **options
        As in `fastce.cross_entropy`.

    Returns
    -------
    scalar, array or Box
        The loss.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.cross_entropy`.
    NotImplementedError
        If the derivative with respect to another argument is asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import grad
    >>> from fastce.interop.autograd import cross_entropy
    >>> grad(cross_entropy)(np.array([[1.0, 2.0, 3.0]]), [0], label_smoothing=0.1).round(4)
    array([[-0.8433,  0.2114,  0.6319]])
    """
    options = {"target": target, **options}
    functions = fastce.cross_entropy, fastce.cross_entropy_and_grad
    return _differentiable(functions, {"logits": logits}, options, _cross_entropy, _gradient)


@_signature_of(fastce.focal_loss)
def focal_loss(logits: Any, target: npt.ArrayLike, **options: Any) -> Any:
    """Compute the focal loss over softmax probabilities: `fastce.focal_loss`.

    Parameters
    ----------
    logits : array_like or Box
        The logits, with respect to which it is differentiable.
    target : array_like
        As in `fastce.focal_loss`.
    **options
        As in `fastce.focal_loss`; ``gamma`` has no default.

    Returns
    -------
    scalar, array or Box
        The loss.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.focal_loss`.
    NotImplementedError
        If the derivative with respect to another argument is asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import grad
    >>> from fastce.interop.autograd import focal_loss
    >>> grad(focal_loss)(np.array([[1.0, 2.0, 3.0]]), [0], gamma=2.0).round(4)
    array([[-1.1125,  0.2992,  0.8133]])
    """
    functions = fastce.focal_loss, fastce.focal_loss_and_grad
    return _differentiable(functions, {"logits": logits}, {"target": target, **options}, _focal_loss)


@_signature_of(fastce.kl_divergence)
def kl_divergence(logits: Any, target_logits: npt.ArrayLike, **options: Any) -> Any:
    """Compute the Kullback-Leibler divergence of one softmax from another: `fastce.kl_divergence`.

    Parameters
    ----------
    logits : array_like or Box
        The logits, with respect to which it is differentiable.
    target_logits : array_like
        As in `fastce.kl_divergence`.
    **options
        As in `fastce.kl_divergence`.

    Returns
    -------
    scalar, array or Box
        The divergence.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.kl_divergence`.
    NotImplementedError
        If the derivative with respect to another argument is asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import grad
    >>> from fastce.interop.autograd import kl_divergence
    >>> grad(kl_divergence)(np.array([[1.0, 2.0, 3.0]]), [[3.0, 2.0, 1.0]]).round(4)
    array([[-0.5752,  0.    ,  0.5752]])
    """
    functions = fastce.kl_divergence, fastce.kl_divergence_and_grad
    options = {"target_logits": target_logits, **options}
    return _differentiable(functions, {"logits": logits}, options, _kl_divergence)


@_signature_of(fastce.linear_cross_entropy)
def linear_cross_entropy(hidden: Any, weight: Any, target: npt.ArrayLike, *, bias: Any = None, **options: Any) -> Any:
    """Compute the cross-entropy of a linear layer's output, never whole in memory: `fastce.linear_cross_entropy`.

    Parameters
    ----------
    hidden, weight : array_like or Box
        The input and the weights of the layer, with respect to which it is differentiable.
    target : array_like
        As in `fastce.linear_cross_entropy`.
    bias : array_like or Box, optional
        The biases of the layer, with respect to which it is differentiable.
    **options
        As in `fastce.linear_cross_entropy`.

    Returns
    -------
    scalar, array or Box
        The loss.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `fastce.linear_cross_entropy`.
    NotImplementedError
        If the derivative with respect to another argument is asked for.

    Notes
    -----
    Derivatives of higher order and forward mode compute all logits at once.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import grad
    >>> from fastce.interop.autograd import linear_cross_entropy
    >>> grad(linear_cross_entropy, 1)(np.array([[1.0, 0.0]]), np.eye(2), [1]).round(4)
    array([[ 0.7311,  0.    ],
           [-0.7311,  0.    ]])
    """
    arrays = {"hidden": hidden, "weight": weight}
    if bias is not None:
        arrays["bias"] = bias
    functions = fastce.linear_cross_entropy, fastce.linear_cross_entropy_and_grad
    return _differentiable(functions, arrays, {"target": target, **options}, _linear_cross_entropy)


def _differentiable(
    functions: tuple[Callable[..., Any], Callable[..., Any]],
    arrays: Mapping[str, Any],
    options: Mapping[str, Any],
    formula: Callable[..., Any],
    gradient: Callable[..., Any] | None = None,
) -> Any:
    """Return a loss, given fastce's functions without and with gradients, and its formula."""
    for name, value in options.items():
        if isinstance(value, Box):
            raise NotImplementedError(f"{functions[0].__name__} has no derivative with respect to {name}")
    if not any(isinstance(array, Box) for array in arrays.values()):
        return functions[0](**arrays, **options)
    plain = {name: np.asarray(_unboxed(array)) for name, array in arrays.items()}
    call = Gradients(*functions, plain, options)
    if gradient is not None and not options.keys() <= _OF_HVP:
        gradient = None
    formula = partial(formula, **options)
    return _loss(*arrays.values(), call=call, formula=formula, gradient=gradient and partial(gradient, options=options))


# the arguments of fastce.cross_entropy_hvp
_OF_HVP = {"target", "axis", "weight", "sample_weight", "ignore_index", "label_smoothing", "reduction"}


@primitive  # type: ignore[untyped-decorator]
def _loss(*_: Any, call: Gradients, **__: Any) -> Any:
    return call.loss


def _loss_vjp(
    argnums: tuple[int, ...], _: Any, args: tuple[Any, ...], context: Mapping[str, Any]
) -> Callable[..., Any]:
    def vjp(g: Any) -> list[Any]:
        if not _is_boxed(g, *args):
            return [context["call"].take(n, g) for n in argnums]
        if context["gradient"] is not None:
            return [context["gradient"](g, *args)]
        return [make_vjp(context["formula"], n)(*args)[0](g) for n in argnums]

    return vjp


def _loss_jvp(
    argnums: tuple[int, ...], gs: list[Any], _: Any, args: tuple[Any, ...], context: Mapping[str, Any]
) -> Any:
    return sum(make_jvp(context["formula"], n)(*args)(g)[1] for n, g in zip(argnums, gs, strict=True))


defvjp_argnums(_loss, _loss_vjp)
defjvp_argnums(_loss, _loss_jvp)


# --- second derivatives of cross-entropy --------------------------------------------------------


@primitive  # type: ignore[untyped-decorator]
def _gradient(g: Any, logits: Any, *, options: Mapping[str, Any]) -> Any:
    """Return the gradient of cross-entropy times g; its derivative by the logits is symmetric."""
    return fastce.cross_entropy_and_grad(logits, grad_output=g, **options).grad


def _hessian_product(g: Any, logits: Any, v: Any, options: Mapping[str, Any]) -> Any:
    if not _is_boxed(g, logits, v):
        return fastce.cross_entropy_hvp(logits, v=v, grad_output=g, **options)
    formula = partial(_cross_entropy, **options)
    return make_vjp(lambda x: make_vjp(formula)(x)[0](g))(logits)[0](v)


def _per_loss(g: Any, logits: Any, h: Any, options: Mapping[str, Any]) -> Any:
    """Return the derivative of the gradient by g, times h."""
    products = h * _gradient(np.ones_like(_unboxed(g)), logits, options=options)
    return anp.sum(products, axis=options.get("axis", -1) if anp.ndim(g) else None)


defvjp(
    _gradient,
    lambda ans, g, x, options: lambda h: _per_loss(g, x, h, options),
    lambda ans, g, x, options: lambda h: _hessian_product(g, x, h, options),
)
defjvp(
    _gradient,
    lambda v, ans, g, x, options: _gradient(v, x, options=options),
    lambda v, ans, g, x, options: _hessian_product(g, x, v, options),
)


# --- formulas of losses, for derivatives of higher order ----------------------------------------


def _cross_entropy(
    x: Any,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    where: Any = None,
    gamma: float = 0.0,
) -> Any:
    """Return the cross-entropy; with gamma, the focal loss."""
    x = _narrowing(x)
    mask = np.ones(x.shape, bool) if where is None else np.broadcast_to(np.asarray(where, bool), x.shape)
    target_probs, is_kept, has_labels = _read_target(target, x.shape, axis, ignore_index)
    is_kept = is_kept & mask.any(axis)
    sample_factors = np.ones(is_kept.shape) if sample_weight is None else np.asarray(sample_weight)
    is_kept = is_kept & (sample_factors != 0)
    kept = np.expand_dims(is_kept, axis)
    x = anp.where(kept, x, 0.0) * logit_scale
    if softcap is not None:
        x = softcap * anp.tanh(x / softcap)
    x = anp.where(mask | ~kept, x, -np.inf)

    smooth = mask / np.maximum(mask.sum(axis, keepdims=True), 1)
    class_weight = 1.0 if weight is None else _along(weight, x.ndim, axis)
    probs = np.where(kept, class_weight * ((1 - label_smoothing) * target_probs + label_smoothing * smooth), 0.0)
    log_p = anp.where(probs != 0, log_softmax(x, axis), -1.0)
    terms = probs.astype(x.dtype) * log_p
    if gamma:
        # 1 − p is kept from 0, where its powers have no derivative
        terms = terms * anp.maximum(-anp.expm1(log_p), FLOOR) ** gamma
    losses = -anp.sum(terms, axis=axis)
    if z_loss:
        losses = losses + z_loss * anp.where(is_kept, logsumexp(x, axis), 0.0) ** 2
    at_label = np.sum(class_weight * target_probs, axis) if has_labels else 1.0
    total = np.sum(np.where(is_kept, at_label * sample_factors, 0.0)) if normalizer is None else normalizer
    factors = np.where(is_kept, sample_factors, 0.0).astype(x.dtype)
    return _reduced(anp.where(is_kept, losses, 0.0) * factors, reduction, total)


def _focal_loss(x: Any, target: npt.ArrayLike, *, gamma: float, alpha: Any = None, **options: Any) -> Any:
    if alpha is None or np.ndim(alpha):
        return _cross_entropy(x, target, gamma=gamma, weight=alpha, **options)
    return alpha * _cross_entropy(x, target, gamma=gamma, **options)


def _linear_cross_entropy(
    hidden: Any, weight: Any, bias: Any = 0.0, *, class_weight: Any = None, max_bytes: int = 0, **options: Any
) -> Any:
    return _cross_entropy(anp.dot(hidden, anp.transpose(weight)) + bias, weight=class_weight, **options)


def _kl_divergence(
    x: Any,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reverse: bool = False,
    sample_weight: Any = None,
    reduction: str = "mean",
) -> Any:
    x = _narrowing(x)
    log_q = fastce.log_softmax(np.asarray(target_logits) / temperature, axis).astype(x.dtype)
    sample_factors = np.ones(log_q.sum(axis).shape) if sample_weight is None else np.asarray(sample_weight)
    is_kept = sample_factors != 0
    log_p = log_softmax(anp.where(np.expand_dims(is_kept, axis), x, 0.0) / temperature, axis)
    if reverse:
        has_mass = log_p > -np.inf
        terms = anp.exp(log_p) * anp.where(has_mass, log_p - log_q, 0.0)
    else:
        has_mass = log_q > -np.inf
        terms = np.exp(log_q) * anp.where(has_mass, log_q - log_p, 0.0)
    losses = anp.where(is_kept, anp.sum(terms, axis=axis), 0.0) * sample_factors.astype(x.dtype)
    return _reduced(losses, reduction, sample_factors.sum())


def _narrowing(x: Any) -> Any:
    """Return x, to which gradients go back in its dtype; that of autograd's ``where`` is float64."""
    return x if x.dtype == np.float64 else x.astype(x.dtype)


def _read_target(
    target: npt.ArrayLike, shape: tuple[int, ...], axis: int, ignore_index: int | None
) -> tuple[Any, Any, bool]:
    """Return a target as class probabilities, which samples are not ignored, and whether it holds labels."""
    array = np.asarray(target)
    if array.ndim == len(shape):
        if array.dtype.kind not in "biu":
            return array, np.ones(array.sum(axis).shape, bool), False
        array = array.argmax(axis)
    is_kept = np.ones(array.shape, bool) if ignore_index is None else array != ignore_index
    return np.expand_dims(array, axis) == _along(np.arange(shape[axis]), len(shape), axis), is_kept, True


def _along(values: npt.ArrayLike, ndim: int, axis: int) -> Any:
    """Return one value a class in a shape that fits logits."""
    shape = [1] * ndim
    shape[axis] = -1
    return np.reshape(values, shape)


def _reduced(losses: Any, reduction: str, total: float) -> Any:
    if reduction == "none":
        return losses
    return anp.sum(losses) / (float(total) if reduction == "mean" and total else 1.0)


# --- softmax ------------------------------------------------------------------------------------


def softmax(x: Any, axis: Axis = -1, *, where: npt.ArrayLike | None = None) -> Any:
    r"""Compute the softmax: `fastce.softmax`.

    .. math:: \operatorname{softmax}(x)_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x : array_like or Box
        The logits, with respect to which it is differentiable.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False are left out; the result is 0 there.

    Returns
    -------
    array or Box, shape of ``x``
        The probabilities.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import jacobian
    >>> from fastce.interop.autograd import softmax
    >>> jacobian(softmax)(np.zeros(2))
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    if where is None:
        return _softmax(x, axis)
    return anp.where(where, _softmax(_masked(x, axis, where), axis), 0.0)


def log_softmax(x: Any, axis: Axis = -1, *, where: npt.ArrayLike | None = None) -> Any:
    r"""Compute the logarithm of the softmax: `fastce.log_softmax`.

    .. math:: \log \operatorname{softmax}(x)_j = x_j - \log \sum_k e^{x_k}

    Parameters
    ----------
    x, axis
        As in `softmax`.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False are left out; the result is -inf there.

    Returns
    -------
    array or Box, shape of ``x``
        The logarithms of the probabilities.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.log_softmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import jacobian
    >>> from fastce.interop.autograd import log_softmax
    >>> jacobian(log_softmax)(np.zeros(2))
    array([[ 0.5, -0.5],
           [-0.5,  0.5]])
    """
    if where is None:
        return _log_softmax(x, axis)
    return anp.where(where, _log_softmax(_masked(x, axis, where), axis), -np.inf)


def logsumexp(
    x: Any,
    axis: Axis = -1,
    *,
    b: npt.ArrayLike | None = None,
    keepdims: bool = False,
    where: npt.ArrayLike | None = None,
) -> Any:
    r"""Compute the logarithm of the sum of exponentials: `fastce.logsumexp`.

    .. math:: \operatorname{lse}(x) = \log \sum_j b_j e^{x_j}

    Parameters
    ----------
    x : array_like or Box
        Real numbers, with respect to which it is differentiable.
    axis : int, tuple of int or None, default -1
        The axes to sum over, all axes for None.
    b : array_like, broadcast to the shape of ``x``, optional
        Factors of the exponentials, 1 by default.
    keepdims : bool, default False
        Keep these axes, with length 1.
    where : array_like of bool, broadcast to the shape of ``x``, optional
        Elements where it is False are left out.

    Returns
    -------
    scalar, array or Box
        The logarithms of the sums.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.logsumexp`.

    Examples
    --------
    >>> import numpy as np
    >>> from autograd import grad
    >>> from fastce.interop.autograd import logsumexp
    >>> grad(logsumexp)(np.array([1.0, 2.0, 3.0])).round(4)
    array([0.09  , 0.2447, 0.6652])
    """
    if where is not None:
        x = anp.where(where, x, -np.inf)
    return _logsumexp(x, axis, b, keepdims)


def _masked(x: Any, axis: Axis, where: npt.ArrayLike) -> Any:
    """Return logits with -inf where they are left out, and 0 where all of a sample are."""
    mask = np.broadcast_to(np.asarray(where, bool), np.shape(x))
    return anp.where(mask, x, np.where(mask.any(axis, keepdims=True), -np.inf, 0.0))


@primitive  # type: ignore[untyped-decorator]
def _softmax(x: Any, axis: Axis) -> Any:
    return fastce.softmax(x, axis)


def _softmax_vjp(g: Any, p: Any, axis: Axis) -> Any:
    """Its matrix is symmetric, so that this is its jvp as well."""
    if _is_boxed(g, p):
        return p * (g - anp.sum(g * p, axis=axis, keepdims=True))
    return fastce.softmax_vjp(g, p, axis)


defvjp(_softmax, lambda p, x, axis: lambda g: _softmax_vjp(g, p, axis))
defjvp(_softmax, lambda v, p, x, axis: _softmax_vjp(v, p, axis))


@primitive  # type: ignore[untyped-decorator]
def _log_softmax(x: Any, axis: Axis) -> Any:
    return fastce.log_softmax(x, axis)


def _log_softmax_vjp(g: Any, log_p: Any, axis: Axis) -> Any:
    if _is_boxed(g, log_p):
        return g - anp.exp(log_p) * anp.sum(g, axis=axis, keepdims=True)
    return fastce.log_softmax_vjp(g, log_p, axis)


defvjp(_log_softmax, lambda log_p, x, axis: lambda g: _log_softmax_vjp(g, log_p, axis))
defjvp(_log_softmax, lambda v, log_p, x, axis: v - anp.sum(v * anp.exp(log_p), axis=axis, keepdims=True))


@primitive  # type: ignore[untyped-decorator]
def _logsumexp(x: Any, axis: Axis, b: npt.ArrayLike | None, keepdims: bool) -> Any:
    return fastce.logsumexp(x, axis, b=b, keepdims=keepdims)


def _logsumexp_vjp(g: Any, x: Any, lse: Any, axis: Axis, b: npt.ArrayLike | None) -> Any:
    if _is_boxed(g, x, lse) or b is not None:
        return _spread(g, x, axis) * _slopes(x, lse, axis, b)
    return fastce.logsumexp_vjp(g, x, lse, axis)


def _slopes(x: Any, lse: Any, axis: Axis, b: npt.ArrayLike | None) -> Any:
    """Return the derivatives of log-sum-exps by each element."""
    slopes = anp.exp(x - _spread(lse, x, axis))
    return slopes if b is None else slopes * np.asarray(b)


def _spread(values: Any, x: Any, axis: Axis) -> Any:
    """Return one value a log-sum-exp, with the axes of x."""
    axes = range(x.ndim) if axis is None else np.atleast_1d(axis) % x.ndim
    return anp.reshape(values, [1 if i in axes else n for i, n in enumerate(x.shape)])


defvjp(_logsumexp, lambda lse, x, axis, b, keepdims: lambda g: _logsumexp_vjp(g, x, lse, axis, b))
defjvp(
    _logsumexp,
    lambda v, lse, x, axis, b, keepdims: anp.sum(v * _slopes(x, lse, axis, b), axis=axis, keepdims=keepdims),
)


# --- boxes --------------------------------------------------------------------------------------


def _is_boxed(*values: Any) -> bool:
    """Tell whether a derivative of these is asked for."""
    return any(isinstance(value, Box) for value in values)


def _unboxed(value: Any) -> Any:
    while isinstance(value, Box):
        value = value._value
    return value
