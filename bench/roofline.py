"""The machine's own limits: reading, copying and scaling in place with the same number of threads.

Numba loops over slices, one share of the array a thread: they reached as much as NumPy calls in Python threads on
large arrays and, unlike those, cost only 2 µs to start, so that they also bound the small shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numba as nb
import numpy as np

from bench.cases import INPLACE, LOG_SOFTMAX, LOSS, LOSS_GRAD, LSE, SCALE, SOFTMAX
from bench.inputs import Inputs

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
def _scale_all(x, factor, parts):
    for p in nb.prange(parts):
        _scale(x[len(x) * p // parts : len(x) * (p + 1) // parts], factor)


def bind(inputs: Inputs) -> dict[str, Callable[[], None]]:
    """For each operation the memory traffic it cannot do without: reading, or reading and writing elsewhere."""
    x, out = (array.ravel(order="K") for array in (inputs.logits, inputs.out))  # views, whatever the layout
    words = x[: x.size - x.size % (8 // x.itemsize)].view(np.int64)
    room = out[: out.size - out.size % (8 // x.itemsize)].view(np.int64)
    threads = nb.get_num_threads()
    parts = 4 * threads
    if x.nbytes < SERIAL_BELOW:
        read, copy = partial(_read, words), partial(_copy, words, room)
    else:
        read, copy = partial(_read_all, words, np.zeros(parts, np.int64)), partial(_copy_all, words, room, parts)

    def scale() -> None:  # by a variable to the compiled loop, so the work is done, and the logits stay as they are
        _scale_all(x, x.dtype.type(1), parts)

    return {LOSS: read, LSE: read, **dict.fromkeys((LOSS_GRAD, SOFTMAX, LOG_SOFTMAX, INPLACE), copy), SCALE: scale}
