"""Who computes what in the accuracy report: fastce, PyTorch, SciPy and, where it is installed, JAX."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import scipy.special

import fastce
from tools.exact import ALPHA, GAMMA, POSITIVE, SHARE, SMOOTHING, TEMPERATURE, Batch

Call = Callable[[Batch], Any]


def contenders() -> dict[str, dict[str, Call]]:
    """Return by name what each contender computes of a batch, by the names of ``accuracy.QUANTITIES``."""
    tables = {"fastce": _fastce(), "torch": _torch(), "SciPy": _scipy()}
    if importlib.util.find_spec("jax"):
        tables["JAX"] = _jax()
    return tables


def _fastce() -> dict[str, Call]:
    each = {"reduction": "none"}
    focal = {"gamma": GAMMA, **each}

    def layer(b: Batch) -> Any:
        return fastce.linear_cross_entropy_and_grad(b.x, np.eye(b.x.shape[1], dtype=b.x.dtype), b.labels, **each)

    return {
        "log-sum-exp": lambda b: fastce.logsumexp(b.x),
        "log-sum-exp with weights": lambda b: fastce.logsumexp(b.x, b=np.abs(b.upstream)),
        "softmax": lambda b: fastce.softmax(b.x),
        "log-softmax": lambda b: fastce.log_softmax(b.x),
        "vjp of log-sum-exp": lambda b: fastce.logsumexp_vjp(b.upstream[:, 0], b.x, fastce.logsumexp(b.x)),
        "vjp of softmax": lambda b: fastce.softmax_vjp(b.upstream, fastce.softmax(b.x)),
        "vjp of log-softmax": lambda b: fastce.log_softmax_vjp(b.upstream, fastce.log_softmax(b.x)),
        "cross-entropy": lambda b: fastce.cross_entropy(b.x, b.labels, **each),
        "its gradient": lambda b: fastce.cross_entropy_and_grad(b.x, b.labels, **each).grad,
        "with label smoothing": lambda b: fastce.cross_entropy(b.x, b.labels, label_smoothing=SMOOTHING, **each),
        "its Hessian's diagonal": lambda b: fastce.cross_entropy_grad_and_hessian(b.x, b.labels).hessian,
        "its Hessian times a vector": lambda b: fastce.cross_entropy_hvp(b.x, b.labels, b.upstream, **each),
        "of a linear layer": lambda b: layer(b).loss,
        "gradient of a linear layer": lambda b: layer(b).d_hidden,
        "from probabilities": lambda b: fastce.cross_entropy_from_probs(b.probs, b.labels, **each),
        "focal loss": lambda b: fastce.focal_loss(b.x, b.labels, **focal),
        "gradient of focal loss": lambda b: fastce.focal_loss_and_grad(b.x, b.labels, **focal).grad,
        "focal loss with class probabilities": lambda b: fastce.focal_loss(b.x, b.probs, **focal),
        "gradient with class probabilities": lambda b: fastce.focal_loss_and_grad(b.x, b.probs, **focal).grad,
        "entropy": lambda b: fastce.score(b.x, b.labels).entropy,
        **_fastce_divergences(),
        **_fastce_binary(),
    }


def _fastce_divergences() -> dict[str, Call]:
    kl, kl_grad = fastce.kl_divergence, fastce.kl_divergence_and_grad
    mixed, mixed_grad = fastce.jensen_shannon, fastce.jensen_shannon_and_grad
    each = {"temperature": TEMPERATURE, "reduction": "none"}
    return {
        "divergence": lambda b: kl(b.x, b.teacher, **each),
        "gradient of divergence": lambda b: kl_grad(b.x, b.teacher, **each).grad,
        "reversed divergence": lambda b: kl(b.x, b.teacher, reverse=True, **each),
        "gradient of reversed divergence": lambda b: kl_grad(b.x, b.teacher, reverse=True, **each).grad,
        "Jensen-Shannon": lambda b: mixed(b.x, b.teacher, beta=SHARE, **each),
        "gradient of Jensen-Shannon": lambda b: mixed_grad(b.x, b.teacher, beta=SHARE, **each).grad,
    }


def _fastce_binary() -> dict[str, Call]:
    binary = fastce.binary_cross_entropy_with_logits_and_grad
    of_probs = fastce.binary_cross_entropy_from_probs_and_grad
    each = {"reduction": "none"}
    focal = {"gamma": GAMMA, "alpha": ALPHA, **each}

    def target(b: Batch) -> np.ndarray:
        return np.full_like(b.x, POSITIVE)

    return {
        "binary cross-entropy": lambda b: fastce.binary_cross_entropy_with_logits(b.x, target(b), **each),
        "gradient of the binary": lambda b: binary(b.x, target(b), **each).grad,
        "binary from probabilities": lambda b: fastce.binary_cross_entropy_from_probs(b.probs, b.one_hot, **each),
        "gradient from probabilities": lambda b: of_probs(b.probs, b.one_hot, **each).grad,
        "sigmoid focal loss": lambda b: fastce.sigmoid_focal_loss(b.x, b.one_hot, **focal),
        "gradient of sigmoid focal loss": lambda b: fastce.sigmoid_focal_loss_and_grad(b.x, b.one_hot, **focal).grad,
    }


def _tensor(x: np.ndarray) -> Any:
    import torch

    if x.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(x.copy())


def _to_numpy(t: Any) -> np.ndarray:
    return t.detach().double().numpy()


def _forward(function: Callable[[Any, Batch], Any]) -> Call:
    return lambda b: _to_numpy(function(_tensor(b.x), b))


def _gradient(function: Callable[[Any, Batch], Any], upstream: Any = None, of: str = "x") -> Call:
    def call(b: Batch) -> np.ndarray:
        x = _tensor(getattr(b, of)).requires_grad_()
        result = function(x, b)
        result.backward(result.new_ones(result.shape) if upstream is None else _tensor(upstream(b)))
        return _to_numpy(x.grad)

    return call


def _torch() -> dict[str, Call]:
    return {
        "log-sum-exp": _forward(lambda x, b: x.logsumexp(-1)),
        "softmax": _forward(lambda x, b: x.softmax(-1)),
        "log-softmax": _forward(lambda x, b: x.log_softmax(-1)),
        "vjp of log-sum-exp": _gradient(lambda x, b: x.logsumexp(-1), lambda b: b.upstream[:, 0]),
        "vjp of softmax": _gradient(lambda x, b: x.softmax(-1), lambda b: b.upstream),
        "vjp of log-softmax": _gradient(lambda x, b: x.log_softmax(-1), lambda b: b.upstream),
        **_torch_losses(),
    }


def _torch_losses() -> dict[str, Call]:
    import torch
    from torch.nn import functional

    def loss(x: torch.Tensor, b: Batch, **options: Any) -> torch.Tensor:
        return functional.cross_entropy(x, torch.from_numpy(b.labels), reduction="none", **options)

    def layer(x: torch.Tensor, b: Batch) -> torch.Tensor:
        return loss(functional.linear(x, torch.eye(x.shape[1], dtype=x.dtype)), b)

    def focal(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logs = x.log_softmax(-1)
        return -(target * (1 - logs.exp()) ** GAMMA * logs).sum(-1)

    def product(b: Batch) -> np.ndarray:
        function = torch.autograd.functional.hvp
        return _to_numpy(function(lambda x: loss(x, b).sum(), _tensor(b.x), _tensor(b.upstream))[1])

    return {
        "cross-entropy": _forward(loss),
        "its gradient": _gradient(loss),
        "with label smoothing": _forward(lambda x, b: loss(x, b, label_smoothing=SMOOTHING)),
        "its Hessian times a vector": product,
        "of a linear layer": _forward(layer),
        "gradient of a linear layer": _gradient(layer),
        "focal loss": _forward(lambda x, b: focal(x, _tensor(b.one_hot))),
        "gradient of focal loss": _gradient(lambda x, b: focal(x, _tensor(b.one_hot))),
        "focal loss with class probabilities": _forward(lambda x, b: focal(x, _tensor(b.probs))),
        "gradient with class probabilities": _gradient(lambda x, b: focal(x, _tensor(b.probs))),
        **_torch_divergences(),
        **_torch_binary(),
    }


def _torch_divergences() -> dict[str, Call]:
    import torch
    from torch.nn import functional

    def both(x: torch.Tensor, b: Batch) -> tuple[torch.Tensor, ...]:
        return tuple((v / TEMPERATURE).log_softmax(-1) for v in (x, _tensor(b.teacher)))

    def kl(logs: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        return functional.kl_div(logs, of, reduction="none", log_target=True).sum(-1)

    def divergence(x: torch.Tensor, b: Batch) -> torch.Tensor:
        return kl(*both(x, b))

    def reversed_divergence(x: torch.Tensor, b: Batch) -> torch.Tensor:
        logs, teacher = both(x, b)
        return kl(teacher, logs)

    def mixed(x: torch.Tensor, b: Batch) -> torch.Tensor:  # as in Hugging Face's TRL
        logs, teacher = both(x, b)
        mixture = torch.logsumexp(torch.stack([logs + math.log(1 - SHARE), teacher + math.log(SHARE)]), dim=0)
        return SHARE * kl(mixture, teacher) + (1 - SHARE) * kl(mixture, logs)

    return {
        "divergence": _forward(divergence),
        "gradient of divergence": _gradient(divergence),
        "reversed divergence": _forward(reversed_divergence),
        "gradient of reversed divergence": _gradient(reversed_divergence),
        "Jensen-Shannon": _forward(mixed),
        "gradient of Jensen-Shannon": _gradient(mixed),
    }


def _torch_binary() -> dict[str, Call]:
    import torch
    from torch.nn import functional

    def binary(x: torch.Tensor, b: Batch) -> torch.Tensor:
        target = torch.full_like(x, POSITIVE)
        return functional.binary_cross_entropy_with_logits(x, target, reduction="none")

    def from_probs(p: torch.Tensor, b: Batch) -> torch.Tensor:
        return functional.binary_cross_entropy(p, _tensor(b.one_hot), reduction="none")

    def focal(x: torch.Tensor, b: Batch) -> torch.Tensor:  # as in torchvision
        target, p = _tensor(b.one_hot), x.sigmoid()
        loss = functional.binary_cross_entropy_with_logits(x, target, reduction="none")
        p_t = p * target + (1 - p) * (1 - target)
        return (ALPHA * target + (1 - ALPHA) * (1 - target)) * (loss * (1 - p_t) ** GAMMA)

    return {
        "binary cross-entropy": _forward(binary),
        "gradient of the binary": _gradient(binary),
        "binary from probabilities": lambda b: _to_numpy(from_probs(_tensor(b.probs), b)),
        "gradient from probabilities": _gradient(from_probs, of="probs"),
        "sigmoid focal loss": _forward(focal),
        "gradient of sigmoid focal loss": _gradient(focal),
    }


def _scipy() -> dict[str, Call]:
    special = scipy.special

    def loss(b: Batch) -> np.ndarray:
        return -np.take_along_axis(special.log_softmax(b.x, -1), b.labels[:, None], -1)

    def gradient(b: Batch) -> np.ndarray:
        p = special.softmax(b.x, -1)
        p[np.arange(len(p)), b.labels] -= 1
        return p

    return {
        "log-sum-exp": lambda b: special.logsumexp(b.x, -1),
        "log-sum-exp with weights": lambda b: special.logsumexp(b.x, -1, b=np.abs(b.upstream)),
        "softmax": lambda b: special.softmax(b.x, -1),
        "log-softmax": lambda b: special.log_softmax(b.x, -1),
        "cross-entropy": loss,
        "its gradient": gradient,
    }


def _jax() -> dict[str, Call]:
    import jax

    jax.config.update("jax_enable_x64", True)

    def loss(x: Any, b: Batch) -> Any:
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), b.labels[:, None], -1)[:, 0]

    def binary(x: Any, b: Batch) -> Any:
        return -POSITIVE * jax.nn.log_sigmoid(x) - (1 - POSITIVE) * jax.nn.log_sigmoid(-x)

    def forward(function: Callable[[Any, Batch], Any]) -> Call:
        return lambda b: function(jax.numpy.asarray(b.x), b)

    def gradient(function: Callable[[Any, Batch], Any], upstream: Any = None) -> Call:
        def call(b: Batch) -> Any:
            result, back = jax.vjp(lambda x: function(x, b), jax.numpy.asarray(b.x))
            return back(jax.numpy.ones_like(result) if upstream is None else jax.numpy.asarray(upstream(b)))[0]

        return call

    def product(b: Batch) -> Any:
        slope = jax.grad(lambda x: loss(x, b).sum())
        return jax.jvp(slope, (jax.numpy.asarray(b.x),), (jax.numpy.asarray(b.upstream),))[1]

    return {
        "log-sum-exp": forward(lambda x, b: jax.nn.logsumexp(x, -1)),
        "log-sum-exp with weights": forward(lambda x, b: jax.nn.logsumexp(x, -1, b=np.abs(b.upstream))),
        "softmax": forward(lambda x, b: jax.nn.softmax(x)),
        "log-softmax": forward(lambda x, b: jax.nn.log_softmax(x)),
        "vjp of log-sum-exp": gradient(lambda x, b: jax.nn.logsumexp(x, -1), lambda b: b.upstream[:, 0]),
        "vjp of softmax": gradient(lambda x, b: jax.nn.softmax(x), lambda b: b.upstream),
        "vjp of log-softmax": gradient(lambda x, b: jax.nn.log_softmax(x), lambda b: b.upstream),
        "cross-entropy": forward(loss),
        "its gradient": gradient(loss),
        "its Hessian times a vector": product,
        "binary cross-entropy": forward(binary),
        "gradient of the binary": gradient(binary),
    }
