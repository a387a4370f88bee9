"""Draws docs/accuracy.svg from the tables of docs/accuracy.md, so that picture and page cannot differ."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from bench.style import INK, LOOKS, STYLE, log_axis, panels, write_figure

DOCS = Path(__file__).parents[1] / "docs"
DTYPE = "float32"
SHOWN = ("Log-sum-exp", "Softmax", "Log-softmax", "Cross-entropy", "Gradient of cross-entropy")
NAMES = {"torch": "PyTorch"}
LEAST = 0.1  # eps; what is less is drawn there
Errors = dict[str, dict[str, float]]  # of a regime, then a library


def errors(page: str) -> dict[str, Errors]:
    """Return the worst errors of the quantities that are drawn."""
    found: dict[str, Errors] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, *lines = section.splitlines()
        if title in SHOWN:
            head, _, *rows = (line.strip("| ").split(" | ") for line in lines if line.startswith("|"))
            names = [NAMES.get(name, name) for name in head[2:]]
            values = {row[1]: dict(zip(names, map(float, row[2:]), strict=True)) for row in rows if row[0] == DTYPE}
            found[title] = values
    return found


def draw(found: dict[str, Errors]) -> Figure:
    """Draw a panel a quantity, a line a regime, a point a library."""
    worst: dict[str, float] = {}
    for regimes in found.values():
        for values in regimes.values():
            for name, error in values.items():
                worst[name] = max(error, worst.get(name, 0.0))
    texts = {name: f"{error:,.0f}" if error < 1e6 else f"{error / 1e6:.0f} million" for name, error in worst.items()}
    title = f"Worst {DTYPE} error of all these cases, in eps: {', '.join(map(' '.join, texts.items()))}"
    figure, axes = panels(len(found), (1000, 400), title, sharex=True, sharey=True)
    for ax, (quantity, regimes) in zip(axes[0], found.items(), strict=True):
        for i, name in enumerate(worst):
            places = [place + 0.18 * (i - (len(worst) - 1) / 2) for place in range(len(regimes))]  # none hides another
            points = [max(values[name], LEAST) for values in regimes.values()]
            ax.plot(points, places, markeredgewidth=0, label=name, **LOOKS[name] | {"linestyle": "none"})
        ax.axvline(5, color=INK, linestyle="--", linewidth=1.2, zorder=1)
        ax.set_title(quantity.replace("of cross", "of\ncross"), loc="left")
        ax.set_yticks(range(len(regimes)), list(regimes))
        log_axis(ax, "x", [1, 1000, 1e6])
        ax.set_xticklabels(["1", "10³", "10⁶"])
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(loc="center right")
    text = "worst error against exact arithmetic, in eps: further left is better (dashed: 5 eps)"
    figure.supxlabel(text, fontsize=10.5)
    return figure


def main() -> None:
    """Write docs/accuracy.svg."""
    with plt.rc_context(STYLE):
        figure = draw(errors((DOCS / "accuracy.md").read_text(encoding="utf-8")))
        text = "A panel a quantity, a row a kind of logits, a point a library; the error axis is logarithmic."
        write_figure(figure, DOCS / "accuracy.svg", text)


if __name__ == "__main__":
    main()
