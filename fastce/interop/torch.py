"""fastce's functions for PyTorch, on tensors on the CPU: drop-ins for the losses of ``torch.nn``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastce
from fastce.interop import torch_formulas as formulas
from fastce.interop import torch_ops, torch_softmax, torch_transforms
from fastce.interop.extras import extra
from fastce.interop.torch_arrays import array_of, array_or_none, check_floating, check_tensors, in_dtype_of, loss_tensor
from fastce.interop.torch_errors import as_torch_raises, check_ignore_index, check_layer, check_weight
from fastce.interop.torch_functions import PLAIN, CrossEntropy
from fastce.interop.torch_losses import FOCAL, KL_DIVERGENCE, LINEAR, Kind, loss_of

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
_count_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack  # of tracers, among others
_are_transforms_active: Callable[[], bool] = torch._C._are_functorch_transforms_active
# as Function.apply, which asks for transforms again
_apply_cross_entropy: Callable[..., Tensor] = super(Function, CrossEntropy).apply


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
    r"""Compute the cross-entropy between logits and class indices or probabilities.

    It takes the place of ``torch.nn.functional.cross_entropy`` [1]_. With logits x, class weights w, label
    smoothing :math:`\varepsilon` over C classes, the factor z and the target as probabilities
    :math:`y_{ij}` (one-hot for class indices), the loss of sample i is

    .. math::
        t_{ij} = w_j \left((1 - \varepsilon)\, y_{ij} + \frac{\varepsilon}{C}\right), \qquad
        \ell_i = z \operatorname{lse}(x_i)^2 - \sum_j t_{ij} \log \operatorname{softmax}(x_i)_j

    Parameters
    ----------
    input : Tensor, shape (C,) or (N, C, ...)
        The logits, of any floating-point dtype, on the CPU.
    target : Tensor
        Class indices of any integer dtype, in the shape of ``input`` without the class axis. Or class
        probabilities of a floating-point dtype, in the shape of ``input``.
    weight : Tensor, shape (C,), optional
        One weight per class.
    size_average, reduce : bool, optional
        Deprecated, as in torch: use ``reduction``.
    ignore_index : int, default -100
        Samples with this class index are ignored. With class probabilities, only -100 is allowed.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the total class weight at the
        labels that are not ignored; for class probabilities, by the number of samples.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    z_loss : float, default 0.0
        Factor z of the squared log-sum-exp in the loss. Class weights do not scale it.
    logit_scale : float, default 1.0
        Factor of the logits, applied before ``softcap``.
    softcap : float, optional
        Smooth cap c: each logit x becomes c tanh(x / c).

    Returns
    -------
    Tensor
        The loss, in the dtype of ``input`` (float32 for 16 bits under autocast): of shape (), or with
        ``reduction="none"`` in the shape of ``input`` without the class axis. "mean" of nothing is NaN.

    Raises
    ------
    IndexError
        If a class index is outside 0 to C - 1 and not ``ignore_index``.
    TypeError
        If an argument is no tensor, or a tensor is not on the CPU.
    RuntimeError, TypeError, ValueError
        If an argument has a wrong dtype, shape or value, or there is an ``ignore_index`` for class probabilities.
        The class is that of torch's error.

    Notes
    -----
    Loss and gradient with respect to ``input`` come from one pass, if ``input`` requires a gradient. The gradient is
    kept for the backward pass. One loss a sample, or a loss of float16, takes two passes: one forward and one
    backward. fastce computes second derivatives too. Torch's own operations compute higher derivatives, second
    derivatives with ``z_loss``, ``logit_scale`` and ``softcap``, forward mode, and the gradient of ``weight``.

    Under ``torch.compile``, loss and gradient are the operators ``fastce::cross_entropy`` and
    ``fastce::cross_entropy_backward``. Transforms of ``torch.func`` reach the same kernels: ``vmap`` merges its
    axis with that of the samples.

    If ``input`` or ``target`` changes in place before the backward pass, that pass raises an error.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import cross_entropy
    >>> x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], requires_grad=True)
    >>> loss = cross_entropy(x, torch.tensor([0, -100]), label_smoothing=0.1)
    >>> round(loss.item(), 4)
    2.3076
    >>> loss.backward()
    >>> x.grad.numpy().round(4)
    array([[-0.8433,  0.2114,  0.6319],
           [ 0.    ,  0.    ,  0.    ]], dtype=float32)
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    is_usual = type(input) is type(target) is Tensor and input.is_cpu and target.is_cpu and weight is None
    if not is_usual:
        check_tensors(input=input, target=target, weight=weight)
        if weight is not None:
            check_weight(input, target, weight)
    options = PLAIN
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
    if (
        _is_compiling()
        or _count_modes()
        or _are_transforms_active()
        or forward_ad._current_level >= 0
        or (not is_usual and _have_operators(input, target, weight))
    ):
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
    """Return the cross-entropy under a compiler or tracer, transforms of ``torch.func``, or in forward mode."""
    if _is_traced(input, target, weight):
        if _are_transforms_active():
            return formulas.cross_entropy(input, target, weight, **options)
        return in_dtype_of(input, torch_ops.cross_entropy(input, target, weight, options))
    if forward_ad._current_level >= 0:
        return formulas.cross_entropy(input, target, weight, **options)
    return torch_transforms.cross_entropy(input, target, weight, options)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """The cross-entropy as a module: ``torch.nn.CrossEntropyLoss``, computed by fastce.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `cross_entropy`. ``weight`` is a buffer of the module.
    z_loss, logit_scale, softcap
        As in `cross_entropy`.

    Returns
    -------
    CrossEntropyLoss
        A ``torch.nn.CrossEntropyLoss`` with the same ``state_dict``.

    Raises
    ------
    IndexError, RuntimeError, TypeError, ValueError
        As `cross_entropy`, when it is called.

    See Also
    --------
    cross_entropy

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import CrossEntropyLoss
    >>> criterion = CrossEntropyLoss(label_smoothing=0.1)
    >>> round(criterion(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([0])).item(), 4)
    0.5137
    """

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
    r"""Compute the cross-entropy of a linear layer's output, a chunk at a time.

    It takes the place of ``torch.nn.functional.linear_cross_entropy`` [1]_.

    .. math:: x = h W^\top + b, \qquad L = \operatorname{cross\_entropy}(x, y)

    Parameters
    ----------
    input : Tensor, shape (D,) or (N, D)
        The input h of the layer, of any floating-point dtype, on the CPU.
    linear_weight : Tensor, shape (C, D) or (C, d1, ..., D)
        The weights W of the layer.
    target : Tensor, shape (), (N,) or (N, d1, ...)
        Class indices of any integer dtype. Or class probabilities, in the shape of the layer's output.
    linear_bias : Tensor, shape (C,) or (C, d1, ...), optional
        The biases b of the layer.
    weight : Tensor, shape (C,), optional
        One weight per class.
    reduction : {"mean", "sum", "none"}, default "mean"
        As in `cross_entropy`.
    ignore_index : int, optional
        Samples with this class index are ignored; None stands for -100.
    label_smoothing : float, default 0.0
        As in `cross_entropy`.
    options : object, optional
        Torch's options for chunks of logits. They have no effect here: use ``max_bytes``.
    max_bytes : int, optional
        Greatest size in bytes of a chunk of logits, by default that of `fastce.linear_cross_entropy`.

    Returns
    -------
    Tensor
        The loss, in the dtype of ``input`` (float32 for 16 bits under autocast).

    Raises
    ------
    IndexError, RuntimeError, TypeError, ValueError
        As `cross_entropy`.

    Notes
    -----
    Loss and gradients come from one pass over the chunks. One loss a sample, and 16 bits, take a forward and a
    backward pass. The gradients of all parts of the layer are computed, unless none requires one: frozen parts save no
    time. Class probabilities and weights of more than two axes, ``torch.func``, and derivatives of higher order need
    all logits at once. Under ``torch.compile``, the layer and its gradients are the operators
    ``fastce::linear_cross_entropy`` and ``fastce::linear_cross_entropy_backward``, which compute the logits once each.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear_cross_entropy.html

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import linear_cross_entropy
    >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.eye(2, requires_grad=True)
    >>> linear_cross_entropy(hidden, weight, torch.tensor([1])).backward()
    >>> weight.grad.numpy().round(4)
    array([[ 0.7311,  0.    ],
           [-0.7311,  0.    ]], dtype=float32)
    """
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
    others = linear_weight, linear_bias, target, weight
    if _is_traced(input, *others) and not _are_transforms_active():
        return in_dtype_of(input, torch_ops.linear_cross_entropy(input, *others, **keywords))
    try:
        return _loss(LINEAR, input, others, keywords)
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
    r"""Compute the focal loss between logits and class indices or class probabilities.

    With :math:`p = \operatorname{softmax}(x_i)`, the target as probabilities t after label smoothing, and a factor
    :math:`\alpha_j` for each class,

    .. math:: \ell_i = -\sum_j \alpha_j t_{ij} (1 - p_j)^\gamma \log p_j

    Parameters
    ----------
    input : Tensor, shape (C,) or (N, C, ...)
        The logits, of any floating-point dtype, on the CPU.
    target : Tensor
        As in `cross_entropy`.
    gamma : float
        At least 0. The greater it is, the less weight confident samples have.
    alpha : float or Tensor of shape (C,), optional
        A factor of the loss, or one for each class.
    ignore_index, reduction, label_smoothing
        As in `cross_entropy`. "mean" divides as `fastce.focal_loss` does.

    Returns
    -------
    Tensor
        The loss, in the dtype of ``input`` (float32 for 16 bits under autocast).

    Raises
    ------
    IndexError, TypeError, ValueError
        As `cross_entropy`.

    Notes
    -----
    Torch's own operations compute derivatives of higher order and with respect to arguments other than ``input``.
    Under ``torch.compile`` and ``torch.func``, they compute all.

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import focal_loss
    >>> x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    >>> focal_loss(x, torch.tensor([0]), gamma=2.0).backward()
    >>> x.grad.numpy().round(4)
    array([[-1.1125,  0.2992,  0.8133]], dtype=float32)
    """
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
    return _loss(FOCAL, input, (target, alpha), options)


