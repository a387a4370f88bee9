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
    if target.shape == input.shape and target.is_floating_point():
        losses = -(target * weighted).sum(axis)
        is_kept, total = None, losses.numel()
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


def focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Any,
    sample_weight: Tensor | None,
    *,
    gamma: float,
    axis: int = 1,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Return the focal loss, of class indices or probabilities."""
    axis = class_axis(input)
    classes = input.shape[axis]
    if target.shape != input.shape or not target.is_floating_point():
        labels, is_kept = labels_of(target, input, ignore_index)
        probs = torch.movedim(labels.unsqueeze(-1) == torch.arange(classes), -1, axis).to(input.dtype)
    else:
        probs = target.to(input.dtype)
        is_kept = torch.ones_like(probs.select(axis, 0), dtype=torch.bool)
    factors = torch.ones_like(is_kept, dtype=input.dtype) if sample_weight is None else sample_weight.to(input.dtype)
    is_kept = is_kept & (factors != 0)
    kept = is_kept.unsqueeze(axis)
    per_class = alpha is not None and isinstance(alpha, Tensor) and alpha.ndim > 0
    weights = along(alpha.to(input.dtype), input) if per_class else torch.ones((), dtype=input.dtype)
    smooth = (1 - label_smoothing) * probs + label_smoothing / classes
    smooth = torch.where(kept, weights * smooth, 0.0)
    log_p = torch.log_softmax(torch.where(kept, input, 0.0), axis)
    terms = smooth * torch.where(smooth != 0, log_p, -1.0)
    if gamma:
        # 1 − p is kept from 0, where its powers have no derivative
        terms = terms * torch.clamp(-torch.expm1(log_p), min=FLOOR) ** gamma
    losses = -terms.sum(axis) * factors
    total = (torch.where(kept, weights * probs, 0.0).sum(axis) * factors).sum()
    if target.shape == input.shape and target.is_floating_point():
        total = torch.where(is_kept, factors, 0.0).sum()
    loss = reduced(torch.where(is_kept, losses, 0.0), reduction, total)
    return loss if alpha is None or per_class else alpha * loss


def kl_divergence(
    input: Tensor,
    target_logits: Tensor,
    sample_weight: Tensor | None,
    *,
    axis: int = 1,
    temperature: float = 1.0,
    reverse: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return the Kullback-Leibler divergence."""
    axis = class_axis(input)
    log_q = torch.log_softmax(target_logits.to(input.dtype) / temperature, axis)
    factors = torch.ones_like(log_q.select(axis, 0)) if sample_weight is None else sample_weight.to(input.dtype)
    is_kept = factors != 0
    log_p = torch.log_softmax(torch.where(is_kept.unsqueeze(axis), input, 0.0) / temperature, axis)
    above, below = (log_p, log_q) if reverse else (log_q, log_p)
    terms = torch.where(above > -torch.inf, above.exp() * (above - below), 0.0)
    losses = torch.where(is_kept, terms.sum(axis), 0.0) * factors
    return reduced(losses, reduction, factors.sum())


def partial_derivatives(
    formula: Callable[..., Tensor], inputs: Sequence[Any], options: Mapping[str, Any], are_wanted: Sequence[bool]
) -> Callable[[Tensor], list[Tensor | None]]:
    """Return a function of the upstream gradient: the derivatives of a formula, which are in the graph themselves."""
    # views, as one input may be made from another: the derivatives are partial
    views = [x.view_as(x) if isinstance(x, Tensor) else x for x in inputs]
    loss = formula(*views, **options)
    wanted = [view for view, is_wanted in zip(views, are_wanted, strict=True) if is_wanted]

    def of(grad_output: Tensor) -> list[Tensor | None]:
        gradients = iter(torch.autograd.grad(loss, wanted, grad_output.to(loss.dtype), create_graph=True))
        return [next(gradients) if is_wanted else None for is_wanted in are_wanted]

    return of


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
