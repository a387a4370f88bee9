"""Every public function that takes arrays, in one table, and ways to call it.

``FUNCTIONS`` says of each function what its results are, where they can be written to and which oracle it has.
``CALLS`` names ways to call them: which inputs are passed as which argument, with which options. The inputs are
attributes of an object, such as those of ``tests.inputs``: so each test brings its own arrays.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import fastce
from tests import shards
from tests.helpers import tuple_of
from tests.inputs import RowInputs
from tests.oracle import oracles, reference

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Function(NamedTuple):
    """A function and its oracle, which takes the same arguments.

    ``results`` has a letter a result: l for the dtype of losses, x, w and b for that of what is like the first
    argument, the weight and the bias of a layer, p for what x and b are promoted to, d, i and ? for Python's and
    NumPy's own. ``outs`` names the arguments that results are written to, and the argument of whose shape each is;
    "samples" stands for a number a sample. ``eps`` is how many of the oracle's sizes times the machine epsilon an error
    may be, see ``tests.oracle.compare``.
    """

    call: Callable[..., Any]
    results: str
    oracle: Callable[..., oracles.Found]
    outs: Mapping[str, str] = NOTHING
    eps: float = 4

    def takes(self, argument: str) -> bool:
        """Whether it has an argument of this name."""
        return argument in inspect.signature(self.call).parameters


def _criterion(
    logits,
    target,
    *,
    axis=-1,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    sample_weight=None,
    z_loss=0.0,
    logit_scale=1.0,
    softcap=None,
    normalizer=None,
    where=None,
    reduction="mean",
    grad_output=None,
    out=None,
):
    """All that a CrossEntropyLoss gives."""
    options = dict(locals())
    for name in ("logits", "target", "grad_output", "out"):
        del options[name]
    batch = {name: options.pop(name) for name in ("sample_weight", "where", "normalizer")}
    criterion = fastce.CrossEntropyLoss(**options)
    loss = criterion(logits, target, **batch)
    return loss, criterion.backward(grad_output, out=out), criterion.lse, *criterion.parts


def _kept(x):
    """What can be converted twice."""
    return np.asarray(x) if hasattr(x, "__array__") else x


def _two_passes(logits, target, *, grad_output=None, out=None, **options):
    """The loss of a forward pass and the gradient of a backward pass."""
    logits, target = _kept(logits), _kept(target)
    options = {name: _kept(value) for name, value in options.items()}
    loss, stats = fastce.cross_entropy_forward(logits, target, **options)
    return loss, fastce.cross_entropy_backward(logits, target, stats, grad_output=grad_output, out=out, **options)


_two_passes.__signature__ = inspect.signature(fastce.cross_entropy_and_grad)  # type: ignore[attr-defined]


def _evaluation(
    logits,
    target,
    *,
    axis=-1,
    weight=None,
    sample_weight=None,
    label_smoothing=0.0,
    ignore_index=-100,
    top_k=1,
    given="a batch",
):
    """The means of one batch, which is given as one, as two arrays, or to sums that are merged."""
    options = {"axis": axis, "weight": weight, "label_smoothing": label_smoothing}
    options |= {"ignore_index": ignore_index, "top_k": top_k}
    if given == "arrays":
        found = fastce.evaluate(logits, target, sample_weight=sample_weight, **options)
    elif given == "sums":
        sums = fastce.EvaluationSums(**options)
        sums.add(logits, target, sample_weight=sample_weight)
        found = sum([sums, fastce.EvaluationSums(**options)]).result()
    else:
        found = fastce.evaluate([(logits, target, sample_weight)], **options)
    shares = np.asarray(found.top_k_accuracy)[()]
    return found.loss, found.perplexity, found.entropy, found.accuracy, shares, found.count


def _layer(hidden, weight, target, **options):
    """The loss of the last layer, its by-products and the gradients."""
    found = fastce.linear_cross_entropy_and_grad(hidden, weight, target, **options)
    loss, *gradients = found
    return loss, found.lse, found.z_loss, *gradients


_layer.__signature__ = inspect.signature(fastce.linear_cross_entropy_and_grad)  # type: ignore[attr-defined]
_LAYER_OUTS = {"d_hidden_out": "hidden", "d_weight_out": "weight", "d_bias_out": "bias"}

# by their names in ``fastce``; what follows a blank tells two results of one function apart
FUNCTIONS = {
    "softmax": Function(fastce.softmax, "x", oracles.softmax, {"out": "x"}, 2.5),
    "log_softmax": Function(fastce.log_softmax, "x", oracles.log_softmax, {"out": "x"}, 2.5),
    "logsumexp": Function(fastce.logsumexp, "x", oracles.logsumexp, {"out": "samples"}, 2),
    "logsumexp with b": Function(fastce.logsumexp, "pp", oracles.logsumexp_with_b),
    "softmax_vjp": Function(fastce.softmax_vjp, "x", oracles.softmax_vjp, {"out": "p"}),
    "log_softmax_vjp": Function(fastce.log_softmax_vjp, "x", oracles.log_softmax_vjp, {"out": "logp"}),
    "logsumexp_vjp": Function(fastce.logsumexp_vjp, "x", oracles.logsumexp_vjp, {"out": "x"}),
    "cross_entropy": Function(fastce.cross_entropy, "l", oracles.cross_entropy),
    "cross_entropy_and_grad": Function(
        fastce.cross_entropy_and_grad, "lx", oracles.cross_entropy_and_grad, {"out": "logits"}
    ),
    "cross_entropy_forward": Function(fastce.cross_entropy_forward, "ll", oracles.forward),
    "cross_entropy_backward": Function(_two_passes, "lx", oracles.cross_entropy_and_grad, {"out": "logits"}),
    "CrossEntropyLoss": Function(_criterion, "lxlll", oracles.criterion, {"out": "logits"}),
    "cross_entropy_from_probs": Function(fastce.cross_entropy_from_probs, "l", oracles.from_probs),
    "cross_entropy_from_probs_and_grad": Function(
        fastce.cross_entropy_from_probs_and_grad, "lx", oracles.from_probs, {"out": "probs"}
    ),
    "binary_cross_entropy_with_logits": Function(fastce.binary_cross_entropy_with_logits, "l", oracles.binary),
    "binary_cross_entropy_with_logits_and_grad": Function(
        fastce.binary_cross_entropy_with_logits_and_grad, "lx", oracles.binary, {"out": "logits"}
    ),
    "binary_cross_entropy_from_probs": Function(fastce.binary_cross_entropy_from_probs, "l", oracles.binary_from_probs),
    "binary_cross_entropy_from_probs_and_grad": Function(
        fastce.binary_cross_entropy_from_probs_and_grad, "lx", oracles.binary_from_probs, {"out": "probs"}
    ),
    "sigmoid_focal_loss": Function(fastce.sigmoid_focal_loss, "l", oracles.sigmoid_focal),
    "sigmoid_focal_loss_and_grad": Function(
        fastce.sigmoid_focal_loss_and_grad, "lx", oracles.sigmoid_focal, {"out": "logits"}
    ),
    "kl_divergence": Function(fastce.kl_divergence, "l", oracles.kl_divergence),
    "kl_divergence_and_grad": Function(fastce.kl_divergence_and_grad, "lx", oracles.kl_divergence, {"out": "logits"}),
    "jensen_shannon": Function(fastce.jensen_shannon, "l", oracles.jensen_shannon),
    "jensen_shannon_and_grad": Function(
        fastce.jensen_shannon_and_grad, "lx", oracles.jensen_shannon, {"out": "logits"}
    ),
    "focal_loss": Function(fastce.focal_loss, "l", oracles.focal_loss, eps=1.5),
    "focal_loss_and_grad": Function(fastce.focal_loss_and_grad, "lx", oracles.focal_loss, {"out": "logits"}, 1.5),
    "score": Function(fastce.score, "lli?il", oracles.score),
    "evaluate": Function(_evaluation, "dddddi", oracles.evaluate),
    "cross_entropy_grad_and_hessian": Function(
        fastce.cross_entropy_grad_and_hessian,
        "xx",
        oracles.grad_and_hessian,
        {"out": "logits", "hessian_out": "logits"},
    ),
    "cross_entropy_hvp": Function(fastce.cross_entropy_hvp, "x", oracles.hessian_product, {"out": "logits"}, 10),
    "linear_cross_entropy": Function(fastce.linear_cross_entropy, "l", oracles.linear_cross_entropy),
    "linear_cross_entropy_and_grad": Function(_layer, "lllxwb", oracles.linear_cross_entropy_and_grad, _LAYER_OUTS),
}

# whole arrays, cut into shards
IN_SHARDS = {
    "softmax in shards": Function(shards.softmax, "x", oracles.softmax, {"out": "x"}, 2.5),
    "log_softmax in shards": Function(shards.log_softmax, "x", oracles.log_softmax, {"out": "x"}, 2.5),
    "logsumexp in shards": Function(shards.logsumexp, "x", oracles.logsumexp, eps=2),
    "cross_entropy_and_grad in shards": Function(
        shards.cross_entropy_and_grad, "lx", oracles.cross_entropy_and_grad, {"out": "logits"}
    ),
}


class Call(NamedTuple):
    """A way to call a function: which input is which argument, by the names of the function's, and options."""

    name: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any] = NOTHING

    @property
    def function(self) -> Function:
        """The row of the table."""
        return FUNCTIONS[self.name] if self.name in FUNCTIONS else IN_SHARDS[self.name]

    @property
    def first(self) -> str:
        """The input that results are like: "x" for logits, "p" for probabilities."""
        return next(kind for kind in self.inputs.values() if kind in ("x", "p", "hidden"))

    def arrays(self, inputs: Any) -> dict[str, Any]:
        """The arguments that are arrays."""
        return {argument: getattr(inputs, kind) for argument, kind in self.inputs.items()}

    def run(self, arrays: Mapping[str, Any], **more: Any) -> tuple[Any, ...]:
        """All results for these arguments."""
        return tuple_of(self.function.call(**{**arrays, **self.options, **more}))

    def on(self, inputs: Any, **more: Any) -> tuple[Any, ...]:
        """All results for these inputs, along their class axis where the function has one."""
        along = {"axis": inputs.axis} if self.function.takes("axis") else {}
        return self.run(self.arrays(inputs), **along, **more)

    def on_rows(self, x: Any, axis: int = -1, **more: Any) -> tuple[Any, ...]:
        """All results, unreduced, where all other arguments follow from the values of each row of ``x``."""
        each = {"reduction": "none"} if self.function.takes("reduction") else {}
        return self.on(RowInputs(x, axis), **each, **more)

    def suited(self, x: Any) -> Any:
        """``x`` as the first argument: probabilities where those are wanted."""
        return reference.softmax(x).astype(x.dtype) if self.first == "p" else x

    def with_all_arrays(self) -> "Call":
        """The same, unreduced, with an upstream gradient."""
        if not self.function.takes("reduction"):
            return self
        upstream = "upstream_elements" if self.name.startswith(("binary", "sigmoid")) else "upstream"
        more = {"grad_output": upstream} if self.function.takes("grad_output") else {}
        return Call(self.name, {**self.inputs, **more}, {**self.options, "reduction": "none"})


