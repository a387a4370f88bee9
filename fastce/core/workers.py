"""Threads for kernels that run between matrix products.

Numba's threads spin for some milliseconds after a kernel, in the hope of another one, and BLAS's
threads, whose turn it is then, do not get the cores. Python's own threads sleep at once.
"""

import sys
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread

import numba
import numpy as np

from fastce.core.layout import Array
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS

PARTS_A_THREAD = 4  # so that one thread that comes late does not hold up all

Work = Callable[[slice], None]


def parts(count: int, step: int) -> Iterator[slice]:
    """Cut ``count`` into slices of ``step``."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class Workers:
    """As many threads as Numba may use, each of which runs kernels by itself. A context manager.

    ``concurrent.futures`` takes no work once the main thread has ended, and does not tell whether work for
    which it could start no thread is done all the same. So the threads here are started before there is work.
    They are daemons: what ends them is the thread that they work for, which waits for them.
    """

    def __init__(self) -> None:
        self.count = numba.get_num_threads()
        self.threads: list[Thread] = []
        self.is_refused = False  # no more threads are to be had
        self.todo: SimpleQueue[tuple[Work, slice] | None] = SimpleQueue()  # None ends a thread
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()

    def __enter__(self) -> "Workers":
        """Return the workers."""
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for the threads to end."""
        try:
            while True:  # after an error there may be work left
                self.todo.get_nowait()
        except Empty:
            pass
        for _ in self.threads:
            self.todo.put(None)
        for thread in self.threads:
            if thread.ident is not None:  # it has started
                thread.join()

    def run(self, work: Work, x: Array) -> None:
        """Call ``work`` for slices that make up the rows of ``x``, in no order; at once if that is not worth it."""
        most = min(PARTS_A_THREAD * self.count, x.size // PARALLEL_ELEMENTS)
        if self.count == 1 or most < 2 or len(x) < self.count:
            work(slice(0, len(x)))
        elif self._are_started():
            self._share(work, list(parts(len(x), -(-len(x) // most))))
        else:
            self._run_alone(work, x)

    def _are_started(self) -> bool:
        """Tell whether there are threads; the system may refuse them, and the interpreter when it ends."""
        while len(self.threads) < self.count and not self.is_refused:
            self.threads.append(Thread(target=self._serve, daemon=True))  # first: an interrupt may come after the start
            try:
                if sys.is_finalizing():  # Python 3.11 would wait for the thread for ever
                    raise RuntimeError
                self.threads[-1].start()
            except RuntimeError:
                self.threads.pop()
                self.is_refused = True
        return len(self.threads) > 1

    def _share(self, work: Work, slices: list[slice]) -> None:
        for part in slices:
            self.todo.put((work, part))
        for _ in slices:
            error = self.done.get()
            if error is not None:
                raise error

    def _run_alone(self, work: Work, x: Array) -> None:
        """Call ``work`` once, in this thread, with the kernels that the threads would run."""
        numba.set_num_threads(1)  # a setting of this thread
        try:
            work(slice(0, len(x)))
        finally:
            numba.set_num_threads(self.count)

    def _serve(self) -> None:
        """Take work until there is None."""
        numba.set_num_threads(1)  # a setting of each thread, as the next: run serial variants, do not warn
        np.seterr(all="ignore")
        while (task := self.todo.get()) is not None:
            work, part = task
            try:
                work(part)
            except BaseException as error:
                self.done.put(error)
            else:
                self.done.put(None)
