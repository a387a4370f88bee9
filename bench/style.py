"""The look of all pictures: colours, type, direct labels, and SVG files that stand on any page.

Backgrounds are transparent. Text and lines have colours of nearly the same contrast, about 4, with white and with the
near-black of dark pages, so one file serves both. A library has one colour and one marker in all pictures.
"""

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.optimize import isotonic_regression

INK = "#7c7c7c"  # text, axes and limits
FASTCE, NUMPY, SCIPY, TORCH, JAX = "#D55E00", "#2f7fc1", "#1f9e5a", "#b8609a", "#8a3ffc"
LOOKS: dict[str, dict[str, Any]] = {
    "fastce": {"color": FASTCE, "marker": "o", "linewidth": 2.8, "zorder": 3},
    "NumPy": {"color": NUMPY, "marker": "s"},
    "SciPy": {"color": SCIPY, "marker": "D"},
    "PyTorch": {"color": TORCH, "marker": "^"},
    "PyTorch, chunks": {"color": TORCH, "marker": "X", "linestyle": "-."},
    "JAX": {"color": JAX, "marker": "p"},
    "memory limit": {"color": INK, "linestyle": "--", "linewidth": 1.2, "zorder": 1},
    "bare products": {"color": INK, "linestyle": "--", "linewidth": 1.2, "zorder": 1},
}
FONTS = "Helvetica, Arial, 'Liberation Sans', sans-serif"
LARGE, SMALL = 12.5, 9  # points of the title, and of notes; all else has 10.5, which is 14 pixels
STYLE: dict[str, Any] = {
    **{"svg.fonttype": "none", "svg.hashsalt": "fastce", "savefig.transparent": True},
    **{"font.size": 10.5, "font.sans-serif": ["DejaVu Sans"], "axes.titlesize": 10.5, "axes.titleweight": "bold"},
    **{f"{name}.color": INK for name in ("text", "xtick", "ytick", "grid")},
    **{"axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": INK, "axes.axisbelow": True},
    **{"axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.8, "axes.spines.top": False},
    **{"axes.spines.right": False, "axes.spines.left": False, "ytick.left": False, "xtick.bottom": False},
    **{"lines.linewidth": 2.2, "lines.markersize": 6, "figure.constrained_layout.use": True},
    **{"legend.frameon": False, "legend.handlelength": 1.2, "legend.columnspacing": 1.2},
}


def panels(columns: int, size: tuple[int, int], title: str, rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a titled figure of so many pixels of a web page, and its axes, a row a list."""
    figure, axes = plt.subplots(rows, columns, figsize=(size[0] / 96, size[1] / 96), squeeze=False, **options)
    figure.suptitle(title, x=0.005, ha="left", fontweight="bold", fontsize=LARGE)
    return figure, axes


def log_axis(ax: Axes, which: str, ticks: Iterable[float]) -> None:
    """Make an axis logarithmic, with these ticks as plain numbers."""
    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    axis.set_minor_locator(NullLocator())
    axis.set_ticks(list(ticks), [f"{tick:,.10g}" for tick in ticks])


def decades(values: Iterable[float], step: int = 1) -> list[float]:
    """Return the powers of 10**step within the range of the values."""
    low, high = min(values), max(values)
    powers = range(int(np.ceil(np.log10(low))), int(np.floor(np.log10(high))) + 1)
    found = [10.0**power for power in powers if power % step == 0]
    return found or [float(f"{value:.2g}") for value in (low, high)]


def label_ends(ax: Axes, texts: Iterable[str], size: float = 10.5) -> None:
    """Write the name of each line of a logarithmic plot right of its end, no name on another."""
    ax.figure.draw_without_rendering()  # which gives the axes their place
    lines = sorted(zip(ax.get_lines(), texts, strict=False), key=lambda pair: pair[0].get_ydata()[-1])
    heights = np.log10([line.get_ydata()[-1] for line, _ in lines])
    low, high = np.log10(ax.get_ylim())
    pixels = ax.get_window_extent().height * 96 / ax.figure.dpi
    gaps = 1.75 * size * (high - low) / pixels * np.arange(len(lines))
    places = isotonic_regression(heights - gaps).x + gaps  # the nearest that keep the gaps
    for (line, text), place in zip(lines, places, strict=True):
        weight = "bold" if text == "fastce" else "normal"
        look = {"color": line.get_color(), "fontsize": size, "fontweight": weight, "va": "center"}
        ax.annotate(text, (line.get_xdata()[-1], 10**place), (8, 0), textcoords="offset points", **look)


def write_figure(figure: Figure, path: Path, description: str) -> tuple[Path, str]:
    """Write a figure made under ``STYLE``; return the file and the title. An SVG has title and description inside."""
    title = figure.get_suptitle()
    figure.savefig(path, dpi=144)
    plt.close(figure)
    if path.suffix == ".svg":
        text = plain_svg(path.read_text(encoding="utf-8"), title, description)
        path.write_text(text, encoding="utf-8", newline="\n")
    return path, title


def two_digits(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def plain_svg(svg: str, title: str, description: str) -> str:
    """Drop what a browser does not need from an SVG of matplotlib; add title, description and font."""
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{3,}", two_digits, tag[0]), svg)
    svg = re.sub(r" ?\n(?=[MLCQz\"])", " ", svg)  # paths have a line a point
    svg = re.sub(r"font-family: [^;\"]*; | transform=\"rotate\(-0[^\"]*\"", "", svg)
    svg = re.sub(r"\n\s+", "\n", svg)
    head = f'<title id="title">{escape(title)}</title>\n<desc id="desc">{escape(description)}</desc>\n'
    head += f"<style>text {{font-family: {FONTS}}}</style>\n"
    start, end = svg[: svg.index(">")], svg[svg.index(">") + 2 :]
    return f'{start} role="img" aria-labelledby="title desc">\n{head}{end}'
