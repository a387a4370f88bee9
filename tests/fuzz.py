"""A fuzzer: ``python -m tests.fuzz --seconds 600 --seed 1 --report docs/fuzz.md``.

Every call must equal the oracle, or raise one of the documented errors with nothing written. What goes wrong is
shrunk to its plainest form and printed. A seed with a number of ``--cases`` gives the same cases everywhere.
"""

import argparse
import math
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
from tests.fuzz_calls import Call
from tests.fuzz_cases import judge, trouble
from tests.fuzz_fields import FUNCTIONS, Bad, Case

BAD = 0.03  # how often a field is bad
COMPILED = ("shape", "dtype", "other", "target", "options", "grad_output")  # new choices take a kernel to compile
TOGETHER = 16  # cases that have those in common


def cases(seed: int) -> Iterator[Case]:
    """Yield cases without end."""
    draw = random.Random(seed)
    while True:
        function = draw.choice(list(FUNCTIONS))
        fields = FUNCTIONS[function].fields
        good = {name: [c for c in choices if not isinstance(c, Bad)] for name, choices in fields.items()}
        bad = {name: [c for c in choices if isinstance(c, Bad)] for name, choices in fields.items()}
        common = {name: draw.choice(good[name]) for name in COMPILED if name in fields}
        for _ in range(TOGETHER):
            case = {name: common.get(name) if name in common else draw.choice(good[name]) for name in fields}
            case |= {name: draw.choice(bad[name]) for name in fields if bad[name] and draw.random() < BAD}
            yield {"function": function, **case}


def shrink(case: Case, fails: Callable[[Case], object]) -> Case:
    """Return the plainest case that still fails: each field in turn moves as far to its first choice as it can."""
    moved = True
    while moved:
        moved = False
        for name, choices in FUNCTIONS[case["function"]].fields.items():
            for choice in choices[: choices.index(case[name])][:64]:
                plainer = case | {name: choice}
                if fails(plainer):
                    case, moved = plainer, True
                    break
    return case


def run(
    seed: int, seconds: float, most: float, tell: Callable[[str | None], None] = lambda problem: None
) -> tuple[Counter, list[str]]:
    """Return (how many cases there were, by function and by whether they had to be refused; what went wrong)."""
    counts: Counter = Counter()
    found: dict[str, str] = {}
    end = time.monotonic() + seconds
    for case in cases(seed):
        if time.monotonic() > end or counts.total() >= most:
            return counts, list(found.values())
        call = Call(case)
        counts[case["function"], call.must_raise] += 1
        problem = None
        if judge(call):
            small = shrink(case, trouble)
            problem = f"{trouble(small)}: {small}" if repr(small) not in found else None
            found.setdefault(repr(small), f"{problem}")
        tell(problem)
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
        f"targets, options, reductions and outputs are drawn, {BAD:.0%} of the choices such that they must be refused;",
        f"those that need a kernel compiled stay for {TOGETHER} cases. 256 bytes before and behind every array,",
        "the gaps between strided elements, and all inputs are compared with what they held before the call.",
        *(["", *found] if found else []),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run until the time is over or the cases are through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="60 unless there is a number of cases")
    parser.add_argument("--cases", type=int, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    start = time.monotonic()
    seconds = options.seconds or (math.inf if options.cases else 60)
    with Progress() as progress:
        task = progress.add_task("fuzzing", total=options.cases)

        def tell(problem: str | None) -> None:
            progress.advance(task)
            if problem:
                progress.console.print(problem)

        counts, found = run(options.seed, seconds, options.cases or math.inf, tell)
    text = report(options.seed, time.monotonic() - start, counts, found)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
