"""fastce.interop.boosting: the trees of the built-in objectives, and what those lack, in XGBoost and LightGBM."""

import json
import pickle
import sys

import numpy as np
import pytest

import fastce
from fastce.interop.boosting import LGBMSoftmax, XGBSoftmax, class_priors, merror, mlogloss, with_probabilities
from tests.helpers import assert_same_bits, in_new_process, peak_memory, soft_for

if sys.platform == "darwin":
    pytest.skip("XGBoost and LightGBM need OpenMP, which macOS lacks", allow_module_level=True)

import lightgbm
import xgboost

N, K, ROUNDS = 400, 4, 8
RNG = np.random.default_rng(12)
X = RNG.normal(size=(N, 6))
Y = (X[:, :K] + RNG.normal(size=(N, K)) + np.arange(K) / 3).argmax(1)
TWO = (Y > 1).astype(int)
SOFT = soft_for(RNG, (N, K)).astype(np.float64) + 1e-3
SOFT /= SOFT.sum(axis=1, keepdims=True)
WEIGHT = (RNG.random(N) + 0.5).astype(np.float32)  # as the libraries hold it
CLASS_WEIGHT = np.array([0.5, 1.0, 2.0, 1.5])
XGB = {"objective": "multi:softprob", "num_class": K, "nthread": 1, "max_depth": 4}
LGB = {"num_class": K, "num_threads": 1, "verbose": -1, "deterministic": True}
FEW = {"n_estimators": ROUNDS, "n_jobs": 1}
QUIET = {**FEW, "verbose": -1}
OBJECTIVES = pytest.mark.parametrize("objective", [XGBSoftmax, LGBMSoftmax])
WEIGHTED = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])


def xgb_train(params, objective=None, weight=None, y=Y, **options):
    data = xgboost.DMatrix(X, y, weight=weight)
    return xgboost.train({**XGB, **params}, data, ROUNDS, obj=objective, **options)


def lgb_train(params, weight=None, y=Y, init_score=None, **options):
    data = lightgbm.Dataset(X, y, weight=weight, init_score=init_score)
    return lightgbm.train({**LGB, **params}, data, ROUNDS, **options)


def splits(booster):
    """Return for each tree of XGBoost which feature is split where; leaves as None."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    return [
        [
            (feature, threshold) if left >= 0 else None
            for feature, threshold, left in zip(
                tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
            )
        ]
        for tree in trees
    ]


def tree_lines(booster):
    """Return the lines of LightGBM's trees: splits, thresholds and leaves, to the last digit."""
    names = "split_feature", "threshold", "leaf_value", "decision"
    return [line for line in booster.model_to_string().split("\n") if line.startswith(names)]


def initial(priors):
    return np.tile(priors, (N, 1))


# --- the built-in objectives' trees -------------------------------------------------------------


@WEIGHTED
@pytest.mark.parametrize("base_score", [0.0, 0.5])
def test_xgboost_has_the_same_splits(base_score, weight):
    """Seen to fail: with a Hessian without the factor 2."""
    theirs = xgb_train({"base_score": base_score}, weight=weight)
    ours = xgb_train({"base_score": base_score}, XGBSoftmax(), weight)
    assert splits(ours) == splits(theirs)
    data = xgboost.DMatrix(X)
    np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=0, atol=1e-6)


@WEIGHTED
def test_xgboost_from_the_priors(weight):
    """XGBoost 3.2 begins there; without it, the probabilities are others."""
    data = xgboost.DMatrix(X)
    theirs = xgb_train({}, weight=weight)
    ours = xgb_train({"base_score": class_priors(Y, K, weight)}, XGBSoftmax(), weight)
    assert splits(ours) == splits(theirs)
    np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=0, atol=1e-6)
    elsewhere = xgb_train({}, XGBSoftmax(), weight)
    assert abs(elsewhere.predict(data) - theirs.predict(data)).max() > 0.01


@WEIGHTED
def test_lightgbm_has_the_same_bits(weight):
    """Seen to fail: with a Hessian whose factor was 1."""
    theirs = lgb_train({"objective": "multiclass", "boost_from_average": False}, weight)
    ours = lgb_train({"objective": LGBMSoftmax()}, weight)
    assert tree_lines(ours) == tree_lines(theirs)
    assert_same_bits(ours.predict(X), theirs.predict(X, raw_score=True))


