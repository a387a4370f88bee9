"""Means over batches: loss, perplexity, accuracies and entropy of more samples than memory holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from numbers import Number
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy.typing as npt

from fastce.api.evaluation_sums import Evaluation, EvaluationSums
from fastce.core.layout import without_axis
from fastce.core.targets import check_target
from fastce.core.validation import as_array, as_index, as_real, as_weights, normalize_axis

if TYPE_CHECKING:
    from fastce.api.options import ArraysOptions, BatchesOptions

BLOCK_ELEMENTS = 1 << 22  # logits that are scored at a time if all of them are one array

Batches = Iterable[Sequence[Any]]
Named = tuple[str, Sequence[Any]]  # an error's note, and a batch


@overload
def evaluate(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, top_k: int | None = None, **options: Unpack[ArraysOptions]
) -> Evaluation[float]: ...
@overload
def evaluate(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, top_k: Sequence[int], **options: Unpack[ArraysOptions]
) -> Evaluation[tuple[float, ...]]: ...
@overload
def evaluate(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, top_k: int | Sequence[int] | None, **options: Unpack[ArraysOptions]
) -> Evaluation[float | tuple[float, ...]]: ...
@overload
def evaluate(
    logits: Batches, target: None = None, *, top_k: int | None = None, **options: Unpack[BatchesOptions]
) -> Evaluation[float]: ...
@overload
def evaluate(
    logits: Batches, target: None = None, *, top_k: Sequence[int], **options: Unpack[BatchesOptions]
) -> Evaluation[tuple[float, ...]]: ...
@overload
def evaluate(
    logits: Batches, target: None = None, *, top_k: int | Sequence[int] | None, **options: Unpack[BatchesOptions]
) -> Evaluation[float | tuple[float, ...]]: ...
def evaluate(
    logits: npt.ArrayLike | Batches,
    target: npt.ArrayLike | None = None,
    *,
    axis: int = -1,
    weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    top_k: int | Sequence[int] | None = None,
    progress: bool = False,
) -> Evaluation[float | tuple[float, ...]]:
    r"""Compute the mean loss, perplexity, accuracies and mean entropy over two arrays, or over batches.

    Over all samples whose target is not ``ignore_index``, with the losses :math:`\ell_i` of
    `cross_entropy`, class weights :math:`w`, sample weights :math:`u` (both 1 by default) and the
    results of `score`,

    .. math::
        \text{loss} = \frac{\sum_i u_i \ell_i}{\sum_i u_i w_{y_i}}, \qquad
        \text{perplexity} = e^\text{loss}, \\
        \text{top\_k\_accuracy} = \frac{\sum_i u_i [\text{rank}_i < k]}{\sum_i u_i}, \qquad
        \text{entropy} = \frac{\sum_i u_i\, \text{entropy}_i}{\sum_i u_i}

    Parameters
    ----------
    logits : array_like, shape (..., C, ...), or iterable of (logits, target)
        Unnormalised log-probabilities; integers and booleans are taken as float64. They are read a
        block of samples at a time: memory maps may be larger than memory. Or an iterable of
        batches: each has two arrays, or three with ``sample_weight``.
    target : array_like, shape of ``logits`` without the class axis, optional
        Class indices of any integer dtype. Or an array in the shape of ``logits``: one-hot
        integers or booleans. None if ``logits`` is an iterable of batches.
    axis : int, default -1
        The axis of the classes.
    weight : array_like, shape (C,), optional
        One weight per class.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample. A sample of weight 0 is left out, whatever NaN or infinity it holds.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    top_k : int or sequence of int, optional
        At least 1: a target counts as found if its rank is below this. By default 1, for which
        the target has to be the argmax. For several there are as many ``top_k_accuracy``.
    progress : bool, default False
        Show a progress bar on standard error. This needs rich.

    Returns
    -------
    Evaluation
        A named tuple ``(count, loss, perplexity, accuracy, top_k_accuracy, entropy)`` of an int and
        floats. ``loss`` and ``entropy`` are in nats. ``top_k_accuracy`` is a tuple of floats if
        ``top_k`` is a sequence. Its method ``asdict`` returns a dict for JSON. Means of nothing are
        NaN.

    Raises
    ------
    ImportError
        If a progress bar is wanted and rich is not installed.
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `score` and `cross_entropy`, with a note that names the batch. TypeError also if a batch is
        neither a pair nor a triple.

    See Also
    --------
    EvaluationSums : merges the evaluations of several processes.
    score : the results of each sample.

    Notes
    -----
    The loss is the result of `cross_entropy` with these options for all samples at once, except for
    rounding: here sums are exact, see `EvaluationSums`. ``weight`` and ``label_smoothing`` act on the
    loss alone, ``sample_weight`` on all means; samples of weight 0 are left out.

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
    >>> fastce.evaluate([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]], [0, 1], top_k=(1, 2)).top_k_accuracy
    (0.0, 1.0)
    """
    sums = EvaluationSums(
        axis=axis, weight=weight, label_smoothing=label_smoothing, ignore_index=ignore_index, top_k=top_k
    )
    named, total = _named(logits, target, sample_weight, as_index(axis, "axis"))
    for place, batch in _with_progress(named, total) if progress else named:
        try:
            x, labels, weights = _members(batch)
            sums.add(x, labels, sample_weight=weights)
        except (IndexError, TypeError, ValueError) as error:
            error.add_note(place)
            raise
    return sums.result()


def _named(
    logits: Any, target: npt.ArrayLike | None, sample_weight: npt.ArrayLike | None, axis: int
) -> tuple[Iterable[Named], int | None]:
    """Return ((place, batch) for each batch, the number of batches or None); an error's note names the place."""
    if target is None and _are_two_arrays(logits):
        logits, target = logits
    if target is not None:
        blocks = list(_blocks(logits, target, sample_weight, axis))
        return blocks, len(blocks)
    if hasattr(logits, "__array__") or not isinstance(logits, Iterable) or isinstance(logits, str | bytes | Mapping):
        raise TypeError(
            "target is missing: write evaluate(logits, target) for two arrays, or give an iterable of pairs, "
            f"as in evaluate([(logits, target)]), got {type(logits).__name__} alone"
        )
    if sample_weight is not None:
        raise ValueError("sample_weight must be in the batches here, as in [(logits, target, sample_weight)]")
    count = len(logits) if isinstance(logits, Sized) else None
    return ((f"in batch {number}, counted from 0", batch) for number, batch in enumerate(logits)), count


