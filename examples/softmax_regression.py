"""Softmax regression as an estimator of scikit-learn
==================================================

``SoftmaxRegression`` finds the model of scikit-learn's LogisticRegression with SciPy: by L-BFGS, with loss and gradient
from one call, or by Newton-CG, with products of the Hessian as well. The gradient takes the place of the scores. It
also takes class probabilities as labels, and label smoothing. It is an example to copy and change, no part of fastce.

Install ``pip install . matplotlib scikit-learn``.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import fastce

FLOATS = [np.float64, np.float32]

# %%
# SciPy asks for the objective, its gradient, and products of its Hessian.


class Objective:
    """The mean cross-entropy of a linear model, and a penalty on its weights, as functions of all coefficients.

    The coefficients are a matrix, (D, n_classes), of features that may end with a column of ones. The last
    ``D - n_penalized`` rows, the intercepts, have no penalty.
    """

    def __init__(self, features, target, n_classes, n_penalized, penalty, **options):
        self.features, self.target = features, target
        self.shape, self.n_penalized = (features.shape[1], n_classes), n_penalized
        self.penalty, self.options = penalty, options
        self.point, self.point_scores = None, None  # of the last product with the Hessian

    def loss_and_grad(self, flat):
        """Return the objective and its gradient."""
        scores = self._scores(flat)
        loss, d_scores = fastce.cross_entropy_and_grad(scores, self.target, out=scores, **self.options)
        weights = flat.reshape(self.shape)[: self.n_penalized]
        return float(loss) + self.penalty / 2 * np.vdot(weights, weights), self._pull(d_scores, weights)

    def hessian_product(self, flat, direction):
        """Return the Hessian of the objective times a vector. SciPy asks for several products at one point."""
        if not np.array_equal(flat, self.point):
            self.point, self.point_scores = flat.copy(), self._scores(flat)
        v = self._scores(direction)
        product = fastce.cross_entropy_hvp(self.point_scores, self.target, v, out=v, **self.options)
        return self._pull(product, direction.reshape(self.shape)[: self.n_penalized])

    def _scores(self, flat):
        return self.features @ flat.reshape(self.shape).astype(self.features.dtype, copy=False)

    def _pull(self, d_scores, weights):
        """Return derivatives by the coefficients, given those by the scores, and add the penalty's."""
        result = (self.features.T @ d_scores).astype(np.float64, copy=False)
        result[: self.n_penalized] += self.penalty * weights
        return result.ravel()


