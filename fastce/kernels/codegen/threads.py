"""Whether a call uses Numba's threads: where they may be used at all, and where they pay.

Threads stall where other programs use the cores. A thread that is done waits for one that has
no core, for a scheduler's slice of some milliseconds, although the work takes microseconds.
Bits do not depend on the number of threads, so every call may choose.

A `Pace` is an account of one kind of call: how many seconds its threads have saved, compared
with one thread. When it is overdrawn, one thread runs the same machine code, and a 64th of the
time it takes is paid in, until there is enough for a trial. So threads that lose time are tried
again, but that costs at most a 64th of all time, and the longer a stall was, the later the next
trial comes. What one thread takes is measured when a call is suspiciously slow, and again from time to time.
"""

import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numba
import numpy.typing as npt
from numba.np.ufunc import parallel

PARALLEL_ELEMENTS = 3 << 14  # from here on, some 20 µs of work, threads save more than starting them may cost
SHARE = 1 / 64  # of one thread's time: what trying threads may cost
MEASURED = 1 / 128  # of all time: calls by one thread that measure it; the first come sooner
TRIAL = 2.5e-4  # seconds that a trial may lose at first, as threads that sleep have to be woken up
MOST_SAVED = 0.05  # seconds, some stalls: so much may be lost before threads are given up
MOST_LOST = 0.05  # seconds by one call: a stopped process says nothing about the cores
SUSPICIOUS = 1e-4, 1e-9  # seconds, and seconds an element, of a call of unknown pace

Array = npt.NDArray[Any]


def threading_layer() -> str | None:
    """Return the name of Numba's threading layer, None before threads have started."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


class Threads:
    """Whether Numba's threads may be used now."""

    def __init__(self) -> None:
        self.forked = self.is_settled = self.is_workqueue = False
        self.count: Callable[[], int] = numba.get_num_threads  # that a parallel kernel would have; starts them
        self.set_count: Callable[[int], None] = numba.set_num_threads  # of the calling Python thread alone
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """Stay away from threads that the parent had, whoever started them, and the child has not."""
        if threading_layer():
            self.forked, self.count = True, lambda: 1

    def _settle(self) -> None:
        """Cache the threading layer, which is fixed once threads run."""
        self.is_workqueue = threading_layer() == "workqueue"
        # the same without the locks around starting threads, which take longer than a small kernel
        self.count = getattr(parallel, "_get_num_threads", self.count)
        self.set_count = getattr(parallel, "_set_num_threads", self.set_count)
        self.is_settled = True  # last: other Python threads may be here too

    def may_serve(self, x: Array) -> bool:
        """Tell whether the parallel variant is to run: where there is enough to do, and threads are to be had."""
        if x.size < PARALLEL_ELEMENTS or self.count() == 1:
            return False
        if not self.is_settled:
            self._settle()
        # who is alone is alone until the kernel is done: nobody else is there to start a thread
        return not self.is_workqueue or len(sys._current_frames()) == 1

    def run_alone(self, entry: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Run a parallel variant by the calling thread; its setting is restored."""
        count = self.count()
        try:
            self.set_count(1)
            return entry(*args)
        finally:
            self.set_count(count)


threads = Threads()


class Pace:
    """What one kind of call takes by one thread, and what threads have saved."""

    __slots__ = ("due", "is_alone", "saved", "share", "single")

    def __init__(self) -> None:
        self.single = 0.0  # seconds an element by one thread when undisturbed, 0 while unknown
        self.saved = TRIAL  # seconds
        self.is_alone = False  # threads are given up
        self.share = 0.5  # of all time that measuring may cost; less each time, as one may have been disturbed
        self.due = 1.0  # seconds of calls by threads until one thread is measured again

    def note_threads(self, seconds: float, size: int) -> None:
        """Enter a call by all threads."""
        if not self.single:
            base, each = SUSPICIOUS
            self.due -= MEASURED if seconds < base + each * size else 1.0
            return
        self.due -= seconds
        saved = self.single * size - seconds
        saved = self.saved + (saved if saved > -MOST_LOST else -MOST_LOST)
        self.saved = saved if saved < MOST_SAVED else MOST_SAVED
        self.is_alone = saved < 0.0

    def note_single(self, seconds: float, size: int) -> None:
        """Enter a call by one thread."""
        rate = seconds / size
        # the fastest counts: other programs only slow a call down; it fades, as processors change their clock
        self.single = min(1.05 * self.single, rate) if self.single else rate
        if self.is_alone:
            self.saved += SHARE * seconds
            self.is_alone = self.saved < TRIAL
        self.due = self.single * size / self.share
        self.share = max(0.5 * self.share, MEASURED)


_paces: dict[tuple[Any, ...], Pace] = {}


def run(entry: Callable[..., Any], args: tuple[Any, ...], x: Array, out_is_new: bool = False) -> Any:
    """Run the entry point of a parallel variant by all threads, or by one where that takes less time.

    Calls are of one kind if they run the same machine code, for rows of one length, on about as many elements of
    ``x``, and write to an array that is new or not.
    """
    size = x.size
    key = entry, x.strides[0], size.bit_length(), out_is_new
    pace = _paces.get(key)
    if pace is None:
        pace = _paces.setdefault(key, Pace())
    if pace.is_alone or pace.due < 0.0:
        start = perf_counter()
        result = threads.run_alone(entry, args)
        pace.note_single(perf_counter() - start, size)
    else:
        start = perf_counter()
        result = entry(*args)
        pace.note_threads(perf_counter() - start, size)
    return result


def given_up() -> tuple[int, int]:
    """Return how many kinds of calls go without threads for a while, as one thread was faster, and of how many."""
    paces = tuple(_paces.values())
    return sum(pace.is_alone for pace in paces), len(paces)


def started() -> int:
    """Return how many threads kernels use, 0 while none was started."""
    return threads.count() if threading_layer() else 0
