"""The oracle of the last layer and its loss: all logits at once, in extended precision."""

from typing import NamedTuple

import numpy as np

from tests.oracle import reference
from tests.oracle.reference import real


class Linear(NamedTuple):
    loss: np.ndarray
    d_hidden: np.ndarray
    d_weight: np.ndarray
    d_bias: np.ndarray


def linear(
    hidden,
    weight,
    target,
    *,
    bias=None,
    class_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    z_loss=0.0,
    softcap=None,
    reduction="mean",
    normalizer=None,
    grad_output=1.0,
):
    """The loss and the gradients; rows that are ignored take no part, whatever they hold."""
    target = np.asarray(target)
    kept = target != ignore_index
    h, w = np.where(kept[..., None], real(hidden), 0), real(weight)
    raw = h @ w.T + (0 if bias is None else real(bias))
    x = raw if softcap is None else softcap * np.tanh(raw / softcap)
    t, _, denominator, _ = reference.coefficients(
        x.shape, target, weight=class_weight, ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    lse = reference.logsumexp(x)
    losses = np.where(kept, np.sum(t * (lse[..., None] - x), -1) + z_loss * lse**2, 0)
    denominator = denominator if normalizer is None else real(normalizer)
    g = real(grad_output)[..., None] * np.ones((*target.shape, 1))
    with np.errstate(all="ignore"):
        if reduction == "mean":
            g = g / denominator
        grad = g * (reference.softmax(x) * (t.sum(-1) + 2 * z_loss * lse)[..., None] - t)
        if softcap is not None:
            grad = grad / np.cosh(np.clip(raw / softcap, -5000, 5000)) ** 2
        grad = np.where(kept[..., None], grad, 0).reshape(target.size, w.shape[0])
        loss = losses if reduction == "none" else losses.sum() / (denominator if reduction == "mean" else 1)
    flat = h.reshape(target.size, w.shape[1])
    return Linear(loss, (grad @ w).reshape(h.shape), grad.T @ flat, grad.sum(0))