_INDEX = {"logits": "x", "target": "labels"}
_IGNORING = {"logits": "x", "target": "ignoring"}
_SOFT = {"logits": "x", "target": "soft"}
_ONE_HOT = {"logits": "x", "target": "one_hot"}
_WEIGHTS = {"weight": "weight", "sample_weight": "sample_weight"}
_NUMBERS = {"label_smoothing": 0.1, "z_loss": 0.01}
_PROBS = {"probs": "p", "target": "labels"}
_PROBS_OPTIONS = {"probs": "p", "target": "soft_of_probs", "weight": "weight"}
_ELEMENTS = {"logits": "x", "target": "share"}
_ELEMENT_OPTIONS = {**_ELEMENTS, "weight": "element_weight", "pos_weight": "pos_weight"}
_ELEMENT_PROBS = {"probs": "p", "target": "share"}
_PAIR = {"logits": "x", "target_logits": "teacher"}
_FOCAL = {**_IGNORING, "alpha": "weight"}
_LAYER = {"hidden": "hidden", "weight": "layer_weight", "target": "layer_labels"}
_LAYER_OPTIONS = {**_LAYER, "bias": "bias", "class_weight": "layer_class_weight", "sample_weight": "sample_weight"}

CALLS = {
    "logsumexp": Call("logsumexp", {"x": "x"}),
    "logsumexp b": Call("logsumexp with b", {"x": "x", "b": "b"}),
    "softmax": Call("softmax", {"x": "x"}),
    "log_softmax": Call("log_softmax", {"x": "x"}),
    "logsumexp_vjp": Call("logsumexp_vjp", {"g": "g_samples", "x": "x", "lse": "lse"}),
    "softmax_vjp": Call("softmax_vjp", {"g": "g", "p": "p"}),
    "log_softmax_vjp": Call("log_softmax_vjp", {"g": "g", "logp": "x"}),
    "cross_entropy": Call("cross_entropy", _INDEX),
    "cross_entropy ignoring": Call("cross_entropy_and_grad", _IGNORING),
    "cross_entropy none": Call("cross_entropy_and_grad", _INDEX, {"reduction": "none"}),
    "cross_entropy options": Call("cross_entropy_and_grad", {**_INDEX, **_WEIGHTS}, _NUMBERS),
    "cross_entropy bent": Call(
        "cross_entropy_and_grad", {**_INDEX, "where": "mask"}, {"logit_scale": 0.75, "softcap": 9.0}
    ),
    "cross_entropy soft": Call("cross_entropy_and_grad", _SOFT),
    "cross_entropy soft options": Call("cross_entropy_and_grad", {**_SOFT, **_WEIGHTS}, _NUMBERS),
    "forward": Call("cross_entropy_forward", _IGNORING),
    "backward": Call("cross_entropy_backward", _IGNORING),
    "backward options": Call("cross_entropy_backward", {**_SOFT, **_WEIGHTS, "where": "mask"}, _NUMBERS),
    "CrossEntropyLoss": Call("CrossEntropyLoss", _INDEX, {"z_loss": 0.01}),
    "from_probs": Call("cross_entropy_from_probs_and_grad", _PROBS),
    "from_probs soft": Call("cross_entropy_from_probs_and_grad", _PROBS_OPTIONS, {"label_smoothing": 0.1}),
    "binary": Call("binary_cross_entropy_with_logits_and_grad", _ELEMENTS),
    "binary options": Call("binary_cross_entropy_with_logits_and_grad", _ELEMENT_OPTIONS),
    "kl": Call("kl_divergence_and_grad", _PAIR),
    "kl temperature": Call("kl_divergence_and_grad", _PAIR, {"temperature": 1.7}),
    "kl reverse": Call("kl_divergence_and_grad", _PAIR, {"reverse": True}),
    "jensen_shannon": Call("jensen_shannon_and_grad", _PAIR),
    "jensen_shannon options": Call("jensen_shannon_and_grad", _PAIR, {"beta": 0.9, "temperature": 1.7}),
    "focal": Call("focal_loss_and_grad", _INDEX, {"gamma": 2.0}),
    "focal options": Call("focal_loss_and_grad", _FOCAL, {"gamma": 1.3}),
    "linear": Call("linear_cross_entropy", _LAYER, {"z_loss": 0.01}),
    "score": Call("score", _IGNORING),
    "evaluate": Call("evaluate", _INDEX),
    "grad_and_hessian": Call("cross_entropy_grad_and_hessian", _INDEX),
    "hvp": Call("cross_entropy_hvp", {**_INDEX, "v": "v"}),
    "hvp options": Call("cross_entropy_hvp", {**_SOFT, "v": "v", "weight": "weight"}, {"label_smoothing": 0.1}),
    "binary smoothed": Call(
        "binary_cross_entropy_with_logits_and_grad", _ELEMENTS, {"label_smoothing": 0.1, "ignore_index": 0.0}
    ),
    "binary from_probs": Call("binary_cross_entropy_from_probs_and_grad", _ELEMENT_PROBS),
    "sigmoid_focal": Call("sigmoid_focal_loss_and_grad", _ELEMENTS),
    "sigmoid_focal options": Call("sigmoid_focal_loss_and_grad", _ELEMENTS, {"gamma": 1.3, "alpha": None}),
    "focal soft": Call("focal_loss_and_grad", _SOFT, {"gamma": 2.0}),
    "focal soft options": Call(
        "focal_loss_and_grad", {**_SOFT, "alpha": "weight"}, {"gamma": 1.3, "label_smoothing": 0.1}
    ),
    # with every array that there is, and every target
    "logsumexp where": Call("logsumexp", {"x": "x", "where": "mask"}),
    "logsumexp b where": Call("logsumexp with b", {"x": "x", "b": "b", "where": "mask"}),
    "softmax where": Call("softmax", {"x": "x", "where": "mask"}),
    "log_softmax where": Call("log_softmax", {"x": "x", "where": "mask"}),
    "cross_entropy one-hot options": Call("cross_entropy_and_grad", {**_ONE_HOT, **_WEIGHTS}, _NUMBERS),
    "cross_entropy where": Call(
        "cross_entropy_and_grad", {**_SOFT, "weight": "weight", "where": "mask"}, {"label_smoothing": 0.1}
    ),
    "cross_entropy weighted": Call("cross_entropy_and_grad", {**_INDEX, **_WEIGHTS}, {"label_smoothing": 0.1}),
    "CrossEntropyLoss options": Call("CrossEntropyLoss", {**_SOFT, **_WEIGHTS, "where": "mask"}),
    "from_probs options": Call("cross_entropy_from_probs_and_grad", {**_PROBS, **_WEIGHTS}, {"label_smoothing": 0.1}),
    "from_probs soft options": Call(
        "cross_entropy_from_probs_and_grad",
        {**_PROBS_OPTIONS, "sample_weight": "sample_weight"},
        {"label_smoothing": 0.1},
    ),
    "from_probs one-hot options": Call(
        "cross_entropy_from_probs_and_grad",
        {**_PROBS, **_WEIGHTS, "target": "one_hot"},
        {"label_smoothing": 0.1},
    ),
    "evaluate options": Call("evaluate", {**_INDEX, **_WEIGHTS}, {"label_smoothing": 0.1, "top_k": (1, 3)}),
    "kl options": Call("kl_divergence_and_grad", {**_PAIR, "sample_weight": "sample_weight"}),
    "kl reverse options": Call(
        "kl_divergence_and_grad", {**_PAIR, "sample_weight": "sample_weight"}, {"reverse": True, "temperature": 1.7}
    ),
    "focal all options": Call(
        "focal_loss_and_grad", {**_INDEX, "alpha": "weight", "sample_weight": "sample_weight"}, {"gamma": 2.0}
    ),
    "focal smoothed": Call("focal_loss_and_grad", _FOCAL, {"gamma": 2.0, "label_smoothing": 0.1}),
    "focal number options": Call("focal_loss_and_grad", _INDEX, {"gamma": 2.0, "alpha": 0.25}),
    "binary from_probs options": Call(
        "binary_cross_entropy_from_probs_and_grad",
        {**_ELEMENT_PROBS, "weight": "element_weight", "pos_weight": "pos_weight"},
    ),
    "linear options": Call("linear_cross_entropy_and_grad", _LAYER_OPTIONS, {**_NUMBERS, "logit_scale": 0.75}),
    "grad_and_hessian options": Call(
        "cross_entropy_grad_and_hessian", {**_IGNORING, **_WEIGHTS}, {"label_smoothing": 0.1}
    ),
    "grad_and_hessian soft options": Call(
        "cross_entropy_grad_and_hessian", {**_SOFT, "sample_weight": "sample_weight"}
    ),
    "hvp all options": Call("cross_entropy_hvp", {**_SOFT, "v": "v", **_WEIGHTS}, {"label_smoothing": 0.1}),
}
# the losses alone, of the calls with options for which there is a gradient
CALLS |= {
    f"{name}, loss": call._replace(name=call.name.removesuffix("_and_grad"))
    for name, call in CALLS.items()
    if call.name.endswith("_and_grad") and "options" in name
}

