"""Times the first call of a process and writes docs/guide/threads.md's table of it: ``python -m tools.first_call``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

import pandas as pd

from bench.__main__ import available_cores
from bench.data import ROOT, machine_facts
from bench.tables import Table
from tools.marks import replaced

SHAPES = ((32, 10), (65536, 10), (32, 1000), (4096, 1000), (64, 2000))
ROUNDS = 3
PROGRAM = """
import sys, time
import numba, numpy as np
rows, classes = map(int, sys.argv[1:])
logits, target = np.zeros((rows, classes), np.float32), np.zeros(rows, np.int64)
start = time.perf_counter()
import fastce
fastce.cross_entropy_and_grad(logits, target)
print(time.perf_counter() - start)
"""


def seconds(shape: tuple[int, int], cache: str) -> float:
    """Return how long a new process takes from having Numba to having the result."""
    command = [sys.executable, "-c", PROGRAM, *map(str, shape)]
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def cold_and_cached(shape: tuple[int, int]) -> tuple[float, float]:
    """Return the medians without a cache and with what the call before left there."""
    cold, cached = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(seconds(shape, cache))
            cached.append(seconds(shape, cache))
    return statistics.median(cold), statistics.median(cached)


def main() -> int:
    """Measure all and fill in the page."""
    rows = []
    for shape in SHAPES:
        cold, cached = (f"{value:.1f} s" for value in cold_and_cached(shape))
        rows.append({"logits": "×".join(map(str, shape)), "nothing cached": cold, "cached on disk": cached})
    known = machine_facts(available_cores())
    conditions = (
        "Time of the first `cross_entropy_and_grad` of a process, float32, without the import of Numba: the median of "
        f"{ROUNDS} processes. Measured by `python -m tools.first_call` on {known['cores']} cores of {known['cpu']}, "
        f"{known['date']}:"
    )
    text = f"{conditions}\n\n{Table('', pd.DataFrame(rows)).markdown()}".strip()
    page = ROOT / "docs" / "guide" / "threads.md"
    page.write_text(replaced(page.read_text(encoding="utf-8"), text, "compile"), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
