"""Tensors as arrays and arrays as tensors, without copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.interop.extras import extra

with extra("torch", "torch"):
    import torch
    from torch import Tensor

_OPTIONAL = "alpha", "linear_bias", "weight"  # tensors

Array = np.ndarray[Any, Any]

_bfloat16 = torch.bfloat16
_is_grad_enabled = torch.is_grad_enabled
is_batched: Callable[[Tensor], bool] = torch._C._functorch.is_legacy_batchedtensor


@cache
def _bfloat16_of_numpy() -> np.dtype[Any]:
    with extra("torch", "ml_dtypes"):
        import ml_dtypes
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def array_of(tensor: Tensor) -> Array:
    """Return the array of a tensor in the same memory, or of a copy if its memory holds negated values."""
    if tensor.dtype is _bfloat16:
        return tensor.detach().resolve_neg().view(torch.uint16).numpy().view(_bfloat16_of_numpy())
    return tensor.numpy(force=True)


def array_or_none(tensor: Tensor | None) -> Array | None:
    """Return the array of a tensor, or None."""
    return None if tensor is None else array_of(tensor)


def tensor_of(array: npt.ArrayLike) -> Tensor:
    """Return the tensor of an array in the same memory, or of a NumPy scalar."""
    array = np.asarray(array)
    if array.dtype.num < 256:  # one of NumPy's own
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.uint16)).view(_bfloat16)


def loss_tensor(loss: npt.ArrayLike, input: Tensor) -> Tensor:
    """Return a loss of fastce as a tensor in the dtype of torch's loss."""
    tensor = torch.from_numpy(np.asarray(loss))
    return tensor if tensor.dtype is input.dtype else in_dtype_of(input, tensor)


def in_dtype_of(input: Tensor, loss: Tensor) -> Tensor:
    """Return a loss in the dtype of the input, or in float32 for 16 bits under autocast, as torch does."""
    check_floating(input)
    return loss if torch.is_autocast_enabled("cpu") else loss.to(input.dtype)


def is_torchs(grad_output: Tensor) -> bool:
    """Tell whether torch's own operations must compute a gradient.

    They do if it is in the graph itself, and for a batch of upstream gradients (``is_grads_batched``, ``vectorize``).
    """
    return _is_grad_enabled() or is_batched(grad_output)


def check_tensors(**tensors: Tensor | None) -> None:
    """Raise TypeError unless all are tensors on the CPU, or None where that is allowed."""
    for name, tensor in tensors.items():
        if tensor is not None or name not in _OPTIONAL:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
            if not tensor.is_cpu:
                raise TypeError(f"{name} must be a tensor on the CPU, got one on {tensor.device.type}")


def check_floating(input: Tensor) -> None:
    """Raise TypeError unless a tensor has a floating-point dtype."""
    if not input.dtype.is_floating_point:
        raise TypeError(f"input must have a floating-point dtype, got {input.dtype}")
