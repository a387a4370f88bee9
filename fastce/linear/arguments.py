"""Checked arguments of a linear layer and its loss, and the arrays that its gradients are written to."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.elementary import log1p
from fastce.core.factors import sample_factors, smoothing_parts
from fastce.core.layout import Array, cast_to, dtypes_of
from fastce.core.out import result_like, share_memory
from fastce.core.reduction import FloatArray, Scalar, as_upstream, check_reduction, mean, reduce_losses, z_part
from fastce.core.targets import (
    as_labels,
    check_none_ignored,
    one_hot_labels,
    raise_huge_label,
    raise_label,
    shape_hint,
)
from fastce.core.validation import (
    as_array,
    as_ignore_index,
    as_index,
    as_logit_transform,
    as_normalizer,
    as_real,
    as_smoothing,
    as_weights_of,
    as_z_loss,
    shown,
)
from fastce.linear.chunks import make_plan, run
from fastce.linear.layer import Backward, Gradients, Layer
from fastce.linear.losses import LossOptions


class ByProducts(NamedTuple):
    """What is left of a call beside its results, to compute more of them from."""

    stats: Array  # maxima and ``sum_exp_rest`` of all samples, NaN for those left out
    z_loss: float
    sample_weight: Array | None
    reduction: str
    denominator: float
    shape: tuple[int, ...]  # of the samples

    def lse(self) -> Array:
        """Return the log-sum-exp of every sample."""
        row_max, sum_exp_rest = self.stats
        with np.errstate(all="ignore"):
            return np.asarray(row_max + log1p(sum_exp_rest)).reshape(self.shape)

    def z_part(self) -> Any:
        """Return the z-loss, reduced as the loss."""
        weight = None if self.sample_weight is None else self.sample_weight.reshape(self.shape)
        return z_part(self.lse(), self.z_loss, weight, self.reduction, self.denominator)


class LinearLossCall:
    """The checked arguments of one call, and its computation.

    The constructor takes the arguments of `linear_cross_entropy` by their public names.
    """

    by_products: ByProducts  # of `solve` with gradients

    def __init__(
        self,
        hidden: npt.ArrayLike,
        weight: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        bias: npt.ArrayLike | None,
        class_weight: npt.ArrayLike | None,
        sample_weight: npt.ArrayLike | None,
        ignore_index: int | None,
        label_smoothing: float,
        z_loss: float,
        logit_scale: float,
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
        self.dtype = np.result_type(*(dtypes_of(x).compute for x in arrays))
        self.inputs = {"hidden": self.hidden, "weight": self.weight, "target": target, "bias": self.bias}
        self.ignore_index = as_ignore_index(ignore_index)
        if ignore_index is None:
            check_none_ignored(self.target, self.labels, classes)
        self.class_weight = None
        if class_weight is not None:
            self.inputs["class_weight"] = class_weight = as_real(class_weight, "class_weight")
            self.class_weight = as_weights_of(class_weight, (classes,), "class_weight", "one per class", self.dtype)
        self.sample_weight = None
        if sample_weight is not None:
            self.inputs["sample_weight"] = sample_weight = as_real(sample_weight, "sample_weight")
            shape = self.target.shape
            weights = as_weights_of(sample_weight, shape, "sample_weight", "one per sample", self.dtype)
            self.sample_weight = weights.reshape(-1)
        self.smoothing = smoothing_parts(as_smoothing(label_smoothing), classes, self.class_weight)
        self.z_loss = as_z_loss(z_loss, self.dtype) or 0.0
        self.logit_transform = as_logit_transform(logit_scale, softcap, self.dtype)
        check_reduction(reduction)
        self.reduction = reduction
        self.normalizer = None if normalizer is None else as_normalizer(normalizer, reduction, self.dtype)
        self.max_bytes = int(_at_least(as_index(max_bytes, "max_bytes"), 1, "max_bytes"))

    def gradient_arrays(self, d_hidden: object, d_weight: object, d_bias: object, *, accumulate: bool) -> Gradients:
        """Return the given arrays, if the gradients can be written there, or for None new ones.

        New ones hold zeros if gradients are accumulated.
        """
        if d_bias is not None and self.bias is None:
            raise ValueError("d_bias_out has no gradient to take, as there is no bias")
        if accumulate and d_hidden is None and d_weight is None and d_bias is None:
            raise ValueError(
                "accumulate=True adds gradients to given arrays, "
                "but none of d_hidden_out, d_weight_out and d_bias_out is given"
            )
        arrays: dict[str, Array] = {}
        for name, out, like in (
            ("d_hidden_out", d_hidden, self.hidden),
            ("d_weight_out", d_weight, self.weight),
            ("d_bias_out", d_bias, self.bias),
        ):
            if like is not None:
                arrays[name] = self._gradient_array(out, name, like, arrays)
                if out is None and accumulate:
                    arrays[name][...] = 0
        return Gradients(arrays["d_hidden_out"], arrays["d_weight_out"], arrays.get("d_bias_out"))

    def _gradient_array(self, out: object, name: str, like: Array, others: dict[str, Array]) -> Array:
        """Return ``out`` if the gradient of ``like`` can be written there, or for None a new array."""
        # rows of hidden are read before their gradient is written: only these two may be one array
        replaced = ["hidden"] if name == "d_hidden_out" else []
        array = result_like(like, out, replaced, [self.inputs[other] for other in replaced], out_name=name)
        if out is not None:
            for other, x in (*self.inputs.items(), *others.items()):
                if other not in replaced and x is not None and share_memory(array, x):
                    raise ValueError(f"{name} must not overlap {other}")
        return array

    def solve(
        self, grad_output: npt.ArrayLike | None = None, gradients: Gradients | None = None, *, accumulate: bool = False
    ) -> Scalar | FloatArray:
        """Return the reduced loss; write the gradients if arrays for them are given, and keep by-products then."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.target.shape, self.dtype)
        labels = self.labels.copy()  # another thread may change the caller's labels after their check
        denominator = self._denominator(labels)
        if self.reduction == "mean":
            scale *= mean(1.0, denominator)
        options = LossOptions(
            self.ignore_index, self.class_weight, self.smoothing, self.z_loss, self.logit_transform, scale
        )
        factors = sample_factors(self.sample_weight, upstream, len(labels), self.dtype)
        losses = np.zeros(len(labels), self.dtype)
        stats = None if gradients is None else np.empty((2, len(labels)), self.dtype)
        with np.errstate(all="ignore"):  # infinite and NaN logits have results as well
            layer = Layer(self.hidden, self.weight, self.bias, self.dtype)
            plan = make_plan(labels, self.ignore_index, layer, self.max_bytes, forward_only=gradients is None)
            backward = None if gradients is None else Backward(layer, gradients, accumulate, len(plan.chunks))
            run(layer, labels, options, factors, losses, stats, plan, backward)
            if backward is not None:
                backward.finish(plan.ignored)
        shape, reduction = self.target.shape, self.reduction
        if stats is not None:
            if len(plan.ignored):
                stats[:, plan.ignored] = np.nan
            self.by_products = ByProducts(stats, self.z_loss, self.sample_weight, reduction, denominator, shape)
        return reduce_losses(losses, shape, reduction, denominator)

    def _denominator(self, labels: Array) -> float:
        """Return the denominator of means; have samples ignored that are left out."""
        total_weight = self._total_weight(labels)
        self._ignore_no_weight(labels)
        if self.normalizer is None:
            return total_weight
        if self.normalizer == 0.0:
            count = np.count_nonzero(labels != self.ignore_index)
            if count:
                raise ValueError(f"normalizer must be positive where samples count, got 0.0 for {count} of them")
            return 1.0
        return self.normalizer

    def _ignore_no_weight(self, labels: Array) -> None:
        """Have samples ignored of which a weight of 0 leaves nothing."""
        if self.sample_weight is not None:
            labels[self.sample_weight == 0.0] = self.ignore_index
        if (
            self.class_weight is not None
            and not self.z_loss
            and (self.smoothing is None or not self.class_weight.any())
        ):
            valid = np.flatnonzero(labels != self.ignore_index)
            labels[valid[self.class_weight[labels[valid]] == 0.0]] = self.ignore_index

    def _total_weight(self, labels: Array) -> float:
        """Return the sum of the weights of samples that are not ignored, or raise IndexError for a bad label."""
        weight = None if self.class_weight is None else cast_to(self.class_weight, np.float64)
        factors = None if self.sample_weight is None else cast_to(self.sample_weight, np.float64)[np.newaxis]
        position, total_weight = dispatch.scan_labels(labels, self.classes, self.ignore_index, weight, factors)
        if position >= 0:
            raise_label(self.target, position, self.classes, self.ignore_index)
        return total_weight


def _check_shapes(hidden: Array, weight: Array) -> None:
    """Raise ValueError unless the shapes of hidden states and weights fit."""
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
    """Return (class indices of this shape, the same as flat int64)."""
    kind, with_classes = target.dtype.kind, (*shape, classes)
    if target.shape != shape:
        as_real(target, "target")
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
            f"{with_classes} for one-hot targets{shape_hint(target.shape, shape, len(shape))}"
        )
    if kind not in "iu" and target.size:
        raise_huge_label(target, classes)
        as_real(target, "target")
        raise TypeError(f"class indices must be integers, got dtype {target.dtype}; use target.astype(int)")
    return target, as_labels(target)


def _vector(values: npt.ArrayLike, classes: int, name: str) -> Array:
    array = as_real(values, name)
    if array.shape != (classes,):
        raise ValueError(f"{name} must have shape {(classes,)}, one per class, got {array.shape}")
    return array


def _at_least(value: float, least: float, name: str) -> float:
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be at least {least:g}, got {shown(value)}")
    return value
