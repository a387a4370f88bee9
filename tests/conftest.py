"""Fixtures and the Hypothesis profile of all tests."""

import hypothesis
import numba
import numpy as np
import pytest

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


@pytest.fixture
def rng():
    return np.random.default_rng(20240)


@pytest.fixture
def threads():
    """``numba.set_num_threads``, undone after the test."""
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)
