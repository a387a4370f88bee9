"""The figures as tables, once for the terminal and once for Markdown: data frames of texts, the best in bold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table as RichTable
from rich.text import Text

from bench.cases import ARRAYS, PATTERNS, Op
from bench.contenders import CONTENDERS, LIMIT, PRODUCTS, REFERENCE, RIVALS
from bench.data import CASE, Run, nbytes, shape_text

LABELS = {name: contender.label for name, contender in CONTENDERS.items()}
SHAPE = "batch × classes"


@dataclass
class Table:
    """A titled frame of texts; the first column heads the rows."""

    title: str
    frame: pd.DataFrame
    note: str = ""

    def rich(self) -> RichTable:
        """Return the table for the terminal."""
        table = RichTable(title=self.title, title_justify="left", title_style="bold", caption=self.note or None)
        table.caption_justify = "left"
        for i, name in enumerate(self.frame.columns):
            table.add_column(name, justify="right" if i else "left")
        for row in self.frame.itertuples(index=False, name=None):
            table.add_row(*(Text(text.strip("*"), style=_style(text)) for text in row))
        return table

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"### {self.title}", ""] if self.title else []
        lines += [_line(self.frame.columns), "|:--|" + "--:|" * (self.frame.shape[1] - 1)]
        lines += [_line(row) for row in self.frame.itertuples(index=False, name=None)]
        return "\n".join([*lines, "", self.note, ""] if self.note else [*lines, ""])


NOTHING = Table("", pd.DataFrame())


def _line(texts: object) -> str:
    return "| " + " | ".join(texts) + " |"


def _style(text: str) -> str:
    return "bold green" if text.startswith("**") else "bold red" if text.startswith("FAIL") else ""


def duration(seconds: float) -> str:
    """Three significant digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{three_digits(seconds / size)} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def megabytes(count: float) -> str:
    return "–" if pd.isna(count) else f"{count / 1e6:,.0f} MB"


# --- from records to tables ------------------------------------------------------------


def shapes(frame: pd.DataFrame) -> pd.Series:
    """Return the shape of each record as a text."""
    return frame.apply(shape_text, axis=1, result_type="reduce").astype(str)


def best(frame: pd.DataFrame) -> Any:
    """Tell which records are the fastest of their case, limits aside."""
    competing = frame[frame.contender.isin((*REFERENCE, *RIVALS))]
    return frame.index.isin(competing.groupby(CASE)["median"].idxmin())


def pivoted(frame: pd.DataFrame, rows: str, columns: str, head: str = "") -> pd.DataFrame:
    """Put the column ``text`` into a table, contenders in the order of their list; a dash where there is none."""
    names = list(dict.fromkeys(frame[columns]))
    if columns == "contender":
        names = [name for name in CONTENDERS if name in names]
    table = frame.pivot(index=rows, columns=columns, values="text").reindex(frame[rows].unique())[names]
    return table.fillna("–").rename(columns=LABELS).rename_axis(head).reset_index().rename_axis(None, axis=1)


def bold(texts: pd.Series, where: Any) -> pd.Series:
    return texts.where(~where, "**" + texts + "**")


def contests(run: Run, section: str = "speed") -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the records of each (operation, dtype), by classes, then batch."""
    frame = run.section(section)
    frame = frame[frame.op != Op.SCALE]
    frame = frame.assign(shape=shapes(frame)).sort_values(["classes", "batch"], kind="stable")
    for key in frame.sort_index()[["op", "dtype"]].drop_duplicates().itertuples(index=False, name=None):
        yield key, frame[(frame.op == key[0]) & (frame.dtype == key[1])]


def speed_tables(run: Run, section: str = "speed") -> Iterator[Table]:
    """Yield a table an operation: time a call, and as a multiple of the reference's."""
    head, whose = ("tokens × features × classes", "the bare products'") if section == "layer" else (SHAPE, "fastce's")
    for (op, dtype), group in contests(run, section):
        group = group.assign(text=bold(times(group), best(group)))
        title = f"{op}, {dtype}: median time of a call (times {whose})"
        yield Table(title, pivoted(group, "shape", "contender", head))


def times(frame: pd.DataFrame) -> pd.Series:
    """Return the median of each record, with the multiple in parentheses."""
    ratios = frame.ratio.map(lambda ratio: f" ({three_digits(ratio)})", na_action="ignore").fillna("")
    return frame["median"].map(duration) + ratios


def memory_table(run: Run, section: str) -> Table:
    """Show the peak memory of a call."""
    frame = run.section(section)
    frame = frame[frame.bytes.notna() & ~frame.contender.isin((LIMIT, PRODUCTS))]
    if frame.empty:
        return NOTHING
    multiples = (frame.bytes / nbytes(frame)).map(" ({:.2f})".format)
    frame = frame.assign(text=frame.bytes.map(megabytes) + multiples, name=frame.op + " " + shapes(frame))
    note = "Beyond the arguments and what is given as out=; a new result counts."
    table = pivoted(frame, "name", "contender")
    return Table("Peak extra memory, in parentheses as a multiple of the logits", table, note)


def beyond_cache(run: Run, frame: pd.DataFrame) -> pd.Series:
    return nbytes(frame) > run.facts["cache_bytes"]


