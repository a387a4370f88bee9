"""The oracle: what each public function has to return, plain and slow.

Everything is computed in extended precision (float64 where the machine has none) straight
from the definitions, one loss for all options. Results stay in that precision; the tests
round and compare. The class axis is moved last and back; labels and class probabilities
meet in the coefficients t of loss_i = Σ_j t_ij (lse_i − x_ij).
"""

import math

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

REAL = np.longdouble


def real(x):
    """Any real array in extended precision."""
    x = np.asarray(x)
    return x if x.dtype == REAL else x.astype(np.float64).astype(REAL)


# --- the softmax family --------------------------------------------------------


def classes_last(x, axis):
    """``x`` with its class axes as one, the last, and the function that undoes it."""
    axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    ends = range(-len(axes), 0)
    moved = np.moveaxis(x, axes, ends)
    lead = moved.shape[: x.ndim - len(axes)]
    rows = moved.reshape(*lead, math.prod(moved.shape[len(lead) :]))
    return rows, lambda result: np.moveaxis(result.reshape(moved.shape), ends, axes)


def reduced_shape(shape, axis, keepdims=False):
    """The shape of one value for all classes."""
    return np.sum(np.broadcast_to(0, shape), axis, keepdims=keepdims).shape


def _shifted(rows):
    """Rows less their maxima, and log sum exp of that: the greatest element, 1, apart from the sum of the others."""
    top = np.max(rows, axis=-1, keepdims=True, initial=-np.inf)
    gaps = rows - np.where(np.isfinite(top), top, np.nan)
    others = np.exp(gaps)
    if rows.size:
        np.put_along_axis(others, np.argmax(rows, axis=-1)[..., None], 0, -1)
    return top, gaps, np.log1p(np.sum(others, axis=-1, keepdims=True))


def logsumexp(x, axis=-1, *, keepdims=False, where=None):
    x = real(x)
    with np.errstate(all="ignore"):
        top, _, logs = _shifted(classes_last(x if where is None else np.where(where, x, -np.inf), axis)[0])
        result = np.where(np.isfinite(top), top + logs, top)
    return result.reshape(reduced_shape(x.shape, axis, keepdims))


def log_softmax(x, axis=-1, *, where=None):
    x = real(x)
    rows, back = classes_last(x if where is None else np.where(where, x, -np.inf), axis)
    with np.errstate(all="ignore"):
        _, gaps, logs = _shifted(rows)
        result = back(gaps - logs)
    return result if where is None else np.where(where, result, -np.inf)


def softmax(x, axis=-1, *, where=None):
    return np.exp(log_softmax(x, axis, where=where))


def weighted_logsumexp(x, b, axis=-1, *, keepdims=False, where=True):
    """log |sum b exp(x)|, the sum's sign, and by how much its terms exceed it, of one shape."""
    x, b, where = np.broadcast_arrays(real(x), real(b), where)
    shape = reduced_shape(x.shape, axis, keepdims)
    b = classes_last(np.where(where, b, 0), axis)[0]
    rows = np.where(b == 0, -np.inf, classes_last(x, axis)[0])
    with np.errstate(all="ignore"):
        top = np.max(rows, axis=-1, initial=-np.inf)
        shift = np.where(np.isfinite(top), top, 0)
        terms = np.where(b == 0, 0, b * np.exp(rows - shift[..., None]))
        terms = np.where((top == np.inf)[..., None], np.where(rows == np.inf, b, 0), terms)
        total = terms.sum(-1)
        lse, sign = shift + np.log(np.abs(total)), np.sign(total)
        lse = np.where((top == np.inf) & ~np.isnan(total), np.where(total == 0, np.nan, np.inf), lse)
        excess = np.abs(terms).sum(-1) / np.abs(total)
    return tuple(v.reshape(shape) for v in (lse, sign, excess))


def vjp(name, g, result, axis=-1, x=None):
    """The vector-Jacobian products of the family, from what it returned."""
    g, result = real(g), real(result)
    with np.errstate(all="ignore"):
        if name == "softmax":
            return result * (g - np.sum(g * result, axis=axis, keepdims=True))
        if name == "log_softmax":
            return g - np.exp(result) * np.sum(g, axis=axis, keepdims=True)
        g, result = (v.reshape(reduced_shape(np.shape(x), axis, keepdims=True)) for v in (g, result))
        return g * np.exp(real(x) - result)


# --- cross-entropy -------------------------------------------------------------


