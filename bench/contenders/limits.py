"""The machine's limits with the same number of threads: moving as many bytes, or the bare matrix products.

The loops are Numba's. On large arrays they are as fast as NumPy calls in Python threads, and they start in 2 µs, so
that they bound small shapes too.
"""

from functools import cache, partial
from typing import Any

import numba as nb
import numpy as np

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs, LayerInputs

SERIAL_BELOW = 1 << 17  # bytes; below, starting threads costs more than it gains


def read(x):
    total = 0  # of integers, which need no rounding order, so that the compiler vectorises the sum
    for k in nb.prange(len(x)):
        total += x[k]
    return total


def copy(x, out):
    for k in nb.prange(len(x)):
        out[k] = x[k]


def add(x, other, out):
    for k in nb.prange(len(x)):
        out[k] = x[k] + other[k]


def scale(x, factor):  # the compiler does not know the factor, so it cannot drop the work
    for k in nb.prange(len(x)):
        x[k] *= factor


@cache
def _compiled(loop: Any, parallel: bool) -> Any:
    """Compile a loop; only parallel ones are cached on disk, since the cache does not tell the two apart."""
    return nb.njit(loop, parallel=parallel, cache=parallel)


def _moving(loop: Any, *arrays: np.ndarray) -> Call:
    """Return a call of a loop on the memory of the arrays as 64-bit integers, whatever the layout."""
    first = arrays[0]
    count = first.size - first.size % (8 // first.itemsize)
    words = [array.ravel(order="K")[:count].view(np.int64) for array in arrays]
    return partial(_compiled(loop, first.nbytes >= SERIAL_BELOW), *words)


def _reading(i: Inputs) -> Call:
    return _moving(read, i.logits)


def _copying(i: Inputs) -> Call:
    return _moving(copy, i.logits, i.out)


def _adding(op: str) -> Any:
    return lambda i: _moving(add, i.logits, i.saved(op), i.out)


def _scaling(i: Inputs) -> Call:
    x = i.logits.ravel(order="K")
    return partial(_compiled(scale, x.nbytes >= SERIAL_BELOW), x, x.dtype.type(1))


def _product(i: LayerInputs) -> Call:
    return partial(np.matmul, i.hidden, i.weight.T, out=np.zeros((len(i.hidden), len(i.weight)), np.float32))


def _three_products(i: LayerInputs) -> Call:
    """Multiply as the last layer's loss and gradients have to, into existing arrays."""
    logits = np.zeros((len(i.hidden), len(i.weight)), np.float32)
    d_hidden, d_weight = np.zeros_like(i.hidden), np.zeros_like(i.weight)

    def call() -> None:
        np.matmul(i.hidden, i.weight.T, out=logits)
        np.matmul(logits, i.weight, out=d_hidden)
        np.matmul(logits.T, i.hidden, out=d_weight)

    return call


MEMORY: Calls = {
    **dict.fromkeys((Op.LOSS, Op.LSE), _reading),
    **dict.fromkeys((Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE_VJP, Op.INPLACE), _copying),
    **{op: _adding(op) for op in (Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP)},
    Op.SCALE: _scaling,
}
PRODUCTS: Calls = {Op.LAYER_LOSS: _product, Op.LAYER_GRADS: _three_products}
