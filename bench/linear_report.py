"""What the full run says of the last layer and its loss: tables, bars and plots of time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.bars import Verdict
from bench.linear import CLASSES, LARGE, MAIN, TOKENS
from bench.linear_contenders import CONTENDERS, FASTCE, GRADS, LOSS, PRODUCTS, TORCH, Shape
from bench.plots import plt, write_figure
from bench.tables import BEST, FAINT, Cell, Table, duration, three_digits

Row = dict[str, Any]
AXES = (("tokens", ("features", "classes")), ("classes", ("tokens", "features")))
# Okabe-Ito, as in the other plots
LOOK: dict[str, dict[str, Any]] = {
    "fastce-out": {"color": "#D55E00", "marker": "o", "linewidth": 2.4, "zorder": 5},
    "fastce": {"color": "#E69F00", "marker": "s", "linewidth": 1.8, "zorder": 4},
    "numpy": {"color": "#56B4E9", "marker": "^"},
    "torch": {"color": "#CC79A7", "marker": "D"},
    "torch-chunked": {"color": "#8C4A73", "marker": "v"},
    "jax": {"color": "#009E73", "marker": "P"},
    PRODUCTS: {"color": "#999999", "linestyle": "--"},
}


def shape_of(row: Row) -> Shape:
    return Shape(row["tokens"], row["features"], row["classes"])


def by_case(rows: list[Row]) -> dict[tuple[Shape, str], dict[str, Row]]:
    """Return the rows of each shape and operation by contender."""
    found: dict[tuple[Shape, str], dict[str, Row]] = {}
    for row in rows:
        found.setdefault((shape_of(row), row["op"]), {})[row["contender"]] = row
    return found


# --- bars ------------------------------------------------------------------------


def verdicts(rows: list[Row]) -> list[Verdict]:
    """Judge what `linear_cross_entropy` has to keep."""
    cases = by_case(rows)
    main = {op: cases.get((MAIN, op), {}) for op in (LOSS, GRADS)}

    def share(op: str) -> list[tuple[str, float]]:
        found, bare = _ours(main[op]), main[op].get(PRODUCTS)
        return [(str(MAIN), found["median"] / bare["median"])] if found and bare else []

    gains = []
    for (shape, op), players in cases.items():
        found, rivals = _ours(players), [players[name]["median"] for name in TORCH if name in players]
        if found and rivals and shape in (MAIN, LARGE, *TOKENS, *CLASSES):
            gains.append((f"{op} {shape}", min(rivals) / found["median"]))
    large = cases.get((LARGE, GRADS), {}).get("fastce")
    beyond = []
    if large and large["bytes"] is not None:
        gradients = 4 * LARGE.features * (LARGE.tokens + LARGE.classes)
        beyond = [(str(LARGE), (large["bytes"] - gradients) / 1e6)]
    return [
        Verdict(f"last layer: loss and all gradients at {MAIN} ≤ 1.15 × its three products", 1.15, False, share(GRADS)),
        Verdict(f"last layer: loss at {MAIN} ≤ 1.25 × its product", 1.25, False, share(LOSS)),
        Verdict("last layer ≥ 1 × the best of torch's ways", 1, True, gains),
        Verdict(f"last layer: memory at {LARGE} ≤ 300 MB beyond the gradients", 300, False, beyond),
    ]


def _ours(players: dict[str, Row]) -> Row | None:
    return next((players[name] for name in FASTCE if name in players), None)


# --- tables ----------------------------------------------------------------------


def tables(rows: list[Row]) -> Iterator[Table]:
    """Yield a table for each of the shapes that all contenders play, then those of growing sizes."""
    growing = [row for *_, group in groups(rows) for row in group]
    yield from shape_tables([row for row in rows if row not in growing])
    for axis, fixed, group in groups(rows):
        yield _growth_table(f"last layer, {GRADS}, {fixed}, float32: median time", axis, group, _time)
        yield _growth_table(f"last layer, {GRADS}, {fixed}, float32: peak extra memory", axis, group, _memory)


def shape_tables(rows: list[Row]) -> Iterator[Table]:
    """Yield a table of every shape and operation."""
    for (shape, op), players in by_case(rows).items():
        bare = players.get(PRODUCTS)
        best = min((row["median"] for name, row in players.items() if name != PRODUCTS), default=0)
        header = ["contender", "median", "least", "× products", "peak extra memory"]
        table = Table(f"last layer, {op}, {shape}, float32", header)
        for name, row in players.items():
            mark = FAINT if name == PRODUCTS else BEST if row["median"] == best else ""
            ratio = three_digits(row["median"] / bare["median"]) if bare else "–"
            texts = CONTENDERS[name].label, _time(row), duration(row["min"]), ratio, _memory(row)
            table.rows.append([Cell(text, mark) for text in texts])
        yield table


def groups(rows: list[Row]) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield (axis, the other sizes in words, rows) where only one size changes."""
    for axis, others in AXES:
        found: dict[tuple[int, ...], list[Row]] = {}
        for row in rows:
            if row["op"] == GRADS:
                found.setdefault(tuple(row[name] for name in others), []).append(row)
        for values, group in found.items():
            if len({row[axis] for row in group}) > 1:
                fixed = ", ".join(f"{value:,} {name}" for name, value in zip(others, values, strict=True))
                yield axis, fixed, sorted(group, key=lambda row: row[axis])


