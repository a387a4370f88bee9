"""scikit-learn's private multinomial loss, a value a sample; weights of 1/N make the means of the others."""

from typing import Any

import numpy as np
from sklearn._loss.loss import HalfMultinomialLoss
from threadpoolctl import threadpool_info

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs


def _arguments(i: Inputs) -> dict[str, Any]:
    x = i.logits
    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"), default=1)
    weight, losses = np.full(len(x), 1 / len(x), x.dtype), np.empty(len(x), x.dtype)
    arrays = {"y_true": i.target.astype(x.dtype), "raw_prediction": x, "sample_weight": weight, "loss_out": losses}
    return {**arrays, "n_threads": threads}


def _loss(i: Inputs) -> Call:
    function, arguments = HalfMultinomialLoss(n_classes=i.logits.shape[1]), _arguments(i)
    return lambda: function.loss(**arguments).sum()


def _loss_grad(i: Inputs) -> Call:
    function, arguments = HalfMultinomialLoss(n_classes=i.logits.shape[1]), _arguments(i)
    losses, gradient = arguments["loss_out"], i.out

    def call() -> tuple[Any, np.ndarray]:
        function.loss_gradient(**arguments, gradient_out=gradient)
        return losses.sum(), gradient

    return call


CALLS: Calls = {Op.LOSS: _loss, Op.LOSS_GRAD: _loss_grad}
