"""The only place that decides: which regime a shape takes, and serial twin or parallel twin.

Regimes, by the shape of the array that arrives:

- (outer, C, inner): the class axis is not last; samples lie in the lanes (``tiles``, ``columns``).
- (N, C), C <= ``tiles.MAX_CLASSES``: the same, after transposition in registers.
- (N, C), few rows of very many classes: chunks of rows (``split``).
- (N, C) otherwise: one row after the other (``rows``).

The serial twin runs where threads would cost more than they bring, and where they would take
the process down: in a child forked after threads had started, and, with Numba's workqueue
layer, while another Python thread is inside a parallel kernel.
"""

import math
import os
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt

from fastce.kernels import binary, cross_entropy, samples, soft_targets, softmax, split, vjp
from fastce.kernels.columns import PANEL
from fastce.kernels.jit import Kernel
from fastce.kernels.rows import CHUNK
from fastce.kernels.tiles import MAX_CLASSES

PARALLEL_ELEMENTS = 1 << 15  # below, starting threads costs more than it brings
ROWS_A_THREAD = 4  # fewer rows of very many classes are shared among the threads
PANELS_A_THREAD = 2  # panels get narrower until there are as many
BLOCK_BYTES = 1 << 15  # rows that go together must stay in the first-level cache

Array = npt.NDArray[Any]


class Op(NamedTuple):
    """The drivers of one operation."""

    rows: Kernel
    lanes: Kernel


SOFTMAX = Op(softmax.softmax_rows, softmax.softmax_lanes)
HARD = Op(cross_entropy.hard_rows, cross_entropy.hard_lanes)
SOFT = Op(soft_targets.soft_rows, soft_targets.soft_lanes)
LOGSUMEXP_VJP = Op(vjp.lse_rows, vjp.lse_lanes)
SOFTMAX_VJP = Op(vjp.softmax_rows, vjp.softmax_lanes)
LOG_SOFTMAX_VJP = Op(vjp.log_softmax_rows, vjp.log_softmax_lanes)