def _growth_table(title: str, axis: str, rows: list[Row], text: Any) -> Table:
    names = [name for name in CONTENDERS if any(row["contender"] == name for row in rows)]
    table = Table(title, [axis, *(CONTENDERS[name].label for name in names)])
    for size in dict.fromkeys(row[axis] for row in rows):
        players = {row["contender"]: row for row in rows if row[axis] == size}
        best = min((row["median"] for name, row in players.items() if name != PRODUCTS), default=0)
        cells = [Cell(f"{size:,}")]
        for name in names:
            row = players.get(name)
            mark = BEST if row and text is _time and row["median"] == best else ""
            cells.append(Cell(text(row) if row else "–", mark))
        table.rows.append(cells)
    return table


def _time(row: Row) -> str:
    return duration(row["median"])


def _memory(row: Row) -> str:
    return "–" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.0f} MB"


def readme_table(rows: list[Row]) -> Table:
    """Return the first shape's figures, a line a contender."""
    loss, both = (by_case(rows).get((MAIN, op), {}) for op in (LOSS, GRADS))
    table = Table("", ["", LOSS, GRADS, "memory, loss", f"memory, {GRADS}"])
    for name, contender in CONTENDERS.items():
        found = loss.get(name), both.get(name)
        times = [f"{_time(row)}{_share(row, op)}" if row else "–" for row, op in zip(found, (loss, both), strict=True)]
        memory = [_memory(row) if row and name != PRODUCTS else "–" for row in found]
        if any(found):
            table.rows.append([Cell(contender.label), *map(Cell, (*times, *memory))])
    return table


def _share(row: Row, players: dict[str, Row]) -> str:
    return f" ({three_digits(row['median'] / players[PRODUCTS]['median'])})" if PRODUCTS in players else ""


def memory_line(rows: list[Row]) -> str:
    """Say what the largest shape takes."""
    players = by_case(rows).get((LARGE, GRADS), {})
    texts = [f"{CONTENDERS[name].label} {_memory(row)}" for name, row in players.items() if name != PRODUCTS]
    logits = 4e-9 * LARGE.tokens * LARGE.classes
    return f"At {LARGE}, whose logits are {logits:.1f} GB, loss and gradients take: {', '.join(texts)}."


# --- plots -----------------------------------------------------------------------


def draw(rows: list[Row], folder: Path, suffix: str) -> list[Path]:
    """Draw time and memory over tokens and over classes, a line a contender; return the file, if there is any."""
    panels = list(groups(rows))
    if not panels:
        return []
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastce", "font.size": 9}):
        figure, axes = plt.subplots(
            2, len(panels), figsize=(5.2 * len(panels), 7), squeeze=False, sharey="row", layout="constrained"
        )
        for column, (axis, fixed, group) in zip(axes.T, panels, strict=True):
            _lines(column[0], axis, group, "median", 1)
            _lines(column[1], axis, [row for row in group if row["bytes"]], "bytes", 1e-6)
            column[0].set_title(fixed)
            column[1].set_xlabel(axis)
        axes[0, 0].set_ylabel("seconds")
        axes[1, 0].set_ylabel("peak extra memory, MB")
        lines = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, frameon=False)
        title = "The last layer and its loss: loss and gradients, float32"
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        return [write_figure(figure, folder / f"linear.{suffix}")]


def _lines(ax: Any, axis: str, rows: list[Row], what: str, unit: float) -> None:
    for name in CONTENDERS:
        points = [(row[axis], row[what] * unit) for row in rows if row["contender"] == name]
        if points:
            ax.plot(*zip(*points, strict=True), label=CONTENDERS[name].label, markersize=4, **LOOK.get(name, {}))
    sizes = sorted({row[axis] for row in rows})
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
    ax.minorticks_off()
    ax.grid(alpha=0.3)
