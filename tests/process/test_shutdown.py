"""The last layer's loss where no threads are to be had: at the interpreter's end, and where the system refuses them."""

import pytest

from tests.helpers import in_new_process

SETUP = """
import sys, threading, time
import numba
import numpy as np
import fastce

assert numba.get_num_threads() == 2
rng = np.random.default_rng(0)
h, w, y = rng.normal(size=(1200, 8)), rng.normal(size=(400, 8)), rng.integers(0, 400, 1200)

def results():
    found = fastce.linear_cross_entropy_and_grad(h, w, y, softcap=5.0, max_bytes=2_000_000)  # in three chunks
    return [np.array(x) for x in found if x is not None]

expected = results()

def check(word=print):
    for a, e in zip(results(), expected, strict=True):
        assert max(abs(a - e).reshape(-1).tolist()) < 1e-12  # without NumPy functions that import something
    word("right")
"""

AT_THE_END = {
    "atexit": """
import atexit
atexit.register(check)
""",
    "a thread that outlives the main thread": """
def work():
    threading.main_thread().join()
    check()

threading.Thread(target=work).start()
""",
    "a thread that is at work when the main thread ends": """
def work():
    running.set()
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end or threading.main_thread().is_alive():
        check(str)
    check()

running = threading.Event()
threading.Thread(target=work).start()
running.wait()
""",
    "__del__": """
class Last:
    def __del__(self, check=check):
        check()

last = Last()
""",
    "a daemon thread in the midst": """
def work():
    while True:
        check(str)

threading.Thread(target=work, daemon=True).start()
check()
""",
}


@pytest.mark.parametrize("when", AT_THE_END)
def test_the_end_of_the_interpreter(when):
    """Seen to fail: with an executor of ``concurrent.futures``; without the look at ``sys.is_finalizing``."""
    assert in_new_process(SETUP + AT_THE_END[when], NUMBA_NUM_THREADS="2").split() == ["right"]


REFUSED = """
start, started = threading.Thread.start, []

def refuse(thread):
    if len(started) == {count}:
        raise RuntimeError("can't start new thread")
    started.append(thread)
    start(thread)

threading.Thread.start = refuse
check()
assert len(started) == {count}, started
assert not any(thread.is_alive() for thread in started)
"""


@pytest.mark.parametrize("count", [0, 1])
def test_threads_that_the_system_refuses(count):
    """All of them, or all but one: no part is left out, and none is done twice, which in place would show.

    Seen to fail: with an executor of ``concurrent.futures``.
    """
    code = SETUP + REFUSED.replace("{count}", str(count))
    assert in_new_process(code, NUMBA_NUM_THREADS="2").split() == ["right"]


ERRORS = """
from fastce.core import workers

x = np.zeros((400, 400))
seen = []

def work(rows):
    seen.append(threading.current_thread())
    raise KeyError(rows.start)

try:
    with workers.Workers() as workers:
        workers.run(work, x)
except KeyError:
    print("right")
assert threading.main_thread() not in seen
assert not any(thread.is_alive() for thread in seen)
"""


def test_an_error_in_a_thread_comes_out_and_ends_the_threads():
    assert in_new_process(SETUP + ERRORS, NUMBA_NUM_THREADS="2").split() == ["right"]
