"""The plots: speed against batch size, share of the memory limit, the training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.contenders import CONTENDERS, LIMIT
from bench.tables import Results, beyond_cache, contests, label, shape

# Okabe-Ito: tells the lines apart for colour-blind readers too.
LOOK: dict[str, dict[str, Any]] = {
    "fastce-out": {"color": "#D55E00", "marker": "o", "linewidth": 2.4, "zorder": 5},
    "fastce": {"color": "#E69F00", "marker": "s", "linewidth": 1.8, "zorder": 4},
    "numpy": {"color": "#56B4E9", "marker": "^"},
    "numpy-stable": {"color": "#0072B2", "marker": "v"},
    "scipy": {"color": "#009E73", "marker": "D"},
    "torch": {"color": "#CC79A7", "marker": "P"},
    LIMIT: {"color": "#999999", "linestyle": "--", "linewidth": 1.2},
}
KINDS = ("speed-", "memory-limit", "training")  # how the files' names begin


def draw_all(results: Results, folder: Path, suffix: str = "svg") -> list[Path]:
    """Draw every plot the results have figures for; return the files."""
    paths = []
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastce", "font.size": 9}):
        for (op, dtype), group in contests(results):
            name = f"speed-{op.replace('+', '-')}-{dtype}"
            paths.append(write_figure(_speed(op, dtype, group), folder / f"{name}.{suffix}"))
        if any(LIMIT in rows and beyond_cache(results, c) for _, group in contests(results) for c, rows in group):
            paths.append(write_figure(_shares(results), folder / f"memory-limit.{suffix}"))
        if results["training"]:
            paths.append(write_figure(_training(results), folder / f"training.{suffix}"))
    return paths


def write_figure(figure: Figure, path: Path) -> Path:
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=110, metadata=metadata)
    plt.close(figure)
    return path


def _speed(op: str, dtype: str, group: list[Any]) -> Figure:
    """Million logits a second against batch size, one panel a class count, one line a contender."""
    classes = sorted({case.classes for case, _ in group})
    figure, axes = plt.subplots(1, len(classes), figsize=(1.2 + 3.5 * len(classes), 4.2), sharey=True, squeeze=False)
    for ax, count in zip(axes[0], classes, strict=True):
        _speed_panel(ax, [(case, rows) for case, rows in group if case.classes == count])
        ax.set_title(f"{count:,} classes")
    axes[0, 0].set_ylabel("million logits a second")
    figure.suptitle(f"{op}, {dtype} (higher is faster)", x=0.01, ha="left", fontweight="bold")
    _legend(figure, axes[0])
    return figure


def _speed_panel(ax: Axes, group: list[Any]) -> None:
    for name in CONTENDERS:
        points = [(c.batch, c.elements / rows[name]["median"] / 1e6) for c, rows in group if name in rows]
        if points:
            ax.plot(*zip(*points, strict=True), label=label(name), markersize=4, **LOOK.get(name, {}))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    batches = sorted({case.batch for case, _ in group})
    ax.set_xticks(batches, [f"{b:,}" for b in batches], rotation=45)
    ax.minorticks_off()
    ax.set_xlabel("batch")
    ax.grid(alpha=0.3)


def _legend(figure: Figure, axes: Any) -> None:
    """One legend under all panels, of every line that occurs in any of them."""
    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, text in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(text, handle)
    texts = [label(name) for name in CONTENDERS if label(name) in entries]
    figure.legend([entries[text] for text in texts], texts, loc="lower center", ncols=len(texts), frameon=False)
    figure.tight_layout(rect=(0, 0.06, 1, 1))


def _shares(results: Results) -> Figure:
    """Bars: the share of the memory limit, one panel an operation, for logits larger than the caches."""
    groups = [
        (key, [(c, rows) for c, rows in group if LIMIT in rows and beyond_cache(results, c)])
        for key, group in contests(results)
    ]
    groups = [(key, group) for key, group in groups if group]
    figure, axes = plt.subplots(1, len(groups), figsize=(1.5 + 2.6 * len(groups), 4.6), sharey=True, squeeze=False)
    for ax, ((op, dtype), group) in zip(axes[0], groups, strict=True):
        names = [n for n in CONTENDERS if n != LIMIT and any(n in rows for _, rows in group)]
        height = 0.8 / len(names)
        for i, name in enumerate(names):
            bars = [(k + i * height, 100 * rows[name]["share"]) for k, (_, rows) in enumerate(group) if name in rows]
            ax.barh(*zip(*bars, strict=True), height=height, color=LOOK[name]["color"], label=label(name), align="edge")
        ax.axvline(100, color=LOOK[LIMIT]["color"], linestyle="--")
        ax.set_yticks([k + 0.4 for k in range(len(group))], [shape(case) for case, _ in group])
        ax.set_title(f"{op}\n{dtype}")
        ax.grid(axis="x", alpha=0.3)
        ax.set_xlabel("% of the limit")
    axes[0, 0].invert_yaxis()
    figure.suptitle(
        "Share of the memory limit (100 % = only reading or copying the logits)", x=0.01, ha="left", fontweight="bold"
    )
    _legend(figure, axes[0])
    return figure


def _training(results: Results) -> Figure:
    """Bars: a training step, split into the loss and the rest of the network."""
    rows = results["training"]
    figure, ax = plt.subplots(figsize=(7, 0.9 + 0.4 * len(rows)))
    names = [f"{label(row['contender'])}, batch {row['batch']}" for row in rows]
    loss = [1e6 * row["loss_seconds"] for row in rows]
    rest = [1e6 * (row["median"] - row["loss_seconds"]) for row in rows]
    ax.barh(names, loss, color=LOOK["fastce-out"]["color"], label="loss and its gradient")
    ax.barh(names, rest, left=loss, color="#cccccc", label="the rest of the step")
    ax.invert_yaxis()
    ax.set_xlabel("µs a training step")
    ax.legend(frameon=False)
    figure.tight_layout()
    return figure