# %%
# The estimator follows scikit-learn's conventions.


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """The model of LogisticRegression, fitted with loss, gradient and Hessian of fastce.

    Parameters
    ----------
    C : float, default 1.0
        The inverse of the penalty on squared weights, in the scale of LogisticRegression.
    fit_intercept : bool, default True
        Whether each class has an intercept.
    tol : float, default 1e-4
        Where to stop: the greatest element of the gradient, or the mean step of a coefficient in Newton-CG.
    max_iter : int, default 100
        The greatest number of iterations.
    solver : {"lbfgs", "newton-cg"}, default "lbfgs"
        How to minimise.
    label_smoothing : float, default 0.0
        The share of each label's probability that all classes get alike.
    warm_start : bool, default False
        Start from the coefficients of the last fit.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The labels; the numbers of the columns if the fit was given probabilities.
    coef_ : ndarray, shape (n_classes, n_features)
        The weights.
    intercept_ : ndarray, shape (n_classes,)
        The intercepts.
    n_iter_ : int
        How many iterations the fit took.
    """

    def __init__(
        self,
        C=1.0,
        fit_intercept=True,
        tol=1e-4,
        max_iter=100,
        solver="lbfgs",
        label_smoothing=0.0,
        warm_start=False,
    ):
        self.C = C
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.label_smoothing = label_smoothing
        self.warm_start = warm_start

    def fit(self, X, y, sample_weight=None):
        """Fit to samples X, (N, D), with labels y, (N,), or class probabilities, (N, n_classes)."""
        X, y = validate_data(self, X, y, dtype=FLOATS, multi_output=True)
        if y.ndim == 2:
            classes, target = np.arange(y.shape[1]), y
        else:
            check_classification_targets(y)
            classes, target = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must have samples of at least 2 classes, got {len(classes)} class")
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        total = len(X) if sample_weight is None else float(sample_weight.sum())
        options = {"sample_weight": sample_weight, "label_smoothing": self.label_smoothing}
        features = np.column_stack([X, np.ones(len(X), X.dtype)]) if self.fit_intercept else X
        objective = Objective(features, target, len(classes), X.shape[1], 1 / (self.C * total), **options)
        found = self._minimize(objective, self._start(objective.shape))
        coefficients = found.x.reshape(objective.shape).T
        self.classes_, self.n_iter_ = classes, found.nit
        self.coef_ = coefficients[:, : X.shape[1]].copy()
        self.intercept_ = coefficients[:, -1].copy() if self.fit_intercept else np.zeros(len(classes))
        return self

    def _start(self, shape):
        if not (self.warm_start and hasattr(self, "coef_")):
            return np.zeros(shape).ravel()
        return np.column_stack([self.coef_, self.intercept_])[:, : shape[0]].T.ravel()

    def _minimize(self, objective, start):
        if self.solver == "lbfgs":
            # as LogisticRegression
            options = {"maxiter": self.max_iter, "maxls": 50, "gtol": self.tol, "ftol": 64 * np.finfo(float).eps}
            found = minimize(objective.loss_and_grad, start, jac=True, method="L-BFGS-B", options=options)
        elif self.solver == "newton-cg":
            options = {"maxiter": self.max_iter, "xtol": self.tol}
            derivatives = {"jac": True, "hessp": objective.hessian_product}
            found = minimize(objective.loss_and_grad, start, method="Newton-CG", options=options, **derivatives)
        else:
            raise ValueError(f'solver must be "lbfgs" or "newton-cg", got {self.solver!r}')
        if not found.success:
            warnings.warn(f"{self.solver} has not converged: {found.message}", ConvergenceWarning, stacklevel=3)
        return found

    def decision_function(self, X):
        """Return scores, (N, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=FLOATS)
        return X @ self.coef_.T.astype(X.dtype) + self.intercept_.astype(X.dtype)

    def predict(self, X):
        """Return the label of the highest score."""
        best = self.decision_function(X).argmax(axis=1)
        return self.classes_[best]

    def predict_proba(self, X):
        """Return class probabilities, (N, n_classes)."""
        return fastce.softmax(self.decision_function(X))

    def predict_log_proba(self, X):
        """Return the logarithms of class probabilities, exact for small ones too."""
        return fastce.log_softmax(self.decision_function(X))


# %%
# Both models give the same probabilities, by either solver. Smoothed labels make predictions less sure.

if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    images, labels = images[:600] / 16, labels[:600]
    theirs = LogisticRegression().fit(images, labels).predict_proba(images)
    for options in ({}, {"solver": "newton-cg"}, {"label_smoothing": 0.1}):
        model = SoftmaxRegression(**options).fit(images, labels)
        probabilities = model.predict_proba(images)
        difference = np.abs(probabilities - theirs).max()
        print(f"{options or 'defaults'!s:25} {model.n_iter_:3} iterations, ", end="")
        print(f"greatest probability {probabilities.max():.4f}, from theirs {difference:.0e} at most")

    # the weights of the smoothed model, as images
    figure, panels = plt.subplots(2, 5, figsize=(8, 4), layout="constrained")
    for digit, axes in enumerate(panels.flat):
        axes.imshow(model.coef_[digit].reshape(8, 8), cmap="RdBu")
        axes.set_title(f"{digit}")
        axes.axis("off")
    plt.show()
