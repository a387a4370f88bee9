"""The smaller and the larger of two integers, in compiled code."""

import numba
import numpy as np
import pytest

from fastce.kernels.simd.integer import larger, smaller


@numba.njit
def both(a, b):
    return smaller(a, b), larger(a, b)


INT64 = np.iinfo(np.int64)


@pytest.mark.parametrize("a", [INT64.min, -1, 0, 7, INT64.max])
@pytest.mark.parametrize("b", [INT64.min, -1, 0, 7, INT64.max])
def test_integers(a, b):
    """Seen to fail: with an unsigned comparison."""
    assert both(a, b) == (min(a, b), max(a, b))


def test_integers_of_other_types():
    """Labels may be narrow, and the index of a parallel loop is unsigned."""
    assert both(np.int32(-5), np.uint64(3)) == (-5, 3)


@pytest.mark.parametrize("pair", [(1.5, 2), (2, 1.5), (1.5, 2.5)])
def test_floats_are_refused(pair):
    """Seen to fail: without the check of types; Numba then makes integers of them."""
    with pytest.raises(numba.TypingError):
        both(*pair)
