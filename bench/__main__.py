"""``python -m bench``: run the benchmark; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report, tables
from bench.cases import BATCHES, CLASSES, MAX_ELEMENTS, OPS, TRAINING_BATCHES, Plan
from bench.contenders import CONTENDERS, LIMIT
from bench.results import collect
from bench.runner import Runner

HERE = Path(__file__).parent
SMOKE = {"batches": (1, 64), "classes": (10, 1000), "rounds": (3, 3), "epochs": 3, "smoke": True}


def available_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def _listed(values: tuple[int, ...]) -> str:
    return " ".join(map(str, values))


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Time fastce against other libraries.")
    several = {"nargs": "+", "metavar": "X"}
    names = [name for name in CONTENDERS if name != LIMIT]
    parser.add_argument("--contenders", choices=names, default=names, help=f"of {' '.join(names)}", **several)
    parser.add_argument("--ops", choices=OPS, default=OPS, help=f"of {' '.join(OPS)}", **several)
    parser.add_argument("--batch", type=positive, default=BATCHES, help=f"({_listed(BATCHES)})", **several)
    parser.add_argument("--classes", type=positive, default=CLASSES, help=f"({_listed(CLASSES)})", **several)
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default=["float32"], help="float32 (the default), float64", **several
    )
    parser.add_argument("--threads", type=positive, default=available_cores(), help="of every contender (all cores)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=150.0,
        help="for the speed cases (150); the largest are left out when it is over",
    )
    parser.add_argument("--max-elements", type=positive, default=MAX_ELEMENTS, help="no larger logits (67 million)")
    parser.add_argument("--no-training", action="store_true", help="without the training loop")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, all machinery, about 20 s")
    parser.add_argument("--save", action="store_true", help="also write the run to bench/results/")
    parser.add_argument("--png", action="store_true", help="plots as PNG instead of SVG")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder of the output (bench/out)")
    options = parser.parse_args(arguments)
    if options.smoke and options.save:
        parser.error("a smoke run is nothing to save")
    return options


def make_plan(options: argparse.Namespace) -> Plan:
    settings = {
        "ops": tuple(options.ops),
        "batches": tuple(options.batch),
        "classes": tuple(options.classes),
        "dtypes": tuple(options.dtype),
        "max_elements": options.max_elements,
        "seconds": options.seconds,
        "training": () if options.no_training else TRAINING_BATCHES,
    }
    if options.smoke:
        settings |= SMOKE
    return Plan((*options.contenders, LIMIT), options.threads, **settings)


def play(plan: Plan, folder: Path, console: Console):
    """Run the plan with a progress display, which is redrawn only while nothing is timed."""
    columns = TextColumn("{task.description:<36}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()
    with Runner(plan, folder) as runner, Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("starting")
        last = ""

        def tell(item, number: int, of: int) -> None:
            nonlocal last
            progress.update(task, description=str(item), completed=number, total=of, refresh=console.is_terminal)
            group = str(item).split(" ", 1)[-1]
            if not console.is_terminal and group != last:  # in a log: a line a shape
                console.print(f"[{number}/{of}] {group}")
            last = group

        return runner.run(tell)


def main() -> int:
    options = parse()
    start = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    raw = options.out / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    plan = make_plan(options)
    busy = psutil.cpu_percent(1.0)
    notes = play(plan, raw, console)
    run = collect(plan, raw, notes, {"busy_before": busy, "seconds": time.monotonic() - start})
    report.show(run, console)
    saved = [HERE / "results"] if options.save and not notes.failures else []
    folders = [options.out, *saved]
    for folder in folders:
        written = report.write(run, folder, "png" if options.png else "svg")
        console.print(f"\nWritten to {folder}: {', '.join(path.name for path in written)}")
    console.print(f"pytest-benchmark's own files and the logs: {raw}; {time.monotonic() - start:.0f} s in all")
    for line in tables.failure_lines(run):
        console.print(line, style="bold red")
    return int(bool(notes.failures))


if __name__ == "__main__":
    sys.exit(main())
