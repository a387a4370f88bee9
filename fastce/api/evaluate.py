"""Means over batches: loss, perplexity, accuracies and entropy of more samples than memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce.api.score import Score, as_top_k, is_among_first, score
from fastce.core.elementary import exp
from fastce.core.layout import Array
from fastce.core.reduction import mean
from fastce.core.targets import check_target
from fastce.core.validation import as_index, as_real, normalize_axis

BLOCK_ELEMENTS = 1 << 22  # logits that are scored at a time if all of them are one array


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of `evaluate`, over all samples that are not ignored.

    Attributes
    ----------
    count : int
        The number of samples.
    loss : float
        The mean cross-entropy in nats.
    perplexity : float
        The exponential of that mean.
    accuracy : float
        The fraction of samples whose target is the argmax.
    top_k_accuracy : float
        The fraction of samples whose target has a rank below ``top_k``.
    entropy : float
        The mean entropy of the softmax in nats.

    Examples
    --------
    >>> import fastce
    >>> fastce.evaluate([([[0.0, 0.0]], [0])]).perplexity
    2.0
    """

    count: int
    loss: float
    perplexity: float
    accuracy: float
    top_k_accuracy: float
    entropy: float


class _Sums:
    """The sums of an evaluation so far, in float64."""

    def __init__(self) -> None:
        self.count = self.correct = self.top_k_correct = 0
        self.loss = self.entropy = 0.0

    def add(self, result: Score, top_k: int, classes: int) -> None:
        """Add a batch; the losses and entropies of ignored samples are 0."""
        self.count += int(np.count_nonzero(result.rank >= 0))
        self.correct += int(np.count_nonzero(result.correct))
        self.top_k_correct += int(np.count_nonzero(is_among_first(result.rank, top_k, classes)))
        with np.errstate(all="ignore"):
            self.loss -= float(np.sum(result.log_prob, dtype=np.float64))
            self.entropy += float(np.sum(result.entropy, dtype=np.float64))

    def means(self) -> Evaluation:
        """Return the means, which are NaN if there is no sample."""
        loss = mean(self.loss, self.count)
        with np.errstate(all="ignore"):
            perplexity = float(exp(loss))
        accuracies = mean(self.correct, self.count), mean(self.top_k_correct, self.count)
        return Evaluation(self.count, loss, perplexity, *accuracies, mean(self.entropy, self.count))


def evaluate(
    batches: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]] | tuple[Array, Array],
    *,
    axis: int = -1,
    ignore_index: int = -100,
    top_k: int | None = None,
    progress: bool = False,
) -> Evaluation:
    r"""Compute the mean loss, perplexity, accuracies and mean entropy over batches.

    Over the n samples of all batches whose target is not ``ignore_index``, with the results of
    `score`,

    .. math::
        \text{loss} = -\frac{1}{n} \sum_i \text{log\_prob}_i, \qquad
        \text{perplexity} = e^\text{loss}, \qquad
        \text{top\_k\_accuracy} = \frac{1}{n} \#\{i : \text{rank}_i < k\}

    Parameters
    ----------
    batches : iterable of (logits, target), or a tuple (logits, target) of two arrays
        Batches that `score` takes, one after the other. A tuple of two arrays is scored a block of
        samples at a time: memory maps may be larger than memory.
    axis : int, default -1
        The axis of the classes.
    ignore_index : int, default -100
        Samples with this class index are ignored: they add nothing to the result.
    top_k : int, optional
        At least 1: a target counts as found if its rank is below this. By default 1, for which
        the target has to be the argmax.
    progress : bool, default False
        Show a progress bar on standard error. This needs rich.

    Returns
    -------
    Evaluation
        The attributes ``count``, an int, and ``loss`` and ``entropy`` in nats, ``perplexity``,
        ``accuracy`` and ``top_k_accuracy``, floats summed in float64. Means of nothing are NaN.

    Raises
    ------
    ImportError
        If a progress bar is wanted and rich is not installed.
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `score`, with a note that names the batch. TypeError also if a batch is not a pair.

    See Also
    --------
    score : the results of each sample.

    Notes
    -----
    A sample of a language model is a token: the perplexity is per token [1]_. Rows with NaN make the
    means of loss and entropy NaN, and count as wrong.

    References
    ----------
    .. [1] F. Jelinek, R. L. Mercer, L. R. Bahl, J. K. Baker, "Perplexity - a measure of the
       difficulty of speech recognition tasks", Journal of the Acoustical Society of America 62
       (1977).

    Examples
    --------
    >>> import numpy as np, fastce
    >>> rng = np.random.default_rng(0)
    >>> batches = ((rng.normal(size=(100, 10)), rng.integers(0, 10, 100)) for _ in range(5))
    >>> result = fastce.evaluate(batches, top_k=5)
    >>> result.count, result.accuracy, result.top_k_accuracy
    (500, 0.096, 0.508)
    """
    most = as_top_k(top_k)
    axis = as_index(axis, "axis")
    named, total = _named(batches, axis)
    sums = _Sums()
    for place, batch in _with_progress(named, total) if progress else named:
        try:
            logits, target = _pair(batch)
            result = score(logits, target, axis=axis, ignore_index=ignore_index)
        except (IndexError, TypeError, ValueError) as error:
            error.add_note(place)
            raise
        sums.add(result, most, logits.shape[axis])
    return sums.means()


def _named(batches: Any, axis: int) -> tuple[Iterable[tuple[str, Any]], int | None]:
    """Return ((place, batch) for each batch, the number of batches or None); an error's note names the place."""
    if isinstance(batches, tuple) and len(batches) == 2 and all(isinstance(part, np.ndarray) for part in batches):
        blocks = list(_blocks(*batches, axis))
        return blocks, len(blocks)
    total = len(batches) if hasattr(batches, "__len__") else None
    return ((f"in batch {number}, counted from 0", batch) for number, batch in enumerate(batches)), total


def _blocks(logits: Array, target: Array, axis: int) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Cut two arrays into blocks along the first axis of the target."""
    class_axis = normalize_axis(axis, logits.ndim, "logits")
    check_target(target, as_real(logits, "logits"), class_axis)  # here: a slice may fit where the whole does not
    along = 0 if class_axis else 1
    count = logits.shape[along] if logits.ndim > 1 and logits.size else 1
    step = max(BLOCK_ELEMENTS * count // max(logits.size, 1), 1)
    if step >= count:
        yield "in the only block", (logits, target)
        return
    for start in range(0, count, step):
        part = slice(start, start + step)
        is_first = along == 0 or target.ndim < logits.ndim
        place = f"in the block that starts at target[{'' if is_first else ':, '}{start}], where the message counts from"
        yield place, (logits[part] if along == 0 else logits[:, part], target[part] if is_first else target[:, part])


def _pair(batch: Any) -> tuple[Array, npt.ArrayLike]:
    """Return the logits as an array, and the target, of a batch."""
    try:
        logits, target = batch
    except (TypeError, ValueError):
        raise TypeError(f"batches must hold pairs, as in [(logits, target)], got {type(batch).__name__}") from None
    return as_real(logits, "logits"), target


def _with_progress(named: Iterable[tuple[str, Any]], total: int | None) -> Iterable[tuple[str, Any]]:
    """Return the batches; taking one moves a progress bar on."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        raise ImportError("progress=True needs rich, which is not installed: pip install rich") from None
    return track(named, "evaluate", total, console=Console(stderr=True))
