"""The machine's own limits: reading, copying, adding and scaling in place with the same number of threads.

Numba loops over slices, one share of the array a thread: they reached as much as NumPy calls in Python threads on
large arrays and, unlike those, cost only 2 µs to start, so that they also bound the small shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numba as nb
import numpy as np

from bench.cases import ADDING, COPYING, READING, SCALING
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


def limits(inputs: Inputs, other: np.ndarray) -> dict[str, Callable[[], None]]:
    """Return a call for each pattern of traffic; ``other`` is added to the logits."""
    x, y, out = (array.ravel(order="K") for array in (inputs.logits, other, inputs.out))  # views, whatever the layout
    count = x.size - x.size % (8 // x.itemsize)
    words = [array[:count].view(np.int64) for array in (x, y, out)]
    threads = nb.get_num_threads()
    parts = 4 * threads
    if x.nbytes < SERIAL_BELOW:
        read, copy, add = partial(_read, words[0]), partial(_copy, *words[::2]), partial(_add, *words)
    else:
        read = partial(_read_all, words[0], np.zeros(parts, np.int64))
        copy, add = partial(_copy_all, *words[::2], parts), partial(_add_all, *words, parts)

    def scale() -> None:  # by a variable to the compiled loop, so the work is done, and the logits stay as they are
        _scale_all(x, x.dtype.type(1), parts)

    return {READING: read, COPYING: copy, ADDING: add, SCALING: scale}
