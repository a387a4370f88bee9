# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A page of user code, for type checkers and to run: ``assert_type`` is checked by both, see ``test_types``."""

from collections.abc import Iterator
from typing import Any, Literal, assert_type

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop import boosting

Array = npt.NDArray[Any]
Scalar = np.floating[Any]
Losses = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]
Reduction = Literal["mean", "sum", "none"]

logits: npt.NDArray[np.float32] = np.array([[1, 2, 3], [3, 1, 2]], np.float32)
target: Indices = np.array([0, 2])
ones: npt.NDArray[np.float32] = np.ones((2, 3), np.float32)
lists, labels = [[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]], [0, 2]
out = np.empty_like(logits)

# a loss is a scalar, or with reduction="none" an array
assert_type(fastce.cross_entropy(logits, target), Scalar)
assert_type(fastce.cross_entropy(logits, target, reduction="mean", weight=[1, 2, 3], normalizer=5), Scalar)
assert_type(fastce.cross_entropy(lists, labels, reduction="sum", where=[True, True, True], ignore_index=None), Scalar)
assert_type(fastce.cross_entropy(lists, labels, reduction="none", softcap=30.0, axis=-1), Losses)
assert_type(fastce.cross_entropy_from_probs([[0.5, 0.5]], [0]), Scalar)
assert_type(fastce.cross_entropy_from_probs([[0.5, 0.5]], [0], reduction="none", label_smoothing=0.1), Losses)
assert_type(fastce.binary_cross_entropy_with_logits(logits, ones), Scalar)
assert_type(fastce.binary_cross_entropy_with_logits(logits, ones, reduction="none", pos_weight=2), Losses)
assert_type(fastce.binary_cross_entropy_from_probs([0.5], [1]), Scalar)
assert_type(fastce.binary_cross_entropy_from_probs([0.5], [1], reduction="none", weight=[2]), Losses)
assert_type(fastce.kl_divergence(logits, ones), Scalar)
assert_type(fastce.kl_divergence(logits, ones, reduction="none", reverse=True), Losses)
assert_type(fastce.jensen_shannon(logits, ones), Scalar)
assert_type(fastce.jensen_shannon(logits, ones, reduction="none", beta=0.1), Losses)
assert_type(fastce.focal_loss(logits, target, gamma=2), Scalar)
assert_type(fastce.focal_loss(logits, target, gamma=2.0, reduction="none", alpha=[1, 2, 3]), Losses)
assert_type(fastce.sigmoid_focal_loss(logits, ones), Scalar)
assert_type(fastce.sigmoid_focal_loss(logits, ones, reduction="none", alpha=None), Losses)
assert_type(fastce.linear_cross_entropy(logits, ones, [0, 1]), Scalar)
assert_type(fastce.linear_cross_entropy(logits, ones, [0, 1], reduction="none", bias=[1.0, 2.0]), Losses)

stats = fastce.shards.merge(
    [fastce.shards.statistics(logits, target), fastce.shards.statistics(lists, labels, start=3)]
)
assert_type(stats, Array)
assert_type(fastce.shards.cross_entropy(stats, target), Scalar)
assert_type(fastce.shards.cross_entropy(stats, labels, reduction="none", dtype="float32", z_loss=0.1), Losses)
assert_type(fastce.shards.cross_entropy_grad(logits, target, stats, start=0), Array)
assert_type(fastce.shards.softmax(logits, stats, out=out), Array)
assert_type(fastce.shards.log_softmax(lists, stats), Array)
assert_type(fastce.shards.logsumexp(stats, np.float32), Array)
assert_type(fastce.shards.chunk_length(50_257), int)

