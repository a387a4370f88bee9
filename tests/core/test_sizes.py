"""Many elements, many classes, more than there is memory for."""

import os

import numpy as np
import pytest

import fastce
from tests.helpers import in_new_process

GB = 2**30


def free_memory():
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def test_more_classes_than_float32_counts():
    """Counts and positions above 2**24 are exact.

    Seen to fail: with the argmax in float32.
    """
    classes = 2**24 + 6
    x = np.zeros((1, classes), np.float32)
    assert fastce.logsumexp(x)[0] == np.float32(np.log(classes))
    x[0, -1] = 1.0
    rest = (classes - 1) / np.e
    loss, grad = fastce.cross_entropy_and_grad(x, [classes - 1], reduction="none", out=np.empty_like(x))
    np.testing.assert_allclose(loss, np.log1p(rest), rtol=4e-7)
    np.testing.assert_allclose(grad[0, -1], -rest / (1 + rest), rtol=6e-7)
    np.testing.assert_allclose(grad[0, :2], np.exp(-1) / (np.exp(-1) * (classes - 1) + 1), rtol=6e-7)
    scored = fastce.score(x, [classes - 1])
    assert scored.argmax[0] == classes - 1
    assert scored.rank[0] == 0


def test_more_classes_in_front_than_float32_counts():
    """Where samples lie side by side.

    Seen to fail: with the classes at the maximum, and what rounding takes off the sums, in float32.
    """
    classes = 2**24
    x = np.full((classes, 2), -1, np.float32)
    x[0] = 0
    p = 1 / (1 + (classes - 1) / np.e)
    np.testing.assert_allclose(fastce.softmax(x, 0)[0, 0], p, rtol=6e-7)
    x = np.zeros((classes + classes // 4, 2), np.float16)
    x[::16] = -1
    rest = len(x) / 16 * (15 + np.exp(-1)) - 1
    loss = fastce.cross_entropy(x, [1, 2], axis=0, reduction="none")
    np.testing.assert_allclose(loss, np.log1p(rest), rtol=2e-7)


@pytest.mark.skipif(free_memory() < 7 * GB, reason="4.4 GB of logits need a machine with 7 GB free")
@pytest.mark.parametrize("shape", [(2**31 // 1000 + 3, 1000), (3, 2**31 // 3 + 5)])
def test_more_elements_than_int32_counts(shape):
    """Positions past 2**31: the last row is computed like the first.

    Seen to fail: with offsets of rows in 32 bits, by a crash.
    """
    x = np.zeros(shape, np.float16)
    x[-1, -1] = x[0, -1] = 3.0
    target = np.full(len(x), shape[1] - 1)
    loss, grad = fastce.cross_entropy_and_grad(x, target, out=x, reduction="none")
    rest = (shape[1] - 1) * np.exp(-3.0)
    np.testing.assert_allclose(loss[[0, -1]], np.log1p(rest), rtol=1e-6)
    np.testing.assert_allclose(loss[1:-1], np.log(shape[1]), rtol=1e-6)
    for row in (0, -1):
        np.testing.assert_allclose(np.float64(grad[row, -1]), -rest / (1 + rest), rtol=1e-3)


NEAR_THE_END = """
import resource
import numpy as np
import fastce

def calls(x, target, out):
    yield lambda: fastce.softmax(x, out=out)
    yield lambda: fastce.log_softmax(x, out=out)
    yield lambda: fastce.softmax_vjp(x, x, out=out)
    yield lambda: fastce.cross_entropy_and_grad(x, target, out=out)
    yield lambda: fastce.cross_entropy_and_grad(x, x, out=out)
    yield lambda: fastce.focal_loss_and_grad(x, target, gamma=2.0, out=out)
    yield lambda: fastce.kl_divergence_and_grad(x, x, out=out)
    yield lambda: fastce.cross_entropy_hvp(x, target, x, out=out)
    yield lambda: fastce.binary_cross_entropy_with_logits_and_grad(x, x, out=out)

def run(count):
    x, target = np.zeros((count, 40), np.float32), np.zeros(count, int)
    for fresh, given in zip(calls(x, target, None), calls(x, target, np.empty_like(x)), strict=True):
        yield fresh, given

for fresh, given in run(1000):  # serial and parallel kernels are compiled before memory gets scarce
    fresh(), given()
pairs = list(run(4_000_000))  # 640 MB of logits, and as much to write to
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 320_000_000,) * 2)
for fresh, given in pairs:
    try:
        fresh()
    except MemoryError:
        given()
    else:
        raise AssertionError("there should be no memory for another result")
print("all done")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system does not tell, or limit, memory")
def test_near_the_end_of_memory():
    """Half the memory that a result takes is left: MemoryError without ``out``, the result with it.

    Seen to fail: with a copy of the logits in softmax.
    """
    assert in_new_process(NEAR_THE_END) == "all done\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda x: fastce.softmax(x),
        lambda x: fastce.log_softmax(x, 0),
        lambda x: fastce.cross_entropy_and_grad(x, np.zeros(1, int)),
        lambda x: fastce.cross_entropy_and_grad(x, x),
    ],
)
def test_no_memory(call):
    """A result that no machine can hold is a MemoryError.

    Seen to fail: where softmax catches it.
    """
    x = np.broadcast_to(np.float32(0), (1, 2**46))
    with pytest.raises(MemoryError):
        call(x)
    np.testing.assert_allclose(fastce.softmax([1.0, 1.0]), 0.5)
