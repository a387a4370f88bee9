"""Losses in PyTorch's graph, by PyTorch and by fastce: docs/interop/torch.md."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench.cases import Case, Op
from bench.inputs import Call, Calls
from bench.tables import megabytes
from tools.speed.turns import BOLD, METHOD, Figures, Parts, Times, contest, main, peaks, table

SHAPES = ((32, 10), (65536, 10), (1024, 1000), (1024, 50257))
LAYER, SMALL_LAYER = Case(Op.LAYER_GRADS, 1024, 16000, features=256), Case(Op.LAYER_GRADS, 64, 100, features=16)
LARGE = Case(Op.LOSS_GRAD, 1024, 50257)


def _gradients(i: Any, function: Any) -> Call:
    """Make the call of a forward and a backward pass of the last layer."""
    from bench.contenders.torch import leaf, loss_and_gradients, tensor

    return partial(loss_and_gradients, partial(function, target=tensor(i.target)), leaf(i.hidden), leaf(i.weight))


def _compiled(i: Any) -> Call:
    import torch
    from torch.nn.functional import cross_entropy, linear

    def layer(hidden: Any, weight: Any, target: Any) -> Any:
        return cross_entropy(linear(hidden, weight), target)

    torch.compiler.reset()
    return _gradients(i, torch.compile(layer, dynamic=False))


def _in_small_chunks(i: Any) -> Call:
    from fastce.interop.torch import linear_cross_entropy

    return _gradients(i, partial(linear_cross_entropy, max_bytes=8 << 20))


def _nothing(i: Any) -> Call:
    """Make the call of a function in the graph that computes nothing."""
    import torch

    from bench.contenders.torch import leaf, loss_and_gradients

    gradient = torch.zeros(i.logits.shape)

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.new_zeros(())

        @staticmethod
        def backward(ctx: Any, upstream: Any) -> Any:
            return gradient

    return partial(loss_and_gradients, Nothing.apply, leaf(i.logits))


COMPILED_LAYER: Calls = {Op.LAYER_GRADS: _compiled}
SMALL: Calls = {Op.LAYER_GRADS: _in_small_chunks}
NOTHING: Calls = {Op.LOSS_GRAD: _nothing}
NAMES = {  # those of the benchmark, and more
    "torch": "PyTorch, eager",
    "torch-compile": "PyTorch, `torch.compile`",
    "tools.speed.torch:COMPILED_LAYER": "PyTorch, `torch.compile`",
    "torch-chunked": "PyTorch, `F.linear_cross_entropy` in chunks",
    "fastce-torch": "`fastce.interop.torch`",
    "tools.speed.torch:SMALL": "`fastce.interop.torch`, `max_bytes=8 << 20`",
    "fastce": "fastce on arrays, without tensors",
    "tools.speed.torch:NOTHING": "an `autograd.Function` that computes nothing",
}
RIVALS = list(NAMES.values())[:-2]
QUICK_NAMES = ["fastce-torch", "tools.speed.torch:SMALL", "tools.speed.torch:NOTHING"]


def _rows(found: Figures) -> Times:
    """Arrange figures by label and shape."""
    figures: Times = {}
    for name, label in NAMES.items():
        for (contender, case), figure in found.items():
            if contender == name:
                layer = f"last layer, {case.batch}×{case.features}×{case.classes}"
                figures[label, layer if case.features else f"{case.batch}×{case.classes}"] = figure
    return figures


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    cases = [Case(Op.LOSS_GRAD, *shape) for shape in SHAPES[: 1 if quick else None]]
    cases.append(SMALL_LAYER if quick else LAYER)
    names = QUICK_NAMES if quick else list(NAMES)
    sections = [
        "Time of a forward and a backward pass, float32. The contenders take turns, each in a process of its own: "
        f"{METHOD}. {BOLD} Last comes the cost of the graph alone.",
    ]
    titles = {2: "With two threads each:", 1: "With one thread each:"}
    for threads, title in list(titles.items())[: 1 if quick else None]:
        sections += [title, table(_rows(contest(names, cases, threads, quick)), [RIVALS])]
    large = cases if quick else [LARGE, LAYER]
    memory = table(_rows(peaks([name for name in names if NAMES[name] in RIVALS], large, 2)), [RIVALS], megabytes)
    sections += ["Peak memory of a call beyond the arguments, gradients included:", memory]
    return {"interop/torch.md#speed": "\n\n".join(sections)}


if __name__ == "__main__":
    main(parts, "torch")
