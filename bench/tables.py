"""The figures as tables: data frames of texts, the best in bold, written as Markdown."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.cases import ARRAYS, OPS, PATTERNS, ROWS, Op
from bench.contenders import CONTENDERS, LIMIT, PEERS, PEERS_TEXT, PRODUCTS, REFERENCE, RIVALS
from bench.data import CASE, Run, nbytes, shape_text

LABELS = {name: contender.label for name, contender in CONTENDERS.items()}
SHAPE = "batch × classes"


@dataclass
class Table:
    """A titled frame of texts; the first column heads the rows."""

    title: str
    frame: pd.DataFrame
    note: str = ""

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [f"### {self.title}", ""] if self.title else []
        rows = [self.frame.columns, *self.frame.itertuples(index=False, name=None)]
        head, *body = (f"| {' | '.join(row)} |" for row in rows)
        lines += [head, "|:--|" + "--:|" * (self.frame.shape[1] - 1), *body]
        return "\n".join([*lines, "", self.note, ""] if self.note else [*lines, ""])


NOTHING = Table("", pd.DataFrame())


# --- texts ---------------------------------------------------------------------------


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


def shapes(frame: pd.DataFrame) -> pd.Series:
    """Return the shape of each record as a text."""
    return frame.apply(shape_text, axis=1, result_type="reduce").astype(str)


def times(frame: pd.DataFrame) -> pd.Series:
    """Return the median of each record, with the multiple in parentheses."""
    ratios = frame.ratio.map(lambda ratio: f" ({three_digits(ratio)})", na_action="ignore").fillna("")
    return frame["median"].map(duration) + ratios


def bold(texts: pd.Series, where: pd.Series) -> pd.Series:
    return texts.where(~where, "**" + texts + "**")


# --- from records to tables ------------------------------------------------------------


def best(frame: pd.DataFrame) -> pd.Series:
    """Tell which records are the fastest of their case, yardsticks aside."""
    competing = frame[frame.contender.isin((*REFERENCE, *RIVALS))]
    return frame.index.to_series().isin(competing.groupby(CASE)["median"].idxmin())


def fastest_rivals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the record of the fastest rival for each case that fastce has, too."""
    rivals = frame[frame.contender.isin(RIVALS) & frame.ratio.notna()]
    return rivals.loc[rivals.groupby(CASE, sort=False)["median"].idxmin()]


def ours(frame: pd.DataFrame) -> pd.DataFrame:
    """Return fastce's record of each case, with ``out=`` where the operation has it."""
    return pd.concat([frame[frame.contender == name] for name in REFERENCE]).drop_duplicates(CASE)


def with_in_place(frame: pd.DataFrame) -> pd.DataFrame:
    """Add loss+grad of the rivals as their times in place: no rival can work in place."""
    others = frame[(frame.op == Op.LOSS_GRAD) & frame.contender.isin(RIVALS)].assign(op=str(Op.INPLACE))
    reference = ours(frame[frame.op == Op.INPLACE]).set_index(CASE)["median"].rename("reference")
    others = others.join(reference, on=CASE, how="inner")
    others = others.assign(ratio=others["median"] / others.reference)[frame.columns]
    return pd.concat([frame, others], ignore_index=True)


def pivoted(frame: pd.DataFrame, rows: str, columns: str, head: str = "") -> pd.DataFrame:
    """Spread the column ``text`` over a table, contenders in the order of their list; a dash where there is none."""
    names = list(dict.fromkeys(frame[columns]))
    if columns == "contender":
        names = [name for name in CONTENDERS if name in names]
    table = frame.pivot(index=rows, columns=columns, values="text").reindex(frame[rows].unique())[names]
    return table.fillna("–").rename(columns=LABELS).rename_axis(head).reset_index().rename_axis(None, axis=1)


def contests(run: Run, section: str = "speed") -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the records of each (operation, dtype), by classes, then batch."""
    frame = run.section(section)
    frame = frame[frame.op != Op.SCALE]
    frame = frame.assign(shape=shapes(frame))
    for key, group in frame.groupby(["op", "dtype"], sort=False):
        yield key, group.sort_values(["classes", "batch"], kind="stable")


def speed_tables(run: Run, section: str = "speed") -> Iterator[Table]:
    """Yield a table an operation: time a call, and as a multiple of the reference's."""
    head, whose = ("tokens × features × classes", "the bare products'") if section == "layer" else (SHAPE, "fastce's")
    for (op, dtype), group in contests(run, section):
        group = group.assign(text=bold(times(group), best(group)))
        title = f"{op}, {dtype}{', AVX2' * (section == 'avx2')}: median time of a call (times {whose})"
        yield Table(title, pivoted(group, "shape", "contender", head))


