"""fastce's functions for autograd (HIPS): differentiable, to any order, in reverse and in forward mode.

A first derivative comes from fastce's kernels, in one pass with the loss. So does a product with the Hessian of
cross-entropy. autograd computes other higher derivatives from a formula in ``autograd.numpy``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop import autograd_formulas as formulas
from fastce.interop.autograd_formulas import Axis, is_boxed, unboxed
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
    return _differentiable(functions, {"logits": logits}, options, formulas.cross_entropy, _gradient)


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
    return _differentiable(functions, {"logits": logits}, {"target": target, **options}, formulas.focal_loss)


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
    return _differentiable(functions, {"logits": logits}, options, formulas.kl_divergence)


@_signature_of(fastce.linear_cross_entropy)
def linear_cross_entropy(hidden: Any, weight: Any, target: npt.ArrayLike, *, bias: Any = None, **options: Any) -> Any:
    """Compute the cross-entropy of a linear layer's output, a chunk at a time: `fastce.linear_cross_entropy`.

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
    return _differentiable(functions, arrays, {"target": target, **options}, formulas.linear_cross_entropy)


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
    plain = {name: np.asarray(unboxed(array)) for name, array in arrays.items()}
    call = Gradients(*functions, plain, options)
    if gradient is not None:
        gradient = partial(gradient, call=call, options=options) if options.keys() <= _OF_HVP else None
    return _loss(*arrays.values(), call=call, formula=partial(formula, **options), gradient=gradient)


# the arguments of fastce.cross_entropy_hvp
_OF_HVP = {"target", "axis", "weight", "sample_weight", "ignore_index", "label_smoothing", "reduction"}


@primitive  # type: ignore[untyped-decorator]
def _loss(*_: Any, call: Gradients, **__: Any) -> Any:
    return call.loss


def _loss_vjp(
    argnums: tuple[int, ...], _: Any, args: tuple[Any, ...], context: Mapping[str, Any]
) -> Callable[..., Any]:
    def vjp(g: Any) -> list[Any]:
        if not is_boxed(g, *args):
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
def _gradient(g: Any, logits: Any, *, call: Gradients, options: Mapping[str, Any]) -> Any:
    """Return the gradient of cross-entropy times g; its derivative by the logits, those of the call, is symmetric."""
    return call.take(0, g)


def _hessian_product(g: Any, logits: Any, v: Any, options: Mapping[str, Any]) -> Any:
    if not is_boxed(g, logits, v):
        upstream = None if np.ndim(g) == 0 and g == 1.0 else g  # less work for the factor 1
        return fastce.cross_entropy_hvp(logits, v=v, grad_output=upstream, **options)
    formula = partial(formulas.cross_entropy, **options)
    return make_vjp(lambda x: make_vjp(formula)(x)[0](g))(logits)[0](v)


def _per_loss(g: Any, logits: Any, h: Any, call: Gradients, options: Mapping[str, Any]) -> Any:
    """Return the derivative of the gradient by g, times h."""
    products = h * _gradient(np.ones_like(unboxed(g)), logits, call=call, options=options)
    return anp.sum(products, axis=options.get("axis", -1) if anp.ndim(g) else None)


defvjp(
    _gradient,
    lambda ans, g, x, call, options: lambda h: _per_loss(g, x, h, call, options),
    lambda ans, g, x, call, options: lambda h: _hessian_product(g, x, h, options),
)
defjvp(
    _gradient,
    lambda v, ans, g, x, call, options: _gradient(v, x, call=call, options=options),
    lambda v, ans, g, x, call, options: _hessian_product(g, x, v, options),
)


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
        return formulas.softmax(x, axis)
    return anp.where(where, formulas.softmax(_masked(x, axis, where), axis), 0.0)


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
        return formulas.log_softmax(x, axis)
    return anp.where(where, formulas.log_softmax(_masked(x, axis, where), axis), -np.inf)


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
    return formulas.logsumexp(x, axis, b, keepdims)


def _masked(x: Any, axis: Axis, where: npt.ArrayLike) -> Any:
    """Return logits with -inf where they are left out, and 0 where all of a sample are."""
    mask = np.broadcast_to(np.asarray(where, bool), np.shape(x))
    return anp.where(mask, x, np.where(mask.any(axis, keepdims=True), -np.inf, 0.0))
