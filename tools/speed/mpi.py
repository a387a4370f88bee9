"""The vocab-parallel loss on one rank and two, and the constants of ``tools.scale``: docs/interop/mpi.md, scale.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.data import ROOT
from bench.tables import duration
from tools import scale
from tools.speed.turns import TURN, TURNS, Parts, Times, main, table

METHOD = f"the lower quartile of {TURNS} turns, each the mean of calls for {TURN} s"
CORE = scale.SETTINGS[0]
SHARED_MEMORY = 24e9  # bytes/s of two cores together


def measured(quick: bool) -> dict[str, Any]:
    """Run two ranks of one thread each; return what rank 0 prints."""
    mpirun = shutil.which("mpirun", path=Path(sys.executable).parent) or shutil.which("mpirun")
    if mpirun is None:
        raise SystemExit("needs mpirun: pip install mpich")
    program = [sys.executable, "-m", "mpi4py", "-m", "tools.speed.mpi_ranks", *["--quick"] * quick]
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment = {**os.environ, **one_thread}
    command = [mpirun, "-n", "2", *program]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    answer = next(line for line in done.stdout.splitlines() if line.startswith("JSON"))
    return json.loads(answer.removeprefix("JSON"))


def ranks_table(found: dict[str, Any]) -> str:
    """Return the table of one process, one rank and two."""
    heads = {"fastce": "`fastce`, one process", "one": "one rank", "all": "two ranks", "exchange": "exchange"}
    times: Times = {}
    for kind, label in (("logits", "{}"), ("layers", "linear layer, {}")):
        for shape, seconds in found[kind].items():
            times |= {(label.format(shape), head): seconds[name] for name, head in heads.items()}
    return table(times)


def constants_table(found: dict[str, Any]) -> str:
    """Return what the model has, and what was measured."""
    of_merging, operator, network = found["merging"], found["operator"], found["network"]
    small, large = next(iter(network)), list(network)[-1]
    nanoseconds = [1e9 * seconds for key, seconds in of_merging.items() if int(key.split()[1]) <= 64]
    steps = " and ".join(f"{duration(seconds)} for {samples} samples" for samples, seconds in operator.items())
    speeds = " and ".join(f"{speed / 1e9:.1f} GB/s" for speed in found["bandwidth"])
    rows = {
        "memory bandwidth of a core": (f"{CORE.memory / 1e9:.0f} GB/s", speeds),
        "products of a core": (f"{CORE.products / 1e12:.2f} Tflop/s", f"{found['products'] / 1e12:.2f} Tflop/s"),
        "merging after an Allgather, a sample and part": (
            f"{1e9 * scale.MERGE:.0f} ns",
            f"{min(nanoseconds):.0f} to {max(nanoseconds):.0f} ns for up to 64 parts",
        ),
        "merging in an Allreduce, a step": (
            f"{duration(scale.OPERATOR)} and {1e9 * scale.MERGE_PAIR:.0f} ns a sample",
            steps,
        ),
        "call": (duration(scale.CALL), duration(found["call"])),
        "Allgather of one machine, two ranks": (
            f"{duration(CORE.latency)} a step, {CORE.bandwidth / 1e9:.0f} GB/s",
            f"{duration(network[small])} for {small} bytes, {duration(network[large])} for {large}",
        ),
    }
    cells = {(row, head): pair[i] for row, pair in rows.items() for i, head in enumerate(("model", "measured"))}
    return table(cells, text=str)


def model_table(found: dict[str, Any]) -> str:
    """Return what the model says of the shapes that were measured."""
    times: Times = {}
    shared = CORE._replace(memory=SHARED_MEMORY / 2)
    for shape, seconds in found["logits"].items():
        samples, classes = map(int, shape.split("×"))
        for ranks, name, setting in ((1, "one", CORE), (2, "all", shared)):
            row = f"loss and gradient, {shape}, {'one rank' if ranks == 1 else 'two ranks'}"
            model = scale.CALL + scale.kernels(setting, ranks, samples, classes)
            model += scale.exchanges(setting, ranks, samples) if ranks > 1 else 0.0
            times |= {(row, "model"): model, (row, "measured"): seconds[name]}
        row = f"its exchanges alone, {samples} samples, two ranks"
        times |= {(row, "model"): scale.exchanges(CORE, 2, samples), (row, "measured"): seconds["exchange"]}
    for shape, seconds in found["layers"].items():
        samples, features, classes = map(int, shape.split("×"))
        for ranks, name in ((1, "one"), (2, "all")):
            row = f"linear layer, {shape}, {'one rank' if ranks == 1 else 'two ranks'}"
            products, statistics, d_hidden = scale.linear(CORE, ranks, samples, classes, features)
            model = products + (statistics + d_hidden) * (ranks > 1)
            times |= {(row, "model"): model, (row, "measured"): seconds[name]}
    return table(times)


def merging_table(found: dict[str, Any]) -> str:
    """Return nanoseconds of merging a sample and part."""
    cells = {}
    for key, seconds in found["merging"].items():
        samples, ranks = map(int, key.split())
        cells[f"{samples:,} samples", f"{ranks} parts"] = f"{1e9 * seconds:.1f} ns"
    return table(cells, text=str)


def parts(quick: bool) -> Parts:
    """Return the sections of both pages."""
    found = measured(quick)
    text = (
        "Loss and gradient, float32, one thread a rank. *exchange* is the time of the exchanges alone. Calls take "
        f"turns, and the second rank sleeps while one rank works alone: {METHOD}. {found['library']}."
    )
    return {
        "interop/mpi.md#speed": f"{text}\n\n{ranks_table(found)}",
        "scale.md#constants": constants_table(found),
        "scale.md#measured": model_table(found),
        "scale.md#merging": merging_table(found),
    }


if __name__ == "__main__":
    main(parts, "mpi4py")
