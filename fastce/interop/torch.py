"""fastce's functions for PyTorch, on tensors on the CPU: drop-ins for the losses of ``torch.nn``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop import torch_ops, torch_transforms
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import array_of, array_or_none, check_tensors, in_dtype_of, loss_tensor
from fastce.interop.torch_errors import as_torch_raises, check_ignore_index, check_layer, check_weight
from fastce.interop.torch_functions import CrossEntropy
from fastce.interop.torch_losses import FOCAL, KL_DIVERGENCE, LINEAR, Kind, loss_of
from fastce.interop.torch_softmax import LogSoftmax, LogSumExp, Softmax

with extra("torch", "torch"):
    import torch
    from torch import Tensor
    from torch.autograd import Function, forward_ad
    from torch.nn import functional as F

__all__ = [
    "CrossEntropyLoss",
    "cross_entropy",
    "focal_loss",
    "kl_divergence",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "softmax",
]

_is_grad_enabled = torch.is_grad_enabled
_is_compiling = torch.compiler.is_compiling
_are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
# as Function.apply, which asks for transforms again
_apply_cross_entropy = super(Function, CrossEntropy).apply


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Compute."""
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    if not (type(input) is type(target) is Tensor and input.is_cpu and target.is_cpu and weight is None):
        check_tensors(input=input, target=target, weight=weight)
        if weight is not None:
            check_weight(input, target, weight)
    options: dict[str, Any] = {}
    if not (
        ignore_index == -100
        and reduction == "mean"
        and label_smoothing == z_loss == 0.0
        and logit_scale == 1.0
        and softcap is None
        and input.ndim < 3
    ):
        if ignore_index != -100:
            check_ignore_index(ignore_index, input, target)
        options = _given(
            axis=1 if input.ndim > 2 else -1,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            logit_scale=logit_scale,
            softcap=softcap,
        )
    if _is_compiling() or _are_transforms_active() or forward_ad._current_level >= 0:
        return _transformed(input, target, weight, options)
    try:
        has_graph = _is_grad_enabled()
        has_weight_gradient = has_graph and weight is not None and weight.requires_grad
        if has_graph and not has_weight_gradient and (input.requires_grad or target.requires_grad):
            return _apply_cross_entropy(input, target, weight, options)
        loss = fastce.cross_entropy(array_of(input), array_of(target), weight=array_or_none(weight), **options)
        if has_weight_gradient:  # of arguments that have been checked now
            return formulas.cross_entropy(input, target, weight, **options)
        return loss_tensor(loss, input)
    except (TypeError, ValueError) as error:
        of_torch = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
        raise as_torch_raises(error, F.cross_entropy, input, target, weight, **of_torch) from None


def _transformed(input: Tensor, target: Tensor, weight: Tensor | None, options: Mapping[str, Any]) -> Tensor:
    """Return the cross-entropy under a compiler, transforms of ``torch.func``, or in forward mode."""
    if _is_compiling():
        if _are_transforms_active():
            return formulas.cross_entropy(input, target, weight, **options)
        return in_dtype_of(input, torch_ops.cross_entropy(input, target, weight, options))
    if forward_ad._current_level >= 0:
        return formulas.cross_entropy(input, target, weight, **options)
    return torch_transforms.CrossEntropy.apply(input, target, weight, options)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """Module."""

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        logit_scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.logit_scale = logit_scale
        self.softcap = softcap

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compute the loss."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
        )


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: object = None,
    max_bytes: int | None = None,
) -> Tensor:
    """."""
    tensors = {"linear_weight": linear_weight, "target": target, "linear_bias": linear_bias, "weight": weight}
    check_tensors(input=input, **tensors)
    shape = (*input.shape[:-1], *linear_weight.shape[:-1])
    is_soft = target.shape == shape and target.is_floating_point()
    if is_soft and ignore_index is not None:
        raise RuntimeError(f"ignore_index must be None for class probabilities, got {ignore_index}")
    check_layer(input, linear_weight)
    keywords: dict[str, Any] = {
        "ignore_index": -100 if ignore_index is None else ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    if is_soft or linear_weight.ndim > 2:
        bias = None if linear_bias is None else linear_bias.flatten()
        logits = torch.nn.functional.linear(input, linear_weight.flatten(0, -2), bias).reshape(shape)
        return cross_entropy(logits, target, weight, **keywords)
    if max_bytes is not None:
        keywords["max_bytes"] = max_bytes
    try:
        return _loss(LINEAR, (input, linear_weight, linear_bias, target, weight), keywords)
    except (TypeError, ValueError) as error:
        keywords.pop("max_bytes", None)
        of_torch = {"linear_bias": linear_bias, "weight": weight, **keywords}
        raise as_torch_raises(error, F.linear_cross_entropy, input, linear_weight, target, **of_torch) from None


def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma: float,
    alpha: float | Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """."""
    if isinstance(alpha, int | float):
        alpha = torch.tensor(alpha, dtype=torch.float64)
    check_tensors(input=input, target=target, alpha=alpha)
    options = {
        "axis": formulas.class_axis(input),
        "gamma": gamma,
        "ignore_index": ignore_index,
        "reduction": reduction,
        "label_smoothing": label_smoothing,
    }
    return _loss(FOCAL, (input, target, alpha), options)


def kl_divergence(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """."""
    check_tensors(input=input, target=target)
    options = {
        "axis": formulas.class_axis(input),
        "temperature": temperature,
        "reverse": reverse,
        "reduction": reduction,
    }
    return _loss(KL_DIVERGENCE, (input, target), options)


def _loss(kind: Kind, tensors: Sequence[Tensor | None], options: Mapping[str, Any]) -> Tensor:
    if _is_transformed():
        return kind.formula(*tensors, **options)
    return loss_of(kind, tensors, options)


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """."""
    if dtype is not None:
        input = input.to(dtype)
    check_tensors(input=input)
    if _is_transformed() or not input.ndim:
        return torch.softmax(input, dim)
    return Softmax.apply(input, dim)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """."""
    if dtype is not None:
        input = input.to(dtype)
    check_tensors(input=input)
    if _is_transformed() or not input.ndim:
        return torch.log_softmax(input, dim)
    return LogSoftmax.apply(input, dim)


def logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """."""
    check_tensors(input=input)
    if _is_transformed() or not input.ndim or not input.dtype.is_floating_point:
        return torch.logsumexp(input, dim, keepdim)
    axes = range(input.ndim) if dim == () else (dim,) if isinstance(dim, int) else dim
    result = LogSumExp.apply(input, tuple(axes))
    if keepdim:
        for axis in sorted(axis % input.ndim for axis in axes):
            result = result.unsqueeze(axis)
    return result


def _is_transformed() -> bool:
    """Tell whether torch compiles or transforms: with transforms of ``torch.func``, or in forward mode."""
    return _is_compiling() or _are_transforms_active() or forward_ad._current_level >= 0


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """Return the reduction that torch's deprecated arguments stand for, with torch's warning."""
    size_average, reduce = size_average is None or size_average, reduce is None or reduce
    reduction = ("mean" if size_average else "sum") if reduce else "none"
    message = f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead."
    warnings.warn(message, stacklevel=3)
    return reduction


_DEFAULTS: Mapping[str, Any] = fastce.cross_entropy.__kwdefaults__


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not fastce's defaults."""
    return {name: value for name, value in options.items() if value is not _DEFAULTS[name] and value != _DEFAULTS[name]}
