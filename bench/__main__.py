"""``python -m bench``: run the benchmark; ``--help`` lists the options."""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import plans, report
from bench.cases import LAYER, OPS, VJPS, Case
from bench.contenders import CONTENDERS, REFERENCE, RIVALS, STANDARD
from bench.data import ROOT, Run, failures, finished, machine_facts
from bench.runner import Show, run_all

HERE = Path(__file__).parent
BATCHES = (1, 32, 256, 1024, 4096, 16384, 65536)
CLASSES = (10, 1000, 50257)
FEATURES = 512
MAX_ELEMENTS = 67_000_000
NOT_TIMING = ("__main__", "bars", "busy", "plots", "report", "style", "tables")  # modules that cannot change a figure
SAME = ("cpu", "vectors", "cores", "threads", "cache_bytes", "memory_gb", "python", "versions")


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
    seconds = "for the speed cases (150, full run 750); the largest cases beyond it are left out, but not in a full run"
    add("--seconds", type=float, help=seconds)
    add("--max-elements", type=positive, default=MAX_ELEMENTS, help="no larger logits (67 million)")
    add("--vectors", choices=("avx2",), help="avx2: keep the libraries to code for AVX2, on a processor with AVX-512")
    add("--no-training", action="store_true", help="without the training loop")
    add("--no-busy", action="store_true", help="without loss+grad beside a busy process a core")
    add("--smoke", action="store_true", help="tiny sizes, all machinery, under a minute without --full")
    add("--full", action="store_true", help="the scoreboard: all contenders, dtypes, layouts; up to 100 minutes")
    add("--fresh", action="store_true", help="with --full: discard the stored results of earlier runs")
    add("--save", action="store_true", help="also write the run to bench/results/")
    add("--png", action="store_true", help="plots as PNG instead of SVG")
    add("--out", type=Path, default=HERE / "out", help="folder of the output (bench/out)")
    options = parser.parse_args(arguments)
    if options.smoke and options.save:
        parser.error("the figures of a smoke run mean nothing: do not save them")
    options.vectors = (options.vectors or "").upper()
    if options.vectors and options.full:
        parser.error("--full measures with both kinds of code where there are two")
    if options.vectors and "onnxruntime" in options.contenders:
        parser.error("ONNX Runtime has no setting that keeps it to code for AVX2")
    if options.seconds is None:
        options.seconds = 10.0 if options.smoke else 750.0 if options.full else 150.0
    absent = {CONTENDERS[name].missing for name in options.contenders} - {""}
    if absent and not options.full:
        groups = "--group peers" + " --group tensorflow" * ("tensorflow" in absent)
        parser.error(f"not installed: {', '.join(sorted(absent))}; pip install {groups}")
    return options


@contextmanager
def progress(console: Console, total: int) -> Iterator[Show]:
    """Show a bar, redrawn only while nothing is timed; in a log, a line a shape."""
    columns = TextColumn("{task.description:<40}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, auto_refresh=False) as bars:
        bar, begun, last_shape = bars.add_task("starting", total=total), 0, ""

        def show(case: Case) -> None:
            nonlocal begun, last_shape
            _, shape = str(case).split(" ", 1)
            bars.update(bar, description=str(case), completed=begun, refresh=console.is_terminal)
            if not console.is_terminal and shape != last_shape:
                console.print(f"[{begun}/{total}] {shape}")
            begun, last_shape = begun + 1, shape

        yield show
        bars.update(bar, description="finished", completed=total)


def run(options: argparse.Namespace, console: Console) -> Run:
    """Run the benchmark; a full run resumes where an earlier one has stopped."""
    start = time.monotonic()
    names = (*REFERENCE, *RIVALS) if options.full else options.contenders
    facts = machine_facts(options.threads, names, options.vectors)
    if options.full:
        todo, folder = plans.full(options, facts["vectors"]), options.out / "full"
        if options.smoke:
            folder = options.out / "full-smoke"
        if options.fresh:
            shutil.rmtree(folder, ignore_errors=True)
    else:
        todo, folder = plans.standard(options), options.out
    with progress(console, sum(len(plan.cases) for plan in todo)) as show:
        results, load = run_all(todo, folder, digest(facts) if options.full else "", show)
    for name in RIVALS if options.full else ():
        if CONTENDERS[name].missing:
            results.note("skipped", "all", name, f"{CONTENDERS[name].missing} not installed")
    own = {
        "full": options.full,
        "smoke": options.smoke,
        "busy_before": load,
        "seconds": round(time.monotonic() - start, 1),
    }
    return finished(results, facts | own)


def digest(facts: dict[str, Any]) -> str:
    """Return a digest of all that makes figures comparable: the code and the machine."""
    result = hashlib.sha256()
    own = [path for path in HERE.rglob("*.py") if path.stem not in NOT_TIMING]
    for path in sorted([*(ROOT / "fastce").rglob("*.py"), *own]):
        result.update(path.read_bytes())
    result.update(json.dumps([facts[name] for name in SAME], sort_keys=True).encode())
    return result.hexdigest()


def main() -> int:
    options = parse()
    start = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    measured = run(options, console)
    report.show(measured, console)
    own_failures = [note for note in failures(measured.notes) if note["contender"].startswith("fastce")]
    saved = [HERE / "results"] if options.save and not own_failures else []
    for folder in [options.out, *saved]:
        written = report.write(measured, folder, "png" if options.png else "svg")
        console.print(f"\nWritten to {folder}: {', '.join(path.name for path in written)}")
    console.print(f"{time.monotonic() - start:.0f} s in all")
    return int(bool(own_failures))  # a rival that is wrong is left out and named


if __name__ == "__main__":
    sys.exit(main())
