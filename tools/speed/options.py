"""The cost of options of loss and gradient: docs/architecture.md."""

from __future__ import annotations

from functools import partial
from typing import Any

import numba
import numpy as np

from tools.speed.turns import METHOD, Parts, main, table, turns

SHAPES = ((32, 10), (65536, 10), (1024, 1000))
NONE, TOGETHER = "none", "the last four together"
REASONS = {
    "`z_loss`": "a few numbers a sample",
    "`label_smoothing`": "a sum over the logits",
    "`weight`": 'the weights of all samples are summed before all else, for "sum" and "none" too',
    "`sample_weight`": "the same",
    "`logit_scale`": "blocks are transformed into a buffer and back",
    "`softcap`": "the same, with a tanh",
    "`where`": "blocks are masked by NumPy",
}


def options(shape: tuple[int, int], target: Any) -> dict[str, dict[str, Any]]:
    """Return keyword arguments by their names in the table."""
    rng, (rows, classes) = np.random.default_rng(1), shape
    where = rng.random(shape) < 0.9
    where[np.arange(rows), target] = True
    singles = {
        "ignore_index": 3,
        "z_loss": 1e-4,
        "label_smoothing": 0.1,
        "weight": rng.random(classes, dtype=np.float32) + np.float32(0.5),
        "sample_weight": rng.random(rows, dtype=np.float32),
    }
    found = {NONE: {}} | {f"`{name}`": {name: value} for name, value in singles.items()}
    found[TOGETHER] = {name: value for name, value in singles.items() if name != "ignore_index"}
    return found | {"`logit_scale`": {"logit_scale": 0.5}, "`softcap`": {"softcap": 30.0}, "`where`": {"where": where}}


def parts(quick: bool) -> Parts:
    """Return the table."""
    import fastce

    numba.set_num_threads(1)
    cells = {}
    for shape in SHAPES[: 1 if quick else None]:
        rng = np.random.default_rng(0)
        x, y = 3 * rng.standard_normal(shape, dtype=np.float32), rng.integers(0, shape[1], shape[0])
        function = partial(fastce.cross_entropy_and_grad, x, y, out=np.empty_like(x))
        seconds = turns({name: partial(function, **chosen) for name, chosen in options(shape, y).items()}, quick)
        plain = seconds.pop(NONE)
        cells |= {(name, "×".join(map(str, shape))): f"{time / plain:.1f}" for name, time in seconds.items()}
    cells |= {(name, "reason"): reason for name, reason in REASONS.items()}
    rows = dict.fromkeys(row for row, _ in cells)
    cells |= {(row, "reason"): "" for row in rows if row not in REASONS}
    text = (
        "Times of loss and gradient with `out=`, float32, one thread, as multiples of a call without options. In "
        f"turns: {METHOD}."
    )
    return {"architecture.md#options": f"{text}\n\n{table(cells, text=str)}"}


if __name__ == "__main__":
    main(parts)
