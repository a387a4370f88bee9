"""What Dask runs on blocks: fastce, with one of Numba's threads, as the threads are Dask's.

All functions are at module level, so that other processes find them. For a result without the class axis, a block comes
in a list of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt

import fastce

Array = npt.NDArray[Any]
P = ParamSpec("P")
R = TypeVar("R")


def in_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run with one thread, and set the number of its caller's thread back."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            numba.set_num_threads(before)

    return run


def only(block: Any) -> Any:
    """Return the block of nested lists of one."""
    while isinstance(block, list):
        (block,) = block
    return block


# --- all classes in one block -------------------------------------------------------------------


@in_one_thread
def softmax(x: Array, *, axis: int, are_logs: bool) -> Array:
    """Return the softmax, or its logarithms."""
    return (fastce.log_softmax if are_logs else fastce.softmax)(x, axis)


@in_one_thread
def logsumexp(x: Any, *, axis: int) -> Any:
    """Return the log-sum-exp."""
    return fastce.logsumexp(only(x), axis)


@in_one_thread
def losses(x: Any, target: Any, weight: Any, sample_weight: Array | None, **options: Any) -> Any:
    """Return the loss of each sample."""
    options |= {"weight": only(weight), "sample_weight": sample_weight}
    return fastce.cross_entropy(only(x), only(target), reduction="none", **options)


@in_one_thread
def losses_and_grad(
    x: Any, target: Any, weight: Any, sample_weight: Array | None, scale: Array | None, **options: Any
) -> tuple[Any, Array]:
    """Return the loss of each sample, and the gradient of the loss, given the derivative by each or by all."""
    options |= {"weight": only(weight), "sample_weight": sample_weight, "grad_output": scale}
    loss, grad = fastce.cross_entropy_and_grad(only(x), only(target), reduction="none", **options)
    return loss, grad


def member(pair: tuple[Any, Array], *, which: int) -> Any:
    """Return the losses or the gradient."""
    return pair[which]


@in_one_thread
def sums(x: Any, target: Any, weight: Any, sample_weight: Array | None, **options: Any) -> Array:
    """Return an array of one element: the sums of an evaluation."""
    found: fastce.EvaluationSums[Any] = fastce.EvaluationSums(weight=only(weight), **options)
    x = only(x)
    found.add(x, only(target), sample_weight=sample_weight)
    result = np.empty((1,) * (x.ndim - 1), object)
    result[...] = found
    return result


def merge_sums(blocks: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Return sums of several blocks as one."""
    result = np.empty((1,) * blocks.ndim if keepdims else (), object)
    result[...] = sum(blocks.flat)
    return result


def result_of(total: Any) -> fastce.Evaluation[Any]:
    """Return the result of the sums of all blocks."""
    found: fastce.Evaluation[Any] = np.asarray(total, object).item().result()
    return found


# --- some of the classes in a block -------------------------------------------------------------


