"""A run as tidy data: a table with one record a measurement, notes on what is missing, and the machine's facts.

A run named ``full`` is stored in ``full.csv`` (the records; read it with :func:`pandas.read_csv`) and ``full.json``
(facts and notes). Times are in seconds a call. The columns:

section
    The purpose: speed; avx2, which is speed again with code for AVX2; calls, small calls beside the contenders of
    ``make bench``; threads, growth, layer, training; ``quiet`` and ``busy``, without and with a busy process a
    core beside the contender.
op, batch, features, classes, dtype, layout
    The case; ``features`` is 0 except in the last layer.
contender, threads
    Who computed it.
rounds, calls, median, min, iqr
    Rounds, calls a round, and the statistics of the rounds; in sections quiet and busy those of single calls.
mean, p99
    Of single calls: sections quiet and busy.
bytes
    Peak memory of a call beyond its arguments.
loss_seconds, accuracy
    Training: seconds of the loss and its gradient a step, and the accuracy on held-out images.
ratio
    The median as a multiple of fastce's; in the last layer, of the bare matrix products.
gb_per_s, share
    Bytes that must move, a second, and the share of the memory limit.
"""

import datetime
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from bench.cases import ARRAYS, AVX2, AVX512, LAYER, PATTERNS, ROWS, dtype_of
from bench.contenders import CONTENDERS, LIMIT, PRODUCTS, REFERENCE

ROOT = Path(__file__).parents[1]
CASE = ["section", "op", "batch", "features", "classes", "dtype", "layout"]
STATISTICS = ["rounds", "calls", "median", "min", "iqr", "mean", "p99", "bytes", "loss_seconds", "accuracy"]
COLUMNS = [*CASE, "contender", "threads", *STATISTICS, "ratio", "gb_per_s", "share"]
COUNTS = dict.fromkeys(("rounds", "calls", "bytes"), "Int64")  # which may be missing
PACKAGES = ("fastce", "numpy", "numba", "llvmlite", "scipy", "torch", "scikit-learn", "pytest-benchmark")
OPTIONAL = {  # distributions that are named only where the contender took part
    **{"jax": "jax", "tensorflow": "tensorflow", "tensorflow_cpu": "tensorflow", "onnxruntime": "onnxruntime"},
    **{"mygrad": "mygrad", "autograd": "autograd"},
}
VECTORS = (("avx512f", AVX512), ("avx2", AVX2), ("asimd", "NEON"), ("neon", "NEON"), ("sse2", "SSE2"))


@dataclass
class Results:
    """The records of plans, and notes on contenders that were skipped or failed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)

    def note(self, outcome: str, case: Any, contender: str, reason: str) -> None:
        """Note that a contender "skipped" a case or "failed" in it."""
        self.notes.append({"outcome": outcome, "case": str(case), "contender": contender, "reason": reason})

    def add(self, other: "Results") -> None:
        """Add the results of another plan."""
        self.records += other.records
        self.notes += other.notes


@dataclass
class Run:
    """A finished run, from which reports are made."""

    facts: dict[str, Any]
    records: pd.DataFrame
    notes: list[dict[str, str]]

    def section(self, name: str) -> pd.DataFrame:
        """Return the records of a section."""
        return self.records[self.records.section == name]

    @property
    def kinds(self) -> dict[str, str]:
        """The kinds of code whose speed was measured, named by their vectors, each with its section."""
        again = {AVX2: "avx2"} if len(self.section("avx2")) else {}
        return {self.facts["vectors"]: "speed"} | again


def failures(notes: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the notes on failures."""
    return [note for note in notes if note["outcome"] == "failed"]


def finished(results: Results, facts: dict[str, Any]) -> Run:
    """Make a run of results: add ratios and shares, order the records, round to four digits."""
    frame = pd.DataFrame(results.records).reindex(columns=COLUMNS)
    frame = related(frame, facts["threads"]).astype(COUNTS)
    for batch, accuracies in frame.groupby("batch").accuracy:
        if accuracies.max() - accuracies.min() > 0.01:  # weights and batches were the same
            results.note("failed", f"training, batch {batch}", "all", f"accuracies: {sorted(set(accuracies.dropna()))}")
    case, contender = frame.groupby(CASE, sort=False).ngroup(), frame.contender.map(list(CONTENDERS).index)
    order = pd.DataFrame({"case": case, "contender": contender, "threads": -frame.threads})
    frame = frame.loc[order.sort_values(list(order), kind="stable").index].reset_index(drop=True)
    floats = frame.select_dtypes("float").columns
    frame[floats] = frame[floats].map(lambda value: float(f"{value:.4g}"))
    return Run(facts, frame, results.notes)


