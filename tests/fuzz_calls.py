"""A case of the fuzzer as a call: arrays in guarded memory, keywords, and whether it has to be refused."""

from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tests import reference
from tests.fuzz_arrays import Guarded, dtype_of, values_of
from tests.fuzz_fields import FUNCTIONS, Bad, Case, plain
from tests.helpers import computed, tuple_of

BUILT = ("target", "out", "more out")  # fields whose bad choices only matter where there is something to be seen


def like(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of results that are like an array of this one."""
    return np.dtype(np.float64) if dtype.kind in "iubcUO" else dtype


class Call:
    """A case, built."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.name: str = case["function"]
        self.function = FUNCTIONS[self.name]
        self.fields = self.function.fields
        self.rng = np.random.default_rng(case["seed"])
        unseen = (*BUILT, "other") if "scalar b" in plain(case.get("options", ())) else BUILT
        self.must_raise = any(isinstance(choice, Bad) for name, choice in case.items() if name not in unseen)
        self.bad_labels: np.ndarray | bool = False
        self.guarded: dict[str, Guarded] = {}
        self.outs: dict[str, Guarded] = {}  # those among them that are written to
        self.keywords: dict[str, Any] = {}
        self.dtype = dtype_of(plain(case["dtype"]))
        self._shapes()
        self.positional = self._arguments()
        if "target" in self.fields:
            self.positional.insert(2 if self.is_layer else 1, self._target(case["target"]))
        self._options()
        self._check_labels()
        self.oracle = [np.array(x) for x in self.positional], {k: self._copy(v) for k, v in self.keywords.items()}
        self._outputs()

    # --- shapes ----------------------------------------------------------------

    @property
    def is_layer(self) -> bool:
        """Whether the logits are the product of two arguments."""
        return self.name.startswith("linear")

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
                self.must_raise = True
        is_one = isinstance(self.axis, int) and bool(self.shape)
        self.class_axis = self.axis if is_one else -1 if self.shape else ()
        self.samples = tuple(map(int, np.delete(self.shape, self.class_axis))) if self.shape else ()
        self.classes = self.shape[self.class_axis] if self.shape else 1
        if self.is_layer:
            self.classes = self.case["classes"]
        self.losses = self.shape if self.name.startswith("binary") else self.samples

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
            except TypeError:  # some NumPy cannot promote
                self.must_raise = True
                return like(self.dtype)
        if letter in "xwb":
            return like(arrays["xwb".index(letter)]).newbyteorder("=")
        return np.dtype({"d": np.float64, "i": np.int64, "?": np.bool_}[letter])

    # --- arguments -------------------------------------------------------------

    def _keep(self, name: str, values: np.ndarray, layout: str = "C order") -> np.ndarray:
        self.guarded[name] = Guarded(np.asarray(values), layout)
        return self.guarded[name].array

    def _other(self, name: str, values: np.ndarray, choice: Any) -> np.ndarray:
        """An argument beside the first, in a dtype and layout of its own."""
        kind = plain(choice)
        if kind == "short":
            values = np.zeros((*np.shape(values), 2))
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
        if name in ("softmax_vjp", "log_softmax_vjp") and is_real and self.dtype.kind not in "iub":
            values = getattr(reference, name.removesuffix("_vjp"))(values, self.class_axis).astype(self.dtype)
        x = self._keep("first argument", values, case["layout"])
        if name == "logsumexp_vjp":
            lse = reference.logsumexp(values if is_real else np.zeros(self.shape), self.class_axis)
            kept = self.shape and rng.random() < 0.3
            g, lse = (np.expand_dims(v, self.class_axis) if kept else v for v in (rng.normal(size=self.samples), lse))
            return [self._other("g", g, case["other"]), x, self._keep("lse", lse.astype(like(self.dtype)))]
        if name in ("softmax_vjp", "log_softmax_vjp"):
            return [self._other("g", rng.normal(size=self.shape), case["other"]), x]
        if name.startswith("kl"):
            kind = case["values"] if rng.random() < 0.5 else "normal"
            target = values_of(kind, self.shape, like(self.dtype) if is_real else np.dtype(float), rng)
            return [x, self._other("target_logits", target, case["other"])]
        if name.startswith("binary"):
            return [x, self._other("target", rng.random(self.shape), case["other"])]
        if name.endswith("hvp"):
            return [x, self._other("v", rng.normal(size=self.shape), case["v"])]
        if self.is_layer:
            weight = rng.normal(size=(self.classes, self.shape[-1]))
            return [x, self._other("weight", weight, case["other"])]
        return [x]

    def _target(self, choice: Any) -> np.ndarray:
        kind = plain(choice)
        labels = self.rng.integers(0, max(self.classes, 1), self.samples)
        if kind in ("soft", "one-hot", "complex"):
            return self._soft_target(kind, labels)
        somewhere = self.rng.random(self.samples) < 0.4
        made = {
            "labels": lambda: labels,
            "int8": lambda: (labels % 128).astype(np.int8),
            "uint64": lambda: labels.astype(np.uint64),
            "big-endian": lambda: labels.astype(">i4"),
            "ignored": lambda: np.where(somewhere, self._ignored(), labels),
            "all ignored": lambda: np.full(self.samples, self._ignored()),
            "too large": lambda: labels + max(self.classes, 1),
            "negative": lambda: -1 - labels,
            "floats": lambda: labels + 0.5,
            "short": lambda: np.zeros((*self.samples, 2, 2), int),
        }[kind]()
        if kind in ("floats", "short"):
            self.must_raise |= bool(made.size or kind == "short")
        else:
            kept = made != self._ignored() if self.name != "cross_entropy_grad_and_hessian" else np.True_
            self.bad_labels = ((made < 0) | (made >= self.classes)) & kept
        return self._keep("target", made)

    def _soft_target(self, kind: str, labels: np.ndarray) -> np.ndarray:
        self.must_raise |= kind == "complex" or "other" not in self.fields or self.is_layer
        shape = self.shape or (1,)
        values = np.zeros(shape)
        if kind == "soft":
            values = self.rng.random(shape) / max(self.classes, 1)
        elif values.size and self.shape and not self.is_layer:
            np.put_along_axis(values, np.expand_dims(labels, self.class_axis), 1.0, self.class_axis)
        if kind == "complex" or "other" not in self.fields:
            return self._keep("target", values.astype(complex if kind == "complex" else float))
        if self.is_layer:
            return self._keep("target", values)
        return self._other("target", values, self.case["other"])

    def _check_labels(self) -> None:
        """Expect an error for labels that are out of range, of samples that have any class."""
        there = True
        if self.name.startswith(("cross", "Cross")) and isinstance(self.keywords.get("where"), np.ndarray):
            where = self.keywords["where"]
            if self.shape and where.dtype == bool:
                there = np.broadcast_to(where, self.shape).any(self.class_axis)
        self.must_raise |= bool(np.any(self.bad_labels & there))

    def _ignored(self) -> int:
        return 1 if "ignore_index" in plain(self.case.get("options", ())) else -100

    # --- keywords --------------------------------------------------------------

    def _copy(self, value: Any) -> Any:
        return np.array(value) if isinstance(value, np.ndarray) else value

    def _options(self) -> None:
        choice = self.case.get("options", ())
        is_bad = isinstance(choice, Bad)
        if self.name == "logsumexp with b":
            self.keywords |= {"return_sign": True, "b": self._weights_of_sum("scalar b" in plain(choice))}
        for option in plain(choice):
            if option == "no sign":
                del self.keywords["return_sign"]
            elif option != "scalar b":
                self.keywords[option] = self._bad_option(option) if is_bad else self._option(option)
        for name in ("reduction", "gamma", "temperature", "accumulate"):
            if name in self.fields:
                self.keywords[name] = plain(self.case[name])
        upstream = plain(self.case.get("grad_output"))
        if upstream == "short":
            self.keywords["grad_output"] = np.ones((*self.losses, 2))
        elif upstream == "each" and self.keywords["reduction"] == "none":
            self.keywords["grad_output"] = self._keep("grad_output", self.rng.normal(size=self.losses))
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

    def _option(self, name: str) -> Any:
        classes, rng = self.classes, self.rng
        per_class = ("weight", "alpha", "class_weight", "bias")
        if self.name.startswith("binary"):
            shape = self.shape if rng.random() < 0.5 else self.shape[-1:]
            return self._keep(f"option {name}", rng.random(shape) + 0.1)
        if name == "bias" and self.is_layer:
            return self._keep("bias", rng.normal(size=classes).astype(like(self.dtype)))
        if name in per_class:
            return self._keep(f"option {name}", rng.random(classes) + 0.1)
        if name == "sample_weight":
            return self._keep("sample_weight", rng.random(self.samples))
        if name == "where":
            shape = self.shape if rng.random() < 0.7 else self.shape[-1:]
            return self._keep("where", rng.random(shape) < 0.7)
        values = {"label_smoothing": 0.25, "z_loss": 0.01, "normalizer": 7.0, "ignore_index": 1, "logit_scale": 0.5}
        values |= {"softcap": 5.0, "keepdims": True, "max_bytes": 1, "top_k": 3, "hessian_scale": 2.0}
        return values[name]

    def _bad_option(self, name: str) -> Any:
        if name in ("weight", "alpha", "class_weight", "bias", "pos_weight"):
            return np.ones((*self.shape, 2) if self.name.startswith("binary") else self.classes + 1)
        values = {"label_smoothing": 1.5, "softcap": -1.0, "normalizer": 0.0, "z_loss": "z", "logit_scale": np.inf}
        values |= {"ignore_index": 0.5, "max_bytes": 0, "top_k": 0, "hessian_scale": "2"}
        values |= {"where": np.ones(self.shape), "sample_weight": np.ones((*self.samples, 3))}
        return values[name]

    # --- outputs ---------------------------------------------------------------

    def _outputs(self) -> None:
        first, more = self.case.get("out"), self.case.get("more out")
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
        if kind == "overlaps itself" and size > 1:
            guard = self.guarded["memory of out"] = Guarded(np.ones(1, dtype))
            self.keywords[name] = np.lib.stride_tricks.as_strided(guard.array, shape, (0,) * len(shape))
            self.must_raise = True
            return
        x = self.guarded["first argument"]
        if kind == "overlaps the first argument" and size > 1 and self.case["layout"] == "C order" and x.array.ndim:
            self.keywords[name] = x.shifted()
            self.must_raise = True
            return
        if kind == "the first argument" and size:
            self.keywords[name] = x.array
            self.must_raise = True
            return
        if kind in ("in place", "in place of the other"):
            names = ("g", "target_logits", "v", "target") if kind == "in place of the other" else ("first argument",)
            found = next((self.guarded[n] for n in names if n in self.guarded), None)
            if found is not None and self._serves(found.array, shape, dtype):
                self.outs[name], self.keywords[name] = found, found.array
                return
        if kind == "list":
            self.keywords[name] = [0.0]
            self.must_raise = True
            return
        self.must_raise |= kind in ("short", "integers", "read-only")
        values = np.full((*shape, 2) if kind == "short" else shape, 3, np.int64 if kind == "integers" else dtype)
        layout = kind if kind in ("Fortran order", "every other class", "other byte order") else "C order"
        out = self.guarded[name] = self.outs[name] = Guarded(values, layout)
        out.array.flags.writeable = kind != "read-only"
        self.keywords[name] = out.array

    def _serves(self, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
        return array.shape == shape and array.dtype == dtype and array.flags.writeable

    def content_before(self, name: str) -> Any:
        """What an array to write to held before the call, 0 where none was given."""
        return reference.real(self.outs[name].content_before()) if name in self.outs else 0

    def run(self) -> list[Any]:
        """Call the function; return its results."""
        with np.errstate(all="raise"):
            results = tuple_of(self.function.call(*self.positional, **self.keywords))
        return [result for result in results if result is not None]
