"""A contender's process: it carries out requests that come over a pipe, and does nothing in between."""

import gc
import os
import re
import signal
import sys
import time
from contextlib import suppress
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.cases import Case, Op
from bench.contenders import Entrant, contender_of
from bench.inputs import Call, Inputs, inputs_of
from bench.network import DigitsNetwork
from bench.oracle import check

# Seconds of untimed calls before a round. While others have the turn, threads sleep and cores lose clock speed: a call
# of two threads was 40 % slower 5 ms after it got the turn, and 2 % slower after 15 ms, on a Xeon.
WARM_UP = 0.015
LONG = 0.2  # seconds; a call as long needs no warm-up
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Skip(Exception):
    """The contender takes no part in a case."""


class Worker:
    """The requests that a contender's process understands: the public methods."""

    def __init__(self, contender: str, largest: int) -> None:
        self._contender, self._largest = contender_of(contender), largest
        self._call: Call | None = None  # of the prepared case
        self._network: DigitsNetwork | None = None  # if the case is the training loop
        self._seconds = 0.0  # of a call, in the last span

    def prepare(self, case: Case) -> None:
        """Make the inputs and the call of a case, and check its result with the oracle."""
        self._call = self._network = None  # frees the arrays of the case before
        try:
            self._call = self._contender.call(case.op, inputs_of(case, self._largest))
            if self._call is not None:
                self._check(case)
        except Exception as error:
            if self._contender.needs:
                raise Skip(f"cannot: {in_short(error)}") from error
            raise
        if self._call is None:
            raise Skip("has no such function")

    def _check(self, case: Case) -> None:
        if case.op == Op.TRAINING:
            self._prepare_training(case.batch)
            return
        result = self._call()
        if not self._contender.yardstick:
            check(case.op, inputs_of(case, self._largest), result, self._contender.to_numpy)

    def _prepare_training(self, batch: int) -> None:
        """Check the loss on the first batch and put it into the network, whose step is the call."""
        # These matrix products are too small for threads, and a BLAS pool that spins beside torch's or Numba's on the
        # same cores slows every step several times over.
        threadpool_limits(1, user_api="blas")
        loss_and_grad = self._call
        self._network = DigitsNetwork(loss_and_grad, batch)
        images, labels = (part[:batch] for part in self._network.train)
        logits = self._network.forward(images)[1]
        check(Op.LOSS_GRAD, Inputs(logits, labels, np.empty(0)), loss_and_grad(logits.copy(), labels))
        self._call = self._network.step

    def span(self, seconds: float = WARM_UP) -> dict[str, float]:
        """Call for so many seconds and return the statistics of single calls; pauses between calls count."""
        if seconds > WARM_UP:
            stamps(self._call, WARM_UP)
        times = np.diff(stamps(self._call, seconds))
        self._seconds = float(times.mean())
        median, p99 = np.quantile(times, (0.5, 0.99)).tolist()
        return {"calls": len(times), "mean": self._seconds, "median": median, "p99": p99}

    def round(self, calls: int) -> float:
        """Warm up caches, threads and clock rate, then time so many calls; return the seconds a call."""
        call = self._call
        if self._seconds < LONG:
            stamps(call, WARM_UP)
        gc.disable()
        start = time.perf_counter()
        # Each result is dropped at once, as in a loop that overwrites it: giving memory back is part of the cost.
        for _ in repeat(None, calls):
            call()
        elapsed = time.perf_counter() - start
        gc.enable()
        return elapsed / calls

    def figures(self, memory: bool) -> dict[str, Any]:
        """Return the other figures of a case that has been timed."""
        figures = self._network.figures() if self._network else {}
        return figures | ({"bytes": extra_bytes(self._call)} if memory else {})

    def confine(self, cores: list[int]) -> None:
        """Bind all threads of the process to these cores."""
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)


def serve(link: Connection, entrant: Entrant, threads: int, largest: int, log: Path) -> None:
    """Answer requests until the other end of the pipe closes; what libraries print goes to the log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process at the other end ends this one too
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if entrant.folder:
        sys.path.insert(0, entrant.folder)
    if "torch" in entrant.contender:
        import torch

        torch.set_num_threads(threads)  # it reads no environment variable
    worker = Worker(entrant.contender, largest)
    with threadpool_limits(threads), suppress(EOFError, OSError):
        while True:
            request, arguments = link.recv()
            try:
                answer = "done", getattr(worker, request)(*arguments)
            except Skip as reason:
                answer = "skip", str(reason)
            except Exception as error:
                answer = "failed", f"{type(error).__name__}: {error}"[:1000]
            wait_until_idle()
            link.send(answer)


def stamps(call: Call, seconds: float) -> list[float]:
    """Call for so many seconds, once at least; return the time before the first call and after each."""
    times = [time.perf_counter()]
    end = times[0] + seconds
    while len(times) == 1 or times[-1] < end:
        call()
        times.append(time.perf_counter())
    return times


def in_short(error: Exception) -> str:
    """Name an error in a line, without the machine's paths."""
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"(/[^\s:'\"]+)+/", "", f"{type(error).__name__}: {lines[0]}")[:160]


def extra_bytes(call: Call) -> int | None:
    """Return how far resident memory rises during a call that was made before; None where the system cannot tell.

    The result counts, unless it goes to ``out=``.
    """
    if not RESET.exists():
        return None
    gc.collect()
    RESET.write_text("5")  # resets the high-water mark
    before = _kilobytes("VmRSS")
    call()
    return max(0, _kilobytes("VmHWM") - before) << 10


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def wait_until_idle(longest: float = 0.05) -> None:
    """Wait until no thread of this process runs.

    OpenMP's threads spin for some milliseconds after their work (8 ms measured), and would take a core from the
    contender that has the next turn.
    """
    end = time.monotonic() + longest
    while time.monotonic() < end:
        before = time.process_time()  # of all threads
        time.sleep(0.001)
        if time.process_time() - before < 0.0005:
            return
