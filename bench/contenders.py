"""The contenders: one table, contender -> operation -> call.

Each ``bind`` function takes a case's inputs and returns ``{operation: call}``; an operation the library does not
have is left out. Every call does what a user's line of code would do, and returns the result as the library gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.cases import LOG_SOFTMAX, LOSS, LOSS_GRAD, LSE, SOFTMAX, Inputs

Calls = dict[str, Callable[[], Any]]
Step = Callable[[np.ndarray, np.ndarray], tuple[Any, np.ndarray]]


@dataclass(frozen=True)
class Contender:
    """A library, or a way of using it."""

    label: str
    bind: Callable[[Inputs], Calls]
    step: Callable[[], Step] | None = None  # makes (logits, target) -> (loss, gradient) for the training loop
    checked: bool = True


def _fastce(inputs: Inputs) -> Calls:
    import fastce

    x, y = inputs.logits, inputs.target
    return {
        LOSS: lambda: fastce.cross_entropy(x, y),
        LOSS_GRAD: lambda: fastce.cross_entropy_and_grad(x, y),
        SOFTMAX: lambda: fastce.softmax(x),
        LOG_SOFTMAX: lambda: fastce.log_softmax(x),
        LSE: lambda: fastce.logsumexp(x),
    }


def _fastce_out(inputs: Inputs) -> Calls:
    import fastce

    x, y, out = inputs.logits, inputs.target, inputs.out
    rows = np.empty(len(x), x.dtype)
    return {  # no loss: without an array result there is no out=
        LOSS_GRAD: lambda: fastce.cross_entropy_and_grad(x, y, out=out),
        SOFTMAX: lambda: fastce.softmax(x, out=out),
        LOG_SOFTMAX: lambda: fastce.log_softmax(x, out=out),
        LSE: lambda: fastce.logsumexp(x, out=rows),
    }


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


def _torch(inputs: Inputs) -> Calls:
    import torch
    import torch.nn.functional as F

    x, y = torch.from_numpy(inputs.logits), torch.from_numpy(inputs.target)
    leaf = x.detach().requires_grad_()

    def loss_and_grad():
        leaf.grad = None
        loss = F.cross_entropy(leaf, y)
        loss.backward()
        return loss.detach(), leaf.grad

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


def _limit(inputs: Inputs) -> Calls:
    from bench import roofline

    return roofline.bind(inputs)


LIMIT = "limit"
REFERENCE = ("fastce-out", "fastce")  # what the others are compared with: the first that has the operation
CONTENDERS = {
    "fastce-out": Contender("fastce out=", _fastce_out, _fastce_step),
    "fastce": Contender("fastce", _fastce),
    "numpy": Contender("NumPy textbook", _numpy_textbook, lambda: partial(_numpy_loss_and_grad, _textbook_softmax)),
    "numpy-stable": Contender("NumPy stable", _numpy_stable),
    "scipy": Contender("SciPy", _scipy),
    "torch": Contender("torch eager", _torch, _torch_step),
    LIMIT: Contender("memory limit", _limit, checked=False),
}
