"""The most memory a call needs beyond its logits, labels and out=: each contender in a process of its own.

The system's high-water mark is reset after a first call, which compiles and touches the pages of ``out=``; a second
call then sets it again. Linux only. The result counts, unless it goes to ``out=``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.cases import LOSS_GRAD, SOFTMAX, Case
from bench.contenders import contender
from bench.inputs import inputs_of
from bench.worker import thread_environment

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
ROOT = Path(__file__).parents[1]
OPS = (LOSS_GRAD, SOFTMAX)


def _kilobytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def extra_bytes(call: Any) -> int:
    """Return how far resident memory rises during a call."""
    call()
    gc.collect()
    RESET.write_text("5")
    before = _kilobytes("VmRSS")
    call()
    return max(0, _kilobytes("VmHWM") - before) << 10


def measure_all(names: list[str], case: Case, threads: int) -> dict[str, Any]:
    """Return rows of contender, operation, bytes and multiples of the logits; none where the system cannot tell."""
    rows: list[dict[str, Any]] = []
    environment = {**os.environ, **thread_environment(threads)}
    for name in names if RESET.exists() else []:
        command = [sys.executable, "-m", "bench.memory", name, str(case.batch), str(case.classes), case.dtype]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        rows += [
            {"contender": name, "op": op, "batch": case.batch, "classes": case.classes, "dtype": case.dtype}
            | {"bytes": extra, "multiple": extra / case.nbytes}
            for op, extra in found.items()
        ]
    return {"rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("batch", type=int)
    parser.add_argument("classes", type=int)
    parser.add_argument("dtype")
    options = parser.parse_args()
    found = {}
    for op in OPS:
        case = Case(op, options.batch, options.classes, options.dtype)
        call = contender(options.name).call(op, inputs_of(case, case.elements))
        if call is not None:
            found[op] = extra_bytes(call)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