# so is the loss of a named tuple
loss, grad = fastce.cross_entropy_and_grad(logits, target, out=out)
assert_type(loss, Scalar)
assert_type(grad, Array)
losses, grad = fastce.cross_entropy_and_grad(lists, labels, reduction="none", grad_output=[1.0, 2.0])
assert_type(losses, Losses)
assert_type(fastce.cross_entropy_and_grad(logits, target, reduction="sum"), fastce.LossAndGrad[Scalar])
assert_type(fastce.cross_entropy_from_probs_and_grad([[0.5, 0.5]], [0]).loss, Scalar)
assert_type(fastce.cross_entropy_from_probs_and_grad([[0.5, 0.5]], [0], reduction="none").loss, Losses)
assert_type(fastce.binary_cross_entropy_with_logits_and_grad(logits, ones).loss, Scalar)
assert_type(fastce.binary_cross_entropy_with_logits_and_grad(logits, ones, reduction="none").loss, Losses)
assert_type(fastce.binary_cross_entropy_from_probs_and_grad([0.5], [1]).loss, Scalar)
assert_type(fastce.binary_cross_entropy_from_probs_and_grad([0.5], [1], reduction="none").loss, Losses)
assert_type(fastce.kl_divergence_and_grad(logits, ones, temperature=2).loss, Scalar)
assert_type(fastce.kl_divergence_and_grad(logits, ones, reduction="none").loss, Losses)
assert_type(fastce.jensen_shannon_and_grad(logits, ones).loss, Scalar)
assert_type(fastce.jensen_shannon_and_grad(logits, ones, reduction="none").loss, Losses)
assert_type(fastce.focal_loss_and_grad(logits, target, gamma=2).loss, Scalar)
assert_type(fastce.focal_loss_and_grad(logits, target, gamma=2, reduction="none").loss, Losses)
assert_type(fastce.sigmoid_focal_loss_and_grad(logits, ones).loss, Scalar)
assert_type(fastce.sigmoid_focal_loss_and_grad(logits, ones, reduction="none").loss, Losses)
layer = fastce.linear_cross_entropy_and_grad(logits, ones, [0, 1], accumulate=False, d_hidden_out=out)
assert_type(layer, fastce.LinearCrossEntropy[Scalar])
assert_type(layer.loss, Scalar)
assert_type(layer.d_weight, Array)
assert_type(layer.d_bias, Array | None)
assert_type(fastce.linear_cross_entropy_and_grad(logits, ones, [0, 1], reduction="none").loss, Losses)
forward = fastce.cross_entropy_forward(logits, target)
assert_type(forward, fastce.Forward[Scalar])
assert_type(fastce.cross_entropy_forward(logits, target, reduction="none").loss, Losses)
assert_type(fastce.cross_entropy_backward(logits, target, forward.stats, reduction="none"), Array)
assert_type(fastce.cross_entropy_hvp(logits, target, ones, reduction="sum"), Array)
assert_type(fastce.cross_entropy_grad_and_hessian(logits, target, hessian_scale=2).hessian, Array)

# and of an object
criterion = fastce.CrossEntropyLoss(label_smoothing=0.1)
assert_type(criterion, fastce.CrossEntropyLoss[Scalar])
assert_type(criterion(logits, target, sample_weight=[1.0, 2.0]), Scalar)
assert_type(criterion.backward(out=out), Array)
assert_type(criterion.parts.z_loss, Scalar)
assert_type(criterion.lse, Array)
assert_type(criterion.weight, Array | None)
assert_type(fastce.CrossEntropyLoss(reduction="none")(logits, target), Losses)

# results that do not depend on a reduction
assert_type(fastce.softmax(lists), Array)
assert_type(fastce.log_softmax(logits, axis=(0, 1), out=out), Array)
assert_type(fastce.logsumexp(logits, 0, keepdims=True), Array)
assert_type(fastce.logsumexp(logits, return_sign=False), Array)
lse, sign = fastce.logsumexp(logits, b=[1, 2, 3], return_sign=True)
assert_type(lse, Array)
assert_type(sign, Array)
assert_type(fastce.softmax_vjp(ones, ones), Array)
assert_type(fastce.log_softmax_vjp(ones, ones), Array)
assert_type(fastce.logsumexp_vjp([1.0, 1.0], logits, lse), Array)
score = fastce.score(logits, target, top_k=2)
assert_type(score.log_prob, Losses)
assert_type(score.lse, Losses)
assert_type(score.argmax, Indices)
assert_type(score.correct, npt.NDArray[np.bool_])
assert_type(score.rank, Indices)
assert_type(score.entropy, Losses)

# means over batches
evaluation = fastce.evaluate(logits, target, sample_weight=[1, 2], top_k=2)
assert_type(evaluation, fastce.Evaluation[float])
assert_type(evaluation.count, int)
assert_type(evaluation.perplexity, float)
assert_type(evaluation.top_k_accuracy, float)
assert_type(evaluation.asdict(), dict[str, Any])
assert_type(fastce.evaluate(lists, labels, top_k=(1, 2)).top_k_accuracy, tuple[float, ...])
assert_type(fastce.evaluate([(logits, target)], weight=[1, 2, 3]).top_k_accuracy, float)
assert_type(fastce.evaluate([(lists, labels)], top_k=[1, 2]).top_k_accuracy, tuple[float, ...])
sums = fastce.EvaluationSums(top_k=(1, 2))
sums.add(logits, target)
assert_type((sums + fastce.EvaluationSums(top_k=(1, 2))).result().top_k_accuracy, tuple[float, ...])
assert_type(fastce.EvaluationSums(axis=1).result().loss, float)

