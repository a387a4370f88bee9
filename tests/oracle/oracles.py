"""The oracle of each public function, as it is called, and what errors are measured by.

For each function there is one that takes the same arguments and returns (value, size) for each result: an error may be
so many eps times the size, the sum of the magnitudes that the result is made of. Among them, each logit counts with its
distance from the greatest one, since exp turns an error relative to that into one of the exponential.
An infinite size says that nothing is left to compare.
"""

from typing import Any

import numpy as np

from tests.helpers import computed, finfo
from tests.oracle import reference, reference_losses
from tests.oracle.reference import REAL, real
from tests.oracle.reference_linear import linear

Found = list[tuple[Any, Any]]
EPS = 64  # how many of these an error may be


def _finite(x: Any) -> np.ndarray:
    return np.where(np.isfinite(x), np.abs(x), 0)


class Softmax:
    """Rows of logits: their softmax and its errors. ``blur`` is how uncertain each logit is by itself."""

    def __init__(self, x: np.ndarray, blur: Any = 0) -> None:
        self.logs = reference.log_softmax(x)
        self.p = np.exp(self.logs)
        self.lse = reference.logsumexp(x)[..., None]
        self.top = x.max(-1, keepdims=True, initial=-np.inf)
        self.far = _finite(x - self.top) + blur
        self.spread = np.nan_to_num(self.p * self.far).sum(-1, keepdims=True)
        self.of_p = self.p * (1 + self.far + self.spread)
        self.of_logs = _finite(self.logs) + self.far + self.spread
        self.of_lse = _finite(self.lse) + _finite(self.top) + self.spread


