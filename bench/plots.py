"""The pictures of a run, each titled by what it shows.

The ordinary run: speed against batch size, a roofline, the training step. The full run: a heat map of fastce against
its fastest rival, the roofline, and the last layer over growing sizes.
"""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure

from bench import tables
from bench.cases import OPS, PATTERNS, VJPS, Op
from bench.contenders import LIMIT, PRODUCTS, REFERENCE, RIVALS
from bench.data import CASE, Run, nbytes
from bench.style import (
    FASTCE,
    INK,
    LOOKS,
    NUMPY,
    SMALL,
    STYLE,
    decades,
    label_ends,
    log_axis,
    panels,
    write_figure,
)
from bench.tables import LABELS, three_digits

# The lines of the pictures. Of two contenders of one name the faster in a case counts, but for fastce, where it is the
# one that all are compared with.
NAMES = {
    **dict.fromkeys(REFERENCE, "fastce"),
    **{"numpy": "NumPy", "numpy-stable": "NumPy", "scipy": "SciPy", "torch": "PyTorch", "jax": "JAX"},
    **{"torch-chunked": "PyTorch, chunks", LIMIT: "memory limit", PRODUCTS: "bare products"},
}
WHAT = {
    **{Op.LOSS: "Loss", Op.LOSS_GRAD: "Loss and gradient", Op.INPLACE: "Loss and gradient in place"},
    **{Op.SOFTMAX: "Softmax", Op.LOG_SOFTMAX: "Log-softmax", Op.LSE: "Log-sum-exp"},
    **{Op.SOFTMAX_VJP: "Softmax backward", Op.LOG_SOFTMAX_VJP: "Log-softmax backward"},
    **{Op.LSE_VJP: "Log-sum-exp backward"},
}
ON_FIELDS = "#151515"  # text on the fields of the heat map
Figures = Iterator[tuple[str, Figure, str]]  # name, figure, description


def draw(run: Run, folder: Path, suffix: str) -> dict[Path, str]:
    """Draw the pictures of a run; return the files, each with its title."""
    with plt.rc_context(STYLE):
        figures = full_figures(run) if run.facts["full"] else ordinary_figures(run)
        return dict(write_figure(figure, folder / f"{name}.{suffix}", text) for name, figure, text in figures)


def ordinary_figures(run: Run) -> Figures:
    """Yield each picture that an ordinary run has figures for."""
    for (op, dtype), group in tables.contests(run):
        text = "Million logits a second against the batch size, a line a library, both axes logarithmic."
        yield f"speed-{op.replace('+', '-')}-{dtype}", speed(group), text
    if (run.section("speed").contender == LIMIT).any():
        yield "memory-limit", *roofline(run)
    if len(run.section("training")):
        yield "training", training(run.section("training")), "Bars: the time of a step, and the loss's part of it."


