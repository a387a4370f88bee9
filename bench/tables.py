"""The figures as tables, once for the terminal and once for Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from bench.cases import ARRAYS, INPLACE, PATTERNS, ROWS, SCALE, Case
from bench.contenders import CONTENDERS, LIMIT, contender, is_rival, split
from bench.results import Row, by_case, case_of

Results = dict[str, Any]
BEST, AHEAD, FAINT = "bold green", "bold red", "dim"


@dataclass
class Cell:
    """A table's cell; the mark is a rich style, which in Markdown is bold type or none."""

    text: str
    mark: str = ""

    def markdown(self) -> str:
        """Return the text, bold if it is the best."""
        return f"**{self.text}**" if self.mark == BEST else self.text


@dataclass
class Table:
    """A titled table of cells."""

    title: str
    header: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    note: str = ""

    def rich(self) -> RichTable:
        """Return the table for the terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold", caption=self.note or None)
        table.caption_justify = "left"
        for i, name in enumerate(self.header):
            table.add_column(name, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*(Text(cell.text, style=cell.mark) for cell in row))
        return table

    def markdown(self, heading: str = "###") -> str:
        """Return the table in Markdown."""
        lines = [f"{heading} {self.title}", ""] if self.title else []
        lines += ["| " + " | ".join(self.header) + " |", "|:--|" + "--:|" * (len(self.header) - 1)]
        lines += ["| " + " | ".join(cell.markdown() for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, "", self.note, ""] if self.note else [*lines, ""])


def duration(seconds: float) -> str:
    """Three significant digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{three_digits(seconds / size)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def shape(case: Case) -> str:
    return f"{case.batch:,} × {case.classes:,}" + ("" if case.layout == ROWS else f" {case.layout}")


def beyond_cache(results: Results, case: Case) -> bool:
    return case.nbytes > results["facts"]["cache_bytes"]


def contests(results: Results) -> Iterator[tuple[tuple[str, str], list[tuple[Case, dict[str, Row]]]]]:
    """Yield the cases of each (operation, dtype), by classes, then batch."""
    groups: dict[tuple[str, str], list[tuple[Case, dict[str, Row]]]] = {}
    for case, rows in by_case(results["speed"]):
        if case.op != SCALE:
            groups.setdefault((case.op, case.dtype), []).append((case, rows))
    for key, group in groups.items():
        yield key, sorted(group, key=lambda pair: (pair[0].classes, pair[0].batch))


def speed_tables(results: Results) -> Iterator[Table]:
    """Yield a table an operation: time a call, and as a multiple of fastce's."""
    for (op, dtype), group in contests(results):
        names = [n for n in CONTENDERS if any(n in rows for _, rows in group)]
        table = Table(f"{op}, {dtype}: median time of a call (times fastce's)", ["batch × classes", *map(label, names)])
        for case, rows in group:
            table.rows.append([Cell(shape(case)), *(time_cell(rows, name) for name in names)])
        yield table


def label(name: str) -> str:
    threads = split(name)[1]
    own = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
    return contender(name).label + own


def fastest(rows: dict[str, Row]) -> str:
    return min(
        (name for name in rows if not contender(name).yardstick), key=lambda name: rows[name]["median"], default=""
    )


def time_cell(rows: dict[str, Row], name: str) -> Cell:
    if name not in rows:
        return Cell("–", FAINT)
    row = rows[name]
    text = duration(row["median"])
    if "ratio" in row:
        text += f" ({three_digits(row['ratio'])})"
    if name == LIMIT:
        return Cell(text, FAINT)
    ahead = is_rival(name) and row.get("ratio", 1) < 1
    return Cell(text, BEST if name == fastest(rows) else AHEAD if ahead else "")


def limits_table(results: Results) -> Table:
    """Show what the memory gives, by the size of the array."""
    kinds = [kind for kind in ARRAYS if any(PATTERNS[row["op"]] == kind for row in results["speed"])]
    table = Table("Memory limits, same number of threads", ["array", *kinds])
    found: dict[tuple[int, str], float] = {}
    for row in results["speed"]:
        if row["contender"] == LIMIT:
            kind = PATTERNS[row["op"]]
            key = (case_of(row).nbytes, kind)
            found[key] = max(found.get(key, 0.0), row["gb_per_s"])
    for size in sorted({size for size, _ in found if size >= 1e6}):
        cells = [Cell(f"{found[size, kind]:.1f} GB/s" if (size, kind) in found else "–") for kind in kinds]
        cached = "" if size > results["facts"]["cache_bytes"] else " (in cache)"
        table.rows.append([Cell(f"{size / 1e6:.1f} MB{cached}"), *cells])
    table.note = "Bytes read and bytes written count."
    return table


def share_table(results: Results) -> Table:
    """How near each contender comes to the memory limit, for arrays beyond the caches."""
    names = [n for n in CONTENDERS if n != LIMIT and any(r["contender"] == n for r in results["speed"])]
    table = Table("Share of the memory limit, logits larger than the caches", ["", *map(label, names)])
    for (op, dtype), group in contests(results):
        for case, rows in group:
            if beyond_cache(results, case) and LIMIT in rows:
                table.rows.append([Cell(f"{op} {shape(case)} {dtype}"), *(share_cell(rows, n) for n in names)])
    table.note = (
        "The limit is the fastest round of reading the logits (loss, logsumexp), copying them, or adding two arrays "
        "(vjps of array results), measured in turn with the contenders. The JSON has the share for every case; it "
        "means little within the caches."
    )
    return table


def share_cell(rows: dict[str, Row], name: str) -> Cell:
    if name not in rows:
        return Cell("–", FAINT)
    row = rows[name]
    return Cell(f"{row['share']:.0%} ({row['gb_per_s']:.1f} GB/s)", BEST if name == fastest(rows) else "")


def training_table(results: Results) -> Table:
    """Show the training loop with each contender's loss."""
    header = ["loss from", "batch", "a step", "in the loss", "share of the step", "test accuracy"]
    table = Table("Training a 64-128-10 NumPy network on scikit-learn's digits", header)
    for row in results["training"]:
        step, loss = row["median"], row["loss_seconds"]
        texts = [label(row["contender"]), str(row["batch"]), duration(step), duration(loss)]
        table.rows.append([Cell(t) for t in [*texts, f"{loss / step:.0%}", f"{row['accuracy']:.2%}"]])
    return table


def best_rival(rows: dict[str, Row]) -> str:
    """Return the fastest contender that is not fastce."""
    return fastest({name: row for name, row in rows.items() if is_rival(name)})


def rivals_table(results: Results, dtype: str) -> Table:
    """How many times as long the fastest of all others takes, for every operation: below 1, fastce loses."""
    groups = {op: dict_of_shapes(group) for (op, kind), group in contests(results) if kind == dtype and op != INPLACE}
    shapes = sorted({s for group in groups.values() for s in group}, key=lambda s: s[:2])
    table = Table("", ["batch × classes", *groups])
    for key in shapes:
        cells = [Cell(key[2])]
        for group in groups.values():
            rows = group.get(key, {})
            rival = best_rival(rows)
            if not rival or "ratio" not in rows[rival]:
                cells.append(Cell("–"))
                continue
            ratio = rows[rival]["ratio"]
            cells.append(Cell(f"{three_digits(ratio)} ({label(rival)})", "" if ratio >= 1 else BEST))
        table.rows.append(cells)
    return table


def dict_of_shapes(group: list[tuple[Case, dict[str, Row]]]) -> dict[tuple[int, int, str], dict[str, Row]]:
    return {(case.classes, case.batch, shape(case)): rows for case, rows in group}


def failure_lines(results: Results) -> list[str]:
    """Say what failed."""
    return [f"FAILED: {n['contender']}, {n['case']}: {n['reason']}" for n in results["failures"]]


def left_out_lines(results: Results) -> list[str]:
    """Say what was left out, grouped by reason."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for note in results["skipped"]:
        if not note["reason"].startswith(("has no", "is not")):  # the tables show that by a dash
            reasons.setdefault((note["contender"], note["reason"]), []).append(note["case"])
    return [f"Left out ({who}, {why}): {', '.join(cases)}" for (who, why), cases in reasons.items()]
