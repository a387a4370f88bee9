"""The cost of two threads where there is no room for them: ``python -m bench.busy``.

Loss and gradient in processes with two threads and with one, which take turns under several conditions. ``--tree``
measures another checkout of fastce in the same turns.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.markdown import Markdown

from bench.cases import Op, Plan, grid
from bench.data import shape_text
from bench.neighbours import quota_of_one_core
from bench.plans import BUSY_SECONDS, BUSY_SHAPES
from bench.runner import run_all
from bench.tables import SHAPE, Table, duration, three_digits

BOUND = 1.25  # two threads, as a multiple of one
CROWD = 8
QUIET_TURNS = 5  # each as much shorter: drift counts where differences are small
CONDITIONS = {  # in the order of the table
    "a": "(a) confined to one core",
    "b": "(b) beside a busy process a core",
    "c": f"(c) {CROWD} such processes at once",
    "d": "(d) quiet",
    "e": "(e) under a quota of one core",
}
KEYS = ["section", "shape", "folder", "threads"]


def plans(options: argparse.Namespace, folders: list[str], group: str) -> Iterator[Plan]:
    """Yield a plan for each condition that was asked for."""
    names = tuple(f"fastce-out@{threads}@{folder}" for folder in folders for threads in (2, 1))
    plan = Plan("", "", names, tuple(grid((Op.LOSS_GRAD,), BUSY_SHAPES)), 2, complete=True, slowest=300.0)
    plan = replace(plan, rounds=(options.rounds, options.rounds), span=options.seconds)
    quiet_rounds = QUIET_TURNS * options.rounds
    changes = {
        "a": {"confined": True},
        "b": {"busy": True},
        "c": {"crowd": CROWD},
        "d": {"rounds": (quiet_rounds, quiet_rounds), "span": options.seconds / QUIET_TURNS},
        "e": {"group": group},
    }
    for letter, condition in CONDITIONS.items():
        if letter in options.conditions:
            yield replace(plan, name=letter, section=condition, **changes[letter])


def mean_seconds(spans: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Return the mean time of a call, over all calls of the spans that agree in the keys."""
    sums = spans.assign(seconds=spans["mean"] * spans.calls).groupby(keys, sort=False)[["seconds", "calls"]].sum()
    return sums.seconds / sums.calls


def table(spans: pd.DataFrame, folders: list[str]) -> Table:
    """Show the means, and two threads as a multiple of one."""
    means = mean_seconds(spans, KEYS).unstack(["folder", "threads"])
    columns = {}
    for folder in folders:
        name = f", {Path(folder).name or 'here'}" if len(folders) > 1 else ""
        two, one = means[folder, 2], means[folder, 1]
        columns[f"2 threads{name}"], columns[f"1 thread{name}"] = two.map(duration), one.map(duration)
        columns[f"ratio{name}"] = (two / one).map(lambda ratio: f"{'FAIL ' * (ratio > BOUND)}{three_digits(ratio)}")
    note = f"Ratio: at most {BOUND}."
    if len(folders) > 1:
        turns = mean_seconds(spans[spans.threads == 2], ["section", "shape", "turn", "folder"]).unstack("folder")
        paired = (turns[folders[0]] / turns[folders[1]]).groupby(level=["section", "shape"]).median()
        columns[f"2 threads, here / {Path(folders[1]).name}"] = paired.map("{:.3f}".format)
        note += " The last column is the median of the ratios of turns."
    frame = pd.DataFrame(columns).rename_axis(["condition", SHAPE]).reset_index()
    return Table("loss+grad, float32: mean time of a call", frame, note)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=BUSY_SECONDS, help=f"of calls a turn ({BUSY_SECONDS})")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each (1)")
    parser.add_argument("--conditions", default="".join(CONDITIONS), help=f"of {''.join(CONDITIONS)} (all)")
    parser.add_argument("--tree", type=Path, help="another checkout of fastce, measured beside this one")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    folders = ["", *([str(options.tree.resolve())] if options.tree else [])]
    with ExitStack() as stack:
        group = stack.enter_context(quota_of_one_core()) if "e" in options.conditions else None
        if "e" in options.conditions and group is None:
            console.print("A control group with a quota of one core cannot be made here.")
            options.conditions = options.conditions.replace("e", "")
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        todo = list(plans(options, folders, str(group or "")))
        results, _ = run_all(todo, logs, "", lambda case: console.print(str(case)))
    for note in results.notes:
        console.print(f"{note['outcome']}: {note['contender']}, {note['case']}: {note['reason']}")
    if not results.records:
        return 1
    spans = pd.DataFrame(results.records)
    spans["shape"] = spans.apply(shape_text, axis=1)
    console.print(Markdown(table(spans, folders).markdown()))
    means = mean_seconds(spans[spans.folder == ""], KEYS).unstack("threads")
    return int(bool(results.notes) or (means[2] > BOUND * means[1]).any())


if __name__ == "__main__":
    sys.exit(main())