def memory_table(run: Run, section: str) -> Table:
    """Show the peak memory of a call."""
    frame = run.section(section)
    frame = frame[frame.bytes.notna() & ~frame.contender.isin((LIMIT, PRODUCTS))]
    if frame.empty:
        return NOTHING
    multiples = (frame.bytes / nbytes(frame)).map(" ({:.2f})".format)
    frame = frame.assign(text=frame.bytes.map(megabytes) + multiples, name=frame.op + " " + shapes(frame))
    note = "The arguments and arrays given as out= do not count; a new result does."
    table = pivoted(frame, "name", "contender")
    return Table("Peak extra memory, in parentheses as a multiple of the logits", table, note)


def share_table(run: Run) -> Table:
    """Show how near each contender comes to the memory limit, for arrays beyond the caches."""
    frame = pd.concat([run.section("speed").head(0), *(group for _, group in contests(run))])
    beyond_cache = nbytes(frame) > run.facts["cache_bytes"]
    frame = frame[beyond_cache & frame.share.notna() & (frame.contender != LIMIT)]
    if frame.empty:
        return NOTHING
    texts = frame.share.map("{:.0%}".format) + frame.gb_per_s.map(" ({:.1f} GB/s)".format)
    frame = frame.assign(text=bold(texts, best(frame)), name=frame.op + " " + shapes(frame) + " " + frame.dtype)
    note = (
        "The limit is the fastest round of reading the logits (loss, logsumexp), copying them, or adding two arrays "
        "(vjps of array results), measured in turn with the contenders. The data have this share for every case, but "
        "it means little within the caches."
    )
    return Table("Share of the memory limit, logits larger than the caches", pivoted(frame, "name", "contender"), note)


def limits_table(run: Run) -> Table:
    """Show the speed of the memory by the size of the array."""
    frame = run.section("speed")
    frame = frame[(frame.contender == LIMIT) & (nbytes(frame) >= 1e6)]
    if frame.empty:
        return NOTHING
    frame = frame.assign(kind=frame.op.map(PATTERNS), nbytes=nbytes(frame))
    limits = frame.groupby(["nbytes", "kind"], as_index=False).gb_per_s.max()
    cached = limits.nbytes.map(lambda size: "" if size > run.facts["cache_bytes"] else " (in cache)")
    limits["array"] = limits.nbytes.map(lambda size: f"{size / 1e6:.1f} MB") + cached
    limits["text"] = limits.gb_per_s.map("{:.1f} GB/s".format)
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
    """Show the time of the fastest rival as a multiple of fastce's, for every operation: below 1, fastce is slower."""
    frame = run.section("speed")
    frame = frame[(frame.dtype == dtype) & ~frame.op.isin((Op.INPLACE, Op.SCALE))]
    rivals = fastest_rivals(frame.assign(shape=shapes(frame)))
    texts = rivals.ratio.map(three_digits) + " (" + rivals.contender.map(LABELS) + ")"
    rivals = rivals.assign(text=bold(texts, rivals.ratio < 1))
    rivals = rivals.sort_values(["classes", "batch"], kind="stable")
    table = pivoted(rivals, "shape", "op", SHAPE).reindex(columns=[SHAPE, *frame.op.unique()], fill_value="–")
    return Table(title, table)


def vectors_table(run: Run) -> Table:
    """Show AVX-512 and AVX2 code side by side: fastce's times, and how many times as long the best of three takes."""
    parts = []
    for vectors, section in run.kinds.items():
        frame = with_in_place(run.section(section))
        rivals = fastest_rivals(frame[frame.contender.isin(PEERS)]).set_index(CASE).ratio.rename("rival")
        parts.append(ours(frame).join(rivals, on=CASE, how="inner").assign(vectors=vectors))
    frame = pd.concat(parts)
    frame = frame[frame.op.isin((*OPS, Op.INPLACE)) & (frame.layout == ROWS)]
    twice = frame[frame.duplicated(CASE[1:], keep=False)].sort_values(["dtype", "classes", "batch"], kind="stable")
    if twice.empty:
        return NOTHING
    texts = twice["median"].map(duration) + " (" + bold(twice.rival.map(three_digits), twice.rival < 1) + ")"
    twice = twice.assign(text=texts, shape=shapes(twice) + " " + twice["dtype"] + ", " + twice.vectors)
    note = (
        f"In parentheses, the time of the fastest of {PEERS_TEXT} as a multiple of fastce's; bold, below 1: fastce "
        "is slower. In place, it is the time of their loss+grad, as they have no such operation. `fastce config` names "
        "the vectors of your processor: without AVX-512, read the lines of AVX2."
    )
    table = pivoted(twice, "shape", "op", SHAPE)
    table = table[[SHAPE, *(op for op in (Op.LOSS, Op.LOSS_GRAD, Op.INPLACE, *OPS[2:]) if op in table)]]
    table = table.rename(columns={Op.INPLACE: "loss+grad in place"})
    return Table("fastce with AVX-512 and with AVX2", table, note)