@WEIGHTED
def test_lightgbm_from_the_priors(weight):
    priors = class_priors(Y, K, weight)
    theirs = lgb_train({"objective": "multiclass"}, weight)
    ours = lgb_train({"objective": LGBMSoftmax()}, weight, init_score=initial(priors))
    np.testing.assert_allclose(fastce.softmax(ours.predict(X) + priors), theirs.predict(X), rtol=1e-13)


@WEIGHTED
@pytest.mark.parametrize("y", [Y, TWO], ids=["classes", "two"])
def test_xgboosts_estimator(y, weight):
    theirs = xgboost.XGBClassifier(**FEW, base_score=0.5).fit(X, y, sample_weight=weight)
    ours = xgboost.XGBClassifier(**FEW, base_score=0.5, objective=XGBSoftmax()).fit(X, y, sample_weight=weight)
    assert splits(ours.get_booster()) == splits(theirs.get_booster())
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@WEIGHTED
@pytest.mark.parametrize("y", [Y, TWO], ids=["classes", "two"])
def test_lightgbms_estimator(y, weight):
    names = np.array(["ant", "bee", "cat", "dog"])[y]
    theirs = lightgbm.LGBMClassifier(**QUIET, boost_from_average=False).fit(X, names, sample_weight=weight)
    ours = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax()).fit(X, names, sample_weight=weight)
    assert tree_lines(ours.booster_) == tree_lines(theirs.booster_)
    model = with_probabilities(ours)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-13)
    np.testing.assert_array_equal(model.predict(X), theirs.predict(X))
    np.testing.assert_array_equal(model.classes_, theirs.classes_)


def test_two_classes_in_two_columns():
    """Each library calls with (N, 2) if it is told so."""
    data = xgboost.DMatrix(X)
    two = {"num_class": 2, "base_score": 0.5}
    theirs, ours = (xgb_train(two, objective, y=TWO) for objective in (None, XGBSoftmax()))
    np.testing.assert_allclose(ours.predict(data), theirs.predict(data), rtol=0, atol=1e-6)
    multiclass = {"objective": "multiclass", "boost_from_average": False}
    theirs, ours = (lgb_train({**o, "num_class": 2}, y=TWO) for o in (multiclass, {"objective": LGBMSoftmax()}))
    assert tree_lines(ours) == tree_lines(theirs)


# --- gradients ----------------------------------------------------------------------------------

OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "class weights": {"class_weight": CLASS_WEIGHT},
    "focal": {"gamma": 2.0},
    "all": {"label_smoothing": 0.1, "class_weight": {0: 3.0, 2: 0.0}, "gamma": 0.7},
    "soft": {"soft_targets": SOFT},
    "soft, all": {"soft_targets": SOFT, "label_smoothing": 0.1, "class_weight": CLASS_WEIGHT, "gamma": 1.5},
}


def formula(scores, options, sample_weight):
    """Return the loss of each sample, written with NumPy."""
    shares = options.get("soft_targets", np.eye(K)[Y])
    smoothing, gamma = options.get("label_smoothing", 0.0), options.get("gamma", 0.0)
    weight = options.get("class_weight", np.ones(K))
    if isinstance(weight, dict):
        weight = np.array([weight.get(label, 1.0) for label in range(K)])
    target = ((1 - smoothing) * shares + smoothing / K) * weight
    p = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    return -sample_weight * np.sum(target * (1 - p) ** gamma * np.log(p), axis=1)


@OBJECTIVES
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_against_differences(objective, options, rng):
    """Both derivatives; focal loss has the Hessian of cross-entropy."""
    scores, step = rng.normal(size=(N, K)), 1e-5
    grad, hessian = objective(**options)(Y, scores, WEIGHT)
    without = {name: value for name, value in options.items() if name != "gamma"}
    factor = {XGBSoftmax: 2.0, LGBMSoftmax: K / (K - 1)}[objective]
    for column in range(K):
        shift = step * (np.arange(K) == column)
        up, down = (formula(scores + sign * shift, options, WEIGHT) for sign in (1, -1))
        np.testing.assert_allclose(grad[:, column], (up - down) / (2 * step), rtol=1e-6, atol=1e-8)
        up, at, down = (formula(scores + sign * 100 * shift, without, WEIGHT) for sign in (1, 0, -1))
        second = (up - 2 * at + down) / (100 * step) ** 2
        np.testing.assert_allclose(hessian[:, column], factor * second, rtol=1e-5, atol=1e-6)


