"""Sums of evaluated batches, which merge exactly: over batches, processes and machines."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Unpack, cast, overload

import numpy as np
import numpy.typing as npt

from fastce.api.cross_entropy import cross_entropy
from fastce.api.score import as_top_k, is_among_first, score
from fastce.core.elementary import exp
from fastce.core.exact_sum import ExactSum
from fastce.core.layout import Array, cast_to, dtypes_of
from fastce.core.targets import read_target
from fastce.core.validation import (
    as_array,
    as_ignore_index,
    as_index,
    as_real,
    as_smoothing,
    as_weights,
    normalize_axis,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from fastce.api.options import SumsOptions

    TopK = TypeVar("TopK", covariant=True, default=float)  # makes `Evaluation` alone a type; takes a newer Python
else:
    from typing import TypeVar

    TopK = TypeVar("TopK", covariant=True)


class Evaluation(NamedTuple, Generic[TopK]):
    """The result of `evaluate`, over all samples that are not ignored.

    Attributes
    ----------
    count : int
        The number of samples; those with ``sample_weight`` 0 are left out.
    loss : float
        The mean loss in nats.
    perplexity : float
        The exponential of that mean.
    accuracy : float
        The fraction of samples whose target is the argmax.
    top_k_accuracy : float, or tuple of float for several ``top_k``
        The fraction of samples whose target has a rank below ``top_k``.
    entropy : float
        The mean entropy of the softmax in nats.

    Examples
    --------
    >>> import fastce
    >>> fastce.evaluate([[0.0, 0.0]], [0]).perplexity
    2.0
    """

    count: int  # type: ignore[assignment]  # a tuple's method
    loss: float
    perplexity: float
    accuracy: float
    top_k_accuracy: TopK
    entropy: float

    def asdict(self) -> dict[str, Any]:
        """Return the results by their names: int, float and, for several ``top_k``, a list of floats.

        Examples
        --------
        >>> import fastce, json
        >>> json.dumps(fastce.evaluate([[0.0, 9.0]], [1], top_k=(1, 2)).asdict()["top_k_accuracy"])
        '[1.0, 1.0]'
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}


