"""Puts a run before a reader: tables in the terminal, a Markdown report, plots and JSON in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from bench import busy_stage, plots, results, tables

METHOD = """\
Each contender runs in a process of its own, with the same number of threads, and they take turns: one round of the
first, one of the second, and so on, then the next round, so that drift of the machine hits all alike. Before its round
a contender makes untimed calls for some milliseconds. A result is held to a float64 oracle before anything is timed.
Times are medians over the rounds (3 to 15) of a call, in parentheses as a multiple of fastce's with `out=` (of plain
fastce for the loss, which has no array result); **bold** is the fastest. Returning a fresh result includes giving it
back. Inputs are standard normal × 3. NumPy and SciPy run these operations on one thread, whatever they are given.
OpenMP's threads are bound to cores, and the training loop's matrix products run on one thread: pools that
compete for the same cores would slow torch most."""


def facts_line(run: dict[str, Any]) -> str:
    """Say in a sentence where and with what the figures were measured."""
    facts = run["facts"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['cpu']} ({facts['architecture']}, {facts['vectors']}), {facts['threads']} threads on "
        f"{facts['cores']} cores, {facts['cache_bytes'] / 2**20:.0f} MiB last-level cache, "
        f"{facts['memory_gb']:.0f} GB memory, {facts['system']}, Python {facts['python']}; {versions}; {facts['date']}."
    )


def busy_line(run: dict[str, Any]) -> str:
    """Warn if the machine was not idle: threads then wait for each other, in whole time slices."""
    busy = run["facts"]["busy_before"]
    return f"Other programs used {busy:.0f} % of the cores before the run: do not trust it." if busy > 5 else ""


def all_tables(run: dict[str, Any]) -> list[tables.Table]:
    found = [*tables.speed_tables(run), tables.share_table(run), tables.limits_table(run), tables.training_table(run)]
    found.append(busy_stage.table(run.get("busy", [])))
    return [table for table in found if table.rows]


def show(run: dict[str, Any], console: Console) -> None:
    console.print(facts_line(run), style="dim")
    if busy_line(run):
        console.print(busy_line(run), style="bold red")
    for table in all_tables(run):
        console.print()
        console.print(table.rich())
    for line in tables.left_out_lines(run):
        console.print(line, style="yellow")


def write(run: dict[str, Any], folder: Path, suffix: str = "svg") -> list[Path]:
    """Write results.json, report.md and the plots; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [p for kind in plots.KINDS for end in ("svg", "png") for p in folder.glob(f"{kind}*.{end}")]:
        old.unlink()
    drawn = plots.draw_all(run, folder, suffix)
    results.save(run, folder / "results.json")
    (folder / "report.md").write_text(markdown(run, drawn), encoding="utf-8")
    return [folder / "results.json", folder / "report.md", *drawn]


def markdown(run: dict[str, Any], drawn: list[Path]) -> str:
    warnings = ["**A smoke run: the figures mean nothing.**", ""] if run["facts"]["smoke"] else []
    warnings += [f"**{busy_line(run)}**", ""] if busy_line(run) else []
    parts = ["# fastce: benchmark", "", *warnings, facts_line(run), "", METHOD, ""]
    notes = tables.failure_lines(run) + tables.left_out_lines(run)
    if notes:
        parts += ["## Failed and left out", "", *(f"- {line}" for line in notes), ""]
    parts += ["## Figures", "", *(table.markdown() for table in all_tables(run))]
    parts += ["## Plots", "", *(f"![{path.stem}]({path.name})\n" for path in drawn)]
    return "\n".join(parts).rstrip() + "\n"
