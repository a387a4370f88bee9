"""MyGrad's losses and activations beside the same of fastce: docs/interop/mygrad.md."""

from __future__ import annotations

from typing import Any

from bench.cases import Case
from bench.inputs import Call, Calls
from tools.speed.turns import BOLD, METHOD, Parts, Times, contest, main, table

SHAPES = ((32, 10), (65536, 10), (1024, 1000), (1024, 50257))
LOSS, FOCAL, SOFTMAX, LOG_SOFTMAX = "softmax_crossentropy", "softmax_focal_loss(gamma=2)", "softmax", "logsoftmax"


def _call(i: Any, function: Any, *arguments: Any, mean: bool = False, **options: Any) -> Call:
    """Make the call of a forward and a backward pass."""
    import mygrad as mg

    leaf = mg.tensor(i.logits, copy=False)
    of_array = i.logits if arguments == () else None  # the upstream gradient of an activation

    def call() -> Any:
        result = function(leaf, *arguments, **options)
        (result.mean() if mean else result).backward(of_array)
        grad = leaf.grad
        leaf.null_grad()
        return grad

    return call


def _functions() -> tuple[Any, Any]:
    from mygrad.nnet import activations, losses

    return activations, losses


def _adapters() -> tuple[Any, Any]:
    from fastce.interop import mygrad

    return mygrad, mygrad


def _calls(modules: Any) -> Calls:
    return {
        LOSS: lambda i: _call(i, modules()[1].softmax_crossentropy, i.target),
        FOCAL: lambda i: _call(i, modules()[1].softmax_focal_loss, i.target, mean=True, gamma=2),
        SOFTMAX: lambda i: _call(i, modules()[0].softmax),
        LOG_SOFTMAX: lambda i: _call(i, modules()[0].logsoftmax),
    }


THEIRS, OURS = _calls(_functions), _calls(_adapters)
NAMES = {"tools.speed.mygrad:THEIRS": "MyGrad", "tools.speed.mygrad:OURS": "fastce"}


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    times: Times = {}
    shapes = SHAPES[: 1 if quick else None]
    for threads, ops in ((1, (LOSS, FOCAL, SOFTMAX, LOG_SOFTMAX)), (2, (LOSS,)))[: 1 if quick else None]:
        cases = [Case(op, *shape) for op in ops for shape in shapes if op == LOSS or shape != SHAPES[-1]]
        found = contest(NAMES, cases, threads, quick)
        for case in cases:
            for contender, name in NAMES.items():
                row = f"`{case.op}`, {name}" + ", two threads" * (threads == 2)
                times[row, f"{case.batch}×{case.classes}"] = found[contender, case]
    rows = list(dict.fromkeys(row for row, _ in times))
    pairs = [rows[i : i + 2] for i in range(0, len(rows), 2)]
    text = (
        "Time of a forward and a backward pass, float32, one thread unless the row says two. The libraries take turns, "
        f"each in a process of its own: {METHOD}. {BOLD}"
    )
    return {"interop/mygrad.md#speed": f"{text}\n\n{table(times, pairs)}"}


if __name__ == "__main__":
    main(parts, "mygrad")
