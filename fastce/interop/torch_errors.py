"""Errors of the classes that torch's own functions raise, with fastce's sentences."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, SupportsIndex

from fastce.interop.extras import extra

with extra("torch", "torch"):
    import torch
    from torch import Tensor

_CLASSES = NotImplementedError, RuntimeError, TypeError, ValueError, IndexError  # the first is a kind of the second
_WORDS = {  # of fastce, and of torch
    r"; use target.astype\(int\)": "; use target.long()",
    r"\blogits have\b": "input has",
    r"\b(logits|hidden)\b": "input",
    r"\b(?=weight has\b|bias\b)": "linear_",
    r"\bclass_weight\b": "weight",
}


def as_torch_raises(error: Exception, function: Callable[..., Tensor], *arguments: Any, **options: Any) -> Exception:
    """Return the error with which arguments were refused, in the class of torch's error for them.

    Torch's function is called to see. Without an error of its own, the class stays.
    """
    sentence = str(error)
    for ours, theirs in _WORDS.items():
        sentence = re.sub(ours, theirs, sentence)
    sparse = [value.layout for value in arguments if isinstance(value, Tensor) and value.layout is not torch.strided]
    if sparse:
        sentence = f"input and target must be dense, got {sparse[0]}"
    try:
        with torch.no_grad():
            function(*arguments, **options)
    except _CLASSES as refusal:
        return next(kind for kind in _CLASSES if isinstance(refusal, kind))(sentence)
    return error


def check_weight(input: Tensor, target: Tensor, weight: Tensor) -> None:
    """Raise RuntimeError if class weights have another dtype than the input, where torch does."""
    is_soft = target.shape == input.shape and target.is_floating_point()
    if weight.dtype is not input.dtype and not is_soft and not torch.is_autocast_enabled("cpu"):
        raise RuntimeError(f"weight must have the dtype of input, {input.dtype}, got {weight.dtype}")


def check_ignore_index(ignore_index: object, input: Tensor, target: Tensor) -> None:
    """Raise TypeError unless it is an integer, RuntimeError beside class probabilities."""
    if not isinstance(ignore_index, SupportsIndex):
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}")
    if target.shape == input.shape and target.is_floating_point():
        raise RuntimeError(f"ignore_index must be left out for class probabilities, got {ignore_index}")


def check_layer(input: Tensor, linear_weight: Tensor) -> None:
    """Raise RuntimeError unless the input and the weights of the last layer fit, as torch does."""
    if not input.ndim:
        raise RuntimeError("input must have at least one dimension, the features; got a scalar")
    if linear_weight.dtype is not input.dtype and not torch.is_autocast_enabled("cpu"):
        raise RuntimeError(f"linear_weight must have the dtype of input, {input.dtype}, got {linear_weight.dtype}")
