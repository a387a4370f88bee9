"""Many elements, many classes, more than there is memory for."""

import os

import numpy as np
import pytest

import fastce

GB = 2**30


def free_memory():
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def test_more_classes_than_float32_counts():
    """Counts and positions above 2**24 are exact."""
    classes = 2**24 + 5
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


@pytest.mark.skipif(free_memory() < 7 * GB, reason="4.4 GB of logits need a machine with 7 GB free")
@pytest.mark.parametrize("shape", [(2**31 // 1000 + 3, 1000), (3, 2**31 // 3 + 5)])
def test_more_elements_than_int32_counts(shape):
    """Positions past 2**31: the last row is computed like the first."""
    x = np.zeros(shape, np.float16)
    x[-1, -1] = x[0, -1] = 3.0
    target = np.full(len(x), shape[1] - 1)
    loss, grad = fastce.cross_entropy_and_grad(x, target, out=x, reduction="none")
    rest = (shape[1] - 1) * np.exp(-3.0)
    np.testing.assert_allclose(loss[[0, -1]], np.log1p(rest), rtol=1e-6)
    np.testing.assert_allclose(loss[1:-1], np.log(shape[1]), rtol=1e-6)
    for row in (0, -1):
        np.testing.assert_allclose(np.float64(grad[row, -1]), -rest / (1 + rest), rtol=1e-3)


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
    """A result that no machine can hold is a MemoryError."""
    x = np.broadcast_to(np.float32(0), (1, 2**46))
    with pytest.raises(MemoryError):
        call(x)
    np.testing.assert_allclose(fastce.softmax([1.0, 1.0]), 0.5)
