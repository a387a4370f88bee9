"""Derivatives by autograd from NumPy's formulas, beside those of fastce: docs/interop/autograd.md."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.cases import Case
from bench.inputs import Call, Calls
from tools.speed.turns import BOLD, METHOD, Parts, Times, contest, main, table

SHAPES = ((32, 10), (65536, 10), (1024, 1000))
LOSS, HVP, FOCAL, SUM = "cross-entropy", "Hessian's product of cross-entropy", "focal loss", "sum of log-sum-exp"


def _formula(op: str, i: Any) -> Any:
    """Return the loss as a formula of autograd's NumPy."""
    import autograd.numpy as anp
    from autograd.scipy.special import logsumexp

    rows, y = np.arange(len(i.target)), i.target
    if op == SUM:
        return lambda x: anp.sum(logsumexp(x, axis=1))

    def loss(x: Any) -> Any:
        log_p = (x - logsumexp(x, axis=1, keepdims=True))[rows, y]
        return -anp.mean((1 - anp.exp(log_p)) ** 2 * log_p if op == FOCAL else log_p)

    return loss


def _adapter(op: str, i: Any) -> Any:
    """Return the same loss by fastce's primitives."""
    import autograd.numpy as anp

    from fastce.interop import autograd as adapter

    if op == SUM:
        return lambda x: anp.sum(adapter.logsumexp(x, 1))
    return lambda x: adapter.focal_loss(x, i.target, gamma=2.0) if op == FOCAL else adapter.cross_entropy(x, i.target)


def _nothing(op: str, i: Any) -> Any:
    """Return a primitive that computes nothing, as its derivatives do: the trace alone."""
    from autograd.extend import defvjp, primitive

    nothing, gradient = primitive(lambda x: np.float32(1)), primitive(lambda g, x: x)
    defvjp(nothing, lambda ans, x: lambda g: gradient(g, x))
    defvjp(gradient, lambda ans, g, x: lambda h: np.float32(0), lambda ans, g, x: lambda h: h)
    return nothing


def _direction(i: Any) -> Any:
    return np.random.default_rng(1).standard_normal(i.logits.shape, dtype=np.float32)


def _differentiated(loss: Any, op: str, i: Any) -> Call:
    from autograd import hessian_vector_product, value_and_grad

    if op == HVP:
        return partial(hessian_vector_product(loss(op, i)), i.logits, _direction(i))
    return partial(value_and_grad(loss(op, i)), i.logits)


def _alone(op: str, i: Any) -> Call:
    import fastce

    if op == HVP:
        return partial(fastce.cross_entropy_hvp, i.logits, i.target, _direction(i))
    function = fastce.cross_entropy_and_grad if op == LOSS else partial(fastce.focal_loss_and_grad, gamma=2.0)
    return partial(function, i.logits, i.target)


THEIRS: Calls = {op: partial(_differentiated, _formula, op) for op in (LOSS, HVP, FOCAL, SUM)}
OURS: Calls = {op: partial(_differentiated, _adapter, op) for op in (LOSS, HVP, FOCAL, SUM)}
TRACE: Calls = {op: partial(_differentiated, _nothing, op) for op in (LOSS, HVP)}
ALONE: Calls = {op: partial(_alone, op) for op in (LOSS, HVP, FOCAL)}
NAMES = {
    "THEIRS": "autograd's `logsumexp`",
    "OURS": "`fastce.interop.autograd`",
    "ALONE": "fastce, without a trace",
    "TRACE": "a primitive that computes nothing",
}


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    cases = [Case(op, *shape) for op in (LOSS, HVP, FOCAL, SUM) for shape in SHAPES[: 1 if quick else None]]
    found = contest([f"tools.speed.autograd:{name}" for name in NAMES], cases, 1, quick)
    times: Times = {}
    for case in cases:
        for name, label in NAMES.items():
            if seconds := found.get((f"tools.speed.autograd:{name}", case)):
                times[f"{case.op}, {label}", f"{case.batch}×{case.classes}"] = seconds
    pairs = [[f"{op}, {NAMES[name]}" for name in ("THEIRS", "OURS")] for op in (LOSS, HVP, FOCAL, SUM)]
    text = (
        "Time of `value_and_grad`, and of `hessian_vector_product` for the Hessian, float32, one thread. The "
        f"contenders take turns, each in a process of its own: {METHOD}. {BOLD}"
    )
    return {"interop/autograd.md#speed": f"{text}\n\n{table(times, pairs)}"}


if __name__ == "__main__":
    main(parts, "autograd")
