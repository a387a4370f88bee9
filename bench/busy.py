"""What two threads cost where there is no room for them: ``python -m bench.busy``.

Loss and gradient in processes with two Numba threads and with one, which take turns: confined to one core after the
threads have started, beside a busy process a core, eight processes at once, on a quiet machine, and under a quota of
one core where such a control group can be made. ``--tree`` measures another checkout of fastce in the same turns.
:func:`run` is the stage of the benchmark that measures contenders quiet and beside busy processes.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from bench.cases import Case, Op
from bench.data import ROOT, Results
from bench.neighbours import busy_neighbours, cores, quota_of_one_core
from bench.process import Failed, Process, WorkerDied
from bench.tables import SHAPE, Table, duration, three_digits
from bench.worker import Settings, Skip, thread_environment

CASES = tuple(Case(Op.LOSS_GRAD, *shape) for shape in ((64, 1000), (1024, 1000), (16384, 100), (65536, 10)))
CONTENDERS = ("fastce-out", "numpy", "torch")  # of the benchmark's stage
SECONDS = 1.5  # of calls a turn
BOUND = 1.25  # two threads, as a multiple of one
CROWD = 8
QUIET_TURNS = 5  # a round, each as much shorter: drift counts where differences are small
CONFINED, BESIDE, CROWDED, QUIET, QUOTA = (
    "(a) confined to one core",
    "(b) beside a busy process a core",
    f"(c) {CROWD} such processes at once",
    "(d) quiet",
    "(e) under a quota of one core",
)
CONDITIONS = {condition[1]: condition for condition in (CONFINED, BESIDE, CROWDED, QUIET, QUOTA)}
POLICIES = ("OMP_", "GOMP_", "KMP_", "NUMBA_NUM", "NUMBA_THREADING")  # variables that decide what is measured
Teams = dict[tuple[Path, int], list[Process]]  # by checkout and threads


def started(name: str, variables: dict[str, str], folder: Path = ROOT) -> Process:
    """Start a contender's process with these variables about threads, and none of this process's."""
    others = {key: value for key, value in os.environ.items() if not key.startswith(POLICIES)}
    return Process(name, Settings(max(case.elements for case in CASES), folder=folder), others | variables)


def together(workers: list[Process], word: str, *arguments: Any) -> list[Any]:
    """Have all do the same at once; return their answers."""
    for worker in workers:
        worker.say(word, *arguments)
    return [worker.answer() for worker in workers]


# --- two threads against one -----------------------------------------------------------


class Comparison:
    """Measures teams of processes, one for each checkout and number of threads, under several conditions."""

    def __init__(self, folders: list[Path], options: argparse.Namespace, console: Console) -> None:
        self.teams = [(folder, threads) for folder in folders for threads in (2, 1)]
        self.trees = {folder: "here" if folder == ROOT else folder.name for folder in folders}
        self.options, self.console = options, console
        self.spans: list[dict[str, Any]] = []

    def measure_all(self) -> None:
        """Measure under every condition that was asked for."""
        wanted = [condition for letter, condition in CONDITIONS.items() if letter in self.options.conditions]
        if {CONFINED, BESIDE, QUIET} & set(wanted):
            with self.prepared(1) as teams:
                if QUIET in wanted:
                    self.measure(QUIET, teams, QUIET_TURNS)
                if BESIDE in wanted:
                    with busy_neighbours():
                        self.measure(BESIDE, teams)
                if CONFINED in wanted:
                    for workers in teams.values():
                        together(workers, "confine", cores()[:1])
                    self.measure(CONFINED, teams)
        if CROWDED in wanted:
            with self.prepared(CROWD) as teams:
                self.measure(CROWDED, teams)
        if QUOTA in wanted:
            with quota_of_one_core() as group:
                if group is None:
                    self.console.print("A control group with a quota of one core cannot be made here.")
                    return
                with self.prepared(1, group) as teams:
                    self.measure(QUOTA, teams)

    @contextmanager
    def prepared(self, count: int, group: Path | None = None) -> Iterator[Teams]:
        """Have so many processes a team, in a control group if one is given, which have made their first calls."""
        teams: Teams = {team: [] for team in self.teams}
        try:
            for (folder, threads), workers in teams.items():
                variables = {"NUMBA_NUM_THREADS": str(threads)}
                workers += [started("fastce-out", variables, folder) for _ in range(count)]
                for worker in workers if group else []:
                    group.write_text(str(worker.process.pid))
                workers[0].ask("prepare", *CASES)  # compiles, if need be, for all
                together(workers[1:], "prepare", *CASES)
            yield teams
        finally:
            for worker in [worker for workers in teams.values() for worker in workers]:
                worker.end()

    def measure(self, condition: str, teams: Teams, turns: int = 1) -> None:
        """Measure all cases, the teams taking turns, the processes of a team at once."""
        for case in CASES:
            self.console.print(f"{condition}, {case}", style="dim")
            for turn in range(self.options.rounds * turns):
                for (folder, threads), workers in teams.items():
                    answers = together(workers, "span", case, self.options.seconds / turns)
                    total = {key: sum(answer[key] for answer in answers) for key in ("calls", "seconds")}
                    about = {"": condition, SHAPE: f"{case.batch:,} × {case.classes:,}", "turn": turn}
                    self.spans.append({**about, "tree": self.trees[folder], "threads": threads, **total})

    def means(self) -> pd.DataFrame:
        """Return the mean time of a call by condition and shape, a column for each checkout and number of threads."""
        sums = pd.DataFrame(self.spans).groupby(["", SHAPE, "tree", "threads"], sort=False)[["seconds", "calls"]].sum()
        return (
            (sums.seconds / sums.calls)
            .unstack(["tree", "threads"])
            .sort_index(level=0, kind="stable", sort_remaining=False)
        )

    def table(self) -> Table:
        """Show the means, and two threads as a multiple of one."""
        means, trees = self.means(), list(self.trees.values())
        result = pd.DataFrame(index=means.index)
        for tree in trees:
            name = f", {tree}" if len(trees) > 1 else ""
            ratios = means[tree, 2] / means[tree, 1]
            result[f"2 threads{name}"], result[f"1 thread{name}"] = (means[tree, t].map(duration) for t in (2, 1))
            result[f"ratio{name}"] = ratios.map(lambda r: f"{'FAIL ' * (r > BOUND)}{three_digits(r)}")
        if len(trees) > 1:
            spans = pd.DataFrame(self.spans).query("threads == 2")
            spans = (
                spans.assign(mean=spans.seconds / spans.calls).set_index(["", SHAPE, "turn", "tree"])["mean"].unstack()
            )
            paired = (spans[trees[0]] / spans[trees[1]]).groupby(level=["", SHAPE]).median()
            result[f"2 threads, {' / '.join(trees)}"] = paired.map("{:.3f}".format)
        note = f"Ratio: at most {BOUND}." + " The last column is the median of the ratios of turns." * (len(trees) > 1)
        return Table("loss+grad, float32: mean time of a call", result.reset_index(), note)


# --- as a stage of the benchmark -------------------------------------------------------


def run(names: tuple[str, ...], threads: int, smoke: bool, tell: Callable[..., None]) -> Results:
    """Measure contenders in every case, quiet and busy; one that fails is noted and left out."""
    cases = CASES[: 1 if smoke else None]
    variables = thread_environment(threads)
    del variables["OMP_PROC_BIND"]  # few programs bind threads to cores
    results, workers = Results(), []
    try:
        workers += [started(name, variables) for name in names]
        _each(workers, results, "prepare", *cases)
        for number, case in enumerate(cases):
            tell(f"{case}, busy", number, len(cases))
            span = "span", case, 0.1 if smoke else SECONDS
            answers = {"quiet": _each(workers, results, *span)}
            with busy_neighbours():
                answers["busy"] = _each(workers, results, *span)
            for section, by_name in answers.items():
                for name, figures in by_name.items():
                    record = {"section": section, **asdict(case), "contender": name, "threads": threads, **figures}
                    results.records.append(record | {"rounds": 1, "mean": figures["seconds"] / figures["calls"]})
    finally:
        for worker in workers:
            worker.end()
    return results


def _each(workers: list[Process], results: Results, word: str, *arguments: Any) -> dict[str, Any]:
    """Ask one after the other; end and forget those that fail."""
    answers = {}
    for worker in list(workers):
        try:
            answers[worker.name] = worker.ask(word, *arguments)
        except (WorkerDied, Failed, Skip) as error:
            results.fail(f"busy, {arguments[0]}", worker.name, str(error))
            workers.remove(worker)
            worker.end()
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of calls a turn ({SECONDS})")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each (1)")
    parser.add_argument("--conditions", default="".join(CONDITIONS), help=f"of {''.join(CONDITIONS)} (all)")
    parser.add_argument("--tree", type=Path, help="another checkout of fastce, measured beside this one")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    folders = [ROOT, *([options.tree.resolve()] if options.tree else [])]
    comparison = Comparison(folders, options, console)
    comparison.measure_all()
    console.print(comparison.table().rich())
    means = comparison.means()["here"]
    return int((means[2] > BOUND * means[1]).any())


if __name__ == "__main__":
    sys.exit(main())
