"""The divergences of two softmaxes, and logits for them."""

import functools

import numpy as np

from fastce import jensen_shannon, jensen_shannon_and_grad, kl_divergence, kl_divergence_and_grad
from tests.helpers import logits

# tiles and their edges, rows and their blocks, more than one thread
SHAPES = [(1, 1), (3, 2), (17, 10), (33, 32), (9, 33), (17, 100), (5, 513), (3, 2600), (5003, 10), (37, 1031)]
BETAS = [0.5, 0.1, 0.9]
# by the share of the target in the mixture, and by its limits
FUNCTIONS = {
    "kl": kl_divergence_and_grad,
    **{beta: functools.partial(jensen_shannon_and_grad, beta=beta) for beta in BETAS},
    "reverse": functools.partial(kl_divergence_and_grad, reverse=True),
}
LOSSES = {
    "kl": kl_divergence,
    **{beta: functools.partial(jensen_shannon, beta=beta) for beta in BETAS},
    "reverse": functools.partial(kl_divergence, reverse=True),
}


def pair(rng, shape, dtype, near=1.0):
    """Logits, and target logits about so far from them."""
    x = logits(rng, shape, np.float64)
    return (x + near * rng.normal(size=shape)).astype(dtype), x.astype(dtype)
