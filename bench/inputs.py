"""The data of a case, the same in every process."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from bench.cases import FORTRAN, IMAGES, LAYER, PIXELS, ROWS, Case, Op, dtype_of
from bench.formulas import logsumexp

Call = Callable[[], Any]
Calls = dict[str, Callable[[Any], Call | None]]  # by operation: how a contender's call is made from inputs


@dataclass
class Inputs:
    """Logits (classes along axis 1) and labels, and memory for results that go to ``out=``."""

    logits: np.ndarray
    target: np.ndarray
    memory: np.ndarray = field(repr=False)
    layout: str = ROWS

    @cached_property
    def out(self) -> np.ndarray:
        """An array for results, laid out like the logits."""
        return _arranged(self.memory[: self.logits.size], *self.flat(self.logits).shape, self.layout)

    @property
    def out_rows(self) -> np.ndarray:
        """A new array for results with one value a sample."""
        return np.empty(self.target.shape, self.logits.dtype)

    @property
    def axis(self) -> dict[str, int]:
        """The class axis, for functions that take the last by default."""
        return {} if self.logits.ndim == 2 else {"axis": 1}

    def arguments(self, op: str) -> tuple[np.ndarray, ...]:
        """Return the arrays that a function for the operation takes."""
        if op in (Op.LOSS, Op.LOSS_GRAD):
            return self.logits, self.target
        if op in (Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP):  # the upstream gradient is the logits
            return self.logits, self.saved(op)
        if op == Op.LSE_VJP:  # the upstream gradient is the mean's
            weights = np.full(self.target.shape, 1 / self.target.size, self.logits.dtype)
            return weights, self.logits, self.saved(op)
        return (self.logits,)

    def flat(self, array: np.ndarray) -> np.ndarray:
        """Return an array laid out like the logits as (samples, classes)."""
        return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])

    def rearranged(self, logits: np.ndarray) -> "Inputs":
        """Return inputs with the same labels and other logits, classes last."""
        return Inputs(logits, self.target.reshape(-1), np.empty(logits.size, logits.dtype))

    @cached_property
    def lse(self) -> np.ndarray:
        """Log-sum-exp of each sample in float64."""
        logits = self.flat(self.logits)
        return np.concatenate([logsumexp(logits[rows].astype(np.float64)) for rows in row_blocks(logits)])

    def saved(self, op: str) -> np.ndarray:
        """Return what the forward pass saves for the backward pass ``op``, computed in float64 and rounded."""
        x, lse = self.logits, self.lse.reshape(self.target.shape)
        if op == Op.LSE_VJP:
            return lse.astype(x.dtype)
        result = np.empty_like(x)
        for samples in row_blocks(x):
            logs = x[samples].astype(np.float64) - np.expand_dims(lse[samples], 1)
            result[samples] = np.exp(logs, out=logs) if op == Op.SOFTMAX_VJP else logs
        return result


class LayerInputs(NamedTuple):
    """Hidden states, weights and labels."""

    hidden: np.ndarray
    weight: np.ndarray
    target: np.ndarray

    def arguments(self, op: str) -> tuple[np.ndarray, ...]:
        """Return the arrays that a function for the operation takes."""
        return self


def calls(functions: dict[str, Callable[..., Any]], convert: Callable[[np.ndarray], Any] = np.asarray) -> Calls:
    """Return the table of functions that need nothing but an operation's arguments, converted to a library's arrays."""

    def maker(op: str, function: Callable[..., Any]) -> Callable[[Any], Call]:
        return lambda inputs: partial(function, *map(convert, inputs.arguments(op)))

    return {op: maker(op, function) for op, function in functions.items()}


def row_blocks(array: np.ndarray, elements: int = 1 << 18) -> Iterator[slice]:
    """Yield slices of rows of about ``elements`` elements, so that float64 temporaries stay in cache."""
    step = max(1, elements // math.prod(array.shape[1:]))
    return (slice(i, i + step) for i in range(0, len(array), step))


def inputs_of(case: Case, largest: int) -> Inputs | LayerInputs | None:
    """Return the inputs of a case, none for the training loop; all operations on a shape get the same."""
    if case.op == Op.TRAINING:
        return None
    if case.op in LAYER:
        return _layer_inputs(case.batch, case.features, case.classes)
    return _inputs(case.batch, case.classes, case.dtype, case.layout, max(largest, case.elements))


@lru_cache(maxsize=1)
def _inputs(batch: int, classes: int, dtype: str, layout: str, largest: int) -> Inputs:
    values, memory = _noise(largest, dtype)
    logits = _arranged(values[: batch * classes], batch, classes, layout)
    target = np.random.default_rng(batch).integers(0, classes, batch)
    return Inputs(logits, target.reshape(logits.shape[:1] + logits.shape[2:]), memory, layout)


@lru_cache(maxsize=1)
def _noise(count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normals × 3 and as much memory for results: once a process, since page faults are slow."""
    drawn = dtype if dtype == "float64" else "float32"
    values = np.random.default_rng(20240229).standard_normal(count, dtype=np.dtype(drawn))
    values *= 3
    values = values.astype(dtype_of(dtype), copy=False)
    return values, np.empty_like(values)


def _arranged(memory: np.ndarray, batch: int, classes: int, layout: str) -> np.ndarray:
    """Return the memory as an array with the classes along axis 1."""
    if layout == FORTRAN:
        return memory.reshape(classes, batch).T
    if layout == IMAGES:
        return memory.reshape(-1, classes, *PIXELS)
    return memory.reshape(batch, classes)


@lru_cache(maxsize=1)
def _layer_inputs(tokens: int, features: int, classes: int) -> LayerInputs:
    rng = np.random.default_rng(7)
    hidden = rng.standard_normal((tokens, features), dtype=np.float32)
    weight = rng.standard_normal((classes, features), dtype=np.float32)
    weight *= np.float32(features**-0.5)
    return LayerInputs(hidden, weight, rng.integers(0, classes, tokens))
