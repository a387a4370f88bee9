"""What results do not depend on: samples and elements that are ignored or have a factor of 0, classes left out."""

from typing import Any, NamedTuple

import numpy as np

from tests.oracle import reference

SUMS = ("softmax", "log_softmax", "logsumexp", "logsumexp with b")
OF_CLASSES = ("weight", "class_weight", "alpha")


class LeftOut(NamedTuple):
    """Where nothing is read of the arrays of a call, by their names."""

    arrays: dict[str, np.ndarray]
    samples: np.ndarray  # that do not count

    @property
    def read(self) -> np.ndarray:
        """Where the first argument is read."""
        return ~self.arrays["first argument"]


def left_out(call: Any) -> LeftOut:
    """What the results of a call that is not refused do not depend on."""
    given = call.keywords
    if call.name in SUMS:
        where = np.broadcast_to(given.get("where", True), call.shape)
        return _alone(~(where & (np.broadcast_to(given.get("b", 1), call.shape) != 0)))
    if call.has_elements:
        return _of_elements(call)
    if not call.shape:
        return _alone(np.zeros((), bool))
    if call.name.startswith(("kl", "jensen")):
        samples = np.broadcast_to(np.equal(given.get("sample_weight", 1), 0), call.samples)
        rows = _rows(call, samples)
        return LeftOut({"first argument": rows, "target_logits": rows}, samples)
    if call.name in ("score", "evaluate"):
        ignored = given.get("ignore_index", -100)
        samples = np.equal(given.get("sample_weight", 1), 0) | (call.labels == ignored)
        return LeftOut({"first argument": _rows(call, samples)}, samples)
    return _of_samples(call) if "target" in call.guarded else _alone(np.zeros(call.shape, bool))


def _alone(where: np.ndarray) -> LeftOut:
    return LeftOut({"first argument": where}, np.zeros((), bool))


def _rows(call: Any, samples: np.ndarray) -> np.ndarray:
    """Samples in the shape of the first argument."""
    return np.broadcast_to(np.expand_dims(samples, call.class_axis), call.shape)


def _of_samples(call: Any) -> LeftOut:
    """Samples that do not count, classes that are not there, class probabilities of classes of weight 0."""
    given = call.keywords
    weight = next((given[name] for name in OF_CLASSES if np.ndim(given.get(name))), None)
    names = ("sample_weight", "ignore_index", "label_smoothing", "where", "z_loss")
    options = {name: given[name] for name in names if name in given}
    target = call.guarded["target"].array if call.labels is None else call.labels
    if call.is_layer:
        kept = reference.coefficients((*call.samples, call.classes), target, weight=weight, **options)[1]
        return LeftOut({"first argument": _rows(call, ~kept)}, ~kept)
    t, kept, _, _ = reference.coefficients(call.shape, target, axis=call.axis, weight=weight, **options)
    alpha = given.get("alpha")
    if alpha is not None and not np.ndim(alpha) and alpha == 0:
        kept = kept & False
    nowhere = np.moveaxis(np.broadcast_to(~kept[..., None], t.shape), -1, call.axis)
    nowhere = nowhere | ~np.broadcast_to(given.get("where", True), call.shape)
    no_weight = np.moveaxis(np.broadcast_to(np.equal(1 if weight is None else weight, 0), t.shape), -1, call.axis)
    of_target = nowhere | no_weight
    if "from_probs" in call.name:
        is_label = call.labels is not None and not given.get("label_smoothing")
        nowhere = nowhere | (np.moveaxis(t == 0, -1, call.axis) if is_label else no_weight)
    arrays = {"first argument": nowhere}
    return LeftOut(arrays if call.labels is not None else arrays | {"target": of_target}, ~kept)


def _of_elements(call: Any) -> LeftOut:
    """Elements of weight 0 and ignored ones; targets only of the former."""
    given = call.keywords
    target = call.guarded["target"].array
    if call.name.startswith("sigmoid"):
        alpha, t = given["alpha"], reference.real(target)
        share = 1 if alpha is None else reference.real(alpha) * t + (1 - reference.real(alpha)) * (1 - t)
        return _alone(np.broadcast_to(np.equal(share, 0), call.shape))
    names = ("weight", "pos_weight", "ignore_index", "label_smoothing")
    weight, pos_weight, ignored, smoothing = (given.get(name) for name in names)
    positive, negative, _ = reference._binary(target, weight, pos_weight, ignored, smoothing or 0.0)
    no_weight = np.broadcast_to(np.equal(1 if weight is None else weight, 0), call.shape)
    if ignored is not None:
        kept = reference._kept_targets(target, None, ignored, 0.0)[3]
        no_weight = no_weight & kept  # else another number of elements is counted
    unread = no_weight if "from_probs" in call.name else (positive == 0) & (negative == 0)
    return LeftOut({"first argument": unread, "target": no_weight}, np.zeros((), bool))
