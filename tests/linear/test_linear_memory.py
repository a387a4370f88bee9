"""The last layer and its loss in one: how much memory it takes, its threads and its bits."""

import hashlib
import os

import numpy as np
import pytest

from fastce import linear_cross_entropy, linear_cross_entropy_and_grad
from fastce.linear.layer import Layer
from tests.helpers import HALF, assert_any_threads_agree, in_new_process, name_of, peak_memory
from tests.linear.problem import REGIMES, enter, make_problem

# --- memory --------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1 << 18, 4 << 20], ids=["tiles", "chunks"])
@pytest.mark.parametrize("dtype", [np.dtype(np.float32), HALF[0]], ids=name_of)
def test_no_more_than_the_bound(dtype, bound, rng):
    n, d, v = 2048, 16, 3000
    hidden, weight = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(v, d)).astype(dtype)
    target = np.where(np.arange(n) % 3 == 0, -100, rng.integers(0, v, n))
    logits, beside = 4 * n * v, 3 * 4 * v * d + 128 * n
    assert bound + beside < logits / 4
    loss = peak_memory(lambda: linear_cross_entropy(hidden, weight, target, max_bytes=bound))[0]
    assert bound / 2 < loss < bound + beside
    results = hidden.nbytes + weight.nbytes
    both = peak_memory(lambda: linear_cross_entropy_and_grad(hidden, weight, target, max_bytes=bound))[0]
    assert both < bound + beside + results
    assert peak_memory(lambda: linear_cross_entropy(hidden, weight, target, max_bytes=2 * logits))[0] > logits / 2


RESIDENT = """
import resource, sys
import numpy as np
import fastce

def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def call(n, d, v):
    hidden, weight = np.ones((n, d), np.float32), np.ones((v, d), np.float32)
    before = resident()
    found = fastce.{function}(hidden, weight, np.zeros(n, int), {options})
    return resident() - before

call(300, 16, 4000)
print(call(1024, 16, 80000))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no getrusage")
@pytest.mark.parametrize(
    "function, options, bound",
    [
        ("linear_cross_entropy", "max_bytes=16 << 20", 48 << 20),
        ("linear_cross_entropy_and_grad", "max_bytes=16 << 20", 48 << 20),
        ("linear_cross_entropy_and_grad", "", 300 << 20),
    ],
    ids=["loss", "loss and gradient", "default"],
)
def test_resident_memory(function, options, bound):
    """What tracemalloc cannot see, BLAS's buffers: 1024 rows of 80000 logits are 328 MB, the gradients 5 MB."""
    assert int(in_new_process(RESIDENT.format(function=function, options=options))) < bound


# --- what is multiplied ------------------------------------------------------------------


@pytest.mark.parametrize("name", REGIMES)
def test_rows_that_are_left_out_are_in_no_product(name, monkeypatch, rng):
    hidden, weight, bias, target = make_problem(rng)
    rows = []
    products = Layer.logits
    monkeypatch.setattr(Layer, "logits", lambda layer, h, *args: (rows.append(h), products(layer, h, *args))[1])
    sample_weight = np.arange(len(target)) % 7
    options = {"sample_weight": sample_weight, **enter(name, monkeypatch)}
    linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **options)
    kept = hidden[(target != -100) & (sample_weight != 0)]
    np.testing.assert_array_equal(np.unique(np.concatenate(rows), axis=0), np.unique(kept, axis=0))


# --- threads and bits --------------------------------------------------------------------


def digest():
    """One number of results in every regime, with options where there are several chunks of classes."""
    rng = np.random.default_rng(4)
    found = hashlib.sha256()
    more = {"softcap": 5.0, "logit_scale": 0.5, "label_smoothing": 0.1, "z_loss": 0.1}
    for n, d, v, most in [(700, 9, 1031, 10**6), (700, 9, 1031, 10**5), (5, 3, 140_001, 10**8), (300, 5, 20, 10**8)]:
        for dtype in (np.float32, np.float64):
            hidden, weight = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(v, d)).astype(dtype)
            target = rng.integers(0, v, n)
            more["sample_weight"] = rng.integers(0, 4, n)
            for options in [{}, more] if dtype == np.float32 and v == 1031 else [{}]:
                results = linear_cross_entropy_and_grad(hidden, weight, target, max_bytes=most, **options)
                plain = {"max_bytes": most, "reduction": "none"}
                losses = linear_cross_entropy(hidden, weight, target, **plain, **options)
                for result in (*results[:3], losses, results.lse, results.z_loss):
                    found.update(result.tobytes())
    return found.hexdigest()


def test_threads():
    """Under the layer that Numba chooses, and under the one that is always there."""
    assert_any_threads_agree(digest, "default", "workqueue")


def test_errors_in_threads_are_the_callers(monkeypatch, rng):
    def fail(*args):
        raise MemoryError("no room")

    monkeypatch.setattr("fastce.linear.losses.dispatch.run_index_targets", fail)
    with pytest.raises(MemoryError, match="no room"):
        linear_cross_entropy(rng.normal(size=(300, 2)), rng.normal(size=(2000, 2)), np.zeros(300, int))
