"""Cross-entropy whose classes are spread over the ranks of MPI: vocab-parallel.

Each rank has the logits of some classes, or the weights of some classes of the last layer, and all labels. The
statistics of `fastce.shards` are exchanged, and every rank merges them in the same order: all have the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop.extras import extra
from fastce.interop.mpi_linear import LinearCall
from fastce.interop.mpi_ranks import Array, Ranks, Record, check_samples, fingerprint, first_class

with extra("mpi", "mpi4py"):
    from mpi4py import MPI

__all__ = [
    "global_normalizer",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_cross_entropy_and_grad",
    "vocab_parallel_linear_cross_entropy_and_grad",
]


def vocab_parallel_cross_entropy(
    logits_shard: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    comm: MPI.Intracomm | None = None,
    start: int | None = None,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
) -> Any:
    r"""Compute the cross-entropy of logits whose classes are spread over ranks.

    With the logits :math:`x^{(r)}` of rank r, it is `fastce.cross_entropy` of all of them side by side,

    .. math:: x = \left[x^{(0)}, x^{(1)}, \ldots, x^{(P - 1)}\right]

    Parameters
    ----------
    logits_shard : array_like, shape (..., C, ...)
        The logits of the C classes of this rank, which may be none.
    target : array_like
        Class indices that count the classes of all ranks, the same on each of them. Or class probabilities of
        this rank's classes, floats in the shape of ``logits_shard``.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that have the classes, ``MPI.COMM_WORLD`` by default. Only its ``size``, ``rank``,
        ``Allgather`` and ``Allreduce`` are used.
    start : int, optional
        The number of classes before this rank's; by default, the number on the ranks before.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class of this rank.
    sample_weight : array_like, shape of the samples, optional
        As in `fastce.cross_entropy`, the same on each rank.
    ignore_index, label_smoothing, z_loss, logit_scale, softcap, reduction, normalizer
        As in `fastce.cross_entropy`, the same on each rank.

    Returns
    -------
    scalar, or ndarray in the shape of the samples for "none"
        The loss, the same bits on every rank.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.cross_entropy`. A bad label is an IndexError on every rank.
    ValueError
        If ranks have different samples, class indices, dtypes or options, or if their classes overlap or leave gaps:
        on every rank.
    RuntimeError
        If another rank has raised an error, so that none waits for it.

    See Also
    --------
    fastce.shards : the statistics, and the bound of the errors.

    Notes
    -----
    There are two exchanges. The first has 64 bytes a rank: its width, ``start`` and status, and checksums of
    the labels and options. The second has the statistics, 32 bytes a sample and rank, 56 with class weights or
    label smoothing. All ranks merge them in the same order. Beyond 64 ranks, an ``Allreduce`` with an operator
    of its own merges them on the way.

    Examples
    --------
    In one process there is one rank, which has all classes:

    >>> from fastce.interop.mpi import vocab_parallel_cross_entropy
    >>> vocab_parallel_cross_entropy([[1.0, 2.0, 3.0]], [0]).round(4)
    np.float64(2.4076)
    """
    call = _Call(
        "loss",
        logits_shard,
        target,
        comm=comm,
        start=start,
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
    )
    return call.loss()


def vocab_parallel_cross_entropy_and_grad(
    logits_shard: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    comm: MPI.Intracomm | None = None,
    start: int | None = None,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> fastce.LossAndGrad[Any]:
    r"""Compute the cross-entropy of logits whose classes are spread over ranks, and this rank's gradient.

    With the loss :math:`\ell` of `vocab_parallel_cross_entropy`, the gradient on rank r is

    .. math:: \frac{\partial \ell}{\partial x^{(r)}}

    Parameters
    ----------
    logits_shard, target, comm, start, axis, weight, sample_weight
        As in `vocab_parallel_cross_entropy`.
    ignore_index, label_smoothing, z_loss, logit_scale, softcap, reduction, normalizer
        As in `vocab_parallel_cross_entropy`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default; the same on each rank.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be ``logits_shard`` itself, which is then overwritten.

    Returns
    -------
    LossAndGrad
        ``(loss, grad)``: the loss, the same bits on every rank, and the gradient in the shape and dtype of
        ``logits_shard``.

    Raises
    ------
    IndexError, TypeError, ValueError, RuntimeError, numpy.exceptions.AxisError
        As `vocab_parallel_cross_entropy`. An error of ``out`` comes after the last exchange, so only the ranks that
        have it raise it.

    See Also
    --------
    vocab_parallel_linear_cross_entropy_and_grad : from hidden states.

    Examples
    --------
    >>> from fastce.interop.mpi import vocab_parallel_cross_entropy_and_grad
    >>> loss, grad = vocab_parallel_cross_entropy_and_grad([[1.0, 2.0, 3.0]], [0])
    >>> grad.round(4)
    array([[-0.91  ,  0.2447,  0.6652]])
    """
    call = _Call(
        "loss and gradient",
        logits_shard,
        target,
        comm=comm,
        start=start,
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
        grad_output=grad_output,
    )
    return fastce.LossAndGrad(call.loss(), call.grad(out))


class _Call:
    """The merged statistics of one call, and what follows from them on this rank."""

    def __init__(
        self,
        name: str,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        comm: MPI.Intracomm | None,
        start: int | None,
        axis: int,
        weight: npt.ArrayLike | None,
        **options: Any,
    ) -> None:
        self.axis, self.weight, self.options = axis, weight, options
        ranks = Ranks(comm)
        record = ranks.attempt(lambda: self._take(name, logits, target, start))
        self.shares = ranks.agree(record)
        self.of_shard = {"axis": axis, **self.shares.arguments(weight, options)}

        def write(stats: Array) -> None:
            fastce.shards.statistics(self.logits, self.target, out=stats, **self.of_shard)

        self.stats = ranks.merge(write, (self.rows, self.count), self.shares)

    def _take(self, name: str, logits: npt.ArrayLike, target: npt.ArrayLike, start: int | None) -> Record:
        """Keep the arrays of this rank; return what the others have to know."""
        self.logits, self.target = np.asanyarray(logits), np.asanyarray(target)  # fastce refuses masked arrays
        axis = np.lib.array_utils.normalize_axis_index(self.axis, self.logits.ndim, "logits_shard")
        width = self.logits.shape[axis]
        self.shape = self.logits.shape[:axis] + self.logits.shape[axis + 1 :]
        self.count = math.prod(self.shape)
        self.is_soft = self.target.ndim == self.logits.ndim
        has_weights = self.weight is not None or self.options["label_smoothing"]
        self.rows = 5 if self.is_soft else 7 if has_weights else 4
        is_labels = self.target.dtype.kind in "iu" and not self.is_soft
        return Record(
            width,
            first_class(start, width),
            self.count,
            self.rows,
            fingerprint(self.logits.dtype.name),
            fingerprint(self.target) if is_labels else 0,
            fingerprint(name, str(self.shape), *self.options.values()),
        )

    def _options(self, *names: str) -> dict[str, Any]:
        return {name: self.options[name] for name in names}

    def loss(self) -> Any:
        """Return the loss."""
        names = ("ignore_index", "label_smoothing", "z_loss", "reduction", "normalizer")
        weights = self.options["sample_weight"]
        if self.is_soft and weights is not None and np.shape(weights) == self.shape:
            weights = np.reshape(weights, -1)
        loss = fastce.shards.cross_entropy(
            self.stats,
            None if self.is_soft else self.target,
            dtype=self.logits.dtype,
            sample_weight=weights,
            **self._options(*names),
        )
        return loss.reshape(self.shape)[()] if self.is_soft and self.options["reduction"] == "none" else loss

    def grad(self, out: Array | None) -> Array:
        """Return the gradient of this rank's logits."""
        return fastce.shards.cross_entropy_grad(
            self.logits,
            self.target,
            self.stats,
            **self.of_shard,
            **self._options("sample_weight", "z_loss", "reduction", "normalizer", "grad_output"),
            out=out,
        )


def vocab_parallel_linear_cross_entropy_and_grad(
    hidden: npt.ArrayLike,
    weight_shard: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    comm: MPI.Intracomm | None = None,
    start: int | None = None,
    bias: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: str = "mean",
    normalizer: float | None = None,
    max_bytes: int = 256_000_000,
    grad_output: npt.ArrayLike | None = None,
) -> fastce.LinearCrossEntropy[Any]:
    r"""Compute the cross-entropy of a last layer whose classes are spread over ranks, and the gradients.

    With the weights :math:`W^{(r)}` of rank r, it is `fastce.linear_cross_entropy_and_grad` of all of them,

    .. math:: W = \left[W^{(0)}; W^{(1)}; \ldots; W^{(P - 1)}\right]

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        The inputs of the layer, the same on each rank.
    weight_shard : array_like, shape (C, D)
        The weights of the C classes of this rank, which may be none.
    target : array_like, shape of ``hidden`` without its last axis
        Class indices that count the classes of all ranks, the same on each rank.
    comm, start
        As in `vocab_parallel_cross_entropy`.
    bias : array_like, shape (C,), optional
        The biases of this rank's classes.
    class_weight : array_like, shape (C,), optional
        One weight per class of this rank.
    sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap, reduction, normalizer
        As in `fastce.linear_cross_entropy`, the same on each rank.
    max_bytes : int, default 256,000,000
        Greatest size in bytes of a chunk of logits on a rank, or of one row if that is more.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default; the same on each rank.

    Returns
    -------
    LinearCrossEntropy
        ``(loss, d_hidden, d_weight, d_bias)``: the loss and ``d_hidden``, the sum over all classes, with the same
        bits on every rank; ``d_weight`` and ``d_bias`` of this rank's classes. The by-products ``lse`` and
        ``z_loss`` are those of all classes.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `fastce.linear_cross_entropy`. A bad label is an IndexError on every rank.
    ValueError
        As `vocab_parallel_cross_entropy`.
    RuntimeError
        If another rank has raised an error, so that none waits for it.

    Notes
    -----
    The rows are computed in chunks of equal size on all ranks. Each chunk has an exchange of its statistics, so
    that all logits are computed once. One ``Allreduce`` adds up ``d_hidden``. For 16-bit arrays the sum is
    float32, and weights are converted to float32 as a whole.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.interop.mpi import vocab_parallel_linear_cross_entropy_and_grad
    >>> result = vocab_parallel_linear_cross_entropy_and_grad(np.eye(2), np.eye(2), [0, 1])
    >>> result.d_weight.round(4)
    array([[-0.1345,  0.1345],
           [ 0.1345, -0.1345]])
    """
    call = LinearCall(
        {"hidden": hidden, "weight": weight_shard, "bias": bias, "class_weight": class_weight},
        target,
        comm=comm,
        start=start,
        grad_output=grad_output,
        max_bytes=max_bytes,
        options={
            "sample_weight": sample_weight,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "z_loss": z_loss,
            "logit_scale": logit_scale,
            "softcap": softcap,
            "reduction": reduction,
            "normalizer": normalizer,
        },
    )
    return call.solve()


def global_normalizer(
    target: npt.ArrayLike,
    *,
    comm: MPI.Intracomm | None = None,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
) -> float:
    r"""Return the denominator of a mean over the samples of all ranks: data-parallel, with all classes on each.

    With class weights :math:`w`, sample weights :math:`u` and the labels :math:`y_i` of all ranks that are not
    ignored,

    .. math:: \sum_i w_{y_i} u_i

    Parameters
    ----------
    target : array_like
        The class indices of this rank's samples.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that have the samples, ``MPI.COMM_WORLD`` by default.
    weight : array_like, shape (C,), optional
        One weight per class, the same on each rank.
    sample_weight : array_like, shape of ``target``, optional
        One weight per sample of this rank.
    ignore_index : int or None, default -100
        Samples with this class index are ignored.

    Returns
    -------
    float
        The same bits on every rank. As ``normalizer=`` of `fastce.cross_entropy` and others, it makes the loss and the
        gradient of a rank its parts of the global mean. Summed over the ranks, they are the loss and the gradient of
        all samples.

    Raises
    ------
    IndexError
        If ``weight`` is given and has no entry for a class index.
    TypeError
        If class indices are not integers.
    ValueError
        If an argument has a wrong shape.
    RuntimeError
        If another rank has raised an error, so that none waits for it.

    Examples
    --------
    >>> from fastce.interop.mpi import global_normalizer
    >>> global_normalizer([0, 2, -100, 1])
    3.0
    """
    return Ranks(comm).total(lambda: _weight_of(target, weight, sample_weight, ignore_index))


def _weight_of(
    target: npt.ArrayLike,
    weight: npt.ArrayLike | None,
    sample_weight: npt.ArrayLike | None,
    ignore_index: int | None,
) -> float:
    """Return the sum of class weight times sample weight over the samples that are not ignored."""
    labels = np.asanyarray(target)
    weights = None
    if weight is not None:
        if np.ndim(weight) != 1:
            raise ValueError(f"weight must have shape (C,), one per class, got {np.shape(weight)}")
        no_rows = np.empty((0, *np.shape(weight))), np.empty(0, np.int64)
        fastce.cross_entropy(*no_rows, weight=weight, reduction="none")  # checks the weights
        weights = np.asarray(weight, np.float64)
    classes = np.iinfo(np.int64).max if weights is None else len(weights)
    fastce.shards.statistics(
        np.empty((*labels.shape, 0)), labels, classes=classes, ignore_index=ignore_index
    )  # checks labels
    factors = np.broadcast_to(1.0, labels.shape)
    if sample_weight is not None:
        check_samples(labels, np.dtype(np.float64), sample_weight=sample_weight)
        factors = np.asarray(sample_weight, np.float64)
    labels = np.asarray(labels)
    counts = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
    factors, labels = factors[counts], labels[counts]
    return float(np.sum(factors if weights is None else factors * weights[labels.astype(np.int64)]))