SHARD_CALLS = {
    "shards logsumexp": Call("logsumexp in shards", {"x": "x"}),
    "shards softmax": Call("softmax in shards", {"x": "x"}),
    "shards log_softmax": Call("log_softmax in shards", {"x": "x"}),
    "shards": Call("cross_entropy_and_grad in shards", _IGNORING),
    "shards options": Call(
        "cross_entropy_and_grad in shards", {**_INDEX, **_WEIGHTS}, {**_NUMBERS, "logit_scale": 0.75, "softcap": 9.0}
    ),
    "shards soft": Call("cross_entropy_and_grad in shards", _SOFT),
    "shards soft options": Call("cross_entropy_and_grad in shards", {**_SOFT, **_WEIGHTS}, _NUMBERS),
}

# for the largest grids: calls that run most kernels of the softmax and the losses
FAMILIES = (
    "logsumexp",
    "softmax",
    "log_softmax",
    "cross_entropy",
    "cross_entropy none",
    "cross_entropy soft",
    "cross_entropy weighted",
    "from_probs",
    "binary",
    "sigmoid_focal",
)
# for smaller grids: the other functions, and transformed logits
OTHERS = (
    "softmax_vjp",
    "log_softmax_vjp",
    "logsumexp_vjp",
    "logsumexp b",
    "kl",
    "kl reverse",
    "jensen_shannon",
    "focal",
    "focal soft",
    "binary from_probs",
    "score",
    "grad_and_hessian",
    "hvp",
    "cross_entropy bent",
)
# in the digests of ``tests.bits.digest``, in this order, under these names
DIGESTED = (
    "logsumexp",
    "logsumexp b",
    "softmax",
    "log_softmax",
    "logsumexp_vjp",
    "softmax_vjp",
    "log_softmax_vjp",
    "cross_entropy",
    "cross_entropy ignoring",
    "cross_entropy none",
    "cross_entropy options",
    "cross_entropy bent",
    "cross_entropy soft",
    "cross_entropy soft options",
    "CrossEntropyLoss",
    "from_probs",
    "from_probs soft",
    "binary",
    "binary options",
    "kl",
    "kl temperature",
    "focal",
    "focal options",
    "linear",
    "score",
    "evaluate",
    "grad_and_hessian",
    "hvp",
    "hvp options",
    "binary smoothed",
    "binary from_probs",
    "sigmoid_focal",
    "sigmoid_focal options",
    "focal soft",
    "focal soft options",
    "kl reverse",
    "jensen_shannon",
    "jensen_shannon options",
    "forward",
    "backward options",
    "grad_and_hessian options",
    *SHARD_CALLS,
)