@OBJECTIVES
@pytest.mark.parametrize("options", [*OPTIONS.values(), {"class_weight": "balanced"}], ids=[*OPTIONS, "balanced"])
def test_both_orders_of_arguments(objective, options, rng):
    scores = np.asfortranarray(rng.normal(size=(N, K)))
    made = objective(**options)
    for weight in (None, WEIGHT):
        expected = made(Y.astype(np.float32), scores, weight)
        data = xgboost.DMatrix(X, Y, weight=weight), lightgbm.Dataset(X, Y, weight=weight).construct()
        for actual in (made(scores, each) for each in data):
            for a, b in zip(actual, expected, strict=True):
                assert_same_bits(a, b)


@OBJECTIVES
@pytest.mark.parametrize(("dtype", "order"), [(np.float32, "C"), (np.float64, "F")])
def test_dtypes_and_layouts_are_kept(objective, dtype, order, rng):
    scores = np.array(rng.normal(size=(N, K)), dtype, order=order)
    before = scores.copy()
    for result in objective()(Y.astype(np.float32), scores):
        assert result.dtype == dtype and result.flags[f"{order}_CONTIGUOUS"]
    assert_same_bits(scores, before)


def test_no_copies_of_the_scores(rng):
    """Seen to fail: with scores copied to C order."""
    scores = np.asfortranarray(rng.normal(size=(100_000, 20)))
    labels = rng.integers(0, 20, 100_000)
    peak, _ = peak_memory(lambda: LGBMSoftmax()(labels, scores))
    assert peak < 2.5 * scores.nbytes  # of which the results take 2


@OBJECTIVES
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "class_weight": [1.0, 3.0]}, {"gamma": 2.0}], ids=str)
def test_a_single_column(objective, options, rng):
    """It is class 1 beside a score of 0, and its Hessian has no factor."""
    scores = rng.normal(size=N).astype(np.float32)
    columns = np.stack([np.zeros_like(scores), scores], axis=1)
    expected = objective(**options)(TWO, columns, WEIGHT)
    for shape in ((N,), (N, 1)):
        grad, hessian = objective(**options)(TWO, scores.reshape(shape), WEIGHT)
        assert grad.shape == hessian.shape == shape
        assert_same_bits(grad.ravel(), expected[0][:, 1])
        np.testing.assert_allclose(hessian.ravel(), expected[1][:, 1] / 2, rtol=1e-6)


def test_the_least_hessian_of_xgboost():
    scores = np.array([[100.0, 0.0, 0.0]], np.float32)
    assert XGBSoftmax()([0], scores)[1].min() == np.float32(1e-16)
    assert LGBMSoftmax()([0], scores)[1].min() < 1e-40


# --- soft targets and class weights -------------------------------------------------------------


def test_soft_targets_have_the_trees_of_a_row_for_each_class():
    """Their weights are the probabilities. Seen to fail: with soft targets of another row."""
    rows = xgboost.DMatrix(np.repeat(X, K, axis=0), np.tile(np.arange(K), N), weight=SOFT.ravel())
    theirs = xgboost.train({**XGB, "base_score": 0.0}, rows, ROUNDS)
    ours = xgb_train({"base_score": 0.0}, XGBSoftmax(soft_targets=SOFT))
    assert splits(ours) == splits(theirs)


def test_one_hot_soft_targets_are_labels():
    one_hot = np.eye(K)[Y]
    hard, soft = (lgb_train({"objective": LGBMSoftmax(**o)}) for o in ({}, {"soft_targets": one_hot}))
    np.testing.assert_allclose(soft.predict(X), hard.predict(X), rtol=1e-9)
    hard, soft = (xgb_train({}, XGBSoftmax(**o)) for o in ({}, {"soft_targets": one_hot}))
    data = xgboost.DMatrix(X)
    np.testing.assert_allclose(soft.predict(data), hard.predict(data), atol=1e-6)


def test_soft_targets_are_what_is_learned():
    """Their labels are not read, and the predictions come near them."""
    deep = {"learning_rate": 0.5, "max_depth": 8, "min_child_weight": 0.01, "lambda": 0.0}
    booster = xgboost.train({**XGB, **deep}, xgboost.DMatrix(X), 60, obj=XGBSoftmax(soft_targets=SOFT))
    assert abs(booster.predict(xgboost.DMatrix(X)) - SOFT).mean() < 0.02
    some = {"learning_rate": 0.5, "min_data_in_leaf": 1, "objective": LGBMSoftmax(soft_targets=SOFT)}
    raw = lightgbm.train({**LGB, **some}, lightgbm.Dataset(X, np.zeros(N)), 60).predict(X)
    assert abs(fastce.softmax(raw) - SOFT).mean() < 0.02


