"""PyTorch: eager, with ``out=``, compiled, and its functions for the last layer."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs, LayerInputs

FORWARD = {Op.SOFTMAX: torch.softmax, Op.LOG_SOFTMAX: torch.log_softmax, Op.LSE: torch.logsumexp}
BACKWARD = {  # autograd's kernels, and how they call their ``out``
    Op.SOFTMAX_VJP: (torch.ops.aten._softmax_backward_data, "grad_input"),
    Op.LOG_SOFTMAX_VJP: (torch.ops.aten._log_softmax_backward_data, "out"),
}
FORWARD_OF = {Op.SOFTMAX_VJP: Op.SOFTMAX, Op.LOG_SOFTMAX_VJP: Op.LOG_SOFTMAX, Op.LSE_VJP: Op.LSE}


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


def _vjp(op: str) -> Any:
    """Run autograd's backward pass alone."""

    def make(i: Inputs) -> Call:
        x = leaf(i.logits)
        result = FORWARD[FORWARD_OF[op]](x, 1)
        upstream = tensor(i.upstream_rows if op == Op.LSE_VJP else i.logits)
        return lambda: torch.autograd.grad(result, x, upstream, retain_graph=True)[0]

    return make


EAGER: Calls = {
    # the logits need no gradient, so no graph is kept
    Op.LOSS: lambda i: partial(F.cross_entropy, tensor(i.logits), tensor(i.target)),
    Op.LOSS_GRAD: _loss_grad,
    **{op: lambda i, function=function: partial(function, tensor(i.logits), 1) for op, function in FORWARD.items()},
    **{op: _vjp(op) for op in FORWARD_OF},
    Op.TRAINING: lambda i: step,
}


# --- with out= -----------------------------------------------------------------------


def _vjp_out(op: str) -> Any:
    """Call the kernel beneath autograd, which writes in C order."""
    kernel, out = BACKWARD[op]

    def make(i: Inputs) -> Call | None:
        if not i.out.flags.c_contiguous:
            return None
        g, y = tensor(i.logits), tensor(i.saved(op))
        return partial(kernel.out, g, y, 1, y.dtype, **{out: tensor(i.out)})

    return make


OUT: Calls = {  # no loss and gradient: ``backward`` has no out=
    Op.SOFTMAX: lambda i: partial(torch.softmax, tensor(i.logits), 1, out=tensor(i.out)),
    Op.LOG_SOFTMAX: lambda i: partial(torch.log_softmax, tensor(i.logits), 1, out=tensor(i.out)),
    Op.LSE: lambda i: partial(torch.logsumexp, tensor(i.logits), 1, out=tensor(i.out_rows)),
    **{op: _vjp_out(op) for op in BACKWARD},
}


# --- compiled --------------------------------------------------------------------------


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for this very shape."""
    torch.compiler.reset()  # else it switches to dynamic shapes, and gives up compiling after some
    return torch.compile(function, dynamic=False)


def _compiled_forward(op: str) -> Any:
    function = FORWARD[op]
    return lambda i: partial(_compiled(lambda x: function(x, 1)), tensor(i.logits))


def _compiled_vjp(op: str) -> Any:
    kernel, _ = BACKWARD[op]
    return lambda i: partial(_compiled(lambda g, y: kernel(g, y, 1, y.dtype)), tensor(i.logits), tensor(i.saved(op)))


def _compiled_lse_vjp(i: Inputs) -> Call:
    arguments = map(tensor, (i.upstream_rows, i.logits, i.saved(Op.LSE_VJP)))
    return partial(_compiled(lambda g, x, lse: torch.exp(x - lse.unsqueeze(1)) * g.unsqueeze(1)), *arguments)


def _cross_entropy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(x, y)


COMPILED: Calls = {
    Op.LOSS: lambda i: partial(_compiled(_cross_entropy), tensor(i.logits), tensor(i.target)),
    Op.LOSS_GRAD: lambda i: _loss_grad(i, _compiled(_cross_entropy)),
    **{op: _compiled_forward(op) for op in FORWARD},
    **{op: _compiled_vjp(op) for op in BACKWARD},
    Op.LSE_VJP: _compiled_lse_vjp,
}


# --- the last layer --------------------------------------------------------------------


def _layer(function: Callable[..., torch.Tensor]) -> Calls:
    """Return the table of a function of hidden states, weights and labels."""

    def gradients(i: LayerInputs) -> Call:
        leaves = leaf(i.hidden), leaf(i.weight)
        return partial(loss_and_gradients, partial(function, target=tensor(i.target)), *leaves)

    return {Op.LAYER_LOSS: lambda i: partial(function, *map(tensor, i)), Op.LAYER_GRADS: gradients}


def _chunked(**options: Any) -> Callable[..., torch.Tensor]:
    """Compute in chunks; PyTorch chooses their size unless the options do."""

    def function(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        chunks = torch.nn.LinearCrossEntropyOptions(**options)
        return F.linear_cross_entropy(hidden, weight, target, options=chunks)

    return function


EAGER |= _layer(lambda hidden, weight, target: F.cross_entropy(F.linear(hidden, weight), target))
LAYER = _layer(getattr(F, "linear_cross_entropy", None))
LAYER_CHUNKED, LAYER_1024 = _layer(_chunked()), _layer(_chunked(batch_chunk_size=1024))
