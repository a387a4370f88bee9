"""The machine's limits with the same number of threads: moving as many bytes, or the bare matrix products.

The loops are Numba's. On large arrays they are as fast as NumPy calls in Python threads, and they start in 2 µs, so
that they bound small shapes too.
"""

from functools import cache, partial
from typing import Any

import numba as nb
import numpy as np

from bench.cases import ADDING, COPYING, PATTERNS, READING, Op
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


def _moving(op: str, pattern: str) -> Any:
    """Move the memory of the operation's arrays as 64-bit integers, whatever the layout."""

    def make(i: Inputs) -> Call:
        arrays = {READING: (i.logits,), COPYING: (i.logits, i.out)}.get(pattern) or (*i.arguments(op), i.out)
        count = i.logits.size - i.logits.size % (8 // i.logits.itemsize)
        words = [array.ravel(order="K")[:count].view(np.int64) for array in arrays]
        return partial(_compiled(LOOPS[pattern], i.logits.nbytes >= SERIAL_BELOW), *words)

    return make


def _scaling(i: Inputs) -> Call:
    x = i.logits.ravel(order="K")
    return partial(_compiled(scale, x.nbytes >= SERIAL_BELOW), x, x.dtype.type(1))


def _products(count: int) -> Any:
    """Multiply as the last layer's loss (once) or loss and gradients (3 times) have to, into existing arrays."""

    def make(i: LayerInputs) -> Call:
        logits = np.zeros((len(i.hidden), len(i.weight)), np.float32)
        d_hidden, d_weight = np.zeros_like(i.hidden), np.zeros_like(i.weight)
        products = (i.hidden, i.weight.T, logits), (logits, i.weight, d_hidden), (logits.T, i.hidden, d_weight)

        def call() -> None:
            for left, right, out in products[:count]:
                np.matmul(left, right, out=out)

        return call

    return make


LOOPS = {READING: read, COPYING: copy, ADDING: add}
MEMORY: Calls = {op: _moving(op, pattern) for op, pattern in PATTERNS.items()} | {Op.SCALE: _scaling}
PRODUCTS: Calls = {Op.LAYER_LOSS: _products(1), Op.LAYER_GRADS: _products(3)}
