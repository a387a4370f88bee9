"""From the raw pytest-benchmark files to the figures of a run: one dictionary, saved as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from bench.cases import ROWS, Case, Plan
from bench.contenders import CONTENDERS, LIMIT, REFERENCE
from bench.runner import Notes

PACKAGES = ("fastce", "numpy", "numba", "llvmlite", "scipy", "torch", "scikit-learn", "pytest-benchmark")
PEERS = ("jax", "mygrad", "autograd")  # named only where they played
ROOT = Path(__file__).parents[1]
Row = dict[str, Any]


def collect(plan: Plan, raw: Path, notes: Notes, facts: dict[str, Any]) -> dict[str, Any]:
    """Gather the raw files of all contenders, with the facts of the machine."""
    speed, training, processes = gather(plan, raw)
    relate(speed)
    _judge_accuracy(training, notes)
    facts = machine_facts(plan) | facts
    return {
        "facts": facts,
        "processes": processes,
        "speed": speed,
        "training": training,
        "skipped": notes.skipped,
        "failures": notes.failures,
    }


def gather(plan: Plan, raw: Path) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """Read the raw files: the rows of the speed cases, of the training, and what each process said of its threads."""
    speed: list[Row] = []
    training: list[Row] = []
    processes: dict[str, Any] = {}
    for name in plan.contenders:
        document = _load(raw / f"{name}.json")
        processes[name] = document.get("machine_info", {})
        for entry in document.get("benchmarks", []):
            (speed if "op" in entry["extra_info"] else training).append(_row(name, entry))
    order = plan.contenders if plan.chosen else list(CONTENDERS)
    cases = {case: i for i, case in enumerate(plan.cases())}
    speed.sort(key=lambda r: (cases[case_of(r)], order.index(r["contender"])))
    training.sort(key=lambda r: (r["batch"], order.index(r["contender"])))
    return speed, training, processes


def _load(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # the contender died; the runner has noted it
        return {}


def _row(name: str, entry: dict[str, Any]) -> Row:
    info, stats = dict(entry["extra_info"]), entry["stats"]
    if info.get("layout") == ROWS:  # the rule
        del info["layout"]
    calls = info.pop("loops", None) or info["steps"]
    seconds = {key: stats[key] / calls for key in ("median", "min", "iqr")}
    return {"contender": name, **info, "rounds": stats["rounds"], "calls": calls, **seconds}


def case_of(row: Row) -> Case:
    return Case(row["op"], row["batch"], row["classes"], row["dtype"], row.get("layout", ROWS))


def by_case(speed: list[Row]) -> Iterator[tuple[Case, dict[str, Row]]]:
    """Yield each case with its rows by contender, in the order of the run."""
    cases: dict[Case, dict[str, Row]] = {}
    for row in speed:
        cases.setdefault(case_of(row), {})[row["contender"]] = row
    yield from cases.items()


def relate(speed: list[Row]) -> None:
    """Add to each row its time as a multiple of fastce's, its GB/s and its share of the memory limit."""
    for case, rows in by_case(speed):
        reference = next((rows[name] for name in REFERENCE if name in rows), None)
        for row in rows.values():
            # A limit is what the machine can do, so it is the fastest round; all else is the median.
            seconds = row["min" if row["contender"] == LIMIT else "median"]
            row["gb_per_s"] = case.traffic / seconds / 1e9
            if reference:
                row["ratio"] = row["median"] / reference["median"]
            if LIMIT in rows:
                row["share"] = rows[LIMIT]["min"] / row["median"]


def _judge_accuracy(training: list[Row], notes: Notes) -> None:
    """Note a failure where accuracies differ by more than rounding: weights and batches were the same."""
    for batch in sorted({row["batch"] for row in training}):
        found = {row["contender"]: row["accuracy"] for row in training if row["batch"] == batch}
        if max(found.values()) - min(found.values()) > 0.01:
            notes.fail(f"training, batch {batch}", "all", f"accuracies differ: {found}")


def machine_facts(plan: Plan) -> dict[str, Any]:
    """Gather what a reader needs to judge the figures, and nothing that names the machine."""
    import cpuinfo

    cpu = cpuinfo.get_cpu_info()
    peers = [name for name in PEERS if name in plan.contenders]
    flags = set(cpu.get("flags", ()))
    vectors = next((name for flag, name in VECTORS if flag in flags), "unknown")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": cpu.get("brand_raw", platform.processor()),
        "architecture": platform.machine(),
        "vectors": vectors,
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads": plan.threads,
        "cache_bytes": _last_level_cache(cpu),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: found for name in (*PACKAGES, *peers) if (found := _version(name))},
        "commit": _commit(),
        "smoke": plan.smoke,
    }


VECTORS = (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON"), ("neon", "NEON"), ("sse2", "SSE2"))


def _last_level_cache(cpu: dict[str, Any]) -> int:
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    if sizes:
        return max(int(size.rstrip("K")) << 10 for size in sizes)
    for level in ("l3_cache_size", "l2_cache_size"):
        if isinstance(cpu.get(level), int) and cpu[level]:
            return cpu[level]
    return 32 << 20


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def save(results: dict[str, Any], path: Path) -> None:
    """Write a run as JSON, one row a line, so that two runs can be compared line by line."""
    rounded = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.4g}"))
    parts = []
    for key, value in rounded.items():
        if isinstance(value, list) and value:
            lines = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f'  "{key}": [\n{lines}\n  ]')
        else:
            parts.append(f'  "{key}": {json.dumps(value, ensure_ascii=False)}')
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
