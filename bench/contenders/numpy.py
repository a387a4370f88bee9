"""NumPy, as textbooks write the formulas and as one writes them when logits may be large."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.cases import Op
from bench.contenders import Calls
from bench.inputs import LayerInputs


def textbook_softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def stable_softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def stable_logsumexp(x):
    row_max = x.max(axis=1, keepdims=True)
    return (np.log(np.exp(x - row_max).sum(axis=1, keepdims=True)) + row_max)[:, 0]


def stable_log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def textbook_loss(x, y):
    return -np.log(textbook_softmax(x)[np.arange(len(y)), y]).mean()


def stable_loss(x, y):
    return -stable_log_softmax(x)[np.arange(len(y)), y].mean()


def loss_and_grad(softmax, x, y):
    p = softmax(x)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).mean()
    p[rows, y] -= 1
    p /= len(y)
    return loss, p


def layer_loss(hidden, weight, y):
    return -np.log(stable_softmax(hidden @ weight.T)[np.arange(len(y)), y]).mean()


def _layer_grads(i: LayerInputs) -> Any:
    hidden, weight, y = i.arrays

    def call():
        loss, d_logits = loss_and_grad(stable_softmax, hidden @ weight.T, y)
        return loss, d_logits @ weight, d_logits.T @ hidden

    return call


def softmax_vjp(g, p):
    return p * (g - (g * p).sum(axis=1, keepdims=True))


def log_softmax_vjp(g, logp):
    return g - np.exp(logp) * g.sum(axis=1, keepdims=True)


def logsumexp_vjp(g, x, lse):
    return np.exp(x - lse[:, None]) * g[:, None]


TEXTBOOK: Calls = {
    Op.LOSS: lambda i: partial(textbook_loss, i.logits, i.target),
    Op.LOSS_GRAD: lambda i: partial(loss_and_grad, textbook_softmax, i.logits, i.target),
    Op.SOFTMAX: lambda i: partial(textbook_softmax, i.logits),
    Op.LOG_SOFTMAX: lambda i: lambda: np.log(textbook_softmax(i.logits)),
    Op.LSE: lambda i: lambda: np.log(np.exp(i.logits).sum(axis=1)),
    Op.SOFTMAX_VJP: lambda i: partial(softmax_vjp, i.logits, i.saved(Op.SOFTMAX_VJP)),
    Op.LOG_SOFTMAX_VJP: lambda i: partial(log_softmax_vjp, i.logits, i.saved(Op.LOG_SOFTMAX_VJP)),
    Op.LSE_VJP: lambda i: partial(logsumexp_vjp, i.upstream_rows, i.logits, i.saved(Op.LSE_VJP)),
    Op.LAYER_LOSS: lambda i: partial(layer_loss, *i.arrays),
    Op.LAYER_GRADS: _layer_grads,
    Op.TRAINING: lambda i: partial(loss_and_grad, textbook_softmax),
}
STABLE: Calls = {
    Op.LOSS: lambda i: partial(stable_loss, i.logits, i.target),
    Op.LOSS_GRAD: lambda i: partial(loss_and_grad, stable_softmax, i.logits, i.target),
    Op.SOFTMAX: lambda i: partial(stable_softmax, i.logits),
    Op.LOG_SOFTMAX: lambda i: partial(stable_log_softmax, i.logits),
    Op.LSE: lambda i: partial(stable_logsumexp, i.logits),
}
