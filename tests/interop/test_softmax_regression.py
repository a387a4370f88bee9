"""The estimator in ``examples/softmax_regression.py``: scikit-learn's probabilities, and what scikit-learn has not."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression

from examples.softmax_regression import SoftmaxRegression

N, D, C = 120, 4, 5
SOLVERS = pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])


@pytest.fixture
def samples(rng):
    """Features and labels by name, which the features tell in part."""
    features = rng.normal(size=(N, D))
    scores = features @ rng.normal(size=(D, C)) + rng.gumbel(size=(N, C))
    return features, np.array(["ant", "bee", "cat", "dog", "eel"])[scores.argmax(axis=1)]


@SOLVERS
@pytest.mark.parametrize("has_weights", [False, True])
@pytest.mark.parametrize("options", [{}, {"C": 0.1}, {"fit_intercept": False}], ids=str)
def test_probabilities_of_logistic_regression(options, has_weights, solver, samples, rng):
    """Seen to fail: with a penalty on intercepts, and with one that is not divided by the weights."""
    features, labels = samples
    weights = rng.random(N) * 3 if has_weights else None
    ours = SoftmaxRegression(solver=solver, tol=1e-7, **options).fit(features, labels, weights)
    theirs = LogisticRegression(tol=1e-8, max_iter=1000, **options).fit(features, labels, weights)
    np.testing.assert_allclose(ours.predict_proba(features), theirs.predict_proba(features), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours.predict(features), theirs.predict(features))
    assert ours.coef_.shape == theirs.coef_.shape and ours.intercept_.shape == theirs.intercept_.shape


@SOLVERS
def test_smoothed_labels_are_probabilities(solver, samples):
    features, labels = samples
    smoothed = SoftmaxRegression(solver=solver, label_smoothing=0.2, tol=1e-8).fit(features, labels)
    probabilities = 0.8 * (labels[:, None] == smoothed.classes_) + 0.2 / C
    soft = SoftmaxRegression(solver=solver, tol=1e-8).fit(features, probabilities)
    np.testing.assert_allclose(soft.predict_proba(features), smoothed.predict_proba(features), rtol=1e-4)
    np.testing.assert_array_equal(soft.classes_, np.arange(C))
    hard = SoftmaxRegression(solver=solver).fit(features, labels)
    assert smoothed.predict_proba(features).max() < hard.predict_proba(features).max()


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_warm_start(fit_intercept, samples):
    model = SoftmaxRegression(warm_start=True, fit_intercept=fit_intercept).fit(*samples)
    assert model.n_iter_ > 2
    assert model.fit(*samples).n_iter_ <= 1


def test_float32(samples):
    features, labels = samples
    narrow = SoftmaxRegression().fit(features.astype(np.float32), labels)
    assert narrow.predict_log_proba(features.astype(np.float32)).dtype == np.float32
    wide = SoftmaxRegression().fit(features, labels)
    np.testing.assert_allclose(narrow.predict_proba(features), wide.predict_proba(features), rtol=2e-2, atol=2e-3)


def test_errors(samples):
    features, labels = samples
    with pytest.raises(NotFittedError):
        SoftmaxRegression().predict(features)
    with pytest.raises(ValueError, match=r'solver must be "lbfgs" or "newton-cg", got \'saga\''):
        clone(SoftmaxRegression(solver="saga")).fit(features, labels)
    with pytest.raises(ValueError, match="at least 2 classes"):
        SoftmaxRegression().fit(features, np.zeros(N, int))
    with pytest.warns(ConvergenceWarning, match="lbfgs has not converged"):
        SoftmaxRegression(max_iter=1).fit(features, labels)


def test_two_classes(samples):
    """Two columns share a penalty that LogisticRegression puts on their difference."""
    features, labels = samples
    labels = labels == "ant"
    ours = SoftmaxRegression(C=1.0, tol=1e-8).fit(features, labels)
    theirs = LogisticRegression(C=2.0, tol=1e-8).fit(features, labels)
    np.testing.assert_allclose(ours.predict_proba(features), theirs.predict_proba(features), rtol=1e-4)
