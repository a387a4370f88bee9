"""PyTorch: eager, with ``out=``, compiled, and its functions for the last layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.cases import VJPS, Op
from bench.contenders import Call, Calls
from bench.inputs import Inputs, LayerInputs


def tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor that shares the array's memory; PyTorch does not know NumPy's bfloat16."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_numpy(x: torch.Tensor) -> np.ndarray:
    """Return the tensor as an array."""
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view("bfloat16")
    return x.numpy()


def leaf(array: np.ndarray) -> torch.Tensor:
    return tensor(array).detach().requires_grad_()


def loss_and_gradients(function: Callable[..., torch.Tensor], *leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
    loss = function(*leaves)
    loss.backward()
    gradients = [x.grad for x in leaves]
    for x in leaves:
        x.grad = None
    return loss.detach(), *gradients


def step(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Return loss and gradient for the training loop."""
    x = torch.from_numpy(logits).requires_grad_()
    loss = F.cross_entropy(x, torch.from_numpy(target))
    loss.backward()
    return loss.item(), x.grad.numpy()


def _loss_grad(i: Inputs, cross_entropy: Any = F.cross_entropy) -> Call:
    y = tensor(i.target)
    return partial(loss_and_gradients, lambda x: cross_entropy(x, y), leaf(i.logits))


def _layer(function: Callable[..., torch.Tensor]) -> Calls:
    """Return the table of a function of hidden states, weights and labels."""

    def gradients(i: LayerInputs) -> Call:
        y = tensor(i.target)
        leaves = leaf(i.hidden), leaf(i.weight)
        return partial(loss_and_gradients, lambda hidden, weight: function(hidden, weight, y), *leaves)

    return {Op.LAYER_LOSS: lambda i: partial(function, *map(tensor, i.arrays)), Op.LAYER_GRADS: gradients}


def _chunked(**options: Any) -> Callable[..., torch.Tensor]:
    """Let PyTorch take chunks: those it chooses, unless the options say otherwise."""

    def function(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chosen = torch.nn.LinearCrossEntropyOptions(**options)
        return F.linear_cross_entropy(hidden, weight, target, options=chosen)

    return function


# --- backward passes ---------------------------------------------------------------


def _vjp(op: str) -> Any:
    """Run autograd's backward pass alone."""
    function = {Op.SOFTMAX_VJP: torch.softmax, Op.LOG_SOFTMAX_VJP: torch.log_softmax, Op.LSE_VJP: torch.logsumexp}[op]

    def make(i: Inputs) -> Call:
        x = leaf(i.logits)
        result = function(x, 1)
        upstream = tensor(i.upstream_rows if op == Op.LSE_VJP else i.logits)
        return lambda: torch.autograd.grad(result, x, upstream, retain_graph=True)[0]

    return make


def _vjp_out(op: str, kernel: Any, out: str) -> Any:
    """Call the kernel beneath autograd, which writes in C order."""

    def make(i: Inputs) -> Call | None:
        if not i.out.flags.c_contiguous:
            return None
        g, y = tensor(i.logits), tensor(i.saved(op))
        return partial(kernel.out, g, y, 1, y.dtype, **{out: tensor(i.out)})

    return make


# --- the tables --------------------------------------------------------------------

FORWARD = {
    Op.SOFTMAX: lambda x, **out: torch.softmax(x, 1, **out),
    Op.LOG_SOFTMAX: lambda x, **out: torch.log_softmax(x, 1, **out),
    Op.LSE: lambda x, **out: torch.logsumexp(x, 1, **out),
}
SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data
LOG_SOFTMAX_BACKWARD = torch.ops.aten._log_softmax_backward_data

EAGER: Calls = {
    # the logits need no gradient, so no graph is kept
    Op.LOSS: lambda i: partial(F.cross_entropy, tensor(i.logits), tensor(i.target)),
    Op.LOSS_GRAD: _loss_grad,
    **{op: lambda i, call=call: partial(call, tensor(i.logits)) for op, call in FORWARD.items()},
    **{op: _vjp(op) for op in VJPS},
    **_layer(lambda hidden, weight, target: F.cross_entropy(F.linear(hidden, weight), target)),
    Op.TRAINING: lambda i: step,
}
OUT: Calls = {  # no loss and gradient: ``backward`` has no out=
    Op.SOFTMAX: lambda i: partial(FORWARD[Op.SOFTMAX], tensor(i.logits), out=tensor(i.out)),
    Op.LOG_SOFTMAX: lambda i: partial(FORWARD[Op.LOG_SOFTMAX], tensor(i.logits), out=tensor(i.out)),
    Op.LSE: lambda i: partial(FORWARD[Op.LSE], tensor(i.logits), out=tensor(i.out_rows)),
    Op.SOFTMAX_VJP: _vjp_out(Op.SOFTMAX_VJP, SOFTMAX_BACKWARD, "grad_input"),
    Op.LOG_SOFTMAX_VJP: _vjp_out(Op.LOG_SOFTMAX_VJP, LOG_SOFTMAX_BACKWARD, "out"),
}


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for this very shape."""
    torch.compiler.reset()  # it would go over to dynamic shapes, and give up compiling after some
    return torch.compile(function, dynamic=False)


COMPILED: Calls = {
    Op.LOSS: lambda i: partial(_compiled(lambda x, y: F.cross_entropy(x, y)), tensor(i.logits), tensor(i.target)),
    Op.LOSS_GRAD: lambda i: _loss_grad(i, _compiled(lambda x, y: F.cross_entropy(x, y))),
    **{
        op: lambda i, call=call: partial(_compiled(lambda x: call(x)), tensor(i.logits)) for op, call in FORWARD.items()
    },
    Op.SOFTMAX_VJP: lambda i: partial(
        _compiled(lambda g, p: SOFTMAX_BACKWARD(g, p, 1, p.dtype)), tensor(i.logits), tensor(i.saved(Op.SOFTMAX_VJP))
    ),
    Op.LOG_SOFTMAX_VJP: lambda i: partial(
        _compiled(lambda g, logp: LOG_SOFTMAX_BACKWARD(g, logp, 1, logp.dtype)),
        tensor(i.logits),
        tensor(i.saved(Op.LOG_SOFTMAX_VJP)),
    ),
    Op.LSE_VJP: lambda i: partial(
        _compiled(lambda g, x, lse: torch.exp(x - lse.unsqueeze(1)) * g.unsqueeze(1)),
        *map(tensor, (i.upstream_rows, i.logits, i.saved(Op.LSE_VJP))),
    ),
}
LAYER, LAYER_CHUNKED, LAYER_1024 = map(
    _layer, (getattr(F, "linear_cross_entropy", None), _chunked(), _chunked(batch_chunk_size=1024))
)
