"""Cross-entropy in torch's graph: loss and gradient in one pass, and a gradient that can be differentiated again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import Array, array_of, array_or_none, loss_tensor, tensor_of

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.autograd import Function

Options = Mapping[str, Any]  # of cross-entropy, in fastce's names, but for the class weights

_is_grad_enabled = torch.is_grad_enabled
_float16, _bfloat16 = torch.float16, torch.bfloat16


class CrossEntropy(Function):
    """The loss, with a gradient for the backward pass.

    The gradient comes along in one pass, to be multiplied with the upstream gradient. Two passes take less for one loss
    a sample, and keep gradients of float16 from underflow: there, the statistics of each sample are saved.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
        """Compute the loss, and save its gradient or statistics."""
        ctx.save_for_backward(input, target, weight)
        ctx.options = options
        ctx.gradient = ctx.stats = None
        logits, labels = array_of(input), array_of(target)
        class_weight = None if weight is None else array_of(weight)
        if not ctx.needs_input_grad[0]:
            loss: Any = fastce.cross_entropy(logits, labels, weight=class_weight, **options)
        elif options["reduction"] == "none" or input.dtype is _float16:
            loss, ctx.stats = fastce.cross_entropy_forward(logits, labels, weight=class_weight, **options)
        else:
            loss, ctx.gradient = fastce.cross_entropy_and_grad(logits, labels, weight=class_weight, **options)
        return loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return the gradients with respect to the logits and to class probabilities."""
        input, target, weight = ctx.saved_tensors
        is_input, is_target, *_ = ctx.needs_input_grad
        options = ctx.options
        if _is_grad_enabled():
            if not is_target and not has_transform(options):
                return Gradient.apply(grad_output, input, target, weight, options), None, None, None
            wanted = is_input, is_target, False
            of = formulas.partial_derivatives(formulas.cross_entropy, (input, target, weight), options, wanted)
            return *of(grad_output), None
        for_input = for_target = None
        if is_input:
            gradient, ctx.gradient = ctx.gradient, None
            if gradient is None:
                for_input = gradient_of(grad_output, input, target, weight, options, ctx.stats)
            elif (factor := grad_output.item()) == 1.0:
                for_input = tensor_of(gradient)
            elif input.dtype is _bfloat16:  # one rounding, not two
                for_input = gradient_of(grad_output, input, target, weight, options, None)
            else:
                for_input = tensor_of(gradient).mul_(factor)
        if is_target:
            for_target = _target_gradient(grad_output, input, target, weight, options)
        return for_input, for_target, None, None


class Gradient(Function):
    """The gradient with respect to logits, times the upstream gradient."""

    @staticmethod
    def forward(
        ctx: Any, grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> Tensor:
        """Compute the gradient."""
        ctx.save_for_backward(grad_output, input, target, weight)
        ctx.options = options
        return gradient_of(grad_output, input, target, weight, options, None)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return the derivatives with respect to the upstream gradient and the logits."""
        grad_output, input, target, weight = ctx.saved_tensors
        options = ctx.options
        if _is_grad_enabled():
            return *gradient_derivatives(upstream, grad_output, input, target, weight, options), None, None, None
        is_output, is_input, *_ = ctx.needs_input_grad
        for_output = for_input = None
        if is_output:
            gradient = gradient_of(torch.ones_like(grad_output), input, target, weight, options, None)
            products = upstream * gradient
            for_output = products.sum(formulas.class_axis(input)) if grad_output.ndim else products.sum()
            for_output = for_output.reshape(grad_output.shape)
        if is_input:
            for_input = _hessian_product(upstream, grad_output, input, target, weight, options)
        return for_output, for_input, None, None, None


def gradient_of(
    grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options, stats: Array | None
) -> Tensor:
    """Return the gradient of cross-entropy with respect to the logits, in new memory."""
    arguments = array_of(input), array_of(target)
    keywords = {**options, "weight": array_or_none(weight), "grad_output": array_of(grad_output)}
    if stats is None:
        return tensor_of(fastce.cross_entropy_and_grad(*arguments, **keywords).grad)
    return tensor_of(fastce.cross_entropy_backward(*arguments, stats, **keywords))


def gradient_derivatives(
    upstream: Tensor, grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the derivatives of a gradient by the upstream gradient and the logits, in torch's own operations."""
    grad_output, logits = grad_output.view_as(grad_output), input.view_as(input)
    loss = formulas.cross_entropy(logits, target, weight, **options)
    (gradient,) = torch.autograd.grad(loss, logits, grad_output, create_graph=True)
    return torch.autograd.grad(gradient, (grad_output, logits), upstream, create_graph=True)


def _hessian_product(
    v: Tensor, grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    keywords = {name: options[name] for name in ("axis", "ignore_index", "label_smoothing", "reduction")}
    keywords |= {"weight": array_or_none(weight), "grad_output": array_of(grad_output)}
    return tensor_of(fastce.cross_entropy_hvp(array_of(input), array_of(target), array_of(v), **keywords))


def _target_gradient(
    grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    """Return the gradient with respect to class probabilities: −g w (1 − ε) log softmax(x) / D."""
    axis = options["axis"]
    logits = input if options["logit_scale"] == 1.0 else input * options["logit_scale"]
    if (softcap := options["softcap"]) is not None:
        logits = softcap * torch.tanh(logits / softcap)
    result = tensor_of(fastce.log_softmax(array_of(logits), axis))
    factor = grad_output * (options["label_smoothing"] - 1.0)
    if options["reduction"] == "mean":
        factor = factor * (input.shape[axis] / input.numel() if input.numel() else np.nan)
    result.mul_(factor.unsqueeze(axis) if factor.ndim else factor)
    if weight is not None:
        result.mul_(formulas.along(weight, input))
    return result.to(target.dtype)


def has_transform(options: Options) -> bool:
    """Tell whether the loss has options that torch's does not have."""
    return options["z_loss"] != 0.0 or options["logit_scale"] != 1.0 or options["softcap"] is not None
