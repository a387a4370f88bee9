"""The accuracy report, ``make accuracy``: errors against exact arithmetic, fastce beside PyTorch, SciPy and JAX.

An error is |result - exact| / (eps |exact|), with the eps of the logits' dtype, and the worst over all elements counts.
Exact values come from mpmath with 300 bits. Exact values below the smallest normal number may come out as 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import scipy.special
from matplotlib import pyplot as plt
from rich.progress import track

import fastce
from bench.plots import LOOK, write_figure

DOCS = Path(__file__).parents[1] / "docs"
BITS = 300
TEMPERATURE, GAMMA = 2.0, 2.0
Call = Callable[[np.ndarray, int, np.ndarray], Any]


@dataclass
class Exact:
    """One row of logits, its label and a teacher's logits, and what follows from them."""

    row: np.ndarray
    label: int
    teacher: np.ndarray

    @cached_property
    def x(self) -> list[Any]:
        """The logits as they are."""
        return [mpmath.mpf(float(v)) for v in self.row]

    @cached_property
    def terms(self) -> list[Any]:
        """exp(x - x_label), whose sum without the label's own 1 never cancels."""
        return [mpmath.exp(v - self.x[self.label]) for v in self.x]

    @cached_property
    def others(self) -> Any:
        """The sum of the terms without the label's."""
        return mpmath.fsum(term for j, term in enumerate(self.terms) if j != self.label)

    @cached_property
    def p(self) -> list[Any]:
        """The softmax."""
        return [term / (1 + self.others) for term in self.terms]

    @cached_property
    def logs(self) -> list[Any]:
        """The log-softmax."""
        return [v - self.x[self.label] - self.loss[0] for v in self.x]

    @cached_property
    def loss(self) -> list[Any]:
        """The cross-entropy."""
        return [mpmath.log1p(self.others)]

    @cached_property
    def lse(self) -> list[Any]:
        """The log-sum-exp."""
        return [self.x[self.label] + self.loss[0]]

    @cached_property
    def rest(self) -> Any:
        """1 minus the label's softmax."""
        return self.others / (1 + self.others)

    @cached_property
    def gradient(self) -> list[Any]:
        """The cross-entropy's gradient."""
        return [-self.rest if j == self.label else p for j, p in enumerate(self.p)]

    @cached_property
    def hessian(self) -> list[Any]:
        """The diagonal p (1 - p)."""
        total = mpmath.fsum(self.terms)
        return [p * mpmath.fsum([total, -term]) / total for p, term in zip(self.p, self.terms, strict=True)]

    @cached_property
    def entropy(self) -> list[Any]:
        """The entropy of the softmax."""
        return [mpmath.fsum(-p * log for p, log in zip(self.p, self.logs, strict=True))]

    @cached_property
    def focal(self) -> list[Any]:
        """The focal loss."""
        return [self.rest**GAMMA * self.loss[0]]

    @cached_property
    def focal_gradient(self) -> list[Any]:
        """The focal loss's gradient."""
        slope = self.rest**GAMMA + GAMMA * self.rest ** (GAMMA - 1) * self.p[self.label] * self.loss[0]
        return [slope * g for g in self.gradient]

    @cached_property
    def divergence(self) -> list[Any]:
        """The divergence from the teacher, both at a temperature of 2."""
        (_, logs), (q, teacher) = _log_probabilities(self.row), _log_probabilities(self.teacher)
        return [mpmath.fsum(b * (t - s) for b, s, t in zip(q, logs, teacher, strict=True))]


def _log_probabilities(row: np.ndarray) -> tuple[list[Any], list[Any]]:
    x = [mpmath.mpf(float(v)) / TEMPERATURE for v in row]
    lse = max(x) + mpmath.log(mpmath.fsum(mpmath.exp(v - max(x)) for v in x))
    return [mpmath.exp(v - lse) for v in x], [v - lse for v in x]


QUANTITIES = {
    "log-sum-exp": "lse",
    "softmax": "p",
    "log-softmax": "logs",
    "cross-entropy": "loss",
    "its gradient": "gradient",
    "its Hessian's diagonal": "hessian",
    "entropy": "entropy",
    "focal loss": "focal",
    "gradient of focal loss": "focal_gradient",
    "divergence": "divergence",
}
PLOTTED = ("log-sum-exp", "softmax", "log-softmax", "cross-entropy", "its gradient")


def contenders() -> dict[str, dict[str, Call]]:
    """Return what each contender computes, from a row (1, C), its label and a teacher's row."""
    found: dict[str, dict[str, Call]] = {"fastce": _fastce(), "torch": _torch(), "SciPy": _scipy()}
    if importlib.util.find_spec("jax"):
        found["JAX"] = _jax()
    return found


