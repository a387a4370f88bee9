"""The contenders: one table, contender -> operation -> call.

Each ``bind`` function takes a case's inputs and returns ``{operation: call}``; an operation the library does not
have is left out. Every call does what a user's line of code would do, and returns the result as the library gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench import backward, peers, roofline
from bench.cases import INPLACE, LOG_SOFTMAX, LOSS, LOSS_GRAD, LSE, PATTERNS, SOFTMAX, VJPS
from bench.inputs import Calls, Inputs

Step = Callable[[np.ndarray, np.ndarray], tuple[Any, np.ndarray]]


@dataclass(frozen=True)
class Contender:
    """A library, or a way of using it."""

    label: str
    bind: Callable[[Inputs], Calls]
    backward: Callable[[str, Inputs], backward.Call] = lambda op, inputs: None
    step: Callable[[], Step] | None = None  # makes (logits, target) -> (loss, gradient) for the training loop
    checked: bool = True
    needs: str = ""  # an optional package: without it, or where it fails, the contender is left out
    yardstick: bool = False  # fastce itself under other conditions: compared with, not competed with
    to_numpy: Callable[[Any], np.ndarray] = np.asarray

    def call(self, op: str, inputs: Inputs) -> backward.Call:
        """Return what is timed, None where the library has no such function."""
        if op in VJPS:
            return self.backward(op, inputs)
        if op == INPLACE:
            inputs.out[...] = inputs.logits  # what the first call, whose result is checked, takes for logits
        return self.bind(inputs).get(op)


def _fastce(inputs: Inputs) -> Calls:
    import fastce

    x, y, axis = inputs.logits, inputs.target, _axis(inputs)
    return {
        LOSS: lambda: fastce.cross_entropy(x, y, **axis),
        LOSS_GRAD: lambda: fastce.cross_entropy_and_grad(x, y, **axis),
        SOFTMAX: lambda: fastce.softmax(x, **axis),
        LOG_SOFTMAX: lambda: fastce.log_softmax(x, **axis),
        LSE: lambda: fastce.logsumexp(x, **axis),
    }


def _fastce_out(inputs: Inputs) -> Calls:
    import fastce

    x, y, out, axis = inputs.logits, inputs.target, inputs.out, _axis(inputs)
    rows = np.empty(y.shape, x.dtype)

    def in_place():
        return fastce.cross_entropy_and_grad(out, y, out=out, **axis)

    return {  # no loss: without an array result there is no out=
        LOSS_GRAD: lambda: fastce.cross_entropy_and_grad(x, y, out=out, **axis),
        SOFTMAX: lambda: fastce.softmax(x, out=out, **axis),
        LOG_SOFTMAX: lambda: fastce.log_softmax(x, out=out, **axis),
        LSE: lambda: fastce.logsumexp(x, out=rows, **axis),
        INPLACE: in_place,
    }


def _axis(inputs: Inputs) -> dict[str, int]:
    return {} if inputs.logits.ndim == 2 else {"axis": 1}


def _fastce_step() -> Step:
    import fastce

    return lambda logits, target: fastce.cross_entropy_and_grad(logits, target, out=logits)


def _textbook_softmax(x):
    e = np.exp(x)
    return e / e.sum(axis=1, keepdims=True)


def _stable_softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _stable_logsumexp(x):
    top = x.max(axis=1, keepdims=True)
    return (np.log(np.exp(x - top).sum(axis=1, keepdims=True)) + top)[:, 0]


def _stable_log_softmax(x):
    shifted = x - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _textbook_loss(softmax, x, y):
    return -np.log(softmax(x)[np.arange(len(y)), y]).mean()


def _stable_loss(x, y):
    return -_stable_log_softmax(x)[np.arange(len(y)), y].mean()


def _numpy_loss_and_grad(softmax, x, y):
    p = softmax(x)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).mean()
    p[rows, y] -= 1
    p /= len(y)
    return loss, p


def _numpy_textbook(inputs: Inputs) -> Calls:
    x, y = inputs.logits, inputs.target
    return {
        LOSS: lambda: _textbook_loss(_textbook_softmax, x, y),
        LOSS_GRAD: lambda: _numpy_loss_and_grad(_textbook_softmax, x, y),
        SOFTMAX: lambda: _textbook_softmax(x),
        LOG_SOFTMAX: lambda: np.log(_textbook_softmax(x)),
        LSE: lambda: np.log(np.exp(x).sum(axis=1)),
    }


def _numpy_stable(inputs: Inputs) -> Calls:
    x, y = inputs.logits, inputs.target
    return {
        LOSS: lambda: _stable_loss(x, y),
        LOSS_GRAD: lambda: _numpy_loss_and_grad(_stable_softmax, x, y),
        SOFTMAX: lambda: _stable_softmax(x),
        LOG_SOFTMAX: lambda: _stable_log_softmax(x),
        LSE: lambda: _stable_logsumexp(x),
    }


def _scipy(inputs: Inputs) -> Calls:
    from scipy import special

    x = inputs.logits
    return {
        SOFTMAX: lambda: special.softmax(x, axis=1),
        LOG_SOFTMAX: lambda: special.log_softmax(x, axis=1),
        LSE: lambda: special.logsumexp(x, axis=1),
    }


_numpy_step = partial(partial, _numpy_loss_and_grad, _textbook_softmax)


def _torch(inputs: Inputs) -> Calls:
    import torch
    import torch.nn.functional as F

    x, y = peers.torch_tensor(inputs.logits), torch.from_numpy(inputs.target)
    leaf = x.detach().requires_grad_()

    def loss_and_grad():
        loss = F.cross_entropy(leaf, y)
        loss.backward()
        grad, leaf.grad = leaf.grad, None
        return loss.detach(), grad

    return {
        LOSS: lambda: F.cross_entropy(x, y),  # x needs no gradient, so no graph is kept
        LOSS_GRAD: loss_and_grad,
        SOFTMAX: lambda: torch.softmax(x, 1),
        LOG_SOFTMAX: lambda: torch.log_softmax(x, 1),
        LSE: lambda: torch.logsumexp(x, 1),
    }


def _torch_step() -> Step:
    import torch
    import torch.nn.functional as F

    def step(logits, target):
        x = torch.from_numpy(logits).requires_grad_()
        loss = F.cross_entropy(x, torch.from_numpy(target))
        loss.backward()
        return loss.item(), x.grad.numpy()

    return step


def _elsewhere(label: str, arranged: Callable[[Inputs], Inputs]) -> Contender:
    """Make a yardstick of fastce on the inputs in another arrangement."""

    def bind(inputs: Inputs) -> Calls:
        other = arranged(inputs)
        return _fastce(other) | _fastce_out(other)

    def bind_backward(op: str, inputs: Inputs) -> backward.Call:
        return backward.fastce_out(op, arranged(inputs))

    return Contender(label, bind, bind_backward, checked=False, yardstick=True)


def _limit(inputs: Inputs) -> Calls:
    limits = roofline.limits(inputs, inputs.logits)
    return {op: limits[pattern] for op, pattern in PATTERNS.items()}


LIMIT = "limit"
REFERENCE = ("fastce-out", "fastce")  # what the others are compared with: the first that has the operation
CONTENDERS = {
    "fastce-out": Contender("fastce out=", _fastce_out, backward.fastce_out, _fastce_step),
    "fastce": Contender("fastce", _fastce, backward.fastce),
    "numpy": Contender("NumPy textbook", _numpy_textbook, backward.numpy, _numpy_step),
    "numpy-stable": Contender("NumPy stable", _numpy_stable),
    "scipy": Contender("SciPy", _scipy),
    "torch": Contender("torch eager", _torch, backward.torch, _torch_step, to_numpy=peers.torch_to_numpy),
    "torch-out": Contender("torch eager out=", peers.torch_out, backward.torch_out, to_numpy=peers.torch_to_numpy),
    "torch-compile": Contender(
        "torch.compile", peers.torch_compile, backward.torch_compile, needs="torch", to_numpy=peers.torch_to_numpy
    ),
    "jax": Contender("JAX jit", peers.jax, backward.jax, needs="jax"),
    "sklearn": Contender("scikit-learn loss", peers.sklearn_loss, needs="sklearn"),
    "mygrad": Contender("MyGrad", peers.mygrad, needs="mygrad"),
    "autograd": Contender("autograd", peers.autograd, needs="autograd"),
    "fastce-rows": _elsewhere("fastce, classes last", Inputs.as_rows),
    "fastce-float32": _elsewhere("fastce, float32", Inputs.as_float32),
    LIMIT: Contender("memory limit", _limit, backward.limit, checked=False, yardstick=True),
}
STANDARD = ("fastce-out", "fastce", "numpy", "numpy-stable", "scipy", "torch")  # of ``make bench``


def split(name: str) -> tuple[str, int | None]:
    """Part ``torch@1`` into the contender and its own number of threads; None is that of the plan."""
    base, _, threads = name.partition("@")
    return base, int(threads) if threads else None


def contender(name: str) -> Contender:
    """Return the contender of a name, which may have a number of threads."""
    return CONTENDERS[split(name)[0]]


def is_rival(name: str) -> bool:
    """Tell the libraries fastce competes with from fastce itself and from limits."""
    return split(name)[0] not in REFERENCE and not contender(name).yardstick


def missing(name: str) -> str:
    """Return the package that a contender needs and that is not installed, if any."""
    needs = contender(name).needs
    return needs if needs and find_spec(needs) is None else ""
