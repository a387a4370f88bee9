"""A fuzzer: ``python -m tests.fuzz --seconds 600 --seed 1 --report docs/fuzz.md``.

Every call must equal the oracle, or raise one of the documented errors with nothing written. What goes wrong is
shrunk to its plainest form and printed. A seed with a number of ``--cases`` gives the same cases everywhere, in
however many ``--jobs``: processes of their own, so that one that a call kills is told with the case, and started anew.
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
from tests.fuzz.arrays import GUARD
from tests.fuzz.calls import Call
from tests.fuzz.cases import judge, trouble
from tests.fuzz.fields import FUNCTIONS, Bad, Case
from tests.fuzz.jobs import Outcome, Share, outcomes

BAD = 0.03  # how often a field is bad
COMPILED = ("shape", "dtype", "other", "target", "options", "grad_output")  # new choices take a kernel to compile
RARE = {"objects": 0.7, "others": 0.4, "beside a writer": 0.2}  # how often these may be other than the first choice
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
            case |= {name: good[name][0] for name, share in RARE.items() if draw.random() > share}
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


def examine(case: Case) -> Outcome:
    """Run a case; shrink it if it is in trouble."""
    call = Call(case)
    problem = judge(call)
    counts = Counter({(call.name, "refused" if call.is_refused else "computed"): 1})
    counts[call.name, "beside a writer"] = call.raced
    if problem is None:
        return Outcome(counts)
    small = shrink(case, trouble)
    return Outcome(counts, f"{trouble(small) or problem}: {small}", repr(small))


def run(share: Share, tell: Callable[[str | None], None]) -> tuple[Counter, list[str]]:
    """Return (how many cases there were, by function and by what came of them; what went wrong)."""
    counts: Counter = Counter()
    found: dict[str, str] = {}
    for outcome in outcomes(share, examine):
        counts += outcome.counts
        is_new = outcome.problem is not None and outcome.small not in found
        if is_new:
            found[outcome.small] = outcome.problem
        tell(outcome.problem if is_new else None)
    return counts, list(found.values())


def report(share: Share, took: float, counts: Counter, found: list[str]) -> str:
    """Return the outcome as Markdown."""
    ways = ("computed", "refused")
    number = sum(counts[name, way] for name in FUNCTIONS for way in ways)
    limit = f" --cases {share.most:.0f}" if share.most < math.inf else ""
    rows = [[counts[name, way] for way in (*ways, "beside a writer")] for name in FUNCTIONS]
    lines = [
        "# What the fuzzer found",
        "",
        f"`python -m tests.fuzz --seed {share.seed}{limit}`: {number:,} cases in {took:.0f} s, {share.jobs} at a "
        f"time; {len(found)} failed. "
        f"fastce {fastce.__version__}, numpy {np.__version__}, numba {numba.__version__}, {platform.machine()}.",
        "",
        "| function | computed as it should | refused, nothing written | further calls beside a writer |",
        "|:--|--:|--:|--:|",
        *(f"| {name} | {' | '.join(f'{n:,}' for n in row)} |" for name, row in zip(FUNCTIONS, rows, strict=True)),
        "",
        TEXT,
        *(["", *found] if found else []),
    ]
    return "\n".join(lines) + "\n"


TEXT = f"""\
Each case draws a shape, a class axis, dtypes, memory layouts, values (NaN, infinities and the dtype's ends among
them), a target, options, a reduction and outputs. {BAD:.0%} of the choices have to be refused. The choices that need
another kernel stay the same for {TOGETHER} cases. Arrays are also passed as lists, tuples, memory views, `array.array`,
ctypes arrays, memory maps, tensors, subclasses of ndarray, and objects with nothing but `__array__` or
`__array_interface__`. Numbers are also passed as NumPy scalars or arrays without a dimension. Outputs may lie in
the memory of other libraries. They may also overlap an argument, and may then be refused. In one half of the
calls, NumPy's floating-point errors raise. In the other half they warn, and a warning is an error.

Results are compared with the oracle. For one-hot integers they are also compared, bit for bit, with the results of
the labels. In one case of seven, weights or second arguments are NaN, infinite or out of the dtype's range. Then
errors, dtypes and memory are checked, but no values. After the call, these have to be unchanged: {GUARD} bytes before
and behind every array, the gaps between strided elements, and all inputs.

Beside a writer, a call is repeated while another thread changes one of its arguments. Labels become huge, negative
or just too large; floats become NaN and infinities. The results may then be anything. But errors must be
documented ones, guard zones must stay as they were, and the process must live."""


def main() -> None:
    """Run until the time is over or the cases are through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="60 unless there is a number of cases")
    parser.add_argument("--cases", type=int, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--report", type=Path, help="a Markdown file to write")
    options = parser.parse_args()
    start = time.time()
    end = start + (options.seconds or (math.inf if options.cases else 60))
    share = Share(cases, options.seed, options.cases or math.inf, end, TOGETHER, jobs=options.jobs)
    with Progress() as progress:
        task = progress.add_task("fuzzing", total=options.cases)

        def tell(problem: str | None) -> None:
            progress.advance(task)
            if problem:
                progress.console.print(problem, markup=False)

        counts, found = run(share, tell)
    text = report(share, time.time() - start, counts, found)
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
