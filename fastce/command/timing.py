"""``fastce time``: fastce beside NumPy and torch, and the memory limit of the machine."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

import fastce
from fastce.command.arguments import usage_errors
from fastce.command.terminal import tell

Array = npt.NDArray[Any]
Call = Callable[[], Any]

WITH_LABELS = ("cross_entropy_and_grad", "cross_entropy")
WITH_OUT = ("cross_entropy_and_grad", "softmax", "log_softmax")  # whose results have the shape of the logits
TURN = 0.005  # seconds of calls in a turn, at least one call
PAUSE = 0.005  # before a turn: threads of the contender before it stop spinning
FEWEST_TURNS = 3
ARRAYS = 8  # of the logits' shape that all contenders together hold at a time


class Problem(NamedTuple):
    """What is timed: a function of ``fastce``, by its name, and its arguments."""

    op: str
    logits: Array
    labels: Array
    axis: int

    def moved(self) -> int:
        """Return how many bytes the function has to read and write at least."""
        labels = self.labels.nbytes if self.op in WITH_LABELS else 0
        return self.logits.nbytes * (2 if self.op in WITH_OUT else 1) + labels


class Row(NamedTuple):
    """A line of the table."""

    name: str
    seconds: float


def run(options: argparse.Namespace) -> None:
    """Time all contenders and print the table."""
    with usage_errors():
        shape = options.shape
        if not math.prod(shape):
            raise ValueError(f"there is nothing to time in the shape {shape}")
        axis = options.axis + (len(shape) if options.axis < 0 else 0)
        if not 0 <= axis < len(shape):
            raise ValueError(f"--axis {options.axis} is no axis of {shape}")
    problem = make_problem(options.op, shape, options.dtype, axis)
    _warn_if_busy()
    copies = copying(problem.moved())
    seconds = measure({**contenders(problem), **copies}, options.seconds)
    limit = min(seconds.pop(name) for name in copies)
    rows = [Row(name, value) for name, value in seconds.items()]
    if options.json:
        print(json.dumps(_as_json(problem, limit, rows)))
    else:
        print("\n".join(_table(problem, limit, rows)))


def make_problem(op: str, shape: tuple[int, ...], dtype: str, axis: int) -> Problem:
    """Return a problem with random logits and labels; raise MemoryError before the system runs out of it."""
    kind = np.dtype(_bfloat16()) if dtype == "bfloat16" else np.dtype(dtype)
    needed, there = ARRAYS * math.prod(shape) * max(kind.itemsize, 4), _physical_memory()
    if needed > there:
        sizes = f"{needed / 1e9:,.0f} GB, and the machine has {there / 1e9:,.0f} GB"
        raise MemoryError(f"to time this shape takes {sizes}; give fewer samples")
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(shape, np.float32).astype(kind, copy=False)
    return Problem(op, logits, rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :]), axis)


def _warn_if_busy() -> None:
    """Tell on standard error that other programs use the cores, where the system knows."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > cores / 2:
        tell(f"fastce time: note: the machine is busy, with a load of {load:.1f} on {cores} cores")


def _bfloat16() -> Any:
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError("bfloat16 needs ml_dtypes, which is not installed: pip install ml_dtypes") from None
    return ml_dtypes.bfloat16


def _physical_memory() -> float:
    """Return the bytes of memory that the machine has, infinity if the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf


# --- contenders -----------------------------------------------------------------


def contenders(problem: Problem) -> dict[str, Call]:
    """Return a call of each contender, by its name."""
    op, logits, labels, axis = problem
    function = getattr(fastce, op)
    arguments = (logits, labels) if op in WITH_LABELS else (logits,)
    calls = {"fastce": lambda: function(*arguments, axis=axis)}
    if op in WITH_OUT:
        out = np.empty_like(logits)
        calls["fastce, out="] = lambda: function(*arguments, axis=axis, out=out)
    calls["NumPy"] = lambda: in_numpy(problem)
    torch_call = in_torch(problem)
    return calls if torch_call is None else {**calls, "torch": torch_call}


def in_numpy(problem: Problem) -> Any:
    """Return the function's result in plain NumPy, by formulas that do not overflow."""
    op, x, y, axis = problem
    with np.errstate(all="ignore"):
        row_max = x.max(axis, keepdims=True)
        shifted = x - row_max
        exps = np.exp(shifted)
        sums = exps.sum(axis, keepdims=True)
        if op == "softmax":
            return exps / sums
        log_sums = np.log(sums)
        if op == "log_softmax":
            return shifted - log_sums
        if op == "logsumexp":
            return (log_sums + row_max).squeeze(axis)
        labels = np.expand_dims(y, axis)
        loss = (log_sums - np.take_along_axis(shifted, labels, axis)).mean()
        if op == "cross_entropy":
            return loss
        grad = exps / sums
        np.put_along_axis(grad, labels, np.take_along_axis(grad, labels, axis) - grad.dtype.type(1), axis)
        grad /= grad.dtype.type(y.size)
        return loss, grad


