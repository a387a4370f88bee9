"""Few rows of very many classes: shared among threads, with the bits of a row on its own."""

import numba
import numpy as np
import pytest

import fastce
from fastce import dispatch
from fastce.kernels.rows.long_rows import CHUNK, chunk_length


@pytest.fixture
def whole_rows(monkeypatch):
    """Have rows computed by one thread each from here on."""

    def switch():
        monkeypatch.setattr(dispatch, "ROWS_A_THREAD", 0)

    return switch


def results(x, target):
    loss, grad = fastce.cross_entropy_and_grad(x, target, reduction="none")
    forward = fastce.cross_entropy(x, target, reduction="none")
    probs, logs, lse = fastce.softmax(x), fastce.log_softmax(x), fastce.logsumexp(x)
    upstream = np.roll(x, 1, axis=1)
    upstream[~np.isfinite(upstream)] = 0.0
    vjps = (
        fastce.softmax_vjp(upstream, probs),
        fastce.log_softmax_vjp(upstream, logs),
        fastce.logsumexp_vjp(lse, x, lse),
    )
    return loss, grad, forward, probs, logs, lse, *vjps


@pytest.mark.usefixtures("parallel_in_float32")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("classes", [2 * CHUNK, 2 * CHUNK + 1, 4 * CHUNK - 700], ids=str)
def test_same_bits_as_whole_rows(classes, dtype, whole_rows):
    rng = np.random.default_rng(classes)
    x = (rng.standard_normal((3, classes)) * 3).astype(dtype)
    start = chunk_length.py_func(classes)  # as compiled, it has no entry from Python
    x[2, start : start + 1100] = -np.inf  # the first block of a chunk, whose maximum then rises
    target = np.array([0, classes - 1, -100])
    shared = results(x, target)
    whole_rows()
    for a, b in zip(shared, results(x, target), strict=True):
        np.testing.assert_array_equal(a, b)


def test_same_bits_for_any_number_of_threads():
    x = np.random.default_rng(0).standard_normal((1, 3 * CHUNK + 5), dtype=np.float32)
    shared = results(x, [7])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone = results(x, [7])
    finally:
        numba.set_num_threads(threads)
    for a, b in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("classes", [2 * CHUNK, 2 * CHUNK + 1, 128256, 256_000, 1_000_003, 2**22 + 1])
@pytest.mark.parametrize("threads", [2, 4])
def test_even_shares(classes, threads):
    length = chunk_length.py_func(classes)
    chunks = -(-classes // length)
    assert length <= CHUNK
    assert -(-chunks // threads) * length <= 1.07 * classes / threads


def test_in_place():
    """The label's logit is read before another thread writes there."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 4 * CHUNK), dtype=np.float32)
    target = [4 * CHUNK - 1, 5]
    want = fastce.cross_entropy_and_grad(x, target)
    got = fastce.cross_entropy_and_grad(x, target, out=x)
    assert got.loss == want.loss
    np.testing.assert_array_equal(x, want.grad)


def test_special_rows():
    x = np.zeros((3, 2 * CHUNK))
    x[0] = -np.inf
    x[1, -1] = np.inf
    x[2, 5] = np.nan
    lse = fastce.logsumexp(x)
    np.testing.assert_array_equal(lse, [-np.inf, np.inf, np.nan])
    assert np.isnan(fastce.softmax(x)).all()