def coefficients(
    shape,
    target,
    *,
    axis=-1,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    normalizer=None,
    where=True,
    z_loss=0.0,
):
    """Return (t, kept, denominator, u): t has the class axis last; ``denominator`` is that of the mean.

    Samples are not kept of which a factor of 0 leaves nothing.
    """
    classes = shape[axis]
    target = np.asarray(target)
    there = np.moveaxis(np.broadcast_to(where, shape), axis, -1)
    weight = np.ones(classes, REAL) if weight is None else real(weight)
    is_hard = np.issubdtype(target.dtype, np.integer) or (not target.size and target.shape != shape)
    if is_hard:
        kept = target != ignore_index
        labels = np.where(kept, target, 0).astype(np.intp)
        t = np.zeros((*target.shape, classes), REAL)
        class_weight = np.zeros(target.shape, REAL)
        if kept.any() and classes:
            np.put_along_axis(t, labels[..., None], kept[..., None], -1)
            class_weight = np.where(kept, weight[labels], 0)
    else:
        t = np.moveaxis(real(target), axis, -1)
        kept = np.ones(t.shape[:-1], bool)
        class_weight = np.ones(t.shape[:-1], REAL)
    each = np.ones(kept.shape, REAL) if sample_weight is None else real(sample_weight)
    kept = kept & there.any(-1)
    class_weight, each = np.where(kept, class_weight, 0), np.where(kept, each, 0)
    smoothing = REAL(label_smoothing)
    spread = np.where(there, smoothing / np.maximum(there.sum(-1, keepdims=True), 1), 0)
    if not is_hard:
        t = np.where(there, t, 0)  # a label that is not there stays, and costs an infinite loss
    with np.errstate(invalid="ignore"):
        t = np.where(weight == 0, 0, (t * (1 - smoothing) + spread) * weight) * each[..., None]
    kept = kept & (each != 0)
    if (weight == 0).any() and not z_loss:
        kept = kept & (t != 0).any(-1)
    t[~kept] = 0
    # 0 stands where nothing counts, and gives 0
    return t, kept, np.sum(class_weight * each) if normalizer is None else real(normalizer or 1), each


def _reduce(losses, denominator, reduction):
    if reduction == "none":
        return losses
    total = np.sum(losses)
    with np.errstate(all="ignore"):
        return total if reduction == "sum" else total / denominator


def _scale(reduction, denominator, grad_output):
    g = real(1.0 if grad_output is None else grad_output)
    if reduction == "none":
        return g[..., None]
    with np.errstate(all="ignore"):
        return np.where(g == 0, 0, g / denominator) if reduction == "mean" else g


def invalid(x):
    """Samples with no softmax: any NaN, any +inf, or nothing but -inf."""
    return (np.isnan(x) | (x == np.inf)).any(-1) | ((x == -np.inf).all(-1) & bool(x.shape[-1]))


def bend(logits, axis, logit_scale=1.0, softcap=None, where=True):
    """Return scaled, capped and masked logits and the slope of that, the class axis last."""
    x = np.moveaxis(real(logits) * real(logit_scale), axis, -1)
    slope = np.full(x.shape, real(logit_scale))
    if softcap is not None:
        cap = real(softcap)
        slope = slope / np.cosh(np.clip(x / cap, -5000, 5000)) ** 2
        x = cap * np.tanh(x / cap)
    there = np.moveaxis(np.broadcast_to(where, np.shape(logits)), axis, -1)
    return np.where(there, x, -np.inf), np.where(there, slope, 0)


def cross_entropy(
    logits, target, *, axis=-1, reduction="mean", z_loss=0.0, logit_scale=1.0, softcap=None, where=True, **options
):
    x, _ = bend(logits, axis, logit_scale, softcap, where)
    t, kept, denominator, u = coefficients(np.shape(logits), target, axis=axis, where=where, z_loss=z_loss, **options)
    with np.errstate(invalid="ignore"):
        terms = np.where(t == 0, 0, -t * log_softmax(x))
        z = real(z_loss) * u * logsumexp(x) ** 2 if z_loss else 0
    losses = np.where(kept, np.where(invalid(x), np.nan, terms.sum(-1) + z), 0)
    return _reduce(losses, denominator, reduction)


def cross_entropy_grad(
    logits,
    target,
    *,
    axis=-1,
    reduction="mean",
    grad_output=None,
    terms=False,
    z_loss=0.0,
    logit_scale=1.0,
    softcap=None,
    where=True,
    **options,
):
    """The gradient; with ``terms`` the sum of its two terms' magnitudes, by which a cancelling one is measured."""
    x, slope = bend(logits, axis, logit_scale, softcap, where)
    t, kept, denominator, u = coefficients(np.shape(logits), target, axis=axis, where=where, z_loss=z_loss, **options)
    with np.errstate(invalid="ignore"):
        z_slope = 2 * real(z_loss) * u[..., None] * logsumexp(x, keepdims=True) if z_loss else 0
        falling, rising = t, softmax(x) * (t.sum(-1, keepdims=True) + z_slope)
        grad = np.abs(rising) + np.abs(falling) if terms else rising - falling
        scale = _scale(reduction, denominator, grad_output)
        grad = product(product(grad, scale), np.abs(slope) if terms else slope)
    return np.moveaxis(np.where(kept[..., None], grad, 0), -1, axis)


# --- cross-entropy from probabilities ------------------------------------------


def cross_entropy_from_probs(probs, target, *, axis=-1, reduction="mean", tiny, **options):
    p = np.maximum(np.moveaxis(real(probs), axis, -1), tiny)
    t, _, denominator, _ = coefficients(np.shape(probs), target, axis=axis, **options)
    return _reduce(-np.sum(product(t, np.log(p)), axis=-1), denominator, reduction)


