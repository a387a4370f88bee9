"""Fast, exact cross-entropy, softmax and log-sum-exp, with gradients, on NumPy arrays."""

from fastce._binary import binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_and_grad
from fastce._config import show_config
from fastce._cross_entropy import CrossEntropyLoss, LossAndGrad, cross_entropy, cross_entropy_and_grad
from fastce._from_probs import cross_entropy_from_probs, cross_entropy_from_probs_and_grad
from fastce._softmax import log_softmax, logsumexp, softmax
from fastce._vjp import log_softmax_vjp, logsumexp_vjp, softmax_vjp
from fastce._warmup import warmup

__all__ = [
    "CrossEntropyLoss",
    "LossAndGrad",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "cross_entropy",
    "cross_entropy_and_grad",
    "cross_entropy_from_probs",
    "cross_entropy_from_probs_and_grad",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "show_config",
    "softmax",
    "softmax_vjp",
    "warmup",
]

__version__ = "0.1.0"
