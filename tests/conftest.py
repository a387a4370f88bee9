"""Fixtures and the Hypothesis profile of all tests."""

import collections
import contextlib
import gc
import sys

import hypothesis
import numba
import numpy as np
import pytest

from fastce.kernels.codegen.jit import Kernel

# the same examples in every run; compilation makes the first one slow
hypothesis.settings.register_profile(
    "fastce",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fastce")


@contextlib.contextmanager
def untraced():
    """Keep coverage from counting lines, which slows exact arithmetic and compilers several times."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


@pytest.fixture
def uncounted():
    """A test that is not there for coverage."""
    with untraced():
        yield


def pytest_collection_modifyitems(items):
    """Save time: half of it goes into compilation, a third into counting lines.

    The first of two workers begins with the first half of the tests, the second with the second: so that each
    compiles helpers mostly for one dtype, float32 comes first and float64 last. Coverage counts one of seven
    parameter sets of a test, the first among them; seven, as lists of parameters are of other lengths, and no value
    of theirs is always left out.
    """
    sets = collections.Counter()
    for item in items:
        name = item.nodeid.partition("[")[0]
        if sets[name] % 7:
            item.fixturenames = ["uncounted", *item.fixturenames]  # the list of all parameter sets of a test is one
        sets[name] += 1
    items.sort(key=lambda item: ("float64" in item.nodeid) - ("float32" in item.nodeid or "float16" in item.nodeid))


@pytest.fixture(scope="session", autouse=True)
def compile_undisturbed():
    """Keep coverage and garbage collection from slowing Numba's compiler to half.

    What compilation leaves behind stays, and need not be searched by each collection.
    """
    compile_ = Kernel._compile

    def undisturbed(*args):
        gc.disable()
        try:
            with untraced():
                return compile_(*args)
        finally:
            gc.enable()
            gc.freeze()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kernel, "_compile", undisturbed)
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20240)


@pytest.fixture
def one_thread(threads):
    """The serial kernels run, of the same source as the parallel ones, which take twice the time to compile."""
    threads(1)


@pytest.fixture
def parallel_in_float32(dtype, threads):
    """The same, but for the parameter float32."""
    if dtype != np.float32:
        threads(1)


@pytest.fixture
def threads():
    """``numba.set_num_threads``, undone after the test."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)