def _rounded(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """A second argument as it is computed with, in the precision of the first."""
    kind = like.dtype
    return real(x.astype(np.float64 if kind.kind in "biu" else computed(kind)))


def _info(x: np.ndarray) -> Any:
    """The limits of what ``x`` is computed in."""
    return finfo(np.float64 if x.dtype.kind in "biu" else computed(x.dtype))


def _lost(p: np.ndarray, factor: np.ndarray, info: Any) -> np.ndarray:
    """What sums of p times factor miss where exponentials below the smallest normal number are 0, in eps."""
    return np.nan_to_num(np.where(p < float(info.tiny), p * np.abs(factor), 0)).sum(-1) / float(info.eps)


def _reduced(each: Any, reduction: str, denominator: Any) -> Any:
    if reduction == "none":
        return each
    return np.nan_to_num(each).sum() / (np.abs(denominator) if reduction == "mean" else 1)


# --- the softmax family --------------------------------------------------------


def _masked_rows(x, axis, where):
    x = real(x)
    return reference.classes_last(x if where is None else np.where(where, x, -np.inf), axis)


def softmax(x, axis=-1, where=None) -> Found:
    rows, back = _masked_rows(x, axis, where)
    value = reference.softmax(x, axis, where=where)
    return [(value, back(Softmax(rows).of_p))]


def log_softmax(x, axis=-1, where=None) -> Found:
    rows, back = _masked_rows(x, axis, where)
    return [(reference.log_softmax(x, axis, where=where), back(Softmax(rows).of_logs))]


def logsumexp(x, axis=-1, keepdims=False, where=None) -> Found:
    rows, _ = _masked_rows(x, axis, where)
    lse = reference.logsumexp(x, axis, keepdims=keepdims, where=where)
    return [(lse, Softmax(rows).of_lse.reshape(lse.shape))]


def logsumexp_with_b(x, b, axis=-1, keepdims=False, where=None, return_sign=False) -> Found:
    there = np.broadcast_to((real(b) != 0) & (True if where is None else where), x.shape)
    lse, sign, excess = reference.weighted_logsumexp(x, b, axis, keepdims=keepdims, where=there)
    spread = Softmax(_masked_rows(x, axis, there)[0])
    size = spread.of_lse.reshape(lse.shape) + np.nan_to_num(excess) * (1 + spread.spread.reshape(lse.shape))
    is_lost = np.nan_to_num(excess) * (1 + spread.spread.reshape(lse.shape)) > 1e4  # next to nothing of the sum is left
    size = np.where(is_lost, np.inf, size)
    if not return_sign:
        return [(np.where(sign < 0, np.nan, lse), size)]
    return [(lse, size), (sign, np.where(is_lost, np.inf, 0))]


def softmax_vjp(g, p, axis=-1) -> Found:
    g, p = _rounded(g, p), real(p)
    value = reference.vjp("softmax", g, p, axis)
    return [(value, np.abs(p) * (np.abs(g) + np.abs(g * p).sum(axis, keepdims=True)))]


def log_softmax_vjp(g, logp, axis=-1) -> Found:
    g, logp = _rounded(g, logp), real(logp)
    value = reference.vjp("log_softmax", g, logp, axis)
    sums = np.abs(g).sum(axis, keepdims=True)
    return [(value, np.abs(g) + np.exp(logp) * (1 + _finite(logp)) * sums)]


def logsumexp_vjp(g, x, lse, axis=-1) -> Found:
    value = reference.vjp("logsumexp", _rounded(g, x), lse, axis, x)
    away = real(x) - real(lse).reshape(reference.reduced_shape(x.shape, axis, keepdims=True))
    return [(value, np.abs(value) * (1 + _finite(away)))]


# --- cross-entropy -------------------------------------------------------------


class CrossEntropy:
    """The parts that losses, gradients and their errors are made of; classes last."""

    def __init__(
        self, logits, target, *, axis=-1, z_loss=0.0, logit_scale=1.0, softcap=None, where=True, blur=0, **options
    ) -> None:
        x, slope = reference.bend(logits, axis, logit_scale, softcap, where)
        self.x = x
        scaled = np.moveaxis(_finite(real(logits) * logit_scale), axis, -1)
        is_bent = logit_scale != 1 or softcap is not None
        self.slope = np.abs(slope) * (1 if softcap is None else 1 + 2 * scaled / softcap)
        self.softmax = s = Softmax(x, blur + (_finite(x) if is_bent else 0))
        t, self.kept, self.denominator, u = reference.coefficients(
            np.shape(logits), target, axis=axis, where=where, z_loss=z_loss, **options
        )
        t = np.abs(t)
        amount = t.sum(-1, keepdims=True)
        z = np.abs(real(z_loss) * u)[..., None]
        squared = z * (_finite(s.lse) ** 2 + 2 * _finite(s.lse) * s.of_lse)
        losses = (t * _finite(s.logs) + (amount * s.p + t) * s.far).sum(-1) + squared[..., 0]
        self.losses = np.where(self.kept, losses, 0)
        terms = (amount + 2 * z * _finite(s.lse)) * s.of_p + t + 2 * z * s.p * s.of_lse
        self.terms = np.where(self.kept[..., None], terms, 0)
        counts = self.kept & np.isfinite(s.lse[..., 0]) & (z_loss != 0)
        self.z_losses = np.where(counts, real(z_loss) * u * s.lse[..., 0] ** 2, 0)
        self.of_z = np.where(self.kept, squared[..., 0], 0)

    def upstream(self, reduction, grad_output):
        """What each sample's gradient is multiplied by."""
        g = np.abs(real(1.0 if grad_output is None else grad_output))
        if reduction == "mean":
            g = g / np.abs(self.denominator)
        return g[..., None]


def cross_entropy(x, target, *, axis=-1, reduction="mean", **options) -> Found:
    value = reference.cross_entropy(x, target, axis=axis, reduction=reduction, **options)
    parts = CrossEntropy(x, target, axis=axis, **options)
    return [(value, _reduced(parts.losses, reduction, parts.denominator))]


def cross_entropy_and_grad(x, target, *, axis=-1, reduction="mean", grad_output=None, **options) -> Found:
    value = reference.cross_entropy(x, target, axis=axis, reduction=reduction, **options)
    grad = reference.cross_entropy_grad(x, target, axis=axis, reduction=reduction, grad_output=grad_output, **options)
    parts = CrossEntropy(x, target, axis=axis, **options)
    size = np.moveaxis(parts.terms * parts.slope * parts.upstream(reduction, grad_output), -1, axis)
    return [(value, _reduced(parts.losses, reduction, parts.denominator)), (grad, size)]


def forward(x, target, *, axis=-1, reduction="mean", **options) -> Found:
    """The loss, and maxima and sums of all samples; what is left of the sum has the size of a log-sum-exp's error."""
    loss = cross_entropy(x, target, axis=axis, reduction=reduction, **options)
    parts = CrossEntropy(x, target, axis=axis, **options)
    rows = parts.x.reshape(parts.kept.size, parts.x.shape[-1])
    looked_at = (parts.kept & ~reference.invalid(parts.x) & bool(parts.x.shape[-1])).reshape(-1)
    stats, size = np.full((2, len(rows)), REAL(np.nan)), np.zeros((2, len(rows)))
    for i in np.flatnonzero(looked_at):
        top = int(np.argmax(rows[i]))
        stats[0, i] = rows[i, top]
        terms = np.exp(np.delete(rows[i], top) - rows[i, top])
        stats[1, i] = terms.sum()
        size[:, i] = abs(stats[0, i]), (terms * (1 + np.nan_to_num(rows[i, top] - np.delete(rows[i], top)))).sum()
    size[1] += parts.softmax.of_lse.reshape(-1) * (1 + np.nan_to_num(stats[1].astype(float)))
    return [*loss, (stats, np.where(looked_at, size, np.where(parts.kept.reshape(-1), np.inf, 0)))]


def criterion(x, target, *, axis=-1, reduction="mean", grad_output=None, **options) -> Found:
    loss, grad = cross_entropy_and_grad(x, target, axis=axis, reduction=reduction, grad_output=grad_output, **options)
    lse, (z, of_z) = _by_products(CrossEntropy(x, target, axis=axis, **options), reduction)
    # nothing is left of it beside a loss that is infinite for its dtype
    of_rest = np.where(np.abs(loss[0]) > float(_info(x).max), np.inf, loss[1] + of_z)
    return [loss, grad, lse, (loss[0] - z, of_rest), (z, of_z)]


def _by_products(parts, reduction) -> Found:
    """The log-sum-exps, and the part z lse^2 of the loss."""
    z = parts.z_losses
    z = z if reduction == "none" else z.sum() / (parts.denominator if reduction == "mean" else 1)
    looked_at = parts.kept & ~reference.invalid(parts.x) & bool(parts.x.shape[-1])
    lse = np.where(looked_at, parts.softmax.lse[..., 0], np.nan)
    return [(lse, parts.softmax.of_lse[..., 0]), (z, _reduced(parts.of_z, reduction, parts.denominator))]


def from_probs(x, target, *, axis=-1, reduction="mean", grad_output=None, **options) -> Found:
    given = {"axis": axis, "tiny": float(_info(x).tiny), **options}
    loss = reference.cross_entropy_from_probs(x, target, reduction=reduction, **given)
    each = np.abs(reference.cross_entropy_from_probs(x, target, reduction="none", **given))
    denominator = reference.coefficients(x.shape, target, axis=axis, **options)[2]
    grad = reference.cross_entropy_from_probs_grad(x, target, reduction=reduction, grad_output=grad_output, **given)
    return [(loss, _reduced(each, reduction, denominator)), (grad, np.abs(grad))]


def binary(
    x, target, *, weight=None, pos_weight=None, ignore_index=None, label_smoothing=0.0, reduction="mean",
    grad_output=None,
) -> Found:  # fmt: skip
    weights = {"weight": weight, "pos_weight": pos_weight}
    loss_of, grad_of = reference.binary_cross_entropy_with_logits, reference.binary_cross_entropy_with_logits_grad
    target = _rounded(target, x)
    if ignore_index is not None:
        ignore_index = _rounded(np.array(ignore_index), x)
    given = {"reduction": reduction, "ignore_index": ignore_index, "label_smoothing": label_smoothing, **weights}
    loss, grad = loss_of(x, target, **given), grad_of(x, target, grad_output=grad_output, **given)
    count = 1 if ignore_index is None else np.mean(reference._kept_targets(target, None, ignore_index, 0.0)[3]) or 1
    smoothed = target * (1 - real(label_smoothing)) + real(label_smoothing) / 2
    return _of_elements(x, smoothed, loss, grad, loss_of, grad_of, weights, reduction, grad_output, count)


def _of_elements(x, target, loss, grad, loss_of, grad_of, weights, reduction, grad_output, share=1) -> Found:
    """Loss and gradient with their sizes, from those of targets of 0 and 1; ``share`` of the elements is counted."""
    ends = np.zeros(x.shape), np.ones(x.shape)
    no, yes = (np.abs(loss_of(x, y, reduction="none", **weights)) for y in ends)
    t = np.nan_to_num(target)
    each = reference.product(np.abs(1 - t) + 0.5, no) + reference.product(np.abs(t) + 0.5, yes)
    # (1 - t) σ(x) - t σ(-x) cancels, but for targets of 0 or 1
    slopes = sum(np.abs(grad_of(x, y, grad_output=grad_output, reduction=reduction, **weights)) for y in ends) / share
    slopes = slopes * np.maximum(1, np.abs(t))
    size = np.where((target == 0) | (target == 1), np.abs(grad), np.maximum(np.nan_to_num(slopes), np.abs(grad)))
    return [(loss, _reduced(_finite(each), reduction, max(x.size * share, 1))), (grad, size)]


def binary_from_probs(x, target, *, weight=None, pos_weight=None, reduction="mean", grad_output=None) -> Found:
    weights = {"weight": weight, "pos_weight": pos_weight}
    loss_of, grad_of = reference.binary_cross_entropy_from_probs, reference.binary_cross_entropy_from_probs_grad
    target = _rounded(target, x)
    loss = loss_of(x, target, reduction=reduction, **weights)
    grad = grad_of(x, target, reduction=reduction, grad_output=grad_output, **weights)
    return _of_elements(x, target, loss, grad, loss_of, grad_of, weights, reduction, grad_output)


def sigmoid_focal(x, target, *, gamma=2.0, alpha=0.25, reduction="mean", grad_output=None) -> Found:
    losses, grads, sizes = reference.sigmoid_focal(x, _rounded(target, x), gamma=gamma, alpha=alpha)
    g = real(1.0 if grad_output is None else grad_output)
    with np.errstate(all="ignore"):
        g = g / x.size if reduction == "mean" else g
        loss = losses if reduction == "none" else losses.sum() / (x.size if reduction == "mean" else 1)
        worst = 1 + real(gamma)
        size = sizes * np.abs(g) * worst
    return [
        (loss, _reduced(_finite(losses) * worst, reduction, max(x.size, 1))),
        (reference.product(grads, g), size),
    ]


# --- other losses --------------------------------------------------------------


def kl_divergence(
    x, z, *, axis=-1, temperature=1.0, reverse=False, sample_weight=None, reduction="mean", grad_output=None
) -> Found:
    return _divergence(x, z, float(reverse), axis, temperature, sample_weight, reduction, grad_output)


def jensen_shannon(x, z, *, axis=-1, beta=0.5, temperature=1.0, reduction="mean", grad_output=None) -> Found:
    return _divergence(x, z, beta, axis, temperature, None, reduction, grad_output)


def _divergence(x, z, share, axis, temperature, sample_weight, reduction, grad_output) -> Found:
    """The divergence with this share of the target in the mixture: 0 and 1 stand for those of q from p and p from q."""
    info = _info(x)
    x, z = (np.moveaxis(v, axis, -1) for v in (real(x), _rounded(z, x)))
    beta = 1 / REAL(temperature)
    both = [Softmax(v * beta, 0 if temperature == 1 else _finite(v * beta)) for v in (x, z)]
    off = both[0].of_logs + both[1].of_logs
    p, q = (s.p for s in both)
    a, b = (REAL(share), 1 - REAL(share)) if 0 < share < 1 else (REAL(1), REAL(1))
    if share == 0:
        losses, grads, _, _ = reference_losses.kl_divergence(x, z, temperature)
        size = both[0].of_p + both[1].of_p
        slopes, lost = np.abs(p - q), _lost(q, off, info)
    else:
        if share == 1:
            losses, grads, _, _, of_p = reference_losses.reversed_kl(x, z, temperature)
            slopes, lost = np.abs(p - q), _lost(p, off, info)
            steep = np.ones_like(p)
        else:
            losses, grads, _, _, of_p = reference_losses.jensen_shannon(x, z, share, temperature)
            m = a * q + b * p
            slopes = b * p * np.abs(of_p) + a * q * np.abs(np.where(q == 0, 0, np.log(q / m)))
            lost = _lost(p, off, info) + _lost(q, off, info)
            steep = np.where(m == 0, 0, a * q / m)  # the derivative of log p - log m by log p - log q
        top = np.take_along_axis(steep * off, x.argmax(-1, keepdims=True), -1) if p.shape[-1] else 0
        g0 = np.take_along_axis(of_p, x.argmax(-1, keepdims=True), -1) if p.shape[-1] else 0
        each = steep * off + top + np.abs(of_p) + np.abs(g0)
        size = b * p * np.nan_to_num(each + (p * (each + np.abs(of_p - g0) * off)).sum(-1, keepdims=True))
        size = size + np.abs(np.nan_to_num(grads)) / beta * off
    curved = q if share == 0 else a * b * np.maximum(p, q)
    each = _finite(losses) + np.nan_to_num(slopes * off + EPS * float(info.eps) * curved * off**2).sum(-1)
    each = each + lost
    u = np.ones(losses.shape) if sample_weight is None else real(sample_weight)
    losses, each = reference.product(losses, u), reference.product(each, u)
    count = u.sum() if reduction == "mean" else 1
    g = (real(1.0 if grad_output is None else grad_output) * u)[..., None] / (count or 1)
    loss = losses if reduction == "none" else losses.sum() / count if count else REAL(np.nan)
    grad, size = (
        np.moveaxis(v, -1, axis) for v in (reference.product(grads, g), beta * reference.product(size, np.abs(g)))
    )
    return [(loss, _reduced(each, reduction, count or 1)), (grad, size)]


def focal_loss(
    x, y, *, gamma, alpha=None, axis=-1, sample_weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean",
    grad_output=None,
) -> Found:  # fmt: skip
    number = 1 if alpha is None or np.ndim(alpha) else real(alpha)
    per_class = alpha if np.ndim(alpha) else None
    if y.shape == x.shape and y.ndim:
        y = _rounded(y, x)
    t, kept, total, _ = reference.coefficients(
        x.shape, y, axis=axis, weight=per_class, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )  # fmt: skip
    kept = kept & (number != 0)
    losses, grads, of_losses, of_grads = reference_losses.focal_loss(np.moveaxis(real(x), axis, -1), t * number, gamma)
    denominator = total if reduction == "mean" else REAL(1)
    g = real(1.0 if grad_output is None else grad_output)[..., None]
    losses, of_losses = np.where(kept, losses, 0), np.where(kept, of_losses, 0)
    loss = losses if reduction == "none" else losses.sum() / denominator
    scaled = np.where(g == 0, 0, g / denominator)
    grad, size = (
        np.moveaxis(np.where(kept[..., None], reference.product(v, factor), 0), -1, axis)
        for v, factor in ((grads, scaled), (of_grads, np.abs(scaled)))
    )
    return [(loss, _reduced(of_losses, reduction, denominator)), (grad, size)]


def score(x, target, *, axis=-1, ignore_index=-100, top_k=1) -> Found:
    found = reference_losses.score(x, target, axis=axis, ignore_index=ignore_index, top_k=top_k)
    s = Softmax(np.moveaxis(real(x), axis, -1))
    labels = np.where(target == ignore_index, 0, target).astype(np.intp)[..., None]
    of_own = np.take_along_axis(s.of_logs, labels, -1)[..., 0] if s.p.size else np.zeros(target.shape)
    entropy = _finite(found.entropy)
    of_entropy = entropy + np.nan_to_num(s.p * np.abs(s.logs + entropy[..., None]) * (1 + s.far)).sum(-1)
    of_entropy = of_entropy + _lost(s.p, s.logs, _info(x))
    exact = np.zeros(target.shape)
    return list(zip(found, (of_own, s.of_lse[..., 0], exact, exact, exact, of_entropy), strict=True))


def evaluate(
    x, target, *, axis=-1, ignore_index=-100, top_k=1, weight=None, sample_weight=None, label_smoothing=0.0
) -> Found:
    found = score(x, target, axis=axis, ignore_index=ignore_index)
    (rank, _), (entropy, of_entropy) = found[4], found[5]
    u = np.ones(rank.shape, REAL) if sample_weight is None else real(sample_weight)
    kept = (rank >= 0) & (u != 0)
    u = np.where(kept, u, 0)
    criterion = {"weight": weight, "sample_weight": None if sample_weight is None else u}
    criterion |= {"label_smoothing": label_smoothing, "ignore_index": ignore_index, "axis": axis}
    ((loss, of_loss),) = cross_entropy(x, target, **criterion)
    eps = float(_info(x).eps) / float(np.finfo(float).eps)
    of_loss = np.nan_to_num(of_loss) * eps
    shares = [np.sum(u * (kept & (rank < min(k, x.shape[axis])))) / u.sum() for k in (1, *np.atleast_1d(top_k))]
    entropy, of_entropy = (np.where(kept, v * u, 0).sum() / u.sum() for v in (entropy, np.nan_to_num(of_entropy)))
    return [
        (loss, of_loss),
        (np.exp(loss), _finite(np.exp(loss)) * (1 + of_loss)),
        (entropy, np.nan_to_num(of_entropy) * eps),
        (shares[0], shares[0]),
        (np.array(shares[1:]) if np.ndim(top_k) else shares[1], 1),
        (np.array(np.count_nonzero(kept)), 0),
    ]


def grad_and_hessian(x, target, *, axis=-1, hessian_scale=1.0, **options) -> Found:
    rows = np.moveaxis(real(x), axis, -1)
    is_soft = target.shape == x.shape
    t = np.moveaxis(_rounded(target, x), axis, -1) if is_soft else target
    grad, hessian, size = reference_losses.grad_and_hessian(rows, t, scale=hessian_scale, **options)
    s = Softmax(rows)
    _, lacking = reference_losses.both(rows)
    others = np.where(lacking > 0, (s.spread - s.p * s.far) / np.where(lacking > 0, lacking, 1), 0)
    blur = 1 + s.far + s.spread + np.abs(np.nan_to_num(others))
    found = [(grad, size * blur), (hessian, np.abs(hessian) * blur)]
    return [(np.moveaxis(v, -1, axis), np.moveaxis(np.nan_to_num(size), -1, axis)) for v, size in found]


def hessian_product(x, target, v, *, axis=-1, reduction="mean", grad_output=None, **options) -> Found:
    v = _rounded(v, x)
    rows, vector = (np.moveaxis(a, axis, -1) for a in (real(x), real(v)))
    if target.shape == x.shape:
        target = np.moveaxis(_rounded(target, x), axis, -1)
    s = Softmax(rows)
    options["far"] = s.far + s.spread
    found = reference_losses.hessian_product(rows, target, vector, reduction=reduction, **options)
    g = real(1.0 if grad_output is None else grad_output)[..., None]
    value, size = (np.moveaxis(np.where((v == 0) | (g == 0), 0, v * g), -1, axis) for v in found)
    return [(value, np.abs(size))]


# --- a layer and its loss ------------------------------------------------------


def linear_cross_entropy_and_grad(
    hidden, weight, target, *, bias=None, max_bytes=None, accumulate=False, class_weight=None, reduction="mean",
    grad_output=None, softcap=None, logit_scale=1.0, z_loss=0.0, **options,
) -> Found:  # fmt: skip
    """The loss, the log-sum-exps, the part of the z-loss, and the gradients."""
    bend = {"logit_scale": logit_scale, "softcap": softcap, "z_loss": z_loss}
    upstream = 1.0 if grad_output is None else grad_output
    given = {"class_weight": class_weight, "reduction": reduction, "grad_output": upstream, **bend, **options}
    values = linear(hidden, weight, target, bias=bias, **given)
    shape = (*np.shape(target), len(weight))
    kept = reference.coefficients(shape, target, weight=class_weight, z_loss=z_loss, **options)[1]
    h, w, b = np.where(kept[..., None], real(hidden), 0), real(weight), real(0.0 if bias is None else bias)
    blur = _finite(np.abs(h) @ np.abs(w).T + np.abs(b)) * abs(logit_scale)
    parts = CrossEntropy(h @ w.T + b, target, weight=class_weight, blur=blur, **bend, **options)
    slope = parts.slope * (1 if softcap is None else 1 + 2 * blur / softcap)
    info = min(
        (_info(v) for v in (hidden, weight, *([] if bias is None else [bias]))), key=lambda info: float(info.eps)
    )
    terms = parts.terms + float(info.tiny) / float(info.eps)  # exponentials below the smallest normal number may be 0
    size = np.nan_to_num(terms * slope * parts.upstream(reduction, grad_output))
    size = size.reshape(target.size, len(w))
    of_loss = _reduced(parts.losses, reduction, parts.denominator)
    sizes = (size @ np.abs(w)).reshape(h.shape), size.T @ _finite(h).reshape(target.size, w.shape[1]), size.sum(0)
    loss, *gradients = zip(values, (of_loss, *sizes), strict=True)
    return [loss, *_by_products(parts, reduction), *gradients]


def linear_cross_entropy(*arguments, **options) -> Found:
    return linear_cross_entropy_and_grad(*arguments, **options)[:1]
