"""No scratch of the size of the logits, ever; with ``out`` not even a result."""

import os
import tracemalloc

import numpy as np
import pytest

import fastce
from tests.helpers import HALF, in_new_process, name_of
from tests.layouts import LAYOUTS

ROWS, CLASSES = 16_384, 512


def calls(x, target, soft, out, axis):
    """The calls with ``out``; ``out`` may be reused, each overwrites all of it."""
    return {
        "softmax": lambda: fastce.softmax(x, axis, out=out),
        "log_softmax": lambda: fastce.log_softmax(x, axis, out=out),
        "logsumexp": lambda: fastce.logsumexp(x, axis),
        "cross_entropy": lambda: fastce.cross_entropy(x, target, axis=axis),
        "cross_entropy_and_grad": lambda: fastce.cross_entropy_and_grad(x, target, axis=axis, out=out),
        "options": lambda: fastce.cross_entropy_and_grad(
            x, target, axis=axis, weight=np.ones(CLASSES), label_smoothing=0.1, reduction="none", out=out
        ),
        "soft targets": lambda: fastce.cross_entropy_and_grad(x, soft, axis=axis, out=out),
        "from_probs": lambda: fastce.cross_entropy_from_probs_and_grad(soft, target, axis=axis, out=out),
        "from_probs, soft": lambda: fastce.cross_entropy_from_probs_and_grad(soft, soft, axis=axis, out=out),
        "binary": lambda: fastce.binary_cross_entropy_with_logits_and_grad(x, soft, out=out),
        "binary, weighted": lambda: fastce.binary_cross_entropy_with_logits_and_grad(
            x, soft, weight=np.float32(2), pos_weight=np.ones(1, np.float32), out=out
        ),
    }


def peak(call):
    """The most memory in use at once during a call, beyond what was before, in bytes."""
    call()  # compiled by now
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def check(x, axis):
    target = np.zeros(ROWS, int)
    soft = np.empty_like(x)
    soft[...] = 1 / CLASSES
    out = np.empty_like(x)
    for name, call in calls(x, target, soft, out, axis).items():
        used, _ = peak(call)
        # 64 bytes a sample and six buffers of a block; one copy would be 33 MB (17 in half precision)
        assert used < 64 * ROWS + 6_500_000, f"{name}: {used} bytes"


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every other class", "every other row", "unaligned"])
def test_python_allocates_no_scratch(layout):
    check(LAYOUTS[layout](np.zeros((ROWS, CLASSES), np.float32)), -1)


def test_class_axis_in_front():
    check(np.zeros((CLASSES, ROWS), np.float32), 0)


@pytest.mark.parametrize("dtype", HALF, ids=name_of)
def test_half_precision(dtype):
    check(np.zeros((ROWS, CLASSES), dtype), -1)


def test_this_test_sees_a_copy():
    x = np.zeros((ROWS, CLASSES), np.float32)
    assert peak(lambda: fastce.softmax(x))[0] > x.nbytes
    assert peak(x.copy)[0] > x.nbytes


RESIDENT = """
import resource, sys
import numpy as np
import fastce

def resident():  # the most so far, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def calls(rows, classes, axis):
    x = np.ones((rows, classes) if axis else (classes, rows), np.float32)
    target = np.zeros(rows, int)
    out = np.ones_like(x)
    soft = np.ones_like(x)
    before = resident()
    fastce.softmax(x, axis, out=out)
    fastce.cross_entropy_and_grad(x, target, axis=axis, out=out)
    fastce.cross_entropy_and_grad(x, soft, axis=axis, out=out)
    fastce.cross_entropy_and_grad(x, target, axis=axis, out=x)
    return resident() - before, x.nbytes

for rows, classes, axis in [(20_000, 1000, 1), (2, 10_000_000, 1), (20_000, 1000, 0), (800_000, 25, 1)]:
    calls(50_000 // min(classes, 25_000), classes if classes < 25_000 else 25_000, axis)  # compile
    grown, size = calls(rows, classes, axis)
    print(rows, classes, axis, grown, size)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no getrusage")
def test_kernels_allocate_no_scratch():
    """What Python cannot see: the resident memory of a process that calls with ``out``."""
    for line in in_new_process(RESIDENT).splitlines():
        *case, grown, size = map(int, line.split())
        assert grown < size / 8 + 32 * case[0], f"{case}: {grown} bytes more for arrays of {size}"
