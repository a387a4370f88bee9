"""The only place that decides which regime a shape takes; `kernels.codegen.threads` decides by how many threads.

Regimes, by the shape of the array that arrives:

- (outer, C, inner): the class axis is not last; neighbouring samples lie in the lanes (``columns``).
- (N, C), C <= ``tiles.MAX_CLASSES``: rows are transposed in registers (``tiles``).
- (N, C), few rows of very many classes: threads share the chunks of a row (``split``).
- (N, C), rows of up to 64 values: blocks of up to as many rows as a value has lanes (``short_rows``).
- (N, C) otherwise: one row after the other (``long_rows``).

The serial variant runs where threads would cost more than they save, and where they would kill the process. They
would in a child forked after threads had started, and, with Numba's workqueue layer, while there are other Python
threads: one of them might be inside a parallel kernel of any package. Where the parallel variant may run,
`kernels.codegen.threads.run` decides whether one thread runs it while other programs use the cores.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np

from fastce.kernels.codegen.jit import Kernel
from fastce.kernels.codegen.target import uses_avx512_algorithms
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS, Array, run, started, threads
from fastce.kernels.ops import (
    binary,
    binary_probs,
    cross_entropy,
    exact_sum,
    focal,
    hessian,
    jensen_shannon,
    kl_divergence,
    logit_transform,
    score,
    shard_results,
    shard_stats,
    sigmoid_focal,
    soft_targets,
    softmax,
    softmax_vjp,
)
from fastce.kernels.ops.cross_entropy import NO_OPTIONS, NOT_TAKEN, SUM, Options, Scaling
from fastce.kernels.rows import elements, samples, split
from fastce.kernels.rows.columns import PANEL, ColumnPlan
from fastce.kernels.rows.long_rows import CHUNK, RowPlan, chunk_length
from fastce.kernels.rows.row_dots import SHORT_VALUES
from fastce.kernels.rows.short_rows import EXP_VALUES, MAX_VALUES
from fastce.kernels.rows.tiles import MAX_CLASSES

ROWS_A_THREAD = 4  # with fewer rows, of at least SPLIT_CLASSES classes, the threads share each row
SPLIT_CLASSES = 2 * CHUNK
ROWS_A_BLOCK = 16  # most long rows that a thread takes at a time
LANES = {2: 16, 4: 16, 8: 8}  # of a value, by the bytes of an element in memory: kernels widen 16-bit floats to float32
# Results of at least so many bytes go past the caches, unless they are new arrays; fewer for kernels that read two
# inputs, or one input twice.
STREAMED_BYTES = {"rows": 1 << 26, "logs": 3 << 24, "columns": 3 << 23, "lse_vjp": 3 << 23, "softmax_vjp": 1 << 23}


class Op(NamedTuple):
    """The kernels of one operation, by regime."""

    columns: Kernel
    tiles: Kernel
    short_rows: Kernel
    rows: Kernel  # long ones
    split: Callable[..., Any] | None = None  # (args, out, out_is_new): runs few rows of very many classes
    kind: str = "rows"  # key of `STREAMED_BYTES` for results of long rows
    inputs: int = 1  # how many of the first arguments are shaped as the result
    asks: bool = True  # whether kernels ask `callers_arrays.takes`; its ``is_checked`` is then their last argument


# Module state: compiled kernels without a plan, by (operation, which arguments and options are None, dtype, dimensions,
# classes), and for parallel ones True, and for logits of 16 bits the bytes of an element of the result.
_entries: dict[Any, Callable[..., Any]] = {}


def _run_kernel(kernel: Kernel, args: tuple[Any, ...]) -> Any:
    """Run a kernel."""
    x = args[0]
    in_parallel = x.size >= PARALLEL_ELEMENTS and threads.may_serve()
    entry = kernel.entry(in_parallel, args)
    return run(entry, args, x) if in_parallel else entry(*args)


def _run_op(op: Op, key: tuple[Any, ...], args: tuple[Any, ...], out: Array | None, out_is_new: bool) -> Any:
    """Run the kernel of an operation for the regime of the first argument.

    ``key`` is the one of the serial kernel. It tells which arguments, and which fields of NamedTuples, are None. With
    the dtype of ``out`` it determines the types of all. ``out_is_new`` results have never been written to.
    """
    x = args[0]
    in_parallel = x.size >= PARALLEL_ELEMENTS and threads.may_serve()
    if in_parallel:
        key += (True,)
        if op.asks:  # its arrays are checked by now
            args = *args[:-1], None
    if out is not None and x.itemsize == 2:  # it may be wider
        key += (out.itemsize,)
    entry = _entries.get(key)
    if entry is None:
        if op.split is not None and _is_split(x):
            return op.split(args, out, out_is_new)
        kernel, plan = _kernel_and_plan(op, args, out, out_is_new)
        if plan is None:
            entry = _entries[key] = kernel.entry(in_parallel, args)
        else:
            args = *args, plan
            entry = kernel.entry(in_parallel, args)
    return run(entry, args, x, out_is_new) if in_parallel else entry(*args)


def _kernel_and_plan(
    op: Op, args: tuple[Any, ...], out: Array | None, out_is_new: bool
) -> tuple[Kernel, ColumnPlan | RowPlan | None]:
    """Return the kernel and its plan; without a plan, the choice depends only on dimensions, classes and dtype."""
    x = args[0]
    classes = x.shape[1]
    if x.ndim == 3:
        return op.columns, ColumnPlan(_panel_width(x), _is_streamed("columns", (x,), out, out_is_new))
    if classes <= MAX_CLASSES:
        return op.tiles, None
    if classes <= LANES[x.itemsize] * MAX_VALUES:
        return op.short_rows, None
    streamed = _is_streamed(op.kind, (x,), out, out_is_new)
    store_exp = _exp_place(op, args, out, streamed)
    rows = -(-len(x) // len(store_exp)) if isinstance(store_exp, np.ndarray) else _rows_a_block(x)
    return op.rows, RowPlan(rows, streamed, static_flag(classes > CHUNK), store_exp)


def static_flag(condition: bool) -> bool | None:
    """Encode a compile-time flag: True, or None, so that Numba prunes the branch."""
    return True if condition else None


# --- what plans and choices are made of ---------------------------------------------------


def _computed(x: Array) -> np.dtype[Any]:
    """Return the dtype that kernels compute in: float32 for 16-bit floats, which are stored as integers."""
    return np.dtype(np.float32) if x.itemsize == 2 else x.dtype


def _is_split(x: Array) -> bool:
    """Tell whether rows are so few and so long that threads share them."""
    return x.shape[1] >= SPLIT_CLASSES and x.ndim == 2 and len(x) < ROWS_A_THREAD * threads.count()


def _is_streamed(kind: str, inputs: Sequence[Array], out: Array | None, out_is_new: bool) -> bool:
    """Tell whether a result goes past the caches.

    Streaming pays only if no line of ``out`` is cached. Lines shared with an input were just read; lines of a new
    array were just zeroed by the system.
    """
    if out is None or out_is_new or out.nbytes < STREAMED_BYTES[kind]:
        return False
    return not any(np.may_share_memory(out, x) for x in inputs)


def _exp_place(op: Op, args: tuple[Any, ...], out: Array | None, streamed: bool) -> Array | bool | None:
    """Return where long rows store exponentials until the factor of the result is known.

    True is the result itself. If that is an input, each thread has a buffer, a row of the array returned. So it is for
    logits of 16 bits, as their results would round the exponentials. None stores none: where results go past the
    caches, to compute exponentials again costs less.
    """
    x = args[0]
    is_half = x.itemsize == 2
    # longer rows of 16 bits may be split, which stores none, and the bits must not depend on that
    most = SPLIT_CLASSES - 1 if is_half else CHUNK
    if out is None or x.shape[1] > most or (streamed and not is_half):
        return None
    if not is_half and not any(np.may_share_memory(out, a) for a in args[: op.inputs]):
        return True
    return None if op.kind == "logs" else _exp_buffers(x)


def _exp_buffers(x: Array) -> Array:
    """Return a buffer for each thread that takes rows of ``x``: the exponentials of a row, as whole aligned values."""
    lanes = LANES[x.itemsize]
    count = -(-len(x) // -(-len(x) // _thread_count(x)))
    return np.empty((count, (-(-x.shape[1] // lanes) + 1) * lanes), _computed(x))


def _rows_a_block(x: Array) -> int:
    """Return how many long rows a thread takes at a time."""
    return min(-(-len(x) // _thread_count(x)), ROWS_A_BLOCK)


def _thread_count(x: Array) -> int:
    """Return how many threads a kernel has for an array; 1 without asking if it is small, as asking starts threads."""
    return threads.count() if x.size >= PARALLEL_ELEMENTS else 1


def _panel_width(x: Array) -> int:
    """Return the width of panels of ``x`` in values: the greatest at which all threads have equally many, if any is."""
    values: int = -(-x.shape[2] // LANES[x.itemsize])
    count = _thread_count(x)
    across = -(-values // PANEL)
    while x.shape[0] * across % count and across < values:
        across += 1
    return -(-values // across)


def _chunk_count(x: Array) -> int:
    count: int = -(-x.shape[1] // chunk_length.py_func(x.shape[1]))
    return count


def _kernels_check(x: Array) -> bool:
    """Tell whether kernels of ``x`` ask `callers_arrays.takes` where arrays are not checked.

    Kernels for threads do not: a call that they refuse would count as a fast one in `threads.run`.
    """
    return 0 < x.size < PARALLEL_ELEMENTS


def _takes(x: Array, out: Array | None, vector: Array | None) -> bool:
    """Tell whether kernels can take these arrays, as `callers_arrays.takes` does; False if they are empty."""
    if x.size == 0:
        return False
    arrays = [array for array in (x, out, vector) if array is not None]
    if not all(array.flags.c_contiguous and array.flags.aligned for array in arrays):
        return False
    if (out is not None and out.shape != x.shape) or (vector is not None and len(vector) != len(x)):
        return False
    pairs = itertools.combinations(arrays, 2)
    return not any(a is not b and np.may_share_memory(a, b) for a, b in pairs)


def _split_stats(x: Array, stats: Array | None = None) -> Array:
    """Return the maxima and ``sum_exp_rest`` of split rows, in ``stats`` where that is given."""
    parts = np.empty((len(x), _chunk_count(x), 3))
    if stats is None:
        stats = np.empty((2, len(x)), _computed(x))
    _run_kernel(split.split_stats, (x, parts))
    split.merge_stats(False, (x, parts, stats))
    return stats


# --- the softmax family ------------------------------------------------------------------


def run_softmax(
    x: Array,
    lse: Array | None,
    probs: Array | None,
    logs: Array | None,
    out_is_new: bool = False,
    is_checked: bool = True,
) -> bool:
    """Run the softmax family; see ``kernels.ops.softmax``.

    Return False, with nothing written, if the arrays are not ``is_checked`` and kernels cannot take them as they are.
    """
    key = "softmax", lse is None, probs is None, logs is None, x.dtype, x.ndim, x.shape[1]
    if 0 < x.size < PARALLEL_ELEMENTS and (entry := _entries.get(key)) is not None:  # as `_run_op`, for small calls
        return entry(x, lse, probs, logs, is_checked)  # type: ignore[no-any-return]
    out = logs if probs is None else probs
    if not (is_checked or _kernels_check(x)):
        if not _takes(x, out, lse):
            return False
        is_checked = True
    args = x, lse, probs, logs, is_checked
    return _run_op(SOFTMAX if logs is None else LOG_SOFTMAX, key, args, out, out_is_new)  # type: ignore[no-any-return]


def _softmax_split(args: tuple[Any, ...], out: Array | None, out_is_new: bool) -> bool:
    *arrays, _ = args
    x = arrays[0]
    streamed = _is_streamed("rows", (x,), out, out_is_new)
    _run_kernel(softmax.softmax_split, (*arrays, streamed, _split_stats(x)))
    return True


SOFTMAX = Op(
    softmax.softmax_columns, softmax.softmax_tiles, softmax.softmax_short_rows, softmax.softmax_rows, _softmax_split
)
LOG_SOFTMAX = SOFTMAX._replace(kind="logs")  # is not made of exponentials


def run_softmax_vjp(y: Array, g: Array, out: Array, are_probs: bool, out_is_new: bool = False) -> None:
    """Run the backward pass of softmax, whose result is ``y``, or of log-softmax; see ``kernels.ops.softmax_vjp``."""
    args = y, g, out, static_flag(are_probs)
    if _is_narrow(y):
        _run_kernel(softmax_vjp.softmax_tiles, args)
    elif _is_short(y):
        _run_kernel(softmax_vjp.softmax_short_rows, args)
    else:
        streamed = _is_streamed("softmax_vjp", (y, g), out, out_is_new)
        if y.ndim == 3:
            _run_kernel(softmax_vjp.softmax_columns, (*args, _panel_width(y), streamed))
        elif _is_split(y):
            parts = np.empty((len(y), _chunk_count(y)))
            _run_kernel(split.split_dots, (g, y if are_probs else None, parts))
            _run_kernel(softmax_vjp.softmax_split, (*args, streamed, parts))
        elif streamed or y.shape[1] > CHUNK:
            _run_kernel(softmax_vjp.softmax_long_rows, (*args, streamed))
        else:
            _run_kernel(softmax_vjp.softmax_rows, (*args, _rows_a_block(y)))


def run_lse_vjp(x: Array, g: Array, lse: Array, out: Array, out_is_new: bool = False) -> None:
    """Run the backward pass of log-sum-exp; see ``kernels.ops.softmax_vjp``."""
    args = x, g, lse, out
    if _is_narrow(x):
        _run_kernel(softmax_vjp.lse_tiles, args)
    elif _is_short(x):
        _run_kernel(softmax_vjp.lse_short_rows, args)
    else:
        streamed = _is_streamed("lse_vjp", (x,), out, out_is_new)
        if x.ndim == 3:
            _run_kernel(softmax_vjp.lse_columns, (*args, _panel_width(x), streamed))
        else:
            _run_kernel(softmax_vjp.lse_split if _is_split(x) else softmax_vjp.lse_rows, (*args, streamed))


def _is_short(x: Array) -> bool:
    """Tell whether a backward pass takes rows as short ones."""
    return x.ndim == 2 and x.shape[1] <= SHORT_VALUES * LANES[x.itemsize]


def _is_narrow(y: Array) -> bool:
    """Tell whether a backward pass goes by tiles: rows alone would leave most lanes idle, or end in slow masks."""
    classes, lanes = y.shape[1], LANES[y.itemsize]
    if y.ndim == 3 or classes > MAX_CLASSES:
        return False
    return 4 * classes <= lanes or (classes % lanes != 0 and not uses_avx512_algorithms())


# --- cross-entropy -----------------------------------------------------------------------


def run_index_targets(
    x: Array,
    target: Array,
    ignore_index: int,
    options: Options,
    scaling: Scaling,
    saved_stats: Array | None,
    loss: Array | None,
    grad: Array | None,
    out_is_new: bool = False,
    is_checked: bool = True,
) -> tuple[int, float, float]:
    """Run cross-entropy with class indices; see ``kernels.ops.cross_entropy``.

    Return `NOT_TAKEN` as the position, with nothing written, if the logits, the target and ``grad`` are not
    ``is_checked`` and kernels cannot take them as they are.
    """
    form = options is NO_OPTIONS or _form_of(options)
    key = "index targets", form, saved_stats is None, loss is None, grad is None, x.dtype, x.ndim, x.shape[1]
    if 0 < x.size < PARALLEL_ELEMENTS and (entry := _entries.get(key)) is not None:  # as `_run_op`, for small calls
        return entry(  # type: ignore[no-any-return]
            x, target, ignore_index, options, scaling, saved_stats, loss, grad, is_checked
        )
    if not (is_checked or _kernels_check(x)):
        if not _takes(x, grad, target):
            return NOT_TAKEN, 0.0, 0.0
        is_checked = True
    op = INDEX_TARGETS if options.smoothing is None else SMOOTHED_INDEX_TARGETS
    args = x, target, ignore_index, options, scaling, saved_stats, loss, grad, is_checked
    return _run_op(op, key, args, grad, out_is_new)  # type: ignore[no-any-return]


def _form_of(options: Options) -> tuple[bool, bool, bool, bool]:
    """Return which options are None."""
    weight, factors, smoothing, z_loss = options
    return weight is None, factors is None, smoothing is None, z_loss is None


def _hard_split(args: tuple[Any, ...], grad: Array | None, out_is_new: bool) -> tuple[int, float, float]:
    x, target, ignore_index, options, scaling, saved_stats, loss, *_ = args
    weights = [None if w is None else w.astype(np.float64) for w in (options.class_weight, options.sample_factors)]
    position, total_weight = scan_labels(target, x.shape[1], ignore_index, *weights)
    if position >= 0:
        return position, total_weight, 0.0
    labels, at_labels = np.empty(len(x), np.int64), np.empty(len(x), _computed(x))
    cross_entropy.pick_labels(False, (x, target, ignore_index, options, labels, at_labels))
    stats = saved_stats if loss is None else _split_stats(x, saved_stats)
    if saved_stats is not None and loss is not None:
        saved_stats[:, labels < 0] = np.nan  # as kernels do that skip ignored samples
    scale = scaling.factor
    if scaling.is_mean:
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where all samples are ignored
            scale = float(np.divide(scale, total_weight))
    streamed = _is_streamed("rows", (x,), grad, out_is_new)
    _run_kernel(cross_entropy.hard_split, (x, labels, at_labels, stats, options, scale, loss, grad, streamed))
    return position, total_weight, 0.0 if loss is None else total(loss)


INDEX_TARGETS = Op(
    cross_entropy.hard_columns,
    cross_entropy.hard_tiles,
    cross_entropy.hard_short_rows,
    cross_entropy.hard_rows,
    _hard_split,
)
SMOOTHED_INDEX_TARGETS = INDEX_TARGETS._replace(split=None)


def run_prob_targets(
    x: Array,
    target: Array,
    options: Options,
    scale: float,
    saved_stats: Array | None,
    loss: Array | None,
    grad: Array | None,
    out_is_new: bool = False,
) -> float:
    """Run cross-entropy with class probabilities; see ``kernels.ops.soft_targets``."""
    args = x, target, options, scale, saved_stats, loss, grad
    form = *_form_of(options), saved_stats is None, loss is None, grad is None
    key = "prob targets", form, x.dtype, x.ndim, x.shape[1]
    return _run_op(PROB_TARGETS, key, args, grad, out_is_new)  # type: ignore[no-any-return]


PROB_TARGETS = Op(
    soft_targets.soft_columns,
    soft_targets.soft_tiles,
    soft_targets.soft_short_rows,
    soft_targets.soft_rows,
    inputs=2,
    asks=False,
)


def scan_labels(
    target: Array, classes: int, ignore_index: int, class_weight: Array | None, sample_factors: Array | None
) -> tuple[int, float]:
    """Return (position of the first label out of range or -1, total weight); the weights are float64."""
    result: tuple[int, float] = samples.scan_labels(
        False, (target, classes, ignore_index, class_weight, sample_factors)
    )
    return result


def total(values: Array) -> float:
    """Sum losses in a fixed order in float64."""
    result: float = samples.total(False, (values,))
    return result


def run_exact_sum(values: Array, bins: Array) -> None:
    """Add contiguous float64 numbers to ``bins``; see ``kernels.ops.exact_sum``."""
    exact_sum.exact_sum(False, (values.view(np.int64), bins))


# --- shards of the classes ---------------------------------------------------------------


def run_shard_stats(
    x: Array,
    labels: Array | None,
    first: int,
    probs: Array | None,
    class_weight: Array | None,
    smoothing: tuple[float, float, float] | None,
    stats: Array,
    is_chunk: bool,
    is_whole: bool,
) -> None:
    """Write the statistics of a shard; see ``kernels.ops.shard_stats``.

    ``is_chunk`` says that the shard is a chunk of longer rows, whose bits it gets however few its classes are, and
    ``is_whole`` that it has all classes.
    """
    args = labels, first, probs, class_weight, smoothing, stats
    if x.ndim == 3:
        _run_kernel(shard_stats.shard_columns, (x, *args, _panel_width(x)))
    elif is_chunk or x.shape[1] > LANES[x.itemsize] * MAX_VALUES:
        parts = np.empty((len(x), _chunk_count(x), 3))
        if is_whole and x.shape[1] <= CHUNK:
            _write_whole_stats(x, parts[:, 0])
        else:
            _run_kernel(split.split_stats, (x, parts))
        _run_kernel(shard_stats.shard_rows, (x, parts, *args))
    else:
        _run_kernel(shard_stats.shard_tiles if x.shape[1] <= MAX_CLASSES else shard_stats.shard_short_rows, (x, *args))


def _write_whole_stats(x: Array, parts: Array) -> None:
    """Write the statistics of rows of one chunk as those of a chunk, with the bits that losses have."""
    stats, losses = np.empty((2, len(x)), _computed(x)), np.empty(len(x), _computed(x))
    run_index_targets(x, np.zeros(len(x), np.int64), -1, NO_OPTIONS, SUM, stats, losses, None)
    row_max, sum_exp_rest = stats
    has_max = row_max > -np.inf
    parts[:, 0] = np.where(has_max, row_max, -np.inf)
    parts[:, 1] = np.where(has_max, sum_exp_rest, np.where(np.isnan(row_max), np.nan, 0.0))
    parts[:, 2] = has_max


def run_shard_merge(parts: Array, merged: Array) -> None:
    """Merge the statistics of shards, in order; see ``kernels.ops.shard_results``."""
    _run_kernel(shard_results.merge_shards, (parts, merged))


def run_shard_finish(summary: Array, stats: Array) -> None:
    """Write the summary of merged statistics; see ``kernels.ops.shard_results``."""
    _run_kernel(shard_results.finish_shards, (summary, stats))


def run_shard_lse(summary: Array, lse: Array) -> None:
    """Write the log-sum-exp of all samples; see ``kernels.ops.shard_results``."""
    _run_kernel(shard_results.shard_lse, (summary, lse))


def run_shard_losses(summary: Array, *args: Any, is_soft: bool, is_weighted: bool, losses: Array) -> None:
    """Write the losses of all samples; see ``kernels.ops.shard_results``."""
    flags = static_flag(is_soft), static_flag(is_weighted)
    _run_kernel(shard_results.shard_losses, (summary, *args, *flags, losses))


def run_shard_terms(summary: Array, *args: Any, is_weighted: bool, terms: Array) -> None:
    """Write the terms of the gradient of a shard; see ``kernels.ops.shard_results``."""
    _run_kernel(shard_results.shard_terms, (summary, *args, static_flag(is_weighted), terms))


def run_shard_gradient(
    x: Array,
    probs: Array | None,
    terms: Array,
    class_weight: Array | None,
    smoothing: tuple[float, float, float] | None,
    has_factors: bool,
    grad: Array,
    out_is_new: bool,
) -> None:
    """Write the gradient of a shard from its terms; see ``kernels.ops.shard_results``."""
    args = x, probs, terms, class_weight, smoothing, static_flag(has_factors), grad
    if x.ndim == 3:
        streamed = _is_streamed("columns", (x,), grad, out_is_new)
        _run_kernel(shard_results.gradient_columns, (*args, _panel_width(x), streamed))
    elif x.shape[1] <= MAX_CLASSES:
        _run_kernel(shard_results.gradient_tiles, args)
    else:
        _run_kernel(shard_results.gradient_rows, (*args, _is_streamed("rows", (x,), grad, out_is_new)))


def run_log_softmax_from(x: Array, stats: Array, logs: Array, out_is_new: bool = False) -> None:
    """Write the log-softmax of rows whose maxima and ``sum_exp_rest`` are known; see ``kernels.ops.softmax``."""
    streamed = _is_streamed("logs", (x,), logs, out_is_new)
    _run_kernel(softmax.softmax_split, (x, None, None, logs, streamed, stats))


# --- losses of elements: all arrays are flat ----------------------------------------------


def count_kept(target: Array, ignored: float) -> float:
    """Return how many targets are not ``ignored``."""
    sums = block_sums(target)
    _run_kernel(elements.count_kept, (target, ignored, sums))
    return total(sums)


def run_binary(
    x: Array,
    target: Array,
    options: binary.Options,
    upstream: Array | None,
    scale: float,
    loss: Array | None,
    grad: Array | None,
) -> Array:
    """Run binary cross-entropy with logits; return the sums of its blocks of losses. See ``kernels.ops.binary``."""
    sums = block_sums(x)
    _run_kernel(binary.binary, (x, target, options, upstream, scale, sums, loss, grad))
    return sums


def run_binary_probs(
    p: Array,
    target: Array,
    options: binary.Options,
    upstream: Array | None,
    scale: float,
    sums: Array | None,
    loss: Array | None,
    grad: Array | None,
) -> int:
    """Run binary cross-entropy from probabilities; return the position of the first that is none, or -1.

    See ``kernels.ops.binary_probs``.
    """
    invalid = np.empty(-(-p.size // elements.BLOCK), np.int64)
    _run_kernel(binary_probs.binary_probs, (p, target, options, upstream, scale, invalid, sums, loss, grad))
    found = invalid[invalid >= 0]
    return int(found[0]) if found.size else -1


def run_sigmoid_focal(
    x: Array,
    target: Array,
    alpha: tuple[float, float] | None,
    gamma: tuple[float, float] | None,
    upstream: Array | None,
    scale: float,
    loss: Array | None,
    grad: Array | None,
) -> Array:
    """Run the focal loss of sigmoids; return the sums of its blocks of losses. See ``kernels.ops.sigmoid_focal``."""
    sums = block_sums(x)
    _run_kernel(sigmoid_focal.sigmoid_focal, (x, target, alpha, gamma, upstream, scale, sums, loss, grad))
    return sums


def block_sums(x: Array) -> Array:
    """Return a new array for the sum of each block of losses."""
    return np.empty(-(-x.size // elements.BLOCK))


# --- operations on rows alone: other layouts are staged ------------------------------------


def run_logit_transform(x: Array, scale: float, cap: float | None, out: Array) -> None:
    """Write logits after logit scale and cap."""
    _run_kernel(logit_transform.logit_transform, (x, scale, cap, out))


def run_logit_transform_vjp(x: Array, scale: float, cap: float | None, grad: Array, out: Array) -> None:
    """Write a gradient with respect to the logits before logit scale and cap."""
    _run_kernel(logit_transform.logit_transform_vjp, (x, scale, cap, grad, out))


def run_score(x: Array, *args: Any) -> None:
    """Score the rows of ``x``, (N, C), whose labels are known to be in range; see ``kernels.ops.score``."""
    if x.shape[1] <= MAX_CLASSES:
        _run_kernel(score.score_tiles, (x, *args))
    else:  # blocks of longer rows have fewer rows than lanes, and gain less than storing their exponentials costs
        _run_kernel(score.score_short_rows if x.shape[1] <= EXP_VALUES else score.score_rows, (x, *args))


def run_kl(
    x: Array, target: Array, beta: float, upstream: Array | None, scale: float, loss: Array, grad: Array | None
) -> float:
    """Run the divergence of two softmaxes and return the sum of its losses; see ``kernels.ops.kl_divergence``."""
    kernel = kl_divergence.kl_tiles if x.shape[1] <= MAX_CLASSES else kl_divergence.kl_rows
    total_loss: float = _run_kernel(kernel, (x, target, beta, upstream, scale, loss, grad))
    return total_loss


def run_focal(x: Array, target: Array, *options: Any) -> None:
    """Run the focal loss of class probabilities; see ``kernels.ops.focal``."""
    _run_kernel(focal.focal_rows, (x, target, *options))


def run_jensen_shannon(target_share: float, x: Array, target: Array, beta: float, *options: Any) -> float:
    """Run the Jensen-Shannon divergence, or for a share of 1 the reversed divergence, and return the sum of its losses.

    See ``kernels.ops.jensen_shannon``.
    """
    reversed_kl = jensen_shannon.REVERSED
    mixture = reversed_kl if target_share == 1.0 else jensen_shannon.mixture_of(target_share, x.itemsize)
    args = x, target, beta, *mixture, *options
    kernel = jensen_shannon.mixture_tiles if x.shape[1] <= MAX_CLASSES else jensen_shannon.mixture_rows
    return _run_kernel(kernel, args)  # type: ignore[no-any-return]


def run_hessian_diag(x: Array, sample_weight: Array | None, scale: float, out: Array | None) -> None:
    """Write the diagonal of cross-entropy's Hessian; see ``kernels.ops.hessian``."""
    kernel = hessian.diagonal_tiles if x.shape[1] <= MAX_CLASSES else hessian.diagonal_rows
    _run_kernel(kernel, (x, sample_weight, scale, out))


