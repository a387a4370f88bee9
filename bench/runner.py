"""Starts a process a contender and gives them the turn, one after the other, round by round."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from pytest_benchmark.stats import Stats

from bench.cases import Case, Op, Plan
from bench.contenders import split
from bench.data import Results
from bench.process import Failed, Process, WorkerDied
from bench.worker import WARM_UP, Settings, Skip, thread_environment

ROUND, IDLE = 0.002, 0.006  # seconds, the last what threads need to come to rest, on average
Tell = Callable[[Any, int, int], None]


class Runner:
    """One run of a plan: use as a context manager, then call :meth:`run`; logs go to the folder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.results = plan, folder, Results()
        self.workers: list[Process] = []
        self.started: float | None = None

    def __enter__(self) -> Runner:
        """Start all processes."""
        for name in self.plan.contenders:
            threads = self._threads(name)
            settings = Settings(self.plan.largest, threads, self.folder / f"{name}.log")
            self.workers.append(Process(name, settings, os.environ | thread_environment(threads)))
        return self

    def __exit__(self, *error: object) -> None:
        """End them."""
        for worker in self.workers:
            worker.end()

    def run(self, tell: Tell) -> Results:
        """Run every case; ``tell(case, number, of)`` is called between the cases, when nothing is being timed."""
        cases = self.plan.cases
        for number, case in enumerate(cases):
            tell(case, number, len(cases))
            reason = self._too_much(case)
            if reason:
                self.results.skip(case, "all", reason)
            else:
                self._run_case(case, cases[number:])
        tell("finished", len(cases), len(cases))
        return self.results

    def _too_much(self, case: Case) -> str | None:
        """Say why a case must be left out, if it must."""
        if case.op == Op.TRAINING:
            return None
        if self._seconds_left() < 0 and not self.plan.complete:
            return "out of time"
        if 5 * case.nbytes > psutil.virtual_memory().available:
            return "out of memory"
        return None

    def _seconds_left(self) -> float:
        """Return the seconds until no further case is begun; the clock starts when the first one is prepared."""
        return self.plan.seconds - (time.monotonic() - self.started if self.started else 0.0)

    def _run_case(self, case: Case, cases_left: tuple[Case, ...]) -> None:
        """Prepare a case, measure it once, decide on the rounds, take them in turn."""
        ready = self._prepare(case)
        self.started = self.started or time.monotonic()
        once: dict[str, float] = {}
        rounds: dict[str, list[float]] = {worker.name: [] for worker in ready}

        def measure(worker: Process) -> None:
            once[worker.name] = worker.ask("seconds", case)
            if once[worker.name] > self.plan.slowest:
                raise Skip(f"{once[worker.name]:.1f} s a call")

        def turn(worker: Process) -> None:
            rounds[worker.name].append(worker.ask("round", case, _calls(case, once[worker.name])))

        def finish(worker: Process) -> None:
            record = {"contender": split(worker.name)[0], "threads": self._threads(worker.name)}
            record |= statistics(rounds[worker.name], _calls(case, once[worker.name]))
            self.results.records.append(asdict(case) | record | worker.ask("figures", case, self.plan.memory))

        ready = self._each(case, ready, measure)
        for _ in range(self._rounds(case, cases_left, [once[worker.name] for worker in ready])):
            ready = self._each(case, ready[1:] + ready[:1], turn)
        self._each(case, ready, finish)

    def _prepare(self, case: Case) -> list[Process]:
        """Have the data made, calls compiled, results checked; return those that take part.

        All prepare at once, where there is memory for the results and temporaries of all.
        """
        if 4 * len(self.workers) * case.nbytes > psutil.virtual_memory().available:
            return self._each(case, self.workers, lambda worker: worker.ask("prepare", case))
        started = self._each(case, self.workers, lambda worker: worker.say("prepare", case))
        return self._each(case, started, lambda worker: worker.answer())

    def _rounds(self, case: Case, cases_left: tuple[Case, ...], once: list[float]) -> int:
        """Return how many rounds fit into the case's share of the time left."""
        if case.op == Op.TRAINING:
            return self.plan.epochs
        seconds = self._seconds_left() * case.weight / sum(other.weight for other in cases_left)
        one_round = sum(max(WARM_UP, t) + _calls(case, t) * t + IDLE for t in once) or 1
        fewest, most = self.plan.rounds
        return min(max(int(max(seconds, 0) / one_round), fewest), most)

    def _threads(self, name: str) -> int:
        return split(name)[1] or self.plan.threads

    def _each(self, case: Case, workers: list[Process], act: Callable[[Process], Any]) -> list[Process]:
        """Let each worker act in order; return those still in this case."""
        staying = []
        for worker in list(workers):
            try:
                act(worker)
                staying.append(worker)
            except Skip as reason:
                self.results.skip(case, worker.name, str(reason))
            except Failed as error:
                self.results.fail(case, worker.name, str(error))
            except WorkerDied as error:
                self.results.fail(case, worker.name, str(error))
                self.workers.remove(worker)
        return staying


def statistics(seconds: list[float], calls: int) -> dict[str, Any]:
    """Return the figures of the rounds, as pytest-benchmark defines them."""
    stats = Stats()
    for value in seconds:
        stats.update(value)
    return {"rounds": len(seconds), "calls": calls, **{key: getattr(stats, key) for key in ("median", "min", "iqr")}}


def _calls(case: Case, seconds: float) -> int:
    """Return the calls a round; in training a call is an epoch."""
    return 1 if case.op == Op.TRAINING else max(1, min(10_000, math.ceil(ROUND / seconds)))
