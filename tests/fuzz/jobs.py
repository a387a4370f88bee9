"""The fuzzer's cases in processes of their own, so that one that a call ends is told with the case."""

import faulthandler
import itertools
import multiprocessing
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

STUCK = 600  # seconds after which a case is given up

Case = dict[str, Any]


class Outcome(NamedTuple):
    """What came of a case."""

    counts: Counter
    problem: str | None = None
    small: str = ""  # the plainest case with a problem


class Share(NamedTuple):
    """The cases of a job: every so many blocks of them, until there are so many or it is so late."""

    cases: Callable[[int], Iterator[Case]]
    seed: int
    most: float
    end: float  # by time.time
    block: int
    job: int = 0
    jobs: int = 1
    first: int = 0

    def numbered(self) -> Iterator[tuple[int, Case]]:
        """Yield (number, case)."""
        for i, case in enumerate(self.cases(self.seed)):
            if i >= self.most or time.time() > self.end:
                return
            if i >= self.first and i // self.block % self.jobs == self.job:
                yield i, case


Examine = Callable[[Case], Outcome]


def outcomes(share: Share, examine: Examine) -> Iterator[Outcome]:
    """Yield what comes of the cases of all jobs, in any order."""
    told: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    for job in range(share.jobs):
        threading.Thread(target=_watch, args=(share._replace(job=job), examine, told), daemon=True).start()
    working = share.jobs
    while working:
        outcome = told.get()
        if outcome is None:
            working -= 1
        else:
            yield outcome


def _watch(share: Share, examine: Examine, told: queue.SimpleQueue) -> None:
    """Tell what a job's process tells, and begin anew behind a case that ended it; None at last."""
    context = multiprocessing.get_context("spawn")
    at = context.RawValue("q", -1)
    while True:
        results, its_end = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(share, examine, at, its_end), daemon=True)
        process.start()
        its_end.close()
        try:
            while True:
                told.put(results.recv())
        except EOFError:
            process.join()
        if process.exitcode == 0:
            break
        case = next(itertools.islice(share.cases(share.seed), max(at.value, 0), None))
        told.put(Outcome(Counter(), f"the process ended with status {process.exitcode}: {case}", repr(case)))
        share = share._replace(first=max(at.value, 0) + 1)
    told.put(None)


def _work(share: Share, examine: Examine, at: Any, results: Connection) -> None:
    """Examine cases; ``at`` says which one, should it be the last."""
    faulthandler.enable()
    for i, case in share.numbered():
        at.value = i
        faulthandler.dump_traceback_later(STUCK, exit=True)
        results.send(examine(case))
        faulthandler.cancel_dump_traceback_later()
