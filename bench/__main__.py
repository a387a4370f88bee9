"""``python -m bench``: run the benchmark; ``--help`` lists the options."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
from rich.console import Console

from bench import busy, full, report
from bench.cases import LAYER, OPS, VJPS, Case, Op, Plan, grid
from bench.contenders import CONTENDERS, LIMIT, PRODUCTS, STANDARD
from bench.data import Results, Run, finished, machine_facts
from bench.progress import Display
from bench.runner import Runner

HERE = Path(__file__).parent
BATCHES = (1, 32, 256, 1024, 4096, 16384, 65536)
CLASSES = (10, 1000, 50257)
FEATURES = 512
MAX_ELEMENTS = 67_000_000
TRAINING_BATCHES = (32, 256)
SECTIONS = {Op.TRAINING: "training", Op.LAYER_LOSS: "layer", Op.LAYER_GRADS: "layer"}


def available_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Time fastce against other libraries.")
    add = parser.add_argument

    def several(flag: str, default: tuple, text: str = "", **options) -> None:
        shown = f"of {' '.join(options['choices'])}" if "choices" in options else f"({' '.join(map(str, default))})"
        add(flag, nargs="+", metavar="X", default=default, help=text or shown, **options)

    several("--contenders", STANDARD, choices=[name for name, c in CONTENDERS.items() if not c.yardstick])
    several("--ops", OPS, choices=(*OPS, *VJPS, *LAYER))
    several("--batch", BATCHES, type=positive)
    several("--classes", CLASSES, type=positive)
    several("--dtype", ("float32",), "float32 (the default), float64", choices=("float32", "float64"))
    add("--features", type=positive, default=FEATURES, help=f"of the last layer: of {' and '.join(LAYER)} ({FEATURES})")
    add("--threads", type=positive, default=available_cores(), help="of every contender (all cores)")
    seconds = "for the speed cases (150, full run 600); then the largest are left out, but in a full run"
    add("--seconds", type=float, help=seconds)
    add("--max-elements", type=positive, default=MAX_ELEMENTS, help="no larger logits (67 million)")
    add("--no-training", action="store_true", help="without the training loop")
    add("--no-busy", action="store_true", help="without loss+grad beside a busy process a core")
    add("--smoke", action="store_true", help="tiny sizes, all machinery, about 20 s")
    add("--full", action="store_true", help="the scoreboard: all contenders, dtypes, layouts; 50 minutes")
    add("--fresh", action="store_true", help="with --full: run again what an earlier run has finished")
    add("--save", action="store_true", help="also write the run to bench/results/")
    add("--png", action="store_true", help="plots as PNG instead of SVG")
    add("--out", type=Path, default=HERE / "out", help="folder of the output (bench/out)")
    options = parser.parse_args(arguments)
    if options.smoke and options.save:
        parser.error("a smoke run is nothing to save")
    if options.seconds is None:
        options.seconds = 10.0 if options.smoke else 600.0 if options.full else 150.0
    absent = {CONTENDERS[name].missing for name in options.contenders} - {""}
    if absent and not options.full:
        parser.error(f"not installed: {', '.join(sorted(absent))}; pip install --group peers")
    return options


def standard_plan(options: argparse.Namespace) -> Plan:
    """Return the plan of an ordinary run: shapes small to large, so that a slow machine drops the largest."""
    batches, classes = ((1, 64), (10, 1000)) if options.smoke else (options.batch, options.classes)
    shapes = [(n, c) for n in batches for c in classes if n * c <= options.max_elements]
    shapes.sort(key=lambda shape: (shape[0] * shape[1], shape[1]))
    ops = [Op(op) for op in options.ops]
    of_layer = [op for op in ops if op in LAYER]
    of_logits = tuple(op for op in ops if op not in LAYER)
    cases = [case for dtype in options.dtype for case in grid(of_logits, shapes, dtype)]
    if cases:
        cases.insert(0, Case(Op.SCALE, *shapes[-1], options.dtype[0]))
    cases += [Case(op, n, c, features=options.features) for n, c in shapes for op in of_layer]
    training = () if options.no_training else TRAINING_BATCHES
    cases += [Case(Op.TRAINING, batch, 10) for batch in training]
    names = (*options.contenders, LIMIT, *([PRODUCTS] if of_layer else []))
    rounds, epochs = ((3, 3), 3) if options.smoke else ((3, 15), 40)
    shared = options.threads, options.seconds, rounds, epochs
    return Plan(names, tuple(cases), *shared, complete=options.smoke, memory=bool(of_layer))


def run_standard(options: argparse.Namespace, console: Console) -> Run:
    """Run the ordinary benchmark."""
    start = time.monotonic()
    logs = options.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    plan, results = standard_plan(options), Results()
    before = psutil.cpu_percent(1.0)
    with Runner(plan, logs) as runner, Display(console) as display:
        results.add(runner.run(display.tell))
    for record in results.records:
        record["section"] = SECTIONS.get(record["op"], "speed")
    names = tuple(name for name in busy.CONTENDERS if name in plan.contenders and Op.LOSS_GRAD in options.ops)
    if names and not options.no_busy:
        with Display(console) as display:
            results.add(busy.run(names, plan.threads, options.smoke, display.tell))
    own = {"smoke": options.smoke, "busy_before": before, "seconds": round(time.monotonic() - start, 1)}
    return finished(results, machine_facts(plan.threads, plan.contenders) | own)


def run_full(options: argparse.Namespace, console: Console) -> Run:
    """Run what is left of the full benchmark, then put all together."""
    start = time.monotonic()
    folder = options.out / ("full-smoke" if options.smoke else "full")
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    same, facts = full.code_and_machine(options.threads)
    todo = full.stages(options.threads, options.seconds, options.smoke)
    with Display(console, sum(len(stage.plan.cases) for stage in todo)) as display:
        results, before = full.run(todo, folder, same, display)
    own = {"smoke": options.smoke, "busy_before": before, "seconds": round(time.monotonic() - start, 1)}
    return finished(results, facts | own)


def main() -> int:
    options = parse()
    start = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    made = report.FULL if options.full else report.STANDARD
    run = (run_full if options.full else run_standard)(options, console)
    made.show(run, console)
    own_failures = [failure for failure in run.failures if failure["contender"].startswith("fastce")]
    saved = [HERE / "results"] if options.save and not own_failures else []
    for folder in [options.out, *saved]:
        written = made.write(run, folder, "png" if options.png else "svg")
        console.print(f"\nWritten to {folder}: {', '.join(path.name for path in written)}")
    console.print(f"{time.monotonic() - start:.0f} s in all")
    return int(bool(own_failures))  # a rival that is wrong is left out and named


if __name__ == "__main__":
    sys.exit(main())
