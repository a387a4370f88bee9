"""A case of the fuzzer as a call: arrays in guarded memory, keywords, and whether it has to be refused."""

import warnings
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tests import functions
from tests.fuzz.arrays import Guarded, dtype_of, values_of
from tests.fuzz.fields import FUNCTIONS, Bad, Beyond, Case, plain
from tests.fuzz.left_out import left_out
from tests.fuzz.objects import BACKINGS, as_object
from tests.fuzz.targets import Problem, soft_target, target_of
from tests.helpers import computed, finfo, tuple_of
from tests.oracle import reference

BUILT = (
    "target",
    "out",
    "more out",
    "probs",
)  # fields whose bad choices only matter where there is something to be seen
ERRORS = (TypeError, ValueError, IndexError)  # those documented; AxisError is of the latter two
ERROR_OF = {"not one-hot": ValueError, "too large": IndexError, "negative": IndexError}  # of targets, if nothing else
PER_CLASS = ("weight", "alpha", "class_weight", "bias")
NUMBERS = {
    "label_smoothing": (0.25, 1.0, 1e-3),
    "z_loss": (0.01, -0.02),
    "normalizer": (7.0, 0.3),
    "logit_scale": (0.5, -1.25),
    "softcap": (5.0, 0.5, 300.0),
    "alpha": (0.3, -2.0),
    "hessian_scale": (2.0, -0.5),
}
NAMED = ("axis", "reduction", "gamma", "alpha", "temperature", "beta", "reverse", "grad_output")
IGNORED = (1, 1, 1, 0, -1, 255, -(2**63), 2**63 - 1)
OUT_OF_FLOAT32 = (1e39, -1e39, 4e38, 1e-46, -1e-46)
NOT_NUMBERS = (np.nan, np.inf, -np.inf)
WRONG_PROBABILITIES = (np.nan, np.inf, -0.5, 1.5)
TINY = 3e-39  # not normal in float32
EXTREMES = (np.nan, np.inf, -np.inf, 1e39, 1e300, -1e300, 5e-324, 1e-46, 0.0, -0.0, -2.0)


