"""Boost trees on the votes of annotators who disagree, in XGBoost and in LightGBM.

Each sample has true class probabilities, from which five annotators draw a label each. The built-in objectives take one
label a sample, the majority's. `XGBSoftmax` and `LGBMSoftmax` take the shares of the votes as soft targets, which tell
how much the annotators disagree. The table shows, on other samples, how far the predicted probabilities are from the
true ones, and how often the most probable class is predicted.

    python examples/boosting_soft_labels.py           8000 samples for training
    python examples/boosting_soft_labels.py --quick   1000 of them
"""

import argparse
from typing import NamedTuple

import lightgbm
import numpy as np
import xgboost
from rich.console import Console
from rich.table import Table

import fastce
from fastce.interop.boosting import LGBMSoftmax, XGBSoftmax

FEATURES, CLASSES, ANNOTATORS, ROUNDS = 8, 5, 5, 40
XGB = {"objective": "multi:softprob", "num_class": CLASSES, "max_depth": 3, "learning_rate": 0.2, "nthread": 1}
LGB = {"num_class": CLASSES, "num_leaves": 8, "learning_rate": 0.2, "num_threads": 1, "verbose": -1}


class Samples(NamedTuple):
    """Features, the true class probabilities, and the share of the annotators who chose each class."""

    features: np.ndarray
    probabilities: np.ndarray
    shares: np.ndarray


def draw(rng, count):
    """Draw samples, true probabilities that depend on their features, and votes."""
    features = rng.normal(size=(count, FEATURES))
    scores = 1.5 * features[:, :CLASSES] + np.cos(3 * features[:, -CLASSES:])
    probabilities = fastce.softmax(scores)
    return Samples(features, probabilities, rng.multinomial(ANNOTATORS, probabilities) / ANNOTATORS)


def predict_by_xgboost(train, test, objective=None):
    """Return the probabilities that XGBoost predicts, trained on the majority's labels or by an objective."""
    data = xgboost.DMatrix(train.features, train.shares.argmax(axis=1))
    return xgboost.train(XGB, data, ROUNDS, obj=objective).predict(xgboost.DMatrix(test.features))


def predict_by_lightgbm(train, test, objective="multiclass"):
    """Return the softmax of LightGBM's scores: beside an objective of one's own it predicts no probabilities."""
    data = lightgbm.Dataset(train.features, train.shares.argmax(axis=1))
    raw = lightgbm.train({**LGB, "objective": objective}, data, ROUNDS).predict(test.features, raw_score=True)
    return fastce.softmax(raw)


def main():
    """Train four times and print the results."""
    parser = argparse.ArgumentParser(description="Boost trees on the votes of annotators who disagree.")
    parser.add_argument("--quick", action="store_true", help="1000 samples instead of 8000")
    count = 1000 if parser.parse_args().quick else 8000

    rng = np.random.default_rng(0)
    train, test = draw(rng, count), draw(rng, 4000)
    predicted = {
        ("XGBoost", "majority"): predict_by_xgboost(train, test),
        ("XGBoost", "shares of votes"): predict_by_xgboost(train, test, XGBSoftmax(soft_targets=train.shares)),
        ("LightGBM", "majority"): predict_by_lightgbm(train, test),
        ("LightGBM", "shares of votes"): predict_by_lightgbm(train, test, LGBMSoftmax(soft_targets=train.shares)),
    }
    table = Table(title=f"{count} samples, {ANNOTATORS} annotators, {ROUNDS} rounds")
    for heading in ("library", "labels"):
        table.add_column(heading)
    for heading in ("divergence", "accuracy"):
        table.add_column(heading, justify="right")
    divergences = []
    for (library, labels), probabilities in predicted.items():
        divergences.append(fastce.kl_divergence(np.log(probabilities), np.log(test.probabilities)))
        accuracy = np.mean(probabilities.argmax(axis=1) == test.probabilities.argmax(axis=1))
        table.add_row(library, labels, f"{divergences[-1]:.4f}", f"{accuracy:.1%}")
    Console().print(table)

    if divergences[1] > divergences[0] or divergences[3] > divergences[2]:
        raise SystemExit("soft labels brought the probabilities no nearer to the true ones")


if __name__ == "__main__":
    main()
