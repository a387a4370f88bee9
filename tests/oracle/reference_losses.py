"""The oracle of divergence, focal loss, scores and second derivatives, in extended precision; classes last."""

import numpy as np

from fastce import Score
from tests.oracle import reference
from tests.oracle.reference import REAL, log_softmax, logsumexp, real


def kl_divergence(x, z, temperature=1.0):
    """The losses, the gradients of their sum, and the logarithms of both softmaxes.

    The definition's sum cancels by more digits than extended precision has to spare; that with
    p − q added, which is 0 in all, does not.
    """
    beta = REAL(1) / REAL(temperature)
    logp, logq = log_softmax(real(x) * beta), log_softmax(real(z) * beta)
    p, q = np.exp(logp), np.exp(logq)
    with np.errstate(invalid="ignore", over="ignore"):
        t = logp - logq
        losses = np.where(np.abs(t) < 1, q * (np.expm1(t) - t), p - q - np.where(q == 0, 0, q * t))
        losses = np.where((logp == -np.inf) & (logq > -np.inf), np.inf, losses)  # however small q is
    return losses.sum(-1), (p - q) * beta, logp, logq


def _from_the_greatest(g, p, x):
    """p (G - Σ p G), from G less that of the greatest class, so that little cancels where p is near 1."""
    top = x.argmax(-1, keepdims=True) if x.shape[-1] else np.zeros((*x.shape[:-1], 0), int)
    g = np.where(p == 0, 0, g - np.take_along_axis(g, top, -1))
    return p * (g - (p * g).sum(-1, keepdims=True))


def reversed_kl(x, z, temperature=1.0):
    """As `kl_divergence`, of p from q, and log p - log q, 0 for p = 0. Infinite losses have the gradient NaN."""
    losses, _, logq, logp = kl_divergence(z, x, temperature)
    with np.errstate(invalid="ignore", over="ignore"):
        t = np.where(logp == -np.inf, 0, logp - logq)
        grads = _from_the_greatest(t, np.exp(logp), real(x)) / REAL(temperature)
    return losses, np.where(losses == np.inf, np.nan, losses)[..., None] * 0 + grads, logp, logq, t


def _excess_entropy(v):
    """(1 + v) log(1 + v) - v for v of at least -1."""
    series = sum((-v) ** k / (k * (k - 1)) for k in range(2, 26))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        return np.where(np.abs(v) < 0.1, series, np.where(v == -1, 1, (1 + v) * np.log1p(v) - v))


def jensen_shannon(x, z, share, temperature=1.0):
    """As `reversed_kl`, with log p - log m in the place of log p - log q.

    A class's term is q (b h(u) - h(b u)) with u = p / q - 1, where h is `_excess_entropy`. For b near 1, b and p change
    places with a and q.
    """
    beta = REAL(1) / REAL(temperature)
    a, b = REAL(share), 1 - REAL(share)
    logp, logq = log_softmax(real(x) * beta), log_softmax(real(z) * beta)
    p, q = np.exp(logp), np.exp(logq)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        t = logp - logq
        of_p = np.where(t > 0, -np.log1p(a * np.expm1(-np.abs(t))), t - np.log1p(b * np.expm1(-np.abs(t))))
        of_q = np.where(t > 0, of_p - t, -np.log1p(b * np.expm1(-np.abs(t))))
        far = np.where(p == 0, 0, b * p * of_p) + np.where(q == 0, 0, a * q * of_q)
        less, greater, lesser_share = (q, t, b) if b <= 0.5 else (p, -t, a)
        u = np.expm1(np.where(np.abs(t) < 0.5, greater, 0))
        near = less * (lesser_share * _excess_entropy(u) - _excess_entropy(lesser_share * u))
        losses = np.where(np.abs(t) < 0.5, near, far).sum(-1)
        of_p = np.where(p == 0, 0, of_p)
        grads = b * beta * _from_the_greatest(of_p, p, real(x))
    return losses, grads, logp, logq, of_p


def focal_loss(x, t, gamma):
    """The losses, the gradients of their sum, and what the errors of both are measured by.

    ``t`` are targets after smoothing and weights, classes last. An error of a logit relative to its distance from the
    greatest is one of p, 1 - p and the entropy.
    """
    x, gamma = real(x), REAL(gamma)
    logs = log_softmax(x)
    p = np.exp(logs)
    with np.errstate(all="ignore"):
        top = np.arange(x.shape[-1]) == (np.argmax(x, -1)[..., None] if x.shape[-1] else 0)
        others = np.where(top, 0, p).sum(-1, keepdims=True)
        miss = np.where(top, others + 0 * p, 1 - p)
        far = np.nan_to_num(np.abs(x - x.max(-1, keepdims=True, initial=-np.inf)), posinf=0)
        spread = np.nan_to_num(p * far).sum(-1, keepdims=True)
        of_others = np.nan_to_num(np.where(top, 0, p * far)).sum(-1, keepdims=True) / np.where(others > 0, others, 1)
        blur = 1 + far + spread + np.where(top, of_others, 0)  # of p and of 1 - p, relative to them
        focus = np.where(t == 0, 0, t * miss**gamma) if gamma else t + 0 * p
        terms = np.where(focus == 0, 0, -focus * logs)
        pull = np.where((miss == 0) | (p == 0), 0, -p * logs / miss)
        s = focus * (1 + gamma * pull)
        total = s.sum(-1, keepdims=True)
        rest = np.where(top, 0, s).sum(-1, keepdims=True)
        grads = np.where(top, p * rest - s * miss, p * total - s)
        amount = np.abs(s)
        all_ = (amount * (1 + gamma) * blur).sum(-1, keepdims=True)
        rest = np.where(top, 0, amount * (1 + gamma) * blur).sum(-1, keepdims=True)
        sizes = np.where(
            top,
            p * (rest + np.abs(total - s)) + amount * miss * (1 + gamma) * blur,
            p * (all_ + np.abs(total) * blur) + amount * (1 + gamma) * blur,
        )
        of_losses = (np.nan_to_num(np.abs(terms), posinf=0) * (1 + gamma) * blur + np.abs(focus) * far).sum(-1)
    return terms.sum(-1), grads, of_losses, np.nan_to_num(sizes * (1 + spread))