def like(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of results that are like an array of this one."""
    return np.dtype(np.float64) if dtype.kind in "iubcUO" else dtype


OUTS = {
    **{("x", 0): "out", ("p", 0): "out", ("x", 1): "hessian_out"},
    **{("w", 0): "d_weight_out", ("b", 0): "d_bias_out"},
}  # by letters of results
MORE = ("hessian_out", "d_weight_out", "d_bias_out")


def results_of(name: str) -> str:
    """The letters of a function's results."""
    return functions.FUNCTIONS[name].results


class Call:
    """A case, built."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.name: str = case["function"]
        self.function = FUNCTIONS[self.name]
        self.fields = self.function.fields
        self.rng = np.random.default_rng(case["seed"])
        unseen = (*BUILT, "other") if "scalar b" in plain(case.get("options", ())) else BUILT
        self.reasons: list[str] = []  # why it has to be refused: names for the message, or nothing
        for name, choice in case.items():
            if isinstance(choice, Bad) and name not in unseen:
                names = plain(choice) if name == "options" else (name if name in NAMED and case["shape"] else "",)
                self._refuse(names[0].rpartition(" ")[2])
        self.errors: tuple[type[Exception], ...] = ERRORS  # those that may be raised
        self.may_raise = False  # for overlap, or do what is asked
        self.is_refused = False  # once run
        self.is_tiny = False  # whether an argument has tiny values
        self.raced = 0  # how many calls there were beside a writer
        self.labels: np.ndarray | None = None
        self.guarded: dict[str, Guarded] = {}
        self.outs: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # arrays to write to, and what they hold before
        self.keywords: dict[str, Any] = {}
        self.dtype = dtype_of(plain(case["dtype"]))
        self._shapes()
        self.positional = self._arguments()
        if "target" in self.fields:
            self.positional.insert(2 if self.is_layer else 1, self._target(case["target"]))
        self._options()
        self._check_labels()
        self._check_normalizer()
        self._leave_out()
        self.oracle = self._for_oracle()
        self._outputs()

    @property
    def must_raise(self) -> bool:
        """Whether the call has to be refused."""
        return bool(self.reasons)

    def _refuse(self, name: str = "", *, where: bool = True) -> None:
        """Note that the call has to be refused with an error that says this name."""
        if where:
            self.reasons.append(name)

    # --- shapes ----------------------------------------------------------------

    @property
    def is_layer(self) -> bool:
        """Whether the logits are the product of two arguments."""
        return self.name.startswith("linear")

    @property
    def has_elements(self) -> bool:
        """Whether there is a loss for each element."""
        return self.name.startswith(("binary", "sigmoid"))

    def _shapes(self) -> None:
        self.shape: tuple[int, ...] = self.case["shape"]
        axis = self.case.get("axis", -1)
        self.axis = -1
        if "axis" in self.fields:
            self.keywords["axis"] = plain(axis)
            try:
                normalize_axis_tuple(range(len(self.shape)) if axis is None else axis, len(self.shape))
                self.axis = axis
            except (TypeError, ValueError):  # AxisError among the latter
                self._refuse(where=not isinstance(axis, Bad))
        is_one = isinstance(self.axis, int) and bool(self.shape)
        self.class_axis = self.axis if is_one else -1 if self.shape else ()
        self.samples = tuple(map(int, np.delete(self.shape, self.class_axis))) if self.shape else ()
        self.classes = self.shape[self.class_axis] if self.shape else 1
        if self.is_layer:
            self.classes = self.case["classes"]
        self.losses = self.shape if self.has_elements else self.samples

    def dtype_of_result(self, letter: str) -> np.dtype[Any]:
        """The dtype of a result by its letter in the table of functions."""
        arrays = [self.dtype, *(self.guarded[k].array.dtype for k in ("weight", "bias") if k in self.guarded)]
        if letter == "l":
            kinds = arrays if self.is_layer else arrays[:1]
            return np.result_type(*(computed(like(dtype)) for dtype in kinds))
        if letter == "p":
            b = self.keywords["b"]
            try:
                return like(np.result_type(self.dtype, b.dtype) if isinstance(b, np.ndarray) else self.dtype)
            except TypeError:  # some NumPy cannot promote: bfloat16 then counts as float32
                wide = [kind for kind in (self.dtype, b.dtype) if kind.kind in "iu"]
                return like(np.result_type(np.float32, *wide))
        if letter in "xwb":
            return like(arrays["xwb".index(letter)]).newbyteorder("=")
        return np.dtype({"d": np.float64, "i": np.int64, "?": np.bool_}[letter])

    # --- arguments -------------------------------------------------------------

    def _keep(self, name: str, values: np.ndarray, layout: str = "C order") -> np.ndarray:
        backing = "memory map" if self.case["objects"] == "memmap" else "NumPy"
        self.guarded[name] = Guarded(np.asarray(values), layout, backing, self._room())
        return self.guarded[name].array

    def _room(self) -> int:
        """How many bytes any result takes, where one is to begin in the memory of an argument."""
        if "over an argument" not in (plain(self.case.get("out")), plain(self.case.get("more out"))):
            return 0
        layer = self.classes * (self.shape[-1] + 1) if self.is_layer else 0
        return 8 * (int(np.prod(self.shape)) + layer + 1)

    def _strange(self, values: Any) -> Any:
        """The values of an argument beside the first, some of them extreme if the case has it so."""
        kind = self.case["others"]
        if self.case["weights"] == "some zero" and kind != "any":
            zeros = np.random.default_rng([self.case["seed"], np.size(values)])
            share = zeros.choice([0.3, 0.6, 1.0])
            values = np.where(zeros.random(np.shape(values)) < share, 0, values)
        if kind == "normal" or (kind == "tiny" and self.is_tiny):  # products of tiny numbers are 0
            return values
        self.is_tiny = kind == "tiny"
        somewhere = self.rng.random(np.shape(values)) < 0.3
        return np.where(somewhere, TINY if self.is_tiny else self.rng.choice(EXTREMES, np.shape(values)), values)

    def _other(self, name: str, values: np.ndarray, choice: Any) -> np.ndarray:
        """An argument beside the first, in a dtype and layout of its own."""
        kind = plain(choice)
        values = np.zeros((*np.shape(values), 2)) if kind == "short" else self._strange(values)
        dtype = like(self.dtype) if kind in ("same", "short") else dtype_of(kind)
        with np.errstate(all="ignore"):
            return self._keep(name, np.asarray(values).astype(dtype), self.case["other layout"])

    def _arguments(self) -> list[np.ndarray]:
        case, rng, name = self.case, self.rng, self.name
        values = values_of(case["values"], self.shape, self.dtype, rng)
        is_real = self.dtype.kind not in "cU"
        if "from_probs" in name and is_real:
            with np.errstate(invalid="ignore"):
                values = np.nan_to_num(np.abs(values.astype(np.float64)) % 1).astype(self.dtype)
        along = self.axis if self.shape or self.axis in (None, ()) else ()
        if name in ("softmax_vjp", "log_softmax_vjp") and is_real and self.dtype.kind not in "iub":
            values = getattr(reference, name.removesuffix("_vjp"))(values, along).astype(self.dtype)
        x = self._keep("first argument", values, case["layout"])
        if name == "logsumexp_vjp":
            is_kept = bool(self.shape) and rng.random() < 0.3
            lse = reference.logsumexp(values if is_real else np.zeros(self.shape), along, keepdims=is_kept)
            g = rng.normal(size=lse.shape)
            return [self._other("g", g, case["other"]), x, self._keep("lse", lse.astype(like(self.dtype)))]
        if name in ("softmax_vjp", "log_softmax_vjp"):
            return [self._other("g", rng.normal(size=self.shape), case["other"]), x]
        if name.startswith(("kl", "jensen")):
            kind = case["values"] if rng.random() < 0.5 else "normal"
            target = values_of(kind, self.shape, like(self.dtype) if is_real else np.dtype(float), rng)
            return [x, self._other("target_logits", target, case["other"])]
        if self.has_elements:
            targets = rng.random(self.shape)
            targets = np.where(targets < 0.4, np.round(targets / 0.4), targets)  # of 0 and 1, which may be ignored, too
            if "NaN ignore_index" in plain(case.get("options", ())) and case["other"] != "int32":
                targets = np.where(rng.random(self.shape) < 0.3, np.nan, targets)
            return [x, self._other("target", targets, case["other"])]
        if name.endswith("hvp"):
            return [x, self._other("v", rng.normal(size=self.shape), case["v"])]
        if self.is_layer:
            weight = rng.normal(size=(self.classes, self.shape[-1]))
            return [x, self._other("weight", weight, case["other"])]
        return [x]

    def _target(self, choice: Any) -> np.ndarray:
        kind = plain(choice)
        shape = (*self.shape[:-1], self.classes) if self.is_layer else self.shape
        problem = Problem(shape, self.class_axis, self.samples, self.classes, self._ignored())
        if kind in ("soft", "one-hot", "complex"):
            takes = "other" in self.fields and not self.is_layer
            self._refuse(where=kind == "complex" or not takes)
            values = soft_target(kind, problem, self.rng)
            if kind == "complex":
                return self._keep("target", values.astype(complex))
            return self._other("target", values, self.case["other"]) if takes else self._keep("target", values)
        is_alone = self.case["others"] != "any" and not any(self.case.get(k) for k in BUILT[1:])
        if kind in ERROR_OF and not self.must_raise and is_alone:
            self.errors = (ERROR_OF[kind],)
        target = target_of(kind, problem, self.rng)
        self._refuse(where=target.is_refused)
        self.labels = target.labels
        return self._keep("target", target.values, self.case["layout"] if "one-hot" in kind else "C order")

    def _check_labels(self) -> None:
        """Expect an error for labels that are out of range, of samples that have any class."""
        if self.labels is None:
            return
        bad = (self.labels < 0) | (self.labels >= self.classes)
        if "no ignore_index" not in plain(self.case.get("options", ())):
            bad &= self.labels != self._ignored()
        if self.name.startswith(("cross", "Cross")) and isinstance(self.keywords.get("where"), np.ndarray):
            where = self.keywords["where"]
            if self.shape and where.dtype == bool:
                bad &= np.broadcast_to(where, self.shape).any(self.class_axis)
        self._refuse(where=bool(np.any(bad)))

    def _ignored(self) -> int:
        """The label of ignored samples, or one that would be."""
        options, seed = plain(self.case.get("options", ())), self.case["seed"]
        if "no ignore_index" in options:
            return (-100, IGNORED[-2])[seed % 2]
        return IGNORED[seed % len(IGNORED)] if "ignore_index" in options else -100

    def _check_normalizer(self) -> None:
        """Expect an error for a normalizer of 0 where any sample counts."""
        if self.keywords.get("normalizer") == 0.0 and not self.must_raise:
            self._refuse("normalizer", where=not left_out(self).samples.all())

    def _leave_out(self) -> None:
        """Put no numbers where nothing depends on them; or what is no probability where one is read."""
        is_wrong = isinstance(self.case.get("probs"), Bad)
        if self.must_raise or self.case["others"] == "any" or self.dtype.kind in "iub":
            return
        rng = np.random.default_rng(self.case["seed"])
        parts = left_out(self)
        if self.case["left out"] == "not numbers":
            kinds = WRONG_PROBABILITIES if "from_probs" in self.name else NOT_NUMBERS
            for name, where in parts.arrays.items():
                array = self.guarded[name].array
                if array.dtype.kind not in "iub":
                    self.guarded[name].put(where, rng.choice(kinds, array.shape).astype(array.dtype))
        if is_wrong and parts.read.any():
            first = self.guarded["first argument"]
            where = np.zeros(self.shape, bool)
            where[tuple(rng.choice(np.argwhere(parts.read)))] = True
            first.put(where, np.full(self.shape, rng.choice(WRONG_PROBABILITIES)).astype(self.dtype))
            self._refuse("probs")

    # --- keywords --------------------------------------------------------------

    def _for_oracle(self) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Copies of all arguments; for the labels of one-hot integers themselves, for weights what is computed with."""
        target = self.guarded.get("target")
        positional = [
            np.array(self.labels if self.labels is not None and target and x is target.array else x)
            for x in self.positional
        ]
        given = {name: value for name, value in self.keywords.items() if name != "given"}
        return positional, {name: self._computed(name, value) for name, value in given.items()}

    def _computed(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        is_tiny = value.dtype == np.float64 and name != "b" and self.case["others"] == "tiny"
        with np.errstate(all="ignore"):
            return np.array(value, self.dtype_of_result("l") if is_tiny else None)

    def _options(self) -> None:
        choice = self.case.get("options", ())
        is_bad = isinstance(choice, Bad)
        if self.name == "logsumexp with b":
            self.keywords |= {"return_sign": True, "b": self._weights_of_sum("scalar b" in plain(choice))}
        for option in plain(choice):
            if option == "no sign":
                del self.keywords["return_sign"]
            elif option != "scalar b":
                kind, _, name = option.rpartition(" ")
                self.keywords[name] = self._bad_option(kind, name) if is_bad else self._option(kind, name)
        for name in ("reduction", "gamma", "alpha", "temperature", "reverse", "beta", "accumulate", "given"):
            if name in self.fields:
                value = plain(self.case[name])
                self.keywords[name] = self._beyond(value, name) if isinstance(value, Beyond) else value
        if "any normalizer" in plain(choice):
            self._refuse("normalizer", where=self.keywords["reduction"] != "mean")
        elif not is_bad and self.keywords.get("reduction", "mean") != "mean":
            self.keywords.pop("normalizer", None)
        upstream = plain(self.case.get("grad_output"))
        if upstream == "short":
            self.keywords["grad_output"] = np.ones((*self.losses, 2))
        elif upstream == "each" and self.keywords["reduction"] == "none":
            self.keywords["grad_output"] = self._keep("grad_output", self._strange(self.rng.normal(size=self.losses)))
        elif upstream not in (None, "each"):
            self.keywords["grad_output"] = upstream

    def _weights_of_sum(self, scalar: bool) -> Any:
        """Weights of any sign for each exponential; where one broadcasts, for each class."""
        if scalar:
            return -2.0
        shape = self.shape if self.rng.random() < 0.7 else self.shape[-1:]
        weights = self.rng.normal(size=shape) * (self.rng.random(shape) > 0.2)
        if plain(self.case["other"]) == "short":
            return np.ones(5, float if self.shape and self.shape[-1] not in (1, 5) else complex)  # broadcasts or not
        return self._other("b", weights, self.case["other"])

    def _option(self, kind: str, name: str) -> Any:
        classes, rng = self.classes, self.rng
        if kind == "beyond":
            return self._out_of_float32(name)
        if kind in ("no", "NaN"):
            return None if kind == "no" else np.nan
        if kind == "zero":
            return self._keep(name, np.zeros(self.samples)) if name == "sample_weight" else 0.0
        if self.has_elements and "weight" in name:
            shape = self.shape if rng.random() < 0.5 else self.shape[-1:]
            return self._keep(f"option {name}", self._strange(rng.random(shape) + 0.1))
        if name == "bias" and self.is_layer:
            with np.errstate(all="ignore"):
                return self._keep("bias", self._strange(rng.normal(size=classes)).astype(like(self.dtype)))
        if name in PER_CLASS and kind != "number":
            return self._keep(f"option {name}", self._strange(rng.random(classes) + 0.1))
        if name == "sample_weight":
            return self._keep("sample_weight", self._strange(rng.random(self.samples)))
        if name == "where":
            shape = self.shape if rng.random() < 0.7 else self.shape[-1:]
            return self._keep("where", rng.random(shape) < 0.7)
        if name == "ignore_index":
            return 1 if self.has_elements else self._ignored()
        if name in ("keepdims", "max_bytes", "top_k"):
            return {"keepdims": True, "max_bytes": 1, "top_k": (3, 1) if kind == "several" else 3}[name]
        return float(rng.choice(NUMBERS[name]))

    def _out_of_float32(self, name: str) -> np.ndarray:
        """Weights of which one leaves the range of float32."""
        shape = self.shape if self.has_elements else self.samples if name == "sample_weight" else (self.classes,)
        weights = self.rng.random(shape)
        if weights.size:
            weights.reshape(-1)[self.rng.integers(weights.size)] = self.rng.choice(OUT_OF_FLOAT32)
            self._refuse(name, where=self.dtype_of_result("l") == np.float32)
        return self._keep(f"option {name}", weights)

    def _beyond(self, number: Beyond, name: str) -> float:
        """A number that leaves the range of the dtype computed in."""
        info = finfo(self.dtype_of_result("l"))
        tiny, most = float(info.tiny), float(info.max)
        return (2 / tiny if name == "temperature" else most * 0.75) if number.is_large else tiny / 4

    def _bad_option(self, kind: str, name: str) -> Any:
        if kind in ("tiny", "huge"):
            return self._beyond(Beyond(kind == "huge"), name)
        if name in PER_CLASS or name == "pos_weight":
            return np.ones((*self.shape, 2) if self.has_elements else self.classes + 1)
        values = {"label_smoothing": 1.5, "softcap": -1.0, "normalizer": -1.0, "z_loss": "z", "logit_scale": np.inf}
        values |= {
            "max_bytes": 0,
            "top_k": 0,
            "hessian_scale": "2",
            "ignore_index": "one" if kind == "element" else 0.5,
        }
        values |= {"where": np.ones(self.shape), "sample_weight": np.ones((*self.samples, 3))}
        return values[name]

    # --- outputs ---------------------------------------------------------------

    def _outputs(self) -> None:
        first, more = self.case.get("out"), self.case.get("more out")
        self._refuse(where=bool(self.case.get("accumulate")) and first is None and more is None)
        shape, is_kept = self.shape, "keepdims" in self.keywords
        if self.name.startswith("logsumexp") and not self.name.endswith("vjp"):
            shape = reference.reduced_shape(shape, self.axis if shape else None, is_kept)
        dtype = self.dtype_of_result("p" if "b" in self.keywords else "x")
        if first is not None:
            self._output("d_hidden_out" if self.is_layer else "out", first, shape, dtype)
        if more is None:
            return
        if self.name == "cross_entropy_grad_and_hessian":
            self._output("hessian_out", more, self.shape, dtype)
            return
        for name in [name for name in ("weight", "bias") if name in self.guarded]:
            array = self.guarded[name].array
            self._output(f"d_{name}_out", more, array.shape, like(array.dtype).newbyteorder("="))

    def _output(self, name: str, choice: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Give an array to be written to, refused or not."""
        kind, size = plain(choice), int(np.prod(shape))
        x = self.guarded["first argument"]
        refused: Any = None
        if kind == "overlaps itself" and size > 1:
            guard = self.guarded["memory of out"] = Guarded(np.ones(1, dtype))
            refused = np.lib.stride_tricks.as_strided(guard.array, shape, (0,) * len(shape))
        elif kind == "overlaps the first argument" and size > 1 and self._shares_memory() and x.array.ndim:
            refused = x.shifted()
        elif kind == "the first argument" and size:
            refused = x.array
        elif kind == "list":
            refused = [0.0]
        if refused is not None:
            self.keywords[name] = refused
            self._refuse(name)
        elif kind in ("in place", "in place of the other", "over an argument"):
            self._output_over(name, kind, shape, dtype)
        else:
            self._fresh_output(name, kind, shape, dtype)

    def _shares_memory(self) -> bool:
        """Whether the first argument is passed in C order and as what has its memory, which lists have not."""
        return self.case["layout"] == "C order" and self.case["objects"] not in ("list", "tuple", "any")

    def _output_over(self, name: str, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Give an array over the memory of an argument: the very same array, or one that begins somewhere in it."""
        if kind == "over an argument":
            given = [guard for guard in self.guarded.values() if not guard.outs]
            guard = given[self.rng.integers(len(given))]
            offset = self.rng.integers(guard.inside.stop - guard.inside.start + 1)
            try:
                out = guard.laid_over(shape, dtype, int(offset) // dtype.itemsize * dtype.itemsize)
            except TypeError:  # the memory ends before
                self._fresh_output(name, kind, shape, dtype)
                return
            self.may_raise = True
            self._give(name, guard, out)
            return
        names = ("g", "target_logits", "v", "target") if kind == "in place of the other" else ("first argument",)
        found = next((self.guarded[n] for n in names if n in self.guarded), None)
        if found is not None and self._serves(found.array, shape, dtype):
            self.may_raise = self.case["objects"] != "array"  # what is passed is not the very same array
            self._give(name, found, found.array)
        else:
            self._fresh_output(name, kind, shape, dtype)

    def _fresh_output(self, name: str, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._refuse(name, where=kind in ("short", "integers", "read-only"))
        if kind == "float32":
            self._refuse(name, where=dtype == np.float64)
            dtype = np.dtype(np.float32)
        values = np.full((*shape, 2) if kind == "short" else shape, 3, np.int64 if kind == "integers" else dtype)
        layout = kind if kind in ("Fortran order", "every other class", "other byte order") else "C order"
        backing = str(self.rng.choice(list(BACKINGS))) if kind == "in foreign memory" else "NumPy"
        guard = self.guarded[name] = Guarded(values, layout, backing)
        guard.array.flags.writeable = kind != "read-only"
        self._give(name, guard, guard.array.view(np.memmap) if backing == "memory map" else guard.array)

    def _give(self, name: str, guard: Guarded, out: np.ndarray) -> None:
        guard.outs.append(out)
        self.outs[name] = out, np.array(out)
        self.keywords[name] = out

    def _serves(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        return array.shape == shape and array.dtype == dtype and array.flags.writeable

    # --- the call --------------------------------------------------------------

    @property
    def is_raced(self) -> bool:
        """Whether it is to be made many times beside a writer; not where each call would be refused at once."""
        return bool(self.case["beside a writer"]) and not (self.must_raise or self.is_refused)

    def dtype_of(self, result: int) -> np.dtype[Any]:
        """The dtype of a result by its place: that of the array it is written to, where that may be another."""
        letters = results_of(self.name)
        name = OUTS.get((letters[result], letters[:result].count(letters[result])))
        name = "d_hidden_out" if self.is_layer and name == "out" else name
        if name in self.outs and plain(self.case["more out" if name in MORE else "out"]) == "float32":
            return np.dtype(np.float32)
        return self.dtype_of_result(letters[result])

    def content_before(self, name: str) -> Any:
        """What an array to write to held before the call, 0 where none was given."""
        return reference.real(self.outs[name][1]) if name in self.outs else 0

    def _is_as_it_is(self, name: str) -> bool:
        """Whether a keyword is never given in another form: results, and a number that has a part in promotion."""
        return name.endswith("out") or (name == "b" and not isinstance(self.keywords["b"], np.ndarray))

    def run(self) -> list[Any]:
        """Call the function; return its results."""
        rng = np.random.default_rng(self.case["seed"])
        kind = self.case["objects"]
        positional = [as_object(kind, x, rng) for x in self.positional]
        given = {k: v if self._is_as_it_is(k) else as_object(kind, v, rng) for k, v in self.keywords.items()}
        with np.errstate(all=self.case["floating-point errors"]), warnings.catch_warnings():
            warnings.simplefilter("error")
            results = tuple_of(self.function.call(*positional, **given))
        return [result for result in results if result is not None]
