"""Fast, exact cross-entropy, softmax and log-sum-exp, with gradients, on NumPy arrays."""

from fastce import shards as shards
from fastce.api.binary import binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_and_grad
from fastce.api.binary_from_probs import binary_cross_entropy_from_probs, binary_cross_entropy_from_probs_and_grad
from fastce.api.config import show_config
from fastce.api.cross_entropy import LossAndGrad, cross_entropy, cross_entropy_and_grad
from fastce.api.cross_entropy_forward import Forward, cross_entropy_backward, cross_entropy_forward
from fastce.api.cross_entropy_loss import CrossEntropyLoss, LossParts
from fastce.api.evaluate import evaluate
from fastce.api.evaluation_sums import Evaluation, EvaluationSums
from fastce.api.focal import focal_loss, focal_loss_and_grad
from fastce.api.from_probs import cross_entropy_from_probs, cross_entropy_from_probs_and_grad
from fastce.api.hessian import GradAndHessian, cross_entropy_grad_and_hessian, cross_entropy_hvp
from fastce.api.jensen_shannon import jensen_shannon, jensen_shannon_and_grad
from fastce.api.kl_divergence import kl_divergence, kl_divergence_and_grad
from fastce.api.linear import LinearCrossEntropy, linear_cross_entropy, linear_cross_entropy_and_grad
from fastce.api.score import Score, score
from fastce.api.sigmoid_focal import sigmoid_focal_loss, sigmoid_focal_loss_and_grad
from fastce.api.softmax import log_softmax, logsumexp, softmax
from fastce.api.softmax_vjp import log_softmax_vjp, logsumexp_vjp, softmax_vjp
from fastce.api.warmup import warmup

__all__ = [
    "CrossEntropyLoss",
    "Evaluation",
    "EvaluationSums",
    "Forward",
    "GradAndHessian",
    "LinearCrossEntropy",
    "LossAndGrad",
    "LossParts",
    "Score",
    "binary_cross_entropy_from_probs",
    "binary_cross_entropy_from_probs_and_grad",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "cross_entropy",
    "cross_entropy_and_grad",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "cross_entropy_from_probs",
    "cross_entropy_from_probs_and_grad",
    "cross_entropy_grad_and_hessian",
    "cross_entropy_hvp",
    "evaluate",
    "focal_loss",
    "focal_loss_and_grad",
    "jensen_shannon",
    "jensen_shannon_and_grad",
    "kl_divergence",
    "kl_divergence_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "score",
    "show_config",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_and_grad",
    "softmax",
    "softmax_vjp",
    "warmup",
]

__version__ = "0.1.0"
