"""``python -m bench``: run the benchmark; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench import busy_stage, full, linear, report, scoreboard, tables
from bench.cases import BATCHES, CLASSES, LOSS_GRAD, MAX_ELEMENTS, OPS, TRAINING_BATCHES, VJPS, Plan
from bench.contenders import CONTENDERS, LIMIT, STANDARD, missing
from bench.progress import Display
from bench.results import Row, collect
from bench.runner import Notes, Runner

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
    names = [name for name, contender in CONTENDERS.items() if not contender.yardstick]
    parser.add_argument("--contenders", choices=names, default=STANDARD, help=f"of {' '.join(names)}", **several)
    parser.add_argument("--ops", choices=(*OPS, *VJPS), default=OPS, help=f"of {' '.join((*OPS, *VJPS))}", **several)
    parser.add_argument("--batch", type=positive, default=BATCHES, help=f"({_listed(BATCHES)})", **several)
    parser.add_argument("--classes", type=positive, default=CLASSES, help=f"({_listed(CLASSES)})", **several)
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default=["float32"], help="float32 (the default), float64", **several
    )
    parser.add_argument("--threads", type=positive, default=available_cores(), help="of every contender (all cores)")
    parser.add_argument(
        "--seconds",
        type=float,
        help="for the speed cases (150, full run 600); when it is over, the largest are left out, but in a full run",
    )
    parser.add_argument("--max-elements", type=positive, default=MAX_ELEMENTS, help="no larger logits (67 million)")
    parser.add_argument("--no-training", action="store_true", help="without the training loop")
    parser.add_argument("--no-busy", action="store_true", help="without loss+grad beside a busy process a core")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, all machinery, about 20 s")
    parser.add_argument(
        "--full", action="store_true", help="the scoreboard: all contenders, dtypes, layouts; 50 minutes"
    )
    parser.add_argument("--fresh", action="store_true", help="with --full: play again what an earlier run has finished")
    parser.add_argument("--save", action="store_true", help="also write the run to bench/results/")
    parser.add_argument("--png", action="store_true", help="plots as PNG instead of SVG")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder of the output (bench/out)")
    options = parser.parse_args(arguments)
    if options.smoke and options.save:
        parser.error("a smoke run is nothing to save")
    if options.seconds is None:
        options.seconds = 10.0 if options.smoke else 600.0 if options.full else 150.0
    absent = {name: missing(name) for name in options.contenders if missing(name)}
    if absent and not options.full:
        parser.error(f"not installed: {', '.join(absent.values())}; the extra `peers` has them")
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
    """Run the plan with a progress display."""
    with Runner(plan, folder) as runner, Display(console) as display:
        return runner.run(display.tell)


def play_busy(plan: Plan, notes: Notes, console: Console) -> list[Row]:
    """Measure loss and gradient beside busy processes."""
    names = tuple(name for name in busy_stage.CONTENDERS if name in plan.contenders and LOSS_GRAD in plan.ops)
    if not names:
        return []
    with Display(console) as display:
        return busy_stage.play(names, plan.threads, plan.smoke, notes, display.tell)


def play_full(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Play what is left of the full run, then put all together."""
    kept = options.out / ("full-smoke" if options.smoke else "full")
    if options.fresh:
        shutil.rmtree(kept, ignore_errors=True)
    start = time.monotonic()
    same, facts = full.code_and_machine(options.threads)
    todo = full.stages(options.threads, options.seconds, options.smoke)
    contests = linear.contests(options.smoke)
    with Display(console, sum(len(stage.plan.cases()) for stage in todo) + len(contests)) as display:
        run = full.play(todo, contests, kept, same, display)
    facts |= {"busy_before": run.pop("busy"), "seconds": time.monotonic() - start, "smoke": options.smoke}
    return {"facts": facts, **run}


def play_standard(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Play the ordinary benchmark."""
    start = time.monotonic()
    raw = options.out / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    plan = make_plan(options)
    busy = psutil.cpu_percent(1.0)
    notes = play(plan, raw, console)
    rows = [] if options.no_busy else play_busy(plan, notes, console)
    facts = {"busy_before": busy, "seconds": time.monotonic() - start}
    return collect(plan, raw, notes, facts) | {"busy": rows}


def main() -> int:
    options = parse()
    start = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    run, board = (
        (play_full(options, console), scoreboard) if options.full else (play_standard(options, console), report)
    )
    board.show(run, console)
    own_failures = [failure for failure in run["failures"] if failure["contender"].startswith("fastce")]
    saved = [HERE / "results"] if options.save and not own_failures else []
    for folder in [options.out, *saved]:
        written = board.write(run, folder, "png" if options.png else "svg")
        console.print(f"\nWritten to {folder}: {', '.join(path.name for path in written)}")
    console.print(f"{time.monotonic() - start:.0f} s in all")
    for line in tables.failure_lines(run):
        console.print(line, style="bold red")
    return int(bool(own_failures))  # a rival that is wrong is left out and named


if __name__ == "__main__":
    sys.exit(main())
