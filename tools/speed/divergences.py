"""Loss and gradient of divergences, beside NumPy and PyTorch: docs/regimes.md."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.cases import Case
from bench.inputs import Call, Calls
from tools.speed.turns import METHOD, Parts, Times, contest, main, table

SHAPES = ((65536, 10), (1024, 1000))
KL, REVERSE, JS = "`kl_divergence`", "`kl_divergence`, `reverse=True`", "`jensen_shannon`"


def _target(i: Any) -> np.ndarray:
    return i.logits + np.random.default_rng(1).standard_normal(i.logits.shape, dtype=np.float32)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _numpy(op: str, i: Any) -> Call:
    """Make the call of the textbook formula, with the gradient of a mean over the rows."""
    y = _target(i)

    def call() -> tuple[Any, Any]:
        log_p, log_q = _log_softmax(i.logits), _log_softmax(y)
        p, q = np.exp(log_p), np.exp(log_q)
        if op == KL:
            return (q * (log_q - log_p)).sum() / len(y), (p - q) / len(y)
        if op == REVERSE:
            loss, ratio = p * (log_p - log_q), log_p - log_q
        else:
            log_m = np.log((p + q) / 2)
            loss, ratio = (p * (log_p - log_m) + q * (log_q - log_m)) / 2, (log_p - log_m) / 2
        return loss.sum() / len(y), p * (ratio - (p * ratio).sum(axis=1, keepdims=True)) / len(y)

    return call


def _torch(op: str, i: Any) -> Call:
    import torch
    from torch.nn.functional import kl_div, log_softmax

    from bench.contenders.torch import leaf, loss_and_gradients, tensor

    def divergence(log_p: Any, log_q: Any) -> Any:
        return kl_div(log_q, log_p, log_target=True, reduction="batchmean")

    def loss(x: Any) -> Any:
        log_p, log_q = log_softmax(x, 1), log_softmax(y, 1)
        if op == JS:
            log_m = torch.log((log_p.exp() + log_q.exp()) / 2)
            return (divergence(log_p, log_m) + divergence(log_q, log_m)) / 2
        return divergence(log_q, log_p) if op == KL else divergence(log_p, log_q)

    y = tensor(_target(i))
    return partial(loss_and_gradients, loss, leaf(i.logits))


def _fastce(op: str, i: Any, grad: bool = True) -> Call:
    import fastce

    if not grad:
        function = fastce.jensen_shannon if op == JS else partial(fastce.kl_divergence, reverse=op == REVERSE)
        return partial(function, i.logits, _target(i))
    function = fastce.jensen_shannon_and_grad
    if op != JS:
        function = partial(fastce.kl_divergence_and_grad, reverse=op == REVERSE)
    return partial(function, i.logits, _target(i), out=i.out)


def _calls(function: Any, **options: Any) -> Calls:
    return {op: partial(function, op, **options) for op in (KL, REVERSE, JS)}


NUMPY, TORCH, OURS, LOSS = _calls(_numpy), _calls(_torch), _calls(_fastce), _calls(_fastce, grad=False)
NAMES = {"NUMPY": "NumPy", "TORCH": "PyTorch", "OURS": "fastce, `out=`", "LOSS": "fastce, the loss alone"}


def parts(quick: bool) -> Parts:
    """Return the table."""
    cases = [Case(op, *shape) for shape in (SHAPES, ((32, 10),))[quick] for op in (KL, REVERSE, JS)]
    found = contest([f"tools.speed.divergences:{name}" for name in NAMES], cases, 1, quick)
    times: Times = {
        (f"{case.batch}×{case.classes}, {case.op}", label): found[f"tools.speed.divergences:{name}", case]
        for case in cases
        for name, label in NAMES.items()
    }
    text = (
        "Loss and gradient, float32, one thread. NumPy has the textbook formula, PyTorch has `log_softmax` and "
        f"`kl_div`. All take turns, each in a process of its own: {METHOD}."
    )
    return {"regimes.md#divergences": f"{text}\n\n{table(times)}"}


if __name__ == "__main__":
    main(parts, "torch")
