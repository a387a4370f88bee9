"""What the fuzzer calls: cases as plain choices, how they are built, and what has to come of them.

A case is a dictionary of choices. Those of a field stand from plain to strange, so that a case shrinks by moving
towards the first of each; ``Bad`` ones have to be refused.
"""

from typing import Any, NamedTuple

import numpy as np

import fastce
from tests import reference
from tests.helpers import BFLOAT16, assert_within, computed, finfo, tuple_of
from tests.layouts import LAYOUTS

GUARD = 256  # bytes before and behind every array
ERRORS = (TypeError, ValueError, IndexError)  # those documented; AxisError is of the latter two
EPS = 64  # of the sum of magnitudes that a result is made of
WORDS = ("mean", "sum", "none")


class Bad(NamedTuple):
    """A choice that must be refused."""

    value: Any


class Function(NamedTuple):
    """What of a case a function takes."""

    call: Any
    fields: tuple[str, ...]


FAMILY = ("axis", "out")
LOSS = ("axis", "target", "options", "reduction")
FUNCTIONS = {
    "softmax": Function(fastce.softmax, FAMILY),
    "log_softmax": Function(fastce.log_softmax, FAMILY),
    "logsumexp": Function(fastce.logsumexp, FAMILY),
    "cross_entropy": Function(fastce.cross_entropy, LOSS),
    "cross_entropy_and_grad": Function(fastce.cross_entropy_and_grad, (*LOSS, "grad_output", "out")),
    "binary": Function(fastce.binary_cross_entropy_with_logits_and_grad, ("reduction", "out")),
    "from_probs": Function(fastce.cross_entropy_from_probs_and_grad, ("axis", "target", "reduction", "out")),
}
FIELDS: dict[str, tuple[Any, ...]] = {
    "function": tuple(FUNCTIONS),
    "shape": (
        *((2, 3), (1, 1), (4,), (7, 5), (17, 10), (3, 33), (5, 70), (2, 1030), (2, 3, 4), (2, 5, 3, 2), (9, 40, 17)),
        *((0,), (0, 4), (4, 0), (2, 0, 3), (1300, 40), (33, 1030), (20, 30, 70), (1, 70001), (3, 70001), Bad(())),
    ),
    "axis": (-1, 0, 1, -2, 2, Bad(9), Bad(0.5), Bad("last")),
    "dtype": ("float64", "float32", "float16", "bfloat16", "int32", "uint8", "bool", Bad("complex64"), Bad("U2")),
    "layout": tuple(LAYOUTS),
    "values": ("normal", "zero", "equal", "wide", "huge", "tiny", "-inf", "nothing but -inf", "inf", "nan", "any"),
    "target": (
        *("labels", "soft", "one-hot", "int8", "uint64", "big-endian", "ignored", "all ignored"),
        *(Bad("too large"), Bad("negative"), Bad("floats"), Bad("short"), Bad("complex")),
    ),
    "options": (
        *((), ("weight",), ("sample_weight",), ("label_smoothing",), ("z_loss",), ("normalizer",), ("ignore_index",)),
        *(("logit_scale",), ("softcap",), ("where",), ("weight", "sample_weight", "label_smoothing")),
        *(("weight", "z_loss", "softcap"), ("where", "label_smoothing", "weight", "logit_scale")),
        *(Bad(("weight",)), Bad(("sample_weight",)), Bad(("label_smoothing",)), Bad(("softcap",)), Bad(("where",))),
    ),
    "reduction": (*WORDS, Bad("average"), Bad(None)),
    "grad_output": (None, -1.5, "each"),
    "out": (
        *(None, "C order", "Fortran order", "every other class", "other byte order", "in place"),
        *(Bad("short"), Bad("integers"), Bad("read-only"), Bad("overlap"), Bad("list")),
    ),
    "seed": tuple(range(1 << 16)),
}
Case = dict[str, Any]


def plain(choice: Any) -> Any:
    """The value of a choice, bad or not."""
    return choice.value if isinstance(choice, Bad) else choice


def relevant(case: Case) -> set[str]:
    """The fields that this case's function looks at."""
    fields = FUNCTIONS[case["function"]].fields
    return {"dtype", *fields, *(["shape"] if "axis" in fields else [])}


def must_raise(case: Case) -> bool:
    """Whether anything in the case is bad that the function looks at."""
    shape, axis = plain(case["shape"]), case["axis"]
    used = relevant(case)
    if "axis" in used and not isinstance(axis, Bad) and not -len(shape) <= axis < len(shape):
        return True
    return any(isinstance(case[name], Bad) for name in used)


