"""NumPy, as textbooks write the formulas and as one writes them when logits may be large."""

from functools import partial

import numpy as np

from bench import formulas
from bench.cases import Op
from bench.inputs import Calls

TEXTBOOK: Calls = {
    Op.LOSS: lambda i: partial(formulas.textbook_loss, i.logits, i.target),
    Op.LOSS_GRAD: lambda i: partial(formulas.loss_and_grad, formulas.textbook_softmax, i.logits, i.target),
    Op.SOFTMAX: lambda i: partial(formulas.textbook_softmax, i.logits),
    Op.LOG_SOFTMAX: lambda i: lambda: np.log(formulas.textbook_softmax(i.logits)),
    Op.LSE: lambda i: lambda: np.log(np.exp(i.logits).sum(axis=1)),
    Op.SOFTMAX_VJP: lambda i: partial(formulas.softmax_vjp, i.logits, i.saved(Op.SOFTMAX_VJP)),
    Op.LOG_SOFTMAX_VJP: lambda i: partial(formulas.log_softmax_vjp, i.logits, i.saved(Op.LOG_SOFTMAX_VJP)),
    Op.LSE_VJP: lambda i: partial(formulas.logsumexp_vjp, i.upstream_rows, i.logits, i.saved(Op.LSE_VJP)),
    Op.LAYER_LOSS: lambda i: partial(formulas.layer_loss, *i),
    Op.LAYER_GRADS: lambda i: partial(formulas.layer_loss_and_grads, *i),
    Op.TRAINING: lambda i: partial(formulas.loss_and_grad, formulas.textbook_softmax),
}
STABLE: Calls = {
    Op.LOSS: lambda i: partial(formulas.loss, i.logits, i.target),
    Op.LOSS_GRAD: lambda i: partial(formulas.loss_and_grad, formulas.softmax, i.logits, i.target),
    Op.SOFTMAX: lambda i: partial(formulas.softmax, i.logits),
    Op.LOG_SOFTMAX: lambda i: partial(formulas.log_softmax, i.logits),
    Op.LSE: lambda i: partial(formulas.logsumexp, i.logits),
}
