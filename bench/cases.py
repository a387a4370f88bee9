"""What is timed, on which data, and the float64 oracle every result is held to before any timing."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

LOSS, LOSS_GRAD, SOFTMAX, LOG_SOFTMAX, LSE = "loss", "loss+grad", "softmax", "log_softmax", "logsumexp"
OPS = (LOSS, LOSS_GRAD, SOFTMAX, LOG_SOFTMAX, LSE)
WRITING = (LOSS_GRAD, SOFTMAX, LOG_SOFTMAX)
SCALE = "scale"  # not a contest: the memory limit of working in place, measured at the largest shape

BATCHES = (1, 32, 256, 1024, 4096, 16384, 65536)
CLASSES = (10, 1000, 50257)
MAX_ELEMENTS = 67_000_000
TRAINING_BATCHES = (32, 256)


@dataclass(frozen=True)
class Case:
    """One operation on logits of one shape and dtype."""

    op: str
    batch: int
    classes: int
    dtype: str

    def __str__(self) -> str:
        """Name the case, in the display and in what the processes tell each other."""
        return f"{self.op} {self.batch}×{self.classes} {self.dtype}"

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.batch * self.classes

    @property
    def nbytes(self) -> int:
        """Bytes of the logits."""
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def traffic(self) -> int:
        """The fewest bytes the operation can move: the logits read, and for array results also written."""
        return self.nbytes * (1 if self.op in (LOSS, LSE) else 2)


@dataclass(frozen=True)
class Training:
    """A network trained with one batch size; takes its place in the list of cases."""

    batch: int
    epochs: int

    def __str__(self) -> str:
        """Name the case."""
        return f"training, batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """Everything a run is decided by; the runner and every contender's process work from the same one."""

    contenders: tuple[str, ...]
    threads: int
    ops: tuple[str, ...] = OPS
    batches: tuple[int, ...] = BATCHES
    classes: tuple[int, ...] = CLASSES
    dtypes: tuple[str, ...] = ("float32",)
    max_elements: int = MAX_ELEMENTS
    seconds: float = 165.0
    rounds: tuple[int, int] = (3, 15)  # at least, at most; each case as many as the seconds allow
    epochs: int = 40
    training: tuple[int, ...] = TRAINING_BATCHES
    smoke: bool = False

    def shapes(self) -> list[tuple[int, int]]:
        """(batch, classes) within the size limit, small to large, so that a slow machine drops the largest."""
        pairs = [(n, c) for n in self.batches for c in self.classes if n * c <= self.max_elements]
        return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1]))

    def cases(self) -> list[Case]:
        """Return all speed cases in the order they are played."""
        shapes = self.shapes()
        cases = [Case(op, n, c, dtype) for dtype in self.dtypes for n, c in shapes for op in self.ops]
        scale = [Case(SCALE, *shapes[-1], self.dtypes[0])] if shapes else []
        return scale + cases

    def trainings(self) -> list[Training]:
        """Return the training runs, played after the speed cases."""
        return [Training(batch, self.epochs) for batch in self.training]


@dataclass
class Inputs:
    """Logits and labels of a case, with the room for results given out= and the oracle's log-sum-exp."""

    logits: np.ndarray
    target: np.ndarray
    room: np.ndarray = field(repr=False)

    @cached_property
    def out(self) -> np.ndarray:
        """An array for results, shaped like the logits."""
        return self.room[: self.logits.size].reshape(self.logits.shape)

    @cached_property
    def lse(self) -> np.ndarray:
        """Log-sum-exp in float64, the plain stable way."""
        result = np.empty(len(self.logits))
        for rows in row_blocks(self.logits):
            x = self.logits[rows].astype(np.float64)
            top = x.max(axis=1)
            x -= top[:, None]
            result[rows] = np.log(np.exp(x, out=x).sum(axis=1)) + top
        return result


@lru_cache(maxsize=1)
def _noise(count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normals × 3, and as much room for results: once a process, since page faults are slow."""
    values = np.random.default_rng(20240229).standard_normal(count, dtype=np.dtype(dtype))
    values *= 3
    return values, np.empty_like(values)


@lru_cache(maxsize=1)
def make_inputs(batch: int, classes: int, dtype: str, largest: int) -> Inputs:
    """Return the inputs of a shape; the same in every process."""
    values, room = _noise(largest, dtype)
    logits = values[: batch * classes].reshape(batch, classes)
    return Inputs(logits, np.random.default_rng(batch).integers(0, classes, batch), room)


def row_blocks(logits: np.ndarray, elements: int = 1 << 18) -> list[slice]:
    """Row slices of about ``elements`` logits, so that the oracle's float64 scratch stays in cache."""
    step = max(1, elements // logits.shape[1])
    return [slice(i, min(i + step, len(logits))) for i in range(0, len(logits), step)]


def expected_rows(op: str, inputs: Inputs, rows: slice) -> np.ndarray:
    """Return some rows of the array an operation returns, in float64."""
    x, lse = inputs.logits[rows].astype(np.float64), inputs.lse[rows]
    if op == LSE:
        return lse
    x -= lse[:, None]
    if op == LOG_SOFTMAX:
        return x
    p = np.exp(x, out=x)
    if op == LOSS_GRAD:
        p[np.arange(len(p)), inputs.target[rows]] -= 1
        p /= len(inputs.logits)
    return p


def expected_loss(inputs: Inputs) -> float:
    picked = inputs.logits[np.arange(len(inputs.target)), inputs.target].astype(np.float64)
    return float((inputs.lse - picked).mean())


def check(op: str, inputs: Inputs, result: Any) -> None:
    """Hold a contender's result to the oracle.

    Raises
    ------
    ArithmeticError
        With the operation and the largest error, in units of what is allowed.
    """
    loss, array = {LOSS: lambda r: (r, None), LOSS_GRAD: lambda r: r}.get(op, lambda r: (None, r))(result)
    eps = float(np.finfo(inputs.logits.dtype).eps)
    if loss is not None:
        want = expected_loss(inputs)
        _require(op, abs(float(loss) - want), 100 * eps * (1 + abs(want)))
    if array is None:
        return
    array = np.asarray(array)
    shape = inputs.target.shape if op == LSE else inputs.logits.shape
    if array.shape != shape or array.dtype != inputs.logits.dtype:
        raise ArithmeticError(f"{op}: {array.dtype}{array.shape} instead of {inputs.logits.dtype}{shape}")
    scale = {LOSS_GRAD: 1 / len(inputs.target), SOFTMAX: 0.0}.get(op, 1.0)
    for rows in row_blocks(inputs.logits):
        want = expected_rows(op, inputs, rows)
        error = np.abs(array[rows] - want)
        _require(op, error, 100 * eps * (scale + np.abs(want)))


def _require(op: str, error: Any, allowed: Any) -> None:
    if not np.all(error <= allowed):  # a NaN fails too
        raise ArithmeticError(f"{op}: error up to {np.max(error / allowed):.3g} times what is allowed")
