"""The only place that decides which regime a shape takes; ``threads`` decides by how many threads.

Regimes, by the shape of the array that arrives:

- (outer, C, inner): the class axis is not last; neighbouring samples lie in the lanes (``columns``).
- (N, C), C <= ``tiles.MAX_CLASSES``: rows are transposed in registers (``tiles``).
- (N, C), few rows of very many classes: chunks of rows (``split``).
- (N, C), rows of up to 64 values: as many together as a value has lanes (``short_rows``).
- (N, C) otherwise: one row after the other (``long_rows``).

The serial variant runs where threads would cost more than they bring, and where they would take
the process down: in a child forked after threads had started, and, with Numba's workqueue
layer, while there are other Python threads: one of them might be inside a parallel kernel, of
this package or another. Where the parallel variant may run, ``threads`` has it run by one thread
while other programs use the cores.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numba
import numpy as np
import numpy.typing as npt

from fastce.kernels.codegen.jit import Kernel
from fastce.kernels.codegen.target import uses_avx512_algorithms
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS, run, started, threads
from fastce.kernels.ops import (
    binary,
    cross_entropy,
    hessian,
    kl_divergence,
    logit_transform,
    score,
    soft_targets,
    softmax,
    softmax_vjp,
)
from fastce.kernels.rows import samples, split
from fastce.kernels.rows.columns import PANEL
from fastce.kernels.rows.long_rows import CHUNK, chunk_length
from fastce.kernels.rows.short_rows import FEW, KEPT, VALUES
from fastce.kernels.rows.tiles import MAX_CLASSES

ROWS_A_THREAD = 4  # fewer rows of very many classes are shared among the threads
SPLIT_CLASSES = 2 * CHUNK  # are very many
ROWS_TOGETHER = 16  # long rows that a thread takes at a time
LANES = {2: 16, 4: 16, 8: 8}  # of a value, by the bytes of an element: 16-bit floats are float32 there
# of a given result, which goes past the caches; where there are two inputs, or one is read twice, they hold less of it
STREAMED_BYTES = {"rows": 1 << 26, "logs": 3 << 23, "columns": 3 << 23, "lse_vjp": 3 << 23, "softmax_vjp": 1 << 23}

Array = npt.NDArray[Any]
_Checked = tuple[int, float, float]  # (position of a bad label or -1, kept weight, sum of losses)


class Op(NamedTuple):
    """The drivers of one operation, by regime."""

    columns: Kernel
    tiles: Kernel
    short_rows: Kernel
    rows: Kernel
    split: Callable[..., Any] | None = None  # (args, out, out_is_new): runs those of few rows of very many classes
    kind: str = "rows"  # of results of long rows, see `STREAMED_BYTES`


PROB_TARGETS = Op(
    soft_targets.soft_columns, soft_targets.soft_tiles, soft_targets.soft_short_rows, soft_targets.soft_rows
)


def run_softmax(x: Array, lse: Array | None, probs: Array | None, logs: Array | None, out_is_new: bool = False) -> None:
    """Run the softmax family; see ``kernels.softmax``. ``out_is_new`` results have never been written to."""
    form = lse is None, probs is None, logs is None
    _run(
        SOFTMAX if logs is None else LOG_SOFTMAX,
        form,
        (x, lse, probs, logs),
        logs if probs is None else probs,
        out_is_new,
    )


def _softmax_split(args: tuple[Any, ...], out: Array | None, out_is_new: bool) -> None:
    x = args[0]
    _launch(softmax.softmax_split, *args, _is_streamed("rows", (x,), out, out_is_new), _split_stats(x))


SOFTMAX = Op(
    softmax.softmax_columns, softmax.softmax_tiles, softmax.softmax_short_rows, softmax.softmax_rows, _softmax_split
)
LOG_SOFTMAX = SOFTMAX._replace(kind="logs")  # in whose results no exponentials wait


def run_index_targets(
    x: Array,
    target: Array,
    ignore_index: int,
    class_weight: Array | None,
    sample_factors: Array | None,
    smoothing: tuple[float, float, float] | None,
    z_loss: float | None,
    scale: float,
    is_mean: bool,
    found: Array | None,
    loss: Array | None,
    grad: Array | None,
    out_is_new: bool = False,
) -> tuple[int, float, float]:
    """Run cross-entropy with class indices; see ``kernels.cross_entropy``."""
    args = (
        x,
        target,
        ignore_index,
        class_weight,
        sample_factors,
        smoothing,
        z_loss,
        scale,
        is_mean,
        found,
        loss,
        grad,
    )
    form = (
        class_weight is None,
        sample_factors is None,
        smoothing is None,
        z_loss is None,
        found is None,
        loss is None,
        grad is None,
    )
    return _run(INDEX_TARGETS if smoothing is None else SMOOTHED_INDEX_TARGETS, form, args, grad, out_is_new)  # type: ignore[no-any-return]


def _hard_split(args: tuple[Any, ...], grad: Array | None, out_is_new: bool) -> tuple[int, float, float]:
    x, target, ignore_index, class_weight, sample_factors, _, z_loss, scale, is_mean, found, loss, _ = args
    weights = class_weight, sample_factors
    wide = [None if w is None else w.astype(np.float64) for w in weights]
    position, denominator = scan_labels(target, x.shape[1], ignore_index, *wide)
    if position >= 0:
        return position, denominator, 0.0
    at_labels = np.empty(len(x), _computed(x))
    cross_entropy.pick_labels(False, (x, target, ignore_index, at_labels))
    stats = found if loss is None else _split_stats(x, found)
    if found is not None:
        found[:, target == ignore_index] = np.nan  # as in kernels that pass such samples over
    if is_mean:
        with np.errstate(divide="ignore", invalid="ignore"):  # as in kernels: where all samples are ignored
            scale = float(np.divide(scale, denominator))
    arrays = (loss, grad, _is_streamed("rows", (x,), grad, out_is_new), stats, at_labels)
    _launch(cross_entropy.hard_split, x, target, ignore_index, *weights, z_loss, scale, *arrays)
    return position, denominator, 0.0 if loss is None else total(loss)


INDEX_TARGETS = Op(
    cross_entropy.hard_columns,
    cross_entropy.hard_tiles,
    cross_entropy.hard_short_rows,
    cross_entropy.hard_rows,
    _hard_split,
)
SMOOTHED_INDEX_TARGETS = INDEX_TARGETS._replace(split=None)


def run_prob_targets(x: Array, target: Array, *options: Any, out_is_new: bool = False) -> float:
    """Run cross-entropy with class probabilities; see ``kernels.soft_targets``."""
    form = (*map(type, options),)
    return _run(PROB_TARGETS, form, (x, target, *options), options[-1], out_is_new, 2)  # type: ignore[no-any-return]


def _computed(x: Array) -> np.dtype[Any]:
    """Return the dtype that kernels compute in: float32 for 16-bit floats in integer clothes."""
    return np.dtype(np.float32) if x.itemsize == 2 else x.dtype


def _is_split(x: Array) -> bool:
    """Tell whether rows are too few and too long to give the threads one each."""
    return x.shape[1] >= SPLIT_CLASSES and x.ndim == 2 and len(x) < ROWS_A_THREAD * threads.count()


def _chunk_count(x: Array) -> int:
    count: int = -(-x.shape[1] // chunk_length.py_func(x.shape[1]))
    return count


def _split_stats(x: Array, stats: Array | None = None) -> Array:
    parts = np.empty((len(x), _chunk_count(x), 3))
    if stats is None:
        stats = np.empty((2, len(x)), _computed(x))
    _launch(split.split_stats, x, parts)
    split.merge_stats(False, (x, parts, stats))
    return stats


def run_softmax_vjp(y: Array, g: Array, out: Array, are_logs: bool, out_is_new: bool = False) -> None:
    """Run the backward pass of softmax, whose result is ``y``, or of log-softmax; see ``kernels.vjp``."""
    args = y, g, out, _chosen(not are_logs)
    if _is_narrow(y):
        _launch(softmax_vjp.softmax_tiles, *args)
    elif _is_few(y):
        _launch(softmax_vjp.softmax_short_rows, *args)
    else:
        streamed = _is_streamed("softmax_vjp", (y, g), out, out_is_new)
        if y.ndim == 3:
            _launch(softmax_vjp.softmax_columns, *args, _panel(y), streamed)
        elif _is_split(y):
            parts = np.empty((len(y), _chunk_count(y)))
            _launch(split.split_dots, g, None if are_logs else y, parts)
            _launch(softmax_vjp.softmax_split, *args, streamed, parts)
        elif streamed or y.shape[1] > CHUNK:
            _launch(softmax_vjp.softmax_long_rows, *args, streamed)
        else:
            _launch(softmax_vjp.softmax_rows, *args, _rows_together(y))


def run_lse_vjp(x: Array, g: Array, lse: Array, out: Array, out_is_new: bool = False) -> None:
    """Run the backward pass of log-sum-exp; see ``kernels.vjp``."""
    args = x, g, lse, out
    if _is_narrow(x):
        _launch(softmax_vjp.lse_tiles, *args)
    elif _is_few(x):
        _launch(softmax_vjp.lse_short_rows, *args)
    else:
        streamed = _is_streamed("lse_vjp", (x,), out, out_is_new)
        if x.ndim == 3:
            _launch(softmax_vjp.lse_columns, *args, _panel(x), streamed)
        else:
            _launch(softmax_vjp.lse_split if _is_split(x) else softmax_vjp.lse_rows, *args, streamed)


def _is_few(x: Array) -> bool:
    """Tell whether rows of a backward pass are summed at once."""
    return x.ndim == 2 and x.shape[1] <= FEW * LANES[x.itemsize]


def _is_narrow(y: Array) -> bool:
    """Tell whether a backward pass goes by tiles: rows alone would leave most lanes idle, or end in slow masks."""
    classes, lanes = y.shape[1], LANES[y.itemsize]
    if y.ndim == 3 or classes > MAX_CLASSES:
        return False
    return 4 * classes <= lanes or (classes % lanes != 0 and not uses_avx512_algorithms())


def _is_streamed(kind: str, inputs: Sequence[Array], out: Array | None, out_is_new: bool) -> bool:
    """Tell whether a result of long rows, or of columns, goes past the caches: one too large for them.

    None of them may hold its lines: those of the inputs are held by the cache that has just read them, those of a
    new array by the one through which the system has cleared it.
    """
    if out is None or out_is_new or out.nbytes < STREAMED_BYTES[kind]:
        return False
    return not any(np.may_share_memory(out, x) for x in inputs)


def _is_kept(inputs: Sequence[Array], out: Array | None, streamed: bool) -> bool:
    """Tell whether the exponentials of long rows wait, in the cache, for their factor.

    They do so in the result itself; 16 bits would round them, so that those of such results
    have a place of their own, in rows that are never split among threads.
    """
    if out is None:
        return False
    classes: int = out.shape[1]
    if out.itemsize == 2:
        return classes < SPLIT_CLASSES
    return not streamed and classes <= CHUNK and not any(np.may_share_memory(out, x) for x in inputs)


_known: dict[Any, Callable[..., Any]] = {}  # entry points of drivers that are told nothing but the call's arguments


def _run(
    op: Op, form: tuple[Any, ...], args: tuple[Any, ...], out: Array | None, out_is_new: bool, inputs: int = 1
) -> Any:
    """Run the driver of the regime.

    ``form`` tells which of the arguments are None, by truth values or types; with the dtype of ``x`` that settles the
    types of all. The first so many are the ``inputs`` that are shaped like ``out``.
    """
    x = args[0]
    in_parallel = threads.may_serve(x)
    key = op.tiles, form, in_parallel, x.dtype, x.shape[1:]
    entry = _known.get(key)
    if entry is None:
        if op.split is not None and _is_split(x):
            return op.split(args, out, out_is_new)
        kernel, more = _driver(op, args, out, out_is_new, inputs)
        entry = kernel.entry(in_parallel, (*args, *more))
        if more:
            args = *args, *more
        else:
            _known[key] = entry
    return run(entry, args, x, out_is_new) if in_parallel else entry(*args)


def _driver(
    op: Op, args: tuple[Any, ...], out: Array | None, out_is_new: bool, inputs: int
) -> tuple[Kernel, tuple[int | bool | Array | None, ...]]:
    """Return the driver and what else it is told: how many values or rows go together, and how results are written.

    Those that are told nothing are chosen by dimensions, classes and dtype alone.
    """
    x = args[0]
    classes = x.shape[1]
    if x.ndim == 3:
        return op.columns, (_panel(x), _is_streamed("columns", (x,), out, out_is_new))
    if classes <= MAX_CLASSES:
        return op.tiles, ()
    if classes <= LANES[x.itemsize] * VALUES:
        return op.short_rows, ()
    streamed = _is_streamed(op.kind, args[:1], out, out_is_new)
    together = _rows_together(x)
    kept: Array | bool | None = _chosen(_is_kept(args[:inputs], out, streamed))
    if kept and x.itemsize == 2:
        together = -(-len(x) // _threads_for(x))
        kept = _places(-(-len(x) // together), classes)
    return op.rows, (together, streamed, _chosen(classes > CHUNK), kept)


def _places(count: int, classes: int) -> Array:
    """Return a place for each thread, where the exponentials of one row after the other wait in its cache.

    It holds whole values of float32 from a cache line on.
    """
    lanes = LANES[4]
    return np.empty((count, (-(-classes // lanes) + 1) * lanes), np.float32)


def _rows_together(x: Array) -> int:
    """Return how many long rows a thread takes at a time."""
    return min(-(-len(x) // _threads_for(x)), ROWS_TOGETHER)


def _threads_for(x: Array) -> int:
    """Return how many threads a kernel has for an array; asking for those of small ones would start them."""
    return threads.count() if x.size >= PARALLEL_ELEMENTS else 1


def _chosen(choice: bool) -> bool | None:
    """Return what makes a choice when a kernel is compiled: True, or None, which drops a branch."""
    return True if choice else None


def _panel(x: Array) -> int:
    """Return how many values wide the panels of ``x`` are: wide, and equally many for each thread."""
    values: int = -(-x.shape[2] // LANES[x.itemsize])
    count = _threads_for(x)
    across = -(-values // PANEL)
    while x.shape[0] * across % count and across < values:
        across += 1
    return -(-values // across)


def _launch(kernel: Kernel, *args: Any) -> Any:
    """Run a kernel that there is one of."""
    x = args[0]
    in_parallel = threads.may_serve(x)
    entry = kernel.entry(in_parallel, args)
    return run(entry, args, x) if in_parallel else entry(*args)


def explain(shape: tuple[int, ...], itemsize: int) -> tuple[str, str]:
    """Return in words (regime, variant) of an array of this shape; ``itemsize`` is that computed in."""
    classes, lanes = shape[1], LANES[itemsize]
    count = started() or numba.config.NUMBA_NUM_THREADS
    if len(shape) == 3:
        regime = f"columns: the class axis is not last; panels of up to {PANEL * lanes} neighbouring samples"
    elif classes <= MAX_CLASSES:
        regime = f"tiles: at most {MAX_CLASSES} classes; {lanes} rows at a time, transposed in registers"
    elif classes >= SPLIT_CLASSES and shape[0] < ROWS_A_THREAD * count:
        length = chunk_length.py_func(classes)
        regime = f"split: fewer than {ROWS_A_THREAD} rows a thread; chunks of {length} classes go to the threads"
    elif classes <= VALUES * lanes:
        regime = f"short rows: {MAX_CLASSES + 1} to {VALUES * lanes} classes; up to {lanes} rows at a time"
    else:
        regime = f"rows: more than {VALUES * lanes} classes; one row after the other"
    size = math.prod(shape)
    if size < PARALLEL_ELEMENTS:
        return regime, f"serial: {size} elements, fewer than {PARALLEL_ELEMENTS}"
    if count == 1:
        return regime, "serial: forked after threads had started" if threads.forked else "serial: one thread"
    return regime, f"parallel: {count} threads, or one while threads lose time"


def run_flat(inputs: Sequence[Array | None], scale: float, loss: Array | None, grad: Array | None) -> Array:
    """Run binary cross-entropy on flat arrays and return the sums of its blocks of losses."""
    x = cast(Array, inputs[0])
    sums = np.empty(-(-x.size // binary.BLOCK))
    _launch(binary.binary, *inputs, scale, sums, loss, grad)
    return sums


def run_logit_transform(x: Array, scale: float, cap: float | None, out: Array) -> None:
    """Write what logit scale and cap make of logits."""
    _launch(logit_transform.logit_transform, x, scale, cap, out)


def run_logit_transform_vjp(x: Array, scale: float, cap: float | None, grad: Array, out: Array) -> None:
    """Bring a gradient back through logit scale and cap."""
    _launch(logit_transform.logit_transform_vjp, x, scale, cap, grad, out)


def scan_labels(*args: Any) -> tuple[int, float]:
    """Check labels and weigh the kept samples, the weights in float64; see ``samples.scan``."""
    result: tuple[int, float] = samples.scan_labels(False, args)
    return result


def total(values: Array) -> float:
    """Sum losses in a fixed order in float64."""
    result: float = samples.total(False, (values,))
    return result


def run_score(x: Array, *args: Any) -> None:
    """Score the rows of ``x``, (N, C), whose labels are known to be in range; see ``kernels.score``."""
    if x.shape[1] <= MAX_CLASSES:
        _launch(score.score_tiles, x, *args)
    else:  # of more classes fewer rows than lanes go together, and gain less than keeping their exponentials costs
        _launch(score.score_short_rows if x.shape[1] <= KEPT else score.score_rows, x, *args)


# --- two arrays of logits, and second derivatives: rows only, other layouts are staged ----


def run_kl(x: Array, target: Array, *options: Any) -> float:
    """Run the divergence of two softmaxes and return the sum of its losses; see ``kernels.kl``."""
    if x.shape[1] <= MAX_CLASSES:
        return _launch(kl_divergence.kl_tiles, x, target, *options)  # type: ignore[no-any-return]
    return _launch(kl_divergence.kl_rows, x, target, *options)  # type: ignore[no-any-return]


def run_hessian_diag(x: Array, *options: Any) -> None:
    """Write the diagonal of cross-entropy's Hessian; see ``kernels.hessian``."""
    _launch(hessian.diagonal_tiles if x.shape[1] <= MAX_CLASSES else hessian.diagonal_rows, x, *options)


def run_hvp(x: Array, *options: Any) -> None:
    """Write the product of cross-entropy's Hessian with a vector; see ``kernels.hessian``."""
    _launch(hessian.product_tiles if x.shape[1] <= MAX_CLASSES else hessian.product_rows, x, *options)