@pytest.mark.parametrize("weight", ["balanced", {0: 2.0, 3: 0.5}], ids=str)
def test_class_weights_are_those_of_scikit_learn(weight):
    """LGBMClassifier has them too, rounded to float32. Seen to fail: with absent classes counted as classes."""
    y = np.where(Y == 2, 3, Y)  # no label 2
    scores = RNG.normal(size=(N, K))
    theirs = lightgbm.LGBMClassifier(**QUIET, boost_from_average=False, class_weight=weight).fit(X, Y)
    ours = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax(class_weight=weight)).fit(X, Y)
    np.testing.assert_allclose(with_probabilities(ours).predict_proba(X), theirs.predict_proba(X), rtol=1e-5)
    smoothed = LGBMSoftmax(class_weight=weight, label_smoothing=0.1)(y, scores)
    assert all(np.isfinite(part).all() for part in smoothed)
    from sklearn.utils.class_weight import compute_sample_weight

    weighted = LGBMSoftmax()(y, scores, compute_sample_weight(weight, y))
    for actual, expected in zip(LGBMSoftmax(class_weight=weight)(y, scores), weighted, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_balanced_soft_targets():
    scores = RNG.normal(size=(N, K))
    balanced = LGBMSoftmax(soft_targets=SOFT, class_weight="balanced")(None, scores)
    given = LGBMSoftmax(soft_targets=SOFT, class_weight=N / (K * SOFT.sum(0)))(None, scores)
    for actual, expected in zip(balanced, given, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)


# --- metrics ------------------------------------------------------------------------------------


@WEIGHTED
def test_metrics_of_train(weight):
    """They are those of the libraries. Seen to fail: with weights left out."""
    theirs, ours = {}, {}
    valid = [(xgboost.DMatrix(X, Y, weight=weight), "valid")]
    report = {"evals": valid, "verbose_eval": False}
    xgb_train({"base_score": 0.0, "eval_metric": ["mlogloss", "merror"]}, weight=weight, evals_result=theirs, **report)
    for metric in (mlogloss, merror):
        options = {"custom_metric": metric, "evals_result": ours, **report}
        xgb_train({"base_score": 0.0, "disable_default_eval_metric": 1}, XGBSoftmax(), weight, **options)
        name = metric.__name__
        np.testing.assert_allclose(ours["valid"][name], theirs["valid"][name], rtol=0, atol=2e-6)

    recorded = lightgbm.record_evaluation

    def valid():
        return {"valid_sets": [lightgbm.Dataset(X, Y, weight=weight)], "valid_names": ["valid"]}

    builtin = {"objective": "multiclass", "boost_from_average": False, "metric": ["multi_logloss", "multi_error"]}
    lgb_train(builtin, weight, callbacks=[recorded(theirs)], **valid())
    lgb_train({"objective": LGBMSoftmax()}, weight, feval=[mlogloss, merror], callbacks=[recorded(ours)], **valid())
    ours, theirs = ours["valid"], theirs["valid"]
    np.testing.assert_allclose(ours["mlogloss"], theirs["multi_logloss"], rtol=1e-12)
    # after the first round scores are equal, which LightGBM counts as wrong
    np.testing.assert_allclose(ours["merror"][1:], theirs["multi_error"][1:], rtol=1e-12)


@WEIGHTED
def test_early_stopping(weight):
    """It stops where the built-in objective with the built-in metric does."""
    some, rest = slice(0, 200), slice(200, N)

    def pick(part):
        return None if weight is None else weight[part]

    many = {"n_estimators": 40, "n_jobs": 1, "learning_rate": 0.5}
    stop = {**many, "early_stopping_rounds": 3, "base_score": 0.5}
    fit = {"eval_set": [(X[rest], Y[rest])], "verbose": False, "sample_weight": pick(some)}
    fit["sample_weight_eval_set"] = None if weight is None else [pick(rest)]
    theirs = xgboost.XGBClassifier(**stop, eval_metric="mlogloss").fit(X[some], Y[some], **fit)
    own = {"objective": XGBSoftmax(), "eval_metric": mlogloss, "disable_default_eval_metric": True}
    ours = xgboost.XGBClassifier(**stop, **own).fit(X[some], Y[some], **fit)
    assert ours.best_iteration == theirs.best_iteration < 36
    values, expected = (model.evals_result()["validation_0"]["mlogloss"] for model in (ours, theirs))
    np.testing.assert_allclose(values, expected, rtol=0, atol=2e-6)

    fit = {"eval_X": X[rest], "eval_y": Y[rest], "sample_weight": pick(some)}
    fit["eval_sample_weight"] = None if weight is None else [pick(rest)]
    quiet = {**many, "verbose": -1, "boost_from_average": False}
    stop = {"callbacks": [lightgbm.early_stopping(3, verbose=False)]}
    theirs = lightgbm.LGBMClassifier(**quiet).fit(X[some], Y[some], **fit, **stop)
    own = {"objective": LGBMSoftmax(), "metric": "None"}
    stop = {"callbacks": [lightgbm.early_stopping(3, verbose=False)], "eval_metric": [mlogloss, merror]}
    ours = lightgbm.LGBMClassifier(**quiet, **own).fit(X[some], Y[some], **fit, **stop)
    assert set(ours.evals_result_["valid_0"]) == {"mlogloss", "merror"}
    values, expected = ours.evals_result_["valid_0"]["mlogloss"], theirs.evals_result_["valid_0"]["multi_logloss"]
    size = min(len(values), len(expected))  # merror may stop it earlier
    np.testing.assert_allclose(values[:size], expected[:size], rtol=1e-9)


@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")
def test_the_metric_that_lightgbm_adds_is_none_of_ours():
    """Beside an objective of one's own it reads raw scores as probabilities, as the page says."""
    model = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax())
    results = model.fit(X, Y, eval_X=X, eval_y=Y, eval_metric=mlogloss).evals_result_["valid_0"]
    assert results["multi_logloss"][-1] > 2 * results["mlogloss"][-1]


