"""Runs plans: starts a process for each contender and gives them the turn, one after the other, round by round."""

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from pytest_benchmark.stats import Stats

from bench.cases import Case, Plan
from bench.data import Results, failures
from bench.neighbours import busy_neighbours, cores
from bench.process import Failed, Process, WorkerDied
from bench.worker import WARM_UP, Skip

ROUND = 0.002  # seconds at least
IDLE = 0.006  # seconds until the threads of a contender are idle, on average
Show = Callable[[Case], None]  # shows a case that begins


def run_all(plans: list[Plan], folder: Path, same: str, show: Show) -> tuple[Results, float]:
    """Run all plans; return the results and the highest load of the machine, in percent, before a plan began.

    If there is a digest ``same`` of all that makes figures comparable, a plan's results are stored in the folder, and
    a later run with the same digest and plan takes them from there.
    """
    results, highest_load = Results(), 0.0
    for plan in plans:
        path, key = folder / f"{plan.name}.json", plan.key(same)
        stored = json.loads(path.read_text(encoding="utf-8")) if same and path.exists() else {}
        if stored.get("key") == key:
            for case in plan.cases:
                show(case)
            plan_results, load = Results(**stored["results"]), stored["load"]
        else:
            load = psutil.cpu_percent(0.5)
            plan_results = run_plan(plan, folder / "logs" / plan.name, show)
            if same and not failures(plan_results.notes):
                part = path.with_suffix(".part")
                part.write_text(json.dumps({"key": key, "load": load, "results": asdict(plan_results)}))
                part.replace(path)
        results.add(plan_results)
        highest_load = max(highest_load, load)
    return results, highest_load


def run_plan(plan: Plan, logs: Path, show: Show) -> Results:
    """Start the contenders' processes, run every case, end the processes."""
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        workers = [stack.enter_context(Process(name, plan, logs)) for name in plan.contenders]
        return Runner(plan, workers).run(show)


class Runner:
    """Runs the cases of one plan with processes that have started."""

    def __init__(self, plan: Plan, workers: list[Process]) -> None:
        self.plan, self.workers, self.results = plan, workers, Results()
        self.started: float | None = None

    def run(self, show: Show) -> Results:
        """Run every case; each is shown before it begins, when nothing is being timed."""
        for number, case in enumerate(self.plan.cases):
            show(case)
            reason = self._reason_to_skip(case)
            if reason:
                self.results.note("skipped", case, "all", reason)
                continue
            ready = self._prepare(case)
            self.started = self.started or time.monotonic()
            if self.plan.span:
                self._run_spans(case, ready)
            else:
                self._run_rounds(case, self.plan.cases[number:], ready)
        return self.results

    def _reason_to_skip(self, case: Case) -> str | None:
        if self._seconds_left() < 0 and not self.plan.complete:
            return "out of time"
        if 5 * case.nbytes > psutil.virtual_memory().available:
            return "out of memory"
        return None

    def _seconds_left(self) -> float:
        """Return the seconds until no further case is begun; the clock starts when the first one is prepared."""
        return self.plan.seconds - (time.monotonic() - self.started if self.started else 0.0)

    def _prepare(self, case: Case) -> list[Process]:
        """Have the data made, calls compiled, results checked; return the processes that take part.

        All prepare at once, where there is memory for the results and temporaries of all.
        """
        if 4 * len(self.workers) * case.nbytes > psutil.virtual_memory().available:
            return self._each(case, self.workers, lambda worker: worker.ask("prepare", case))
        started = self._each(case, self.workers, lambda worker: worker.send("prepare", case))
        return self._each(case, started, lambda worker: worker.answers())

    def _run_spans(self, case: Case, ready: list[Process]) -> None:
        """Measure single calls, under the plan's conditions."""
        if self.plan.confined:
            ready = self._each(case, ready, lambda worker: worker.ask("confine", cores()[:1]))

        def span(worker: Process, turn: int) -> None:
            worker.send("span", self.plan.span)
            for answer in worker.answers():
                self._record(case, worker, {"rounds": 1, "turn": turn} | answer)

        with busy_neighbours() if self.plan.busy else nullcontext():
            for turn in range(self.plan.rounds[0]):
                ready = self._each(case, ready, partial(span, turn=turn))

    def _run_rounds(self, case: Case, cases_left: tuple[Case, ...], ready: list[Process]) -> None:
        """Measure a call once, decide on the rounds, take them in turn."""
        once: dict[str, float] = {}
        rounds: dict[str, list[float]] = {worker.name: [] for worker in ready}

        def measure(worker: Process) -> None:
            once[worker.name] = worker.ask("span")["mean"]
            if once[worker.name] > self.plan.slowest:
                raise Skip(f"{once[worker.name]:.1f} s a call")

        def turn(worker: Process) -> None:
            rounds[worker.name].append(worker.ask("round", _calls(once[worker.name])))

        def finish(worker: Process) -> None:
            figures = {"calls": _calls(once[worker.name])} | statistics(rounds[worker.name])
            self._record(case, worker, figures | worker.ask("figures", self.plan.memory))

        ready = self._each(case, ready, measure)
        for _ in range(self._rounds(case, cases_left, [once[worker.name] for worker in ready])):
            ready = self._each(case, ready[1:] + ready[:1], turn)
        self._each(case, ready, finish)

    def _rounds(self, case: Case, cases_left: tuple[Case, ...], once: list[float]) -> int:
        """Return how many rounds fit into the case's share of the time left."""
        seconds = self._seconds_left() * case.weight / sum(other.weight for other in cases_left)
        one_round = sum(max(WARM_UP, t) + _calls(t) * t + IDLE for t in once) or 1
        least, most = self.plan.rounds
        return min(max(int(max(seconds, 0) / one_round), least), most)

    def _record(self, case: Case, worker: Process, figures: dict[str, Any]) -> None:
        by = {**worker.entrant._asdict(), "threads": worker.threads}
        self.results.records.append({"section": self.plan.section} | asdict(case) | by | figures)

    def _each(self, case: Case, workers: list[Process], act: Callable[[Process], Any]) -> list[Process]:
        """Let each worker act in order; return those still in this case."""
        staying = []
        for worker in list(workers):
            try:
                act(worker)
                staying.append(worker)
            except Skip as reason:
                self.results.note("skipped", case, worker.name, str(reason))
            except (Failed, WorkerDied) as error:
                self.results.note("failed", case, worker.name, str(error))
                if isinstance(error, WorkerDied):
                    self.workers.remove(worker)
        return staying


def statistics(seconds: list[float]) -> dict[str, Any]:
    """Return the figures of the rounds, as pytest-benchmark defines them."""
    stats = Stats()
    for value in seconds:
        stats.update(value)
    return {"rounds": len(seconds), "median": stats.median, "min": stats.min, "iqr": stats.iqr}


def _calls(seconds: float) -> int:
    """Return the calls a round, for calls of so many seconds."""
    return max(1, min(10_000, math.ceil(ROUND / seconds)))