class EvaluationSums(Generic[TopK]):
    """The sums behind the means of `evaluate`, over the batches so far; ``+`` merges the sums of different batches.

    Parameters
    ----------
    axis, weight, label_smoothing, ignore_index, top_k
        As in `evaluate`.

    See Also
    --------
    evaluate : the result of all batches in one call.

    Notes
    -----
    The terms of each sample are added without rounding, and the means are rounded once. So the
    result has the same bits however the samples are split into batches, and in whatever order
    batches are added and sums are merged. The sums are small: pickle them to merge the sums of
    several processes or machines. ``sum(parts)`` merges several. Two objects are equal if their
    options and sums are. Two threads must not use one object at a time.

    Examples
    --------
    >>> import fastce
    >>> first, second = fastce.EvaluationSums(top_k=2), fastce.EvaluationSums(top_k=2)
    >>> first.add([[1.0, 2.0, 0.0]], [0])
    >>> second.add([[3.0, 0.0, 0.0], [0.0, 1.0, 2.0]], [0, 1])
    >>> result = (first + second).result()
    >>> result.count, round(result.accuracy, 4), result.top_k_accuracy
    (3, 0.3333, 1.0)
    """

    __slots__ = ("__weakref__", "_count", "_options", "_sums")  # options cannot be set

    @overload
    def __init__(self: EvaluationSums[float], *, top_k: int | None = None, **options: Unpack[SumsOptions]) -> None: ...
    @overload
    def __init__(
        self: EvaluationSums[tuple[float, ...]], *, top_k: Sequence[int], **options: Unpack[SumsOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: EvaluationSums[float | tuple[float, ...]],
        *,
        top_k: int | Sequence[int] | None,
        **options: Unpack[SumsOptions],
    ) -> None: ...
    def __init__(
        self,
        *,
        axis: int = -1,
        weight: npt.ArrayLike | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int | None = -100,
        top_k: int | Sequence[int] | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "axis": as_index(axis, "axis"),
            "weight": None if weight is None else cast_to(as_real(weight, "weight"), np.float64),
            "label_smoothing": as_smoothing(label_smoothing),
            "ignore_index": None if ignore_index is None else as_ignore_index(ignore_index),
            "top_k": tuple(map(as_top_k, cast(Any, top_k))) if np.ndim(cast(Any, top_k)) else as_top_k(top_k),
        }
        self._count = 0
        # loss, its weight, entropy, weight of the samples, of those whose target is the argmax, of those for each top_k
        self._sums = (ExactSum(),) * (5 + len(self._top_ks()))

    def add(self, logits: npt.ArrayLike, target: npt.ArrayLike, *, sample_weight: npt.ArrayLike | None = None) -> None:
        """Add a batch.

        Parameters
        ----------
        logits, target, sample_weight
            As in `evaluate`.

        Raises
        ------
        IndexError, TypeError, ValueError, numpy.exceptions.AxisError
            As `evaluate`. Nothing has been added then.
        """
        weight, smoothing = self._options["weight"], self._options["label_smoothing"]
        labels = {name: self._options[name] for name in ("axis", "ignore_index")}
        logits, target = as_real(logits, "logits"), as_array(target, "target")
        result = score(logits, target, **labels)
        batch = _Batch(result.rank, sample_weight)
        losses, loss_weight = -result.log_prob, batch.weight
        if weight is not None or smoothing:
            criterion = {"weight": weight, "label_smoothing": smoothing, "reduction": "none"}
            losses = cross_entropy(logits, target, **criterion, **labels)
        if weight is not None:
            loss_weight = batch.total(_weights_at_labels(logits, target, self._options["axis"], weight))
        classes = logits.shape[self._options["axis"]]
        correct = batch.total(result.correct)
        found = (correct if k == 1 else batch.total(is_among_first(result.rank, k, classes)) for k in self._top_ks())
        more = batch.total(losses), loss_weight, batch.total(result.entropy), batch.weight, correct, *found
        self._sums = tuple(a + b for a, b in zip(self._sums, more, strict=True))
        self._count += batch.count

    def result(self) -> Evaluation[TopK]:
        """Return the result of `evaluate` for the batches so far; means of nothing are NaN."""
        loss, loss_weight, entropy, weight, correct, *found = self._sums
        mean_loss = loss.over(loss_weight)
        with np.errstate(all="ignore"):
            perplexity = float(exp(mean_loss))
        shares = tuple(part.over(weight) for part in found)
        top_k_accuracy: Any = shares if isinstance(self._options["top_k"], tuple) else shares[0]
        accuracy = correct.over(weight)
        return Evaluation(self._count, mean_loss, perplexity, accuracy, top_k_accuracy, entropy.over(weight))

    def __add__(self, other: EvaluationSums[TopK]) -> EvaluationSums[TopK]:
        """Return the sums of the batches of both."""
        if not isinstance(other, EvaluationSums):
            return NotImplemented
        differing = self._differing(other)
        if differing:
            raise ValueError(f"sums with different options cannot be merged: {'; '.join(differing)}")
        merged = copy.copy(self)
        merged._count += other._count
        merged._sums = tuple(a + b for a, b in zip(self._sums, other._sums, strict=True))
        return merged

    def __radd__(self, other: object) -> EvaluationSums[TopK]:
        """Return a copy for 0, with which ``sum`` begins."""
        return copy.copy(self) if isinstance(other, int) and other == 0 else NotImplemented

    def __eq__(self, other: object) -> bool:
        """Tell whether options and sums are the same."""
        if not isinstance(other, EvaluationSums):
            return NotImplemented
        return not self._differing(other) and (self._count, self._sums) == (other._count, other._sums)

    __hash__ = None  # type: ignore[assignment]  # batches can be added

    def __repr__(self) -> str:
        """Tell how many samples there are."""
        return f"<EvaluationSums of {self._count} samples>"

    def _top_ks(self) -> tuple[int, ...]:
        """Return all numbers ``top_k``."""
        top_k = self._options["top_k"]
        return top_k if isinstance(top_k, tuple) else (top_k,)

    def _differing(self, other: EvaluationSums[Any]) -> list[str]:
        """Return a phrase for each option that differs."""
        phrases = []
        for name, value in self._options.items():
            another = other._options[name]
            if not (isinstance(value, np.ndarray) or isinstance(another, np.ndarray)):
                if value != another:
                    phrases.append(f"{name} is {value} and {another}")
            elif not np.array_equal(value, another):
                phrases.append(f"{name} differs")
        return phrases


class _Batch:
    """The samples of a batch that count, and their weights."""

    def __init__(self, rank: Any, sample_weight: npt.ArrayLike | None) -> None:
        self.kept = np.reshape(rank, -1) >= 0
        self.weights: Array | None = None
        if sample_weight is not None:
            weights = as_weights(sample_weight, np.shape(rank), "sample_weight", "one per sample").reshape(-1)
            self.kept &= weights != 0
            self.weights = weights[self.kept]
        self.count = int(np.count_nonzero(self.kept))
        self.weight = ExactSum.of_count(self.count) if self.weights is None else ExactSum.of(self.weights)

    def total(self, values: Any) -> ExactSum:
        """Return the weighted sum of one value a sample, which is 0 or False for ignored samples."""
        values = np.reshape(values, -1)
        if self.weights is not None:
            with np.errstate(all="ignore"):
                return ExactSum.of(values[self.kept] * self.weights)
        if values.dtype == np.bool_:
            return ExactSum.of_count(int(np.count_nonzero(values)))
        return ExactSum.of(values)


def _weights_at_labels(logits: Array, target: Array, axis: int, weight: Array) -> Array:
    """Return the class weight of each label, as `cross_entropy` computes with it; 0 for labels out of range."""
    labels = cast(Array, read_target(target, logits, normalize_axis(axis, logits.ndim, "logits")).labels)
    weights = cast_to(weight, dtypes_of(logits).compute)
    is_class = (labels >= 0) & (labels < len(weights))
    return np.where(is_class, weights.take(labels, mode="clip"), 0)
