"""Shards of the classes beside the whole: errors and times, docs/shards.md."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numba
import numpy as np

from tools.speed.turns import METHOD, Parts, main, table, turns

SHAPES = ((65536, 10), (16384, 100), (1024, 1000), (256, 50257))
SPLITS = (
    ("float32", 50257, 2),
    ("float32", 131072, 4),
    ("float32", 102400, 1024),
    ("float64", 50257, 4),
    ("float64", 102400, 1024),
)
QUICK_SPLITS = (("float32", 1000, 2),)
ROWS = 64


def speed(shape: tuple[int, int], quick: bool) -> dict[str, float]:
    """Return times as multiples of those of the whole."""
    import fastce
    from fastce import shards

    rng = np.random.default_rng(0)
    x, y = 3 * rng.standard_normal(shape, dtype=np.float32), rng.integers(0, shape[1], shape[0])
    grad, stats = np.empty_like(x), shards.statistics(x, y)
    calls = {
        "log-sum-exp": lambda: fastce.logsumexp(x),
        "statistics": lambda: shards.statistics(x),
        "with labels": lambda: shards.statistics(x, y),
        "`cross_entropy` of the whole": lambda: fastce.cross_entropy(x, y),
        "loss and gradient": lambda: fastce.cross_entropy_and_grad(x, y, out=grad),
        "gradient": lambda: shards.cross_entropy_grad(x, y, stats, out=grad),
    }
    seconds = turns(calls, quick)
    for name in seconds:
        whole = "loss and gradient" if name == "gradient" else "log-sum-exp"
        seconds[name] /= 1.0 if name in ("log-sum-exp", "loss and gradient") else seconds[whole]
    return {name: ratio for name, ratio in seconds.items() if name not in ("log-sum-exp", "loss and gradient")}


def _greatest(difference: Any, size: Any, eps: float) -> float:
    return float((np.abs(difference) / np.abs(size)).max() / eps)


def errors(dtype: str, classes: int, count: int) -> dict[str, str]:
    """Return the greatest errors of losses, and the greatest difference between gradients, in eps."""
    import fastce
    from fastce import shards

    eps, rng = float(np.finfo(dtype).eps), np.random.default_rng(0)
    x, y = (3 * rng.standard_normal((ROWS, classes))).astype(dtype), rng.integers(0, classes, ROWS)
    edges = np.linspace(0, classes, count + 1).astype(int)
    cuts = [slice(*pair) for pair in pairwise(edges)]
    stats = shards.merge([shards.statistics(x[:, cut], y, start=cut.start) for cut in cuts])
    grads = [shards.cross_entropy_grad(x[:, cut], y, stats, start=cut.start) for cut in cuts]
    whole = fastce.cross_entropy_and_grad(x, y).grad.astype(np.longdouble)

    wide = x.astype(np.longdouble)
    top = wide.max(axis=1, keepdims=True)
    others = np.exp(np.sort(wide, axis=1)[:, :-1] - top).sum(axis=1)
    exact = top[:, 0] - wide[np.arange(ROWS), y] + np.log1p(others)
    losses = {
        "loss": shards.cross_entropy(stats, y, dtype=dtype, reduction="none"),
        "loss of the whole": fastce.cross_entropy(x, y, reduction="none"),
    }
    found = {name: f"{_greatest(loss - exact, exact, eps):.2f}" for name, loss in losses.items()}
    difference = _greatest(np.concatenate(grads, axis=1) - whole, whole, eps)
    return found | {"gradients: shards and whole": f"{difference:.1f}"}


def parts(quick: bool) -> Parts:
    """Return the errors and the times."""
    numba.set_num_threads(1)
    of_errors, of_times = {}, {}
    for dtype, classes, count in QUICK_SPLITS if quick else SPLITS:
        row = f"{dtype}, {classes:,} classes, {count:,} shards"
        of_errors |= {(row, name): text for name, text in errors(dtype, classes, count).items()}
    for shape in ((256, 10),) if quick else SHAPES:
        row = "×".join(map(str, shape))
        of_times |= {(row, name): f"{ratio:.2f}" for name, ratio in speed(shape, quick).items()}
    text = (
        f"Greatest relative errors of the losses of {ROWS} rows of normal logits (σ = 3), against long double, and the "
        "greatest relative difference between gradients, in eps:"
    )
    times = (
        "Times as multiples of `fastce.logsumexp`, or of `fastce.cross_entropy_and_grad` for the gradient, float32, on "
        f"one thread, in turns: {METHOD}."
    )
    return {
        "shards.md#errors": f"{text}\n\n{table(of_errors, text=str)}",
        "shards.md#speed": f"{times}\n\n{table(of_times, text=str)}",
    }


if __name__ == "__main__":
    main(parts)
