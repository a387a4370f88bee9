"""A fuzzer: ``python -m tests.fuzz --seconds 600 --seed 1 --report docs/fuzz.md``.

Every call must equal the oracle, or raise one of the documented errors with nothing written. What goes wrong is
shrunk to its plainest form and printed. A seed with a number of ``--cases`` gives the same cases everywhere.
"""

import argparse
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
from rich.progress import Progress

import fastce
from tests.fuzz_cases import FIELDS, FUNCTIONS, Bad, Case, must_raise, trouble

BAD = 0.04  # how often a field is bad


def cases(seed: int) -> Iterator[Case]:
    """Yield cases without end."""
    draw = random.Random(seed)
    while True:
        case = {}
        for name, choices in FIELDS.items():
            good = [choice for choice in choices if not isinstance(choice, Bad)]
            bad = [choice for choice in choices if isinstance(choice, Bad)]
            case[name] = draw.choice(bad if bad and draw.random() < BAD else good)
        yield case


def shrink(case: Case, fails: Callable[[Case], object]) -> Case:
    """Return the plainest case that still fails: each field in turn moves as far to its first choice as it can."""
    moved = True
    while moved:
        moved = False
        for name, choices in FIELDS.items():
            for choice in choices[: choices.index(case[name])][:64]:
                plainer = case | {name: choice}
                if fails(plainer):
                    case, moved = plainer, True
                    break
    return case


def run(seed: int, seconds: float, most: int, tell: Callable[[], None] = lambda: None) -> tuple[Counter, list[str]]:
    """Return (how many cases there were, by function and by whether they had to be refused; what went wrong)."""
    counts: Counter = Counter()
    found: dict[str, str] = {}
    end = time.monotonic() + seconds
    for case in cases(seed):
        if time.monotonic() > end or counts.total() >= most:
            return counts, [f"{what}: {small}" for small, what in found.items()]
        counts[case["function"], must_raise(case)] += 1
        if trouble(case):
            small = shrink(case, trouble)
            found[repr(small)] = str(trouble(small))
        tell()
    raise AssertionError("cases are endless")


def report(seed: int, took: float, counts: Counter, found: list[str]) -> str:
    """Return the outcome as Markdown."""
    lines = [
        "# What the fuzzer found",
        "",
        f"`python -m tests.fuzz --seed {seed}`: {counts.total():,} cases in {took:.0f} s, {len(found)} in trouble. "
        f"fastce {fastce.__version__}, numpy {np.__version__}, numba {numba.__version__}, {platform.machine()}.",
        "",
        "| function | equal to the oracle | refused, nothing written |",
        "|:--|--:|--:|",
        *(f"| {name} | {counts[name, False]:,} | {counts[name, True]:,} |" for name in FUNCTIONS),
        "",
        "Shapes, class axes, dtypes, memory layouts, values (NaN, infinities and the dtype's ends among them),",
        "targets, options, reductions and outputs are drawn independently; about one choice in 25 is one that has",
        "to be refused. 256 bytes before and behind every array, the gaps between strided elements, and all inputs",
        "are compared with what they held before the call.",
        *(["", *found] if found else []),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run until the time is over or the cases are through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cases", type=int, default=10**9, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    start = time.monotonic()
    with Progress() as progress:
        task = progress.add_task("fuzzing", total=None)
        counts, found = run(options.seed, options.seconds, options.cases, lambda: progress.advance(task))
    text = report(options.seed, time.monotonic() - start, counts, found)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
