"""The stage "busy" of the benchmark: loss and gradient beside a busy process a core, and quiet, by the same clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.busy import SHAPES
from bench.cases import LOSS_GRAD, Case
from bench.neighbours import Caller, busy_neighbours
from bench.results import Row
from bench.runner import Notes
from bench.tables import BEST, Cell, Table, duration, label, shape, three_digits
from bench.worker import thread_environment

CONTENDERS = ("fastce-out", "numpy", "torch")
SECONDS = 1.5  # of calls, the contenders in turn
BUSY, QUIET = "busy", "quiet"
NOTE = (
    f"Means over {SECONDS} s of calls, so that stalls count; 99 % of the calls took at most the last figure. Beside "
    "each core's busy process half of the time is what there is to have. Threads are not bound to cores here, as few "
    "programs bind them."
)


def play(names: tuple[str, ...], threads: int, smoke: bool, notes: Notes, tell: Callable[..., None]) -> list[Row]:
    """Measure every shape, quiet and busy; a contender that fails is noted and left out."""
    cases = [Case(LOSS_GRAD, n, c, "float32") for n, c in SHAPES[: 1 if smoke else None]]
    variables = thread_environment(threads)
    del variables["OMP_PROC_BIND"]
    callers: list[Caller] = []
    rows: list[Row] = []
    try:
        for name in names:
            callers.append(Caller(name, variables))
        _each(callers, notes, "all", "prepare", [(case.batch, case.classes) for case in cases])
        for number, case in enumerate(cases):
            tell(f"{case}, busy", number, len(cases))
            words = "measure", (case.batch, case.classes), 0.1 if smoke else SECONDS
            quiet = _each(callers, notes, case, *words)
            with busy_neighbours():
                busy = _each(callers, notes, case, *words)
            for name, found in busy.items():
                facts = {"batch": case.batch, "classes": case.classes, "dtype": case.dtype, "contender": name}
                rows.append({**facts, QUIET: _figures(quiet[name]), BUSY: _figures(found)})
    finally:
        for caller in callers:
            caller.end()
    return rows


def _each(callers: list[Caller], notes: Notes, case: Any, *words: Any) -> dict[str, Any]:
    """Ask one after the other; end and forget those that fail."""
    answers = {}
    for caller in list(callers):
        try:
            answers[caller.name] = caller.ask(*words)
        except (RuntimeError, OSError) as error:
            notes.fail(f"busy, {case}", caller.name, str(error))
            callers.remove(caller)
            caller.end()
    return answers


def _figures(found: dict[str, float]) -> dict[str, float]:
    return {"mean": found["seconds"] / found["calls"], "median": found["median"], "p99": found["p99"]}


def _case(row: Row) -> Case:
    return Case(LOSS_GRAD, row["batch"], row["classes"], row["dtype"])


def table(rows: list[Row]) -> Table:
    """Show all figures, a line a shape and contender."""
    header = ["batch × classes", "", "quiet, mean", "busy, mean", "times quiet", "busy, median", "busy, 99 %"]
    result = Table(f"{LOSS_GRAD} beside a busy process a core", header, note=NOTE)
    for row in rows:
        quiet, busy = row[QUIET], row[BUSY]
        texts = [shape(_case(row)), label(row["contender"]), duration(quiet["mean"]), duration(busy["mean"])]
        texts += [three_digits(busy["mean"] / quiet["mean"]), duration(busy["median"]), duration(busy["p99"])]
        result.rows.append([Cell(text) for text in texts])
    return result


def readme_lines(rows: list[Row]) -> list[str]:
    """Return the README's lines, none where a run has not measured this."""
    if not rows:
        return []
    names = list(dict.fromkeys(row["contender"] for row in rows))
    result = Table("", ["batch × classes", *map(label, names)])
    for case in dict.fromkeys(map(_case, rows)):
        found = {row["contender"]: row for row in rows if _case(row) == case}
        best = min(found, key=lambda name: found[name][BUSY]["mean"])
        cells = [_cell(found.get(name), name == best) for name in names]
        result.rows.append([Cell(shape(case)), *cells])
    sentence = (
        f"Loss and gradient beside a busy process a core: mean over {SECONDS} s of calls, stalls included, in "
        "parentheses as a multiple of the same on the quiet machine:"
    )
    return [sentence, "", result.markdown()]


def _cell(row: Row | None, is_best: bool) -> Cell:
    if row is None:
        return Cell("–")
    busy, quiet = row[BUSY]["mean"], row[QUIET]["mean"]
    return Cell(f"{duration(busy)} ({three_digits(busy / quiet)})", BEST if is_best else "")
