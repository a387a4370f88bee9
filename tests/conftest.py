"""Fixtures and the Hypothesis profile of all tests."""

import gc
import sys

import hypothesis
import numba
import numpy as np
import pytest

from fastce.kernels.jit import Kernel

# the same examples in every run; compilation makes the first one slow
hypothesis.settings.register_profile(
    "fastce",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("fastce")


@pytest.fixture(scope="session", autouse=True)
def compile_undisturbed():
    """Keep coverage, which counts no line of Numba's compiler, and garbage collection from slowing it to half.

    What compilation leaves behind stays, and need not be searched by each collection.
    """
    compile_ = Kernel._compile

    def undisturbed(*args):
        trace = sys.gettrace()
        sys.settrace(None)
        gc.disable()
        try:
            return compile_(*args)
        finally:
            sys.settrace(trace)
            gc.enable()
            gc.freeze()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kernel, "_compile", undisturbed)
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20240)


@pytest.fixture
def threads():
    """``numba.set_num_threads``, undone after the test."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)
