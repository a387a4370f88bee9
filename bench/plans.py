"""The plans of a run: the ordinary one, and the full one with every contender, shape, dtype and layout.

The full run also measures threads, growth and memory, and with AVX-512 the speed of AVX2 code beside it. A plan has
processes of its own.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

from bench.cases import (
    AVX2,
    AVX512,
    FORTRAN,
    IMAGES,
    LARGE_LAYER,
    LAYER,
    MAIN_LAYER,
    OPS,
    VJPS,
    Case,
    Op,
    Plan,
    grid,
)
from bench.contenders import ADAPTED, CONTENDERS, LIMIT, PEERS, PRODUCTS, REFERENCE, RIVALS, STANDARD, entrant

# The ordinary run.
TRAINING_BATCHES = (32, 256)
# the first three in an ordinary run
BUSY_CONTENDERS = (
    *("fastce-out", "numpy", "torch"),
    *("torch-compile", "jax", "tensorflow", "tensorflow-xla", "onnxruntime"),
)
BUSY_OPS = (Op.LOSS_GRAD, Op.SOFTMAX)  # of a full run; ONNX Runtime has no gradient
BUSY_SHAPES = [(64, 1000), (1024, 1000), (16384, 100), (65536, 10)]
BUSY_SECONDS = 1.5  # of calls

# The full run.
ROUNDS = (5, 21)  # of a case on logits
AVX2_ROUNDS = (5, 11)
FLOAT32 = (
    *((32, 10), (256, 100), (65536, 3), (65536, 10), (65536, 32), (16384, 100), (1024, 1000)),
    *((256, 32000), (1, 1000003), (2, 1000003), (1024, 50257)),
)
FLOAT64 = ((4096, 1000), (512, 50257))
SHAPES = [(*shape, "float32") for shape in FLOAT32] + [(*shape, "float64") for shape in FLOAT64]
ONE_ROW = ((1, 10), (1, 1000))
LARGE, LONG, TILES = (1024, 50257), (1, 1000003), (65536, 10)
LAYOUTS = ((IMAGES, (65536, 100)), (FORTRAN, (4096, 1000)))
GROWTH_N = [(n, 1000) for n in (256, 1024, 4096, 16384)]
GROWTH_C = [(256, c) for c in (4000, 16000, 64000)]  # and the first of GROWTH_N
LAYER_TOKENS = tuple((n, 256, 32000) for n in (512, 1024, 2048, 4096, 8192))
LAYER_CLASSES = tuple((1024, 256, v) for v in (4096, 8192, 16384, 32768, 65536, 131072))
LAYER_ONLY = ("torch-linear", "torch-chunked", "torch-1024")
LAYER_CONTENDERS = (*REFERENCE, *ADAPTED, "numpy", "torch", *LAYER_ONLY, "jax", PRODUCTS)
OF_LOGITS = (*REFERENCE, *ADAPTED, *(name for name in RIVALS if name not in LAYER_ONLY), LIMIT)
LAYER_GROWING = ("fastce-out", "numpy", "torch", "torch-chunked", "jax", PRODUCTS)


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
        plans += _busy_plans(some, (Op.LOSS_GRAD,), options)
    return [replace(plan, vectors=options.vectors) for plan in plans if plan.cases]


def _busy_plans(contenders: tuple[str, ...], ops: tuple[Op, ...], options: argparse.Namespace) -> Iterator[Plan]:
    """Yield the plans of single calls on a quiet machine and beside a busy process a core."""
    cases = tuple(grid(ops, BUSY_SHAPES[: 1 if options.smoke else None]))
    span = 0.1 if options.smoke else BUSY_SECONDS
    plan = Plan("quiet", "quiet", contenders, cases, options.threads, complete=True, rounds=(1, 1), span=span)
    yield from (plan, replace(plan, name="busy", section="busy", busy=True))


def full(options: argparse.Namespace, vectors: str) -> list[Plan]:
    """Return the plans of a full run on a machine with these vectors.

    Plans on logits share the seconds, the others have their own.
    """
    shapes = [SHAPES[0], *SHAPES[-3:]] if options.smoke else SHAPES
    avx2 = _avx2_plans(shapes) if vectors == AVX512 else ()
    plans = [*_speed_plans(shapes), *avx2, *_threads_plans(options.threads), *_growth_plans(), *_layer_plans()]
    plans = [replace(plan, contenders=_present(plan.contenders), complete=True) for plan in plans]
    if options.smoke:
        plans = _shrunk(plans)
    if not options.no_busy:
        plans += _busy_plans(_present(BUSY_CONTENDERS), BUSY_OPS, options)
    weights = [0 if p.seconds or p.span else len(p.contenders) * sum(case.weight for case in p.cases) for p in plans]
    shares = [options.seconds * weight / sum(weights) for weight in weights]
    return [
        replace(plan, threads=options.threads, seconds=plan.seconds or share)
        for plan, share in zip(plans, shares, strict=True)
    ]


def _speed_plans(shapes: list[tuple[int, int, str]]) -> Iterator[Plan]:
    for n, c, dtype in shapes:
        cases = tuple(grid((*OPS, Op.INPLACE, *VJPS), [(n, c)], dtype))
        yield Plan(f"{dtype}-{n}x{c}", "speed", OF_LOGITS, cases, rounds=ROUNDS, memory=(n, c) == LARGE)
    yield Plan("calls", "calls", STANDARD, tuple(grid(OPS, list(ONE_ROW))), rounds=ROUNDS)
    for dtype in ("float16", "bfloat16"):
        cases = grid((*OPS, *VJPS), [LARGE], dtype)
        yield Plan(
            f"{dtype}-large",
            "speed",
            (*REFERENCE, *ADAPTED, "fastce-float32", *PEERS, LIMIT),
            tuple(cases),
            rounds=ROUNDS,
        )
    for layout, shape in LAYOUTS:
        # JAX has no layouts: it copies its arguments
        peers = tuple(name for name in PEERS if name != "jax" or layout == IMAGES)
        cases = grid((*OPS, *VJPS), [shape], "float32", layout)
        yield Plan(layout, "speed", (*REFERENCE, *ADAPTED, "fastce-rows", *peers, LIMIT), tuple(cases), rounds=ROUNDS)


def _avx2_plans(shapes: list[tuple[int, int, str]]) -> Iterator[Plan]:
    """Yield the plans that repeat the speed of all operations but the backward passes with code for AVX2."""
    for n, c, dtype in shapes:
        cases, names = tuple(grid((*OPS, Op.INPLACE), [(n, c)], dtype)), (*REFERENCE, *PEERS, LIMIT)
        yield Plan(f"avx2-{dtype}-{n}x{c}", "avx2", names, cases, rounds=AVX2_ROUNDS, vectors=AVX2)


def _threads_plans(threads: int) -> Iterator[Plan]:
    counts = [2**i for i in range(10) if 2**i < threads]
    names = ("fastce-out", "torch", "torch-compile", "jax", LIMIT)
    contenders = tuple(entry for name in names for entry in (name, *(f"{name}@{count}" for count in counts)))
    for shape in (LONG, TILES, LARGE) if counts else ():
        cases = grid((Op.LOSS_GRAD, Op.SOFTMAX, Op.LSE), [shape])
        yield Plan(f"threads-{shape[0]}x{shape[1]}", "threads", contenders, tuple(cases), rounds=ROUNDS)


def _growth_plans() -> Iterator[Plan]:
    for name, shapes in (("n", GROWTH_N), ("c", GROWTH_C)):
        cases = grid((Op.LOSS_GRAD,), shapes)
        yield Plan(f"growth-{name}", "growth", ("fastce-out", "torch", "jax", LIMIT), tuple(cases), rounds=ROUNDS)


def _layer_plans() -> Iterator[Plan]:
    """Yield the plans of the last layer: all contenders on two shapes, some on growing ones."""
    for name, ops, shapes, contenders, seconds, rounds in (
        ("main", LAYER, (MAIN_LAYER,), LAYER_CONTENDERS, 120, (7, 11)),
        ("large", LAYER[1:], (LARGE_LAYER,), LAYER_CONTENDERS, 1, (3, 3)),
        ("tokens", LAYER[1:], LAYER_TOKENS, LAYER_GROWING, 50, (3, 11)),
        ("classes", LAYER[1:], LAYER_CLASSES, LAYER_GROWING, 60, (3, 11)),
    ):
        cases = tuple(Case(op, n, v, features=d) for n, d, v in shapes for op in ops)
        plan = Plan(f"layer-{name}", "layer", contenders, cases, seconds=seconds, rounds=rounds)
        yield replace(plan, memory=True, slowest=300.0)


def _shrunk(plans: list[Plan]) -> list[Plan]:
    """Return the plans for a smoke run: small cases, each once in a section, and two rounds."""
    seen, result = set(), []
    for plan in plans:
        cases = tuple(dict.fromkeys(case for case in map(_small, plan.cases) if (plan.section, case) not in seen))
        seen |= {(plan.section, case) for case in cases}
        result += [replace(plan, cases=cases, rounds=(2, 2))] if cases else []
    return result


def _small(case: Case) -> Case:
    if case.layout == IMAGES:
        return replace(case, batch=4096, classes=10)
    classes = case.classes if case.classes <= 1000 else case.classes // 10
    return replace(case, batch=max(1, case.batch // 64), classes=classes, features=case.features // 16)


def _present(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if not CONTENDERS[entrant(name).contender].missing)
