"""The contenders of the backward passes, for which the forward pass is done.

Each function takes an operation and a case's inputs and returns the call, or None where the library has none. The
gradient of an array result is the logits themselves, which saves memory; that of each log-sum-exp is 1/N.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench import roofline
from bench.cases import LOG_SOFTMAX_VJP, LSE_VJP, PATTERNS, SOFTMAX_VJP
from bench.inputs import Inputs, forward, upstream_rows
from bench.peers import torch_tensor

Call = Callable[[], Any] | None


def _upstream(op: str, inputs: Inputs) -> np.ndarray:
    return upstream_rows(inputs) if op == LSE_VJP else inputs.logits


def _arguments(op: str, inputs: Inputs) -> tuple[np.ndarray, ...]:
    """Return what fastce's function takes: the gradient, the logits for log-sum-exp, and what the forward pass left."""
    x = (inputs.logits,) if op == LSE_VJP else ()
    return _upstream(op, inputs), *x, forward(op, inputs)


def fastce(op: str, inputs: Inputs) -> Call:
    return _fastce(op, inputs)


def fastce_out(op: str, inputs: Inputs) -> Call:
    return _fastce(op, inputs, out=inputs.out)


def _fastce(op: str, inputs: Inputs, **out: np.ndarray) -> Call:
    import fastce

    axis = {} if inputs.logits.ndim == 2 else {"axis": 1}
    return partial(getattr(fastce, op), *_arguments(op, inputs), **axis, **out)


def numpy(op: str, inputs: Inputs) -> Call:
    arguments = _arguments(op, inputs)
    formulas = {
        SOFTMAX_VJP: lambda g, p: p * (g - (g * p).sum(axis=1, keepdims=True)),
        LOG_SOFTMAX_VJP: lambda g, logp: g - np.exp(logp) * g.sum(axis=1, keepdims=True),
        LSE_VJP: lambda g, x, lse: np.exp(x - lse[:, None]) * g[:, None],
    }
    return partial(formulas[op], *arguments)


def torch(op: str, inputs: Inputs) -> Call:
    """Run autograd's backward pass alone."""
    import torch

    leaf = torch_tensor(inputs.logits).detach().requires_grad_()
    function = {SOFTMAX_VJP: torch.softmax, LOG_SOFTMAX_VJP: torch.log_softmax, LSE_VJP: torch.logsumexp}[op]
    result = function(leaf, 1)
    upstream = torch_tensor(_upstream(op, inputs))
    return lambda: torch.autograd.grad(result, leaf, upstream, retain_graph=True)[0]


def torch_out(op: str, inputs: Inputs) -> Call:
    """Call the kernel beneath autograd, which writes in C order; log-sum-exp has none of its own."""
    import torch

    kernels = {SOFTMAX_VJP: "_softmax_backward_data", LOG_SOFTMAX_VJP: "_log_softmax_backward_data"}
    if op not in kernels or not inputs.out.flags.c_contiguous:
        return None
    g, y, out = map(torch_tensor, (*_arguments(op, inputs), inputs.out))
    kernel, given = getattr(torch.ops.aten, kernels[op]).out, "grad_input" if op == SOFTMAX_VJP else "out"
    return partial(kernel, g, y, 1, y.dtype, **{given: out})


def torch_compile(op: str, inputs: Inputs) -> Call:
    """Compile the formula of the backward pass for this very shape."""
    import torch

    torch.compiler.reset()
    formulas = {
        SOFTMAX_VJP: lambda g, p: torch.ops.aten._softmax_backward_data(g, p, 1, p.dtype),
        LOG_SOFTMAX_VJP: lambda g, logp: torch.ops.aten._log_softmax_backward_data(g, logp, 1, logp.dtype),
        LSE_VJP: lambda g, x, lse: torch.exp(x - lse.unsqueeze(1)) * g.unsqueeze(1),
    }
    return partial(torch.compile(formulas[op], dynamic=False), *map(torch_tensor, _arguments(op, inputs)))


def jax(op: str, inputs: Inputs) -> Call:
    """Compile the second half of ``jax.vjp``."""
    import jax
    import jax.numpy as jnp

    functions = {SOFTMAX_VJP: jax.nn.softmax, LOG_SOFTMAX_VJP: jax.nn.log_softmax, LSE_VJP: jax.nn.logsumexp}
    x, upstream = jnp.asarray(inputs.logits), jnp.asarray(_upstream(op, inputs))
    _, pull_back = jax.vjp(partial(functions[op], axis=1), x)
    compiled = jax.jit(lambda pull_back, g: pull_back(g)[0])
    return lambda: jax.block_until_ready(compiled(pull_back, upstream))


def limit(op: str, inputs: Inputs) -> Call:
    """Move as many bytes."""
    other = inputs.logits if op == LSE_VJP else forward(op, inputs)
    return roofline.limits(inputs, other)[PATTERNS[op]]