class Guarded:
    """An array in the layout asked for, with zones around it that nobody may touch."""

    def __init__(self, values: np.ndarray, layout: str = "C order") -> None:
        view = LAYOUTS[layout](values) if values.ndim else values
        root = view
        while isinstance(root.base, np.ndarray):
            root = root.base
        offset = view.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        inside = np.frombuffer(root.tobytes("A"), np.uint8)
        self.memory = np.concatenate([np.full(GUARD, 0xA5, np.uint8), inside, np.full(GUARD, 0xA5, np.uint8)])
        self.array = np.ndarray(view.shape, view.dtype, self.memory, GUARD + offset, view.strides)
        self.before = self.memory.copy()
        self.array.flags.writeable = view.flags.writeable

    def is_untouched(self) -> bool:
        """Whether all is as it was, zones and gaps included."""
        return bool(np.array_equal(self.memory, self.before))

    def is_untouched_around(self) -> bool:
        """Whether all but the elements is as it was."""
        old = np.ndarray(self.array.shape, self.array.dtype, self.before, self._offset(), self.array.strides)
        now = self.memory.copy()
        np.ndarray(self.array.shape, self.array.dtype, now, self._offset(), self.array.strides)[...] = old
        return bool(np.array_equal(now, self.before))

    def _offset(self) -> int:
        return self.array.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]


