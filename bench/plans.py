"""The plans of a run: the ordinary one, and the full one with every contender, shape, dtype and layout.

Each plan has fresh processes. The full run also measures threads, growth and memory.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bench.cases import FORTRAN, IMAGES, LARGE_LAYER, LAYER, MAIN_LAYER, OPS, VJPS, Case, Op, Plan, grid
from bench.contenders import CONTENDERS, LIMIT, PRODUCTS, REFERENCE, RIVALS, entrant

# The ordinary run.
TRAINING_BATCHES = (32, 256)
BUSY_CONTENDERS = ("fastce-out", "numpy", "torch")
BUSY_SHAPES = [(64, 1000), (1024, 1000), (16384, 100), (65536, 10)]
BUSY_SECONDS = 1.5  # of calls

# The full run.
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
SMOKE = {(256, 32000): (16, 3200), (512, 50257): (8, 5025), LARGE: (16, 5025)}  # shapes instead of the large ones


def standard(options: argparse.Namespace) -> list[Plan]:
    """Return the plans of an ordinary run; shapes go from small to large, so that a slow machine drops the largest."""
    smoke, names, ops = options.smoke, tuple(options.contenders), [Op(op) for op in options.ops]
    batches, classes = ((1, 64), (10, 1000)) if smoke else (options.batch, options.classes)
    shapes = [(n, c) for n in batches for c in classes if n * c <= options.max_elements]
    shapes.sort(key=lambda shape: (shape[0] * shape[1], shape[1]))
    of_logits = tuple(op for op in ops if op not in LAYER)
    cases = [case for dtype in options.dtype for case in grid(of_logits, shapes, dtype)]
    if cases:
        cases.insert(0, Case(Op.SCALE, *shapes[-1], options.dtype[0]))
    layer = [Case(op, n, c, features=options.features) for n, c in shapes for op in ops if op in LAYER]
    total = sum(case.weight for case in [*cases, *layer])
    plans = []
    for section, limit, part in (("speed", LIMIT, cases), ("layer", PRODUCTS, layer)):
        seconds = options.seconds * sum(case.weight for case in part) / total
        plan = Plan(section, section, (*names, limit), tuple(part), options.threads, seconds, complete=smoke)
        plans.append(replace(plan, rounds=(3, 3) if smoke else (3, 15), memory=section == "layer"))
    if not options.no_training:
        training = tuple(Case(Op.TRAINING, batch, 10) for batch in TRAINING_BATCHES)
        rounds = (3, 3) if smoke else (40, 40)
        plans.append(Plan("training", "training", names, training, options.threads, rounds=rounds, complete=True))
    some = tuple(name for name in BUSY_CONTENDERS if name in names)
    if not options.no_busy and Op.LOSS_GRAD in ops and some:
        beside = tuple(grid((Op.LOSS_GRAD,), BUSY_SHAPES[: 1 if smoke else None]))
        span = 0.1 if smoke else BUSY_SECONDS
        plan = Plan("quiet", "quiet", some, beside, options.threads, complete=True, rounds=(1, 1), span=span)
        plans += [plan, replace(plan, name="busy", section="busy", busy=True)]
    return [plan for plan in plans if plan.cases]


def full(options: argparse.Namespace) -> list[Plan]:
    """Return the plans of a full run; those on logits share the seconds, the last layer has its own."""
    threads, smoke = options.threads, options.smoke
    bounds = (2, 2) if smoke else (5, 21)
    large = "float32-{}x{}".format(*_sized([LARGE], smoke)[0])
    plans = [
        Plan(
            *(name, section, _present(names), tuple(cases), threads),
            rounds=bounds,
            complete=True,
            memory=name == large,
        )
        for name, section, names, cases in (*_contests(smoke), *_growth(threads, smoke))
    ]
    weights = [len(plan.contenders) * sum(case.weight for case in plan.cases) for plan in plans]
    shares = [options.seconds * weight / sum(weights) for weight in weights]
    return [*(replace(p, seconds=t) for p, t in zip(plans, shares, strict=True)), *_layer_plans(threads, smoke)]


def _sized(shapes: Any, smoke: bool) -> list[tuple[int, int]]:
    """Return the shapes; in a smoke run the small ones, and replacements of some large ones."""
    if not smoke:
        return list(shapes)
    return [SMOKE.get(s, s) for s in shapes if s in SMOKE or s[0] * s[1] <= 40_000]


Contest = tuple[str, str, tuple[str, ...], list[Case]]


def _contests(smoke: bool) -> Iterator[Contest]:
    """Yield the name, section, contenders and cases of each plan on speed."""
    ops, large = (*OPS, *VJPS), _sized([LARGE], smoke)
    for dtype, shapes in (("float32", FLOAT32), ("float64", FLOAT64)):
        for shape in _sized(shapes, smoke):
            more = (Op.INPLACE,) if shape in large else ()
            yield f"{dtype}-{shape[0]}x{shape[1]}", "speed", OF_LOGITS, grid((*ops, *more), [shape], dtype)
    for dtype in ("float16", "bfloat16"):
        yield f"{dtype}-large", "speed", (*REFERENCE, "fastce-float32", *FUSED, LIMIT), grid(ops, large, dtype)
    for layout, n, c in LAYOUTS:
        # JAX has no layouts: it copies its arguments
        fused = tuple(name for name in FUSED if name != "jax" or layout == IMAGES)
        shape = (min(n, 4096), 10) if smoke else (n, c)
        yield layout, "speed", (*REFERENCE, "fastce-rows", *fused, LIMIT), grid(ops, [shape], "float32", layout)


def _growth(threads: int, smoke: bool) -> Iterator[Contest]:
    """Yield the plans on growing threads, samples and classes."""
    counts = [2**i for i in range(10) if 2**i < threads]
    names = ("fastce-out", "torch", "torch-compile", "jax", LIMIT)
    by_threads = tuple(name if count is None else f"{name}@{count}" for name in names for count in (None, *counts))
    for n, c in _sized([LONG, (65536, 10), LARGE], smoke) if counts else []:
        yield f"threads-{n}x{c}", "threads", by_threads, grid((Op.LOSS_GRAD, Op.SOFTMAX, Op.LSE), [(n, c)])
    for name, shapes in (("n", GROWTH_N), ("c", GROWTH_C)):
        cases = grid((Op.LOSS_GRAD,), list(shapes[: 2 if smoke else None]))
        yield f"growth-{name}", "growth", ("fastce-out", "torch", "jax", LIMIT), cases


def _layer_plans(threads: int, smoke: bool) -> Iterator[Plan]:
    """Yield the plans of the last layer: all contenders on two shapes, some on growing ones."""
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
        plan = Plan(f"layer-{name}", "layer", _present(contenders), cases, threads, seconds, complete=True, memory=True)
        yield replace(plan, rounds=(2, 2) if smoke else rounds, slowest=300.0)


def _present(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if not CONTENDERS[entrant(name).contender].missing)