@pytest.mark.parametrize(("metric", "value"), [(mlogloss, 1.2105), (merror, 0.5)])
def test_metrics_called_by_others(metric, value):
    scores = [[1.0, 2.0, 3.0], [0.0, 5.0, 0.0]]
    assert metric([0, 1], scores) == pytest.approx(value, abs=1e-4)
    assert metric([0, 1], scores, sample_weight=[1.0, 0.0]) == metric([0], scores[:1])
    assert metric([0, 1], scores, None, None) == (
        metric.__name__,
        metric([0, 1], scores),
        False,
    )  # LightGBM's estimator
    assert metric([0, 1], np.array([-1.0, 2.0])) == metric([0, 1], np.array([[0.0, -1.0], [0.0, 2.0]]))


# --- first scores and predictions ---------------------------------------------------------------


def test_class_priors():
    """A list of floats that add up to 0 and have the frequencies as their softmax; soft targets count in shares."""
    priors = class_priors(Y.astype(np.float32), K)
    assert type(priors) is list and {type(prior) for prior in priors} == {float}
    np.testing.assert_allclose(sum(priors), 0.0, atol=1e-14)
    np.testing.assert_allclose(fastce.softmax(priors), np.bincount(Y) / N, rtol=1e-14)
    weighted = np.bincount(Y, WEIGHT) / WEIGHT.sum(dtype=float)
    np.testing.assert_allclose(fastce.softmax(class_priors(Y, K, WEIGHT)), weighted, rtol=1e-12)
    np.testing.assert_allclose(fastce.softmax(class_priors(SOFT, K)), SOFT.mean(0), rtol=1e-12)
    average = np.average(SOFT, axis=0, weights=WEIGHT)
    np.testing.assert_allclose(fastce.softmax(class_priors(SOFT, K, WEIGHT)), average, rtol=1e-6)


def test_a_class_that_never_occurs():
    """LightGBM takes its frequency for 1e-15."""
    y = np.where(Y == 2, 3, Y)
    priors = class_priors(y, K)
    theirs = lgb_train({"objective": "multiclass"}, y=y)
    ours = lgb_train({"objective": LGBMSoftmax()}, y=y, init_score=initial(priors))
    np.testing.assert_allclose(fastce.softmax(ours.predict(X) + priors), theirs.predict(X), rtol=1e-12, atol=1e-20)


def test_predictions_from_the_priors():
    priors = class_priors(Y, K)
    theirs = lightgbm.LGBMClassifier(**QUIET).fit(X, Y)
    ours = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax()).fit(X, Y, init_score=initial(priors))
    model = with_probabilities(ours, priors)
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
    first = model.predict_proba(X, num_iteration=1)
    np.testing.assert_allclose(first, theirs.predict_proba(X, num_iteration=1), rtol=1e-12)


