"""The full run, ``python -m bench --full``: every contender, shape, dtype and layout, threads, growth and memory.

It is made of stages, each a plan of the ordinary runner with fresh processes, of the contests of the last layer, and of
the memory. What is finished is kept in a file of its own and taken from there by a later run of the same code, plan and
machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bench import linear, memory, results
from bench.cases import FORTRAN, IMAGES, INPLACE, LOSS_GRAD, LSE, OPS, SOFTMAX, VJPS, Case, Plan
from bench.contenders import LIMIT, missing
from bench.runner import Notes, Runner, weight

FASTCE = ("fastce-out", "fastce")
RIVALS = (
    "numpy",
    "numpy-stable",
    "scipy",
    "torch",
    "torch-out",
    "torch-compile",
    "jax",
    "sklearn",
    "mygrad",
    "autograd",
)
FUSED = ("torch", "torch-out", "torch-compile", "jax")
FLOAT32 = (
    *((32, 10), (256, 100), (65536, 3), (65536, 10), (65536, 32), (16384, 100), (1024, 1000)),
    *((256, 32000), (1, 1000003), (2, 1000003), (1024, 50257)),
)
FLOAT64 = ((4096, 1000), (512, 50257))
LARGE, LONG = (1024, 50257), (1, 1000003)
ALL = (*OPS, *VJPS)
LAYOUTS = ((IMAGES, 65536, 100), (FORTRAN, 4096, 1000))
GROWTH_N = tuple((n, 1000) for n in (256, 1024, 4096, 16384))
GROWTH_C = tuple((256, c) for c in (1000, 4000, 16000, 64000))
SMOKE = {(256, 32000): (16, 3200), (512, 50257): (8, 5025), LARGE: (16, 5025)}  # instead of; larger ones left out
ROOT = Path(__file__).parents[1]
TIMING = ("backward", "cases", "contenders", "full", "inputs", "linear", "linear_contenders", "memory", "peers")
TIMING += ("roofline", "runner", "test_speed", "worker")
SAME = ("cpu", "vectors", "cores", "threads", "cache_bytes", "memory_gb", "python", "versions")


@dataclass(frozen=True)
class Stage:
    """A plan, and the list of the results that its rows go to."""

    name: str
    section: str
    plan: Plan

    def key(self, same: str) -> str:
        """Return what a kept stage must agree in."""
        return _key(same, replace(self.plan, seconds=0))


def stages(threads: int, seconds: float, smoke: bool) -> list[Stage]:
    """Return all stages, each with its share of the seconds."""
    rounds = (2, 2) if smoke else (5, 21)
    found = []
    for name, section, contenders, cases in _contests(threads, smoke):
        players = tuple(player for player in contenders if not missing(player))
        plan = Plan(players, threads, chosen=cases, rounds=rounds, training=(), smoke=smoke, complete=True)
        found.append(Stage(name, section, plan))
    total = sum(map(_weight, found))
    return [replace(s, plan=replace(s.plan, seconds=seconds * _weight(s) / total)) for s in found]


def _weight(stage: Stage) -> float:
    return len(stage.plan.contenders) * sum(map(weight, stage.plan.cases()))


def _contests(threads: int, smoke: bool) -> Iterator[tuple[str, str, tuple[str, ...], tuple[Case, ...]]]:
    """Yield the name, section, contenders and cases of each stage."""

    def sized(shapes):
        if not smoke:
            return shapes
        return [SMOKE.get(s, s) for s in shapes if s in SMOKE or s[0] * s[1] <= 40_000]

    for dtype, shapes in (("float32", FLOAT32), ("float64", FLOAT64)):
        for n, c in sized(shapes):
            more = (INPLACE,) if (n, c) in sized([LARGE]) else ()
            yield f"{dtype}-{n}x{c}", "speed", (*FASTCE, *RIVALS, LIMIT), _cases((*ALL, *more), [(n, c)], dtype)
    for dtype in ("float16", "bfloat16"):
        players = (*FASTCE, "fastce-float32", *FUSED, LIMIT)
        yield f"{dtype}-large", "speed", players, _cases(ALL, sized([LARGE]), dtype)
    for layout, n, c in LAYOUTS:
        # JAX has no layouts: it copies what it is given
        players = (*FASTCE, "fastce-rows", *(p for p in FUSED if p != "jax" or layout == IMAGES), LIMIT)
        yield layout, "speed", players, _cases(ALL, [(min(n, 4096), 10) if smoke else (n, c)], "float32", layout)
    counts = [2**i for i in range(10) if 2**i < threads]
    players = tuple(
        name if count is None else f"{name}@{count}"
        for name in ("fastce-out", "torch", "torch-compile", "jax", LIMIT)
        for count in (None, *counts)
    )
    for n, c in sized([LONG, (65536, 10), LARGE]) if counts else []:
        yield f"threads-{n}x{c}", "threads", players, _cases((LOSS_GRAD, SOFTMAX, LSE), [(n, c)], "float32")
    for name, shapes in (("n", GROWTH_N), ("c", GROWTH_C)):
        sizes = shapes[:2] if smoke else shapes
        yield f"growth-{name}", "growth", ("fastce-out", "torch", "jax", LIMIT), _cases((LOSS_GRAD,), sizes, "float32")


def _cases(ops: Any, shapes: Any, dtype: str, layout: str = "rows") -> tuple[Case, ...]:
    return tuple(Case(op, n, c, dtype, layout) for n, c in shapes for op in ops)


def code_and_machine(threads: int) -> tuple[str, dict[str, Any]]:
    """Return a digest of all that makes figures comparable, and the facts of the machine."""
    digest = hashlib.sha256()
    for path in [*sorted((ROOT / "fastce").rglob("*.py")), *(ROOT / "bench" / f"{name}.py" for name in TIMING)]:
        digest.update(path.read_bytes())
    facts = results.machine_facts(Plan((*FASTCE, *RIVALS), threads))
    digest.update(json.dumps([facts[name] for name in SAME], sort_keys=True).encode())
    return digest.hexdigest(), facts


def play(todo: list[Stage], contests: list[linear.Contest], folder: Path, same: str, display: Any) -> dict[str, Any]:
    """Play all that is not kept in the folder; return the rows by section, and the notes."""
    sections = "speed", "threads", "growth", "linear", "memory", "skipped", "failures"
    run: dict[str, Any] = {name: [] for name in sections}
    for stage in todo:
        found = kept(
            folder / f"{stage.name}.json", stage.key(same), lambda stage=stage: _played(stage, folder, display)
        )
        _add(run, stage.section, found)
        run.setdefault("processes", found["processes"])
        run["busy"] = max(run.get("busy", 0.0), found["busy"])
        display.done += len(stage.plan.cases())
    largest = max((stage.plan for stage in todo), key=lambda plan: max(case.elements for case in plan.cases()))
    run["memory"] = _memory(largest, folder, same, display)["rows"]
    with linear.Runner(largest.threads) as runner:
        for contest in contests:
            display.tell(contest, 0, 0)
            file, key = folder / f"{contest.name}.json", _key(same, contest)
            _add(run, "linear", kept(file, key, lambda contest=contest: runner.play(contest)))
            display.done += 1
    for name in RIVALS:
        if missing(name):
            run["skipped"].append({"case": "all", "contender": name, "reason": f"{missing(name)} not installed"})
    for section in ("speed", "threads", "growth"):
        results.relate(run[section])
    return run


def _add(run: dict[str, Any], section: str, found: dict[str, Any]) -> None:
    run[section] += found["rows"]
    run["skipped"] += found["skipped"]
    run["failures"] += found["failures"]


def _memory(largest: Plan, folder: Path, same: str, display: Any) -> dict[str, Any]:
    case = largest.cases()[0]
    names = [name for name in (*FASTCE, *RIVALS) if not missing(name)]
    display.tell("peak memory", -1, 0)
    key = _key(same, names, case)
    return kept(folder / "memory.json", key, lambda: memory.measure_all(names, case, largest.threads))


def _key(same: str, *plan: Any) -> str:
    """Return what something kept must agree in."""
    return hashlib.sha256(" ".join([same, *map(repr, plan)]).encode()).hexdigest()[:16]


def kept(path: Path, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what the file keeps, if its key is the same; otherwise make it anew and keep it, if nothing failed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            return found
    except (OSError, ValueError, KeyError):
        pass
    path.unlink(missing_ok=True)
    made = make()
    if not made.get("failures"):
        results.save({"key": key, **made}, path)
    return made


def _played(stage: Stage, folder: Path, display: Any) -> dict[str, Any]:
    raw = folder / "raw" / stage.name
    raw.mkdir(parents=True, exist_ok=True)
    busy = psutil.cpu_percent(0.5)
    with Runner(stage.plan, raw) as runner:
        notes: Notes = runner.run(display.tell)
    rows, _, processes = results.gather(stage.plan, raw)
    found = {"rows": rows, "processes": processes, "busy": busy}
    return found | {"skipped": notes.skipped, "failures": notes.failures}
