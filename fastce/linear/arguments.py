"""Checked arguments of a linear layer and its loss, and what their gradients may be written to."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import Array, as_array, as_index, as_real, cast_to, rule
from fastce.core.loss import smoothing_terms
from fastce.core.one_hot import one_hot_labels
from fastce.core.out import check_out, share_memory
from fastce.core.validation import (
    advice,
    as_ignore_index,
    as_labels,
    as_loss,
    as_number,
    as_upstream,
    as_weights,
    check_reduction,
    check_smoothing,
    mean,
    positive,
    raise_label,
)
from fastce.linear.chunks import make_plan, run
from fastce.linear.layer import Backward, Layer
from fastce.linear.losses import Terms


class LinearLossCall:
    """Checked arguments."""

    def __init__(
        self,
        hidden: npt.ArrayLike,
        weight: npt.ArrayLike,
        target: npt.ArrayLike,
        bias: npt.ArrayLike | None,
        class_weight: npt.ArrayLike | None,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        softcap: float | None,
        reduction: str,
        normalizer: float | None,
        max_bytes: int,
    ) -> None:
        self.hidden, self.weight = as_real(hidden, "hidden"), as_real(weight, "weight")
        _check_shapes(self.hidden, self.weight)
        self.classes = classes = len(self.weight)
        self.bias = None if bias is None else _vector(bias, classes, "bias")
        target = as_array(target, "target")
        self.target, self.labels = _read_target(target, self.hidden.shape[:-1], classes)
        arrays = [x for x in (self.hidden, self.weight, self.bias) if x is not None]
        self.dtype = np.result_type(*(rule(x).compute for x in arrays))
        self.given = {"hidden": self.hidden, "weight": self.weight, "target": target, "bias": self.bias}
        self.ignore_index = as_ignore_index(ignore_index)
        self.class_weight = None
        if class_weight is not None:
            self.given["class_weight"] = class_weight = as_real(class_weight, "class_weight")
            weights = as_weights(class_weight, (classes,), "class_weight", "one per class")
            self.class_weight = cast_to(weights, self.dtype)
        self.smoothing = smoothing_terms(check_smoothing(label_smoothing), classes, self.class_weight)
        self.z_loss = as_number(z_loss, "z_loss")
        self.softcap = None if softcap is None else _cap(softcap)
        check_reduction(reduction)
        self.reduction = reduction
        self.normalizer = None if normalizer is None else positive(normalizer, "normalizer")
        self.max_bytes = int(_at_least(as_index(max_bytes, "max_bytes"), 1, "max_bytes"))

    def gradient_arrays(
        self, d_hidden: object, d_weight: object, d_bias: object, accumulate: bool
    ) -> tuple[Array, Array, Array | None]:
        """Return the given arrays, if the gradients can be written there, or for None new ones.

        New ones that are to be added to hold zeros.
        """
        if d_bias is not None and self.bias is None:
            raise ValueError("d_bias_out has no gradient to take, as there is no bias")
        found: dict[str, Array] = {}
        for name, out, like in (
            ("d_hidden_out", d_hidden, self.hidden),
            ("d_weight_out", d_weight, self.weight),
            ("d_bias_out", d_bias, self.bias),
        ):
            if like is not None:
                found[name] = self._gradient_array(out, name, like, found)
                if out is None and accumulate:
                    found[name][...] = 0
        return found["d_hidden_out"], found["d_weight_out"], found.get("d_bias_out")

    def _gradient_array(self, out: object, name: str, like: Array, others: dict[str, Array]) -> Array:
        dtype = rule(like).result
        if out is None:
            return np.empty_like(like, dtype, subok=False)
        own = ("hidden",) if name == "d_hidden_out" else ()  # its rows are read before they are written
        try:
            array = check_out(out, like.shape, dtype, own, [self.given[other] for other in own])
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}{str(error).removeprefix('out')}") from None
        for other, x in (*self.given.items(), *others.items()):
            if other not in own and x is not None and share_memory(array, x):
                raise ValueError(f"{name} must not overlap {other}")
        return array

    def solve(
        self,
        grad_output: npt.ArrayLike | None,
        gradients: tuple[Array, Array, Array | None] | None,
        accumulate: bool = False,
    ) -> Any:
        """Return the reduced loss; write the gradients where arrays for them are given."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.target.shape, self.dtype)
        labels = self.labels.copy()  # another thread may change the caller's
        kept = self._kept(labels)
        denominator = kept if self.normalizer is None else self.normalizer
        if self.reduction == "mean":
            scale *= mean(1.0, denominator)
        terms = Terms(self.ignore_index, self.class_weight, self.smoothing, self.z_loss, self.softcap, scale)
        losses = np.zeros(len(labels), self.dtype)
        with np.errstate(all="ignore"):  # infinite and NaN logits are the caller's affair
            layer = Layer(self.hidden, self.weight, self.bias, self.dtype)
            plan = make_plan(labels, self.ignore_index, layer, self.max_bytes, gradients is None)
            backward = None if gradients is None else Backward(layer, *gradients, accumulate, len(plan.chunks))
            run(layer, labels, terms, upstream, losses, plan, backward)
            if backward is not None:
                backward.finish(plan.ignored)
        if self.reduction == "none":
            return losses.reshape(self.target.shape)[()]
        total = dispatch.total(losses)
        return as_loss(mean(total, denominator) if self.reduction == "mean" else total, self.dtype)

    def _kept(self, labels: Array) -> float:
        """Return the weight of the samples that count, or raise IndexError for a bad label."""
        weight = None if self.class_weight is None else cast_to(self.class_weight, np.float64)
        position, kept = dispatch.scan_labels(labels, self.classes, self.ignore_index, weight, None)
        if position >= 0:
            raise_label(self.target, position, self.classes, self.ignore_index)
        return kept


