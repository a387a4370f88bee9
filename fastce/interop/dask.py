"""fastce's functions on Dask arrays that are chunked along samples, classes or both: lazy, on any scheduler.

Where all classes are in one chunk, fastce runs on each block. Where they are in several, each block is read for its
statistics, as in `fastce.shards`. These merge as a tree. No chunk of logits is cut or copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fastce
from fastce.interop import dask_blocks as blocks
from fastce.interop import dask_graphs as graphs
from fastce.interop.extras import extra

with extra("dask", "dask"):
    import dask
    from dask import array as da

__all__ = [
    "cross_entropy",
    "cross_entropy_and_grad",
    "evaluate",
    "log_softmax",
    "logsumexp",
    "softmax",
]


# --- softmax ------------------------------------------------------------------------------------


def softmax(x: Any, axis: int = -1, *, split_every: int | None = None) -> Any:
    r"""Compute the softmax: `fastce.softmax`.

    .. math:: \operatorname{softmax}(x)_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x : dask.array.Array
        The logits.
    axis : int, default -1
        The axis of the classes.
    split_every : int, optional
        How many chunks along ``axis`` are merged at a time. By default, Dask chooses. If chunks end as
        `fastce.shards.chunk_length` says, all are merged at once, for the bits of the whole.

    Returns
    -------
    dask.array.Array, shape and chunks of ``x``
        The probabilities, in the dtype of ``x`` (float64 for integers).

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        If an argument has a wrong type, or chunks of unknown sizes.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastce.interop.dask import softmax
    >>> x = da.zeros((2, 4), chunks=(1, 2))
    >>> softmax(x)[0].compute()
    array([0.25, 0.25, 0.25, 0.25])
    """
    return _softmax(x, axis, split_every, are_logs=False)


def log_softmax(x: Any, axis: int = -1, *, split_every: int | None = None) -> Any:
    r"""Compute the logarithm of the softmax: `fastce.log_softmax`.

    .. math:: \log \operatorname{softmax}(x)_j = x_j - \log \sum_k e^{x_k}

    Parameters
    ----------
    x, axis, split_every
        As in `softmax`.

    Returns
    -------
    dask.array.Array, shape and chunks of ``x``
        The logarithms of the probabilities, in the dtype of ``x`` (float64 for integers).

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastce.interop.dask import log_softmax
    >>> log_softmax(da.from_array([[40.0, 0.0]], chunks=(1, 1)), axis=1)[0, 0].compute()
    np.float64(-4.248354255291589e-18)
    """
    return _softmax(x, axis, split_every, are_logs=True)


def _softmax(x: Any, axis: int, split_every: int | None, *, are_logs: bool) -> Any:
    logits = graphs.Logits(x, axis, "x")
    args, options = (logits.array, logits.index), {"axis": logits.axis, "are_logs": are_logs, "dtype": logits.result}
    if logits.is_whole:
        return graphs.blockwise(blocks.softmax, logits.index, *args, **options)
    stats = graphs.merged_statistics(logits, None, None, split_every, 3)
    return graphs.blockwise(blocks.softmax_of_shard, logits.index, *args, stats, logits.samples, **options)


def logsumexp(x: Any, axis: int = -1, *, keepdims: bool = False, split_every: int | None = None) -> Any:
    r"""Compute the logarithm of the sum of exponentials: `fastce.logsumexp`.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    x, axis, split_every
        As in `softmax`.
    keepdims : bool, default False
        Keep the axis, with length 1.

    Returns
    -------
    dask.array.Array, shape of ``x`` without ``axis``
        In the dtype of ``x`` (float64 for integers).

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `softmax`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastce.interop.dask import logsumexp
    >>> logsumexp(da.from_array([[1.0, 2.0, 3.0]], chunks=(1, 2))).compute().round(5)
    array([3.40761])
    """
    logits = graphs.Logits(x, axis, "x")
    if logits.is_whole:
        args = logits.array, logits.index
        lse = graphs.blockwise(blocks.logsumexp, logits.samples, *args, axis=logits.axis, dtype=logits.result)
    else:
        args = graphs.merged_statistics(logits, None, None, split_every, 3), logits.samples
        lse = graphs.blockwise(
            blocks.logsumexp_of_stats, logits.samples, *args, kind=logits.array.dtype, dtype=logits.result
        )
    return lse[(slice(None),) * logits.axis + (None,)] if keepdims else lse  # expand_dims fails for some empty chunks


# --- losses -------------------------------------------------------------------------------------


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    split_every: int | None = None,
) -> Any:
    r"""Compute the cross-entropy between logits and class indices or probabilities: `fastce.cross_entropy`.

    .. math:: \ell_i = -\log \operatorname{softmax}(x_i)_{y_i}

    Parameters
    ----------
    logits : dask.array.Array, shape (..., C, ...)
        Unnormalised log-probabilities.
    target : dask.array.Array or array_like
        As in `fastce.cross_entropy`. Class indices take the chunks of the samples. An array in the shape of
        ``logits`` has to have their chunks; one-hot integers need all classes in one chunk.
    axis : int, default -1
        The axis of the classes.
    weight, sample_weight : dask.array.Array or array_like, optional
        As in `fastce.cross_entropy`.
    ignore_index, label_smoothing, z_loss, logit_scale, softcap, reduction, normalizer
        As in `fastce.cross_entropy`.
    split_every : int, optional
        How many chunks are merged at a time, as in `softmax`.

    Returns
    -------
    dask.array.Array, without dimensions, or in the shape of the samples for "none"
        float64 for float64 and integer logits, else float32. "mean" of nothing is NaN.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        If an argument has a wrong type, shape or value, or chunks of unknown sizes or that do not fit.
    IndexError, ValueError
        From ``compute``, as `fastce.cross_entropy`, if a class index is out of range or a target is not one-hot. The
        position in the message counts from the first sample of the block.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastce.interop.dask import cross_entropy
    >>> logits = da.from_array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], chunks=(1, 2))
    >>> cross_entropy(logits, [0, 2]).compute().round(4)
    np.float64(1.2753)
    """
    call = graphs.LossCall(
        logits,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        split_every=split_every,
    )
    return call.reduced(call.losses())


def cross_entropy_and_grad(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    grad_output: Any = None,
    split_every: int | None = None,
) -> fastce.LossAndGrad[Any]:
    r"""Compute the cross-entropy and its gradient with respect to the logits: `fastce.cross_entropy_and_grad`.

    With D samples that are not ignored, for the reduction "mean",

    .. math:: \frac{\partial}{\partial x_{ij}} = \frac{\operatorname{softmax}(x_i)_j - [j = y_i]}{D}

    Parameters
    ----------
    logits, target, axis, weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As in `cross_entropy`.
    reduction, normalizer, split_every
        As in `cross_entropy`.
    grad_output : scalar, dask.array.Array or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)`` of lazy arrays: the loss as from `cross_entropy`, the gradient in the shape,
        chunks and dtype of ``logits`` (float64 for integers).

    Raises
    ------
    TypeError, ValueError, IndexError, numpy.exceptions.AxisError
        As `cross_entropy`.

    Notes
    -----
    Compute both in one call, ``dask.compute(loss, grad)``: with all classes in a chunk they come from one pass. A mean
    divides by the weight of all samples, which is computed first, from target and weights without the logits.

    Examples
    --------
    >>> import dask, dask.array as da
    >>> from fastce.interop.dask import cross_entropy_and_grad
    >>> logits = da.from_array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]], chunks=(1, 3))
    >>> loss, grad = dask.compute(*cross_entropy_and_grad(logits, [0, 2]))
    >>> grad.round(4)
    array([[-0.455 ,  0.1224,  0.3326],
           [ 0.0079,  0.0587, -0.0666]])
    """
    call = graphs.LossCall(
        logits,
        target,
        axis=axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        split_every=split_every,
    )
    losses, grad = call.losses_and_grad(grad_output)
    return fastce.LossAndGrad(call.reduced(losses), grad)


def evaluate(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    top_k: int | Sequence[int] | None = None,
    split_every: int | None = None,
) -> Any:
    r"""Compute the mean loss, perplexity, accuracies and mean entropy: `fastce.evaluate`.

    Parameters
    ----------
    logits : dask.array.Array, shape (..., C, ...)
        Unnormalised log-probabilities, with all classes in one chunk.
    target : dask.array.Array or array_like
        Class indices, or one-hot integers, as in `cross_entropy`.
    axis : int, default -1
        The axis of the classes.
    weight, sample_weight : dask.array.Array or array_like, optional
        As in `fastce.evaluate`.
    ignore_index, label_smoothing, top_k
        As in `fastce.evaluate`.
    split_every : int, optional
        How many chunks are merged at a time.

    Returns
    -------
    dask.delayed.Delayed
        Its ``compute`` returns a `fastce.Evaluation`, with the bits of `fastce.evaluate` for any chunks.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        If an argument has a wrong type, shape or value, chunks of unknown sizes, or classes in several chunks.
    IndexError, ValueError
        From ``compute``, as `cross_entropy`.

    Examples
    --------
    >>> import dask.array as da
    >>> from fastce.interop.dask import evaluate
    >>> result = evaluate(da.from_array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]], chunks=(1, 3)), [0, 1], top_k=(1, 2))
    >>> result.compute().top_k_accuracy
    (0.0, 1.0)
    """
    x = graphs.Logits(logits, axis, "logits")
    if not x.is_whole:
        raise ValueError(
            f"logits must have all classes in one chunk, as ranks need them, got {len(x.class_chunks)} chunks along "
            f"axis {x.axis}: write logits.rechunk({{{x.axis}: -1}})"
        )
    labels = graphs.Target(target, x)
    if labels.is_soft:
        raise TypeError(f"target must be class indices or one-hot integers, got dtype {labels.array.dtype}")
    options: dict[str, Any] = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "top_k": top_k}
    fastce.EvaluationSums(**options)  # raises for a wrong option
    weights = None if weight is None else x.of_classes(weight, "weight", x.class_chunks)
    sample_weights = None if sample_weight is None else x.of_samples(sample_weight, "sample_weight")
    sums = graphs.blockwise(
        blocks.sums,
        x.samples,
        *(x.array, x.index),
        *(labels.array, labels.index),
        *graphs.optional(weights, (x.axis,)),
        *graphs.optional(sample_weights, x.samples),
        axis=x.axis,
        adjust_chunks=dict.fromkeys(x.samples, 1),
        dtype=object,
        **options,
    )
    if sums.ndim:
        sums = da.reduction(
            sums,
            blocks.merge_sums,
            blocks.merge_sums,
            split_every=split_every,
            concatenate=True,
            dtype=object,
            meta=graphs.empty(object, 0),
        )
    # to_delayed optimizes the graph: each chunk is read in the task that uses it
    return dask.delayed(blocks.result_of, pure=True)(sums.to_delayed().item())