def test_two_classes_from_the_priors():
    """In the single column they are a difference in LightGBM, the share of class 1 in XGBoost."""
    priors = class_priors(TWO, 2)
    difference = priors[1] - priors[0]
    theirs = lightgbm.LGBMClassifier(**QUIET).fit(X, TWO)
    ours = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax()).fit(X, TWO, init_score=np.full(N, difference))
    for scores in (priors, [0.0, difference]):
        model = with_probabilities(ours, scores)
        np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-12)
    for scores in (difference, [difference]):
        with pytest.raises(ValueError, match=r"init_score must have one score per class, 2, got shape \("):
            with_probabilities(ours, scores)
    theirs = xgboost.XGBClassifier(**FEW).fit(X, TWO)
    ours = xgboost.XGBClassifier(**FEW, objective=XGBSoftmax(), base_score=TWO.mean()).fit(X, TWO)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Cannot compute class probabilities")
def test_what_the_libraries_predict():
    """As the page says: XGBoost goes by the name of the objective, LightGBM returns raw scores."""
    data = xgboost.DMatrix(X, Y)
    labels = xgboost.train({"num_class": K, "nthread": 1}, data, 2, obj=XGBSoftmax()).predict(data)
    assert set(labels) == set(range(K))
    model = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax()).fit(X, Y)
    scores = model.predict(X, raw_score=True)
    for result in (model.predict(X), model.predict_proba(X)):
        np.testing.assert_array_equal(result, scores)


def test_predictions_in_scikit_learn():
    from sklearn.exceptions import NotFittedError
    from sklearn.metrics import get_scorer, log_loss

    model = with_probabilities(lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax()).fit(X, Y))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert get_scorer("neg_log_loss")(model, X, Y) == -log_loss(Y, model.predict_proba(X))
    assert get_scorer("accuracy")(model, X, Y) == (model.predict(X) == Y).mean()
    with pytest.raises(NotFittedError):
        with_probabilities(lightgbm.LGBMClassifier())


# --- copies, processes --------------------------------------------------------------------------


def test_in_scikit_learns_tools():
    """Estimators are copied with their objective, and tried with several."""
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    objectives = [XGBSoftmax(), XGBSoftmax(label_smoothing=0.3)]
    estimator = xgboost.XGBClassifier(**FEW, base_score=0.5)
    search = GridSearchCV(estimator, {"objective": objectives}, cv=2, scoring="neg_log_loss").fit(X, Y)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
    given = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax(gamma=2.0))
    copied = clone(given).fit(X, Y)
    assert tree_lines(copied.booster_) == tree_lines(given.fit(X, Y).booster_)


@OBJECTIVES
def test_shown_with_the_options_that_are_not_defaults(objective):
    """Searches print them: best_params_ tells which objective was the best."""
    name = objective.__name__
    assert repr(objective()) == f"{name}()"
    options = "label_smoothing=0.1, class_weight='balanced', gamma=2.0"
    assert repr(objective(label_smoothing=0.1, class_weight="balanced", gamma=2.0)) == f"{name}({options})"
    arrays = objective(class_weight=CLASS_WEIGHT, soft_targets=[[0.5, 0.5]])
    assert repr(arrays) == f"{name}(class_weight=array([0.5, 1. , 2. , 1.5]), soft_targets=array([[0.5, 0.5]]))"


def test_class_weights_by_name_are_lightgbms():
    """Its estimator has them beside an objective of one's own, as the page says."""
    names = np.array(["ant", "bee", "cat", "dog"])
    theirs = {"class_weight": dict(zip(names, CLASS_WEIGHT, strict=True)), "objective": LGBMSoftmax()}
    by_name = lightgbm.LGBMClassifier(**QUIET, **theirs).fit(X, names[Y])
    by_index = lightgbm.LGBMClassifier(**QUIET, objective=LGBMSoftmax(class_weight=CLASS_WEIGHT)).fit(X, names[Y])
    np.testing.assert_allclose(by_name.predict(X, raw_score=True), by_index.predict(X, raw_score=True), rtol=1e-12)


@OBJECTIVES
@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced"}, {"gamma": 2.0}], ids=str)
def test_no_samples(objective, options):
    """Seen to fail: balanced weights divided 0 by 0, with a warning."""
    for shape in ((0, K), (0,)):
        grad, hessian = objective(**options)([], np.zeros(shape))
        assert grad.shape == hessian.shape == shape


@OBJECTIVES
def test_pickles(objective, tmp_path):
    """Another process computes the same from a pickle. Metrics are pickled by name."""
    made = objective(label_smoothing=0.1, class_weight={1: 2.0}, soft_targets=SOFT, gamma=2.0)
    scores = RNG.normal(size=(N, K))
    for name, value in {"made": (made, mlogloss, merror), "scores": scores, "expected": made(Y, scores)}.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    in_new_process(f"""
import pickle
from pathlib import Path
import numpy as np
(made, *metrics), scores, expected = (
    pickle.loads((Path({str(tmp_path)!r}) / name).read_bytes()) for name in ("made", "scores", "expected")
)
np.testing.assert_array_equal(made(None, scores), expected)
assert [metric([0], [[1.0, 0.0]]) for metric in metrics][1] == 0.0
""")