def _check_shapes(hidden: Array, weight: Array) -> None:
    if hidden.ndim == 0:
        raise ValueError("hidden must have at least one dimension, the features; got a scalar")
    features = hidden.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != features:
        message = (
            f"weight has shape {weight.shape}, expected (V, {features}): "
            f"hidden has shape {hidden.shape}, with the features along its last axis"
        )
        fits = weight.ndim == 2 and weight.shape[0] == features
        raise ValueError(f"{message}; weight.T would fit" if fits else message)


def _read_target(target: Array, shape: tuple[int, ...], classes: int) -> tuple[Array, Array]:
    """Return class indices of this shape, and the same as int64 of one dimension."""
    kind, with_classes = target.dtype.kind, (*shape, classes)
    if target.shape == with_classes:
        if kind not in "iub":
            raise TypeError(
                f"target must hold class indices of shape {shape} or one-hot integers of shape {with_classes}: "
                f"the linear layer's loss takes no class probabilities, got dtype {target.dtype}"
            )
        labels = one_hot_labels(target, -1)
        return labels.reshape(shape), labels
    if target.shape != shape:
        raise ValueError(
            f"target has shape {target.shape}, expected {shape}, a class index for each row of hidden, or "
            f"{with_classes} for one-hot targets{advice(target.shape, shape, len(shape))}"
        )
    if kind not in "iu" and target.size:
        raise TypeError(f"class indices must be integers, got dtype {target.dtype}; use target.astype(int)")
    return target, as_labels(target)


def _vector(values: npt.ArrayLike, classes: int, name: str) -> Array:
    array = as_real(values, name)
    if array.shape != (classes,):
        raise ValueError(f"{name} must have shape {(classes,)}, one per class, got {array.shape}")
    return array


def _at_least(value: float, least: float, name: str) -> float:
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be at least {least:g}, got {value!r}")
    return value


def _cap(softcap: object) -> float:
    value = as_number(softcap, "softcap")
    if not 0.0 < value < math.inf:
        raise ValueError(f"softcap must be greater than 0, got {softcap!r}")
    return value
