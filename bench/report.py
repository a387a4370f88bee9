"""Presents a run: a Markdown report for the terminal and a folder, with the data and the plots.

``python -m bench.report`` makes reports and plots anew from the data of the committed runs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markdown import Markdown

from bench import bars, data, plots, tables
from bench.contenders import PEERS_TEXT
from bench.data import ROOT, Run
from bench.tables import Table, three_digits

METHOD = """\
Each contender runs in a process of its own, with the same number of threads. They take turns: one round of the first,
one of the second and so on, then the next round. So drift of the machine hits all alike. Before its round a contender
makes untimed calls for some milliseconds. A result is compared with a float64 oracle before anything is timed.

A time is the median of a call over {rounds} rounds. In parentheses, it is a multiple of the time of fastce with `out=`;
for the loss, which has no array result, of plain fastce. **Bold** is the fastest. Where a call makes a new array, the
time includes freeing it. Inputs are standard normal × 3. NumPy and SciPy always run these operations on one thread.
OpenMP's threads are bound to cores. The training loop's matrix products run on one thread: pools that compete for the
same cores would slow torch most."""
BACKWARD = """
Backward passes (vjp) begin with the saved results of the forward pass. There, *torch eager* is autograd's backward pass
alone, and *torch eager out=* is PyTorch's private kernel beneath it."""
TWO_KINDS = """
The parts headed AVX2 are of the same processor, the libraries kept to code for AVX2 by their own settings: Numba and
torch.compile compile for Haswell, PyTorch, XLA and NumPy choose their AVX2 code. XLA uses vectors of 256 bits with
AVX-512, too."""
HEADLINE_SHAPES = ((65536, 10), (1024, 50257))


def facts_line(run: Run) -> str:
    """Say in a sentence where and with which versions the figures were measured."""
    facts = run.facts
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['cpu']} ({facts['architecture']}, {facts['vectors']}), {facts['threads']} threads on "
        f"{facts['cores']} cores, {facts['cache_bytes'] / 2**20:.0f} MiB last-level cache, "
        f"{facts['memory_gb']:.0f} GB memory, {facts['system']}, Python {facts['python']}; {versions}; {facts['date']}."
    )


def warnings(run: Run) -> list[str]:
    """Say why not to trust the figures; on a busy machine threads wait for each other, in whole time slices."""
    lines = ["A smoke run: the figures mean nothing."] if run.facts["smoke"] else []
    return lines + data.busy_warning(run.facts["busy_before"])


def headline(run: Run) -> str:
    """Return the main figures of the full run in sentences."""
    ratios, of_avx2 = (tables.fastest_rivals(run.section(section)).ratio for section in ("speed", "avx2"))
    text = (
        f"The full benchmark has {len(ratios)} cases: operations, shapes, dtypes and layouts. On {run.facts['cpu']} "
        f"({run.facts['vectors']}), fastce is the fastest in {(ratios > 1).sum()} of them. In the geometric mean, the "
        f"fastest other contender takes {three_digits(np.exp(np.log(ratios).mean()))} times as long."
    )
    if len(of_avx2):
        multiple = three_digits(np.exp(np.log(of_avx2).mean()))
        text += (
            f" With AVX2 code on the same machine, it is the fastest in {(of_avx2 > 1).sum()} of {len(of_avx2)} cases; "
            f"the fastest of {PEERS_TEXT} takes {multiple} times as long."
        )
    eager = run.section("speed").query("contender == 'torch' and op == 'loss+grad' and dtype == 'float32'")
    eager = eager.drop_duplicates(["batch", "classes"]).set_index(["batch", "classes"]).ratio
    shown = [(n, c) for n, c in HEADLINE_SHAPES if (n, c) in eager]
    parts = [f"{three_digits(eager[n, c])} times as long at {n:,} × {c:,}" for n, c in shown]
    return f"{text} PyTorch's eager loss and gradient take {', and '.join(parts)}." if parts else text


def lost(run: Run) -> str:
    """Say where another contender is faster."""
    rivals = tables.fastest_rivals(run.section("speed"))
    faster = rivals[rivals.ratio < 1]
    if faster.empty:
        return f"No contender is faster in any of {len(rivals)} cases."
    ops = faster.groupby(tables.shapes(faster), sort=False).op.agg(", ".join)
    cases = "; ".join(f"{shape} ({names})" for shape, names in ops.items())
    return f"Others are faster in {len(faster)} of {len(rivals)} cases of this run: {cases}."


def ordinary_tables(run: Run) -> Iterator[Table]:
    """Yield the tables of the ordinary run."""
    yield from tables.speed_tables(run)
    yield from tables.speed_tables(run, "layer")
    yield tables.memory_table(run, "layer")
    yield tables.share_table(run)
    yield tables.limits_table(run)
    yield tables.training_table(run)
    yield from tables.busy_tables(run)


def full_tables(run: Run) -> Iterator[Table]:
    """Yield the tables of the full run but for all times."""
    yield bars.table(run)
    yield tables.vectors_table(run)
    title = "{}: time of the fastest rival as a multiple of fastce's; bold, below 1: fastce is slower"
    for dtype in run.section("speed").dtype.unique():
        yield tables.rivals_table(run, dtype, title.format(dtype))
    yield tables.memory_table(run, "speed")
    yield tables.threads_table(run)
    yield tables.growth_table(run)
    yield from tables.busy_tables(run)
    yield from tables.speed_tables(run, "layer")
    yield tables.memory_table(run, "layer")


def markdown(run: Run, drawn: dict[Path, str] | None = None) -> str:
    """Return the report with these plots; without any the short one, for the terminal."""
    full = run.facts["full"]
    method = METHOD.format(rounds="5 to 21" if full else "3 to 15") + BACKWARD * full + TWO_KINDS * (len(run.kinds) > 1)
    summary = [table.markdown() for table in (full_tables if full else ordinary_tables)(run) if len(table.frame)]
    missing = [f"- {line}" for line in tables.missing_lines(run)]
    images = [f"![{title}]({path.name})\n" for path, title in (drawn or {}).items()]
    return "\n".join(
        [
            f"# fastce: {'full ' * full}benchmark",
            "",
            *(f"**{line}**\n" for line in warnings(run)),
            *[headline(run) if full else lost(run), ""],
            facts_line(run),
            "",
            *([method, ""] if drawn else []),
            *(images if full else []),
            *summary,
            *(["## Failed and left out", "", *missing, ""] if missing else []),
            *(
                [
                    "## All times",
                    "",
                    *(t.markdown() for name in run.kinds.values() for t in tables.speed_tables(run, name)),
                ]
                if full and drawn
                else []
            ),
            *(["## Plots", "", *images] if images and not full else []),
        ]
    )


def show(run: Run, console: Console) -> None:
    """Print the short report."""
    console.print(Markdown(markdown(run)))


def write(run: Run, folder: Path, suffix: str = "svg") -> list[Path]:
    """Write the data, the report and the plots; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "full" if run.facts["full"] else "report"
    for old in folder.glob("speed-*") if not run.facts["full"] else ():
        old.unlink()  # an earlier run may have had other operations
    drawn = plots.draw(run, folder, suffix)
    text = folder / f"{name}.md"
    text.write_text(markdown(run, drawn).rstrip() + "\n", encoding="utf-8")
    return [*data.save(run, folder, name), text, *drawn]


if __name__ == "__main__":
    for name in ("report", "full"):
        results = ROOT / "bench" / "results"
        write(data.load(results, name), results)
