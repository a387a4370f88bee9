"""What two threads cost where there is no room for them: ``python -m bench.busy``.

Loss and gradient in processes with two Numba threads and with one, which take turns: confined to one core after the
threads have started, beside a busy process a core, eight processes at once, on a quiet machine, and under a quota of
one core where such a control group can be made. ``--tree`` measures another checkout of fastce in the same turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from bench.caller import ROOT
from bench.neighbours import Caller, busy_neighbours, cores, quota_of_one_core, together
from bench.tables import Cell, Table, duration, three_digits

SHAPES = ((64, 1000), (1024, 1000), (16384, 100), (65536, 10))
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


@dataclass
class Team:
    """Processes of one checkout with the same number of threads; what they measured, by condition and shape."""

    folder: Path
    threads: int
    callers: list[Caller] = field(default_factory=list)
    found: dict[tuple[str, tuple[int, int]], list[dict[str, float]]] = field(default_factory=dict)

    def start(self, count: int) -> list[Caller]:
        """Start processes that have made no call yet."""
        for _ in range(count):
            self.callers.append(Caller("fastce-out", {"NUMBA_NUM_THREADS": str(self.threads)}, self.folder))
        return self.callers[-count:]

    def end(self, count: int) -> None:
        """End those started last."""
        for _ in range(count):
            self.callers.pop().end()

    def measure(self, condition: str, shape: tuple[int, int], seconds: float) -> None:
        """Measure in all processes at once, as one span."""
        spans = together(self.callers, "measure", shape, seconds)
        total = {key: sum(span[key] for span in spans) for key in ("calls", "seconds")}
        self.found.setdefault((condition, shape), []).append(total)

    def spans(self, condition: str, shape: tuple[int, int]) -> list[float]:
        """Return the mean time of a call of each span."""
        return [span["seconds"] / span["calls"] for span in self.found[condition, shape]]

    def mean(self, condition: str, shape: tuple[int, int]) -> float:
        """Return the mean time of a call."""
        spans = self.found[condition, shape]
        return sum(span["seconds"] for span in spans) / sum(span["calls"] for span in spans)


@contextmanager
def prepared(teams: list[Team], count: int, group: Path | None = None) -> Iterator[None]:
    """Have so many processes a team, the kernels loaded and the threads started, in a control group if one is given."""
    try:
        for team in teams:
            started = team.start(count)
            if group:
                for caller in started:
                    group.write_text(str(caller.process.pid))
            started[0].ask("prepare", SHAPES)  # compiles, if need be, for all
            together(started[1:], "prepare", SHAPES)
        yield
    finally:
        for team in teams:
            team.end(len(team.callers))


def play(teams: list[Team], condition: str, options: argparse.Namespace, console: Console) -> None:
    """Measure all shapes, the teams taking turns."""
    turns = QUIET_TURNS if condition == QUIET else 1
    for shape in SHAPES:
        for _ in range(options.rounds * turns):
            for team in teams:
                team.measure(condition, shape, options.seconds / turns)
        console.print(f"{condition}, {shape[0]}×{shape[1]}: {_figures(teams, condition, shape)}", style="dim")


def _figures(teams: list[Team], condition: str, shape: tuple[int, int]) -> str:
    return ", ".join(f"{team.threads} in {team.folder.name} {duration(team.mean(condition, shape))}" for team in teams)


def measure_all(teams: list[Team], options: argparse.Namespace, console: Console) -> None:
    """Measure under every condition that was asked for."""
    wanted = [condition for letter, condition in CONDITIONS.items() if letter in options.conditions]
    if {CONFINED, BESIDE, QUIET} & set(wanted):
        with prepared(teams, 1):
            if QUIET in wanted:
                play(teams, QUIET, options, console)
            if BESIDE in wanted:
                with busy_neighbours():
                    play(teams, BESIDE, options, console)
            if CONFINED in wanted:
                for team in teams:
                    together(team.callers, "confine", cores()[:1])
                play(teams, CONFINED, options, console)
    if CROWDED in wanted:
        with prepared(teams, CROWD):
            play(teams, CROWDED, options, console)
    if QUOTA in wanted:
        with quota_of_one_core() as group:
            if group is None:
                console.print("A control group with a quota of one core cannot be made here.")
                return
            with prepared(teams, 1, group):
                play(teams, QUOTA, options, console)


def table(teams: list[Team]) -> Table:
    """Show the means, and two threads as a multiple of one."""
    folders = list(dict.fromkeys(team.folder for team in teams))
    names = [f", {folder.name}" if len(folders) > 1 else "" for folder in folders]
    heads = [head + name for name in names for head in ("2 threads", "1 thread", "ratio")]
    pairs = [[team for team in teams if team.folder == folder] for folder in folders]
    last = [f"2 threads, {folders[0].name} / {folders[1].name}"] if len(folders) > 1 else []
    result = Table("loss+grad, float32: mean time of a call", ["", "batch × classes", *heads, *last])
    for condition, shape in sorted(teams[0].found):
        row = [Cell(condition), Cell(f"{shape[0]:,} × {shape[1]:,}")]
        for two, one in pairs:
            ratio = two.mean(condition, shape) / one.mean(condition, shape)
            row += [Cell(duration(team.mean(condition, shape))) for team in (two, one)]
            row.append(Cell(three_digits(ratio), "bold red" if ratio > BOUND else "bold green"))
        if last:
            row.append(Cell(f"{_paired(pairs[0][0].spans(condition, shape), pairs[1][0].spans(condition, shape)):.3f}"))
        result.rows.append(row)
    result.note = f"Ratio: at most {BOUND}. The last column is the median of the ratios of turns." if last else ""
    return result


def _paired(ours: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of calls a turn (1.5)")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each (1)")
    parser.add_argument("--conditions", default="".join(CONDITIONS), help=f"of {''.join(CONDITIONS)} (all)")
    parser.add_argument("--tree", type=Path, help="another checkout of fastce, measured beside this one")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    folders = [Path(ROOT), *([options.tree.resolve()] if options.tree else [])]
    teams = [Team(folder, threads) for folder in folders for threads in (2, 1)]
    measure_all(teams, options, console)
    console.print(table(teams).rich())
    two, one = teams[:2]
    return int(any(two.mean(*key) > BOUND * one.mean(*key) for key in two.found))


if __name__ == "__main__":
    sys.exit(main())
