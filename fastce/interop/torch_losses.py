"""Losses in torch's graph, with fastce's gradients at first order and a formula of torch above."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop.extras import extra
from fastce.interop.gradients import come_with_the_loss, multiplied
from fastce.interop.torch_arrays import array_of, array_or_none, is_torchs, loss_tensor, tensor_of

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.autograd import Function


class Kind(NamedTuple):
    """A loss: its functions without and with gradients, its formula, and the names of its tensors in fastce."""

    loss: Callable[..., Any]
    loss_and_gradients: Callable[..., Any]
    formula: Callable[..., Tensor]
    differentiable: tuple[str, ...]  # names of those with gradients
    constant: tuple[str, ...]

    def arrays(self, tensors: Sequence[Tensor | None]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the arrays with gradients and the others, each by its name."""
        count = len(self.differentiable)
        given = {name: array_of(x) for name, x in zip(self.differentiable, tensors, strict=False) if x is not None}
        return given, dict(zip(self.constant, map(array_or_none, tensors[count:]), strict=True))


FOCAL = Kind(fastce.focal_loss, fastce.focal_loss_and_grad, formulas.focal_loss, ("logits",), ("target", "alpha"))
KL_DIVERGENCE = Kind(
    fastce.kl_divergence, fastce.kl_divergence_and_grad, formulas.kl_divergence, ("logits",), ("target_logits",)
)
LINEAR = Kind(
    fastce.linear_cross_entropy,
    fastce.linear_cross_entropy_and_grad,
    formulas.linear_cross_entropy,
    ("hidden", "weight", "bias"),
    ("target", "class_weight"),
)


def loss_of(kind: Kind, input: Tensor, others: Sequence[Tensor | None], options: Mapping[str, Any]) -> Tensor:
    """Return a loss of these tensors, in torch's graph if one of them is."""
    tensors = input, *others
    if not torch.is_grad_enabled() or not any(x is not None and x.requires_grad for x in tensors):
        arrays, constants = kind.arrays(tensors)
        return loss_tensor(kind.loss(**arrays, **constants, **options), input)
    if any(x is not None and x.requires_grad for x in tensors[len(kind.differentiable) :]):
        return kind.formula(*tensors, **options)
    return _apply(kind, options, *tensors)


class _Loss(Function):
    @staticmethod
    def forward(ctx: Any, kind: Kind, options: Mapping[str, Any], input: Tensor, *others: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, *others)
        ctx.kind, ctx.options = kind, options
        arrays, constants = kind.arrays((input, *others))
        if not come_with_the_loss(arrays, options):
            return loss_tensor(kind.loss(**arrays, **constants, **options), input)
        loss, *ctx.gradients = kind.loss_and_gradients(**arrays, **constants, **options)
        return loss_tensor(loss, input)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        tensors = ctx.saved_tensors
        gradients = vars(ctx).pop("gradients", None)  # in one step, as threads may share a graph
        are_wanted = ctx.needs_input_grad[2:]
        kind, options = ctx.kind, ctx.options
        if is_torchs(grad_output):
            return None, None, *formulas.partial_derivatives(grad_output, kind.formula, tensors, options, are_wanted)
        factor: Any = array_of(grad_output)
        if gradients is None:
            arrays, constants = kind.arrays(tensors)
            _, *gradients = kind.loss_and_gradients(**arrays, **constants, **options, grad_output=factor)
            factor = 1.0
        axis = options.get("axis", -1)
        pairs = zip_longest(gradients, are_wanted)
        return None, None, *(tensor_of(multiplied(x, factor, axis)) if is_wanted else None for x, is_wanted in pairs)


_apply: Callable[..., Tensor] = _Loss.apply
