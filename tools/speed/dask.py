"""fastce on Dask arrays in zarr, beside the sum of the same logits: docs/interop/dask.md."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.tables import megabytes
from tools.speed.turns import METHOD, Parts, in_new_process, main, table, turns

ROWS, CLASSES, STEP = 100_000, 2_000, 4_096
QUICK_ROWS = 4_096
WORKERS = 2
SUM, IN_PARTS = "`logits.sum()`", ", classes in four chunks"
Programs = dict[str, Callable[[], Any]]


def make(folder: Path, rows: int) -> None:
    """Write logits in two ways of chunks, and labels."""
    import zarr

    rng = np.random.default_rng(0)
    for name, chunks in (("whole", (STEP, CLASSES)), ("parts", (4 * STEP, CLASSES // 4))):
        shape = (rows, CLASSES)
        array = zarr.create_array(folder / f"{name}.zarr", shape=shape, chunks=chunks, dtype="f4", compressors=None)
        for i in range(0, rows, chunks[0]):
            array[i : i + chunks[0]] = rng.standard_normal((min(chunks[0], rows - i), CLASSES), dtype=np.float32)
    np.save(folder / "labels.npy", rng.integers(0, CLASSES, rows))


def programs(folder: Path) -> Programs:
    """Return functions that compute, by their names in the table."""
    import dask.array as da

    from fastce.interop import dask as lazy

    labels = np.load(folder / "labels.npy")
    whole, in_parts = (da.from_zarr(str(folder / f"{name}.zarr")) for name in ("whole", "parts"))

    def own() -> Any:
        top = whole.max(axis=1, keepdims=True)
        return (da.log(da.exp(whole - top).sum(axis=1)) + top[:, 0]).mean()

    graphs = {
        SUM: lambda: whole.sum(),
        "`cross_entropy`": lambda: lazy.cross_entropy(whole, labels),
        "`evaluate(top_k=5)`": lambda: lazy.evaluate(whole, labels, top_k=5),
        "gradient, summed": lambda: lazy.cross_entropy_and_grad(whole, labels).grad.sum(),
        "Dask's own max, exp, sum and log, without labels": own,
        SUM + IN_PARTS: lambda: in_parts.sum(),
        "`cross_entropy`" + IN_PARTS: lambda: lazy.cross_entropy(in_parts, labels),
    }
    run = {"scheduler": "threads", "num_workers": WORKERS}
    return {name: lambda graph=graph: graph().compute(**run) for name, graph in graphs.items()}


def peak(folder: Path, name: str) -> float:
    """Return how many bytes this process has at most, after it has computed this or, without a name, nothing."""
    import fastce

    todo = programs(folder)
    fastce.warmup("float32", classes=CLASSES)
    if name:
        todo[name]()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    import fastce

    rows, cells, memory = QUICK_ROWS if quick else ROWS, {}, {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, rows)
        seconds = turns(programs(folder), quick)
        fastce.warmup("float32", classes=CLASSES)  # puts kernels on disk, so that no new process compiles
        if sys.platform == "linux":
            names = ["", *([SUM] if quick else seconds)]
            memory = {name: in_new_process(peak, folder, name) for name in names}
    for name, time in seconds.items():
        of_sum = seconds[SUM + IN_PARTS if IN_PARTS in name else SUM]
        cells[name, "time"] = f"{time / of_sum:.1f}"
        if name in memory:
            cells[name, "memory"] = megabytes(memory[name] - memory[""])
    text = (
        f"{4e-6 * rows * CLASSES:.0f} MB of float32 in zarr, uncompressed and in the system's file cache: "
        f"{rows:,} × {CLASSES:,} in chunks of {STEP:,} × {CLASSES:,}, or {4 * STEP:,} × {CLASSES // 4}. {WORKERS} of "
        f"Dask's threads. Times are multiples of `logits.sum()` of the same chunks, which takes {seconds[SUM]:.2f} s. "
        f"They take turns in one process: {METHOD}. Memory is the peak of a process of its own, beyond the peak of a "
        "process that computes nothing."
    )
    return {"interop/dask.md#speed": f"{text}\n\n{table(cells, text=str)}"}


if __name__ == "__main__":
    main(parts, "dask", "zarr")