def cross_entropy_from_probs_grad(probs, target, *, axis=-1, reduction="mean", tiny, grad_output=None, **options):
    p = np.maximum(np.moveaxis(real(probs), axis, -1), tiny)
    t, kept, denominator, _ = coefficients(np.shape(probs), target, axis=axis, **options)
    with np.errstate(invalid="ignore"):
        grad = product(product(-t, 1 / p), _scale(reduction, denominator, grad_output))
    return np.moveaxis(np.where(kept[..., None], grad, 0), -1, axis)


# --- binary cross-entropy ------------------------------------------------------


def product(a, b):
    """a·b with 0·inf = 0."""
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0, a * b)


def _softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def _sigmoid(z):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-z))


def _kept_targets(target, weight, ignore_index, label_smoothing):
    """Return (targets after smoothing, 1 less that, weights, whether an element is counted)."""
    y, e = real(target), real(label_smoothing)
    kept = np.ones(y.shape, bool)
    if ignore_index is not None:
        kept = ~np.isnan(y) if np.isnan(ignore_index) else y != real(ignore_index)
    weight = np.where(kept, real(1.0 if weight is None else weight), 0)
    return y * (1 - e) + e / 2, (1 - y) * (1 - e) + e / 2, weight, kept


def _binary(target, weight, pos_weight, ignore_index, label_smoothing):
    """What log σ(x) and log σ(−x) are multiplied with, and how many elements are counted."""
    yes, no, weight, kept = _kept_targets(target, weight, ignore_index, label_smoothing)
    return product(product(yes, real(1.0 if pos_weight is None else pos_weight)), weight), product(no, weight), kept


def binary_cross_entropy_with_logits(
    logits, target, *, weight=None, pos_weight=None, ignore_index=None, label_smoothing=0.0, reduction="mean"
):
    x = real(logits)
    positive, negative, kept = _binary(target, weight, pos_weight, ignore_index, label_smoothing)
    losses = product(positive, _softplus(-x)) + product(negative, _softplus(x))
    return _reduce(losses, kept.sum(), reduction)


def binary_cross_entropy_with_logits_grad(
    logits,
    target,
    *,
    weight=None,
    pos_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    reduction="mean",
    grad_output=None,
):
    x = real(logits)
    positive, negative, kept = _binary(target, weight, pos_weight, ignore_index, label_smoothing)
    grad = product(negative, _sigmoid(x)) - product(positive, _sigmoid(-x))
    return _scaled(grad, (positive == 0) & (negative == 0), kept.sum(), reduction, grad_output)


def _scaled(grad, is_out, count, reduction, grad_output):
    """Gradients of elements, 0 of those that are left out."""
    g = real(1.0 if grad_output is None else grad_output)
    with np.errstate(all="ignore"):
        return np.where(is_out | (g == 0), 0, grad * (g / count if reduction == "mean" else g))


def binary_cross_entropy_from_probs(probs, target, *, weight=None, pos_weight=None, reduction="mean"):
    p = real(probs)
    positive, negative, kept = _binary(target, weight, pos_weight, None, 0.0)
    with np.errstate(all="ignore"):
        losses = product(positive, -np.log(p)) + product(negative, -np.log1p(-p))
    return _reduce(losses, kept.sum(), reduction)


def binary_cross_entropy_from_probs_grad(
    probs, target, *, weight=None, pos_weight=None, reduction="mean", grad_output=None
):
    p = real(probs)
    positive, negative, kept = _binary(target, weight, pos_weight, None, 0.0)
    with np.errstate(all="ignore"):
        grad = product(negative, 1 / (1 - p)) - product(positive, 1 / p)
    return _scaled(grad, (positive == 0) & (negative == 0), kept.sum(), reduction, grad_output)


# --- focal loss of sigmoids ----------------------------------------------------


def sigmoid_focal(logits, target, *, gamma=2.0, alpha=0.25):
    """Each element's loss and gradient, and the sum of the magnitudes of the terms of the gradient."""
    x, t, gamma = real(logits), real(target), real(gamma)
    share = np.ones(t.shape, REAL) if alpha is None else real(alpha) * t + (1 - real(alpha)) * (1 - t)
    with np.errstate(all="ignore"):
        entropy = product(t, _softplus(-x)) + product(1 - t, _softplus(x))
        rising, falling = product(1 - t, _sigmoid(x)), product(t, _sigmoid(-x))
        miss = falling + rising
        focus = share * miss**gamma
        pull = np.where(miss == 0, 0, product(gamma * (1 - 2 * t) * _sigmoid(x) * _sigmoid(-x) / miss, entropy))
        loss, grad = product(focus, entropy), product(focus, rising - falling + pull)
        size = product(np.abs(focus), np.abs(rising) + np.abs(falling) + np.abs(pull))
    return tuple(np.where(share == 0, 0, v) for v in (loss, grad, size))
