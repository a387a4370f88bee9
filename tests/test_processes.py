"""Python threads and forked children: right results, never a crash."""

import os

import pytest

from tests.helpers import in_new_process

PROBLEM = """
import os, sys, threading, warnings
import numba
import numpy as np
import fastce

rng = np.random.default_rng(0)
x = rng.normal(size=(5000, 20))  # enough for the parallel kernels
target = rng.integers(0, 20, 5000)
weight = rng.normal(size=(40, 20))

def results():
    loss, grad = fastce.cross_entropy_and_grad(x, target)
    soft = fastce.cross_entropy_and_grad(x, np.full_like(x, 0.05))
    last = fastce.linear_cross_entropy_and_grad(x, weight, target)[:3]
    family = [fastce.softmax(x), fastce.logsumexp(x), fastce.log_softmax(x, 0), fastce.softmax_vjp(x, x)]
    others = [*fastce.kl_divergence_and_grad(x, x[::-1]), *fastce.focal_loss_and_grad(x, target, gamma=2.0)]
    return [loss, grad, *soft, *last, *family, *others, *fastce.score(x, target)]

def same(a, b):
    return all(np.array_equal(one, two) for one, two in zip(a, b, strict=True))
"""

FOREIGN = """
@numba.njit(parallel=True)
def foreign(values):
    total = 0.0
    for i in numba.prange(values.size):
        total += np.sqrt(values[i])
    return total

def disturb(stop):
    values = np.ones(100_000)
    while not stop.is_set():
        assert foreign(values) == values.size

stop = threading.Event()
disturbers = [threading.Thread(target=disturb, args=(stop,), daemon=True) for _ in range(2)]
for disturber in disturbers:
    disturber.start()
"""

THREADS = """
expected = results()
failures = []

def work():
    for _ in range(30):
        if not same(results(), expected):
            failures.append(threading.get_ident())

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures
print(numba.threading_layer())
"""

FORK = """
expected = results()
for generation in range(2):  # a child, and a child of the child
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    assert same(results(), expected)
os._exit(7)
"""

POOL = """
import multiprocessing

def work(_):
    return results()

expected = results()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(same(found, expected) for found in pool.map(work, range(6)))
assert same(results(), expected)  # the parent goes on, with threads
sys.exit(7)
"""

FORK_FIRST = """
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    child = os.fork()
if not child:
    fastce.warmup()
    os._exit(7 if same(results(), results()) else 1)
_, status = os.waitpid(child, 0)
results()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_python_threads():
    assert in_new_process(PROBLEM + THREADS).strip() in ("omp", "tbb", "workqueue")


def test_python_threads_beside_another_librarys_kernels():
    """Under a layer that lets threads share it; Numba's workqueue ends the process, whoever's kernels they are."""
    assert in_new_process(PROBLEM + FOREIGN + THREADS + "\nstop.set()\n").strip() in ("omp", "tbb")


def test_python_threads_with_the_workqueue_layer():
    """This layer ends the process when two threads enter parallel kernels at once."""
    assert in_new_process(PROBLEM + THREADS, NUMBA_THREADING_LAYER="workqueue").strip() == "workqueue"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("layer", ["default", "workqueue"])
@pytest.mark.parametrize("code", [FORK, POOL, FORK_FIRST], ids=["threads first", "pool", "fork first"])
def test_forked_children(code, layer):
    """GNU OpenMP ends a child that was forked after its threads had started."""
    in_new_process(PROBLEM + code, NUMBA_THREADING_LAYER=layer, status=7)