def in_torch(problem: Problem) -> Call | None:
    """Return a call that computes the function's result in eager torch, None where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    op, logits, labels, axis = problem
    torch.set_num_threads(numba.get_num_threads())
    is_bfloat16 = logits.dtype.name == "bfloat16"
    x = torch.from_numpy(logits.view(np.int16)).view(torch.bfloat16) if is_bfloat16 else torch.from_numpy(logits)
    if op not in WITH_LABELS:
        function = getattr(torch, op)
        return lambda: function(x, axis)
    y = torch.from_numpy(np.asarray(labels))
    if axis == logits.ndim - 1:  # as everybody writes it
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1)
    else:
        x = x.movedim(axis, 1)
    cross_entropy = torch.nn.functional.cross_entropy
    if op == "cross_entropy":
        return lambda: cross_entropy(x, y)
    x.requires_grad_()

    def loss_and_grad() -> Any:
        x.grad = None
        loss = cross_entropy(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss, x.grad

    return loss_and_grad


def copying(moved: int) -> dict[str, Call]:
    """Return calls that read and write so many bytes, in one thread and in all: copies of half as many."""
    source = np.ones(max(moved // 2, 1), np.uint8)
    target = np.zeros_like(source)
    threads = numba.get_num_threads()
    calls: dict[str, Call] = {"copying": lambda: np.copyto(target, source)}
    if threads > 1:
        pool = ThreadPoolExecutor(threads)
        parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
        calls["copying in all threads"] = lambda: list(pool.map(lambda part: np.copyto(*part), parts))
    return calls


# --- timing and output ----------------------------------------------------------


def measure(calls: dict[str, Call], seconds: float) -> dict[str, float]:
    """Return the seconds of each call: the lower quartile of its turns, which alternate with those of the others."""
    for call in calls.values():
        call()  # compiles
    turns: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(turns[next(iter(calls))]) < FEWEST_TURNS or time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()  # warms the caches, and wakes threads
            turns[name].append(_turn(call))
    return {name: float(np.quantile(values, 0.25)) for name, values in turns.items()}


def _turn(call: Call) -> float:
    """Call for `TURN` seconds and return the seconds of a call."""
    start = time.perf_counter()
    for count in itertools.count(1):
        call()
        elapsed = time.perf_counter() - start
        if elapsed >= TURN:
            return elapsed / count
    raise AssertionError("unreachable")


def _as_json(problem: Problem, limit: float, rows: list[Row]) -> dict[str, Any]:
    """Return the figures for JSON."""
    own = rows[0].seconds
    return {
        "op": problem.op,
        "shape": list(problem.logits.shape),
        "dtype": str(problem.logits.dtype),
        "axis": problem.axis,
        "threads": numba.get_num_threads(),
        "bytes": problem.moved(),
        "copying_seconds": limit,
        "contenders": [
            {"name": name, "seconds": value, "share_of_limit": limit / value, "times_fastce": value / own}
            for name, value in rows
        ],
    }


def _table(problem: Problem, limit: float, rows: list[Row]) -> list[str]:
    """Return the figures as lines of a table."""
    shape, own = "x".join(map(str, problem.logits.shape)), rows[0].seconds
    cells = [("", "ms", "of the limit", "times fastce")]
    for name, value in [*rows, Row("limit: copying", limit)]:
        cells.append((name, _short(1e3 * value), f"{_short(100 * limit / value)} %", _short(value / own)))
    name_width, *widths = (max(map(len, column)) for column in zip(*cells, strict=True))
    lines = [f"{problem.op}, {shape} {problem.logits.dtype}", ""]
    for name, *figures in cells:
        right = (f"{figure:>{width}}" for figure, width in zip(figures, widths, strict=True))
        lines.append("  ".join([f"{name:{name_width}}", *right]))
    return [*lines, "", f"classes along axis {problem.axis}, threads: {numba.get_num_threads()}"]


def _short(value: float) -> str:
    """Return a number with three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"
