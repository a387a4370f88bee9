"""Every public function that takes arrays, called by name with all of its array arguments."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import fastce
from tests.helpers import tuple_of

SAMPLES, CLASSES, FEATURES = 6, 5, 3


class Call(NamedTuple):
    """A call: ``function(**arrays(dtype), **options)``."""

    function: Callable[..., Any]
    arrays: Callable[[Any], dict[str, np.ndarray]]
    options: Mapping[str, Any] = MappingProxyType({})
    outs: Mapping[str, str] = MappingProxyType({})  # where results are written to, each shaped as which argument

    def run(self, arrays, **more):
        """All results, as one tuple."""
        return tuple_of(self.function(**arrays, **self.options, **more))


def _values(dtype, *shape):
    rng = np.random.default_rng(len(shape))
    return (rng.random(shape) + 0.1).astype(dtype)


def _labels():
    return np.arange(SAMPLES) % CLASSES


def _one_hot():
    return np.eye(CLASSES, dtype=int)[_labels()]


def _where():
    return np.arange(SAMPLES * CLASSES).reshape(SAMPLES, CLASSES) % 7 != 5


def _matrices(*names, **others):
    """A function that makes matrices of one dtype, and other arguments, which are made anew for each call."""

    def arrays(dtype):
        made = {name: _values(dtype, SAMPLES, CLASSES) for name in names}
        return made | {name: make(dtype) for name, make in others.items()}

    return arrays


def _each(dtype):
    return _values(dtype, SAMPLES)


def _class(dtype):
    return _values(np.float64, CLASSES)


def _wide(dtype):
    return _values(np.float64, SAMPLES, CLASSES)


def _sample(dtype):
    return _values(np.float64, SAMPLES)


def _kind(make):
    return lambda dtype: make()


def _losses(function, first="logits", with_grad=False, **options):
    """One call with class indices, one with class probabilities, one with one-hot integers."""
    more = {"grad_output": _sample} if with_grad else {}
    if "probs" not in function.__name__:
        options |= {"z_loss": 0.1}
    for kind, target in ("labels", _kind(_labels)), ("soft", _wide), ("one-hot", _kind(_one_hot)):
        arrays = _matrices(first, target=target, weight=_class, sample_weight=_sample, **more)
        keywords = {"label_smoothing": 0.1, "reduction": "none", **options}
        yield f"{function.__name__}, {kind}", Call(function, arrays, keywords, {"out": first} if with_grad else {})


def _criterion(logits, target, grad_output, weight, sample_weight, where, out=None):
    criterion = fastce.CrossEntropyLoss(weight=weight, sample_weight=sample_weight, where=where, reduction="none")
    return criterion(logits, target), *criterion.parts, criterion.lse, criterion.backward(grad_output, out=out)


def _evaluation(logits, target):
    result = fastce.evaluate([(logits, target)], ignore_index=np.int64(-1))
    return result.count, result.loss, result.perplexity, result.accuracy, result.top_k_accuracy, result.entropy


def _linear(dtype):
    return {
        "hidden": _values(dtype, SAMPLES, FEATURES),
        "weight": _values(dtype, CLASSES, FEATURES),
        "target": _labels(),
        "bias": _values(dtype, CLASSES),
        "class_weight": _class(dtype),
    }


_FOCAL = {"target": _kind(_labels), "alpha": _class, "sample_weight": _sample}
_ELEMENTS = {"target": _wide, "weight": _wide, "pos_weight": _class}
_MASK = {"where": _kind(_where)}
_NONE = {"reduction": "none"}
_OUT = {"out": "logits"}

CALLS = {
    "logsumexp": Call(fastce.logsumexp, _matrices("x", **_MASK), {}, {"out": "first"}),
    "logsumexp, b": Call(fastce.logsumexp, _matrices("x", b=_wide, **_MASK)),
    "softmax": Call(fastce.softmax, _matrices("x", **_MASK), {}, {"out": "x"}),
    "log_softmax": Call(fastce.log_softmax, _matrices("x", **_MASK), {}, {"out": "x"}),
    "logsumexp_vjp": Call(fastce.logsumexp_vjp, _matrices("x", g=_sample, lse=_each), {}, {"out": "x"}),
    "softmax_vjp": Call(fastce.softmax_vjp, _matrices("p", g=_wide), {}, {"out": "p"}),
    "log_softmax_vjp": Call(fastce.log_softmax_vjp, _matrices("logp", g=_wide), {}, {"out": "logp"}),
    **dict(_losses(fastce.cross_entropy)),
    **dict(_losses(fastce.cross_entropy_and_grad, with_grad=True)),
    "cross_entropy_and_grad, where": Call(
        fastce.cross_entropy_and_grad,
        _matrices("logits", target=_wide, weight=_class, grad_output=_sample, **_MASK),
        {"label_smoothing": 0.1, "reduction": "none"},
        _OUT,
    ),
    **dict(_losses(fastce.cross_entropy_from_probs, "probs")),
    **dict(_losses(fastce.cross_entropy_from_probs_and_grad, "probs", with_grad=True)),
    "binary": Call(fastce.binary_cross_entropy_with_logits, _matrices("logits", **_ELEMENTS), _NONE),
    "binary, with gradient": Call(
        fastce.binary_cross_entropy_with_logits_and_grad,
        _matrices("logits", grad_output=_wide, **_ELEMENTS),
        _NONE,
        _OUT,
    ),
    "kl_divergence": Call(fastce.kl_divergence, _matrices("logits", target_logits=_wide, sample_weight=_sample), _NONE),
    "kl_divergence_and_grad": Call(
        fastce.kl_divergence_and_grad,
        _matrices("logits", target_logits=_wide, sample_weight=_sample, grad_output=_sample),
        _NONE,
        _OUT,
    ),
    "focal_loss": Call(fastce.focal_loss, _matrices("logits", **_FOCAL), _NONE | {"gamma": 2.0}),
    "focal_loss_and_grad": Call(
        fastce.focal_loss_and_grad,
        _matrices("logits", grad_output=_sample, **_FOCAL),
        _NONE | {"gamma": 2.0},
        _OUT,
    ),
    "linear_cross_entropy": Call(fastce.linear_cross_entropy, _linear, _NONE | {"label_smoothing": 0.1}),
    "linear_cross_entropy_and_grad": Call(
        fastce.linear_cross_entropy_and_grad,
        lambda dtype: _linear(dtype) | {"grad_output": _sample(dtype)},
        _NONE | {"label_smoothing": 0.1},
        {"d_hidden_out": "hidden", "d_weight_out": "weight", "d_bias_out": "bias"},
    ),
    "score": Call(fastce.score, _matrices("logits", target=_kind(_labels))),
    "evaluate": Call(_evaluation, _matrices("logits", target=_kind(_labels))),
    "cross_entropy_grad_and_hessian": Call(
        fastce.cross_entropy_grad_and_hessian,
        _matrices("logits", target=_wide, sample_weight=_sample),
        {},
        {"out": "logits", "hessian_out": "logits"},
    ),
    "cross_entropy_hvp": Call(
        fastce.cross_entropy_hvp,
        _matrices("logits", target=_wide, v=_wide, weight=_class, sample_weight=_sample),
        {"label_smoothing": 0.1},
        _OUT,
    ),
    "CrossEntropyLoss": Call(
        _criterion,
        _matrices("logits", target=_wide, grad_output=_sample, weight=_class, sample_weight=_sample, **_MASK),
        {},
        _OUT,
    ),
}
