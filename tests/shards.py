"""The functions of ``fastce.shards`` as those of ``fastce``: whole arrays are cut, and results joined.

``stops`` are the classes at which shards end; there is one more shard, which ends with the last class.
"""

import itertools

import numpy as np

from fastce import shards


def cuts(classes, stops):
    """The classes of each shard, (start, stop)."""
    edges = [0, *(min(stop, classes) for stop in stops), classes]
    return list(itertools.pairwise(edges))


def part(x, axis, start, stop):
    """A view of some of the classes."""
    index = [slice(None)] * np.ndim(x)
    index[axis] = slice(start, stop)
    return x[tuple(index)]


def thirds(x, axis):
    """Three shards, of which the last is the longest."""
    classes = np.shape(x)[axis]
    return classes // 3, 2 * classes // 3


def _merged(logits, target=None, *, stops=None, axis=-1, weight=None, **options):
    """The merged statistics, and what each shard is called with."""
    logits = np.asarray(logits)
    stops = thirds(logits, axis) if stops is None else stops
    target = None if target is None else np.asarray(target)
    calls = []
    for start, stop in cuts(logits.shape[axis], stops):
        given = part(target, axis, start, stop) if target is not None and target.ndim == logits.ndim else target
        weights = None if weight is None else np.asarray(weight)[start:stop]
        calls.append((part(logits, axis, start, stop), given, {"start": start, "axis": axis, "weight": weights}))
    options["classes"] = logits.shape[axis]
    stats = [shards.statistics(x, given, **more, **options) for x, given, more in calls]
    return shards.merge(stats), calls


def _like(x, out):
    return np.empty_like(x, np.float64 if x.dtype.kind in "biu" else x.dtype) if out is None else out


def logsumexp(x, axis=-1, *, stops=None):
    x = np.asarray(x)
    stats, _ = _merged(x, stops=stops, axis=axis)
    dtype = np.float64 if x.dtype.kind in "biu" else x.dtype.newbyteorder("=")
    shape = tuple(n for i, n in enumerate(x.shape) if i != axis % x.ndim)
    return shards.logsumexp(stats, dtype).reshape(shape)


def _softmax(function, x, axis, stops, out):
    x = np.asarray(x)
    stats, calls = _merged(x, stops=stops, axis=axis)
    out = _like(x, out)
    for shard, _, more in calls:
        stop = more["start"] + shard.shape[axis]
        function(shard, stats, axis=axis, out=part(out, axis, more["start"], stop))
    return out


def softmax(x, axis=-1, *, stops=None, out=None):
    return _softmax(shards.softmax, x, axis, stops, out)


def log_softmax(x, axis=-1, *, stops=None, out=None):
    return _softmax(shards.log_softmax, x, axis, stops, out)


def cross_entropy_and_grad(
    logits,
    target,
    *,
    stops=None,
    axis=-1,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    z_loss=0.0,
    logit_scale=1.0,
    softcap=None,
    reduction="mean",
    normalizer=None,
    grad_output=None,
    out=None,
):
    logits = np.asarray(logits)
    shared = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    transform = {"logit_scale": logit_scale, "softcap": softcap}
    stats, calls = _merged(logits, target, stops=stops, axis=axis, weight=weight, **shared, **transform)
    shared |= {"z_loss": z_loss, "reduction": reduction, "normalizer": normalizer}
    shape = tuple(n for i, n in enumerate(logits.shape) if i != axis % logits.ndim)
    is_soft = np.ndim(target) == logits.ndim
    weights = sample_weight
    if sample_weight is not None and is_soft:
        weights = np.reshape(sample_weight, -1)
    dtype = np.float64 if logits.dtype.kind in "biu" else logits.dtype
    loss = shards.cross_entropy(stats, None if is_soft else target, dtype=dtype, sample_weight=weights, **shared)
    out = _like(logits, out)
    shared |= {"sample_weight": sample_weight, "grad_output": grad_output, "classes": logits.shape[axis], **transform}
    for x, given, more in calls:
        stop = more["start"] + x.shape[axis]
        shards.cross_entropy_grad(x, given, stats, out=part(out, axis, more["start"], stop), **more, **shared)
    return np.reshape(loss, shape)[()] if reduction == "none" else loss, out
