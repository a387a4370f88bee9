"""The full run, ``python -m bench --full``: every contender, shape, dtype and layout, threads, growth and memory.

It consists of stages, each a plan with fresh processes. A finished stage is kept in a file of its own, and a later run
of the same code, plan and machine takes it from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from bench.cases import FORTRAN, IMAGES, LARGE_LAYER, LAYER, MAIN_LAYER, OPS, VJPS, Case, Op, Plan, grid
from bench.contenders import CONTENDERS, LIMIT, PRODUCTS, REFERENCE, RIVALS, split
from bench.data import ROOT, Results, machine_facts
from bench.runner import Runner

FUSED = ("torch", "torch-out", "torch-compile", "jax")
FLOAT32 = (
    *((32, 10), (256, 100), (65536, 3), (65536, 10), (65536, 32), (16384, 100), (1024, 1000)),
    *((256, 32000), (1, 1000003), (2, 1000003), (1024, 50257)),
)
FLOAT64 = ((4096, 1000), (512, 50257))
LARGE, LONG = (1024, 50257), (1, 1000003)
LAYOUTS = ((IMAGES, 65536, 100), (FORTRAN, 4096, 1000))
GROWTH_N = tuple((n, 1000) for n in (256, 1024, 4096, 16384))
GROWTH_C = tuple((256, c) for c in (4000, 16000, 64000))  # and the first of GROWTH_N
LAYER_TOKENS = tuple((n, 256, 32000) for n in (512, 1024, 2048, 4096, 8192))
LAYER_CLASSES = tuple((1024, 256, v) for v in (4096, 8192, 16384, 32768, 65536, 131072))
LAYER_ONLY = ("torch-linear", "torch-chunked", "torch-1024")
LAYER_CONTENDERS = (*REFERENCE, "numpy", "torch", *LAYER_ONLY, "jax", PRODUCTS)
OF_LOGITS = (*REFERENCE, *(name for name in RIVALS if name not in LAYER_ONLY), LIMIT)
LAYER_GROWING = ("fastce-out", "numpy", "torch", "torch-chunked", "jax", PRODUCTS)
SMOKE = {(256, 32000): (16, 3200), (512, 50257): (8, 5025), LARGE: (16, 5025)}  # instead of; larger ones left out
NOT_TIMING = ("__main__", "bars", "busy", "neighbours", "plots", "progress", "readme", "report", "tables")
SAME = ("cpu", "vectors", "cores", "threads", "cache_bytes", "memory_gb", "python", "versions")


@dataclass(frozen=True)
class Stage:
    """A plan, and the section that its records go to."""

    name: str
    section: str
    plan: Plan

    def key(self, same: str) -> str:
        """Return what a kept stage must agree in: code, machine and plan, but for the time it may take."""
        return hashlib.sha256(f"{same} {replace(self.plan, seconds=0)}".encode()).hexdigest()[:16]


def stages(threads: int, seconds: float, smoke: bool) -> list[Stage]:
    """Return all stages; those of logits share the seconds."""
    of_logits, of_layers = list(_logits_stages(threads, smoke)), list(_layer_stages(threads, smoke))
    weights = [len(s.plan.contenders) * sum(case.weight for case in s.plan.cases) for s in of_logits]
    shares = [seconds * weight / sum(weights) for weight in weights]
    timed = [replace(s, plan=replace(s.plan, seconds=t)) for s, t in zip(of_logits, shares, strict=True)]
    return timed + of_layers


def _logits_stages(threads: int, smoke: bool) -> Iterator[Stage]:
    for name, section, names, cases in _contests(threads, smoke):
        rounds, memory = (2, 2) if smoke else (5, 21), name == "float32-1024x50257" or smoke
        yield Stage(name, section, Plan(_present(names), tuple(cases), threads, 0, rounds, 0, True, memory))


def _contests(threads: int, smoke: bool) -> Iterator[tuple[str, str, tuple[str, ...], list[Case]]]:
    """Yield the name, section, contenders and cases of each stage."""
    ops = (*OPS, *VJPS)

    def sized(shapes: Any) -> list[tuple[int, int]]:
        if not smoke:
            return list(shapes)
        return [SMOKE.get(s, s) for s in shapes if s in SMOKE or s[0] * s[1] <= 40_000]

    for dtype, shapes in (("float32", FLOAT32), ("float64", FLOAT64)):
        for n, c in sized(shapes):
            more = (Op.INPLACE,) if (n, c) in sized([LARGE]) else ()
            cases = grid((*ops, *more), [(n, c)], dtype)
            yield f"{dtype}-{n}x{c}", "speed", OF_LOGITS, cases
    for dtype in ("float16", "bfloat16"):
        contenders = (*REFERENCE, "fastce-float32", *FUSED, LIMIT)
        yield f"{dtype}-large", "speed", contenders, grid(ops, sized([LARGE]), dtype)
    for layout, n, c in LAYOUTS:
        # JAX has no layouts: it copies what it is given
        contenders = (*REFERENCE, "fastce-rows", *(p for p in FUSED if p != "jax" or layout == IMAGES), LIMIT)
        yield layout, "speed", contenders, grid(ops, [(min(n, 4096), 10) if smoke else (n, c)], "float32", layout)
    counts = [2**i for i in range(10) if 2**i < threads]
    names = ("fastce-out", "torch", "torch-compile", "jax", LIMIT)
    contenders = tuple(name if count is None else f"{name}@{count}" for name in names for count in (None, *counts))
    for n, c in sized([LONG, (65536, 10), LARGE]) if counts else []:
        yield f"threads-{n}x{c}", "threads", contenders, grid((Op.LOSS_GRAD, Op.SOFTMAX, Op.LSE), [(n, c)])
    for name, shapes in (("n", GROWTH_N), ("c", GROWTH_C)):
        contenders = ("fastce-out", "torch", "jax", LIMIT)
        yield f"growth-{name}", "growth", contenders, grid((Op.LOSS_GRAD,), list(shapes[: 2 if smoke else None]))


def _layer_stages(threads: int, smoke: bool) -> Iterator[Stage]:
    """Yield the stages of the last layer: all contenders on two shapes, some on growing ones."""
    main, large, tokens, classes = (MAIN_LAYER,), (LARGE_LAYER,), LAYER_TOKENS, LAYER_CLASSES
    if smoke:
        main, large, tokens, classes = ((64, 16, 500),), ((48, 8, 900),), ((16, 8, 300),), ((16, 8, 200),)
    for name, ops, shapes, contenders, seconds, rounds in (
        ("main", LAYER, main, LAYER_CONTENDERS, 120, (7, 11)),
        ("large", LAYER[1:], large, LAYER_CONTENDERS, 0, (3, 3)),
        ("tokens", LAYER[1:], tokens, LAYER_GROWING, 50, (3, 11)),
        ("classes", LAYER[1:], classes, LAYER_GROWING, 60, (3, 11)),
    ):
        cases = tuple(Case(op, n, v, features=d) for n, d, v in shapes for op in ops)
        bounds = (2, 2) if smoke else rounds
        plan = Plan(_present(contenders), cases, threads, seconds, bounds, 0, complete=True, memory=True, slowest=300.0)
        yield Stage(f"layer-{name}", "layer", plan)


def _present(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if not CONTENDERS[split(name)[0]].missing)


def code_and_machine(threads: int) -> tuple[str, dict[str, Any]]:
    """Return a digest of all that makes figures comparable, and the facts of the machine."""
    digest = hashlib.sha256()
    sources = [path for path in (ROOT / "bench").rglob("*.py") if path.stem not in NOT_TIMING]
    for path in sorted([*(ROOT / "fastce").rglob("*.py"), *sources]):
        digest.update(path.read_bytes())
    facts = machine_facts(threads, (*REFERENCE, *RIVALS))
    digest.update(json.dumps([facts[name] for name in SAME], sort_keys=True).encode())
    return digest.hexdigest(), facts


def run(todo: list[Stage], folder: Path, same: str, display: Any) -> tuple[Results, float]:
    """Run all stages that are not kept in the folder; return all results, and how busy the machine was before one."""
    results, busiest = Results(), 0.0
    for stage in todo:
        stage_results, busy = _kept_or_run(stage, folder, stage.key(same), display)
        results.add(stage_results, stage.section)
        busiest = max(busiest, busy)
        display.done += len(stage.plan.cases)
    for name in RIVALS:
        if CONTENDERS[name].missing:
            results.skip("all", name, f"{CONTENDERS[name].missing} not installed")
    return results, busiest


def _kept_or_run(stage: Stage, folder: Path, key: str, display: Any) -> tuple[Results, float]:
    """Return what the stage's file keeps, if its key is the same; else run it, and keep it if nothing failed."""
    path = folder / f"{stage.name}.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] == key:
            return Results(**stored["results"]), stored["busy"]
        path.unlink()
    logs = folder / "logs" / stage.name
    logs.mkdir(parents=True, exist_ok=True)
    busy = psutil.cpu_percent(0.5)
    with Runner(stage.plan, logs) as runner:
        results = runner.run(display.tell)
    if not results.failures:
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"key": key, "busy": busy, "results": asdict(results)}), encoding="utf-8")
        part.replace(path)
    return results, busy
