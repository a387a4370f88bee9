"""Runs plans: starts a process for each contender and gives them the turn, one after the other, round by round."""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil
from pytest_benchmark.stats import Stats

from bench.cases import Case, Plan
from bench.contenders import entrant
from bench.data import Results, failures
from bench.neighbours import busy_neighbours, cores
from bench.process import Failed, Process, WorkerDied
from bench.worker import WARM_UP, Skip, thread_environment

ROUND = 0.002  # seconds at least
POLICIES = ("OMP_", "GOMP_", "KMP_", "NUMBA_NUM", "NUMBA_THREADING")  # environment variables about threads
IDLE = 0.006  # seconds until the threads of a contender are idle, on average
Show = Callable[[Any, int, int], None]  # of the progress: a case, its number, and the number of all


def run_all(plans: list[Plan], folder: Path, same: str | None, show: Show) -> tuple[Results, float]:
    """Run all plans; return the results and the highest load of the machine, in percent, before a plan began.

    With a digest ``same`` of all that makes figures comparable, a plan's results are stored in the folder, and taken
    from there if a later run has the same digest and plan.
    """
    results, highest_load, done = Results(), 0.0, 0
    total = sum(len(plan.cases) for plan in plans)
    for plan in plans:

        def show_in_all(case: Any, number: int, _: int, done: int = done) -> None:
            show(case, done + number, total)

        plan_results, load = _stored_or_run(plan, folder, same, show_in_all)
        results.add(plan_results)
        highest_load = max(highest_load, load)
        done += len(plan.cases)
    return results, highest_load


def _stored_or_run(plan: Plan, folder: Path, same: str | None, show: Show) -> tuple[Results, float]:
    """Return the stored results of the plan if its key is the same; else run it, and store them if nothing failed."""
    path, key = folder / f"{plan.name}.json", plan.key(same or "")
    if same and path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return Results(**stored["results"]), stored["load"]
        path.unlink()
    logs = folder / "logs" / plan.name
    logs.mkdir(parents=True, exist_ok=True)
    load = psutil.cpu_percent(0.5)
    with Runner(plan, logs) as runner:
        results = runner.run(show)
    if same and not failures(results.notes):
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"key": key, "load": load, "results": asdict(results)}), encoding="utf-8")
        part.replace(path)
    return results, load


class Runner:
    """Runs one plan; use it as a context manager. Logs of the processes go to the folder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.results, self.stack = plan, Results(), ExitStack()
        self.workers: list[Process] = []
        self.started: float | None = None
        for name in plan.contenders:
            threads = self._threads(name)
            log = folder / f"{name.replace('/', '-')}.log"
            process = Process(name, plan.crowd, _environment(threads, plan), log, threads=threads, largest=plan.largest)
            self.workers.append(self.stack.enter_context(process))
            for _, member in process.members if plan.group else []:
                Path(plan.group).write_text(str(member.pid))

    def __enter__(self) -> Self:
        """Return the runner, whose processes have started."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self.stack.close()

    def run(self, show: Show) -> Results:
        """Run every case; the progress is shown between cases, when nothing is being timed."""
        cases = self.plan.cases
        for number, case in enumerate(cases):
            show(case, number, len(cases))
            reason = self._reason_to_skip(case)
            if reason:
                self.results.note("skipped", case, "all", reason)
            else:
                self._run_case(case, cases[number:])
        show("finished", len(cases), len(cases))
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

    def _run_case(self, case: Case, cases_left: tuple[Case, ...]) -> None:
        """Prepare a case and measure it."""
        ready = self._prepare(case)
        self.started = self.started or time.monotonic()
        if self.plan.span:
            self._run_spans(case, ready)
        else:
            self._run_rounds(case, cases_left, ready)

    def _run_spans(self, case: Case, ready: list[Process]) -> None:
        """Measure single calls, under the plan's conditions."""
        if self.plan.confined:
            ready = self._each(case, ready, lambda worker: worker.ask("confine", cores()[:1]))

        def span(worker: Process, turn: int) -> None:
            worker.send("span", case, self.plan.span)
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
            once[worker.name] = worker.ask("seconds", case)
            if once[worker.name] > self.plan.slowest:
                raise Skip(f"{once[worker.name]:.1f} s a call")

        def turn(worker: Process) -> None:
            rounds[worker.name].append(worker.ask("round", case, _calls(once[worker.name])))

        def finish(worker: Process) -> None:
            figures = statistics(rounds[worker.name], _calls(once[worker.name]))
            self._record(case, worker, figures | worker.ask("figures", case, self.plan.memory))

        ready = self._each(case, ready, measure)
        for _ in range(self._rounds(case, cases_left, [once[worker.name] for worker in ready])):
            ready = self._each(case, ready[1:] + ready[:1], turn)
        self._each(case, ready, finish)

    def _prepare(self, case: Case) -> list[Process]:
        """Have the data made, calls compiled, results checked; return the processes that take part.

        All prepare at once, where there is memory for the results and temporaries of all.
        """
        if 4 * len(self.workers) * case.nbytes > psutil.virtual_memory().available:
            return self._each(case, self.workers, lambda worker: worker.ask("prepare", case))
        started = self._each(case, self.workers, lambda worker: worker.send("prepare", case))
        return self._each(case, started, lambda worker: worker.answers())

    def _rounds(self, case: Case, cases_left: tuple[Case, ...], once: list[float]) -> int:
        """Return how many rounds fit into the case's share of the time left."""
        seconds = self._seconds_left() * case.weight / sum(other.weight for other in cases_left)
        one_round = sum(max(WARM_UP, t) + _calls(t) * t + IDLE for t in once) or 1
        least, most = self.plan.rounds
        return min(max(int(max(seconds, 0) / one_round), least), most)

    def _threads(self, name: str) -> int:
        return entrant(name).threads or self.plan.threads

    def _record(self, case: Case, worker: Process, figures: dict[str, Any]) -> None:
        contender, _, folder = entrant(worker.name)
        by = {"contender": contender, "threads": self._threads(worker.name), "folder": folder}
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


def _environment(threads: int, plan: Plan) -> dict[str, str]:
    """Return the environment of a process.

    Few programs bind threads to cores or set policies for them, so single calls are measured without.
    """
    inherited = {k: v for k, v in os.environ.items() if not (plan.span and k.startswith(POLICIES))}
    return inherited | thread_environment(threads, bind=not plan.span)


def statistics(seconds: list[float], calls: int) -> dict[str, Any]:
    """Return the figures of the rounds, as pytest-benchmark defines them."""
    stats = Stats()
    for value in seconds:
        stats.update(value)
    return {"rounds": len(seconds), "calls": calls, **{key: getattr(stats, key) for key in ("median", "min", "iqr")}}


def _calls(seconds: float) -> int:
    """Return the calls a round, for calls of so many seconds."""
    return max(1, min(10_000, math.ceil(ROUND / seconds)))
