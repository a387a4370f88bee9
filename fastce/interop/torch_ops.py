"""Cross-entropies as operators of torch's library, for ``torch.compile`` and ``torch.export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import array_of, array_or_none, tensor_of
from fastce.interop.torch_functions import target_gradient

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.library import custom_op

Optional = Any  # Tensor | None, as the schemas below say

_NAMES = "ignore_index", "reduction", "label_smoothing", "z_loss", "logit_scale", "softcap"
_INPUTS = "Tensor input, Tensor target, Tensor? weight"
_OPTIONS = (
    "int ignore_index=-100, str reduction='mean', float label_smoothing=0., float z_loss=0., float logit_scale=1., "
    "float? softcap=None"
)


def _named(options: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(_NAMES, options, strict=False))


def cross_entropy(input: Tensor, target: Tensor, weight: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the cross-entropy, in float64 or float32; ``options`` are those of `torch_functions`."""
    options = {name: value for name, value in options.items() if name != "axis"}
    return _forward(input, target, weight, **options)[0]  # type: ignore[no-any-return]


@custom_op(
    "fastce::cross_entropy",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor)",
)
def _forward(input: Tensor, target: Tensor, weight: Optional, *options: Any) -> tuple[Tensor, Tensor]:
    """Return the loss and the statistics of the samples."""
    keywords = {"axis": formulas.class_axis(input), "weight": array_or_none(weight), **_named(options)}
    loss, stats = fastce.cross_entropy_forward(array_of(input), array_of(target), **keywords)
    stats[:, np.isnan(stats[0])] = 0.0  # of samples left out, which labels and weights tell too; NaN is unlike itself
    return tensor_of(loss), tensor_of(stats)


@_forward.register_fake
def _(input: Tensor, target: Tensor, weight: Optional, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.float64 if input.dtype is torch.float64 else torch.float32
    axis = formulas.class_axis(input)
    samples = [*input.shape[:axis], *input.shape[axis + 1 :]]
    count = 1
    for n in samples:
        count = count * n
    loss = input.new_empty(samples if _named(options).get("reduction") == "none" else (), dtype=dtype)
    return loss, input.new_empty((2, count), dtype=dtype)


@custom_op(
    "fastce::cross_entropy_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad_output, {_INPUTS}, Tensor stats, {_OPTIONS}) -> Tensor",
)
def _backward(
    grad_output: Tensor, input: Tensor, target: Tensor, weight: Optional, stats: Tensor, *options: Any
) -> Tensor:
    """Return the gradient with respect to logits."""
    keywords = {"axis": formulas.class_axis(input), "weight": array_or_none(weight), **_named(options)}
    keywords["grad_output"] = array_of(grad_output)
    return tensor_of(fastce.cross_entropy_backward(array_of(input), array_of(target), array_of(stats), **keywords))


@_backward.register_fake
def _(grad_output: Tensor, input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, target, weight, *ctx.options = inputs
    ctx.save_for_backward(input, target, weight, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_output: Tensor, _: Any) -> tuple[Any, ...]:
    input, target, weight, stats = ctx.saved_tensors
    for_input = for_target = None
    if ctx.needs_input_grad[0]:
        for_input = _backward(grad_output, input, target, weight, stats, *ctx.options)
    if ctx.needs_input_grad[1]:
        options = _named(ctx.options)
        log_p = formulas.log_probabilities(input, options)
        for_target = target_gradient(log_p, grad_output, target, weight, options)
    return for_input, for_target, None, *(None for _ in ctx.options)


_forward.register_autograd(_gradients, setup_context=_setup_context)


# --- with a linear layer --------------------------------------------------------------------

_LAYER = "Tensor input, Tensor linear_weight, Tensor? linear_bias, Tensor target, Tensor? weight"
_LAYER_OPTIONS = "int ignore_index=-100, str reduction='mean', float label_smoothing=0., int? max_bytes=None"
_LAYER_NAMES = "ignore_index", "reduction", "label_smoothing", "max_bytes"


def _layer_keywords(bias: Tensor | None, weight: Tensor | None, options: Sequence[Any]) -> dict[str, Any]:
    given = {name: value for name, value in zip(_LAYER_NAMES, options, strict=False) if value is not None}
    return {"bias": array_or_none(bias), "class_weight": array_or_none(weight), **given}


@custom_op(
    "fastce::linear_cross_entropy",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_LAYER}, {_LAYER_OPTIONS}) -> Tensor",
)
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, linear_bias: Optional, target: Tensor, weight: Optional, *options: Any
) -> Tensor:
    """Return the loss, in float64 or float32."""
    arrays = map(array_of, (input, linear_weight, target))
    return tensor_of(fastce.linear_cross_entropy(*arrays, **_layer_keywords(linear_bias, weight, options)))


@linear_cross_entropy.register_fake
def _(
    input: Tensor, linear_weight: Tensor, linear_bias: Optional, target: Tensor, weight: Optional, *options: Any
) -> Tensor:
    is_double = any(x is not None and x.dtype is torch.float64 for x in (input, linear_weight, linear_bias))
    shape = input.shape[:-1] if "none" in options[1:2] else ()
    return input.new_empty(shape, dtype=torch.float64 if is_double else torch.float32)


@custom_op(
    "fastce::linear_cross_entropy_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor grad_output, {_LAYER}, {_LAYER_OPTIONS}) -> Tensor[]",
)
def _linear_backward(
    grad_output: Tensor,
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Optional,
    target: Tensor,
    weight: Optional,
    *options: Any,
) -> list[Tensor]:
    """Return the gradients with respect to the input, the weights and, if there are any, the biases."""
    keywords = {**_layer_keywords(linear_bias, weight, options), "grad_output": array_of(grad_output)}
    _, *gradients = fastce.linear_cross_entropy_and_grad(*map(array_of, (input, linear_weight, target)), **keywords)
    return [tensor_of(gradient) for gradient in gradients if gradient is not None]


@_linear_backward.register_fake
def _(grad_output: Tensor, input: Tensor, linear_weight: Tensor, linear_bias: Optional, *_: Any) -> list[Tensor]:
    return [torch.empty_like(x) for x in (input, linear_weight, linear_bias) if x is not None]


def _setup_linear_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.options = inputs[5:]
    ctx.save_for_backward(*inputs[:5])


def _linear_gradients(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    gradients = _linear_backward(grad_output, *ctx.saved_tensors, *ctx.options)
    for_bias = gradients[2] if len(gradients) > 2 else None
    return gradients[0], gradients[1], for_bias, None, None, *(None for _ in ctx.options)


linear_cross_entropy.register_autograd(_linear_gradients, setup_context=_setup_linear_context)
