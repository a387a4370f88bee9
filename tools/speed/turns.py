"""Calls that take turns, and pages with their times."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from bench.cases import Case, Plan
from bench.data import ROOT, busy_warning, failures, machine_facts
from bench.neighbours import cores
from bench.runner import run_plan
from bench.tables import Table, duration
from bench.worker import stamps
from tools.marks import replaced

TURN, QUICK_TURN = 0.4, 0.002  # seconds of calls
TURNS = 3  # of each contender
CLEAR = 1.1  # how much less a figure has to be than the others of its group to be bold
METHOD = f"the lower quartile of {TURNS} turns, where a turn is the median of calls for {TURN} s"
BOLD = "Bold is the fastest, if it is faster by at least a tenth."
Times = dict[tuple[str, str], float]  # seconds, by the row and the column of a table
Figures = dict[tuple[str, Case], float]  # by the contender and the case
Parts = dict[str, str]  # Markdown by ``page#mark``


def quartile(values: Sequence[float]) -> float:
    """Return the lower quartile."""
    return float(np.quantile(values, 0.25))


# --- libraries in processes of their own ---------------------------------------------


def contest(contenders: Iterable[str], cases: Iterable[Case], threads: int, quick: bool) -> Figures:
    """Return the seconds of a call by contender and case, where the contender's table has the operation."""
    turns = 1 if quick else TURNS
    plan = Plan("", "", tuple(contenders), tuple(cases), threads, complete=True, rounds=(turns, turns), slowest=300.0)
    records = _records(plan, span=QUICK_TURN if quick else TURN)
    found: dict[tuple[str, Case], list[float]] = {}
    for contender, case, record in records:
        found.setdefault((contender, case), []).append(record["median"])
    return {key: quartile(values) for key, values in found.items()}


def peaks(contenders: Iterable[str], cases: Iterable[Case], threads: int) -> Figures:
    """Return the bytes that a call adds to its process, results included, where the system can tell."""
    plan = Plan("", "", tuple(contenders), tuple(cases), threads, complete=True, rounds=(1, 1), slowest=300.0)
    records = _records(plan, memory=True)
    return {(contender, case): record["bytes"] for contender, case, record in records if record["bytes"] is not None}


def _records(plan: Plan, **changes: Any) -> list[tuple[str, Case, dict[str, Any]]]:
    def show(case: Case) -> None:
        print(f"  {case}, {plan.threads} threads", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as logs:
        results = run_plan(replace(plan, **changes), Path(logs), show)
    wrong = failures(results.notes) + [note for note in results.notes if "no such function" not in note["reason"]]
    if wrong:
        raise RuntimeError(f"a contender failed: {wrong[0]}")
    names = [field.name for field in fields(Case)]
    return [(record["contender"], Case(**{name: record[name] for name in names}), record) for record in results.records]


# --- calls in one process --------------------------------------------------------------


def turns(calls: dict[str, Callable[[], Any]], quick: bool) -> dict[str, float]:
    """Return the seconds of each call, which take turns in this process."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    for _ in range(1 if quick else TURNS):
        for name, call in calls.items():
            times = np.diff(stamps(call, QUICK_TURN if quick else TURN))
            seconds[name].append(float(np.median(times)))
    return {name: quartile(values) for name, values in seconds.items()}


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of a module returns in a process that has computed nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# --- pages -------------------------------------------------------------------------------


def table(times: Times, groups: Iterable[Sequence[str]] = (), text: Callable[[float], str] = duration) -> str:
    """Return a table in Markdown; of the rows of a group, a figure that is clearly the least of its column is bold."""
    columns = list(dict.fromkeys(column for _, column in times))
    cells = {key: text(value) for key, value in times.items()}
    for group in groups:
        for column in columns:
            best, *others = sorted((times[row, column], row) for row in group if (row, column) in times) or [(0.0, "")]
            if others and others[0][0] >= CLEAR * best[0]:
                cells[best[1], column] = f"**{cells[best[1], column]}**"
    rows = dict.fromkeys(row for row, _ in times)
    body = [[row, *(cells.get((row, column), "–") for column in columns)] for row in rows]
    return Table("", pd.DataFrame(body, columns=["", *columns])).markdown().strip()


def conditions(command: str, packages: Iterable[str], busy: float = 0.0) -> str:
    """Return the line below a table: the command that made it, and on what; ``busy`` percent of the cores were."""
    facts = machine_facts(len(cores()))
    names = dict.fromkeys(("fastce", "numpy", "numba", *packages))
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    sentence = (
        f"Made by `{command}` on {facts['cpu']} ({facts['architecture']}, {facts['vectors']}), "
        f"{facts['cores']} cores, {facts['system']}; Python {facts['python']}, {versions}; {facts['date']}."
    )
    return " ".join([sentence, *busy_warning(busy)])


def main(parts: Callable[[bool], Parts], *packages: str) -> None:
    """Measure, and print the parts of pages or write them; the command line decides."""
    command = sys.modules["__main__"].__spec__.name
    parser = argparse.ArgumentParser(prog=f"python -m {command}", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--write", action="store_true", help="write the figures into the pages")
    parser.add_argument("--quick", action="store_true", help="small arrays: the figures mean nothing")
    options = parser.parse_args()
    if options.quick and options.write:
        parser.error("the figures of a quick run mean nothing: do not write them")
    start, busy = time.monotonic(), psutil.cpu_percent(0.5)
    made = parts(options.quick)
    line = conditions(f"python -m {command}", packages, busy)
    for place, text in made.items():
        page, mark = place.split("#")
        path = ROOT / "docs" / page
        filled = replaced(path.read_text(encoding="utf-8"), f"\n{text}\n\n{line}\n", mark)
        if options.write:
            path.write_text(filled, encoding="utf-8")
        print(f"{place}\n\n{text}\n\n{line}\n")
    print(f"{command}: {time.monotonic() - start:.0f} s", file=sys.stderr)
