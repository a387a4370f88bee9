"""The softmax family in torch's graph, with fastce's gradients at first order and torch's own operations above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import array_of, is_torchs, tensor_of

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.autograd import Function

Dims = int | tuple[int, ...]


class Softmax(Function):
    """The softmax."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int) -> Tensor:
        """Compute the probabilities."""
        return _kept(ctx, fastce.softmax(array_of(input), dim), dim)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return the gradient with respect to the input."""
        (probs,) = ctx.saved_tensors
        if is_torchs(grad_output):
            products = grad_output * probs
            return products - probs * products.sum(ctx.dim, keepdim=True), None
        return tensor_of(fastce.softmax_vjp(array_of(grad_output), array_of(probs), ctx.dim)), None


class LogSoftmax(Function):
    """The logarithm of the softmax."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int) -> Tensor:
        """Compute the logarithms of the probabilities."""
        return _kept(ctx, fastce.log_softmax(array_of(input), dim), dim)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return the gradient with respect to the input."""
        (log_p,) = ctx.saved_tensors
        if is_torchs(grad_output):
            return grad_output - log_p.exp() * grad_output.sum(ctx.dim, keepdim=True), None
        return tensor_of(fastce.log_softmax_vjp(array_of(grad_output), array_of(log_p), ctx.dim)), None


class LogSumExp(Function):
    """The logarithm of the sum of exponentials, without the axes summed over."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: Dims) -> Tensor:
        """Compute the logarithms of the sums."""
        return _kept(ctx, fastce.logsumexp(array_of(input), dim), dim, input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        """Return the gradient with respect to the input."""
        input, lse = ctx.saved_tensors
        if is_torchs(grad_output):
            options = {"dim": ctx.dim}
            return *formulas.partial_derivatives(grad_output, torch.logsumexp, (input,), options, (True,)), None
        arrays = array_of(grad_output), array_of(input), array_of(lse)
        return tensor_of(fastce.logsumexp_vjp(*arrays, ctx.dim)), None


def _kept(ctx: Any, array: npt.ArrayLike, dim: Dims, *inputs: Tensor) -> Tensor:
    """Return a result as a tensor, and save it behind the inputs for the backward pass."""
    result = tensor_of(array)
    ctx.dim = dim
    ctx.save_for_backward(*inputs, result)
    return result


softmax: Callable[..., Tensor] = Softmax.apply
log_softmax: Callable[..., Tensor] = LogSoftmax.apply
logsumexp: Callable[..., Tensor] = LogSumExp.apply
