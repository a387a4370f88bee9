"""No kernel touches memory outside its arrays: they are laid against pages that may not be touched."""

import sys

import pytest

from tests.helpers import in_new_process

CODE = """
import ctypes
import mmap

import numpy as np

import fastce
from tests.shards import cross_entropy_and_grad

libc = ctypes.CDLL(None)
PAGE = mmap.PAGESIZE
keep = []


def guarded(values, at_end):
    # a copy with an untouchable page right behind its last or right before its first element
    pages = -(-values.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    keep.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    start = PAGE + (pages * PAGE - values.nbytes if at_end else 0)
    array = np.frombuffer(memory, values.dtype, values.size, start).reshape(values.shape)
    array[...] = values
    for guard in (address, address + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0) == 0
    return array


def check(shape, axis, dtype, at_end):
    rng = np.random.default_rng(0)
    lay = lambda values: guarded(values, at_end)
    x = lay(rng.normal(size=shape).astype(dtype))
    out = lay(np.zeros(shape, dtype))
    classes = shape[axis]
    samples = shape[:axis] + shape[axis:][1:] if axis >= 0 else shape[:-1]
    labels = lay(rng.integers(0, classes, samples))
    soft = lay(rng.random(shape).astype(dtype))
    options = {
        "weight": lay(rng.random(classes).astype(dtype)),
        "sample_weight": lay(rng.random(samples).astype(dtype)),
        "label_smoothing": 0.1,
        "reduction": "none",
    }
    fastce.softmax(x, axis, out=out)
    fastce.log_softmax(x, axis, out=out)
    fastce.logsumexp(x, axis, out=lay(np.zeros(samples, dtype)) if samples else None)
    fastce.cross_entropy(x, labels, axis=axis)
    fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out)
    fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out, **options)
    fastce.cross_entropy_and_grad(x, soft, axis=axis, out=out)
    cross_entropy_and_grad(x, labels, axis=axis, out=out)
    cross_entropy_and_grad(x, soft, axis=axis, out=out)
    fastce.binary_cross_entropy_with_logits_and_grad(x, soft, out=out)


for dtype in (np.float32, np.float64):
    for at_end in (True, False):
        for classes in [*range(1, 41, 3), 32, 33, 511, 1025, 1537]:
            for rows in (1, 7, 17):
                check((rows, classes), -1, dtype, at_end)
                check((classes, rows), 0, dtype, at_end)
        if dtype == np.float32:  # in parallel, from the same source
            check((5003, 10), -1, dtype, at_end)
            check((1, 70_001), -1, dtype, at_end)
            check((2, 37, 501), 1, dtype, at_end)
        check((3, 2064), 0, dtype, at_end)  # values may begin before the first sample
print("done")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")
def test_neither_reads_nor_writes_outside():
    """Seen to fail: with the last rows of few classes written as a whole tile, by a crash."""
    assert in_new_process(CODE) == "done\n"
