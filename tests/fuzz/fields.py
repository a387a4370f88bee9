"""What the fuzzer chooses from: the functions, and for each the fields of a case and their choices.

The choices of a field stand from plain to strange, so that a case shrinks by moving towards the first of each;
``Bad`` ones have to be refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tests import functions
from tests.fuzz.arrays import VALUES
from tests.fuzz.objects import KINDS
from tests.oracle.layouts import LAYOUTS

Case = dict[str, Any]


class Bad(NamedTuple):
    """A choice that must be refused."""

    value: Any


class Beyond(NamedTuple):
    """A number that leaves the range of the dtype computed in."""

    is_large: bool


TINY, HUGE = Bad(Beyond(False)), Bad(Beyond(True))


def plain(choice: Any) -> Any:
    """The value of a choice, bad or not."""
    return choice.value if isinstance(choice, Bad) else choice


class Function(NamedTuple):
    """A function, and what of a case it takes; see ``tests.functions``."""

    call: Callable[..., Any]
    fields: dict[str, tuple[Any, ...]]


DTYPES = ("float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool", Bad("complex64"), Bad("U2"))
LARGE = ((1300, 40), (33, 1030), (3300, 10), (20, 30, 70), (1, 70_001))  # enough for several threads
SMALL = (
    *((2, 3), (1, 1), (4,), (7, 5), (17, 10), (3, 33), (5, 70), (2, 1030), (2, 3, 4), (2, 5, 3, 2), (9, 40, 17)),
    *((0,), (0, 4), (4, 0), (2, 0, 3), ()),
)
LOGITS = {"shape": (*SMALL, *LARGE), "dtype": DTYPES, "layout": tuple(LAYOUTS), "values": VALUES}
AXIS = {"axis": (-1, 0, 1, -2, 2, Bad(9), Bad(0.5), Bad("last"))}
AXES = {"axis": (-1, 0, 1, -2, 2, None, (0, 1), (0, -1), (-2, -1), (), Bad(9), Bad("last"), Bad((0, 0)), Bad((0, 9)))}
OTHER = {"other": ("same", "float64", "float32", "float16", "bfloat16"), "other layout": tuple(LAYOUTS)}
BAD_OTHER = OTHER | {"other": (*OTHER["other"], "int32", Bad("complex64"), Bad("short"))}
LABELS = ("labels", "int8", "uint64", "big-endian", "ignored", "all ignored")
BAD_LABELS = tuple(map(Bad, ("too large", "negative", "floats", "short", "complex", "not one-hot")))
TARGET = OTHER | {"target": ("labels", "soft", "one-hot", *LABELS[1:], "one-hot integers", *BAD_LABELS)}
HARD = {"target": (*LABELS, "one-hot integers", *BAD_LABELS, Bad("soft"))}
REDUCTION = {"reduction": ("mean", "sum", "none", Bad("average"), Bad(None))}
UPSTREAM = {"grad_output": (None, -1.5, "each", 0.0, Bad("short"), Bad("g"))}
OUT = {
    "out": (
        *(None, "C order", "Fortran order", "every other class", "other byte order", "in foreign memory"),
        *("over an argument", "in place", "float32"),
        *map(Bad, ("short", "integers", "read-only", "list", "overlaps itself", "overlaps the first argument")),
    )
}
OUT_OF_TWO = {"out": (*OUT["out"][:9], "in place of the other", *OUT["out"][9:])}
MORE_OUT = {
    "more out": (
        *OUT["out"][:7],
        "float32",
        *map(Bad, ("short", "integers", "read-only", "list", "the first argument")),
    )
}
EVERY = {
    "objects": KINDS,  # what arrays are passed as
    "others": ("normal", "tiny", "any"),  # the values of arguments beside the first
    "weights": ("positive", "some zero"),
    "left out": ("as the others", "not numbers"),  # what no result depends on
    "floating-point errors": ("raise", "warn"),  # and warnings are errors
    "beside a writer": (False, True),  # to one of the arguments
    "seed": tuple(range(1 << 16)),
}


def options(*sets: tuple[str, ...] | Bad) -> dict[str, tuple[Any, ...]]:
    """Sets of options, none first."""
    return {"options": ((), *sets)}


def bad(*names: str) -> tuple[Bad, ...]:
    """Each of these options alone, with a value that must be refused."""
    return tuple(Bad((name,)) for name in names)


def beyond(*names: str) -> tuple[tuple[str, ...], ...]:
    """Each of these weights alone, out of the range of float32: refused where that is computed in."""
    return tuple((f"beyond {name}",) for name in names)


ALL_WEIGHTS = ("weight", "sample_weight", "label_smoothing")
IGNORING = (("ignore_index",), ("no ignore_index",))
RANGED = ("z_loss", "logit_scale", "softcap", "normalizer")  # numbers that must not leave the range of the dtype
OUT_OF_RANGE = bad(*(f"{size} {name}" for name in RANGED for size in ("tiny", "huge")))
CROSS_ENTROPY = options(
    *(("weight",), ("sample_weight",), ("label_smoothing",), ("z_loss",), ("normalizer",), *IGNORING),
    *(("logit_scale",), ("softcap",), ("where",), ALL_WEIGHTS, ("weight", "z_loss", "softcap")),
    *(("where", "label_smoothing", "weight", "logit_scale"), ("where", "no ignore_index", "z_loss", "sample_weight")),
    *(("any normalizer",), ("zero normalizer",), ("zero normalizer", "zero sample_weight")),
    *(("zero normalizer", "weight", "ignore_index"), ("softcap", "logit_scale", "normalizer", "sample_weight")),
    *beyond("weight", "sample_weight"),
    *bad("weight", "sample_weight", "label_smoothing", "softcap", "where", "normalizer", "z_loss", "logit_scale"),
    *(*bad("ignore_index"), *OUT_OF_RANGE),
)
FROM_PROBS = {
    "probs": ("right", Bad("wrong")),
    **options(
        *(("weight",), ("sample_weight",), *IGNORING, ("label_smoothing",), ALL_WEIGHTS),
        ("weight", "ignore_index"),
        *beyond("weight", "sample_weight"),
        *bad("weight", "sample_weight", "label_smoothing", "ignore_index"),
    ),
}
GAMMA = (2.0, 0.0, 0.5, 1, 3.7, Bad(-1.0), Bad("two"), Bad(np.nan), Bad(np.inf), TINY, HUGE)
FOCAL = {
    "gamma": GAMMA,
    **options(
        *(("alpha",), *IGNORING, ("sample_weight",), ("alpha", "sample_weight", "ignore_index")),
        *(("label_smoothing",), ("number alpha",), ("alpha", "label_smoothing", "sample_weight")),
        *(("number alpha", "label_smoothing", "no ignore_index"), ("zero alpha",)),
        *beyond("alpha", "sample_weight"),
        *bad("alpha", "sample_weight", "label_smoothing", "ignore_index", "tiny alpha", "huge alpha"),
    ),
}
TEMPERATURE = {"temperature": (1.0, 2.5, 0.3, Bad(0.0), Bad("hot"), Bad(-1.0), Bad(np.nan), Bad(np.inf), TINY, HUGE)}
KL_OPTIONS = {
    **TEMPERATURE,
    "reverse": (False, True, Bad("yes")),
    **options(("sample_weight",), *beyond("sample_weight"), *bad("sample_weight")),
}
JS_OPTIONS = {
    **TEMPERATURE,
    "beta": (0.5, 0.1, 0.9, 0.0, 1.0, 1e-3, Bad(-0.1), Bad(1.5), Bad("half"), Bad(np.nan), TINY),
}
HVP = options(
    *(("weight",), ("sample_weight",), ("label_smoothing",), ALL_WEIGHTS, *IGNORING),
    *beyond("weight", "sample_weight"),
    *bad("weight", "sample_weight", "label_smoothing", "ignore_index"),
)
LINEAR = {
    "shape": ((2, 3), (1, 1), (4,), (7, 5), (17, 10), (2, 3, 4), (0, 3), (4, 0), (300, 7)),
    "classes": (3, 1, 40, 130, 0),
    "dtype": DTYPES,
    "layout": tuple(LAYOUTS),
    "values": ("normal", "zero", "equal", "wide", "nan", "tiny"),
    **BAD_OTHER,
    **HARD,
    **options(
        *(("bias",), ("class_weight",), ("label_smoothing",), ("z_loss",), ("softcap",), ("normalizer",)),
        *(("max_bytes",), ("bias", "max_bytes", "class_weight", "label_smoothing", "z_loss", "softcap")),
        *(*IGNORING, ("bias", "ignore_index", "max_bytes"), ("sample_weight",), ("logit_scale",)),
        *(("any normalizer",), ("zero normalizer",), ("zero normalizer", "zero sample_weight")),
        ("sample_weight", "logit_scale", "z_loss", "max_bytes"),
        ("sample_weight", "logit_scale", "softcap", "class_weight", "label_smoothing", "ignore_index"),
        *bad("bias", "class_weight", "label_smoothing", "softcap", "normalizer", "max_bytes", "sample_weight"),
        *beyond("class_weight", "sample_weight"),
        *(*bad("logit_scale", "z_loss", "ignore_index"), *OUT_OF_RANGE),
    ),
    **REDUCTION,
}


def _function(name: str, *fields: dict[str, tuple[Any, ...]]) -> Function:
    row = functions.FUNCTIONS[name]
    return Function(row.call, {field: choices for part in (*fields, EVERY) for field, choices in part.items()})


FAMILY = (LOGITS, AXES, OUT)
MASKED = options(("where",), *bad("where"))
SUMS = options(("keepdims",), ("where",), ("where", "keepdims"), *bad("where"))
WEIGHTED = options(("keepdims",), ("where",), ("no sign",), ("scalar b",), ("where", "keepdims"), *bad("where"))
VJP = (LOGITS, AXES, BAD_OTHER)
CE = (LOGITS, AXIS, TARGET, CROSS_ENTROPY, REDUCTION)
PROBS = (LOGITS, AXIS, TARGET, FROM_PROBS, REDUCTION)
ELEMENT_WEIGHTS = (
    *(("weight",), ("pos_weight",), ("weight", "pos_weight"), *beyond("weight", "pos_weight")),
    *bad("weight", "pos_weight"),
)
BINARY = (
    LOGITS,
    BAD_OTHER,
    options(
        *(*ELEMENT_WEIGHTS, ("label_smoothing",), ("ignore_index",), ("NaN ignore_index",)),
        ("weight", "pos_weight", "label_smoothing", "ignore_index"),
        *bad("label_smoothing", "element ignore_index"),
    ),
    REDUCTION,
)
BINARY_PROBS = (LOGITS, BAD_OTHER, {"probs": ("right", Bad("wrong"))}, options(*ELEMENT_WEIGHTS), REDUCTION)
SHARE = (0.25, None, 0.0, 1, Bad(1.5), Bad(-0.1), Bad("a"), Bad(np.nan), TINY)
SIGMOID_FOCAL = (LOGITS, BAD_OTHER, {"gamma": GAMMA, "alpha": SHARE}, REDUCTION)
KL = (LOGITS, AXIS, BAD_OTHER, KL_OPTIONS, REDUCTION)
JS = (LOGITS, AXIS, BAD_OTHER, JS_OPTIONS, REDUCTION)
FOCAL_LOSS = (LOGITS, AXIS, TARGET, FOCAL, REDUCTION)
SCORES = (
    *(LOGITS, AXIS, HARD),
    options(("top_k",), *IGNORING, ("top_k", "ignore_index"), *bad("top_k", "ignore_index")),
)
EVALUATED = {
    "given": ("a batch", "arrays", "sums"),
    **options(
        *(("top_k",), *IGNORING, ("weight",), ("sample_weight",), ("label_smoothing",), ALL_WEIGHTS),
        *(("several top_k",), ("several top_k", "ignore_index", "weight", "sample_weight"), *beyond("weight")),
        *bad("top_k", "weight", "sample_weight", "label_smoothing", "ignore_index"),
    ),
}
DIAGONAL = options(
    *(("sample_weight",), ("hessian_scale",), ("weight",), ("label_smoothing",), *IGNORING, ALL_WEIGHTS),
    *((*ALL_WEIGHTS, "hessian_scale"), ("zero hessian_scale",), *beyond("weight", "sample_weight")),
    *bad("sample_weight", "hessian_scale", "weight", "label_smoothing", "ignore_index"),
    *bad("tiny hessian_scale", "huge hessian_scale"),
)

FIELDS = {
    "softmax": (*FAMILY, MASKED),
    "log_softmax": (*FAMILY, MASKED),
    "logsumexp": (*FAMILY, SUMS),
    "logsumexp with b": (*FAMILY, WEIGHTED, BAD_OTHER),
    "softmax_vjp": (*VJP, OUT_OF_TWO),
    "log_softmax_vjp": (*VJP, OUT_OF_TWO),
    "logsumexp_vjp": (*VJP, OUT),
    "cross_entropy": CE,
    "cross_entropy_and_grad": (*CE, UPSTREAM, OUT),
    "cross_entropy_forward": CE,
    "cross_entropy_backward": (*CE, UPSTREAM, OUT),
    "CrossEntropyLoss": (*CE, UPSTREAM, OUT),
    "cross_entropy_from_probs": PROBS,
    "cross_entropy_from_probs_and_grad": (*PROBS, UPSTREAM, OUT),
    "binary_cross_entropy_with_logits": BINARY,
    "binary_cross_entropy_with_logits_and_grad": (*BINARY, UPSTREAM, OUT_OF_TWO),
    "binary_cross_entropy_from_probs": BINARY_PROBS,
    "binary_cross_entropy_from_probs_and_grad": (*BINARY_PROBS, UPSTREAM, OUT_OF_TWO),
    "sigmoid_focal_loss": SIGMOID_FOCAL,
    "sigmoid_focal_loss_and_grad": (*SIGMOID_FOCAL, UPSTREAM, OUT_OF_TWO),
    "kl_divergence": KL,
    "kl_divergence_and_grad": (*KL, UPSTREAM, OUT_OF_TWO),
    "jensen_shannon": JS,
    "jensen_shannon_and_grad": (*JS, UPSTREAM, OUT_OF_TWO),
    "focal_loss": FOCAL_LOSS,
    "focal_loss_and_grad": (*FOCAL_LOSS, UPSTREAM, OUT),
    "score": SCORES,
    "evaluate": (LOGITS, AXIS, HARD, EVALUATED),
    "cross_entropy_grad_and_hessian": (LOGITS, AXIS, TARGET, DIAGONAL, OUT, MORE_OUT),
    "cross_entropy_hvp": (LOGITS, AXIS, TARGET, {"v": BAD_OTHER["other"]}, HVP, REDUCTION, UPSTREAM, OUT_OF_TWO),
    "linear_cross_entropy": (LINEAR,),
    "linear_cross_entropy_and_grad": (LINEAR, UPSTREAM, OUT, MORE_OUT, {"accumulate": (False, True)}),
}
FUNCTIONS = {name: _function(name, *fields) for name, fields in FIELDS.items()}