def _are_two_arrays(batches: Any) -> bool:
    """Tell whether two arrays were given as one argument: one of them cannot be a batch."""
    return isinstance(batches, tuple | list) and len(batches) == 2 and any(map(_is_no_batch, batches))


def _is_no_batch(member: Any) -> bool:
    """Tell whether this is an array, or a number or a list of numbers that stand for one."""
    if isinstance(member, tuple | list):
        return all(isinstance(value, Number) for value in member)
    return hasattr(member, "__array__") or isinstance(member, Number)


def _blocks(
    logits: npt.ArrayLike, target: npt.ArrayLike, sample_weight: npt.ArrayLike | None, axis: int
) -> Iterator[Named]:
    """Cut two arrays into blocks along the first axis of the target."""
    logits, target = as_real(logits, "logits"), as_array(target, "target")
    class_axis = normalize_axis(axis, logits.ndim, "logits")
    check_target(target, logits, class_axis)  # here: a slice may fit where the whole does not
    if sample_weight is not None:
        shape = without_axis(logits.shape, class_axis)
        sample_weight = as_weights(sample_weight, shape, "sample_weight", "one per sample")
    along = 0 if class_axis else 1
    count = logits.shape[along] if logits.ndim > 1 and logits.size else 1
    step = max(BLOCK_ELEMENTS * count // max(logits.size, 1), 1)
    if step >= count:
        yield "in the only block", (logits, target, sample_weight)
        return
    for start in range(0, count, step):
        part = slice(start, start + step)
        is_first = along == 0 or target.ndim < logits.ndim
        place = f"in the block that starts at target[{'' if is_first else ':, '}{start}], where the message counts from"
        weights = None if sample_weight is None else sample_weight[part]
        rows = logits[part] if along == 0 else logits[:, part]
        yield place, (rows, target[part] if is_first else target[:, part], weights)


def _members(batch: Any) -> tuple[Any, Any, Any]:
    """Return logits, target and sample weights of a batch, None where it has none, or raise TypeError."""
    if isinstance(batch, Mapping):
        first, second = tuple(batch)[:2] if len(batch) > 1 else ("logits", "target")
        advice = f": write ((batch[{first!r}], batch[{second!r}]) for batch in batches)"
    elif hasattr(batch, "__array__") or isinstance(batch, str | bytes) or not isinstance(batch, Iterable):
        advice = "; for two arrays write evaluate(logits, target)"
    else:
        members = tuple(batch)
        if len(members) in (2, 3):
            return (*members, None) if len(members) == 2 else members
        advice = f" of length {len(members)}; the third member of a batch may be its sample_weight"
    raise TypeError(f"batches must hold pairs, as in [(logits, target)], got {type(batch).__name__}{advice}")


def _with_progress(named: Iterable[Named], total: int | None) -> Iterable[Named]:
    """Return the batches; taking one moves a progress bar on."""
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        raise ImportError("progress=True needs rich, which is not installed: pip install rich") from None
    return track(named, "evaluate", total, console=Console(stderr=True))
