"""The plots, by seaborn.

The ordinary run: speed against batch size, a roofline, the training step. The full run: a heat map of fastce against
its fastest rival, the roofline, and the last layer over growing sizes.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bench import tables
from bench.cases import OPS, PATTERNS, VJPS, Op
from bench.contenders import LIMIT, PRODUCTS, REFERENCE, RIVALS
from bench.data import CASE, Run, nbytes
from bench.tables import LABELS, three_digits

# Okabe-Ito: tells the lines apart for colour-blind readers too.
LOOK = {
    "fastce-out": ("#D55E00", "o"),
    "fastce": ("#E69F00", "s"),
    "numpy": ("#56B4E9", "^"),
    "numpy-stable": ("#0072B2", "v"),
    "scipy": ("#009E73", "D"),
    "torch": ("#CC79A7", "P"),
    "torch-chunked": ("#8C4A73", "X"),
    "jax": ("#000000", "p"),
    LIMIT: ("#999999", "."),
    PRODUCTS: ("#999999", "."),
}
STYLE = {
    **{"svg.fonttype": "none", "svg.hashsalt": "fastce", "font.size": 9},
    "font.sans-serif": ["DejaVu Sans"],  # an SVG repeats the list with every text
    **{"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True},
}


def draw(run: Run, folder: Path, suffix: str) -> list[Path]:
    """Draw the plots of a run; return the files."""
    with plt.rc_context(STYLE):
        figures = dict(full_figures(run) if run.facts["full"] else ordinary_figures(run))
        return [write_figure(figure, folder / f"{name}.{suffix}") for name, figure in figures.items()]


def ordinary_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Yield each plot that an ordinary run has figures for, after its name."""
    for (op, dtype), group in tables.contests(run):
        yield f"speed-{op.replace('+', '-')}-{dtype}", speed(group)
    if (run.section("speed").contender == LIMIT).any():
        yield "memory-limit", roofline(run)
    if len(run.section("training")):
        yield "training", training(run.section("training"))


def full_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Yield each plot of a full run after its name."""
    yield "heatmap", heat_map(run)
    yield "roofline", roofline(run)
    if len(panels := growing(run.section("layer"))):
        yield "linear", layer(panels)


def write_figure(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return path


def lines(frame: pd.DataFrame, x: str, y: str, **facets: Any) -> sns.FacetGrid:
    """Draw a line a contender in each facet, on logarithmic scales."""
    names = [name for name in LOOK if name in set(frame.contender)]
    frame = frame[frame.contender.isin(names)]
    frame = frame.assign(label=frame.contender.map(LABELS))
    palette, markers = ({LABELS[name]: LOOK[name][i] for name in names} for i in (0, 1))
    looks = {"palette": palette, "markers": markers, "dashes": False, "errorbar": None, "hue_order": list(palette)}
    grid = sns.relplot(frame, kind="line", x=x, y=y, hue="label", style="label", **looks, **facets)
    for ax in grid.axes.flat:
        sizes = np.unique(np.concatenate([line.get_xdata() for line in ax.get_lines()]))
        sizes = sizes[np.append(True, np.diff(np.log(sizes)) > 0.1)]  # else their numbers overlap
        ax.set(xscale="log", yscale="log")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=45)
    return grid


def finished(grid: sns.FacetGrid, title: str) -> Figure:
    """Put the legend under the panels and the title above them."""
    figure, legend = grid.figure, grid.legend
    figure.set_layout_engine("constrained")
    if legend:
        texts = [text.get_text() for text in legend.get_texts()]
        figure.legend(legend.legend_handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
        legend.remove()
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def speed(frame: pd.DataFrame) -> Figure:
    """Draw million logits a second against batch size, one panel a class count, one line a contender."""
    frame = frame.assign(speed=frame.batch * frame.classes / frame["median"] / 1e6)
    grid = lines(frame, "batch", "speed", col="classes", height=4, aspect=0.9, facet_kws={"sharex": False})
    grid.set_titles("{col_name:,} classes").set_axis_labels("batch", "million logits a second")
    return finished(grid, f"{frame.op.iloc[0]}, {frame.dtype.iloc[0]} (higher is faster)")


def training(frame: pd.DataFrame) -> Figure:
    """Draw a training step, split into the loss and the rest of the network."""
    steps = pd.DataFrame(
        {"loss and its gradient": frame.loss_seconds, "all else": frame["median"] - frame.loss_seconds}
    )
    steps.index = frame.contender.map(LABELS) + ", batch " + frame.batch.map(str)
    colors = [LOOK["fastce-out"][0], "#cccccc"]
    ax = (1e6 * steps).plot.barh(stacked=True, color=colors, figsize=(7, 0.9 + 0.4 * len(frame)), ylabel="")
    ax.set(xlabel="µs a training step")
    ax.invert_yaxis()
    ax.figure.tight_layout()
    return ax.figure


def heat_map(run: Run) -> Figure:
    """Show fastce's time as a share of that of its fastest rival, named in each field; below 1 fastce is faster."""
    rivals = tables.fastest_rivals(run.section("speed"))
    rivals = rivals.assign(line=tables.shapes(rivals) + "  " + rivals.dtype, share=1 / rivals.ratio)
    shares = rivals.share.map(lambda value: f"{value:.3f}" if value < 0.0995 else three_digits(value))
    rivals = rivals.assign(text=shares + "\n" + rivals.contender.map(LABELS), log=np.log2(rivals.share))
    ops = [op for op in (*OPS, *VJPS) if op in set(rivals.op)]
    table = rivals.pivot(index="line", columns="op").loc[rivals.line.unique()]
    fields, texts = table["log"][ops], table["text"][ops]
    span = max(2.0, fields.abs().max().max())
    ticks = np.arange(-np.floor(span), np.floor(span) + 1)
    figure, ax = plt.subplots(figsize=(3.2 + 1.35 * len(ops), 1.6 + 0.42 * len(fields)), layout="constrained")
    looks = {"cmap": "RdBu_r", "vmin": -span, "vmax": span, "annot_kws": {"fontsize": 7.5}}
    sns.heatmap(fields, annot=texts.fillna(""), fmt="", ax=ax, cbar_kws={"ticks": ticks, "shrink": 0.6}, **looks)
    bar = ax.collections[0].colorbar
    bar.set_ticks(ticks, labels=[f"{2**t:g}" if t >= 0 else f"1/{2**-t:g}" for t in ticks])
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.set(xlabel="", ylabel="")
    ax.grid(False)
    figure.suptitle("fastce's time ÷ that of its fastest rival (blue, below 1: fastce is faster)", fontweight="bold")
    return figure


