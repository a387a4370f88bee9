"""The losses in torch's own operations: for derivatives of higher order, forward mode, compilation and transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastce.interop.extras import extra

with extra("torch", "torch"):
    import torch
    from torch import Tensor

TRANSFORM = "logit_scale", "softcap"  # options
FLOOR = 1e-30  # of 1 − p under a power


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    *,
    axis: int = 1,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return the cross-entropy; here and below the class axis is torch's, whatever ``axis`` says."""
    axis = class_axis(input)
    logits = transformed(input, logit_scale, softcap)
    log_p = torch.log_softmax(logits, axis)
    weights = None if weight is None else along(weight.to(log_p.dtype), input).expand_as(log_p)
    weighted = log_p if weights is None else log_p * weights
    is_kept = None
    if target.shape == input.shape and target.is_floating_point():
        losses = -(target * weighted).sum(axis)
        total: Any = losses.numel()
    else:
        labels, is_kept = labels_of(target, input, ignore_index)
        at_labels = labels.unsqueeze(axis)
        losses = -weighted.gather(axis, at_labels).squeeze(axis)
        total = torch.where(
            is_kept, 1.0 if weights is None else weights.gather(axis, at_labels).squeeze(axis), 0.0
        ).sum()
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing / input.shape[axis] * weighted.sum(axis)
    if z_loss:
        losses = losses + z_loss * torch.logsumexp(logits, axis) ** 2
    if is_kept is not None:
        losses = torch.where(is_kept, losses, 0.0)
    return reduced(losses, reduction, total).to(input.dtype)


def labels_of(target: Tensor, input: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Return class indices, 0 for ignored samples, and which samples are not ignored; from one-hot targets too."""
    if target.shape == input.shape:
        target = target.long().argmax(class_axis(input))
    is_kept = torch.ones_like(target, dtype=torch.bool) if ignore_index is None else target != ignore_index
    return torch.where(is_kept, target, 0).long(), is_kept


def transformed(input: Tensor, logit_scale: float = 1.0, softcap: float | None = None) -> Tensor:
    """Return scaled and capped logits."""
    if logit_scale != 1.0:
        input = input * logit_scale
    return input if softcap is None else softcap * torch.tanh(input / softcap)


def transformed_by(input: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return logits, scaled and capped by the options of cross-entropy."""
    return transformed(input, **{name: options[name] for name in TRANSFORM if name in options})


def log_probabilities(input: Tensor, options: Mapping[str, Any]) -> Tensor:
    """Return the log-softmax of logits, scaled and capped by the options of cross-entropy."""
    return torch.log_softmax(transformed_by(input, options), class_axis(input))


def focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Any,
    *,
    gamma: float,
    axis: int = 1,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the focal loss, of class indices or probabilities."""
    axis = class_axis(input)
    log_p = torch.log_softmax(input, axis)
    if target.shape == input.shape and target.is_floating_point():
        probs, is_kept = target.to(input.dtype), None
        total: Any = log_p.numel() // input.shape[axis]
    else:
        labels, is_kept = labels_of(target, input, ignore_index)
        probs = torch.movedim(labels.unsqueeze(-1) == torch.arange(input.shape[axis]), -1, axis).to(input.dtype)
    weights = along(alpha, input).expand_as(log_p) if alpha is not None and alpha.ndim else None
    if is_kept is not None:
        total = torch.where(is_kept, (probs if weights is None else weights * probs).sum(axis), 0.0).sum()
    probs = (1 - label_smoothing) * probs + label_smoothing / input.shape[axis]
    if weights is not None:
        probs = weights * probs
    terms = torch.where(probs != 0, probs * log_p, 0.0)
    if gamma:
        # 1 − p is kept from 0, where its powers have no derivative
        terms = terms * torch.clamp(-torch.expm1(log_p), min=FLOOR) ** gamma
    losses = -terms.sum(axis)
    loss = reduced(losses if is_kept is None else torch.where(is_kept, losses, 0.0), reduction, total)
    return loss if alpha is None or alpha.ndim else alpha * loss


def kl_divergence(
    input: Tensor,
    target_logits: Tensor,
    *,
    axis: int = 1,
    temperature: float = 1.0,
    reverse: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return the Kullback-Leibler divergence."""
    axis = class_axis(input)
    log_q = torch.log_softmax(target_logits.to(input.dtype) / temperature, axis)
    log_p = torch.log_softmax(input / temperature, axis)
    above, below = (log_p, log_q) if reverse else (log_q, log_p)
    losses = torch.where(above > -torch.inf, above.exp() * (above - below), 0.0).sum(axis)
    return reduced(losses, reduction, losses.numel())


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    *,
    max_bytes: int = 0,
    **options: Any,
) -> Tensor:
    """Return the cross-entropy of a linear layer's output, which is whole in memory."""
    logits = torch.nn.functional.linear(input, linear_weight, linear_bias)
    if logits.ndim > 2:
        logits, target = logits.flatten(0, -2), target.flatten()
    loss = cross_entropy(logits, target, weight, **options)
    return loss.reshape(input.shape[:-1]) if options.get("reduction") == "none" else loss


def partial_derivatives(
    grad_output: Tensor,
    formula: Callable[..., Tensor],
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    are_wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the derivatives of a formula, which are in the graph themselves, if it is recorded."""
    with torch.enable_grad():
        # views, as one input may be made from another: the derivatives are partial
        views = [x.view_as(x) if isinstance(x, Tensor) else x for x in inputs]
        loss = formula(*views, **options)
    wanted = [view for view, is_wanted in zip(views, are_wanted, strict=True) if is_wanted]
    has_graph = torch.is_grad_enabled()
    gradients = iter(torch.autograd.grad(loss, wanted, grad_output.to(loss.dtype), create_graph=has_graph))
    return [next(gradients) if is_wanted else None for is_wanted in are_wanted]


def class_axis(input: Tensor) -> int:
    """Return the axis of the classes: 1, or 0 of a vector."""
    return 1 if input.ndim > 1 else 0


def along(values: Tensor, input: Tensor) -> Tensor:
    """Return one value a class in a shape that fits logits."""
    return values.reshape(-1, *[1] * (input.ndim - 2)) if input.ndim > 1 else values


def reduced(losses: Tensor, reduction: str, total: Any) -> Tensor:
    """Return losses, their sum, or their sum divided by the total weight."""
    if reduction == "none":
        return losses
    return losses.sum() / total if reduction == "mean" else losses.sum()
