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
    z_loss=0.0,
    logit_scale=1.0,
    softcap=None,
    reduction="mean",
    grad_output=1.0,
    **options,
):
    """The loss and the gradients; rows that are left out take no part, whatever they hold."""
    target, w = np.asarray(target), real(weight)
    t, kept, denominator, u = reference.coefficients(
        (*target.shape, len(w)), target, weight=class_weight, z_loss=z_loss, **options
    )
    h = np.where(kept[..., None], real(hidden), 0)
    x, slope = reference.bend(h @ w.T + (0 if bias is None else real(bias)), -1, logit_scale, softcap)
    lse = reference.logsumexp(x)
    losses = np.where(kept, np.sum(t * (lse[..., None] - x), -1) + z_loss * u * lse**2, 0)
    g = real(grad_output)[..., None] * np.ones((*target.shape, 1))
    with np.errstate(all="ignore"):
        if reduction == "mean":
            g = np.where(g == 0, 0, g / denominator)
        grad = (reference.softmax(x) * (t.sum(-1) + 2 * z_loss * u * lse)[..., None] - t) * slope
        grad = reference.product(grad, g)
        grad = np.where(kept[..., None], grad, 0).reshape(target.size, w.shape[0])
        loss = losses if reduction == "none" else losses.sum() / (denominator if reduction == "mean" else 1)
    flat = np.where(g == 0, 0, h).reshape(target.size, w.shape[1])
    d_hidden = np.where(g == 0, 0, (grad @ w).reshape(h.shape))
    return Linear(loss, d_hidden, grad.T @ flat, grad.sum(0))