def test_fitted_estimators_can_be_saved(tmp_path):
    model = xgboost.XGBClassifier(**FEW, objective=XGBSoftmax()).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))
    model.save_model(tmp_path / "model.json")
    loaded = xgboost.XGBClassifier()
    loaded.load_model(tmp_path / "model.json")
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_on_a_cluster(library):
    """Two workers have the trees of the built-in objective.

    Trees depend on which worker has which rows, so both have the same.
    """
    printed = in_new_process(f"""
if __name__ == "__main__":
    import warnings
    import numpy as np
    warnings.simplefilter("ignore")
    import dask.array as da
    from dask import delayed
    from distributed import Client, LocalCluster
    from fastce.interop.boosting import LGBMSoftmax, XGBSoftmax, mlogloss, with_probabilities
    import lightgbm, xgboost, xgboost.dask
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    y = (X[:, :4] + rng.normal(size=(300, 4))).argmax(1)
    here = dict(processes=False, protocol="inproc", dashboard_address=None, threads_per_worker=1)
    with LocalCluster(n_workers=2, **here) as cluster, Client(cluster) as client:
        def on_each_worker(array):
            copies = [client.scatter(array, workers=[w], hash=False) for w in client.scheduler_info()["workers"]]
            return da.concatenate([da.from_delayed(delayed(c), array.shape, array.dtype) for c in copies])
        parts = on_each_worker(X), on_each_worker(y)
        if "{library}" == "xgboost":
            options = dict(n_estimators=5, base_score=0.5, nthread=1)
            own = dict(objective=XGBSoftmax(), eval_metric=mlogloss, disable_default_eval_metric=True)
            models = [xgboost.dask.DaskXGBClassifier(**options), xgboost.dask.DaskXGBClassifier(**options, **own)]
            for model in models:
                model.client = client
                model.fit(*parts, eval_set=[parts], verbose=False)
            theirs, ours = (model.predict_proba(parts[0]).compute() for model in models)
            values = [model.evals_result()["validation_0"]["mlogloss"] for model in models]
            np.testing.assert_allclose(*values, rtol=0, atol=1e-6)
        else:
            options = dict(client=client, n_estimators=5, verbose=-1)
            theirs = lightgbm.DaskLGBMClassifier(**options, boost_from_average=False).fit(*parts).to_local()
            ours = lightgbm.DaskLGBMClassifier(**options, objective=LGBMSoftmax()).fit(*parts).to_local()
            assert ours.booster_.params["num_machines"] == 2
            theirs, ours = (model.predict_proba(X) for model in (theirs, with_probabilities(ours)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        print(abs(ours - 0.25).max())
""")
    assert float(printed.split()[-1]) > 0.1


# --- errors -------------------------------------------------------------------------------------

SCORES = np.zeros((3, K))


@OBJECTIVES
@pytest.mark.parametrize(
    ("options", "labels", "error", "message"),
    [
        ({}, [0.0, 1.5, 2.0], ValueError, r"the labels must be class indices, got 1\.5"),
        ({}, np.float32([0, np.nan, 2]), ValueError, "the labels must be class indices, got nan"),
        ({}, [0, np.inf, 2], ValueError, "the labels must be class indices, got inf"),
        ({}, np.float32([0, 1e30, 2]), ValueError, "the labels must be class indices, got 1.*e.30"),
        ({}, ["a", "b", "c"], TypeError, "the labels must be numbers, got dtype <U1"),
        ({}, [0, 1, K], IndexError, "from 0 to 3"),
        ({}, [0, 1, -1], IndexError, "from 0 to 3"),
        ({}, [0, 1, -100], IndexError, "from 0 to 3"),
        ({"class_weight": "balanced"}, [0, 1, -1], IndexError, "the labels must be from 0 to 3, got -1"),
        ({"class_weight": "balanced"}, [0, 1, K], IndexError, "the labels must be from 0 to 3, got 4"),
        ({"class_weight": [1.0, 2.0]}, [0, 1, 2], ValueError, r"one weight per class, 4, got shape \(2,\)"),
        ({"class_weight": {4: 1.0}}, [0, 1, 2], ValueError, r"keys, from 0 to 3, got \[4\]"),
        ({"class_weight": {"ant": 1.0}}, [0, 1, 2], ValueError, r"class indices as keys, .* got \['ant'\]"),
        ({"class_weight": "balanced"}, [[0], [1], [2]], ValueError, r"the labels must have shape \(N,\), got \(3, 1\)"),
        (
            {"soft_targets": SOFT},
            [0, 1, 2],
            ValueError,
            r"soft_targets must have the shape .* \(3, 4\), got \(400, 4\): one row per .*, one column per class",
        ),
        ({"label_smoothing": 2.0}, [0, 1, 2], ValueError, "label_smoothing"),
        ({"gamma": -1.0}, [0, 1, 2], ValueError, "gamma"),
        ({}, [], ValueError, "shape"),
    ],
)
def test_refused_in_a_call(objective, options, labels, error, message):
    with pytest.raises(error, match=message):
        objective(**options)(labels, SCORES)