def roofline(run: Run) -> Figure:
    """Draw GB/s moved, against the logits' size, under what reading, copying and adding reach at best."""
    frame = run.section("speed")
    frame = frame.assign(mb=nbytes(frame) / 1e6, pattern=frame.op.map(PATTERNS))
    ours = pd.concat([frame[frame.contender == name] for name in REFERENCE]).drop_duplicates(CASE)
    rivals = frame[frame.contender.isin(RIVALS)]
    rivals = rivals.loc[rivals.groupby(CASE)["gb_per_s"].idxmax()]
    points = pd.concat([rivals.assign(who="the fastest rival"), ours.assign(who="fastce")])
    limits = frame[frame.contender == LIMIT].groupby(["pattern", "mb"]).gb_per_s.max()
    colors = {"the fastest rival": LOOK["torch"][0], "fastce": LOOK["fastce-out"][0]}
    patterns = [pattern for pattern in dict.fromkeys(PATTERNS.values()) if pattern in set(points.pattern)]
    looks = {"palette": colors, "hue": "who", "hue_kws": {"marker": ["o", "X"]}}
    grid = sns.FacetGrid(points, col="pattern", col_order=patterns, height=5, aspect=0.95, **looks)
    # markers of a line plot, of which an SVG holds the shape once; a scatter plot would hold it for every point
    grid.map(plt.plot, "mb", "gb_per_s", linestyle="none", alpha=0.8, markeredgewidth=0).add_legend(title="")
    for pattern, ax in grid.axes_dict.items():
        ax.plot(limits[pattern].index, limits[pattern], "--", color=LOOK[LIMIT][0], zorder=0)
        ax.axvline(run.facts["cache_bytes"] / 1e6, color=LOOK[LIMIT][0], linewidth=0.8, linestyle=":")
        ops = [op for op, kind in PATTERNS.items() if kind == pattern and op in set(points.op)]
        ax.set(xscale="log", yscale="log", title=f"{pattern}: {', '.join(ops)}")
        ax.minorticks_off()
    grid.set_axis_labels("MB of logits (dotted: the last-level cache)", "GB/s, counting only the bytes that must move")
    return finished(grid, "How near to the memory's limit (each point a case; dashed: the measured limit)")


def growing(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records of the last layer over growing tokens and over growing classes, each in a panel."""
    parts = [pd.DataFrame()]
    for axis, fixed in (("batch", ["features", "classes"]), ("classes", ["batch", "features"])):
        for values, group in frame[frame.op == Op.LAYER_GRADS].groupby(fixed, sort=False):
            if group[axis].nunique() > 2:
                sizes = " and ".join(f"{value:,} {name}" for name, value in zip(fixed, values, strict=True))
                title = f"{axis}, at {sizes}".replace("batch", "tokens")
                parts.append(group.assign(panel=title, size=group[axis]))
    return pd.concat(parts)


def layer(frame: pd.DataFrame) -> Figure:
    """Draw time and memory of the last layer over tokens and over classes."""
    frame = frame.assign(seconds=frame["median"], megabytes=frame.bytes.where(frame.bytes > 0) / 1e6)
    figures = frame.melt(["panel", "size", "contender"], ["seconds", "megabytes"]).dropna()
    facets = {"sharex": "col", "sharey": "row"}
    grid = lines(figures, "size", "value", row="variable", col="panel", height=3.8, aspect=1.5, facet_kws=facets)
    grid.set_titles("{col_name}").set_axis_labels("", "")
    grid.axes[0, 0].set_ylabel("seconds")
    grid.axes[1, 0].set_ylabel("peak extra memory, MB")
    return finished(grid, "The last layer and its loss: loss and gradients, float32")
