"""Cross-entropy under the transforms of ``torch.func``: with rules for ``vmap``, and derivatives of any order."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import array_of, array_or_none, loss_tensor
from fastce.interop.torch_functions import Options, gradient_of, target_gradient

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.autograd import Function

Dims = tuple[int | None, ...]


class CrossEntropy(Function):
    """The loss; its gradient takes a pass of its own."""

    @staticmethod
    def forward(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
        """Compute the loss."""
        loss = fastce.cross_entropy(array_of(input), array_of(target), weight=array_or_none(weight), **options)
        return loss_tensor(loss, input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the inputs."""
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return the gradients with respect to the logits and to class probabilities."""
        input, target, weight = ctx.saved_tensors
        options = ctx.options
        for_input = for_target = None
        if ctx.needs_input_grad[0]:
            for_input = _gradient_of_batch(grad_output, input, target, weight, options)
        if ctx.needs_input_grad[1]:
            log_p = formulas.log_probabilities(input, options)
            for_target = target_gradient(log_p, grad_output, target, weight, options)
        return for_input, for_target, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Dims, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> tuple[Tensor, int]:
        """Compute the losses of a batch of batches as those of one batch."""
        if in_dims[2] is not None:
            of_weight = torch.func.vmap(lambda *tensors: formulas.cross_entropy(*tensors, **options), in_dims[:3])
            return of_weight(input, target, weight), 0
        input, target = (
            _batch_first(x, dim, info.batch_size) for x, dim in zip((input, target), in_dims, strict=False)
        )
        shape = _samples(input)
        merged = _merged(input), _merged(target, input)
        loss = cross_entropy(*merged, weight, {**options, "reduction": "none"}).reshape(shape)
        if (reduction := options.get("reduction", "mean")) != "none":
            loss = loss.reshape(shape[0], -1).sum(1)
            if reduction == "mean":
                loss = loss / _total_weights(input, target, weight, options)
        return loss, 0


class Gradient(Function):
    """The gradient with respect to logits, times the upstream gradient."""

    @staticmethod
    def forward(grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
        """Compute the gradient."""
        return gradient_of(grad_output, input, target, weight, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the inputs."""
        *tensors, ctx.options = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return the derivatives with respect to the upstream gradient, the logits and class probabilities."""
        grad_output, input, target, weight = ctx.saved_tensors

        *_, is_target, _, _ = ctx.needs_input_grad

        def gradient(grad_output: Tensor, input: Tensor, *targets: Tensor) -> Tensor:
            return _gradient(grad_output, input, targets[0] if targets else target, weight, ctx.options)

        arguments = (grad_output, input, target) if is_target else (grad_output, input)
        derivatives = torch.func.vjp(gradient, *arguments)[1](upstream)
        return (*derivatives, None, None, None)[:5]

    @staticmethod
    def vmap(
        info: Any,
        in_dims: Dims,
        grad_output: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
    ) -> tuple[Tensor, int]:
        """Compute the gradients of a batch of batches as those of one batch."""
        if in_dims[3] is not None:
            return torch.func.vmap(partial(_gradient, options=options), in_dims[:4])(
                grad_output, input, target, weight
            ), 0
        tensors = zip((grad_output, input, target), in_dims, strict=False)
        grad_output, input, target = (_batch_first(x, dim, info.batch_size) for x, dim in tensors)
        shape = _samples(input)
        if (reduction := options.get("reduction", "mean")) != "none":
            if reduction == "mean":
                grad_output = grad_output / _total_weights(input, target, weight, options)
            grad_output = grad_output.reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
        merged = _merged(grad_output, input), _merged(input), _merged(target, input)
        gradient = _gradient_of_batch(*merged, weight, {**options, "reduction": "none"})
        return gradient.reshape(input.shape), 0


cross_entropy: Callable[..., Tensor] = CrossEntropy.apply
_gradient_of_batch: Callable[..., Tensor] = Gradient.apply


def _gradient(grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """Return the gradient with respect to logits, in torch's own operations."""

    def loss(x: Tensor) -> Tensor:
        return formulas.cross_entropy(x, target, weight, **options)

    return torch.func.vjp(loss, input)[1](grad_output)[0]  # type: ignore[no-any-return]


# --- batches of batches: (B, N, C, ...), or (B, C) of vectors ----------------------------------


def _batch_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Return a tensor with the axis of ``vmap`` in front."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def _merged(x: Tensor, input: Tensor | None = None) -> Tensor:
    """Return the logits of a batch of batches, or a tensor that belongs to them, as those of one batch."""
    return x if (x if input is None else input).ndim == 2 else x.flatten(0, 1)


def _samples(input: Tensor) -> tuple[int, ...]:
    """Return the shape of the losses of a batch of batches."""
    return input.shape[:-1] if input.ndim == 2 else (*input.shape[:2], *input.shape[3:])


def _total_weights(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor | int:
    """Return what each batch's mean divides by."""
    if target.shape == input.shape and target.is_floating_point():
        return math.prod(_samples(input)[1:])
    if target.shape == input.shape:
        target = target.long().argmax(1 if input.ndim == 2 else 2)
    is_kept = target != options.get("ignore_index", -100)
    weights = is_kept if weight is None else torch.where(is_kept, weight[torch.where(is_kept, target, 0).long()], 0.0)
    return weights.reshape(len(input), -1).sum(1)
