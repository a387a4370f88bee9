"""The optional contenders, of the extra ``peers``.

As in :mod:`bench.contenders`, each ``bind`` function takes a case's inputs and returns ``{operation: call}``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.cases import LOG_SOFTMAX, LOSS, LOSS_GRAD, LSE, SOFTMAX
from bench.inputs import Calls, Inputs


def torch_out(inputs: Inputs) -> Calls:
    """PyTorch writing where it is told; ``backward`` has no such way."""
    import torch

    x, out = torch_tensor(inputs.logits), torch_tensor(inputs.out)
    rows = torch.empty(inputs.target.shape, dtype=x.dtype)
    return {
        SOFTMAX: lambda: torch.softmax(x, 1, out=out),
        LOG_SOFTMAX: lambda: torch.log_softmax(x, 1, out=out),
        LSE: lambda: torch.logsumexp(x, 1, out=rows),
    }


def torch_compile(inputs: Inputs) -> Calls:
    """PyTorch's own fusion of the forward and of the backward pass, compiled for this very shape."""
    import torch
    import torch.nn.functional as F

    torch.compiler.reset()  # it would go over to dynamic shapes, and give up compiling after some
    compiled = partial(torch.compile, dynamic=False)
    x, y = torch_tensor(inputs.logits), torch.from_numpy(inputs.target)
    leaf = x.detach().requires_grad_()
    cross_entropy = compiled(lambda logits, target: F.cross_entropy(logits, target))
    one_axis = {op: compiled(partial(f, dim=1)) for op, f in _torch_functions(torch).items()}

    def loss_and_grad():
        loss = cross_entropy(leaf, y)
        loss.backward()
        grad, leaf.grad = leaf.grad, None
        return loss.detach(), grad

    calls = {op: partial(call, x) for op, call in one_axis.items()}
    return calls | {LOSS: lambda: cross_entropy(x, y), LOSS_GRAD: loss_and_grad}


def _torch_functions(torch: Any) -> dict[str, Any]:
    return {
        SOFTMAX: lambda x, dim: torch.softmax(x, dim),
        LOG_SOFTMAX: lambda x, dim: torch.log_softmax(x, dim),
        LSE: lambda x, dim: torch.logsumexp(x, dim),
    }


def torch_tensor(array: np.ndarray) -> Any:
    """Return a tensor that shares the array's memory; PyTorch does not know NumPy's bfloat16."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def torch_to_numpy(tensor: Any) -> np.ndarray:
    """Return the tensor as an array."""
    import torch

    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view("bfloat16")
    return tensor.numpy()


def jax(inputs: Inputs) -> Calls:
    """XLA's compilation; it returns before the work is done, so each call waits for it."""
    import jax
    import jax.numpy as jnp

    x, y = jnp.asarray(inputs.logits), jnp.asarray(inputs.target)

    def cross_entropy(logits, target):
        picked = jnp.take_along_axis(logits, jnp.expand_dims(target, 1), axis=1).squeeze(1)
        return (jax.nn.logsumexp(logits, axis=1) - picked).mean()  # as optax has it; 2.5 times as fast as log_softmax

    def finished(function, *arguments):
        compiled = jax.jit(function)
        return lambda: jax.block_until_ready(compiled(*arguments))

    return {
        LOSS: finished(cross_entropy, x, y),
        LOSS_GRAD: finished(jax.value_and_grad(cross_entropy), x, y),
        SOFTMAX: finished(partial(jax.nn.softmax, axis=1), x),
        LOG_SOFTMAX: finished(partial(jax.nn.log_softmax, axis=1), x),
        LSE: finished(partial(jax.nn.logsumexp, axis=1), x),
    }


def sklearn_loss(inputs: Inputs) -> Calls:
    """scikit-learn's private multinomial loss, a value a sample; weights of 1/N make the means of the others."""
    from sklearn._loss.loss import HalfMultinomialLoss
    from threadpoolctl import threadpool_info

    x, gradient = inputs.logits, inputs.out
    threads = max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"), default=1)
    function = HalfMultinomialLoss(n_classes=x.shape[1])
    losses = np.empty(len(x), x.dtype)
    arguments = {
        "y_true": inputs.target.astype(x.dtype),
        "raw_prediction": x,
        "sample_weight": np.full(len(x), 1 / len(x), x.dtype),
        "loss_out": losses,
        "n_threads": threads,
    }

    def loss_and_grad():
        function.loss_gradient(**arguments, gradient_out=gradient)
        return losses.sum(), gradient

    return {LOSS: lambda: function.loss(**arguments).sum(), LOSS_GRAD: loss_and_grad}


def mygrad(inputs: Inputs) -> Calls:
    """MyGrad: tensors over NumPy."""
    import mygrad as mg
    from mygrad.nnet.activations import logsoftmax, softmax
    from mygrad.nnet.losses import softmax_crossentropy

    x, y = inputs.logits, inputs.target
    leaf = mg.tensor(x, copy=False)

    def loss_and_grad():
        loss = softmax_crossentropy(leaf, y)
        loss.backward()
        grad = leaf.grad
        leaf.null_grad()
        return loss.data, grad

    def forward(function, *arguments, **options):
        return mg.no_autodiff(lambda: function(*arguments, **options).data)

    return {
        LOSS: forward(softmax_crossentropy, x, y),
        LOSS_GRAD: loss_and_grad,
        SOFTMAX: forward(softmax, x, axis=1),
        LOG_SOFTMAX: forward(logsoftmax, x, axis=1),
    }


def autograd(inputs: Inputs) -> Calls:
    """Derive the gradient from NumPy's formula, with autograd."""
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.scipy.special import logsumexp

    x, rows, y = inputs.logits, np.arange(len(inputs.logits)), inputs.target

    def cross_entropy(logits):
        return anp.mean(logsumexp(logits, axis=1) - logits[rows, y])

    both = value_and_grad(cross_entropy)
    return {LOSS: lambda: cross_entropy(x), LOSS_GRAD: lambda: both(x)}
