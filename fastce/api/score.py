"""Scores of predictions: log-probability, rank, argmax and entropy of each sample, in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import Array, dtypes_of, without_axis
from fastce.core.reduction import FloatArray
from fastce.core.staging import row_blocks
from fastce.core.targets import check_none_ignored, raise_label, read_target
from fastce.core.validation import as_array, as_ignore_index, as_index, as_real, normalize_axis, shown


class Score(NamedTuple):
    """The results of `score`, in the shape of the logits without the class axis.

    Attributes
    ----------
    log_prob : scalar or ndarray
        The log-softmax at the target: the cross-entropy with its sign changed.
    lse : scalar or ndarray
        The logarithm of the sum of exponentials.
    argmax : scalar or ndarray of int64
        The class with the greatest logit, the first one among equals.
    correct : scalar or ndarray of bool
        Whether the rank of the target is below ``top_k``.
    rank : scalar or ndarray of int64
        The number of classes before the target, from the greatest logit down.
    entropy : scalar or ndarray
        The entropy of the softmax in nats.

    Examples
    --------
    >>> import fastce
    >>> fastce.score([1.0, 3.0, 2.0], 2).rank
    np.int64(1)
    """

    log_prob: FloatArray
    lse: FloatArray
    argmax: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    rank: npt.NDArray[np.int64]
    entropy: FloatArray


def score(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    ignore_index: int | None = -100,
    top_k: int | None = None,
) -> Score:
    r"""Score logits against class indices: log-probability, argmax, rank and entropy in one pass.

    With logits :math:`x`, :math:`p_i = \operatorname{softmax}(x_i)` and the target class :math:`y_i`,

    .. math::
        \text{log\_prob}_i = \log p_{i y_i}, \qquad
        \text{lse}_i = \log \sum_j e^{x_{ij}}, \qquad
        \text{entropy}_i = -\sum_j p_{ij} \log p_{ij}

    .. math::
        \text{rank}_i = \#\{j : x_{ij} > x_{i y_i}\} + \#\{j < y_i : x_{ij} = x_{i y_i}\}

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target : array_like, shape of ``logits`` without the class axis
        Class indices of any integer dtype. Or an array in the shape of ``logits``: one-hot
        integers or booleans.
    axis : int, default -1
        The axis of the classes.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    top_k : int, optional
        At least 1: a target counts as found if its rank is below this. By default 1, for which
        the target has to be the argmax.

    Returns
    -------
    Score
        A named tuple ``(log_prob, lse, argmax, correct, rank, entropy)`` of arrays in the shape
        of ``logits`` without the class axis, scalars for one-dimensional ``logits``.
        ``log_prob``, ``lse`` and ``entropy`` are float64 for float64 and integer logits, else
        float32; ``argmax`` and ``rank`` are int64, ``correct`` is bool.

    Raises
    ------
    IndexError
        If a class index is outside 0 to C - 1 and not ``ignore_index``.
    TypeError
        If an argument has a wrong type or dtype, class probabilities as target included.
    ValueError
        If an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    evaluate : the means over many batches.
    cross_entropy : the loss with its options.

    Notes
    -----
    With m the greatest logit and r the sum of :math:`e^{x_j - m}` over all classes but one
    greatest, the entropy is :math:`\log(1 + r) + \sum_j p_j (m - x_j)`. All terms have one sign, so
    it keeps its digits however confident the sample [1]_. A logit of -inf contributes 0.

    Ignored samples get 0 for ``log_prob``, ``lse`` and ``entropy``, so that they add nothing to a sum.
    They get -1 for ``argmax`` and ``rank``, as no other sample does, and False for ``correct``. Their
    logits have no effect.

    Rows without a softmax, with +inf or nothing but -inf, have NaN for ``log_prob`` and ``entropy``;
    the other results follow their definitions. Rows with NaN have NaN for ``lse`` as well. As in NumPy,
    their argmax is the first NaN. Their rank is C, so that they are correct for no ``top_k``.

    References
    ----------
    .. [1] P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and
       softmax functions", IMA Journal of Numerical Analysis 41 (2021).

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 2.0, 0.3], [1.0, 1.0, 1.0]])
    >>> result = fastce.score(logits, [0, 2, -100])
    >>> result.log_prob.round(4)
    array([-0.417 , -2.0406,  0.    ])
    >>> result.argmax, result.correct, result.rank
    (array([ 0,  1, -1]), array([ True, False, False]), array([ 0,  2, -1]))
    >>> result.entropy.round(4)
    array([0.8467, 0.7996, 0.    ])
    """
    logits = as_real(logits, "logits")
    axis = normalize_axis(axis, logits.ndim, "logits")
    target = as_array(target, "target")
    shape = without_axis(logits.shape, axis)
    most = as_top_k(top_k)
    takes_all = ignore_index is None
    ignore_index = as_ignore_index(ignore_index)
    labels = _labels(logits, target, axis, ignore_index, takes_all)
    dtype = dtypes_of(logits).compute
    floats = np.zeros((3, labels.size), dtype)
    indices = np.full((2, labels.size), -1, np.int64)
    results = (*floats, *indices)
    if logits.size:
        for block in row_blocks(axis, dtype, (logits,)):
            part = slice(block.start, block.stop)
            dispatch.run_score(block.inputs[0], labels[part], ignore_index, *(result[part] for result in results))
    log_prob, lse, entropy, argmax, rank = (result.reshape(shape)[()] for result in results)
    return Score(log_prob, lse, argmax, is_among_first(rank, most, logits.shape[axis]), rank, entropy)


def as_top_k(top_k: Any) -> int:
    """Return ``top_k`` as an int, 1 for None, or raise."""
    if top_k is None:
        return 1
    most = as_index(top_k, "top_k")
    if most < 1:
        raise ValueError(f"top_k must be at least 1, got {shown(most)}")
    return most


def is_among_first(rank: Any, top_k: int, classes: int) -> Any:
    """Tell which ranks are below ``top_k``: never -1, of ignored samples, nor C, of rows with NaN."""
    return (rank >= 0) & (rank < min(top_k, classes))


def _labels(logits: Array, target: Array, axis: int, ignore_index: int, takes_all: bool) -> Array:
    """Return the class indices as a flat contiguous array, all in range or, unless all are taken, ignored; or raise."""
    target, labels = read_target(target, logits, axis)
    if labels is None:
        raise TypeError(
            f"target must hold class indices of shape {without_axis(logits.shape, axis)}, or one-hot integers, "
            f"got class probabilities: dtype {target.dtype} and shape {target.shape}"
        )
    if takes_all:
        check_none_ignored(target, labels, logits.shape[axis])
    position, _ = dispatch.scan_labels(labels, logits.shape[axis], ignore_index, None, None)
    if position >= 0:
        raise_label(target, position, logits.shape[axis], ignore_index)
    return labels