def share_table(run: Run) -> Table:
    """Show how near each contender comes to the memory limit, for arrays beyond the caches."""
    frame = pd.concat([run.section("speed").head(0), *(group for _, group in contests(run))])
    frame = frame[beyond_cache(run, frame) & frame.share.notna() & (frame.contender != LIMIT)]
    if frame.empty:
        return NOTHING
    texts = frame.share.map("{:.0%}".format) + frame.gb_per_s.map(" ({:.1f} GB/s)".format)
    frame = frame.assign(text=bold(texts, best(frame)), name=frame.op + " " + shapes(frame) + " " + frame.dtype)
    note = (
        "The limit is the fastest round of reading the logits (loss, logsumexp), copying them, or adding two arrays "
        "(vjps of array results), measured in turn with the contenders. The data have the share for every case; it "
        "means little within the caches."
    )
    return Table("Share of the memory limit, logits larger than the caches", pivoted(frame, "name", "contender"), note)


def limits_table(run: Run) -> Table:
    """Show what the memory gives, by the size of the array."""
    frame = run.section("speed")
    frame = frame[(frame.contender == LIMIT) & (nbytes(frame) >= 1e6)]
    if frame.empty:
        return NOTHING
    frame = frame.assign(kind=frame.op.map(PATTERNS), nbytes=nbytes(frame))
    limits = frame.groupby(["nbytes", "kind"], as_index=False).gb_per_s.max()
    cached = limits.nbytes.map(lambda size: "" if size > run.facts["cache_bytes"] else " (in cache)")
    limits["array"] = limits.nbytes.map(lambda size: f"{size / 1e6:.1f} MB") + cached
    limits["text"] = limits.gb_per_s.map(lambda speed: f"{speed:.1f} GB/s")
    table = pivoted(limits, "array", "kind", "array")
    table = table[["array", *(kind for kind in ARRAYS if kind in table)]]
    return Table("Memory limits, same number of threads", table, "Bytes read and bytes written count.")


def training_table(run: Run) -> Table:
    """Show the training loop with each contender's loss."""
    frame = run.section("training")
    columns = {
        "loss from": frame.contender.map(LABELS),
        "batch": frame.batch.map(str),
        "a step": frame["median"].map(duration),
        "in the loss": frame.loss_seconds.map(duration),
        "share of the step": (frame.loss_seconds / frame["median"]).map("{:.0%}".format),
        "test accuracy": frame.accuracy.map("{:.2%}".format),
    }
    return Table("Training a 64-128-10 NumPy network on scikit-learn's digits", pd.DataFrame(columns))


def rivals_table(run: Run, dtype: str, title: str = "") -> Table:
    """Show how many times as long the fastest of all others takes, for every operation: below 1, fastce loses."""
    frame = run.section("speed")
    frame = frame[(frame.dtype == dtype) & ~frame.op.isin((Op.INPLACE, Op.SCALE))]
    frame = frame.assign(shape=shapes(frame))
    rivals = fastest_rivals(frame)
    texts = rivals.ratio.map(three_digits) + " (" + rivals.contender.map(LABELS) + ")"
    rivals = rivals.assign(text=bold(texts, rivals.ratio < 1))
    rivals = rivals.sort_values(["classes", "batch"], kind="stable")
    table = pivoted(rivals, "shape", "op", SHAPE).reindex(columns=[SHAPE, *frame.op.unique()], fill_value="–")
    return Table(title, table)


def fastest_rivals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return for each case that fastce has, too, the record of the fastest rival."""
    rivals = frame[frame.contender.isin(RIVALS) & frame.ratio.notna()]
    return rivals.loc[rivals.groupby(CASE, sort=False)["median"].idxmin()]


# --- beside busy processes -------------------------------------------------------------


def busy_pairs(run: Run) -> pd.DataFrame:
    """Return the busy records, each with the mean of the quiet machine."""
    busy, quiet = run.section("busy"), run.section("quiet")
    keys = [*CASE[1:], "contender"]
    frame = busy.merge(quiet[[*keys, "mean"]], on=keys, suffixes=("", "_quiet"))
    return frame.assign(times=frame["mean"] / frame.mean_quiet, shape=shapes(frame))


def busy_table(run: Run) -> Table:
    """Show all figures, a line a shape and contender."""
    frame = busy_pairs(run)
    columns = {
        SHAPE: frame["shape"],
        "": frame.contender.map(LABELS),
        "quiet, mean": frame.mean_quiet.map(duration),
        "busy, mean": frame["mean"].map(duration),
        "times quiet": frame.times.map(three_digits),
        "busy, median": frame["median"].map(duration),
        "busy, 99 %": frame.p99.map(duration),
    }
    note = (
        "Means over all calls of a span, so that stalls count; 99 % of the calls took at most the last figure. Beside "
        "each core's busy process half of the time is what there is to have. Threads are not bound to cores here, as "
        "few programs bind them."
    )
    return Table(f"{Op.LOSS_GRAD} beside a busy process a core", pd.DataFrame(columns), note)


# --- what is missing -------------------------------------------------------------------


def missing_lines(run: Run) -> list[str]:
    """Say what failed, and what was left out, grouped by reason; tables show missing functions by a dash."""
    failed = [f"FAILED: {n['contender']}, {n['case']}: {n['reason']}" for n in run.failures]
    reasons: dict[tuple[str, str], list[str]] = {}
    for note in run.skipped:
        if not note["reason"].startswith(("has no", "is not")):
            reasons.setdefault((note["contender"], note["reason"]), []).append(note["case"])
    return failed + [f"Left out ({who}, {why}): {', '.join(cases)}" for (who, why), cases in reasons.items()]
