"""The contenders of the last layer and its loss: one table, contender -> operation -> call.

Each ``bind`` function takes the inputs and returns ``{operation: call}``. A call returns the loss, or the loss and the
gradients with respect to the hidden layer and the weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

LOSS, GRADS = "loss", "loss+gradients"
OPS = (LOSS, GRADS)
PRODUCTS = "products"
Calls = dict[str, Callable[[], Any]]


class Shape(NamedTuple):
    """The sizes of a case."""

    tokens: int
    features: int
    classes: int

    def __str__(self) -> str:
        """Write them as a product."""
        return " × ".join(f"{size:,}" for size in self)


class Inputs:
    """The same numbers for all contenders."""

    def __init__(self, shape: Shape) -> None:
        n, d, v = shape
        rng = np.random.default_rng(7)
        self.hidden = rng.standard_normal((n, d), dtype=np.float32)
        self.weight = rng.standard_normal((v, d), dtype=np.float32)
        self.weight *= np.float32(d**-0.5)
        self.target = rng.integers(0, v, n)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what every contender is given."""
        return self.hidden, self.weight, self.target


@dataclass(frozen=True)
class Contender:
    """A library, or a way of using it."""

    label: str
    bind: Callable[[Inputs], Calls]
    needs: str = ""  # an optional package: without it the contender is left out


def fastce_new(x: Inputs) -> Calls:
    """Bind fastce, results in new arrays."""
    import fastce

    return {
        LOSS: partial(fastce.linear_cross_entropy, *x.arrays),
        GRADS: lambda: fastce.linear_cross_entropy_and_grad(*x.arrays)[:3],
    }


def fastce_out(x: Inputs) -> Calls:
    """Bind fastce, gradients in given arrays."""
    import fastce

    out = {"d_hidden_out": np.zeros_like(x.hidden), "d_weight_out": np.zeros_like(x.weight)}
    return {GRADS: lambda: fastce.linear_cross_entropy_and_grad(*x.arrays, **out)[:3]}


def bare_products(x: Inputs) -> Calls:
    """Bind the products alone, which give no loss, into arrays that are there already."""
    logits = np.zeros((len(x.hidden), len(x.weight)), np.float32)
    d_hidden, d_weight = np.zeros_like(x.hidden), np.zeros_like(x.weight)

    def three() -> None:
        np.matmul(x.hidden, x.weight.T, out=logits)
        np.matmul(logits, x.weight, out=d_hidden)
        np.matmul(logits.T, x.hidden, out=d_weight)

    return {LOSS: lambda: np.matmul(x.hidden, x.weight.T, out=logits), GRADS: three}


def textbook(x: Inputs) -> Calls:
    """Bind the formulas as NumPy code usually spells them."""
    rows, n = np.arange(len(x.hidden)), len(x.hidden)

    def probs() -> tuple[Any, np.ndarray]:
        logits = x.hidden @ x.weight.T
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = exponentials / exponentials.sum(axis=1, keepdims=True)
        return -np.log(p[rows, x.target]).mean(), p

    def grads() -> tuple[Any, ...]:
        loss, p = probs()
        p[rows, x.target] -= 1
        p /= n
        return loss, p @ x.weight, p.T @ x.hidden

    return {LOSS: lambda: probs()[0], GRADS: grads}


def _torch(x: Inputs, make: Callable[[Any], Callable[..., Any]]) -> Calls:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    function = make(torch)
    hidden, weight, target = map(torch.from_numpy, x.arrays)
    leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()

    def grads() -> tuple[Any, ...]:
        loss = function(*leaves, target)
        loss.backward()
        found = (loss.item(), *(leaf.grad.numpy() for leaf in leaves))
        for leaf in leaves:
            leaf.grad = None
        return found

    return {LOSS: lambda: function(hidden, weight, target).item(), GRADS: grads}


def torch_eager(x: Inputs) -> Calls:
    """Bind the two layers one after the other."""

    def make(torch: Any) -> Callable[..., Any]:
        F = torch.nn.functional
        return lambda h, w, y: F.cross_entropy(F.linear(h, w), y)

    return _torch(x, make)


def torch_whole(x: Inputs) -> Calls:
    """Bind PyTorch's function without its chunks."""
    return _torch(x, lambda torch: torch.nn.functional.linear_cross_entropy)


def torch_chunked(x: Inputs, **options: Any) -> Calls:
    """Bind PyTorch's function with chunks: those it chooses, unless the options say otherwise."""

    def make(torch: Any) -> Callable[..., Any]:
        chosen = torch.nn.LinearCrossEntropyOptions(**options)
        return partial(torch.nn.functional.linear_cross_entropy, options=chosen)

    return _torch(x, make)


def jax_jit(x: Inputs) -> Calls:
    """Bind XLA's compilation of both layers; it returns before the work is done, so each call waits for it."""
    import jax
    import jax.numpy as jnp

    def cross_entropy(hidden: Any, weight: Any, target: Any) -> Any:
        logits = hidden @ weight.T
        picked = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
        return (jax.nn.logsumexp(logits, axis=1) - picked).mean()

    arrays = tuple(map(jnp.asarray, x.arrays))
    loss, both = jax.jit(cross_entropy), jax.jit(jax.value_and_grad(cross_entropy, (0, 1)))

    def grads() -> tuple[Any, ...]:
        value, found = jax.block_until_ready(both(*arrays))
        return value, *found

    return {LOSS: lambda: jax.block_until_ready(loss(*arrays)), GRADS: grads}


CONTENDERS = {
    "fastce-out": Contender("fastce, given arrays", fastce_out),
    "fastce": Contender("fastce", fastce_new),
    "numpy": Contender("NumPy, textbook", textbook),
    "torch": Contender("torch, linear + cross_entropy", torch_eager, "torch"),
    "torch-linear": Contender("torch, linear_cross_entropy", torch_whole, "torch"),
    "torch-chunked": Contender("torch, its chunks", torch_chunked, "torch"),
    "torch-1024": Contender("torch, chunks of 1,024", partial(torch_chunked, batch_chunk_size=1024), "torch"),
    "jax": Contender("JAX jit", jax_jit, "jax"),
    PRODUCTS: Contender("bare products", bare_products),
}
FASTCE = ("fastce-out", "fastce")
TORCH = tuple(name for name in CONTENDERS if name.startswith("torch"))