# objectives for gradient boosting
assert_type(boosting.XGBSoftmax(class_weight={0: 2}, gamma=2)(labels, logits), tuple[Array, Array])
assert_type(boosting.LGBMSoftmax(class_weight="balanced", soft_targets=ones / 3)(labels, logits), tuple[Array, Array])
assert_type(boosting.class_priors(labels, 3, sample_weight=[1.0, 2.0]), list[float])


def batches() -> Iterator[tuple[npt.NDArray[np.float16], list[int]]]:
    yield logits.astype(np.float16), labels


assert_type(fastce.evaluate(batches()).accuracy, float)


def of_any_reduction(
    x: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike | None, gamma: float | None, reduction: Reduction
) -> Scalar | Losses:
    """Pass arguments on, where only the caller knows the reduction."""
    assert_type(fastce.cross_entropy(x, y, weight=weight, reduction=reduction), Scalar | Losses)
    assert_type(fastce.cross_entropy_and_grad(x, y, reduction=reduction).loss, Scalar | Losses)
    assert_type(fastce.CrossEntropyLoss(weight=weight, reduction=reduction)(x, y), Scalar | Losses)
    if gamma is None:
        return fastce.cross_entropy(x, y, weight=weight, reduction=reduction)
    return fastce.focal_loss(x, y, gamma=gamma, alpha=weight, reduction=reduction)


def of_any_options(
    x: Losses, y: Indices, return_sign: bool, top_k: int | tuple[int, ...] | None, **options: Any
) -> None:
    """Pass options on."""
    mean: Scalar = fastce.cross_entropy(x, y, reduction="mean", **options)
    print(f"{mean:.3f}", float(mean), mean * 2)
    each: Losses = fastce.cross_entropy(x, y, reduction="none", **options)
    print(each.max(), each[0])
    assert_type(fastce.logsumexp(x, return_sign=return_sign), Array | tuple[Array, Array])
    assert_type(fastce.evaluate(x, y, top_k=top_k).top_k_accuracy, float | tuple[float, ...])


def train(criterion: fastce.CrossEntropyLoss, pairs: list[fastce.LossAndGrad]) -> float:
    """Names without a parameter stand for scalar losses."""
    assert_type(criterion(logits, target), Scalar)
    return sum(float(loss) for loss, _ in pairs)


of_any_reduction(lists, labels, None, 2.0, "sum")
of_any_reduction(lists, labels, [1, 2, 3], None, "none")
of_any_options(logits, target, True, (1, 2), label_smoothing=0.1)
train(criterion, [fastce.cross_entropy_and_grad(logits, target)])


def ahead() -> None:
    """Prepare for calls."""
    fastce.warmup("float64", classes=[3, 4])
    fastce.show_config((2, 3), dtype="float32")


def wrong() -> None:
    """Calls that are wrong: type checkers find each, and complain about a comment without its error."""
    fastce.cross_entropy(logits, target, reduction="average")  # type: ignore[call-overload]
    fastce.cross_entropy(logits, target, reduction=None)  # type: ignore[call-overload]
    fastce.cross_entropy(logits, target, label_smooth=0.1)  # type: ignore[call-overload]
    fastce.cross_entropy(logits, target, 1)  # type: ignore[call-overload]
    fastce.cross_entropy(logits)  # type: ignore[call-overload]
    fastce.cross_entropy(logits, target, axis="last")  # type: ignore[call-overload]
    fastce.cross_entropy(logits, target, out=out)  # type: ignore[call-overload]
    fastce.cross_entropy_and_grad(logits, target, out=lists)  # type: ignore[call-overload]
    fastce.focal_loss(logits, target)  # type: ignore[call-overload]
    fastce.kl_divergence(logits, ones, label_smoothing=0.1)  # type: ignore[call-overload]
    fastce.CrossEntropyLoss(sample_weight=[1, 2])  # type: ignore[call-overload]
    fastce.CrossEntropyLoss(reduction="average")  # type: ignore[call-overload]
    fastce.evaluate(batches(), sample_weight=[1.0, 2.0])  # type: ignore[call-overload]
    fastce.softmax(logits, keepdims=True)  # type: ignore[call-arg]
    print(fastce.cross_entropy(logits, target).loss)  # type: ignore[attr-defined]
    count: int = fastce.evaluate(logits, target).loss  # type: ignore[assignment]
    print(count)
