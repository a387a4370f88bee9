"""Fits of LogisticRegression and of the example's estimator: docs/interop/sklearn.md."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numba
import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from examples.softmax_regression import SoftmaxRegression
from tools.speed.turns import Parts, main, table

REPEATS = 5


class Case(NamedTuple):
    """The data of one comparison, and how to fit to them."""

    samples: int
    features: int
    classes: int
    dtype: type = np.float64
    solver: str = "lbfgs"

    @property
    def label(self) -> str:
        """The name of its row."""
        size = f"{self.samples:,}×{self.features}, {self.classes:,} classes"
        return f"{size}, {self.dtype.__name__}, {self.solver}"


CASES = [
    Case(20_000, 20, 10),
    Case(20_000, 50, 100),
    Case(5_000, 100, 1_000, np.float32),
    Case(20_000, 20, 10, solver="newton-cg"),
    Case(5_000, 50, 100, solver="newton-cg"),
]
QUICK_CASES = [Case(400, 8, 5), Case(400, 8, 5, solver="newton-cg")]


def draw_samples(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Draw features, and labels from a linear model with noise."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((case.samples, case.features)).astype(case.dtype)
    scores = X @ rng.standard_normal((case.features, case.classes))
    return X, np.argmax(scores + 3 * rng.gumbel(size=scores.shape), axis=1)


def compare(case: Case, repeats: int) -> tuple[float, float, float]:
    """Fit both models in turns; return the seconds of either, and the greatest difference of probabilities."""
    X, y = draw_samples(case)
    # With newton-cg, their tol bounds the gradient, ours the step: these bring both equally near to the minimum.
    their_tol = 1e-4 if case.solver == "lbfgs" else 1e-6
    models = LogisticRegression(solver=case.solver, tol=their_tol), SoftmaxRegression(solver=case.solver)
    # The first call compiles the kernels or reads them from disk: no part of a fit.
    SoftmaxRegression(solver=case.solver, tol=1.0).fit(X, y)

    seconds = [], []
    for _ in range(repeats):
        for model, times in zip(models, seconds, strict=True):
            began = perf_counter()
            model.fit(X, y)
            times.append(perf_counter() - began)
    probabilities = [model.predict_proba(X) for model in models]
    return min(seconds[0]), min(seconds[1]), float(np.abs(probabilities[0] - probabilities[1]).max())


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    numba.set_num_threads(1)
    rows = {}
    with threadpool_limits(1):
        for case in QUICK_CASES if quick else CASES:
            theirs, ours, difference = compare(case, 1 if quick else REPEATS)
            rows[case.label, "`LogisticRegression`"] = f"{theirs:.3f} s"
            rows[case.label, "`SoftmaxRegression`"] = f"{ours:.3f} s"
            rows[case.label, "times as fast"] = f"{theirs / ours:.1f}"
            rows[case.label, "probabilities differ by"] = f"{difference:.0e}"
    text = (
        "Time of a fit with the defaults. Both estimators take turns in one process, with one thread each. The "
        f"shortest of {REPEATS} fits counts. With newton-cg, `LogisticRegression` has `tol=1e-6`, which brings both "
        "equally near to the minimum."
    )
    return {"interop/sklearn.md#speed": f"{text}\n\n{table(rows, text=str)}"}


if __name__ == "__main__":
    main(parts, "scikit-learn", "scipy")
