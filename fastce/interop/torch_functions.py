"""Cross-entropy in torch's graph: loss and gradient in one pass, and a gradient that can be differentiated again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import Array, array_of, array_or_none, is_batched, is_torchs, loss_tensor, tensor_of

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.autograd import Function

Options = Mapping[str, Any]  # of cross-entropy that are not the defaults, in fastce's names, without the class weights
PLAIN: Options = {}

# bound once: to look them up takes time in a small loss
_from_numpy, _asarray = torch.from_numpy, np.asarray
_loss_and_gradient: Callable[..., tuple[Any, Array]] = fastce.cross_entropy_and_grad
_float16, _bfloat16, _float32, _int64 = torch.float16, torch.bfloat16, torch.float32, torch.int64


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
        if options is PLAIN and weight is None and input.dtype is _float32 and target.dtype is _int64:
            # the general way below, in as few steps as there can be: they take longer than a small loss
            loss, gradient = _loss_and_gradient(input.numpy(force=True), target.numpy(force=True))
            ctx.gradient = _from_numpy(gradient)
            return _from_numpy(_asarray(loss))
        if weight is not None:
            options = {**options, "weight": array_of(weight)}
        logits, labels = array_of(input), array_of(target)
        is_input, is_target, *_ = ctx.needs_input_grad
        if not is_input:
            loss = fastce.cross_entropy(logits, labels, **options)
        elif is_target or input.dtype is _float16 or options.get("reduction") == "none":
            loss, ctx.stats = fastce.cross_entropy_forward(logits, labels, **options)
        else:
            loss, gradient = _loss_and_gradient(logits, labels, **options)
            ctx.gradient = tensor_of(gradient)
        return loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return the gradients with respect to the logits and to class probabilities."""
        saved = ctx.saved_tensors  # which checks that they are unchanged
        gradient = vars(ctx).pop("gradient", None)  # in one step, as threads may share a graph
        if gradient is None or is_torchs(grad_output) or grad_output.item() != 1.0:
            return _gradients(ctx, gradient, grad_output, *saved)
        return gradient, None, None, None


def _gradients(
    ctx: Any, for_input: Tensor | None, grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None
) -> Any:
    """Return the gradients of `CrossEntropy`; they are in the graph themselves, if it is recorded."""
    is_input, is_target, *_ = ctx.needs_input_grad
    options = ctx.options
    if is_torchs(grad_output):
        if not is_target and not has_transform(options) and not is_batched(grad_output):
            return _differentiable_gradient(grad_output, input, target, weight, options), None, None, None
        tensors, are_wanted = (input, target, weight), (is_input, is_target, False)
        return *formulas.partial_derivatives(grad_output, formulas.cross_entropy, tensors, options, are_wanted), None
    for_target = None
    if is_input:
        if for_input is None or input.dtype is _bfloat16:  # which would be rounded twice
            for_input = gradient_of(grad_output, input, target, weight, options, getattr(ctx, "stats", None))
        else:
            for_input.mul_(grad_output)
    if is_target:
        logits = formulas.transformed_by(input, options)
        log_p = tensor_of(fastce.log_softmax(array_of(logits), formulas.class_axis(input)))
        for_target = target_gradient(log_p, grad_output, target, weight, options)
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
        return gradient_of(grad_output, input, target, weight, options)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        """Return the derivatives with respect to the upstream gradient and the logits."""
        grad_output, input, target, weight = ctx.saved_tensors
        options = ctx.options
        if is_torchs(upstream):
            return *gradient_derivatives(upstream, grad_output, input, target, weight, options), None, None, None
        is_output, is_input, *_ = ctx.needs_input_grad
        for_output = for_input = None
        if is_output:
            gradient = gradient_of(torch.ones_like(grad_output), input, target, weight, options)
            products = upstream * gradient
            for_output = products.sum(formulas.class_axis(input)) if grad_output.ndim else products.sum()
            for_output = for_output.reshape(grad_output.shape)
        if is_input:
            for_input = _hessian_product(upstream, grad_output, input, target, weight, options)
        return for_output, for_input, None, None, None


_differentiable_gradient: Callable[..., Tensor] = Gradient.apply


def gradient_of(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    stats: Array | None = None,
) -> Tensor:
    """Return the gradient of cross-entropy with respect to the logits, in new memory."""
    arguments = array_of(input), array_of(target)
    keywords = {**options, "weight": array_or_none(weight), "grad_output": array_of(grad_output)}
    if stats is None:
        return tensor_of(fastce.cross_entropy_and_grad(*arguments, **keywords).grad)
    return tensor_of(fastce.cross_entropy_backward(*arguments, stats, **keywords))


def gradient_derivatives(
    upstream: Tensor, grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor | None, ...]:
    """Return the derivatives of a gradient by the upstream gradient and the logits, in torch's own operations."""

    def gradient(output: Tensor, logits: Tensor) -> Tensor:
        loss = formulas.cross_entropy(logits, target, weight, **options)
        return torch.autograd.grad(loss, logits, output, create_graph=True)[0]

    inputs = grad_output, input
    return tuple(formulas.partial_derivatives(upstream, gradient, inputs, {}, [x.requires_grad for x in inputs]))


def _hessian_product(
    v: Tensor, grad_output: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    keywords = {**options, "weight": array_or_none(weight), "grad_output": array_of(grad_output)}
    return tensor_of(fastce.cross_entropy_hvp(array_of(input), array_of(target), array_of(v), **keywords))


def target_gradient(
    log_p: Tensor, grad_output: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    """Return the gradient with respect to class probabilities, −g w (1 − ε) log p / D, given log p."""
    axis = formulas.class_axis(log_p)
    factor = grad_output * (options.get("label_smoothing", 0.0) - 1.0)
    if options.get("reduction", "mean") == "mean":
        factor = factor * (log_p.shape[axis] / log_p.numel() if log_p.numel() else math.nan)
    result: Tensor = log_p * (factor.unsqueeze(axis) if factor.ndim else factor)
    if weight is not None:
        result = result * formulas.along(weight, log_p)
    return result.to(target.dtype)


def has_transform(options: Options) -> bool:
    """Tell whether the loss has options that torch's does not have."""
    return not options.keys().isdisjoint(("z_loss", *formulas.TRANSFORM))