def pieces(start: int, width: int, classes: int) -> list[tuple[int, int]]:
    """Cut a block of classes where fastce cuts rows of all classes: bits are then those of whole rows."""
    step = max(fastce.shards.chunk_length(classes), 1)
    cuts = [cut - start for cut in range((start // step + 1) * step, start + width, step)]
    return list(zip([0, *cuts], [*cuts, width], strict=True))


def stats_dtype(rows: int) -> np.dtype[Any]:
    """Return the dtype that holds the statistics of a sample."""
    return np.dtype([("stats", np.float64, (rows,))])


def _packed(stats: Array, shape: tuple[int, ...]) -> Array:
    """Return statistics, (S, N), as an array in the shape of the samples."""
    packed = np.empty(shape, stats_dtype(len(stats)))
    packed["stats"] = stats.T.reshape(*shape, len(stats))
    return packed


def _unpacked(packed: Array) -> Array:
    """Return the statistics of such an array, (S, N)."""
    stats = packed["stats"]
    return np.ascontiguousarray(stats.reshape(-1, stats.shape[-1]).T)


@in_one_thread
def statistics(
    x: Array, target: Array | None, weight: Array | None, start: Array, *, axis: int, classes: int, **options: Any
) -> Array:
    """Return the statistics of each piece of a block, along the class axis."""
    samples = x.shape[:axis] + x.shape[axis + 1 :]
    first = int(start[0])
    parts = []
    for begin, end in pieces(first, x.shape[axis], classes):
        part = (slice(None),) * axis + (slice(begin, end),)
        stats = fastce.shards.statistics(
            x[part],
            target[part] if target is not None and target.ndim == x.ndim else target,
            start=first + begin,
            classes=classes,
            axis=axis,
            weight=None if weight is None else weight[begin:end],
            **options,
        )
        parts.append(_packed(stats, samples))
    return np.stack(parts, axis)


def keep(parts: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Return statistics as they are, before they are merged."""
    return parts


@in_one_thread
def merge(parts: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """Return the statistics of several pieces as one."""
    (along,) = axis
    stats = np.moveaxis(parts["stats"], along, 0)
    samples = stats.shape[1:-1]
    merged = _packed(fastce.shards.merge(stats.reshape(len(stats), -1, stats.shape[-1]).swapaxes(1, 2)), samples)
    return np.expand_dims(merged, along) if keepdims else merged


@in_one_thread
def softmax_of_shard(x: Array, stats: Array, *, axis: int, are_logs: bool) -> Array:
    """Return the softmax of a block, or its logarithms."""
    return (fastce.shards.log_softmax if are_logs else fastce.shards.softmax)(x, _unpacked(stats), axis=axis)


@in_one_thread
def logsumexp_of_stats(stats: Array, *, kind: npt.DTypeLike) -> Any:
    """Return the log-sum-exp of merged statistics."""
    return fastce.shards.logsumexp(_unpacked(stats), kind).reshape(stats.shape)


@in_one_thread
def losses_of_stats(
    stats: Array, target: Array | None, sample_weight: Array | None, *, kind: npt.DTypeLike, **options: Any
) -> Any:
    """Return the loss of each sample from merged statistics."""
    if sample_weight is not None and target is None:
        sample_weight = sample_weight.reshape(-1)
    options |= {"sample_weight": sample_weight, "dtype": kind}
    found: Any = fastce.shards.cross_entropy(_unpacked(stats), target, reduction="none", **options)
    return np.reshape(found, stats.shape)


@in_one_thread
def grad_of_shard(
    x: Array,
    target: Array,
    weight: Array | None,
    start: Array,
    stats: Array,
    sample_weight: Array | None,
    scale: Array | None,
    **options: Any,
) -> Array:
    """Return the gradient of a block, given the derivative by each loss or by all."""
    options |= {"weight": weight, "sample_weight": sample_weight, "grad_output": scale}
    return fastce.shards.cross_entropy_grad(
        x, target, _unpacked(stats), start=int(start[0]), reduction="none", **options
    )


# --- means --------------------------------------------------------------------------------------


def label_weights(
    target: Any, weight: Array | None, sample_weight: Array | None, *, axis: int | None, ignore_index: int | None
) -> Any:
    """Return what each sample weighs in a mean, of labels or, along ``axis``, of one-hot targets."""
    labels = only(target) if axis is None else np.argmax(only(target), axis)
    weights: Any = 1.0 if weight is None else only(weight).take(labels, mode="clip").astype(np.float64)
    if sample_weight is not None:
        weights = weights * sample_weight.astype(np.float64)
    is_kept = np.ones(np.shape(labels), bool) if ignore_index is None else labels != ignore_index
    return np.where(is_kept, weights, 0.0)


def divisor_of_nothing(count: Any) -> Any:
    """Return the divisor for a normalizer of 0, which is right where no sample counts."""
    if count:
        raise ValueError(f"normalizer must be positive where samples count, got 0.0 for {int(count)} of them")
    return np.float64(1.0)


def ratio(total: Any, denominator: Any, *, kind: np.dtype[Any]) -> Any:
    """Return a mean."""
    with np.errstate(all="ignore"):
        return kind.type(np.divide(total, denominator))


def upstream_ratio(upstream: Any, denominator: Any) -> Any:
    """Return the derivative by each loss from the one by their mean."""
    with np.errstate(all="ignore"):
        return np.float64(upstream) / denominator
