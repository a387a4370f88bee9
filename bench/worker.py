"""A contender's process: it does what it is asked to over a pipe, and is still in between."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from bench.cases import Case, Op
from bench.contenders import CONTENDERS, Call, split
from bench.inputs import Inputs, inputs_of
from bench.network import DigitsNetwork
from bench.oracle import check

WARM_UP = 0.004  # seconds
LONG = 0.2  # seconds; such a call needs no untimed one before it
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Settings:
    """How a process is set up."""

    largest: int  # the elements that inputs are made for
    threads: int | None = None  # of pools that take no environment variable
    log: Path | None = None  # what libraries print goes there
    folder: Path | None = None  # of another checkout of fastce


class Skip(Exception):
    """The contender takes no part in a case."""


@dataclass
class Timed:
    """A prepared case: what is timed, and what is called before it, untimed."""

    call: Call
    warm_up: Call
    figures: Callable[[], dict[str, Any]] = dict  # what else the case tells when it has been timed
    steps: int = 1  # that a call consists of
    seconds: float = 0.0  # of a call, measured once


class Worker:
    """What a contender's process can do: every method is a word that it understands."""

    def __init__(self, name: str, largest: int) -> None:
        self._contender, self._largest = CONTENDERS[split(name)[0]], largest
        self._timed: dict[Case, Timed] = {}

    def prepare(self, *cases: Case) -> None:
        """Make inputs and calls, and check their results with the oracle; forget earlier cases."""
        self._timed.clear()
        for case in cases:
            self._timed[case] = (self._training if case.op == Op.TRAINING else self._call)(case)

    def _call(self, case: Case) -> Timed:
        inputs = inputs_of(case, self._largest)
        try:
            call = self._contender.call(case.op, inputs)
            if call is not None:
                result = call()
                if not self._contender.yardstick:
                    check(case.op, inputs, result, self._contender.to_numpy)
        except Exception as error:
            if self._contender.needs:
                raise Skip(f"cannot: {in_short(error)}") from error
            raise
        if call is None:
            raise Skip("has no such function")
        return Timed(call, call)

    def _training(self, case: Case) -> Timed:
        step = self._contender.call(case.op, None)
        if step is None:
            raise Skip("is not part of the training loop")
        # These matrix products are too small for threads, and a BLAS pool that spins beside torch's or Numba's on the
        # same cores slows every step several times over.
        threadpool_limits(1, user_api="blas")
        network = DigitsNetwork(step, case.batch)
        images, labels = (part[: case.batch] for part in network.train)
        logits = network.forward(images)[1]
        check(Op.LOSS_GRAD, Inputs(logits, labels, np.empty(0)), step(logits.copy(), labels))
        return Timed(network.epoch, network.warm_up, network.figures, network.steps)

    def seconds(self, case: Case) -> float:
        """Return how long a call takes, to decide on the rounds."""
        timed = self._timed[case]
        stamps = _stamps(timed.warm_up, WARM_UP)
        timed.seconds = (stamps[-1] - stamps[0]) / (len(stamps) - 1)
        return timed.seconds

    def round(self, case: Case, calls: int) -> float:
        """Warm up caches, threads and clock rate, then time so many calls; return the seconds a step."""
        timed = self._timed[case]
        if timed.seconds < LONG:
            _stamps(timed.warm_up, WARM_UP)
        call = timed.call
        gc.disable()
        start = time.perf_counter()
        # Each result is dropped at once, as in a loop that overwrites it: giving memory back is part of the cost.
        for _ in repeat(None, calls):
            call()
        elapsed = time.perf_counter() - start
        gc.enable()
        return elapsed / (calls * timed.steps)

    def figures(self, case: Case, memory: bool) -> dict[str, Any]:
        """Return what else there is to tell of a case that has been timed."""
        timed = self._timed[case]
        return timed.figures() | ({"bytes": extra_bytes(timed.call)} if memory else {})

    def span(self, case: Case, seconds: float) -> dict[str, float]:
        """Call for so many seconds, of which every moment counts."""
        call = self._timed[case].call
        _stamps(call, WARM_UP)
        stamps = np.array(_stamps(call, seconds))
        times = np.diff(stamps)
        quantiles = {"median": float(np.median(times)), "p99": float(np.quantile(times, 0.99))}
        return {"calls": len(times), "seconds": float(stamps[-1] - stamps[0]), **quantiles}

    def confine(self, cores: list[int]) -> None:
        """Put every thread there is on these cores."""
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), cores)


def serve(link: Connection, name: str, settings: Settings) -> None:
    """Answer until the other end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process at the other end ends this one too
    if settings.log:
        with open(settings.log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    if settings.folder:
        sys.path.insert(0, str(settings.folder))
    if settings.threads and name.startswith("torch"):
        import torch

        torch.set_num_threads(settings.threads)
    worker = Worker(name, settings.largest)
    with threadpool_limits(settings.threads), suppress(EOFError, OSError):
        while True:
            word, arguments = link.recv()
            try:
                answer = "done", getattr(worker, word)(*arguments)
            except Skip as reason:
                answer = "skip", str(reason)
            except Exception as error:
                answer = "failed", f"{type(error).__name__}: {error}"[:1000]
            wait_until_idle()
            link.send(answer)


def _stamps(call: Call, seconds: float) -> list[float]:
    """Call for so many seconds, once at least; return the time before the first call and after each."""
    stamps = [time.perf_counter()]
    end = stamps[0] + seconds
    while len(stamps) == 1 or stamps[-1] < end:
        call()
        stamps.append(time.perf_counter())
    return stamps


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
    """Wait until no other thread of this process runs.

    OpenMP's threads spin for some milliseconds after their work (8 ms measured), and would take a core from the
    contender that has the next turn.
    """
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        time.sleep(longest / 4)
        return
    main, end = str(os.getpid()), time.monotonic() + longest
    while time.monotonic() < end and "R" in [_state(task) for task in tasks.iterdir() if task.name != main]:
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:  # the thread has just ended
        return ""


def thread_environment(threads: int) -> dict[str, str]:
    """Return the environment variables that give every contender's process the same threads.

    OpenMP's threads are bound to cores: unbound, Linux can leave both threads of a small team on one core, where each
    call then waits out whole time slices.
    """
    pools = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM")
    jax = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "NPROC": str(threads),  # XLA's pool
        "PJRT_NPROC": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
    }
    compiler = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # in the process itself, leaving none behind that could spin
    return {**{f"{pool}_NUM_THREADS": str(threads) for pool in pools}, "OMP_PROC_BIND": "true", **jax, **compiler}
