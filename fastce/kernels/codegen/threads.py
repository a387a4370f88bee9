"""Decide whether a call uses Numba's threads: whether it may use them, and whether they save time.

Threads stall while other programs use the cores: all threads of a call wait for one that has no core. They wait for a
time slice of the scheduler, some milliseconds, although the work takes microseconds. Results have the same bits with
any number of threads, so each call is free to choose.

A `Pace` is an account of one kind of call. Its balance is the time that threads have saved, compared with one thread.
While it is overdrawn, one thread runs the same machine code, and each such call pays 1/64 of its time into the account,
until there is enough for a trial with all threads. So threads that lose time are tried again, but this costs at most
1/64 of all time, and the longer a stall was, the later the next trial comes. One thread is measured when a call is
suspiciously slow, and again from time to time.
"""

import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numba
import numpy.typing as npt
from numba.np.ufunc import parallel

from fastce.kernels.codegen.target import has_avx512

# The least work for which threads save more than starting them may cost: 10 to 20 µs.
PARALLEL_ELEMENTS = 3 << (14 if has_avx512() else 13)
TRIAL_SHARE = 1 / 64  # of the time that one thread computes: the cost of trials with all threads
MEASURED_SHARE = 1 / 128  # of all time: the cost of measuring one thread, which is more often at first
TRIAL_COST = 2.5e-4  # seconds that a trial may lose at first: sleeping threads have to wake up
MAX_BALANCE = 0.05  # seconds, a few stalls: the most that threads may lose after they have long saved time
MAX_LOSS = 0.05  # seconds, the most that one call is charged: in a longer one the process may have been stopped
SLOW_CALL = 1e-4, 1e-9  # seconds, and seconds an element: a call above their sum is suspiciously slow

Array = npt.NDArray[Any]


def threading_layer() -> str | None:
    """Return the name of Numba's threading layer, or None before threads have started."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


class Threads:
    """The state of Numba's threads in this process."""

    def __init__(self) -> None:
        self.forked = False  # the parent process had threads, which this one cannot use
        self.is_layer_known = self.is_workqueue = False
        # Get and set the number of threads for the calling Python thread. Numba's functions start the threads.
        self.count: Callable[[], int] = numba.get_num_threads
        self.set_count: Callable[[int], None] = numba.set_num_threads
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """Use one thread if any package had started threads in the parent: the child does not have them."""
        if threading_layer():
            self.forked, self.count = True, lambda: 1

    def _find_layer(self) -> None:
        """Cache the threading layer, which is fixed once threads run."""
        self.is_workqueue = threading_layer() == "workqueue"
        # the same functions without the lock for starting threads, which takes longer than a small kernel
        self.count = getattr(parallel, "_get_num_threads", self.count)
        self.set_count = getattr(parallel, "_set_num_threads", self.set_count)
        self.is_layer_known = True  # last: other Python threads may read it meanwhile

    def may_serve(self) -> bool:
        """Return whether the parallel variant may run; callers have found that there is enough work."""
        if self.count() == 1:
            return False
        if not self.is_layer_known:
            self._find_layer()
        # workqueue ends the process if two Python threads run parallel kernels at once. While this is the only Python
        # thread, no second one can start before the kernel ends.
        return not self.is_workqueue or len(sys._current_frames()) == 1

    def run_single(self, entry: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a parallel variant with one thread, and restore the number of threads."""
        count = self.count()
        try:
            self.set_count(1)
            return entry(*args)
        finally:
            self.set_count(count)


threads = Threads()  # module state


class Pace:
    """The account of one kind of call."""

    __slots__ = ("is_single", "measured_share", "saved", "seconds_each", "until_measured")

    def __init__(self) -> None:
        self.seconds_each = 0.0  # an element by one undisturbed thread; 0 while unknown
        self.saved = TRIAL_COST  # the balance, in seconds
        self.is_single = False  # overdrawn: calls use one thread
        self.measured_share = 0.5  # halved by each measurement: the first ones may have been disturbed
        self.until_measured = 1.0  # seconds of parallel calls before one thread is measured again; see note_parallel

    def note_parallel(self, seconds: float, size: int) -> None:
        """Enter a call by all threads."""
        if not self.seconds_each:
            base, each = SLOW_CALL  # measure after one slow call, or after 1 / MEASURED_SHARE calls
            self.until_measured -= MEASURED_SHARE if seconds < base + each * size else 1.0
            return
        self.until_measured -= seconds
        saved = self.seconds_each * size - seconds
        saved = self.saved + (saved if saved > -MAX_LOSS else -MAX_LOSS)
        self.saved = saved if saved < MAX_BALANCE else MAX_BALANCE
        self.is_single = saved < 0.0

    def note_single(self, seconds: float, size: int) -> None:
        """Enter a call by one thread."""
        each = seconds / size
        # The fastest call counts, since other programs only slow a call down. It fades: clock rates change.
        self.seconds_each = min(1.05 * self.seconds_each, each) if self.seconds_each else each
        if self.is_single:
            self.saved += TRIAL_SHARE * seconds
            self.is_single = self.saved < TRIAL_COST
        self.until_measured = self.seconds_each * size / self.measured_share
        self.measured_share = max(0.5 * self.measured_share, MEASURED_SHARE)


_paces: dict[tuple[Any, ...], Pace] = {}  # module state: accounts by kind of call


def run(entry: Callable[..., Any], args: tuple[Any, ...], x: Array, out_is_new: bool = False) -> Any:
    """Run the entry point of a parallel variant with all threads, or with one if that takes less time.

    Calls are of one kind if they run the same machine code, have rows of one length and about as many elements in
    ``x``, and either all or none of them write to a new array.
    """
    size = x.size
    key = entry, x.strides[0], size.bit_length(), out_is_new
    pace = _paces.get(key)
    if pace is None:
        pace = _paces.setdefault(key, Pace())
    start = perf_counter()
    if pace.is_single or pace.until_measured < 0.0:
        result = threads.run_single(entry, args)
        pace.note_single(perf_counter() - start, size)
    else:
        result = entry(*args)
        pace.note_parallel(perf_counter() - start, size)
    return result


def given_up() -> tuple[int, int]:
    """Return (kinds of calls that use one thread for a while because it was faster, all kinds of calls)."""
    paces = tuple(_paces.values())
    return sum(pace.is_single for pace in paces), len(paces)


def started() -> int:
    """Return the number of threads of a parallel kernel, 0 before threads have started."""
    return threads.count() if threading_layer() else 0