class _Threads:
    """Whether Numba's threads may be used now."""

    def __init__(self) -> None:
        self.started = False
        self.forked = False
        self.busy = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """Stay away from threads that the parent had and the child has not."""
        self.forked = self.forked or self.started
        self.busy = threading.Lock()

    def count(self) -> int:
        """Return how many threads a parallel kernel would have."""
        return 1 if self.forked else numba.get_num_threads()

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Run the parallel twin, or the serial one where threads are not to be had."""
        if self.count() == 1:
            return kernel(False, *args)
        self.started = True
        if numba.threading_layer() != "workqueue":
            return kernel(True, *args)
        if not self.busy.acquire(blocking=False):
            return kernel(False, *args)
        try:
            return kernel(True, *args)
        finally:
            self.busy.release()


_threads = _Threads()


def run_softmax(x: Array, lse: Array | None, probs: Array | None, logs: Array | None) -> None:
    """Run the softmax family; see ``kernels.softmax``."""
    if _is_split(x):
        _launch(softmax.softmax_split, x, lse, probs, logs, _split_stats(x))
    else:
        _run(SOFTMAX, x, lse, probs, logs)


def run_hard(
    x: Array,
    target: Array,
    ignore_index: int,
    class_weight: Array | None,
    sample_weight: Array | None,
    smoothing: tuple[float, float, float] | None,
    *rest: Any,
) -> None:
    """Run cross-entropy with class indices; see ``kernels.cross_entropy``."""
    if smoothing is None and _is_split(x):
        options = (ignore_index, class_weight, sample_weight, *rest)
        at_labels = np.empty(len(x), _computed(x))
        cross_entropy.pick_labels(False, x, target, ignore_index, at_labels)
        _launch(cross_entropy.hard_split, x, target, *options, _split_stats(x), at_labels)
    else:
        _run(HARD, x, target, ignore_index, class_weight, sample_weight, smoothing, *rest)


def run_soft(x: Array, target: Array, *options: Any) -> None:
    """Run cross-entropy with class probabilities; see ``kernels.soft_targets``."""
    _run(SOFT, x, target, *options)


def _computed(x: Array) -> np.dtype[Any]:
    """Return the dtype that kernels compute in: float32 for 16-bit floats in integer clothes."""
    return np.dtype(np.float32) if x.itemsize == 2 else x.dtype


def _is_split(x: Array) -> bool:
    """Tell whether rows are too few and too long to give the threads one each."""
    return x.shape[1] >= 2 * CHUNK and x.ndim == 2 and len(x) < ROWS_A_THREAD * _threads.count()


def _split_stats(x: Array) -> Array:
    parts = np.empty((len(x), -(-x.shape[1] // CHUNK), 3))
    stats = np.empty((2, len(x)), _computed(x))
    _launch(split.split_stats, x, parts)
    split.merge_stats(False, x, parts, stats)
    return stats


def run_vjp(op: Op, x: Array, *args: Any) -> None:
    """Run a backward pass of the softmax family; see ``kernels.vjp``."""
    if _has_lanes(x):
        _launch(op.lanes, x, *args, _panel(x))
    else:
        _launch(op.rows, x, *args)


def _has_lanes(x: Array) -> bool:
    """Tell whether samples lie in the lanes, or one row follows the other."""
    return x.ndim == 3 or x.shape[1] <= MAX_CLASSES


def _run(op: Op, x: Array, *args: Any) -> None:
    if _has_lanes(x):
        _launch(op.lanes, x, *args, _panel(x))
    else:
        lanes = 64 // _computed(x).itemsize
        per_block = min(max(BLOCK_BYTES // (x.shape[1] * x.itemsize), 1), lanes)
        _launch(op.rows, x, *args, per_block)


def _panel(x: Array) -> int:
    """Return how many values wide the panels of ``x`` are: wide, but enough for all threads."""
    if x.ndim == 2:
        return 1
    panel = PANEL
    if x.size >= PARALLEL_ELEMENTS:
        values = -(-x.shape[2] * _computed(x).itemsize // 64)
        while panel > 1 and x.shape[0] * -(-values // panel) < PANELS_A_THREAD * _threads.count():
            panel //= 2
    return panel


def _launch(kernel: Kernel, x: Array, *args: Any) -> None:
    if x.size < PARALLEL_ELEMENTS:
        kernel(False, x, *args)
    else:
        _threads.run(kernel, (x, *args))


def explain(shape: tuple[int, ...], itemsize: int) -> tuple[str, str]:
    """Return in words (regime, twin) of an array of this shape; ``itemsize`` is that computed in."""
    classes, lanes = shape[1], 64 // itemsize
    threads = started_threads() or numba.config.NUMBA_NUM_THREADS
    if len(shape) == 3:
        regime = f"columns: the class axis is not last; panels of up to {PANEL * lanes} neighbouring samples"
    elif classes <= MAX_CLASSES:
        regime = f"tiles: at most {MAX_CLASSES} classes; {lanes} rows at a time, transposed in registers"
    elif classes >= 2 * CHUNK and shape[0] < ROWS_A_THREAD * threads:
        regime = f"split: fewer than {ROWS_A_THREAD} rows a thread; chunks of {CHUNK} classes go to the threads"
    else:
        regime = f"rows: more than {MAX_CLASSES} classes; one row after the other"
    size = math.prod(shape)
    if size < PARALLEL_ELEMENTS:
        return regime, f"serial: {size} elements, fewer than {PARALLEL_ELEMENTS}"
    if threads == 1 or _threads.forked:
        return regime, "serial: one thread" if threads == 1 else "serial: forked after threads had started"
    return regime, f"parallel: {threads} threads"


def started_threads() -> int:
    """Return how many threads kernels use, 0 while none was started."""
    return _threads.count() if _threads.started else 0


def run_flat(inputs: Sequence[Array | None], scale: float, loss: Array | None, grad: Array | None) -> Array:
    """Run binary cross-entropy on flat arrays and return the sums of its blocks of losses."""
    x = cast(Array, inputs[0])
    sums = np.empty(-(-x.size // binary.BLOCK))
    arguments = (*inputs, scale, sums, loss, grad)
    if x.size < PARALLEL_ELEMENTS:
        binary.binary(False, *arguments)
    else:
        _threads.run(binary.binary, arguments)
    return sums


def scan_labels(*args: object) -> tuple[int, float]:
    """Check labels and weigh the kept samples; see ``samples.scan_labels``."""
    result: tuple[int, float] = samples.scan_labels(False, *args)
    return result


def total(values: Array) -> float:
    """Sum losses in a fixed order in float64."""
    result: float = samples.total(False, values)
    return result
