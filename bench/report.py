"""Puts a run before a reader: tables in the terminal, and a folder with the data, a Markdown report and plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from bench import bars, data, plots, tables
from bench.cases import Op
from bench.data import CASE, Run
from bench.tables import Table, three_digits

METHOD = """\
Each contender runs in a process of its own, with the same number of threads, and they take turns: one round of the
first, one of the second, and so on, then the next round, so that drift of the machine hits all alike. Before its round
a contender makes untimed calls for some milliseconds. A result is compared with a float64 oracle before anything is
timed. Times are medians over the rounds ({rounds}) of a call, in parentheses as a multiple of fastce's with `out=` (of
plain fastce for the loss, which has no array result); **bold** is the fastest. The time of a new result includes giving
its memory back. Inputs are standard normal × 3. NumPy and SciPy run these operations on one thread, whatever they are
given. OpenMP's threads are bound to cores, and the training loop's matrix products run on one thread: pools that
compete for the same cores would slow torch most."""
BACKWARD = """
Backward passes (vjp) begin with what the forward pass left. *torch eager* is then autograd's backward pass alone,
*torch eager out=* the kernel beneath it, which PyTorch keeps to itself."""
HEADLINE_SHAPES = ((65536, 10), (1024, 50257))


def facts_line(run: Run) -> str:
    """Say in a sentence where and with what the figures were measured."""
    facts = run.facts
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['cpu']} ({facts['architecture']}, {facts['vectors']}), {facts['threads']} threads on "
        f"{facts['cores']} cores, {facts['cache_bytes'] / 2**20:.0f} MiB last-level cache, "
        f"{facts['memory_gb']:.0f} GB memory, {facts['system']}, Python {facts['python']}; {versions}; {facts['date']}."
    )


def warnings(run: Run) -> list[str]:
    """Say why not to trust the figures; on a busy machine threads wait for each other, in whole time slices."""
    busy = run.facts["busy_before"]
    lines = ["A smoke run: the figures mean nothing."] if run.facts["smoke"] else []
    return lines + ([f"Other programs used {busy:.0f} % of the cores before the run: do not trust it."] * (busy > 5))


@dataclass(frozen=True)
class Report:
    """What is made of one kind of run; ``name`` is that of its files."""

    name: str

    def summary(self, run: Run) -> list[Table]:
        """Return the tables that fit a terminal."""
        tables_of = full_tables if self.name == "full" else standard_tables
        return [table for table in tables_of(run) if len(table.frame)]

    def show(self, run: Run, console: Console) -> None:
        """Print the tables."""
        console.print(facts_line(run), style="dim")
        for line in warnings(run):
            console.print(line, style="bold red")
        for table in self.summary(run):
            console.print()
            console.print(table.rich())
        for line in tables.missing_lines(run):
            console.print(line, style="bold red" if line.startswith("FAILED") else "yellow")
        if self.name == "full":
            console.print(headline(run), style="bold")

    def write(self, run: Run, folder: Path, suffix: str = "svg") -> list[Path]:
        """Write the data, the Markdown and the plots; return the files."""
        folder.mkdir(parents=True, exist_ok=True)
        drawn = (plots.draw_full if self.name == "full" else plots.draw_standard)(run, folder, suffix)
        text = folder / f"{self.name}.md"
        text.write_text(self.markdown(run, drawn), encoding="utf-8")
        return [*data.save(run, folder, self.name), text, *drawn]

    def markdown(self, run: Run, drawn: list[Path]) -> str:
        """Return the report."""
        full = self.name == "full"
        parts = [f"# fastce: {'full ' * full}benchmark", "", *(f"**{line}**\n" for line in warnings(run))]
        parts += [headline(run), ""] if full else []
        rounds = "5 to 21" if full else "3 to 15"
        parts += [facts_line(run), "", METHOD.format(rounds=rounds) + BACKWARD * full, ""]
        notes = tables.missing_lines(run)
        missing = ["## Failed and left out", "", *(f"- {line}" for line in notes), ""] if notes else []
        images = [f"![{path.stem}]({path.name})\n" for path in drawn]
        if full:
            parts += [*images, *(table.markdown() for table in self.summary(run)), *missing]
            parts += ["## All times", "", *(table.markdown() for table in tables.speed_tables(run))]
        else:
            parts += [*missing, "## Figures", "", *(table.markdown() for table in self.summary(run))]
            parts += ["## Plots", "", *images]
        return "\n".join(parts).rstrip() + "\n"


STANDARD, FULL = Report("report"), Report("full")


def standard_tables(run: Run) -> list[Table]:
    """Return the tables of the ordinary benchmark."""
    others = [tables.share_table(run), tables.limits_table(run)]
    others += [tables.training_table(run)] if len(run.section("training")) else []
    others += [tables.busy_table(run)] if len(run.section("busy")) else []
    return [*tables.speed_tables(run), *layer_tables(run), *others]


def layer_tables(run: Run) -> list[Table]:
    """Return the tables of the last layer."""
    return [*tables.speed_tables(run, "layer"), tables.memory_table(run, "layer")]


# --- the full run ------------------------------------------------------------------------


def full_tables(run: Run) -> list[Table]:
    """Return the tables of the full run but for all times."""
    title = "{}: time of the fastest rival as a multiple of fastce's; bold, below 1: fastce loses"
    rivals = [tables.rivals_table(run, dtype, title.format(dtype)) for dtype in run.section("speed").dtype.unique()]
    shown = [bars.table(run), *rivals, tables.memory_table(run, "speed")]
    shown += [threads_table(run)] if len(run.section("threads")) else []
    return [*shown, growth_table(run), *layer_tables(run)]


def headline(run: Run) -> str:
    """Return the sentences that the README begins with."""
    ratios = tables.fastest_rivals(run.section("speed")).ratio
    text = (
        f"In {(ratios > 1).sum()} of {len(ratios)} cases of the full benchmark (operations, shapes, dtypes and "
        f"layouts) fastce is the fastest of all on {run.facts['cpu']} ({run.facts['vectors']}); its best rival takes "
        f"{three_digits(np.exp(np.log(ratios).mean()))} times as long, in the geometric mean."
    )
    eager = run.section("speed").query("contender == 'torch' and op == 'loss+grad' and dtype == 'float32'")
    eager = eager.drop_duplicates(["batch", "classes"]).set_index(["batch", "classes"]).ratio
    parts = [f"{three_digits(eager[n, c])} times at {n:,} × {c:,}" for n, c in HEADLINE_SHAPES if (n, c) in eager]
    return f"{text} PyTorch's eager loss and gradient take {' and '.join(parts)}." if parts else text


def threads_table(run: Run) -> Table:
    """Show how much faster each contender is with all threads than with one."""
    frame = run.section("threads")
    one, all_ = frame[frame.threads == 1], frame[frame.threads == run.facts["threads"]]
    both = all_.merge(one[[*CASE, "contender", "median"]], on=[*CASE, "contender"], suffixes=("", "_one"))
    texts = (both.median_one / both["median"]).map(three_digits)
    both = both.assign(text=texts, case=both.op + " " + tables.shapes(both))
    table = tables.pivoted(both, "case", "contender")
    return Table("Threads: times as fast as on one, for all threads of the run", table)


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
    table = tables.pivoted(pd.DataFrame(parts), "growth", "contender") if parts else pd.DataFrame()
    note = "Slope of the logarithms, from within the caches to beyond them where the sizes are so large."
    return Table(f"Growth of the time of {Op.LOSS_GRAD}: exponent (1 is proportional)", table, note)
