"""Newton's method with autograd (extra: autograd)
===============================================

A softmax regression is fitted to handwritten digits by SciPy's Newton-CG. It asks for gradients, and for products of
the Hessian with a vector. autograd makes both from the objective, whose cross-entropy is once autograd's log-sum-exp
and once fastce's loss.

Install ``pip install ".[autograd]" scikit-learn``.
"""

from time import perf_counter

import autograd.numpy as anp
import numpy as np
from autograd import hessian_vector_product, value_and_grad
from autograd.scipy.special import logsumexp
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from fastce.interop.autograd import cross_entropy as fastces_loss

CLASSES, PENALTY = 10, 1e-3

images, labels = load_digits(return_X_y=True)
images, labels = images[:500] / 16, labels[:500]

# %%
# The usual spelling of the loss in programs for autograd.


def formula(logits, target):
    """Return the mean cross-entropy."""
    log_probs = logits - logsumexp(logits, axis=1, keepdims=True)
    return -anp.mean(log_probs[anp.arange(len(target)), target])


# %%
# The objective is the loss and a penalty on squared weights. Only the loss differs between the two fits.


def fit(cross_entropy):
    """Return the seconds of a fit, and SciPy's result."""

    def objective(flat):
        weights = anp.reshape(flat, (images.shape[1], CLASSES))
        return cross_entropy(anp.dot(images, weights), labels) + PENALTY * anp.sum(flat**2)

    start = np.zeros(images.shape[1] * CLASSES)
    with_gradient, product = value_and_grad(objective), hessian_vector_product(objective)
    with_gradient(start), product(start, start)  # compiles, or loads compiled kernels
    began = perf_counter()
    found = minimize(with_gradient, start, jac=True, hessp=product, method="Newton-CG", options={"xtol": 1e-8})
    return perf_counter() - began, found


fits = {"autograd.numpy": fit(formula), "fastce.interop.autograd": fit(fastces_loss)}
print(f"{'cross-entropy from':25} {'time':>9} {'minimum':>12} {'iterations':>11}")
for name, (seconds, found) in fits.items():
    print(f"{name:25} {seconds * 1e3:6.0f} ms {found.fun:12.9f} {found.nit:11}")

# %%
# Both find the same weights.

np.testing.assert_allclose(*(found.x for _, found in fits.values()), atol=1e-5)
