"""The full run's plots: a heat map of fastce against its best rival, and a roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import ADDING, COPYING, OPS, PATTERNS, READING, VJPS, Case
from bench.contenders import LIMIT, REFERENCE, is_rival
from bench.plots import LOOK, plt, write_figure
from bench.results import Row, by_case
from bench.tables import label, shape, three_digits

Contests = list[tuple[Case, Row, Row]]


def draw(run: dict[str, Any], contests: Contests, folder: Path, suffix: str) -> list[Path]:
    """Draw both; return the files."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastce", "font.size": 9}):
        found = {"heatmap": heat_map(contests), "roofline": roofline(run)}
        return [write_figure(figure, folder / f"{name}.{suffix}") for name, figure in found.items()]


def heat_map(contests: Contests) -> Any:
    """Show fastce's time as a share of that of its fastest rival, named in each field; below 1 fastce is faster."""
    shares = {(_line(c), c.op): (ours["median"] / rival["median"], rival) for c, ours, rival in contests}
    lines = list(dict.fromkeys(line for line, _ in shares))
    ops = [op for op in (*OPS, *VJPS) if any(op == found for _, found in shares)]
    field = np.array([[shares.get((line, op), (np.nan,))[0] for op in ops] for line in lines])
    figure, ax = plt.subplots(figsize=(3.2 + 1.35 * len(ops), 1.6 + 0.42 * len(lines)), layout="constrained")
    span = max(2.0, np.nanmax(np.abs(np.log2(field))))
    image = ax.imshow(np.log2(field), cmap="RdBu_r", vmin=-span, vmax=span, aspect="auto")
    for i, line in enumerate(lines):
        for j, op in enumerate(ops):
            if (line, op) in shares:
                _annotate(ax, j, i, *shares[line, op], span)
    ax.set_xticks(range(len(ops)), ops)
    ax.set_yticks(range(len(lines)), lines)
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    bar = figure.colorbar(image, ax=ax, shrink=0.6)
    ticks = np.arange(-np.floor(span), np.floor(span) + 1)
    bar.set_ticks(ticks, labels=[f"{2**t:g}" if t >= 0 else f"1/{2**-t:g}" for t in ticks])
    bar.outline.set_visible(False)
    figure.suptitle("fastce's time ÷ that of its fastest rival (blue, below 1: fastce is faster)", fontweight="bold")
    return figure


def _line(case: Case) -> str:
    return f"{shape(case)}  {case.dtype}"


def _annotate(ax: Any, j: int, i: int, value: float, rival: Row, span: float) -> None:
    color = "white" if abs(np.log2(value)) > 0.55 * span else "black"
    ax.text(j, i - 0.14, _short(value), ha="center", va="center", color=color, fontweight="bold")
    ax.text(j, i + 0.24, label(rival["contender"]), ha="center", va="center", color=color, fontsize=6.5)


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 0.0995 else three_digits(value)


def roofline(run: dict[str, Any]) -> Any:
    """GB/s moved, against the logits' size, under what reading, copying and adding reach at best."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 5), sharey=True, layout="constrained")
    panels = (
        (axes[0], "reading: loss, logsumexp", READING),
        (axes[1], "copying: loss+grad, softmax, log_softmax, logsumexp_vjp", COPYING),
        (axes[2], "adding: softmax_vjp, log_softmax_vjp", ADDING),
    )
    for ax, title, pattern in panels:
        _roof(ax, [(c, rows) for c, rows in by_case(run["speed"]) if PATTERNS[c.op] == pattern])
        ax.axvline(run["facts"]["cache_bytes"] / 1e6, color="#999999", linewidth=0.8, linestyle=":")
        ax.set_title(title)
        ax.set_xlabel("MB of logits (dotted: the last-level cache)")
    axes[0].set_ylabel("GB/s, counting only the bytes that must move")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("How near to the memory's limit (each point a case)", x=0.01, ha="left", fontweight="bold")
    return figure


def _roof(ax: Any, cases: list[tuple[Case, dict[str, Row]]]) -> None:
    limits: dict[float, float] = {}
    for case, rows in cases:
        if LIMIT in rows:
            size = case.nbytes / 1e6
            limits[size] = max(limits.get(size, 0.0), rows[LIMIT]["gb_per_s"])
    if limits:
        ax.plot(*zip(*sorted(limits.items()), strict=True), label="measured limit", **LOOK[LIMIT])
    rivals, ours = [], []
    for case, rows in cases:
        best = next((rows[name] for name in REFERENCE if name in rows), None)
        ours += [(case.nbytes / 1e6, best["gb_per_s"])] if best else []
        found = [row["gb_per_s"] for name, row in rows.items() if is_rival(name)]
        rivals += [(case.nbytes / 1e6, max(found))] if found else []
    for points, name, text in ((rivals, "torch", "the fastest rival"), (ours, "fastce-out", "fastce")):
        look = {key: LOOK[name][key] for key in ("color", "marker")}
        if points:
            ax.plot(*zip(*points, strict=True), linestyle="", markersize=5, alpha=0.8, label=text, **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.grid(alpha=0.3)
