"""Fit a softmax regression to handwritten digits by Newton's method, with derivatives from autograd.

The objective is written in ``autograd.numpy``, but for its cross-entropy: once with autograd's log-sum-exp, once with
fastce's loss. SciPy's Newton-CG asks for gradients and for products of the Hessian with a vector; autograd makes both.
The table shows that both find the same minimum, and the time that it takes.

    python examples/autograd_fit.py           all images
    python examples/autograd_fit.py --quick   300 of them
"""

import argparse
from time import perf_counter
from typing import NamedTuple

import autograd.numpy as anp
import numpy as np
from autograd import hessian_vector_product, value_and_grad
from autograd.scipy.special import logsumexp
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from fastce.interop.autograd import cross_entropy as fastces_loss

CLASSES = 10
PENALTY = 1e-3


class Fit(NamedTuple):
    """What one fit showed: seconds, the minimum, the weights there."""

    seconds: float
    minimum: float
    weights: np.ndarray


def formula(logits, target):
    """Return the mean cross-entropy, as programs for autograd spell it."""
    log_probs = logits - logsumexp(logits, axis=1, keepdims=True)
    return -anp.mean(log_probs[anp.arange(len(target)), target])


def fit(images, labels, cross_entropy):
    """Find the weights of the least loss, with a penalty on their squares."""

    def objective(flat):
        weights = anp.reshape(flat, (images.shape[1], CLASSES))
        return cross_entropy(anp.dot(images, weights), labels) + PENALTY * anp.sum(flat**2)

    start = np.zeros(images.shape[1] * CLASSES)
    with_gradient, product = value_and_grad(objective), hessian_vector_product(objective)
    # The first calls compile the kernels or read them from disk: no part of a fit.
    with_gradient(start), product(start, start)

    began = perf_counter()
    found = minimize(with_gradient, start, jac=True, hessp=product, method="Newton-CG", options={"xtol": 1e-8})
    return Fit(perf_counter() - began, float(found.fun), found.x)


def main():
    """Fit with both losses and print the results."""
    parser = argparse.ArgumentParser(description="Fit a softmax regression with derivatives from autograd.")
    parser.add_argument("--quick", action="store_true", help="300 images instead of 1797")
    count = 300 if parser.parse_args().quick else None

    images, labels = load_digits(return_X_y=True)
    images, labels = images[:count] / 16, labels[:count]
    fits = {
        "autograd.numpy": fit(images, labels, formula),
        "fastce.interop.autograd": fit(images, labels, fastces_loss),
    }
    table = Table(title=f"Newton-CG, {len(labels)} images, float64")
    table.add_column("cross-entropy from")
    for heading in ("time (ms)", "minimum"):
        table.add_column(heading, justify="right")
    for name, result in fits.items():
        table.add_row(name, f"{result.seconds * 1e3:.0f}", f"{result.minimum:.9f}")
    Console().print(table)

    one, other = (result.weights for result in fits.values())
    if not np.allclose(one, other, atol=1e-5):
        raise SystemExit("the two losses have different minima")


if __name__ == "__main__":
    main()
