"""Boosting with soft labels (needs XGBoost and LightGBM)
======================================================

Five annotators label each sample, and often disagree. The built-in objectives of XGBoost and LightGBM take one label a
sample, the majority's. ``XGBSoftmax`` and ``LGBMSoftmax`` take the shares of the votes, which tell how sure a label is.

Install ``pip install . lightgbm xgboost``.
"""

import lightgbm
import numpy as np
import xgboost

import fastce
from fastce.interop.boosting import LGBMSoftmax, XGBSoftmax

SAMPLES, FEATURES, CLASSES, ANNOTATORS, ROUNDS = 2000, 8, 5, 5, 40

# %%
# True class probabilities depend on the features. The annotators draw their labels from them.


def draw(rng):
    """Draw features, true probabilities, and the share of the votes for each class."""
    features = rng.normal(size=(SAMPLES, FEATURES))
    probabilities = fastce.softmax(1.5 * features[:, :CLASSES] + np.cos(3 * features[:, -CLASSES:]))
    return features, probabilities, rng.multinomial(ANNOTATORS, probabilities) / ANNOTATORS


rng = np.random.default_rng(0)
features, _, shares = draw(rng)
test_features, test_probabilities, _ = draw(rng)
majority = shares.argmax(axis=1)

# %%
# Each library trains twice. An objective of one's own replaces the built-in one, and nothing else changes.


def by_xgboost(objective=None):
    """Return the probabilities that XGBoost predicts."""
    options = {"objective": "multi:softprob", "num_class": CLASSES, "max_depth": 3, "learning_rate": 0.2, "nthread": 1}
    booster = xgboost.train(options, xgboost.DMatrix(features, majority), ROUNDS, obj=objective)
    return booster.predict(xgboost.DMatrix(test_features))


def by_lightgbm(objective="multiclass"):
    """Return the softmax of LightGBM's scores."""
    options = {"num_class": CLASSES, "num_leaves": 8, "learning_rate": 0.2, "num_threads": 1, "verbose": -1}
    booster = lightgbm.train({**options, "objective": objective}, lightgbm.Dataset(features, majority), ROUNDS)
    return fastce.softmax(booster.predict(test_features, raw_score=True))


predictions = {
    ("XGBoost", "majority"): by_xgboost(),
    ("XGBoost", "shares of votes"): by_xgboost(XGBSoftmax(soft_targets=shares)),
    ("LightGBM", "majority"): by_lightgbm(),
    ("LightGBM", "shares of votes"): by_lightgbm(LGBMSoftmax(soft_targets=shares)),
}

# %%
# The divergence is the distance of the predicted probabilities from the true ones. Shares of votes bring it down.

print(f"{'library':10} {'labels':16} {'divergence':>10} {'accuracy':>9}")
divergences = []
for (library, labels), predicted in predictions.items():
    divergences.append(fastce.kl_divergence(np.log(predicted), np.log(test_probabilities)))
    accuracy = np.mean(predicted.argmax(axis=1) == test_probabilities.argmax(axis=1))
    print(f"{library:10} {labels:16} {divergences[-1]:10.4f} {accuracy:9.1%}")
assert divergences[1] < divergences[0] and divergences[3] < divergences[2]

# %%
# The output of ``python examples/boosting_soft_labels.py``::
#
#     library    labels           divergence  accuracy
#     XGBoost    majority             0.1092     84.1%
#     XGBoost    shares of votes      0.0467     87.2%
#     LightGBM   majority             0.1975     83.0%
#     LightGBM   shares of votes      0.0378     87.8%