def kl_divergence(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    reverse: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""Compute the Kullback-Leibler divergence of one softmax from another, both given by logits.

    With :math:`p = \operatorname{softmax}(x_i / T)` of ``input`` and :math:`q` of ``target``, at the temperature T,

    .. math:: \ell_i = \sum_j q_j \log \frac{q_j}{p_j}, \qquad
        \text{reversed} \quad \ell_i = \sum_j p_j \log \frac{p_j}{q_j}

    Parameters
    ----------
    input : Tensor, shape (C,) or (N, C, ...)
        The logits of p, of any floating-point dtype, on the CPU.
    target : Tensor, shape of ``input``
        The logits of q. ``torch.nn.functional.kl_div`` takes probabilities, or their logarithms, in both places.
    temperature : float, default 1.0
        Divisor of both logits.
    reverse : bool, default False
        Exchange p and q.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one divergence a sample, "sum" their sum, "mean" their mean, which torch calls "batchmean".

    Returns
    -------
    Tensor
        The divergence, in the dtype of ``input`` (float32 for 16 bits under autocast).

    Raises
    ------
    TypeError
        If an argument is no tensor or has a wrong dtype, or a tensor is not on the CPU.
    ValueError
        If an argument has a wrong shape or value.

    Notes
    -----
    Torch's own operations compute derivatives of higher order and with respect to ``target``. Under
    ``torch.compile`` and ``torch.func``, they compute all.

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import kl_divergence
    >>> x = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    >>> kl_divergence(x, torch.tensor([[3.0, 2.0, 1.0]])).backward()
    >>> x.grad.numpy().round(4)
    array([[-0.5752,  0.    ,  0.5752]], dtype=float32)
    """
    check_tensors(input=input, target=target)
    options = {
        "axis": formulas.class_axis(input),
        "temperature": temperature,
        "reverse": reverse,
        "reduction": reduction,
    }
    return _loss(KL_DIVERGENCE, input, (target,), options)


def _loss(kind: Kind, input: Tensor, others: Sequence[Tensor | None], options: Mapping[str, Any]) -> Tensor:
    """Return a loss of these tensors."""
    if _is_transformed(input, *others):
        return kind.formula(input, *others, **options)
    return loss_of(kind, input, others, options)


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    r"""Compute the softmax; it takes the place of ``torch.softmax``.

    .. math:: \operatorname{softmax}(x)_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    input : Tensor
        The logits, of any floating-point dtype, on the CPU.
    dim : int
        The axis of the classes.
    dtype : torch.dtype, optional
        The dtype to convert ``input`` to first.

    Returns
    -------
    Tensor, shape of ``input``
        The probabilities, in the dtype of ``input``.

    Raises
    ------
    IndexError
        If ``input`` has no such axis.
    TypeError
        If ``input`` is no tensor, is not on the CPU, or has no floating-point dtype.

    Notes
    -----
    Torch's own operations compute derivatives of higher order. Under ``torch.compile`` and ``torch.func``, they
    compute all.

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import softmax
    >>> softmax(torch.tensor([1.0, 1.0]), 0)
    tensor([0.5000, 0.5000])
    """
    return _activation(torch_softmax.softmax, torch.softmax, input, dim, dtype)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    r"""Compute the logarithm of the softmax; it takes the place of ``torch.log_softmax``.

    .. math:: \log \operatorname{softmax}(x)_j = x_j - \log \sum_k e^{x_k}

    Parameters
    ----------
    input, dim, dtype
        As in `softmax`.

    Returns
    -------
    Tensor, shape of ``input``
        The logarithms of the probabilities, in the dtype of ``input``.

    Raises
    ------
    IndexError, TypeError
        As `softmax`.

    Notes
    -----
    As for `softmax`.

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import log_softmax
    >>> log_softmax(torch.tensor([0.0, 0.0]), 0)
    tensor([-0.6931, -0.6931])
    """
    return _activation(torch_softmax.log_softmax, torch.log_softmax, input, dim, dtype)


def _activation(
    ours: Callable[..., Tensor], torchs: Callable[..., Tensor], input: Tensor, dim: int, dtype: torch.dtype | None
) -> Tensor:
    """Return the softmax or its logarithm, by torch's own function where fastce has no place."""
    if dtype is not None:
        input = input.to(dtype)
    check_tensors(input=input)
    check_floating(input)
    return torchs(input, dim) if _is_transformed(input) or not input.ndim else ours(input, dim)


def logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    r"""Compute the logarithm of the sum of exponentials; it takes the place of ``torch.logsumexp``.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    input : Tensor
        Real numbers, on the CPU.
    dim : int or tuple of int
        The axes to sum over; () for all axes.
    keepdim : bool, default False
        Keep these axes, with length 1.

    Returns
    -------
    Tensor
        In the dtype of ``input``, and for integers in torch's default dtype.

    Raises
    ------
    IndexError
        If ``input`` has no such axis.
    TypeError
        If ``input`` is no tensor or is not on the CPU.

    Notes
    -----
    As for `softmax`. For integers, torch's own function is called.

    Examples
    --------
    >>> import torch
    >>> from fastce.interop.torch import logsumexp
    >>> logsumexp(torch.tensor([[1000.0, 1000.0], [0.0, 0.0]]), 1)
    tensor([1.0007e+03, 6.9315e-01])
    """
    check_tensors(input=input)
    if _is_transformed(input) or not input.ndim or not input.dtype.is_floating_point:
        return torch.logsumexp(input, dim, keepdim)
    axes = range(input.ndim) if dim == () else (dim,) if isinstance(dim, int) else dim
    result = torch_softmax.logsumexp(input, tuple(axes))
    if keepdim:
        for axis in sorted(axis % input.ndim for axis in axes):
            result = result.unsqueeze(axis)
    return result


def _have_operators(*tensors: Tensor | None) -> bool:
    """Tell whether one of the tensors is of a class with operators of its own, as fake tensors are."""
    return any(type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__ for x in tensors if x is not None)


def _is_traced(*tensors: Tensor | None) -> bool:
    """Tell whether torch compiles, or a tracer or the tensors' class looks for operators."""
    return _is_compiling() or _count_modes() > 0 or _have_operators(*tensors)


def _is_transformed(*tensors: Tensor | None) -> bool:
    """Tell whether torch compiles, traces, or transforms: with ``torch.func``, or in forward mode."""
    return _is_traced(*tensors) or _are_transforms_active() or forward_ad._current_level >= 0


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """Return the reduction that torch's deprecated arguments stand for, with torch's warning."""
    size_average, reduce = size_average is None or size_average, reduce is None or reduce
    reduction = ("mean" if size_average else "sum") if reduce else "none"
    message = f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead."
    warnings.warn(message, stacklevel=3)
    return reduction


_DEFAULTS: Mapping[str, Any] = fastce.cross_entropy.__kwdefaults__  # type: ignore[assignment]


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not fastce's defaults."""
    return {name: value for name, value in options.items() if value is not _DEFAULTS[name] and value != _DEFAULTS[name]}
