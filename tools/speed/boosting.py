"""Rounds of boosting with built-in objectives and with fastce's: docs/interop/boosting.md."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.cases import Case
from bench.inputs import Call, Calls
from tools.speed.turns import METHOD, Parts, contest, duration, main, table

SHAPES = ((50_000, 5), (20_000, 100))
FEATURES = 10
ROUNDS = 3  # of a call
XGBOOST, LIGHTGBM = "XGBoost", "LightGBM"
LABELS = {  # by the library and the table
    (XGBOOST, "BUILT_IN"): "`multi:softprob`",
    (XGBOOST, "OURS"): "`XGBSoftmax()`",
    (XGBOOST, "SOFT"): "`XGBSoftmax(soft_targets=)`",
    (XGBOOST, "REPEATED"): "`multi:softprob`, a row for each class",
    (LIGHTGBM, "BUILT_IN"): "`multiclass`",
    (LIGHTGBM, "OURS"): "`LGBMSoftmax()`",
    (LIGHTGBM, "SOFT"): "`LGBMSoftmax(soft_targets=)`",
}


def _data(i: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return features and class probabilities."""
    rng, (rows, classes) = np.random.default_rng(0), i.logits.shape
    return rng.standard_normal((rows, FEATURES), dtype=np.float32), rng.dirichlet(np.ones(classes), rows)


def _xgboost(kind: str, i: Any) -> Call:
    """Make the call of some rounds."""
    import xgboost

    from fastce.interop.boosting import XGBSoftmax

    (features, soft), classes, labels = _data(i), i.logits.shape[1], i.target
    weight = None
    if kind == "REPEATED":
        features, labels = np.repeat(features, classes, 0), np.tile(np.arange(classes), len(labels))
        weight = soft.ravel()
    data = xgboost.DMatrix(features, labels, weight=weight)
    params = {"objective": "multi:softprob", "num_class": classes, "max_depth": 4, "nthread": 1, "base_score": 0.0}
    objective = {"OURS": XGBSoftmax(), "SOFT": XGBSoftmax(soft_targets=soft)}.get(kind)
    return partial(xgboost.train, params, data, ROUNDS, obj=objective)


def _lightgbm(kind: str, i: Any) -> Call:
    """Make the call of some rounds."""
    import lightgbm

    from fastce.interop.boosting import LGBMSoftmax

    features, soft = _data(i)
    data = lightgbm.Dataset(features, i.target, free_raw_data=False).construct()
    built_in = {"objective": "multiclass", "boost_from_average": False}
    objective = {"OURS": {"objective": LGBMSoftmax()}, "SOFT": {"objective": LGBMSoftmax(soft_targets=soft)}}
    params = {"num_class": i.logits.shape[1], "num_threads": 1, "verbose": -1, "num_leaves": 15}
    return partial(lightgbm.train, params | objective.get(kind, built_in), data, ROUNDS)


BUILT_IN, OURS, SOFT = (
    {XGBOOST: partial(_xgboost, kind), LIGHTGBM: partial(_lightgbm, kind)} for kind in ("BUILT_IN", "OURS", "SOFT")
)
REPEATED: Calls = {XGBOOST: partial(_xgboost, "REPEATED")}


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    times, cells = {}, {}
    for shape in ((500, 5),) if quick else SHAPES:
        kinds = ["BUILT_IN", "OURS", "SOFT"] + ["REPEATED"] * (shape[1] < 10)  # of 100 classes it has 2 million rows
        cases = [Case(library, *shape) for library in (XGBOOST, LIGHTGBM)]
        found = contest([f"tools.speed.boosting:{kind}" for kind in kinds], cases, 1, quick)
        column = f"{shape[0]:,} rows, {shape[1]} classes"
        times |= {(case.op, name.split(":")[1], column): time / ROUNDS for (name, case), time in found.items()}
    for (library, kind), label in LABELS.items():
        for column in dict.fromkeys(column for *_, column in times):
            seconds, built_in = times.get((library, kind, column)), times[library, "BUILT_IN", column]
            if seconds:
                cells[label, column] = duration(seconds) if kind == "BUILT_IN" else f"{seconds / built_in:.2f} ×"
    text = (
        f"Time of a round with {FEATURES} features, depth 4 or 15 leaves, and one thread. For objectives that are not "
        f"built in, it is a multiple of the built-in one's. All take turns, each in a process of its own: {METHOD}."
    )
    return {"interop/boosting.md#speed": f"{text}\n\n{table(cells, text=str)}"}


if __name__ == "__main__":
    main(parts, "xgboost-cpu", "lightgbm")
