"""MyGrad: tensors over NumPy."""

from typing import Any

import mygrad as mg
from mygrad.nnet.activations import logsoftmax, softmax
from mygrad.nnet.losses import softmax_crossentropy

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs


def _loss_grad(i: Inputs) -> Call:
    y, leaf = i.target, mg.tensor(i.logits, copy=False)

    def call() -> tuple[Any, Any]:
        loss = softmax_crossentropy(leaf, y)
        loss.backward()
        grad = leaf.grad
        leaf.null_grad()
        return loss.data, grad

    return call


def _forward(function: Any, *arguments: Any, **options: Any) -> Call:
    return mg.no_autodiff(lambda: function(*arguments, **options).data)


CALLS: Calls = {
    Op.LOSS: lambda i: _forward(softmax_crossentropy, i.logits, i.target),
    Op.LOSS_GRAD: _loss_grad,
    Op.SOFTMAX: lambda i: _forward(softmax, i.logits, axis=1),
    Op.LOG_SOFTMAX: lambda i: _forward(logsoftmax, i.logits, axis=1),
}
