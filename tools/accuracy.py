"""The accuracy report, ``make accuracy``: errors against exact arithmetic, fastce beside PyTorch, SciPy and JAX.

An error is |result - exact| / (eps |exact|), with the eps of the logits' dtype. The worst over all elements counts.
Where the terms of a result cancel, the error is divided by the sum of their magnitudes instead. This holds for all
vjps, the Hessian times a vector, and the gradients of divergences, binary cross-entropy and focal loss with class
probabilities. Exact values come from mpmath with 300 bits. Exact values below the smallest normal number may come out
as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
from rich.progress import track

import fastce
from tools import accuracy_plot
from tools.accuracy_contenders import contenders
from tools.exact import Batch, Exact, Value
from tools.speed.turns import conditions

DOCS = Path(__file__).parents[1] / "docs"
BITS = 300
Row = dict[str, Any]

QUANTITIES = {
    "log-sum-exp": "lse",
    "softmax": "softmax",
    "log-softmax": "log_softmax",
    "cross-entropy": "loss",
    "its gradient": "gradient",
    "with label smoothing": "smoothed",
    "its Hessian's diagonal": "hessian",
    "its Hessian times a vector": "softmax_vjp",
    "of a linear layer": "loss",
    "gradient of a linear layer": "gradient",
    "from probabilities": "from_probs",
    "vjp of log-sum-exp": "lse_vjp",
    "vjp of softmax": "softmax_vjp",
    "vjp of log-softmax": "log_softmax_vjp",
    "log-sum-exp with weights": "weighted",
    "divergence": "divergence",
    "gradient of divergence": "divergence_gradient",
    "reversed divergence": "reversed",
    "gradient of reversed divergence": "reversed_gradient",
    "Jensen-Shannon": "jensen_shannon",
    "gradient of Jensen-Shannon": "jensen_shannon_gradient",
    "focal loss": "focal",
    "gradient of focal loss": "focal_gradient",
    "focal loss with class probabilities": "focal_of_probs",
    "gradient with class probabilities": "focal_of_probs_gradient",
    "entropy": "entropy",
    "binary cross-entropy": "binary",
    "gradient of the binary": "binary_gradient",
    "binary from probabilities": "binary_from_probs",
    "gradient from probabilities": "binary_from_probs_gradient",
    "sigmoid focal loss": "sigmoid_focal",
    "gradient of sigmoid focal loss": "sigmoid_focal_gradient",
}
TITLES = {
    "its gradient": "Gradient of cross-entropy",
    "with label smoothing": "Cross-entropy with label smoothing",
    "its Hessian's diagonal": "Cross-entropy's Hessian, the diagonal",
    "its Hessian times a vector": "Cross-entropy's Hessian times a vector",
    "of a linear layer": "Cross-entropy of a linear layer (the identity)",
    "gradient of a linear layer": "Gradient of that with respect to the hidden states",
    "from probabilities": "Cross-entropy from probabilities",
    "Jensen-Shannon": "Jensen-Shannon divergence",
    "gradient of Jensen-Shannon": "Gradient of Jensen-Shannon divergence",
    "gradient with class probabilities": "Gradient of focal loss with class probabilities",
    "gradient of the binary": "Gradient of binary cross-entropy",
    "binary from probabilities": "Binary cross-entropy from probabilities",
    "gradient from probabilities": "Gradient of binary cross-entropy from probabilities",
}
MAIN = ("log-sum-exp", "softmax", "log-softmax", "cross-entropy", "its gradient")  # of many classes
PROMISED = {"log-sum-exp": 4, "cross-entropy": 4, "softmax": 5, "its gradient": 5}  # eps beyond the unavoidable
MANY = 2000  # classes; more, and only the main quantities are computed


def regimes() -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], int]]]:
    """Return rows of logits of each regime, and how a row's label is chosen."""
    rng = np.random.default_rng(20240229)
    confident = rng.normal(size=(10, 10))
    confident[:, 3] += np.linspace(15, 35, 10)
    return {
        "normal, 2 classes": (3 * rng.normal(size=(100, 2)), lambda row: 1),
        "normal, 10 classes": (3 * rng.normal(size=(40, 10)), lambda row: 4),
        "normal, 1,000 classes": (3 * rng.normal(size=(3, 1000)), lambda row: 4),
        "normal, 100,000 classes": (3 * rng.normal(size=(1, 100_000)), lambda row: 4),
        "wide": (30 * rng.normal(size=(10, 100)), lambda row: 4),
        "offset 10,000": (1e4 + 3 * rng.normal(size=(10, 100)), lambda row: 4),
        "confident and right": (confident, lambda row: int(row.argmax())),
        "confident and wrong": (confident, lambda row: int(row.argmin())),
        "tails": (np.linspace(-80, 0, 200)[None], lambda row: 0),
    }


