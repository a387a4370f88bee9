"""Cross-entropy whose classes are in several arrays, processes or machines: statistics, merging them, results.

A *shard* has some of the classes of all samples. `statistics` reads it once. `merge` combines the statistics of all
shards, in the order of their classes. All results follow from the merged statistics: the loss, the log-sum-exp, and the
softmax and the gradient of each shard. The results agree with the functions of the same names in ``fastce``.
``docs/shards.md`` has an example, the bounds of the differences, and the costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Unpack, overload

import numpy as np
import numpy.typing as npt

from fastce.core import shard_results
from fastce.core.layout import Array
from fastce.core.out import result_like
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.core.shards import Shard
from fastce.core.shards import chunk_length as chunk_length_of
from fastce.core.validation import as_array, as_index, shown

if TYPE_CHECKING:
    from fastce.api.options import ShardOptions

__all__ = [
    "chunk_length",
    "cross_entropy",
    "cross_entropy_grad",
    "log_softmax",
    "logsumexp",
    "merge",
    "softmax",
    "statistics",
]


def statistics(
    logits: npt.ArrayLike,
    target: npt.ArrayLike | None = None,
    *,
    start: int = 0,
    classes: int | None = None,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    out: Array | None = None,
) -> Array:
    r"""Compute the statistics of some of the classes, from which all results follow.

    With the logits :math:`x_i` of sample i in this shard, scaled and capped,

    .. math::
        m_i = \max_j x_{ij}, \qquad r_i = \sum_{x_{ij} < m_i} e^{x_{ij} - m_i}, \qquad
        k_i = \left|\{j : x_{ij} = m_i\}\right|

    and, with a target, the sums that its loss is made of.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities of the C classes of this shard, which may be none; integers
        and booleans are taken as float64.
    target : array_like, optional
        Class indices of any integer dtype, in the shape of ``logits`` without the class axis, which
        count the classes of all shards. Or class probabilities of this shard, floats in the shape of
        ``logits``. Without it, the statistics give no loss.
    start : int, default 0
        The first class of the shard: the number of classes in the shards before it.
    classes : int, optional
        The number of classes of all shards. With it, a class index outside all shards is found here. A shard
        then also has the bits of the whole if it is one chunk of `chunk_length` or has all classes.
        ``label_smoothing`` needs it.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class of the shard.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over the classes of all shards.
    logit_scale, softcap
        As in `fastce.cross_entropy`.
    out : ndarray, shape (S, N) and dtype float64, optional
        Where to write the statistics.

    Returns
    -------
    ndarray, shape (S, N)
        float64 for the N samples in C order; ``out`` if given. S is 3 without a target, 4 for class indices,
        7 for class indices with ``weight`` or ``label_smoothing``, and 5 for class probabilities. The rows
        are private: only functions of this module read them.

    Raises
    ------
    IndexError
        If a class index is outside 0 to ``classes`` - 1 and not ``ignore_index``. Without ``classes``,
        `cross_entropy` raises it.
    TypeError
        If an argument has a wrong type or dtype, a one-hot target included.
    ValueError
        If an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    merge : the statistics of all shards.

    Notes
    -----
    Give all shards the same options and the same class indices, and all shards or none a ``weight``.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import shards
    >>> logits, target = np.array([[2.0, 1.0, 0.1], [0.0, 1.0, 3.0]]), [0, 2]
    >>> left = shards.statistics(logits[:, :2], target)
    >>> right = shards.statistics(logits[:, 2:], target, start=2)
    >>> left.shape, shards.cross_entropy(shards.merge([left, right]), target).round(6)
    ((4, 2), np.float64(0.293438))
    """
    shard = Shard(logits, axis)
    shard.bind(
        target,
        start=start,
        classes=classes,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
    )
    return shard.statistics(out)


def merge(parts: npt.ArrayLike | Sequence[npt.ArrayLike]) -> Array:
    """Merge the statistics of several shards into the statistics of all their classes.

    Parameters
    ----------
    parts : sequence of array_like, each of shape (S, N), or array_like, shape (P, S, N)
        The `statistics` of P shards, or results of this function, in the order of their classes.

    Returns
    -------
    ndarray, shape (S, N)
        The statistics of all classes of these shards.

    Raises
    ------
    TypeError
        If a part is not float64.
    ValueError
        If a part has a wrong shape, or if the label of a sample is in two parts.

    See Also
    --------
    chunk_length : shards whose results have the bits of the whole.

    Notes
    -----
    The same parts in the same order give the same bits, on any machine. Another order or grouping may change
    the last bits of float64. Statistics of no classes change nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import shards
    >>> parts = [shards.statistics(np.full((1, 2), x)) for x in (0.0, 5.0, 5.0)]
    >>> shards.logsumexp(shards.merge(parts)).round(6)
    array([6.389658])
    """
    return shard_results.merge(parts)


def chunk_length(classes: int) -> int:
    """Return how many classes there are in each chunk of a row: fastce sums long rows in chunks.

    Parameters
    ----------
    classes : int
        The number of classes of all shards.

    Returns
    -------
    int
        The number of classes in each chunk but the last, which may have fewer. A row of up to 32,768 classes is
        one chunk.

    Raises
    ------
    TypeError
        If ``classes`` is not an integer.
    ValueError
        If ``classes`` is negative.

    See Also
    --------
    merge

    Notes
    -----
    If each part that is merged is one chunk, the results have the bits of the whole array, for any number of
    shards. A shard of several chunks then gives a part for each of them. This holds for the class axis last,
    without label smoothing and class probabilities, and with ``classes`` given to `statistics`.

    Examples
    --------
    >>> from fastce import shards
    >>> shards.chunk_length(50_257), shards.chunk_length(131_072), shards.chunk_length(1000)
    (25600, 32768, 1000)
    """
    count = as_index(classes, "classes")
    if count < 0:
        raise ValueError(f"classes must be at least 0, got {shown(count)}")
    return chunk_length_of(count)


def logsumexp(stats: npt.ArrayLike, dtype: npt.DTypeLike = np.float64) -> Array:
    r"""Compute the log-sum-exp over all classes.

    With m, r and k of the merged `statistics`,

    .. math:: \operatorname{lse}(x_i) = m_i + \log(k_i + r_i)

    Parameters
    ----------
    stats : array_like, shape (S, N)
        The merged statistics of all shards.
    dtype : data-type, default float64
        The dtype of the logits.

    Returns
    -------
    ndarray, shape (N,)
        In ``dtype``, computed as for logits of this dtype. Statistics are float64: for all their digits, take
        the default.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If ``stats`` has a wrong shape.

    Examples
    --------
    >>> from fastce import shards
    >>> stats = shards.merge([shards.statistics([[1.0, 2.0]]), shards.statistics([[3.0]])])
    >>> shards.logsumexp(stats).round(5)
    array([3.40761])
    """
    return shard_results.logsumexp(stats, dtype)


def softmax(logits: npt.ArrayLike, stats: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    r"""Compute the softmax over all classes, for the classes of one shard.

    With m, r and k of the merged `statistics`,

    .. math:: p_{ij} = \frac{e^{x_{ij} - m_i}}{k_i + r_i}

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities of the C classes of this shard, which may be none; integers
        and booleans are taken as float64.
    stats : array_like, shape (S, N)
        The merged statistics of all shards, without ``logit_scale`` and ``softcap``.
    axis : int, default -1
        The axis of the classes.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be the first argument itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``logits``
        In the dtype of ``logits`` (float64 for integers); ``out`` if given. NaN where `fastce.softmax`
        gives NaN.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    log_softmax

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import shards
    >>> left, right = np.array([[1.0, 2.0]]), np.array([[3.0]])
    >>> stats = shards.merge([shards.statistics(left), shards.statistics(right)])
    >>> shards.softmax(left, stats).round(8), shards.softmax(right, stats).round(8)
    (array([[0.09003057, 0.24472847]]), array([[0.66524096]]))
    """
    return shard_results.softmax(logits, stats, axis, out, False)


def log_softmax(logits: npt.ArrayLike, stats: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    r"""Compute the logarithm of the softmax over all classes, for the classes of one shard.

    With m, r and k of the merged `statistics`,

    .. math:: \log p_{ij} = (x_{ij} - m_i) - \log(k_i + r_i)

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities of the C classes of this shard, which may be none; integers
        and booleans are taken as float64.
    stats : array_like, shape (S, N)
        The merged statistics of all shards, without ``logit_scale`` and ``softcap``.
    axis : int, default -1
        The axis of the classes.
    out : ndarray, shape and dtype of the result, optional
        Where to write the result. It may be the first argument itself, which is then overwritten, and
        float32 where the result has 16 bits.

    Returns
    -------
    ndarray, shape of ``logits``
        In the dtype of ``logits`` (float64 for integers); ``out`` if given. NaN where
        `fastce.log_softmax` gives NaN.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    softmax

    Examples
    --------
    A confident row keeps its digits:

    >>> import numpy as np
    >>> from fastce import shards
    >>> left, right = np.array([[40.0]]), np.array([[0.0]])
    >>> stats = shards.merge([shards.statistics(left), shards.statistics(right)])
    >>> shards.log_softmax(left, stats)
    array([[-4.24835426e-18]])
    """
    return shard_results.softmax(logits, stats, axis, out, True)


@overload
def cross_entropy(
    stats: npt.ArrayLike,
    target: npt.ArrayLike | None = None,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[ShardOptions],
) -> Scalar: ...
@overload
def cross_entropy(
    stats: npt.ArrayLike,
    target: npt.ArrayLike | None = None,
    *,
    reduction: Literal["none"],
    **options: Unpack[ShardOptions],
) -> FloatArray: ...
@overload
def cross_entropy(
    stats: npt.ArrayLike,
    target: npt.ArrayLike | None = None,
    *,
    reduction: Reduction,
    **options: Unpack[ShardOptions],
) -> Scalar | FloatArray: ...
def cross_entropy(
    stats: npt.ArrayLike,
    target: npt.ArrayLike | None = None,
    *,
    dtype: npt.DTypeLike = np.float64,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
) -> Scalar | FloatArray:
    r"""Compute the cross-entropy over all classes.

    With m, r and k of the merged `statistics`, the log-softmax in the loss of `fastce.cross_entropy` is

    .. math:: \log p_{ij} = (x_{ij} - m_i) - \log(k_i + r_i)

    Parameters
    ----------
    stats : array_like, shape (S, N)
        The merged statistics of all shards.
    target : array_like, optional
        The class indices that the statistics were computed with; None for class probabilities.
    dtype : data-type, default float64
        The dtype of the logits.
    sample_weight : array_like, shape of the samples, optional
        One weight per sample; in the shape (N,) for class probabilities. A sample of weight 0 is left
        out, whatever NaN or infinity it holds.
    ignore_index, label_smoothing, z_loss, reduction, normalizer
        As in `fastce.cross_entropy`.

    Returns
    -------
    scalar, or ndarray in the shape of ``target``, or (N,) without one, for "none"
        float64 for the dtype float64, else float32. "mean" of nothing is NaN.

    Raises
    ------
    IndexError
        If a class index is in no shard and not ``ignore_index``.
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value, or ``label_smoothing`` is not that of the statistics.

    See Also
    --------
    cross_entropy_grad

    Notes
    -----
    Class weights, logit scale and softcap are in the statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import shards
    >>> left, right, target = np.array([[40.0]]), np.array([[0.0]]), [0]
    >>> parts = [shards.statistics(left, target), shards.statistics(right, target, start=1)]
    >>> shards.cross_entropy(shards.merge(parts), target)
    np.float64(4.248354255291589e-18)
    """
    compute, _ = shard_results.compute_dtype(dtype)
    array = shard_results.as_stats(stats)
    labels = None if target is None else as_array(target, "target")
    shard_results.check_labels(labels, array)
    loss = shard_results.Loss(
        array,
        labels,
        array.shape[1:] if labels is None else labels.shape,
        compute,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
        normalizer=normalizer,
    )
    return loss.solve()


def cross_entropy_grad(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    stats: npt.ArrayLike,
    *,
    start: int = 0,
    classes: int | None = None,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    r"""Compute the gradient of `cross_entropy` with respect to the logits of one shard.

    With m, r and k of the merged `statistics`, the softmax in the gradient of
    `fastce.cross_entropy_and_grad` is

    .. math:: p_{ij} = \frac{e^{x_{ij} - m_i}}{k_i + r_i}

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities of the C classes of this shard, which may be none; integers
        and booleans are taken as float64.
    target : array_like
        The class indices, or the class probabilities of this shard, as in `statistics`.
    stats : array_like, shape (S, N)
        The merged statistics of all shards.
    start, classes, axis, weight
        As in `statistics`.
    sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As in `fastce.cross_entropy`.
    reduction, normalizer
        As in `fastce.cross_entropy`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    ndarray, shape of ``logits``
        In the dtype of ``logits`` (float64 for integers); ``out`` if given.

    Raises
    ------
    IndexError
        If a class index is in no shard and not ``ignore_index``, before anything is written.
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value, or the options differ from those of the statistics.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    cross_entropy

    Notes
    -----
    Give the same options as to `statistics` and `cross_entropy`. A mean divides by the weight of all samples,
    whose class weights are in the statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce import shards
    >>> left, right, target = np.array([[2.0, 1.0]]), np.array([[0.1]]), [0]
    >>> parts = [shards.statistics(left, target), shards.statistics(right, target, start=2)]
    >>> stats = shards.merge(parts)
    >>> shards.cross_entropy_grad(left, target, stats).round(4)
    array([[-0.341 ,  0.2424]])
    >>> shards.cross_entropy_grad(right, target, stats, start=2).round(4)
    array([[0.0986]])
    """
    shard = Shard(logits, axis)
    shard.bind(
        as_array(target, "target"),
        start=start,
        classes=classes,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        softcap=softcap,
    )
    array = shard_results.as_stats(stats, shard.count, (shard.rows,))
    loss = shard_results.Loss(
        array,
        None if shard.labels is None else shard.given,
        shard.shape,
        shard.dtype,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
        normalizer=normalizer,
    )
    grad = result_like(shard.logits, out, ("logits", "target", "stats"), (shard.logits, shard.given, array))
    loss.backward(shard, grad, grad_output, out is None)
    return grad
