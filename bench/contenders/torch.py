"""PyTorch: eager, with ``out=``, compiled, and its functions for the last layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs, LayerInputs, calls

FORWARD = {
    Op.SOFTMAX: lambda x, **out: torch.softmax(x, 1, **out),
    Op.LOG_SOFTMAX: lambda x, **out: torch.log_softmax(x, 1, **out),
    Op.LSE: lambda x, **out: torch.logsumexp(x, 1, **out),
}
SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data
LOG_SOFTMAX_BACKWARD = torch.ops.aten._log_softmax_backward_data


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
    loss, gradient = loss_and_gradients(partial(F.cross_entropy, target=tensor(target)), leaf(logits))
    return loss.item(), gradient.numpy()


def _loss_grad(i: Inputs, cross_entropy: Any = F.cross_entropy) -> Call:
    y = tensor(i.target)
    return partial(loss_and_gradients, lambda x: cross_entropy(x, y), leaf(i.logits))


def _vjp(op: str, forward: str) -> Any:
    """Run autograd's backward pass alone."""

    def make(i: Inputs) -> Call:
        x, upstream = leaf(i.logits), tensor(i.arguments(op)[0])
        result = FORWARD[forward](x)
        return lambda: torch.autograd.grad(result, x, upstream, retain_graph=True)[0]

    return make


def _vjp_out(op: str, kernel: Any, out: str) -> Any:
    """Call the kernel beneath autograd, which writes in C order."""

    def make(i: Inputs) -> Call | None:
        if not i.out.flags.c_contiguous:
            return None
        g, y = map(tensor, i.arguments(op))
        return partial(kernel.out, g, y, 1, y.dtype, **{out: tensor(i.out)})

    return make


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for this very shape."""
    torch.compiler.reset()  # else it switches to dynamic shapes, and gives up compiling after some
    return torch.compile(function, dynamic=False)


def _compiled_call(op: str, function: Callable[..., Any]) -> Any:
    return lambda i: partial(_compiled(function), *map(tensor, i.arguments(op)))


EAGER: Calls = {
    # the logits need no gradient, so no graph is kept
    **calls({Op.LOSS: F.cross_entropy, **FORWARD}, tensor),
    Op.LOSS_GRAD: _loss_grad,
    Op.SOFTMAX_VJP: _vjp(Op.SOFTMAX_VJP, Op.SOFTMAX),
    Op.LOG_SOFTMAX_VJP: _vjp(Op.LOG_SOFTMAX_VJP, Op.LOG_SOFTMAX),
    Op.LSE_VJP: _vjp(Op.LSE_VJP, Op.LSE),
    Op.TRAINING: lambda _: step,
}
OUT: Calls = {  # no loss and gradient: ``backward`` has no out=
    Op.SOFTMAX: lambda i: partial(FORWARD[Op.SOFTMAX], tensor(i.logits), out=tensor(i.out)),
    Op.LOG_SOFTMAX: lambda i: partial(FORWARD[Op.LOG_SOFTMAX], tensor(i.logits), out=tensor(i.out)),
    Op.LSE: lambda i: partial(FORWARD[Op.LSE], tensor(i.logits), out=tensor(i.out_rows)),
    Op.SOFTMAX_VJP: _vjp_out(Op.SOFTMAX_VJP, SOFTMAX_BACKWARD, "grad_input"),
    Op.LOG_SOFTMAX_VJP: _vjp_out(Op.LOG_SOFTMAX_VJP, LOG_SOFTMAX_BACKWARD, "out"),
}
TO_COMPILE = {
    **FORWARD,
    Op.LOSS: lambda x, y: F.cross_entropy(x, y),
    Op.SOFTMAX_VJP: lambda g, p: SOFTMAX_BACKWARD(g, p, 1, p.dtype),
    Op.LOG_SOFTMAX_VJP: lambda g, logp: LOG_SOFTMAX_BACKWARD(g, logp, 1, logp.dtype),
    Op.LSE_VJP: lambda g, x, lse: torch.exp(x - lse.unsqueeze(1)) * g.unsqueeze(1),
}
COMPILED: Calls = {
    **{op: _compiled_call(op, function) for op, function in TO_COMPILE.items()},
    Op.LOSS_GRAD: lambda i: _loss_grad(i, _compiled(TO_COMPILE[Op.LOSS])),
}


# --- the last layer --------------------------------------------------------------------


def _layer(function: Callable[..., torch.Tensor]) -> Calls:
    """Return the table of a function of hidden states, weights and labels."""

    def gradients(i: LayerInputs) -> Call:
        leaves = leaf(i.hidden), leaf(i.weight)
        return partial(loss_and_gradients, partial(function, target=tensor(i.target)), *leaves)

    return {**calls({Op.LAYER_LOSS: function}, tensor), Op.LAYER_GRADS: gradients}


def _chunked(**options: Any) -> Callable[..., torch.Tensor]:
    """Compute in chunks; PyTorch chooses their size unless the options do."""

    def function(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chunks = torch.nn.LinearCrossEntropyOptions(**options)
        return F.linear_cross_entropy(hidden, weight, target, options=chunks)

    return function


EAGER |= _layer(lambda hidden, weight, target: F.cross_entropy(F.linear(hidden, weight), target))
LAYER = _layer(getattr(F, "linear_cross_entropy", None))
LAYER_CHUNKED, LAYER_1024 = _layer(_chunked()), _layer(_chunked(batch_chunk_size=1024))