def score(x, target, *, axis=-1, ignore_index=-100, top_k=1):
    """All that is asked of each sample."""
    x, target = np.moveaxis(real(x), axis, -1), np.asarray(target)
    classes = x.shape[-1]
    kept = target != ignore_index
    if not classes:
        nothing = np.zeros(target.shape, REAL)
        return Score(nothing, nothing, np.full(target.shape, -1), kept & False, np.full(target.shape, -1), nothing)
    labels = np.where(kept, target, 0).astype(np.intp)[..., None]
    logs = log_softmax(x)
    with np.errstate(invalid="ignore"):
        entropy = -np.where(logs == -np.inf, 0, np.exp(logs) * logs).sum(-1)
        own = np.take_along_axis(x, labels, -1)
        before = (x > own) | ((x == own) & (np.arange(classes) < labels))
    rank = np.where(np.isnan(x).any(-1), classes, before.sum(-1))
    log_prob = np.take_along_axis(logs, labels, -1)[..., 0]
    floats = (np.where(kept, v, 0) for v in (log_prob, logsumexp(x), entropy))
    argmax, rank = (np.where(kept, v, -1) for v in (np.argmax(x, -1), rank))
    log_prob, lse, entropy = floats
    return Score(log_prob, lse, argmax, (rank >= 0) & (rank < min(top_k or 1, classes)), rank, entropy)


def both(x):
    """Softmax and one minus softmax, each to extended precision."""
    x = real(x)
    p = reference.softmax(x)
    top = np.arange(x.shape[-1]) == np.argmax(x, -1)[..., None] if x.size else np.zeros(x.shape, bool)
    others = np.where(top, 0, p).sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return p, np.where(top, others + 0 * p, 1 - p)


def grad_and_hessian(x, target, sample_weight=None, scale=1.0, **options):
    """Each sample's gradient, the diagonal of its Hessian, and what errors of the gradient are measured by."""
    p, lacking = both(x)
    target = np.asarray(target)
    t, kept, _, _ = reference.coefficients(np.shape(x), target, sample_weight=sample_weight, **options)
    amount = t.sum(-1, keepdims=True)
    u = (np.ones(p.shape[:-1]) if sample_weight is None else real(sample_weight))[..., None]
    mass = amount if options.get("weight") is not None else u
    counts = kept[..., None] & (mass != 0)
    hessian = np.where(counts & (scale != 0), p * lacking * mass * REAL(scale), 0)
    if any(np.any(v) for v in (options.get("weight"), options.get("label_smoothing"))):
        is_most = np.abs(t) > np.abs(amount) / 2
        away = np.where(is_most, amount - t, 0)  # a (p - 1) + (a - t), where that cancels less
        grad = np.where(is_most, away - amount * lacking, amount * p - t)
        return np.where(counts, grad, 0), hessian, np.where(counts, np.abs(amount * p) + np.abs(t), 0)
    if target.shape != np.shape(x):
        hot = np.arange(p.shape[-1]) == target[..., None]
        grad = np.where(hot, -lacking, p)
        size = np.abs(grad)
    else:
        rising = p * real(target).sum(-1, keepdims=True)
        grad, size = rising - real(target), rising + real(target)
    return np.where(counts, grad * u, 0), hessian, np.where(counts, size * u, 0)


def hessian_product(x, target, v, *, reduction="mean", far=0, **options):
    """The Hessian times a vector, and what its errors are measured by where probabilities are 1 + ``far`` eps off."""
    t, kept, denominator, _ = reference.coefficients(np.shape(x), target, **options)
    p, v = reference.softmax(x), real(v)
    with np.errstate(all="ignore"):
        slope = t.sum(-1) / (denominator if reduction == "mean" else 1)
        if x.size:
            centre = np.take_along_axis(v, np.argmax(real(x), -1)[..., None], -1)
        else:
            centre = 0
        gap = v - centre
        mean = (p * gap).sum(-1, keepdims=True)
        result = slope[..., None] * p * (gap - mean)
        sizes = np.abs(gap) * (1 + far)
        size = np.abs(slope)[..., None] * p * (sizes + np.nan_to_num(p * sizes).sum(-1, keepdims=True))
    counts = (kept & (t.sum(-1) != 0))[..., None]
    return np.where(counts, result, 0), np.where(counts, size, 0)
