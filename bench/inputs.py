"""The data of a case: the same in every process."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from bench.cases import FORTRAN, IMAGES, LAYER, PIXELS, ROWS, Case, Op, dtype_of


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
        """A new array for a result a sample."""
        return np.empty(self.target.shape, self.logits.dtype)

    @property
    def axis(self) -> dict[str, int]:
        """The class axis, for functions that take the last by default."""
        return {} if self.logits.ndim == 2 else {"axis": 1}

    @property
    def upstream_rows(self) -> np.ndarray:
        """The gradient of the log-sum-exps, that of their mean. The gradient of array results is the logits."""
        return np.full(self.target.shape, 1 / self.target.size, self.logits.dtype)

    def flat(self, array: np.ndarray) -> np.ndarray:
        """Return an array laid out like the logits as (samples, classes)."""
        return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])

    def as_rows(self) -> Inputs:
        """Return the same elements with the classes last."""
        return self._with(self.flat(self.logits).copy())

    def as_float32(self) -> Inputs:
        """Return the same elements in float32."""
        return self._with(self.logits.astype(np.float32))

    def _with(self, logits: np.ndarray) -> Inputs:
        return Inputs(logits, self.target.reshape(-1), np.empty(logits.size, logits.dtype))

    @cached_property
    def lse(self) -> np.ndarray:
        """Log-sum-exp of each sample in float64, by the stable formula."""
        logits = self.flat(self.logits)
        result = np.empty(len(logits))
        for rows in row_blocks(logits):
            x = logits[rows].astype(np.float64)
            row_max = x.max(axis=1)
            x -= row_max[:, None]
            result[rows] = np.log(np.exp(x, out=x).sum(axis=1)) + row_max
        return result

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


@dataclass
class LayerInputs:
    """Hidden states, weights and labels."""

    hidden: np.ndarray
    weight: np.ndarray
    target: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The arguments of every contender."""
        return self.hidden, self.weight, self.target


def row_blocks(array: np.ndarray, elements: int = 1 << 18) -> list[slice]:
    """Return slices of rows of about ``elements`` elements, so that float64 temporaries stay in cache."""
    step = max(1, elements // math.prod(array.shape[1:]))
    return [slice(i, min(i + step, len(array))) for i in range(0, len(array), step)]


def inputs_of(case: Case, largest: int) -> Inputs | LayerInputs:
    """Return the inputs of a case; all operations on a shape get the same."""
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
