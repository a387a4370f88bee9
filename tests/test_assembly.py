"""Kernels are put together once, and what others compile with Numba is left as it was."""

import pytest

from tests.helpers import in_new_process

OTHERS = """
import math, numba, numpy as np
{first}

@numba.njit
def clamp(values, low, high):
    total = 0.0
    for i in range(len(values)):
        total += math.exp(max(min(values[i], high), low))
    return total

@numba.njit(parallel=True)
def squares(values):
    out = np.empty_like(values)
    for i in numba.prange(values.size):
        out[i] = abs(values[i]) ** 2
    return out.sum()

@numba.vectorize(["float64(float64)"])
def half(x):
    return max(x, 0.0) / 2

@numba.cfunc("float64(float64)")
def double(x):
    return min(x, 1e9) * 2

values = np.linspace(-3, 3, 1001)
assert abs(clamp(values, -1.0, 1.0) - np.exp(values.clip(-1, 1)).sum()) < 1e-9
assert abs(squares(values) - (values**2).sum()) < 1e-9
assert np.array_equal(half(values), values.clip(0) / 2)
assert double.ctypes(2.5) == 5.0
try:
    clamp(values, "low", 1.0)
except numba.core.errors.TypingError:
    pass
{then}
assert "create_library" not in vars(clamp.targetctx.codegen()), "Numba is left changed"
"""
CALL = """
import fastce
fastce.cross_entropy_and_grad(np.zeros((40, 2000), np.float32), np.zeros(40, int))
assert abs(fastce.softmax(np.zeros((4, 5))).sum() - 4.0) < 1e-9
"""


@pytest.mark.parametrize(("first", "then"), [(CALL, ""), ("", CALL)], ids=["after", "before"])
def test_other_numba_code(first, then):
    """Parts of kernels have no address; what Numba shares between them and other code has to do without.

    Seen to fail: where the codegen keeps ``create_library``.
    """
    in_new_process(OTHERS.format(first=first, then=then))


def test_parts_are_made_machine_code_once(tmp_path):
    """Seen to fail: with ``JITCodeLibrary`` in place of ``_Part``: 27."""
    printed = in_new_process("""
import numpy as np
from numba.core.codegen import JITCodeLibrary
import fastce

made, finalize = [], JITCodeLibrary._finalize_specific
def count(library):
    made.append(library.name)
    finalize(library)
JITCodeLibrary._finalize_specific = count
fastce.cross_entropy_and_grad(np.zeros((65536, 10), np.float32), np.zeros(65536, int))
print(len([name for name in made if name != "nrt"]))
""", NUMBA_CACHE_DIR=str(tmp_path))  # fmt: skip
    assert int(printed) == 1
