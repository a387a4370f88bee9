"""fastce through its adapters: in the graph of another library."""

from functools import partial

from bench.cases import Op
from bench.contenders.torch import leaf, loss_and_gradients, tensor, to_numpy
from bench.inputs import Call, Calls, Inputs, LayerInputs
from fastce.interop.torch import cross_entropy, linear_cross_entropy

__all__ = ["TORCH", "to_numpy"]


def _loss_grad(i: Inputs) -> Call:
    y = tensor(i.target)
    return partial(loss_and_gradients, lambda x: cross_entropy(x, y), leaf(i.logits))


def _layer_grads(i: LayerInputs) -> Call:
    y = tensor(i.target)
    leaves = leaf(i.hidden), leaf(i.weight)
    return partial(loss_and_gradients, lambda hidden, weight: linear_cross_entropy(hidden, weight, y), *leaves)


TORCH: Calls = {Op.LOSS_GRAD: _loss_grad, Op.LAYER_GRADS: _layer_grads}