def measure() -> list[Row]:
    """Return the worst error of each quantity, dtype, regime and contender."""
    rows: list[Row] = []
    calls_of = contenders()
    for dtype in [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]:
        chosen = {n: r for n, r in regimes().items() if dtype.itemsize > 2 or n in HALF_REGIMES}
        for regime, (logits, label_of) in track(chosen.items(), f"{dtype.name:9}"):
            batch = _batch(logits, label_of, dtype)
            exact = [Exact(batch, i) for i in range(len(logits))]
            names = MAIN if logits.shape[1] > MANY else tuple(QUANTITIES)
            for quantity in names:
                if "linear" in quantity and logits.shape[1] > 100:  # a square of classes
                    continue
                values = [value for e in exact for value in getattr(e, QUANTITIES[quantity])]
                for name, calls in calls_of.items():
                    if quantity in calls:
                        error, beyond = _errors(calls[quantity](batch), values, dtype)
                        row = {"quantity": quantity, "dtype": dtype.name, "regime": regime, "name": name}
                        rows.append({**row, "error": error, "beyond": beyond})
    return rows


HALF_REGIMES = ("normal, 2 classes", "normal, 10 classes", "normal, 1,000 classes", "confident and right")


def _batch(logits: np.ndarray, label_of: Callable[[np.ndarray], int], dtype: np.dtype[Any]) -> Batch:
    rng = np.random.default_rng(1)
    x = logits.astype(dtype)
    teacher = (logits + 0.01 * rng.normal(size=logits.shape)).astype(dtype)
    upstream = rng.normal(size=logits.shape).astype(dtype)
    info = ml_dtypes.finfo(dtype)
    probs = fastce.softmax(x.astype(np.float64)).clip(float(info.tiny), 1 - float(info.epsneg)).astype(dtype)
    labels = np.array([label_of(row) for row in x])
    return Batch(x, labels, teacher, upstream, probs)


def _errors(result: Any, values: list[Value], dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the worst error in eps, and the worst beyond what no method avoids."""
    info = ml_dtypes.finfo(dtype)
    eps, tiny = float(info.eps), float(info.tiny)
    worst, beyond = 0.0, 0.0
    for computed, (true, size, unavoidable, factor) in zip(
        np.asarray(result).astype(float).ravel(), values, strict=True
    ):
        if not np.isfinite(computed):
            return np.inf, np.inf
        off = abs(mpmath.mpf(float(computed)) - true)
        if off and not size:
            return np.inf, np.inf
        if off > tiny * max(factor, 1):
            worst = max(worst, float(off / (size * eps)))
            beyond = max(beyond, float((off - tiny) / (size * eps) - (unavoidable or 0) / size))
    return worst, beyond


def table(rows: Iterable[Row], quantity: str) -> list[str]:
    """Return the table of one quantity as lines of Markdown."""
    chosen = [row for row in rows if row["quantity"] == quantity]
    names = list(dict.fromkeys(row["name"] for row in chosen))
    lines = [f"| dtype | logits | {' | '.join(names)} |", f"|:--|:--|{'--:|' * len(names)}"]
    for dtype, regime in dict.fromkeys((row["dtype"], row["regime"]) for row in chosen):
        errors = {row["name"]: row["error"] for row in chosen if (row["dtype"], row["regime"]) == (dtype, regime)}
        lines.append(f"| {dtype} | {regime} | {' | '.join(_number(errors[name]) for name in names)} |")
    return lines


def promises(rows: Iterable[Row]) -> list[str]:
    """Return how far fastce keeps what it promises, as lines of Markdown."""
    lines = ["| fastce, beyond what rounding x - max(x) costs | promised | float32 | float64 |", "|:--|--:|--:|--:|"]
    for quantity, bar in PROMISED.items():
        worst = {}
        for row in rows:
            if (row["quantity"], row["name"]) == (quantity, "fastce"):
                worst[row["dtype"]] = max(row["beyond"], worst.get(row["dtype"], 0.0))
        title = TITLES.get(quantity, quantity).lower()
        lines.append(f"| {title} | {bar} | {_number(worst['float32'])} | {_number(worst['float64'])} |")
    return lines


def _number(error: float) -> str:
    return f"{error:.2g}" if error < 1e4 else f"{error:.0e}" if np.isfinite(error) else "inf"


def main() -> None:
    """Measure all, write docs/accuracy.md and its plot."""
    with mpmath.workprec(BITS):
        rows = measure()
    lines = ["# Accuracy", "", *__doc__.split("\n")[2:-1], "", conditions("make accuracy", ("scipy", "torch")), ""]
    lines += ["![errors in float32](accuracy.svg)", "", *promises(rows), *NOTES]
    for quantity in QUANTITIES:
        title = TITLES.get(quantity, quantity)
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", *table(rows, quantity)]
    (DOCS / "accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    accuracy_plot.main()


NOTES = (
    "",
    "No method can avoid the rounding of x - max(x), which changes a small probability by |x - max(x)| eps. It causes",
    "the errors of tails and wide logits. An exponential of float32 adds |x - max(x)| / 40 eps. A log-softmax near 0",
    "is exact here, because the greatest exponential stays out of the sum; other libraries round it to 0. The gradient",
    "at the label of a confident sample is minus the sum of the other probabilities, not p - 1. The vjp of",
    "log-sum-exp gets a log-sum-exp that is already rounded; its last place counts where logits are offset. A",
    "divergence near eps squared, as of one pair of two classes here, depends on the last digits of the logits. An",
    "error is inf where the result is not finite, or where the exact value is 0 and the result is not.",
)

if __name__ == "__main__":
    main()
