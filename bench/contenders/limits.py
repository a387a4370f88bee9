"""The machine's limits, with the same number of threads: moving as many bytes, or the bare matrix products.

Numba loops over slices, one share of the array a thread. They reached as much as NumPy calls in Python threads on
large arrays and cost only 2 µs to start, so that they also bound the small shapes.
"""

from __future__ import annotations

from functools import partial

import numba as nb
import numpy as np

from bench.cases import Op
from bench.contenders import Call, Calls
from bench.inputs import Inputs, LayerInputs

SERIAL_BELOW = 1 << 17  # bytes; under it starting threads costs more than it gains


@nb.njit(cache=True)
def _read(x):
    # OR needs no rounding order, so LLVM vectorises it without fastmath.
    bits = np.int64(0)
    for i in range(len(x)):
        bits |= x[i]
    return bits


@nb.njit(cache=True)
def _copy(x, out):
    for i in range(len(x)):
        out[i] = x[i]


@nb.njit(cache=True)
def _add(x, y, out):
    for i in range(len(x)):
        out[i] = x[i] + y[i]


@nb.njit(cache=True)
def _scale(x, factor):
    for i in range(len(x)):
        x[i] *= factor


@nb.njit(parallel=True, cache=True)
def _read_all(x, sums):
    parts = len(sums)
    for p in nb.prange(parts):
        sums[p] = _read(x[len(x) * p // parts : len(x) * (p + 1) // parts])


@nb.njit(parallel=True, cache=True)
def _copy_all(x, out, parts):
    for p in nb.prange(parts):
        i, j = len(x) * p // parts, len(x) * (p + 1) // parts
        _copy(x[i:j], out[i:j])


@nb.njit(parallel=True, cache=True)
def _add_all(x, y, out, parts):
    for p in nb.prange(parts):
        i, j = len(x) * p // parts, len(x) * (p + 1) // parts
        _add(x[i:j], y[i:j], out[i:j])


@nb.njit(parallel=True, cache=True)
def _scale_all(x, factor, parts):
    for p in nb.prange(parts):
        _scale(x[len(x) * p // parts : len(x) * (p + 1) // parts], factor)


def _words(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return views of the arrays' memory as integers of 64 bits, whatever the layout."""
    count = arrays[0].size - arrays[0].size % (8 // arrays[0].itemsize)
    return [array.ravel(order="K")[:count].view(np.int64) for array in arrays]


def _parts() -> int:
    return 4 * nb.get_num_threads()


def _reading(i: Inputs) -> Call:
    if i.logits.nbytes < SERIAL_BELOW:
        return partial(_read, *_words(i.logits))
    return partial(_read_all, *_words(i.logits), np.zeros(_parts(), np.int64))


def _copying(i: Inputs) -> Call:
    if i.logits.nbytes < SERIAL_BELOW:
        return partial(_copy, *_words(i.logits, i.out))
    return partial(_copy_all, *_words(i.logits, i.out), _parts())


def _adding(op: str, i: Inputs) -> Call:
    words = _words(i.logits, i.saved(op), i.out)
    return partial(_add, *words) if i.logits.nbytes < SERIAL_BELOW else partial(_add_all, *words, _parts())


def _scaling(i: Inputs) -> Call:
    x = i.logits.ravel(order="K")  # by a variable to the compiled loop, so that the work is done
    return partial(_scale_all, x, x.dtype.type(1), _parts())


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
    **dict.fromkeys((Op.LOSS, Op.LSE), _reading),
    **dict.fromkeys((Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE_VJP, Op.INPLACE), _copying),
    Op.SOFTMAX_VJP: partial(_adding, Op.SOFTMAX_VJP),
    Op.LOG_SOFTMAX_VJP: partial(_adding, Op.LOG_SOFTMAX_VJP),
    Op.SCALE: _scaling,
}
PRODUCTS: Calls = {
    Op.LAYER_LOSS: lambda i: partial(
        np.matmul, i.hidden, i.weight.T, out=np.zeros((len(i.hidden), len(i.weight)), np.float32)
    ),
    Op.LAYER_GRADS: _three_products,
}
