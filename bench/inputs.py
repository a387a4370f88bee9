"""The data of a case, and the float64 oracle every result is held to before any timing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from bench.cases import (
    FORTRAN,
    IMAGES,
    INPLACE,
    LOG_SOFTMAX,
    LOG_SOFTMAX_VJP,
    LOSS,
    LOSS_GRAD,
    LSE,
    LSE_VJP,
    PIXELS,
    ROWS,
    SOFTMAX,
    SOFTMAX_VJP,
    Case,
    dtype_of,
)

Calls = dict[str, Callable[[], Any]]


@dataclass
class Inputs:
    """Logits (classes along axis 1) and labels of a case, with the room for results given out=."""

    logits: np.ndarray
    target: np.ndarray
    room: np.ndarray = field(repr=False)
    layout: str = ROWS

    @cached_property
    def out(self) -> np.ndarray:
        """An array for results, laid out like the logits."""
        return arrange(self.room[: self.logits.size], *self.flat(self.logits).shape, self.layout)

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
        """Log-sum-exp in float64, the plain stable way."""
        logits = self.flat(self.logits)
        result = np.empty(len(logits))
        for rows in row_blocks(logits):
            x = logits[rows].astype(np.float64)
            top = x.max(axis=1)
            x -= top[:, None]
            result[rows] = np.log(np.exp(x, out=x).sum(axis=1)) + top
        return result


def arrange(memory: np.ndarray, batch: int, classes: int, layout: str) -> np.ndarray:
    """Return the memory as an array with the classes along axis 1."""
    if layout == FORTRAN:
        return memory.reshape(classes, batch).T
    if layout == IMAGES:
        return memory.reshape(-1, classes, *PIXELS)
    return memory.reshape(batch, classes)


@lru_cache(maxsize=1)
def _noise(count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normals × 3, and as much room for results: once a process, since page faults are slow."""
    drawn = dtype if dtype == "float64" else "float32"
    values = np.random.default_rng(20240229).standard_normal(count, dtype=np.dtype(drawn))
    values *= 3
    values = values.astype(dtype_of(dtype), copy=False)
    return values, np.empty_like(values)


@lru_cache(maxsize=1)
def make_inputs(batch: int, classes: int, dtype: str, layout: str, largest: int) -> Inputs:
    """Return the inputs of a shape; the same in every process."""
    values, room = _noise(largest, dtype)
    logits = arrange(values[: batch * classes], batch, classes, layout)
    target = np.random.default_rng(batch).integers(0, classes, batch)
    return Inputs(logits, target.reshape(logits.shape[:1] + logits.shape[2:]), room, layout)


def forward(op: str, inputs: Inputs) -> np.ndarray:
    """Return what a forward pass leaves to the backward pass ``op``, computed in float64 and rounded."""
    x, lse = inputs.logits, inputs.lse.reshape(inputs.target.shape)
    if op == LSE_VJP:
        return lse.astype(x.dtype)
    result = np.empty_like(x)
    for samples in row_blocks(x):
        logs = x[samples].astype(np.float64) - np.expand_dims(lse[samples], 1)
        result[samples] = np.exp(logs, out=logs) if op == SOFTMAX_VJP else logs
    return result


def upstream_rows(inputs: Inputs) -> np.ndarray:
    """Return the gradient of the log-sum-exps, that of their mean."""
    return np.full(inputs.target.shape, 1 / inputs.target.size, inputs.logits.dtype)


def inputs_of(case: Case, largest: int) -> Inputs:
    """Return the inputs of a case; of all operations on a shape the same."""
    return make_inputs(case.batch, case.classes, case.dtype, case.layout, largest)


def row_blocks(logits: np.ndarray, elements: int = 1 << 18) -> list[slice]:
    """Row slices of about ``elements`` logits, so that the oracle's float64 scratch stays in cache."""
    step = max(1, elements // math.prod(logits.shape[1:]))
    return [slice(i, min(i + step, len(logits))) for i in range(0, len(logits), step)]


def expected_rows(op: str, inputs: Inputs, rows: slice) -> np.ndarray:
    """Return some rows of the array an operation returns, in float64."""
    x, lse = inputs.flat(inputs.logits)[rows].astype(np.float64), inputs.lse[rows]
    if op == LSE:
        return lse
    x -= lse[:, None]
    if op == LOG_SOFTMAX:
        return x
    p = np.exp(x, out=x)
    if op == LSE_VJP:
        p /= inputs.target.size
    if op == LOSS_GRAD:
        p[np.arange(len(p)), inputs.target.reshape(-1)[rows]] -= 1
        p /= inputs.target.size
    return p


def expected_vjp(op: str, inputs: Inputs, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return some rows of a gradient that is a difference, in float64, and the sum of the magnitudes of its terms."""
    g = inputs.flat(inputs.logits)[rows].astype(np.float64)
    p = np.exp(g - inputs.lse[rows, None])
    if op == SOFTMAX_VJP:
        dot, size = (np.sum(p * a, axis=1, keepdims=True) for a in (g, abs(g)))
        return p * (g - dot), p * (abs(g) + size)
    total, size = (np.sum(a, axis=1, keepdims=True) for a in (g, abs(g)))
    return g - p * total, abs(g) + p * size


def expected_loss(inputs: Inputs) -> float:
    target = inputs.target.reshape(-1)
    picked = inputs.flat(inputs.logits)[np.arange(len(target)), target].astype(np.float64)
    return float((inputs.lse - picked).mean())


def check(op: str, inputs: Inputs, result: Any, to_numpy: Callable[[Any], np.ndarray] = np.asarray) -> None:
    """Hold a contender's result to the oracle.

    Raises
    ------
    ArithmeticError
        With the operation and the largest error, in units of what is allowed.
    """
    op = LOSS_GRAD if op == INPLACE else op
    loss, array = {LOSS: lambda r: (r, None), LOSS_GRAD: lambda r: r}.get(op, lambda r: (None, r))(result)
    eps = _epsilon(inputs.logits.dtype)
    if loss is not None:
        want = expected_loss(inputs)
        _require(op, abs(float(loss) - want), 100 * eps * (1 + abs(want)))
    if array is None:
        return
    array = to_numpy(array)
    shape = inputs.target.shape if op == LSE else inputs.logits.shape
    if array.shape != shape or array.dtype != inputs.logits.dtype:
        raise ArithmeticError(f"{op}: {array.dtype}{array.shape} instead of {inputs.logits.dtype}{shape}")
    found = array.reshape(-1) if op == LSE else inputs.flat(array)
    scale = {LOSS_GRAD: 1 / inputs.target.size, SOFTMAX: 0.0, LSE_VJP: 0.0}.get(op, 1.0)
    smallest = _smallest(inputs.logits.dtype)  # below it digits get lost
    for rows in row_blocks(inputs.flat(inputs.logits)):
        if op in (SOFTMAX_VJP, LOG_SOFTMAX_VJP):
            want, scale = expected_vjp(op, inputs, rows)
        else:
            want = expected_rows(op, inputs, rows)
        _require(op, np.abs(found[rows] - want), 100 * eps * (scale + smallest + np.abs(want)))


def _epsilon(dtype: np.dtype) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def _smallest(dtype: np.dtype) -> float:
    """Return the smallest normal number, that of float32 for bfloat16 too."""
    return float(np.finfo(np.float32 if dtype.name == "bfloat16" else dtype).tiny)


def _require(op: str, error: Any, allowed: Any) -> None:
    if not np.all(error <= allowed):  # a NaN fails too
        raise ArithmeticError(f"{op}: error up to {np.max(error / allowed):.3g} times what is allowed")
