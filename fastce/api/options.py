"""Options of the public functions, for the overloads that type checkers read; imported by them alone.

A loss is a scalar, or with ``reduction="none"`` an array. So each function with a ``reduction`` has three overloads,
the third for a variable of any reduction. They share all other options as a `TypedDict`, with the names and types of
the function's parameters. Defaults and meanings are in the function.
"""

from typing import Required, TypedDict

import numpy.typing as npt

from fastce.core.layout import Array


class _GradOptions(TypedDict, total=False):
    grad_output: npt.ArrayLike | None
    out: Array | None


class _LabelOptions(TypedDict, total=False):
    ignore_index: int | None
    label_smoothing: float


class FromProbsOptions(_LabelOptions, total=False):
    """Options of `cross_entropy_from_probs`."""

    axis: int
    weight: npt.ArrayLike | None
    sample_weight: npt.ArrayLike | None


class FromProbsGradOptions(FromProbsOptions, _GradOptions, total=False):
    """Options of `cross_entropy_from_probs_and_grad`."""


class CrossEntropyOptions(FromProbsOptions, total=False):
    """Options of `cross_entropy` and `cross_entropy_forward`."""

    z_loss: float
    logit_scale: float
    softcap: float | None
    normalizer: float | None
    where: npt.ArrayLike | None


class CrossEntropyGradOptions(CrossEntropyOptions, _GradOptions, total=False):
    """Options of `cross_entropy_and_grad`."""


class ShardOptions(_LabelOptions, total=False):
    """Options of `shards.cross_entropy`."""

    dtype: npt.DTypeLike
    sample_weight: npt.ArrayLike | None
    z_loss: float
    normalizer: float | None


class CriterionOptions(_LabelOptions, total=False):
    """Options of `CrossEntropyLoss`."""

    axis: int
    weight: npt.ArrayLike | None
    z_loss: float
    logit_scale: float
    softcap: float | None


class FocalOptions(_LabelOptions, total=False):
    """Options of `focal_loss`."""

    gamma: Required[float]
    alpha: npt.ArrayLike | None
    axis: int
    sample_weight: npt.ArrayLike | None


class FocalGradOptions(FocalOptions, _GradOptions, total=False):
    """Options of `focal_loss_and_grad`."""


class LinearOptions(_LabelOptions, total=False):
    """Options of `linear_cross_entropy`."""

    bias: npt.ArrayLike | None
    class_weight: npt.ArrayLike | None
    sample_weight: npt.ArrayLike | None
    z_loss: float
    logit_scale: float
    softcap: float | None
    normalizer: float | None
    max_bytes: int


class LinearGradOptions(LinearOptions, total=False):
    """Options of `linear_cross_entropy_and_grad`."""

    grad_output: npt.ArrayLike | None
    d_hidden_out: Array | None
    d_weight_out: Array | None
    d_bias_out: Array | None
    accumulate: bool


class BinaryProbsOptions(TypedDict, total=False):
    """Options of `binary_cross_entropy_from_probs`."""

    weight: npt.ArrayLike | None
    pos_weight: npt.ArrayLike | None


class BinaryProbsGradOptions(BinaryProbsOptions, _GradOptions, total=False):
    """Options of `binary_cross_entropy_from_probs_and_grad`."""


class BinaryOptions(BinaryProbsOptions, total=False):
    """Options of `binary_cross_entropy_with_logits`."""

    ignore_index: float | None
    label_smoothing: float


class BinaryGradOptions(BinaryOptions, _GradOptions, total=False):
    """Options of `binary_cross_entropy_with_logits_and_grad`."""


class SigmoidFocalOptions(TypedDict, total=False):
    """Options of `sigmoid_focal_loss`."""

    gamma: float
    alpha: float | None


class SigmoidFocalGradOptions(SigmoidFocalOptions, _GradOptions, total=False):
    """Options of `sigmoid_focal_loss_and_grad`."""


class _DivergenceOptions(TypedDict, total=False):
    axis: int
    temperature: float


class KlOptions(_DivergenceOptions, total=False):
    """Options of `kl_divergence`."""

    reverse: bool
    sample_weight: npt.ArrayLike | None


class KlGradOptions(KlOptions, _GradOptions, total=False):
    """Options of `kl_divergence_and_grad`."""


class JensenShannonOptions(_DivergenceOptions, total=False):
    """Options of `jensen_shannon`."""

    beta: float


class JensenShannonGradOptions(JensenShannonOptions, _GradOptions, total=False):
    """Options of `jensen_shannon_and_grad`."""


class SumsOptions(_LabelOptions, total=False):
    """Options of `EvaluationSums`."""

    axis: int
    weight: npt.ArrayLike | None


class BatchesOptions(SumsOptions, total=False):
    """Options of `evaluate` for batches."""

    progress: bool


class ArraysOptions(BatchesOptions, total=False):
    """Options of `evaluate` for two arrays."""

    sample_weight: npt.ArrayLike | None


class LogsumexpOptions(TypedDict, total=False):
    """Options of `logsumexp`."""

    b: npt.ArrayLike | None
    keepdims: bool
    where: npt.ArrayLike | None
    out: Array | None