def run_hvp(x: Array, v: Array, grad_scales: Array, out: Array | None) -> None:
    """Write the product of cross-entropy's Hessian with a vector; see ``kernels.ops.hessian``."""
    kernel = hessian.product_tiles if x.shape[1] <= MAX_CLASSES else hessian.product_rows
    _run_kernel(kernel, (x, v, grad_scales, out))


# --- what a shape gets, in words --------------------------------------------------------


def explain(shape: tuple[int, ...], itemsize: int) -> tuple[str, str]:
    """Describe (regime, variant) of logits of this shape, computed in a dtype of ``itemsize`` bytes."""
    classes, lanes = shape[1], LANES[itemsize]
    count = started() or numba.config.NUMBA_NUM_THREADS
    if len(shape) == 3:
        regime = f"columns: the class axis is not last; panels of up to {PANEL * lanes} neighbouring samples"
    elif classes <= MAX_CLASSES:
        regime = f"tiles: at most {MAX_CLASSES} classes; {lanes} rows at a time, transposed in registers"
    elif classes >= SPLIT_CLASSES and shape[0] < ROWS_A_THREAD * count:
        length = chunk_length.py_func(classes)
        regime = (
            f"split: fewer than {ROWS_A_THREAD} rows a thread; softmax and cross-entropy of class indices without "
            f"smoothing give chunks of {length} classes to the threads, other functions whole rows"
        )
    elif classes <= MAX_VALUES * lanes:
        regime = f"short rows: {MAX_CLASSES + 1} to {MAX_VALUES * lanes} classes; up to {lanes} rows at a time"
    else:
        regime = f"rows: more than {MAX_VALUES * lanes} classes; one row after the other"
    size = math.prod(shape)
    if size < PARALLEL_ELEMENTS:
        return regime, f"serial: {size} elements, fewer than {PARALLEL_ELEMENTS}"
    if count == 1:
        return regime, "serial: forked after threads had started" if threads.forked else "serial: one thread"
    return regime, f"parallel: {count} threads, or one while threads lose time"
