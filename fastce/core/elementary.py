"""exp, log and sums of products of whole arrays.

NumPy computes them. In portable mode own kernels do, as the bits of NumPy's results differ between processors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.core.layout import Array
from fastce.kernels.codegen.jit import Kernel
from fastce.kernels.codegen.target import PORTABLE
from fastce.kernels.ops import elementary


def _own(kernel: Kernel) -> Callable[..., Any]:
    """Return a function like NumPy's that runs this kernel."""

    def function(x: npt.ArrayLike, *args: float, out: Array | None = None) -> Any:
        result = np.array(x, order="C")
        kernel(False, (result.reshape(-1), *args))
        if out is None:
            return result[()]
        out[...] = result
        return out

    return function


def _numpy_dots(x: Array, y: Array) -> Array:
    rows = "ij,ij->i" if y.ndim == 2 else "ij,j->i"
    result: Array = np.einsum(rows, x, y, dtype=np.float64, casting="unsafe")
    return result


def _own_dots(x: Array, y: Array) -> Array:
    result = np.empty(len(x))
    y = np.ascontiguousarray(np.broadcast_to(y, x.shape), x.dtype)
    elementary.dots(False, (np.ascontiguousarray(x), y, result))
    return result


exp: Callable[..., Any] = _own(elementary.exp) if PORTABLE else np.exp
expm1: Callable[..., Any] = _own(elementary.expm1) if PORTABLE else np.expm1
log: Callable[..., Any] = _own(elementary.log) if PORTABLE else np.log
log1p: Callable[..., Any] = _own(elementary.log1p) if PORTABLE else np.log1p
power: Callable[..., Any] = _own(elementary.power) if PORTABLE else np.power
# dots(x, y): the sums over classes of x * y, for x of shape (N, C) and y of shape (N, C) or (C,)
dots = _own_dots if PORTABLE else _numpy_dots