def values_of(kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Logits of one kind."""
    x = rng.normal(size=shape) * 3
    if dtype.kind in "iub":
        return np.abs(x).astype(dtype) if dtype.kind != "i" else x.astype(dtype)
    if dtype.kind not in "fV" and dtype != BFLOAT16:
        return np.zeros(shape, dtype)
    info = finfo(dtype)
    somewhere = rng.random(shape) < 0.3
    large = float(info.max) * (1e-6 if info.max > 1e5 else 0.01)  # whose sums are finite
    made = {
        "normal": lambda: x,
        "zero": lambda: x * 0,
        "equal": lambda: np.full(shape, 2.5),
        "wide": lambda: x * 100,
        "huge": lambda: x * large,
        "tiny": lambda: x * float(info.tiny),
        "-inf": lambda: np.where(somewhere, -np.inf, x),
        "nothing but -inf": lambda: np.full(shape, -np.inf),
        "inf": lambda: np.where(somewhere, np.inf, x),
        "nan": lambda: np.where(somewhere, np.nan, x),
        "any": lambda: rng.choice([-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, 30.0, large], shape),
    }[kind]()
    with np.errstate(all="ignore"):
        return np.asarray(made).astype(dtype)


class Call:
    """A case, built: arrays in guarded memory, and keywords."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rng = np.random.default_rng(case["seed"])
        self.name = case["function"]
        self.fields = FUNCTIONS[self.name].fields
        name = plain(case["dtype"])
        self.dtype = BFLOAT16 if name == "bfloat16" else np.dtype(name)
        is_counted = self.dtype.kind in "iub"
        self.result_dtype = np.dtype(np.float64) if is_counted or self.dtype.kind in "cU" else self.dtype
        self.loss_dtype = computed(self.result_dtype)
        self.shape = plain(case["shape"])
        self.axis = plain(case["axis"]) if "axis" in self.fields else -1
        is_axis = isinstance(self.axis, int) and -len(self.shape) <= self.axis < len(self.shape)
        self.real_axis = self.axis if is_axis else -1
        self.samples = tuple(map(int, np.delete(self.shape, self.real_axis))) if self.shape else ()
        self.classes = self.shape[self.real_axis] if self.shape else 1
        values = values_of(case["values"], self.shape, self.dtype, self.rng)
        if self.name == "from_probs" and self.dtype.kind not in "cU":
            with np.errstate(invalid="ignore"):
                values = np.nan_to_num(np.abs(values.astype(np.float64)) % 1).astype(self.dtype)
        plain_layout = not values.size or (case["layout"] == "unaligned" and values.itemsize == 1)
        self.x = Guarded(values, "C order" if plain_layout else case["layout"])
        self.guarded = {"first argument": self.x}
        self.keywords: dict[str, Any] = {"axis": self.axis} if "axis" in self.fields else {}
        self.positional = [self.x.array]
        if "target" in self.fields:
            self.positional.append(self._keep("target", self._target(plain(case["target"]))))
        elif self.name == "binary":
            self.positional.append(self._keep("target", self.rng.random(self.shape)))
        if "options" in self.fields:
            for option in plain(case["options"]):
                self.keywords[option] = self._option(option, isinstance(case["options"], Bad))
        if "reduction" in self.fields:
            self.keywords["reduction"] = plain(case["reduction"])
        if "grad_output" in self.fields:
            self._grad_output()
        self.out: Guarded | None = None
        self.oracle_arguments = [np.array(a) for a in self.positional], dict(self.keywords)
        if "out" in self.fields and case["out"] is not None:
            self.keywords["out"] = self._out(plain(case["out"]))

    def _keep(self, name: str, values: np.ndarray, layout: str = "C order") -> np.ndarray:
        self.guarded[name] = Guarded(np.asarray(values), layout)
        return self.guarded[name].array

    def _target(self, kind: str) -> np.ndarray:
        labels = self.rng.integers(0, max(self.classes, 1), self.samples)
        one = np.zeros(self.shape or (1,))
        if one.size and self.shape:
            np.put_along_axis(one, np.expand_dims(labels, self.real_axis), 1.0, self.real_axis)
        somewhere = self.rng.random(self.samples) < 0.4
        return {
            "labels": lambda: labels,
            "soft": lambda: self.rng.random(self.shape) / max(self.classes, 1),
            "one-hot": lambda: one,
            "int8": lambda: (labels % 128).astype(np.int8),
            "uint64": lambda: labels.astype(np.uint64),
            "big-endian": lambda: labels.astype(">i4"),
            "ignored": lambda: np.where(somewhere, self._ignored(), labels),
            "all ignored": lambda: np.full(self.samples, self._ignored()),
            "too large": lambda: labels + self.classes,
            "negative": lambda: -1 - labels,
            "floats": lambda: labels + 0.5,
            "short": lambda: np.zeros((*self.samples, 2, 2), int),
            "complex": lambda: one.astype(complex).reshape(self.shape),
        }[kind]()

    def _ignored(self) -> int:
        return 1 if "ignore_index" in plain(self.case["options"]) and "options" in self.fields else -100

    def _option(self, name: str, bad: bool) -> Any:
        if bad:
            return {
                "weight": np.ones(self.classes + 1),
                "sample_weight": np.ones((*self.samples, 3)),
                "label_smoothing": 1.5,
                "softcap": -1.0,
                "where": np.ones(self.shape),
            }[name]
        return {
            "weight": lambda: self._keep("weight", self.rng.random(self.classes) + 0.1),
            "sample_weight": lambda: self._keep("sample_weight", self.rng.random(self.samples)),
            "label_smoothing": lambda: 0.25,
            "z_loss": lambda: 0.01,
            "normalizer": lambda: 7.0,
            "ignore_index": lambda: 1,
            "logit_scale": lambda: 0.5,
            "softcap": lambda: 5.0,
            "where": lambda: self._keep("where", self.rng.random(self.shape) < 0.7),
        }[name]()

    def _grad_output(self) -> None:
        choice = self.case["grad_output"]
        if choice == "each" and self.keywords["reduction"] == "none":
            self.keywords["grad_output"] = self._keep("grad_output", self.rng.normal(size=self.samples))
        elif choice not in (None, "each"):
            self.keywords["grad_output"] = choice

    def _out(self, kind: str) -> Any:
        shape = self.samples if self.name == "logsumexp" else self.shape
        wanted = self.result_dtype
        if kind == "in place" and self.name != "logsumexp" and wanted == self.dtype and self.x.array.flags.writeable:
            self.out = self.x
            return self.x.array
        if kind == "list":
            return [0.0]
        if kind == "overlap":
            self.out = Guarded(np.ones(1, wanted))
            return np.lib.stride_tricks.as_strided(self.out.array, shape, (0,) * len(shape))
        if kind == "short":
            shape = (*shape, 2)
        layout = kind if kind in LAYOUTS else "C order"
        if layout != "C order" and (not shape or 0 in shape):
            layout = "C order"
        self.out = Guarded(np.full(shape, 3, np.int64 if kind == "integers" else wanted), layout)
        self.out.array.flags.writeable = kind != "read-only"
        return self.out.array

    def run(self) -> Any:
        """Call the function."""
        with np.errstate(all="raise"):
            return FUNCTIONS[self.name].call(*self.positional, **self.keywords)

    def everything(self) -> list[tuple[str, Guarded]]:
        """Return all guarded arrays by name."""
        return [*self.guarded.items(), *([("out", self.out)] if self.out is not None else [])]

    def expected(self) -> list[tuple[np.ndarray, np.ndarray, np.dtype[Any]]]:
        """Return (value, magnitude that errors are measured by, dtype) of each result, from the oracle."""
        (x, *rest), options = self.oracle_arguments
        with np.errstate(all="ignore"):
            finite = np.abs(np.where(np.isfinite(reference.real(x)), reference.real(x), 0)).max(initial=0)
            reach = 1 + min(float(finite) * abs(options.get("logit_scale", 1.0)), float(finfo(self.loss_dtype).max))
            found = getattr(self, f"_{self.name}")(x, *rest, reach=reach, **options)
        losses = self.name not in ("softmax", "log_softmax", "logsumexp")
        return [(e, s, self.loss_dtype if losses and not k else self.result_dtype) for k, (e, s) in enumerate(found)]

    def _softmax(self, x, reach, axis):
        p = reference.softmax(x, axis)
        return [(p, p * (1 + min(reach, 800)))]

    def _log_softmax(self, x, reach, axis):
        logs = reference.log_softmax(x, axis)
        return [(logs, np.maximum(np.abs(logs), 1))]

    def _logsumexp(self, x, reach, axis):
        lse = reference.logsumexp(x, axis)
        invalid = np.isnan(reference.real(x)).any(axis)
        return [(np.where(invalid, np.nan, lse), np.maximum(np.abs(lse), 1))]

    def _cross_entropy(self, x, target, reach, grad_output=None, **options):
        loss = reference.cross_entropy(x, target, **options)
        each = reference.cross_entropy(x, target, **(options | {"reduction": "none"}))
        t, kept, denominator, _ = reference.coefficients(
            np.shape(x), target, **{k: v for k, v in options.items() if k in COEFFICIENTS}
        )
        scale = np.where(kept, np.abs(np.nan_to_num(each)) + t.sum(-1) * (reach + np.log(max(self.classes, 1))), 0)
        if options["reduction"] != "none":
            scale = np.abs(scale.sum() / (denominator if options["reduction"] == "mean" else 1))
        return [(loss, scale)]

    def _cross_entropy_and_grad(self, x, target, reach, grad_output=None, **options):
        grad = reference.cross_entropy_grad(x, target, grad_output=grad_output, **options)
        terms = reference.cross_entropy_grad(x, target, grad_output=grad_output, terms=True, **options)
        return [*self._cross_entropy(x, target, reach, **options), (grad, np.abs(terms) * (1 + min(reach, 800)))]

    def _from_probs(self, x, target, reach, axis, reduction):
        tiny = float(finfo(self.loss_dtype).tiny)
        loss = reference.cross_entropy_from_probs(x, target, axis=axis, reduction=reduction, tiny=tiny)
        grad = reference.cross_entropy_from_probs_grad(x, target, axis=axis, reduction=reduction, tiny=tiny)
        return [(loss, np.maximum(np.abs(loss), 1)), (grad, np.abs(grad))]

    def _binary(self, x, target, reach, reduction):
        loss = reference.binary_cross_entropy_with_logits(x, target, reduction=reduction)
        grad = reference.binary_cross_entropy_with_logits_grad(x, target, reduction=reduction)
        many, few = (x.size, 1) if reduction == "sum" else (1, max(x.size, 1) if reduction == "mean" else 1)
        return [(loss, np.maximum(np.abs(loss), many * reach)), (grad, np.maximum(np.abs(grad), 1 / few))]


COEFFICIENTS = {
    *("axis", "weight", "sample_weight", "ignore_index", "label_smoothing", "normalizer", "where"),
}


def trouble(case: Case) -> str | None:
    """Run a case; return what is wrong with what came of it, None for nothing."""
    call = Call(case)
    try:
        results = tuple_of(call.run())
    except ERRORS as error:
        if not must_raise(case) and not _may_raise(call):
            return f"{type(error).__name__}: {error}"
        touched = [name for name, array in call.everything() if not array.is_untouched()]
        return f"{', '.join(touched)} written to before {type(error).__name__}" if touched else None
    except Exception as error:  # anything else is not documented
        return f"undocumented {type(error).__name__}: {error}"
    if must_raise(case) and not _is_moot(call):
        return "no error"
    for name, array in call.everything():
        if array is not call.out and not array.is_untouched():
            return f"{name} written to"
    if call.out is not None and not call.out.is_untouched_around():
        return "memory around out written to"
    if must_raise(case) or not call.classes:
        return None
    return _difference(call, results)


def _may_raise(call: Call) -> bool:
    """Whether a case without a bad choice is one to refuse: a label, where there are no classes."""
    labels = "target" in call.fields and call.case["target"] not in ("soft", "one-hot", "all ignored")
    return labels and call.classes == 0


def _is_moot(call: Call) -> bool:
    """Whether the bad choice cannot be seen: no label is out of range, nothing overlaps itself."""
    return 0 in call.shape or call.case["out"] == Bad("overlap")


def _difference(call: Call, results: tuple[Any, ...]) -> str | None:
    try:
        for actual, (value, scale, dtype) in zip(results, call.expected(), strict=True):
            eps = EPS if finfo(dtype).bits > 16 else 4
            with np.errstate(over="ignore"):
                scale = np.abs(np.nan_to_num(np.asarray(scale, np.float64)))
            assert actual.dtype.newbyteorder("=") == dtype, f"dtype {actual.dtype}, not {dtype}"
            assert_within(actual, value, eps, scale=scale)
        if "out" in call.keywords and results[-1] is not call.keywords["out"]:
            return "out is not returned"
    except AssertionError as error:
        return str(error)
    return None