def threads_table(run: Run) -> Table:
    """Show how much faster each contender is with all threads than with one."""
    frame = run.section("threads")
    one, several = frame[frame.threads == 1], frame[frame.threads == run.facts["threads"]]
    both = several.merge(one[[*CASE, "contender", "median"]], on=[*CASE, "contender"], suffixes=("", "_one"))
    texts = (both.median_one / both["median"]).map(three_digits)
    both = both.assign(text=texts, case=both.op + " " + shapes(both))
    return Table("Threads: times as fast as on one, for all threads of the run", pivoted(both, "case", "contender"))


def growth_table(run: Run) -> Table:
    """Show the exponent of the growth of time with samples and with classes, which should be 1."""
    frame, parts = run.section("growth"), []
    for axis, fixed in (("batch", "classes"), ("classes", "batch")):
        rows = frame[frame[fixed] == frame[fixed].mode().max()]
        if rows[axis].nunique() > 1:
            text = f"{axis} {rows[axis].min():,} to {rows[axis].max():,}, {fixed} {rows[fixed].max():,}"
            for name, group in rows.groupby("contender"):
                slope = np.polyfit(np.log(group[axis]), np.log(group["median"]), 1)[0]
                parts.append({"contender": name, "growth": text, "text": f"{slope:.2f}"})
    table = pivoted(pd.DataFrame(parts, columns=["contender", "growth", "text"]), "growth", "contender")
    note = "Slope of the logarithm of the time over that of the size, within the caches and, for large sizes, beyond."
    return Table(f"Growth of the time of {Op.LOSS_GRAD}: exponent (1 is proportional)", table, note)


def busy_pairs(run: Run) -> pd.DataFrame:
    """Return the busy records, each with the mean of the quiet machine."""
    busy, quiet = run.section("busy"), run.section("quiet")
    keys = [*CASE[1:], "contender"]
    frame = busy.merge(quiet[[*keys, "mean"]], on=keys, suffixes=("", "_quiet"))
    return frame.assign(times=frame["mean"] / frame.mean_quiet, shape=shapes(frame))


def busy_tables(run: Run) -> Iterator[Table]:
    """Yield a table an operation: all figures of the busy machine, a line a shape and contender."""
    for op, frame in busy_pairs(run).groupby("op", sort=False):
        yield _busy_table(op, frame)


def _busy_table(op: str, frame: pd.DataFrame) -> Table:
    columns = {
        SHAPE: frame["shape"],
        "contender": frame.contender.map(LABELS),
        "quiet, mean": frame.mean_quiet.map(duration),
        "busy, mean": frame["mean"].map(duration),
        "times quiet": frame.times.map(three_digits),
        "busy, median": frame["median"].map(duration),
        "busy, 99 %": frame.p99.map(duration),
    }
    note = (
        "Means are over all calls of a time span, so they include stalls; the last column is the 99th percentile. "
        "One busy process a core leaves half of the time. Threads are not bound to cores, as in most programs."
    )
    return Table(f"{op} beside a busy process a core", pd.DataFrame(columns), note)


def missing_lines(run: Run) -> list[str]:
    """Name failures, and skipped cases grouped by reason; tables show missing functions by a dash."""
    failed, reasons = [], {}
    for note in run.notes:
        who, case, reason = note["contender"], note["case"], note["reason"]
        if note["outcome"] == "failed":
            failed.append(f"FAILED: {who}, {case}: {reason}")
        elif not reason.startswith("has no such"):
            reasons.setdefault((who, reason), []).append(case)
    return failed + [f"Left out ({who}, {why}): {', '.join(cases)}" for (who, why), cases in reasons.items()]