def full_figures(run: Run) -> Figures:
    """Yield each picture of a full run."""
    yield "heatmap", heat_map(run), "A field a case: the time of the fastest rival divided by fastce's; its name."
    yield "roofline", *roofline(run)
    if len(growth := growing(run.section("layer"))):
        yield "linear", layer(growth), "Seconds and memory against tokens and against classes, all axes logarithmic."


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the record that counts of each name in each case."""
    frame = frame.assign(name=frame.contender.map(NAMES)).dropna(subset="name")
    frame = frame.assign(rank=frame["median"].where(frame.contender != REFERENCE[0], 0))
    return frame.loc[frame.groupby([*CASE, "name"], sort=False)["rank"].idxmin()]


def draw_lines(ax: Axes, frame: pd.DataFrame, x: str, y: str) -> list[str]:
    """Draw a line a name; return the names."""
    names = [name for name in LOOKS if name in set(frame.name)]
    for name in names:
        line = frame[frame.name == name].sort_values(x)
        ax.plot(line[x], line[y], markeredgewidth=0, **LOOKS[name])
    return names


def ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """Return how many times as long as fastce PyTorch and NumPy take, a column each, by classes and batch."""
    times = frame.pivot(index=["classes", "batch"], columns="name", values="median")
    rivals = times[[name for name in ("PyTorch", "NumPy") if name in times and "fastce" in times]]
    return rivals.div(times["fastce"], axis=0) if len(rivals.columns) else rivals


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.5 else f"{value:.1f}"


def speed(frame: pd.DataFrame) -> Figure:
    """Draw million logits a second against batch size, a panel a class count, a line a library."""
    frame = named(frame)
    frame = frame.assign(speed=frame.batch * frame.classes / frame["median"] / 1e6)
    factors = ratios(frame)
    spans = zip(factors, factors.min().map(short), factors.max().map(short), strict=True)
    parts = [f"{'–'.join(dict.fromkeys(span))} × as fast as {name}" for name, *span in spans]
    title = f"{WHAT[frame.op.iloc[0]]}: " + (f"fastce is {', '.join(parts)}" if parts else "million logits a second")
    groups = list(frame.groupby("classes"))
    figure, axes = panels(len(groups), (900, 330), title, sharex=True, sharey=True)
    for ax, (classes, group) in zip(axes[0], groups, strict=True):
        names = draw_lines(ax, group, "batch", "speed")
        last = factors.loc[classes].iloc[-1].dropna()
        note = ", ".join(f"{short(factor)} × {name}" for name, factor in last.items())
        ax.set_title(f"{classes:,} classes", loc="left", pad=24)
        ax.text(0, 1.03, note, color=FASTCE, fontsize=11.5, fontweight="bold", transform=ax.transAxes)
        log_axis(ax, "x", decades(frame.batch, 2))
        log_axis(ax, "y", decades(frame.speed))
    label_ends(axes[0, -1], names)
    figure.supxlabel(f"batch size ({frame.dtype.iloc[0]}; factors: at the largest batch)", fontsize=10.5)
    axes[0, 0].set_ylabel("million logits a second\n(higher is faster)")
    return figure


def training(frame: pd.DataFrame) -> Figure:
    """Draw a training step, split into the loss and the rest of the network."""
    frame = named(frame).sort_values(["batch", "median"])
    frame = frame.assign(share=frame.loss_seconds / frame["median"])
    first = frame[frame.batch == frame.batch.min()].set_index("name")
    parts = [f"{share:.0%} with {name}" for name, share in first.share.items()]
    title = f"Of a small network’s training step (batch {first.batch.iloc[0]}) the loss takes {', '.join(parts)}"
    figure, ((ax,),) = panels(1, (900, 70 + 36 * len(frame)), title)
    names = frame.name + ", batch " + frame.batch.map(str)
    ax.barh(names, 1e6 * frame.loss_seconds, color=[LOOKS[name]["color"] for name in frame.name])
    rest = 1e6 * (frame["median"] - frame.loss_seconds)
    ax.barh(names, rest, left=1e6 * frame.loss_seconds, color=INK, alpha=0.3)
    ax.set_xlabel("µs a step: the loss and its gradient in colour, all else in grey")
    ax.grid(visible=False, axis="y")
    ax.invert_yaxis()
    return figure


def heat_map(run: Run) -> Figure:
    """Show how many times as long as fastce its fastest rival takes, and who that is; above 1 fastce is faster."""
    rivals = tables.fastest_rivals(run.section("speed"))
    rivals = rivals.assign(line=tables.shapes(rivals) + "  " + rivals.dtype, log=np.log2(rivals.ratio))
    ops = [op for op in (*OPS, *VJPS) if op in set(rivals.op)]
    table = rivals.pivot(index="line", columns="op").loc[rivals.line.unique()]
    fields, factors, names = (table[column][ops].to_numpy() for column in ("log", "ratio", "contender"))
    won = f"in {(rivals.ratio > 1).sum()} of {len(rivals)} cases"
    title = f"How many times as fast as the best other library: above 1, fastce leads, {won}"
    figure, ((ax,),) = panels(1, (1000, 90 + 38 * len(fields)), title)
    colors = LinearSegmentedColormap.from_list("", [NUMPY, "#f6f2ee", FASTCE])
    scale = TwoSlopeNorm(0, min(-1.0, np.nanmin(fields)), max(1.0, np.nanmax(fields)))
    ax.pcolormesh(fields, cmap=colors, norm=scale, edgecolors="white", linewidth=1)
    for place in np.argwhere(~np.isnan(fields)):
        (row, column), look = place, {"ha": "center", "color": ON_FIELDS}
        ax.text(column + 0.5, row + 0.47, three_digits(factors[row, column]), fontweight="bold", **look)
        ax.text(column + 0.5, row + 0.83, LABELS[names[row, column]].split()[0], fontsize=SMALL - 0.5, **look)
    ax.set_xticks(np.arange(len(ops)) + 0.5, [op.replace("_vjp", "\n_vjp") for op in ops])
    ax.set_yticks(np.arange(len(fields)) + 0.5, table.index)
    ax.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.invert_yaxis()
    ax.grid(visible=False)
    return figure


def roofline(run: Run) -> tuple[Figure, str]:
    """Draw GB/s moved, against the logits' size, under what reading, copying and adding reach at best."""
    frame = run.section("speed")
    frame = frame.assign(mb=nbytes(frame) / 1e6, pattern=frame.op.map(PATTERNS))
    ours = tables.ours(frame)
    rivals = frame[frame.contender.isin(RIVALS)]
    rivals = rivals.loc[rivals.groupby(CASE)["gb_per_s"].idxmax()]
    limits = frame[frame.contender == LIMIT].groupby(["pattern", "mb"]).gb_per_s.max()
    cache = run.facts["cache_bytes"] / 1e6
    points = pd.concat([ours, rivals])
    large = min(cache, points.mb.max())  # where no array is beyond the cache: the largest
    whose = {"fastce": ours, "the fastest rival": rivals}
    shares = {name: cases[cases.mb >= large].share.median() for name, cases in whose.items()}
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0)
    title = f"Share of the memory’s speed that large arrays reach: {parts} (medians)"
    patterns = [pattern for pattern in dict.fromkeys(PATTERNS.values()) if pattern in set(points.pattern)]
    figure, axes = panels(len(patterns), (900, 380), title, sharex=True, sharey=True)
    for ax, pattern in zip(axes[0], patterns, strict=True):
        for cases, color, marker in ((rivals, INK, "X"), (ours, FASTCE, "o")):
            cases = cases[cases.pattern == pattern]
            ax.plot(cases.mb, cases.gb_per_s, marker, color=color, markeredgewidth=0, alpha=0.85)
        ax.plot(limits[pattern].index, limits[pattern], **LOOKS["memory limit"])
        ax.axvline(cache, 0.35, color=INK, linewidth=1, linestyle=":")
        ops = [op for op, kind in PATTERNS.items() if kind == pattern and op in set(points.op)]
        ax.set_title(pattern, loc="left", pad=32)
        ax.text(0, 1.03, fill(", ".join(ops), 36), fontsize=SMALL, transform=ax.transAxes)
        log_axis(ax, "x", decades(frame.mb, 2))
        log_axis(ax, "y", decades(frame.gb_per_s))
    figure.supxlabel("MB of logits (dotted: the last-level cache)", fontsize=10.5)
    axes[0, 0].set_ylabel("GB/s of the bytes that must move")
    handles = dict(zip(("the fastest rival", "fastce", "memory limit"), axes[0, 0].get_lines(), strict=False))
    axes[0, -1].legend(handles.values(), handles, loc="lower right")
    return figure, "A point a case: bytes moved a second against the size of the logits; the measured limit as a line."


