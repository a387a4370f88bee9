"""fastce: results in new arrays, in given ones, and from the same elements in another arrangement."""

from functools import partial
from typing import Any

import numpy as np

import fastce
from bench.cases import VJPS, Op
from bench.inputs import Call, Calls, Inputs, LayerInputs


def _layer_grads(i: LayerInputs, **out: np.ndarray) -> Call:
    return lambda: fastce.linear_cross_entropy_and_grad(*i, **out)[:3]


def _in_place(i: Inputs) -> Call:
    i.out[...] = i.logits  # the logits of the first call, whose result is checked
    return partial(fastce.cross_entropy_and_grad, i.out, i.target, out=i.out, **i.axis)


NEW: Calls = {
    Op.LOSS: lambda i: partial(fastce.cross_entropy, i.logits, i.target, **i.axis),
    Op.LOSS_GRAD: lambda i: partial(fastce.cross_entropy_and_grad, i.logits, i.target, **i.axis),
    Op.SOFTMAX: lambda i: partial(fastce.softmax, i.logits, **i.axis),
    Op.LOG_SOFTMAX: lambda i: partial(fastce.log_softmax, i.logits, **i.axis),
    Op.LSE: lambda i: partial(fastce.logsumexp, i.logits, **i.axis),
    Op.SOFTMAX_VJP: lambda i: partial(fastce.softmax_vjp, i.logits, i.saved(Op.SOFTMAX_VJP), **i.axis),
    Op.LOG_SOFTMAX_VJP: lambda i: partial(fastce.log_softmax_vjp, i.logits, i.saved(Op.LOG_SOFTMAX_VJP), **i.axis),
    Op.LSE_VJP: lambda i: partial(fastce.logsumexp_vjp, i.upstream_rows, i.logits, i.saved(Op.LSE_VJP), **i.axis),
    Op.LAYER_LOSS: lambda i: partial(fastce.linear_cross_entropy, *i),
    Op.LAYER_GRADS: _layer_grads,
}


def _given(op: str) -> Any:
    return lambda i: partial(NEW[op](i), out=i.out)


OUT: Calls = {  # no loss: without an array result there is no out=
    **{op: _given(op) for op in (Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, *VJPS)},
    Op.LSE: lambda i: partial(NEW[Op.LSE](i), out=i.out_rows),
    Op.INPLACE: _in_place,
    Op.LAYER_GRADS: lambda i: _layer_grads(
        i, d_hidden_out=np.zeros_like(i.hidden), d_weight_out=np.zeros_like(i.weight)
    ),
    Op.TRAINING: lambda i: lambda logits, target: fastce.cross_entropy_and_grad(logits, target, out=logits),
}


def _elsewhere(other: Any) -> Calls:
    """Return the table for the same elements in other logits, classes last."""
    return {op: lambda i, make=make: make(i.rearranged(other(i))) for op, make in (NEW | OUT).items()}


ROWS = _elsewhere(lambda i: i.flat(i.logits).copy())
FLOAT32 = _elsewhere(lambda i: i.logits.astype(np.float32))
