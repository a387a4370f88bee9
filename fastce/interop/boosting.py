"""Softmax objectives and metrics for XGBoost and LightGBM.

They add soft targets, label smoothing, class weights and focal loss. The libraries are recognised by the arguments of
a call; neither is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

import fastce

__all__ = [
    "LGBMSoftmax",
    "XGBSoftmax",
    "class_priors",
    "merror",
    "mlogloss",
    "with_probabilities",
]

Array = npt.NDArray[Any]
ClassWeight = npt.ArrayLike | Mapping[int, float] | str | None

# --- objectives ---------------------------------------------------------------------------------


class _Softmax:
    """An objective without the scale and the least value of the Hessian, which differ by library."""

    _least_hessian: ClassVar[float] = 0.0

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weight: ClassWeight = None,
        soft_targets: npt.ArrayLike | None = None,
        gamma: float = 0.0,
    ) -> None:
        if isinstance(class_weight, str) and class_weight != "balanced":
            raise ValueError(f'class_weight must be "balanced", a dict or one weight per class, got {class_weight!r}')
        self.label_smoothing = label_smoothing
        self.class_weight = class_weight
        self.soft_targets = None if soft_targets is None else _checked_shares(soft_targets, "soft_targets")
        self.gamma = gamma

    def _hessian_scale(self, classes: int) -> float:
        raise NotImplementedError

    def __repr__(self) -> str:
        """Show the options that are not the defaults."""
        options = [f"{name}={value!r}" for name, value in vars(self).items() if np.ndim(value) or value]
        return f"{type(self).__name__}({', '.join(options)})"

    def __call__(self, y_true: Any, scores: Any, sample_weight: npt.ArrayLike | None = None) -> tuple[Array, Array]:
        """Compute the gradient and the diagonal of the Hessian.

        Parameters
        ----------
        y_true : array_like, shape (N,)
            The labels. They are not read if there are soft targets.
        scores : ndarray, shape (N, K) or (N,)
            The raw scores. A single column holds the scores of class 1; those of class 0 are 0.
        sample_weight : array_like, shape (N,), optional
            One weight per sample.

        Returns
        -------
        grad, hessian : ndarray
            In the shape, dtype and memory layout of ``scores``.

        Notes
        -----
        This is the order of the estimators. ``train`` passes the scores and a ``DMatrix`` or ``Dataset``, which
        has the labels and the weights.
        """
        scores, y_true, sample_weight = _arguments(y_true, scores, sample_weight)
        logits = _columns(scores)
        is_single_column = logits is not scores
        target = self._target(logits, y_true)
        options: dict[str, Any] = {
            "sample_weight": sample_weight,
            "ignore_index": None,
            "label_smoothing": self.label_smoothing,
        }
        weight = self._weight_per_class(target, logits.shape[1])
        scale = 1.0 if is_single_column else self._hessian_scale(logits.shape[1])
        grad, hessian = fastce.cross_entropy_grad_and_hessian(
            logits, target, weight=weight, hessian_scale=scale, **options
        )
        if self.gamma != 0.0:
            options |= {"gamma": self.gamma, "alpha": weight, "reduction": "none"}
            fastce.focal_loss_and_grad(logits, target, out=grad, **options)
        if self._least_hessian:
            np.maximum(hessian, hessian.dtype.type(self._least_hessian), out=hessian)
        if is_single_column:
            return grad[:, 1].reshape(scores.shape), hessian[:, 1].reshape(scores.shape)
        return grad, hessian

    def _target(self, logits: Array, y_true: Any) -> Array:
        if self.soft_targets is None:
            return _labels(y_true)
        if self.soft_targets.shape != logits.shape:
            raise ValueError(
                f"soft_targets must have the shape of the scores, {logits.shape}, got {self.soft_targets.shape}: "
                "one row per sample of the training set, one column per class"
            )
        return self.soft_targets

    def _weight_per_class(self, target: Array, classes: int) -> Array | None:
        given = self.class_weight
        if given is None:
            return None
        if isinstance(given, str):
            counts = _class_sums(target, classes, None)
            weight: Array = counts.sum() / (max(np.count_nonzero(counts), 1) * np.where(counts, counts, 1.0))
            return weight
        if isinstance(given, Mapping):
            if not set(given) <= set(range(classes)):
                raise ValueError(
                    f"class_weight must have class indices as keys, from 0 to {classes - 1}, got {list(given)}"
                )
            return np.array([given.get(label, 1.0) for label in range(classes)])
        weight = np.asarray(given)
        if weight.shape != (classes,):
            raise ValueError(f"class_weight must have one weight per class, {classes}, got shape {weight.shape}")
        return weight


class XGBSoftmax(_Softmax):
    r"""Objective for XGBoost: cross-entropy of the softmax, for ``train`` and the estimators.

    With :math:`p_i = \operatorname{softmax}(\mathrm{scores}_i)`, t and u of `fastce.cross_entropy` and
    :math:`a_i = \sum_j t_{ij}`, which is 1 without class weights,

    .. math:: \mathrm{grad}_{ij} = u_i \left(a_i p_{ij} - t_{ij}\right), \qquad
        \mathrm{hessian}_{ij} = \max(2\, u_i a_i\, p_{ij} \left(1 - p_{ij}\right), 10^{-16})

    Parameters
    ----------
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    class_weight : array_like, dict or "balanced", optional
        One weight per class: K numbers, or a dict from class indices to weights, 1 for all others. "balanced"
        weighs classes by the inverse of their frequency in the labels of a call, as in scikit-learn.
    soft_targets : array_like, shape (N, K), optional
        Class probabilities, in the order of the rows of the training set. They take the place of the labels.
    gamma : float, default 0.0
        At least 0. Above 0 it gives focal loss, in which confident samples count less. The gradient is that
        of `fastce.focal_loss`. The Hessian stays as above, as that of focal loss can be negative.

    Raises
    ------
    TypeError
        If ``soft_targets`` are no numbers.
    ValueError
        If ``class_weight`` is an unknown string, or ``soft_targets`` is not (N, K), or a row of it is negative or
        does not add up to 1.

    See Also
    --------
    class_priors : where the built-in objective begins.

    Notes
    -----
    Without options the trees have the splits of the built-in ``multi:softprob``, if both begin at the same
    ``base_score``. A single column of scores, as estimators have for two classes, has the Hessian of
    ``binary:logistic``, without the factor 2.

    A call raises IndexError for labels outside 0 to K - 1. It raises ValueError for labels that are not
    integers, and for scores that are not in the shape of ``soft_targets``. Objects can be pickled.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.interop.boosting import XGBSoftmax
    >>> grad, hessian = XGBSoftmax(label_smoothing=0.1)([0.0], np.array([[1.0, 2.0, 3.0]]))
    >>> grad.round(4)
    array([[-0.8433,  0.2114,  0.6319]])
    >>> hessian.round(4)
    array([[0.1639, 0.3697, 0.4454]])
    """

    _least_hessian = 1e-16

    def _hessian_scale(self, classes: int) -> float:
        return 2.0


class LGBMSoftmax(_Softmax):
    r"""Objective for LightGBM: cross-entropy of the softmax, for ``train`` and the estimators.

    The gradient is that of `XGBSoftmax`. In its notation, for K classes,

    .. math:: \mathrm{hessian}_{ij} = \frac{K}{K - 1}\, u_i a_i\, p_{ij} \left(1 - p_{ij}\right)

    Parameters
    ----------
    label_smoothing, class_weight, soft_targets, gamma
        As in `XGBSoftmax`.

    Raises
    ------
    TypeError, ValueError
        As `XGBSoftmax`.

    See Also
    --------
    class_priors : where the built-in objective begins.
    with_probabilities : predictions, as LightGBM returns raw scores.

    Notes
    -----
    Without options the trees are the same to the bit as those of the built-in ``multiclass`` with
    ``boost_from_average=False``. A single column of scores has the Hessian of ``binary``, without the factor.
    For calls see `XGBSoftmax`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.interop.boosting import LGBMSoftmax
    >>> grad, hessian = LGBMSoftmax()([2.0], np.array([[1.0, 2.0, 3.0]], order="F"))
    >>> grad.round(4)
    array([[ 0.09  ,  0.2447, -0.3348]])
    """

    def _hessian_scale(self, classes: int) -> float:
        return classes / (classes - 1)


# --- first scores and predictions ---------------------------------------------------------------


def class_priors(y: npt.ArrayLike, n_classes: int, sample_weight: npt.ArrayLike | None = None) -> list[float]:
    r"""Return the scores at which built-in objectives begin: centred logarithms of the classes' frequencies.

    With the share :math:`f_j` of class j in all labels, weighted, of K classes,

    .. math:: \log f_j - \frac{1}{K} \sum_k \log f_k

    Parameters
    ----------
    y : array_like, shape (N,) or (N, K)
        The labels from 0 to K - 1, or soft targets.
    n_classes : int
        The number K of classes.
    sample_weight : array_like, shape (N,), optional
        One weight per sample.

    Returns
    -------
    list of float, length K
        For ``base_score`` of XGBoost; repeated for each row, for ``init_score`` of LightGBM.

    Raises
    ------
    IndexError
        If a label is outside 0 to K - 1.
    TypeError
        If labels or soft targets are no numbers.
    ValueError
        If labels are not integers, soft targets no class probabilities, an argument has a wrong shape, or there is no
        sample with a weight.

    Notes
    -----
    Frequencies are taken to be at least 1e-15, as in LightGBM.

    Examples
    --------
    >>> from fastce.interop.boosting import class_priors
    >>> np.round(class_priors([0, 1, 1, 1], 2), 4).tolist()
    [-0.5493, 0.5493]
    """
    given = np.asarray(y)
    target = _checked_shares(given, "y") if given.ndim == 2 else _labels(given)
    sums = _class_sums(target, n_classes, sample_weight)
    total = sums.sum()
    if not total > 0:
        raise ValueError(f"the samples must have a total weight above 0, got {total}")
    logs = np.log(np.maximum(sums / total, 1e-15))
    priors: list[float] = (logs - logs.mean()).tolist()
    return priors


def with_probabilities(classifier: Any, init_score: npt.ArrayLike | None = None) -> Any:
    """Return a fitted LGBMClassifier as one that predicts classes and probabilities.

    With an objective of your own, ``predict`` and ``predict_proba`` of an LGBMClassifier return raw scores.

    Parameters
    ----------
    classifier : LGBMClassifier
        Fitted, with `LGBMSoftmax` as its objective. For a DaskLGBMClassifier, pass its ``to_local()``.
    init_score : array_like, shape (K,), optional
        The ``init_score`` of each row in the fit, such as `class_priors`. LightGBM leaves it out of predictions.
        For two classes the fit has a single column of s: give (0, s) here.

    Returns
    -------
    object
        With the methods ``predict(X)`` for class labels and ``predict_proba(X)``, which pass further keywords on,
        and the attributes ``classes_`` and ``classifier``.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the classifier is not fitted.
    ValueError
        If ``init_score`` is not (K,).

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.interop.boosting import with_probabilities
    >>> class Fitted:  # stands for an LGBMClassifier
    ...     classes_ = np.array(["ant", "bee"])
    ...     def predict(self, X, raw_score):
    ...         return np.array([[0.0, 1.0]])
    >>> model = with_probabilities(Fitted())
    >>> model.predict_proba([[0.5]]).round(4)
    array([[0.2689, 0.7311]])
    >>> model.predict([[0.5]]).item()
    'bee'
    """
    return _WithProbabilities(classifier, init_score)


class _WithProbabilities:
    """A fitted classifier whose raw scores become probabilities and class labels."""

    _estimator_type = "classifier"  # read by scikit-learn before 1.6

    def __init__(self, classifier: Any, init_score: npt.ArrayLike | None) -> None:
        self.classifier, self.classes_ = classifier, classifier.classes_
        self.init_score = None if init_score is None else np.asarray(init_score)
        classes = len(self.classes_)
        if self.init_score is not None and self.init_score.shape != (classes,):
            raise ValueError(f"init_score must have one score per class, {classes}, got shape {self.init_score.shape}")

    def __sklearn_tags__(self) -> Any:
        return self.classifier.__sklearn_tags__()

    def predict_proba(self, X: Any, **options: Any) -> Array:
        scores = _columns(self.classifier.predict(X, raw_score=True, **options))
        return fastce.softmax(scores if self.init_score is None else scores + self.init_score)

    def predict(self, X: Any, **options: Any) -> Array:
        classes: Array = self.classes_[self.predict_proba(X, **options).argmax(axis=1)]
        return classes


# --- metrics ------------------------------------------------------------------------------------


def mlogloss(y_true: Any, scores: Any, /, sample_weight: npt.ArrayLike | None = None, group: Any = ...) -> Any:
    r"""Compute the mean cross-entropy of raw scores: a metric for both libraries.

    With sample weights u, all 1 by default,

    .. math:: -\frac{\sum_i u_i \log \operatorname{softmax}(\mathrm{scores}_i)_{y_i}}{\sum_i u_i}

    Pass it as ``custom_metric`` to ``xgboost.train``, as ``feval`` to ``lightgbm.train``, and as
    ``eval_metric`` to the estimators of both.

    Parameters
    ----------
    y_true : array_like, shape (N,)
        The labels.
    scores : array_like, shape (N, K) or (N,)
        The raw scores, which both libraries pass beside an objective of your own, and only then. ``train`` of
        either library passes scores and a data set in place of labels and scores.
    sample_weight : array_like, shape (N,), optional
        One weight per sample.
    group
        Not read. LightGBM's estimators pass it, and are recognised by it.

    Returns
    -------
    float, or tuple
        In the form that the caller expects: the value for XGBoost's estimators and other callers; (name,
        value) for ``xgboost.train``; (name, value, False) for LightGBM. False tells that lower values are
        better.

    Raises
    ------
    IndexError
        If a label is outside 0 to K - 1.
    ValueError
        If labels are not integers, or an argument has a wrong shape.

    Examples
    --------
    >>> from fastce.interop.boosting import mlogloss
    >>> round(mlogloss([0, 1], [[1.0, 2.0, 3.0], [0.0, 5.0, 0.0]]), 4)
    1.2105
    """
    logits, labels, weight = _evaluated(y_true, scores, sample_weight)
    loss = fastce.cross_entropy(logits, labels, sample_weight=weight, ignore_index=None)
    return _reported("mlogloss", float(loss), scores, group)


def merror(y_true: Any, scores: Any, /, sample_weight: npt.ArrayLike | None = None, group: Any = ...) -> Any:
    """Compute the share of samples whose label does not have the greatest score: a metric for both libraries.

    Of equal scores the first counts, as in XGBoost. LightGBM's ``multi_error`` counts them as wrong.

    Parameters
    ----------
    y_true, scores, sample_weight, group
        As in `mlogloss`.

    Returns
    -------
    float, or tuple
        As `mlogloss`.

    Raises
    ------
    IndexError, ValueError
        As `mlogloss`.

    Examples
    --------
    >>> from fastce.interop.boosting import merror
    >>> merror([0, 1], [[1.0, 2.0, 3.0], [0.0, 5.0, 0.0]])
    0.5
    """
    logits, labels, weight = _evaluated(y_true, scores, sample_weight)
    accuracy = fastce.evaluate(logits, labels, sample_weight=weight, ignore_index=None).accuracy
    return _reported("merror", 1.0 - accuracy, scores, group)


def _evaluated(y_true: Any, scores: Any, sample_weight: npt.ArrayLike | None) -> tuple[Array, Array, Any]:
    scores, y_true, sample_weight = _arguments(y_true, scores, sample_weight)
    return _columns(scores), _labels(y_true), sample_weight


def _reported(name: str, value: float, data: Any, group: Any) -> Any:
    """Return the value of a metric as its caller wants it, which the arguments tell."""
    if group is not ... or hasattr(data, "get_init_score"):  # LightGBM's estimators, its Dataset
        return name, value, False
    return (name, value) if hasattr(data, "get_label") else value


# --- arguments ----------------------------------------------------------------------------------


def _arguments(first: Any, second: Any, sample_weight: Any) -> tuple[Array, Any, Any]:
    """Return (scores, labels, sample weights) of (labels, scores) or of (scores, data set)."""
    if not hasattr(second, "get_label"):
        return np.asarray(second), first, sample_weight
    weight = second.get_weight()
    return np.asarray(first), second.get_label(), None if weight is None or not len(weight) else weight


def _columns(scores: Any) -> Array:
    """Return the scores of all classes: a single column holds those of class 1, beside 0."""
    logits: Array = np.asarray(scores)
    if logits.ndim < 2 or logits.shape[1] == 1:
        column = logits.reshape(-1)
        logits = np.stack([np.zeros_like(column), column], axis=1)
    return logits


def _numbers(given: Any, name: str) -> Array:
    """Return an array of numbers, or raise TypeError."""
    numbers: Array = np.asarray(given)
    if numbers.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got dtype {numbers.dtype}")
    return numbers


def _labels(given: Any) -> Array:
    """Return labels, which the libraries hold as float32, as integers."""
    given = _numbers(given, "the labels")
    if given.ndim != 1:
        raise ValueError(f"the labels must have shape (N,), got {given.shape}")
    with np.errstate(invalid="ignore"):
        labels: Array = given.astype(np.int64)
    is_other = labels != given
    if is_other.any():
        raise ValueError(f"the labels must be class indices, got {given[is_other][0]}")
    return labels


def _checked_shares(given: npt.ArrayLike, name: str) -> Array:
    """Return class probabilities, or raise TypeError or ValueError."""
    shares = _numbers(given, name)
    if shares.ndim != 2:
        raise ValueError(f"{name} must have shape (N, K), got {shares.shape}")
    sums = shares.sum(axis=1, dtype=np.float64)
    is_off = ~(np.abs(sums - 1.0) <= 1e-3) | (shares < 0).any(axis=1)
    if is_off.any():
        row = int(is_off.argmax())
        raise ValueError(f"{name} must be probabilities that add up to 1 in each row, got {shares[row]} in row {row}")
    return shares


def _class_sums(target: Array, classes: int, sample_weight: npt.ArrayLike | None) -> Array:
    """Return the weight of all samples in each class, by labels or class probabilities."""
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weights is not None and weights.shape != target.shape[:1]:
        raise ValueError(f"sample_weight must have shape {target.shape[:1]}, one per sample, got {weights.shape}")
    if target.ndim == 2:
        if target.shape[1] != classes:
            raise ValueError(f"y must have one column for each of {classes} classes, got shape {target.shape}")
        sums: Array = target.sum(axis=0, dtype=np.float64) if weights is None else weights @ target
        return sums
    is_outside = (target < 0) | (target >= classes)
    if is_outside.any():
        raise IndexError(f"the labels must be from 0 to {classes - 1}, got {target[is_outside][0]}")
    return np.bincount(target, weights, classes).astype(np.float64)
