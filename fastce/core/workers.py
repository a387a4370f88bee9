"""Python threads that run kernels between matrix products.

Numba's threads spin for some milliseconds after a kernel, in case another one follows. Meanwhile BLAS's threads do not
get the cores for the next product. Python's threads sleep at once.
"""

import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from queue import Empty, SimpleQueue
from threading import Thread

import numba
import numpy as np

from fastce.core.layout import Array
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS

PARTS_A_THREAD = 4  # several, so that one slow thread does not delay all

Work = Callable[[slice], None]


def parts(count: int, step: int) -> Iterator[slice]:
    """Cut ``count`` into slices of ``step``."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class Workers:
    """As many threads as Numba may use, each of which runs serial kernels. A context manager.

    The threads are started before they get work. ``concurrent.futures`` starts them later: it takes no work once the
    main thread has ended, and if it cannot start a thread, one cannot know whether its work is done nevertheless.
    The threads are daemons. The thread that opened the context ends them and joins them when it leaves.
    """

    def __init__(self) -> None:
        self.threads: list[Thread] = []
        self.is_refused = False  # the system or the interpreter starts no more threads
        self.todo: SimpleQueue[tuple[Work, slice] | None] = SimpleQueue()  # None ends a thread
        self.done: SimpleQueue[BaseException | None] = SimpleQueue()

    @cached_property
    def count(self) -> int:
        """The number of threads; to ask Numba takes 5 % of a small call, which needs none."""
        return numba.get_num_threads()  # type: ignore[no-any-return]

    def __enter__(self) -> "Workers":
        """Return the workers."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the threads and join them."""
        try:
            while True:  # after an error, work may be left
                self.todo.get_nowait()
        except Empty:
            pass
        for _ in self.threads:
            self.todo.put(None)
        for thread in self.threads:
            if thread.ident is not None:  # it has started
                thread.join()

    def run(self, work: Work, x: Array) -> None:
        """Call ``work`` for slices that cover the rows of ``x``, in any order; for one slice if there are few rows."""
        if x.size < 2 * PARALLEL_ELEMENTS or self.count == 1 or len(x) < self.count:
            work(slice(0, len(x)))
        elif self._are_started():
            count = min(PARTS_A_THREAD * self.count, x.size // PARALLEL_ELEMENTS)
            self._distribute(work, list(parts(len(x), -(-len(x) // count))))
        else:
            self._run_alone(work, x)

    def _are_started(self) -> bool:
        """Start the threads and tell whether there are several; the system or a finalizing interpreter may refuse."""
        while len(self.threads) < self.count and not self.is_refused:
            # listed before the start: an interrupt after it would lose the thread
            self.threads.append(Thread(target=self._serve, daemon=True))
            try:
                if sys.is_finalizing():  # Python 3.11 would wait for the thread forever
                    raise RuntimeError
                self.threads[-1].start()
            except RuntimeError:
                self.threads.pop()
                self.is_refused = True
        return len(self.threads) > 1

    def _distribute(self, work: Work, slices: list[slice]) -> None:
        """Call ``work`` for the slices in the threads, and raise the first error of one."""
        for part in slices:
            self.todo.put((work, part))
        for _ in slices:
            error = self.done.get()
            if error is not None:
                raise error

    def _run_alone(self, work: Work, x: Array) -> None:
        """Call ``work`` once in this thread, with serial kernels as the threads run them."""
        numba.set_num_threads(1)  # a setting of this thread
        try:
            work(slice(0, len(x)))
        finally:
            numba.set_num_threads(self.count)

    def _serve(self) -> None:
        """Take work until None comes."""
        numba.set_num_threads(1)  # serial variants; a setting of this thread
        np.seterr(all="ignore")  # also a setting of this thread
        while (task := self.todo.get()) is not None:
            work, part = task
            try:
                work(part)
            except BaseException as error:
                self.done.put(error)
            else:
                self.done.put(None)
