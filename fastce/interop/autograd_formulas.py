"""What autograd differentiates again: softmax as primitives, and formulas of the losses in ``autograd.numpy``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop.extras import extra

with extra("autograd", "autograd"):
    from autograd import numpy as anp
    from autograd.extend import Box, defjvp, defvjp, primitive

FLOOR = 1e-30  # of 1 − p under a power
Axis = int | tuple[int, ...] | None


# --- boxes --------------------------------------------------------------------------------------


def is_boxed(*values: Any) -> bool:
    """Tell whether a derivative of these is asked for."""
    return any(isinstance(value, Box) for value in values)


def unboxed(value: Any) -> Any:
    """Return the array in a box, or in boxes of boxes."""
    while isinstance(value, Box):
        value = value._value
    return value


# --- softmax ---------------------------------------------------------------------------------


@primitive  # type: ignore[untyped-decorator]
def softmax(x: Any, axis: Axis) -> Any:
    """Return the softmax."""
    return fastce.softmax(x, axis)


def _softmax_vjp(g: Any, p: Any, axis: Axis) -> Any:
    """Its matrix is symmetric, so that this is its jvp as well."""
    if is_boxed(g, p):
        return p * (g - anp.sum(g * p, axis=axis, keepdims=True))
    return fastce.softmax_vjp(g, p, axis)


defvjp(softmax, lambda p, x, axis: lambda g: _softmax_vjp(g, p, axis))
defjvp(softmax, lambda v, p, x, axis: _softmax_vjp(v, p, axis))


@primitive  # type: ignore[untyped-decorator]
def log_softmax(x: Any, axis: Axis) -> Any:
    """Return the logarithm of the softmax."""
    return fastce.log_softmax(x, axis)


def _log_softmax_vjp(g: Any, log_p: Any, axis: Axis) -> Any:
    if is_boxed(g, log_p):
        return g - anp.exp(log_p) * anp.sum(g, axis=axis, keepdims=True)
    return fastce.log_softmax_vjp(g, log_p, axis)


defvjp(log_softmax, lambda log_p, x, axis: lambda g: _log_softmax_vjp(g, log_p, axis))
defjvp(log_softmax, lambda v, log_p, x, axis: v - anp.sum(v * anp.exp(log_p), axis=axis, keepdims=True))


@primitive  # type: ignore[untyped-decorator]
def logsumexp(x: Any, axis: Axis, b: npt.ArrayLike | None, keepdims: bool) -> Any:
    """Return the log-sum-exp."""
    return fastce.logsumexp(x, axis, b=b, keepdims=keepdims)


def _logsumexp_vjp(g: Any, x: Any, lse: Any, axis: Axis, b: npt.ArrayLike | None) -> Any:
    if is_boxed(g, x, lse) or b is not None:
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


defvjp(logsumexp, lambda lse, x, axis, b, keepdims: lambda g: _logsumexp_vjp(g, x, lse, axis, b))
defjvp(
    logsumexp,
    lambda v, lse, x, axis, b, keepdims: anp.sum(v * _slopes(x, lse, axis, b), axis=axis, keepdims=keepdims),
)


# --- losses -------------------------------------------------------------------------------------


def cross_entropy(
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
        losses = losses + z_loss * anp.where(is_kept, logsumexp(x, axis, None, False), 0.0) ** 2
    at_label = np.sum(class_weight * target_probs, axis) if has_labels else 1.0
    total = np.sum(np.where(is_kept, at_label * sample_factors, 0.0)) if normalizer is None else normalizer
    factors = np.where(is_kept, sample_factors, 0.0).astype(x.dtype)
    return _reduced(anp.where(is_kept, losses, 0.0) * factors, reduction, total)


def focal_loss(x: Any, target: npt.ArrayLike, *, gamma: float, alpha: Any = None, **options: Any) -> Any:
    """Return the focal loss."""
    if alpha is None or np.ndim(alpha):
        return cross_entropy(x, target, gamma=gamma, weight=alpha, **options)
    return alpha * cross_entropy(x, target, gamma=gamma, **options)


def linear_cross_entropy(
    hidden: Any, weight: Any, bias: Any = 0.0, *, class_weight: Any = None, max_bytes: int = 0, **options: Any
) -> Any:
    """Return the cross-entropy of a linear layer's output."""
    return cross_entropy(anp.dot(hidden, anp.transpose(weight)) + bias, weight=class_weight, **options)


def kl_divergence(
    x: Any,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reverse: bool = False,
    sample_weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """Return the Kullback-Leibler divergence."""
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