def _fastce() -> dict[str, Call]:
    each = {"reduction": "none"}
    return {
        "log-sum-exp": lambda x, y, z: fastce.logsumexp(x),
        "softmax": lambda x, y, z: fastce.softmax(x),
        "log-softmax": lambda x, y, z: fastce.log_softmax(x),
        "cross-entropy": lambda x, y, z: fastce.cross_entropy(x, [y], **each),
        "its gradient": lambda x, y, z: fastce.cross_entropy_and_grad(x, [y], **each).grad,
        "its Hessian's diagonal": lambda x, y, z: fastce.cross_entropy_grad_and_hessian(x, [y]).hessian,
        "entropy": lambda x, y, z: fastce.score(x, [y]).entropy,
        "focal loss": lambda x, y, z: fastce.focal_loss(x, [y], gamma=GAMMA, **each),
        "gradient of focal loss": lambda x, y, z: fastce.focal_loss_and_grad(x, [y], gamma=GAMMA, **each).grad,
        "divergence": lambda x, y, z: fastce.kl_divergence(x, z, temperature=TEMPERATURE, reduction="none"),
    }


def _torch() -> dict[str, Call]:
    import torch
    from torch.nn import functional

    def tensor(x: np.ndarray) -> torch.Tensor:
        if x.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)
        return torch.from_numpy(x.copy())

    def back(t: torch.Tensor) -> np.ndarray:
        return t.detach().double().numpy()

    def loss(x: np.ndarray, y: int) -> torch.Tensor:
        return functional.cross_entropy(tensor(x), torch.tensor([y]), reduction="none")

    def gradient(x: np.ndarray, y: int) -> np.ndarray:
        t = tensor(x).requires_grad_()
        functional.cross_entropy(t, torch.tensor([y]), reduction="sum").backward()  # type: ignore[no-untyped-call]
        assert t.grad is not None
        return back(t.grad)

    def divergence(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        logs, teacher = ((tensor(v) / TEMPERATURE).log_softmax(-1) for v in (x, z))
        each = functional.kl_div(logs, teacher, reduction="none", log_target=True)
        return back(each.sum(-1))

    return {
        "log-sum-exp": lambda x, y, z: back(tensor(x).logsumexp(-1)),
        "softmax": lambda x, y, z: back(tensor(x).softmax(-1)),
        "log-softmax": lambda x, y, z: back(tensor(x).log_softmax(-1)),
        "cross-entropy": lambda x, y, z: back(loss(x, y)),
        "its gradient": lambda x, y, z: gradient(x, y),
        "divergence": lambda x, y, z: divergence(x, z),
    }


def _scipy() -> dict[str, Call]:
    special = scipy.special

    def gradient(x: np.ndarray, y: int) -> np.ndarray:
        p = special.softmax(x, -1)
        p[0, y] -= 1
        return p

    return {
        "log-sum-exp": lambda x, y, z: special.logsumexp(x, -1),
        "softmax": lambda x, y, z: special.softmax(x, -1),
        "log-softmax": lambda x, y, z: special.log_softmax(x, -1),
        "cross-entropy": lambda x, y, z: -special.log_softmax(x, -1)[:, y],
        "its gradient": lambda x, y, z: gradient(x, y),
    }


def _jax() -> dict[str, Call]:
    import jax

    jax.config.update("jax_enable_x64", True)

    def loss(x: Any, y: int) -> Any:
        return -jax.nn.log_softmax(x)[0, y]

    return {
        "log-sum-exp": lambda x, y, z: jax.nn.logsumexp(x, -1),
        "softmax": lambda x, y, z: jax.nn.softmax(x),
        "log-softmax": lambda x, y, z: jax.nn.log_softmax(x),
        "cross-entropy": lambda x, y, z: loss(jax.numpy.asarray(x), y),
        "its gradient": lambda x, y, z: jax.grad(loss)(jax.numpy.asarray(x), y),
    }


def regimes() -> dict[str, tuple[np.ndarray, Callable[[np.ndarray], int]]]:
    """Return rows of logits of each regime, and how a row's label is chosen."""
    rng = np.random.default_rng(20240229)
    confident = rng.normal(size=(10, 10))
    confident[:, 3] += np.linspace(15, 35, 10)
    return {
        "normal, 10 classes": (3 * rng.normal(size=(40, 10)), lambda row: 4),
        "normal, 1,000 classes": (3 * rng.normal(size=(3, 1000)), lambda row: 4),
        "normal, 2 classes": (3 * rng.normal(size=(100, 2)), lambda row: 1),
        "20,000 classes": (3 * rng.normal(size=(1, 20_000)), lambda row: 4),
        "wide": (30 * rng.normal(size=(10, 100)), lambda row: 4),
        "offset 10,000": (1e4 + 3 * rng.normal(size=(10, 100)), lambda row: 4),
        "confident and right": (confident, lambda row: int(row.argmax())),
        "confident and wrong": (confident, lambda row: int(row.argmin())),
        "tails": (np.linspace(-80, 0, 200)[None], lambda row: 0),
    }


def measure() -> list[dict[str, Any]]:
    """Return the worst error of each quantity, dtype, regime and contender."""
    rows = []
    players = contenders()
    rng = np.random.default_rng(1)
    dtypes = [np.dtype(t) for t in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
    for dtype in dtypes:
        chosen = {n: r for n, r in regimes().items() if dtype.itemsize > 2 or n.startswith(("normal", "confident"))}
        for regime, (logits, label_of) in track(chosen.items(), f"{dtype.name:9}"):
            x = logits.astype(dtype)
            teachers = (logits + 0.01 * rng.normal(size=logits.shape)).astype(dtype)
            exact = [Exact(row, label_of(row), teacher) for row, teacher in zip(x, teachers, strict=True)]
            for quantity, attribute in QUANTITIES.items():
                if logits.shape[1] > 1000 and quantity == "its Hessian's diagonal":
                    continue  # a sum of all classes for each
                for name, calls in players.items():
                    if quantity in calls:
                        error = max(_errors(e, attribute, calls[quantity], dtype) for e in exact)
                        rows.append(
                            {"quantity": quantity, "dtype": dtype.name, "regime": regime, "name": name, "error": error}
                        )
    return rows


def _errors(exact: Exact, attribute: str, call: Call, dtype: np.dtype[Any]) -> float:
    info = ml_dtypes.finfo(dtype)
    result = np.asarray(call(exact.row[None], exact.label, exact.teacher[None])).astype(np.float64).ravel()
    wanted = getattr(exact, attribute)
    worst = 0.0
    for value, true in zip(result.tolist(), wanted, strict=True):
        if not np.isfinite(value):
            return np.inf
        off = abs(mpmath.mpf(value) - true)
        if off > float(info.tiny):
            worst = max(worst, float(off / (abs(true) * float(info.eps))))
    return worst


def table(rows: Iterable[dict[str, Any]], quantity: str) -> list[str]:
    """Return the table of one quantity as lines of Markdown."""
    chosen = [row for row in rows if row["quantity"] == quantity]
    names = list(dict.fromkeys(row["name"] for row in chosen))
    lines = [f"| dtype | logits | {' | '.join(names)} |", f"|:--|:--|{'--:|' * len(names)}"]
    for dtype, regime in dict.fromkeys((row["dtype"], row["regime"]) for row in chosen):
        errors = {row["name"]: row["error"] for row in chosen if (row["dtype"], row["regime"]) == (dtype, regime)}
        lines.append(f"| {dtype} | {regime} | {' | '.join(_number(errors[name]) for name in names)} |")
    return lines


def _number(error: float) -> str:
    return f"{error:.2g}" if error < 1e4 else f"{error:.0e}" if np.isfinite(error) else "not finite"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the errors in float32, a panel a quantity."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    looks = dict(zip(names, (LOOK["fastce-out"], LOOK["torch"], LOOK["scipy"], LOOK["numpy-stable"]), strict=False))
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastce", "font.size": 9}):
        figure, axes = plt.subplots(1, len(PLOTTED), figsize=(15, 4), sharey=True, sharex=True)
        for ax, quantity in zip(axes, PLOTTED, strict=True):
            chosen = [row for row in rows if row["quantity"] == quantity and row["dtype"] == "float32"]
            places = {regime: -i for i, regime in enumerate(dict.fromkeys(row["regime"] for row in chosen))}
            for name in names:
                points = [(max(r["error"], 0.1), places[r["regime"]]) for r in chosen if r["name"] == name]
                look = {"color": looks[name]["color"], "marker": looks[name]["marker"]}
                ax.scatter(*zip(*points, strict=True), label=name, **look, zorder=3, alpha=0.9)
            ax.set(xscale="log", title=quantity, xlabel="error in eps")
            ax.set_yticks(list(places.values()), list(places))
            ax.grid(alpha=0.3)
            ax.axvline(5, color="#999999", linestyle="--", linewidth=1)
        axes[0].legend(loc="lower right", fontsize=8)
        figure.suptitle("float32: worst error against exact arithmetic (further left is better)", x=0.01, ha="left")
        figure.tight_layout()
        write_figure(figure, path)


def main() -> None:
    """Measure all, write docs/accuracy.md and its plot."""
    with mpmath.workprec(BITS):
        rows = measure()
    lines = ["# Accuracy", "", *__doc__.split("\n")[2:-1], "", "Written by `make accuracy`.", ""]
    lines += ["![errors in float32](accuracy.svg)"]
    for quantity in QUANTITIES:
        lines += ["", f"## {quantity[0].upper()}{quantity[1:]}", "", *table(rows, quantity)]
    (DOCS / "accuracy.md").write_text("\n".join([*lines, *NOTES]) + "\n", encoding="utf-8")
    draw(rows, DOCS / "accuracy.svg")


NOTES = (
    "",
    "What no method avoids: x - max(x) is rounded, which moves a small probability by |x - max(x)| eps, hence the",
    "errors of tails and wide logits. A log-softmax near 0 is exact here because the greatest exponential stays out of",
    "the sum; elsewhere it is rounded to 0. The gradient at the label of a confident sample is minus the rest of the",
    "probabilities, not p - 1.",
)

if __name__ == "__main__":
    main()
