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


def focal_loss(x, y, gamma, alpha=None, ignore_index=-100, sample_weight=None):
    """The losses, the gradients of their sum, the kept samples' sum of weights, and the cross-entropy."""
    x = real(x)
    kept = y != ignore_index
    safe = np.where(kept, y, 0).astype(np.intp)
    hot = np.arange(x.shape[-1]) == safe[..., None]
    logs = log_softmax(x)
    p = np.exp(logs)
    with np.errstate(all="ignore"):
        miss = np.where(np.isnan(logs).any(-1), np.nan, np.where(hot, 0, p).sum(-1))  # 1 - p from the others' sum
        entropy = np.where(hot, -logs, 0).sum(-1)
        a = np.where(kept, 1 if alpha is None else real(alpha)[safe], REAL(0)) if x.size else np.zeros(y.shape, REAL)
        a = a * (1 if sample_weight is None else real(sample_weight))
        kept = kept & (a != 0)
        gamma = REAL(gamma)
        loss = np.where(entropy == 0, 0, miss**gamma * entropy)
        at = np.where(hot, p, 0).sum(-1)
        pull = np.where((miss == 0) | (at == 0), 0, gamma * at * miss ** (gamma - 1) * entropy) if gamma else 0
        minus = np.where(hot, -miss[..., None], p)
        grad = (a * (miss**gamma + pull))[..., None] * minus
    return np.where(kept, a * loss, 0), np.where(kept[..., None], grad, 0), a.sum(), entropy


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


def grad_and_hessian(x, target, u=None, scale=1.0):
    """Each sample's gradient, the diagonal of its Hessian, and what errors of the gradient are measured by."""
    p, lacking = both(x)
    target = np.asarray(target)
    if target.shape != np.shape(x):
        hot = np.arange(p.shape[-1]) == target[..., None]
        grad = np.where(hot, -lacking, p)
        size = np.abs(grad)
    else:
        rising = p * real(target).sum(-1, keepdims=True)
        grad, size = rising - real(target), rising + real(target)
    u = (np.ones(p.shape[:-1]) if u is None else real(u))[..., None]
    return grad * u, p * lacking * u * REAL(scale), size * u


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