def growing(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the records of the last layer over growing tokens and over growing classes, each in a panel."""
    parts = [pd.DataFrame()]
    for axis, fixed in (("batch", ["features", "classes"]), ("classes", ["batch", "features"])):
        for values, group in frame[frame.op == Op.LAYER_GRADS].groupby(fixed, sort=False):
            if group[axis].nunique() > 2:
                sizes = ", ".join(f"{value:,} {name}" for name, value in zip(fixed, values, strict=True))
                title = f"{axis} ({sizes})".replace("batch", "tokens")
                parts.append(group.assign(panel=title, size=group[axis]))
    return pd.concat(parts)


def layer(frame: pd.DataFrame) -> Figure:
    """Draw time and memory of the last layer over tokens and over classes."""
    # one line a name; the shapes of the two ways of growing overlap
    frame = pd.concat([named(group).assign(panel=panel) for panel, group in frame.groupby("panel", sort=False)])
    frame = frame.assign(megabytes=frame.bytes.where(frame.bytes > 0).astype(float) / 1e6)
    last = frame[frame.panel == frame.panel.iloc[0]]
    last = last[last["size"] == last["size"].max()].set_index("name")
    title = f"The last layer, loss and gradients at {last.batch.iloc[0]:,} × {last.classes.iloc[0]:,}"
    if {"fastce", "PyTorch"} <= set(last.index):
        speed, memory = (last[column]["PyTorch"] / last[column]["fastce"] for column in ("median", "megabytes"))
        title += f": {short(speed)} × PyTorch’s speed" + (f" in 1/{memory:.0f} of its memory" if memory > 1 else "")
    names = list(frame.panel.unique())
    figure, axes = panels(len(names), (900, 600), title, rows=2, sharex="col", sharey="row")
    for column, panel in enumerate(names):
        group = frame[frame.panel == panel]
        for row, y in enumerate(("median", "megabytes")):
            ax = axes[row, column]
            drawn = draw_lines(ax, group.dropna(subset=y), "size", y)
            sizes = np.unique(group["size"])
            log_axis(ax, "x", sizes[np.append(True, np.diff(np.log(sizes)) > 0.1)][::2])
            log_axis(ax, "y", decades(frame[y].dropna()))
            if column == len(names) - 1:
                label_ends(ax, drawn)
        axes[1, column].set_xlabel(panel)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("extra memory, MB")
    return figure