def related(frame: pd.DataFrame, threads: int) -> pd.DataFrame:
    """Add each time as a multiple of the reference's, GB/s, and the share of the memory limit."""
    timed = frame[frame.op.isin((*PATTERNS, *LAYER)) & ~frame.section.isin(("quiet", "busy"))]
    main = timed[timed.threads == threads]
    references = [main[(main.contender == name) & ~main.op.isin(LAYER)] for name in REFERENCE]
    reference = pd.concat([*references, main[main.contender == PRODUCTS]]).drop_duplicates(CASE)
    limit = main[main.contender == LIMIT].drop_duplicates(CASE).set_index(CASE)["min"].rename("limit")
    timed = timed.join(reference.set_index(CASE)["median"].rename("reference"), on=CASE).join(limit, on=CASE)
    arrays = timed.op.map(lambda op: ARRAYS.get(PATTERNS.get(op)))
    # A limit is what the machine can do, so it is the fastest round; all else is the median.
    seconds = timed["median"].where(timed.contender != LIMIT, timed["min"])
    columns = {"ratio": timed["median"] / timed.reference, "gb_per_s": arrays * nbytes(timed) / seconds / 1e9}
    return frame.assign(**columns, share=timed.limit / timed["median"])


def nbytes(frame: pd.DataFrame) -> pd.Series:
    """Return the bytes of each record's logits."""
    return frame.batch * frame.classes * frame.dtype.map(lambda name: dtype_of(name).itemsize)


def save(run: Run, folder: Path, name: str) -> list[Path]:
    """Write the run; return the files."""
    table, rest = folder / f"{name}.csv", folder / f"{name}.json"
    run.records.to_csv(table, index=False)
    facts, *notes = (json.dumps(part, ensure_ascii=False) for part in (run.facts, *run.notes))
    lines = ",\n".join(notes)
    rest.write_text(f'{{"facts": {facts},\n"notes": [\n{lines}\n]}}\n', encoding="utf-8")
    return [table, rest]


def load(folder: Path, name: str) -> Run:
    """Read a run that :func:`save` has written."""
    rest = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Run(rest["facts"], pd.read_csv(folder / f"{name}.csv", dtype=COUNTS), rest["notes"])


def shape_text(record: Any) -> str:
    """Write the shape of a record, and its layout where the classes are not last."""
    sizes = [record.batch, *([record.features] if record.features else []), record.classes]
    return " × ".join(f"{size:,}" for size in sizes) + ("" if record.layout == ROWS else f" {record.layout}")


# --- the machine ---------------------------------------------------------------------


def machine_facts(threads: int, contenders: tuple[str, ...] = (), vectors: str = "") -> dict[str, Any]:
    """Return the facts that a reader needs to judge the figures; none of them names the machine.

    ``vectors`` are those that libraries are kept to; by default they use all that the processor has.
    """
    import cpuinfo

    cpu = cpuinfo.get_cpu_info()
    optional = [name for name, contender in OPTIONAL.items() if contender in contenders]
    flags = set(cpu.get("flags", ()))
    installed = {distribution.name: distribution.version for distribution in distributions()}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": cpu.get("brand_raw", platform.processor()),
        "architecture": platform.machine(),
        "vectors": vectors or next((name for flag, name in VECTORS if flag in flags), "unknown"),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": threads,
        "cache_bytes": _last_level_cache(cpu),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in (*PACKAGES, *optional) if name in installed},
        "commit": _commit(),
    }


def busy_warning(percent: float) -> list[str]:
    """Say that other programs used so many percent of the cores before a run, if that changes its figures."""
    return [f"Other programs used {percent:.0f} % of the cores before the run: do not trust it."] * (percent > 5)


def _last_level_cache(cpu: dict[str, Any]) -> int:
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    if sizes:
        return max(int(size.rstrip("K")) << 10 for size in sizes)
    levels = (cpu.get("l3_cache_size"), cpu.get("l2_cache_size"))
    return next((level for level in levels if isinstance(level, int) and level), 32 << 20)


def _commit() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
