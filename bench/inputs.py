"""The data of a case, and the float64 oracle every result is held to before any timing."""

from __future__ import annotations

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
    LOSS,
    LOSS_GRAD,
    LSE,
    PIXELS,
    ROWS,
    SOFTMAX,
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


def inputs_of(case: Case, largest: int) -> Inputs:
    """Return the inputs of a case; of all operations on a shape the same."""
    return make_inputs(case.batch, case.classes, case.dtype, case.layout, largest)


def row_blocks(logits: np.ndarray, elements: int = 1 << 18) -> list[slice]:
    """Row slices of about ``elements`` logits, so that the oracle's float64 scratch stays in cache."""
    step = max(1, elements // logits.shape[1])
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
    if op == LOSS_GRAD:
        p[np.arange(len(p)), inputs.target.reshape(-1)[rows]] -= 1
        p /= inputs.target.size
    return p


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
    scale = {LOSS_GRAD: 1 / inputs.target.size, SOFTMAX: 0.0}.get(op, 1.0)
    scale += _smallest(inputs.logits.dtype)  # below it digits get lost
    for rows in row_blocks(inputs.flat(inputs.logits)):
        want = expected_rows(op, inputs, rows)
        error = np.abs(found[rows] - want)
        _require(op, error, 100 * eps * (scale + np.abs(want)))


def _epsilon(dtype: np.dtype) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def _smallest(dtype: np.dtype) -> float:
    """Return the smallest normal number, that of float32 for bfloat16 too."""
    return float(np.finfo(np.float32 if dtype.name == "bfloat16" else dtype).tiny)


def _require(op: str, error: Any, allowed: Any) -> None:
    if not np.all(error <= allowed):  # a NaN fails too
        raise ArithmeticError(f"{op}: error up to {np.max(error / allowed):.3g} times what is allowed")
