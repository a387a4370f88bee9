"""The machine's limits, with the same number of threads: moving as many bytes, or the bare matrix products.

Numba loops over slices, one share of the array a thread. They reached as much as NumPy calls in Python threads on
large arrays and cost only 2 µs to start, so that they also bound the small shapes.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numba as nb
import numpy as np

from bench.cases import Op
from bench.contenders import Call, Calls
from bench.inputs import Inputs, LayerInputs

SERIAL_BELOW = 1 << 17  # bytes; under it starting threads costs more than it gains


@cache
def _kernels(parts: int) -> dict[str, Any]:
    """Compile loops over arrays in so many parts, serial ones for one part."""
    compiled = nb.njit(parallel=parts > 1, cache=True)  # the cache tells them apart by ``parts``, which all use

    @compiled
    def read(x, bits):
        for p in nb.prange(parts):
            y, union = x[len(x) * p // parts : len(x) * (p + 1) // parts], np.int64(0)
            for k in range(len(y)):
                union |= y[k]  # OR needs no rounding order, so LLVM vectorises it without fastmath
            bits[p] = union

    @compiled
    def copy(x, out):
        for p in nb.prange(parts):
            i, j = len(x) * p // parts, len(x) * (p + 1) // parts
            y, z = x[i:j], out[i:j]
            for k in range(len(y)):
                z[k] = y[k]

    @compiled
    def add(x, other, out):
        for p in nb.prange(parts):
            i, j = len(x) * p // parts, len(x) * (p + 1) // parts
            y, z, sums = x[i:j], other[i:j], out[i:j]
            for k in range(len(y)):
                sums[k] = y[k] + z[k]

    @compiled
    def scale(x, factor):
        for p in nb.prange(parts):
            y = x[len(x) * p // parts : len(x) * (p + 1) // parts]
            for k in range(len(y)):
                y[k] *= factor

    return {"read": read, "copy": copy, "add": add, "scale": scale}


def _parts(x: np.ndarray) -> int:
    return 1 if x.nbytes < SERIAL_BELOW else 4 * nb.get_num_threads()


def _moving(name: str, x: np.ndarray, *others: np.ndarray) -> Call:
    """Return a call of a kernel on the memory of the arrays as integers of 64 bits, whatever the layout."""
    count = x.size - x.size % (8 // x.itemsize)
    words = [array.ravel(order="K")[:count].view(np.int64) for array in (x, *others)]
    bits = [np.zeros(_parts(x), np.int64)] if name == "read" else []
    return partial(_kernels(_parts(x))[name], *words, *bits)


def _scaling(i: Inputs) -> Call:
    x = i.logits.ravel(order="K")  # by a variable to the compiled loop, so that the work is done
    return partial(_kernels(_parts(x))["scale"], x, x.dtype.type(1))


def _three_products(i: LayerInputs) -> Call:
    """Multiply as the last layer's loss and gradients have to, into arrays that are there already."""
    logits = np.zeros((len(i.hidden), len(i.weight)), np.float32)
    d_hidden, d_weight = np.zeros_like(i.hidden), np.zeros_like(i.weight)

    def call() -> None:
        np.matmul(i.hidden, i.weight.T, out=logits)
        np.matmul(logits, i.weight, out=d_hidden)
        np.matmul(logits.T, i.hidden, out=d_weight)

    return call


MEMORY: Calls = {
    **dict.fromkeys((Op.LOSS, Op.LSE), lambda i: _moving("read", i.logits)),
    **dict.fromkeys(
        (Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE_VJP, Op.INPLACE), lambda i: _moving("copy", i.logits, i.out)
    ),
    Op.SOFTMAX_VJP: lambda i: _moving("add", i.logits, i.saved(Op.SOFTMAX_VJP), i.out),
    Op.LOG_SOFTMAX_VJP: lambda i: _moving("add", i.logits, i.saved(Op.LOG_SOFTMAX_VJP), i.out),
    Op.SCALE: _scaling,
}
PRODUCTS: Calls = {
    Op.LAYER_LOSS: lambda i: partial(
        np.matmul, i.hidden, i.weight.T, out=np.zeros((len(i.hidden), len(i.weight)), np.float32)
    ),
    Op.LAYER_GRADS: _three_products,
}
