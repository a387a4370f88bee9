"""fastce: results in new arrays, in given ones, and from the same elements in another arrangement."""

from functools import partial
from typing import Any

import numpy as np

import fastce
from bench.cases import VJPS, Op
from bench.inputs import Call, Calls, Inputs, LayerInputs

FUNCTIONS = {
    Op.LOSS: fastce.cross_entropy,
    Op.LOSS_GRAD: fastce.cross_entropy_and_grad,
    Op.SOFTMAX: fastce.softmax,
    Op.LOG_SOFTMAX: fastce.log_softmax,
    Op.LSE: fastce.logsumexp,
    Op.SOFTMAX_VJP: fastce.softmax_vjp,
    Op.LOG_SOFTMAX_VJP: fastce.log_softmax_vjp,
    Op.LSE_VJP: fastce.logsumexp_vjp,
}


def _new(op: str) -> Any:
    return lambda i: partial(FUNCTIONS[op], *i.arguments(op), **i.axis)


def _given(op: str) -> Any:
    return lambda i: partial(FUNCTIONS[op], *i.arguments(op), **i.axis, out=i.out)


def _in_place(i: Inputs) -> Call:
    i.out[...] = i.logits  # the logits of the first call, whose result is checked
    return partial(fastce.cross_entropy_and_grad, i.out, i.target, out=i.out, **i.axis)


def _layer_grads(i: LayerInputs, **out: np.ndarray) -> Call:
    return lambda: fastce.linear_cross_entropy_and_grad(*i, **out)[:3]


def _layer_grads_given(i: LayerInputs) -> Call:
    return _layer_grads(i, d_hidden_out=np.zeros_like(i.hidden), d_weight_out=np.zeros_like(i.weight))


def _elsewhere(other: Any) -> Calls:
    """Return the table for the same elements in other logits, classes last."""
    return {op: lambda i, make=make: make(i.rearranged(other(i))) for op, make in (NEW | OUT).items()}


NEW: Calls = {
    **{op: _new(op) for op in FUNCTIONS},
    Op.LAYER_LOSS: lambda i: partial(fastce.linear_cross_entropy, *i),
    Op.LAYER_GRADS: _layer_grads,
}
OUT: Calls = {  # no loss: without an array result there is no out=
    **{op: _given(op) for op in (Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, *VJPS)},
    Op.LSE: lambda i: partial(fastce.logsumexp, i.logits, **i.axis, out=i.out_rows),
    Op.INPLACE: _in_place,
    Op.LAYER_GRADS: _layer_grads_given,
    Op.TRAINING: lambda _: lambda logits, target: fastce.cross_entropy_and_grad(logits, target, out=logits),
}
ROWS = _elsewhere(lambda i: i.flat(i.logits).copy())
FLOAT32 = _elsewhere(lambda i: i.logits.astype(np.float32))
