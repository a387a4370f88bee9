"""NumPy, as textbooks write the formulas and as one writes them when logits may be large."""

from functools import partial

import numpy as np

from bench import formulas
from bench.cases import Op
from bench.inputs import Calls, calls

TEXTBOOK: Calls = {
    **calls(
        {
            Op.LOSS: formulas.textbook_loss,
            Op.LOSS_GRAD: partial(formulas.loss_and_grad, formulas.textbook_softmax),
            Op.SOFTMAX: formulas.textbook_softmax,
            Op.LOG_SOFTMAX: lambda x: np.log(formulas.textbook_softmax(x)),
            Op.LSE: lambda x: np.log(np.exp(x).sum(axis=1)),
            Op.SOFTMAX_VJP: formulas.softmax_vjp,
            Op.LOG_SOFTMAX_VJP: formulas.log_softmax_vjp,
            Op.LSE_VJP: formulas.logsumexp_vjp,
            Op.LAYER_LOSS: formulas.layer_loss,
            Op.LAYER_GRADS: formulas.layer_loss_and_grads,
        }
    ),
    Op.TRAINING: lambda _: partial(formulas.loss_and_grad, formulas.textbook_softmax),
}
STABLE = calls(
    {
        Op.LOSS: formulas.loss,
        Op.LOSS_GRAD: partial(formulas.loss_and_grad, formulas.softmax),
        Op.SOFTMAX: formulas.softmax,
        Op.LOG_SOFTMAX: formulas.log_softmax,
        Op.LSE: formulas.logsumexp,
    }
)