@OBJECTIVES
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weight": "equal"}, "class_weight must be .* got 'equal'"),
        ({"soft_targets": [0.5, 0.5]}, r"soft_targets must have shape \(N, K\), got \(2,\)"),
        ({"soft_targets": [[0.5, 0.5], [3, 1]]}, r"add up to 1 in each row, got \[3\. 1\.\] in row 1"),
        ({"soft_targets": [[1.5, -0.5]]}, "in row 0"),
        ({"soft_targets": [[np.nan, 1.0]]}, "in row 0"),
    ],
)
def test_refused_when_made(objective, options, message):
    with pytest.raises(ValueError, match=message):
        objective(**options)


@OBJECTIVES
@pytest.mark.parametrize("targets", [SOFT.astype(object), SOFT.astype(complex), [["a", "b"]]], ids=["O", "c", "U"])
def test_soft_targets_must_be_numbers(objective, targets):
    dtype = np.asarray(targets).dtype
    with pytest.raises(TypeError, match=f"soft_targets must be numbers, got dtype {dtype}"):
        objective(soft_targets=targets)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([0, 1, K], IndexError, "from 0 to 3, got 4"),
        ([0, 0.5], ValueError, r"got 0\.5"),
        (["a"], TypeError, "numbers"),
        ([[1.0, 0.0]], ValueError, r"one column for each of 4 classes, got shape \(1, 2\)"),
        (np.ones((2, K)), ValueError, "y must be probabilities"),
        (SOFT.astype(object), TypeError, "y must be numbers, got dtype object"),
        (1, ValueError, r"the labels must have shape \(N,\), got \(\)"),
        (np.ones((2, K, 3)), ValueError, r"the labels must have shape \(N,\), got \(2, 4, 3\)"),
        ([], ValueError, "the samples must have a total weight above 0, got 0.0"),
        (np.ones((0, K)), ValueError, "the samples must have a total weight above 0, got 0.0"),
    ],
)
def test_refused_priors(y, error, message):
    with pytest.raises(error, match=message):
        class_priors(y, K)


@pytest.mark.parametrize("y", [Y, SOFT], ids=["labels", "soft"])
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (WEIGHT[:3], r"sample_weight must have shape \(400,\), one per sample, got \(3,\)"),
        (WEIGHT[:, None], r"sample_weight must have shape \(400,\), one per sample, got \(400, 1\)"),
        (2.0, r"sample_weight must have shape \(400,\), one per sample, got \(\)"),
        (np.zeros(N), r"a total weight above 0, got 0\.0"),
        (-WEIGHT, "a total weight above 0, got -"),
        (np.full(N, np.nan), "a total weight above 0, got nan"),
    ],
    ids=["short", "column", "scalar", "zeros", "negative", "nan"],
)
def test_refused_weights_of_priors(y, weight, message):
    with pytest.raises(ValueError, match=message):
        class_priors(y, K, weight)


def test_soft_targets_belong_to_one_training_set():
    """The error names both shapes, from inside of cross-validation."""
    data = lightgbm.Dataset(X, Y)
    with pytest.raises(ValueError, match=r"soft_targets .* \(320, 4\), got \(400, 4\)"):
        lightgbm.cv({**LGB, "objective": LGBMSoftmax(soft_targets=SOFT)}, data, 2)


@pytest.mark.parametrize("metric", [mlogloss, merror])
def test_refused_by_metrics(metric):
    with pytest.raises(ValueError, match=r"class indices, got 0\.5"):
        metric([0.5], [[0.0, 1.0]])
    with pytest.raises(IndexError):
        metric([-100], [[0.0, 1.0]])
