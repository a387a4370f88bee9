"""Fits of LogisticRegression and of the example's estimator: docs/interop/sklearn.md."""

from __future__ import annotations

import numba
from threadpoolctl import threadpool_limits

from examples.softmax_regression import CASES, QUICK_CASES, compare
from tools.speed.turns import Parts, main, table

REPEATS = 5


def parts(quick: bool) -> Parts:
    """Return the section of the page."""
    numba.set_num_threads(1)
    rows = {}
    with threadpool_limits(1):
        for case in QUICK_CASES if quick else CASES:
            found = compare(case, 1 if quick else REPEATS)
            label = f"{case.label}".replace("\n", ", ")
            rows[label, "`LogisticRegression`"] = f"{found.theirs:.3f} s"
            rows[label, "`SoftmaxRegression`"] = f"{found.ours:.3f} s"
            rows[label, "times as fast"] = f"{found.theirs / found.ours:.1f}"
            rows[label, "probabilities differ by"] = f"{found.difference:.0e}"
    text = (
        "Time of a fit with the defaults. Both estimators take turns in one process, with one thread each. The "
        f"shortest of {REPEATS} fits counts. With newton-cg, `LogisticRegression` has `tol=1e-6`, which brings both "
        "equally near to the minimum."
    )
    return {"interop/sklearn.md#speed": f"{text}\n\n{table(rows, text=str)}"}


if __name__ == "__main__":
    main(parts, "scikit-learn", "scipy")
