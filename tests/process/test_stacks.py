"""Kernels take little of a thread's stack, so that threads may have little."""

import json
import sys

import pytest

from fastce.kernels.simd.memory import MAX_STACK
from tests.helpers import in_new_process


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere stacks are not written to so far below what is in use")
def test_use_of_the_stack():
    """Seen to fail with exponentials of 16-bit rows on the stack, and with sums of columns in their driver's frame."""
    used = json.loads(in_new_process("from tests.process.stack_program import print_measured; print_measured()"))
    assert {"hard_rows", "soft_rows", "softmax_rows", "hard_columns", "soft_columns", "score_rows"} <= set(used)
    assert {name: size for name, size in used.items() if size > MAX_STACK} == {}


@pytest.mark.parametrize("size", [256, 128])
def test_threads_with_little_stack(size):
    """Seen to fail, by a crash, with exponentials of 16-bit rows on the stack."""
    code = f"from tests.process.stack_program import in_little; in_little({size << 10})"
    assert in_new_process(code, OMP_STACKSIZE=f"{size}k", NUMBA_NUM_THREADS="2") == "done\n"
