"""Puts a full run before a reader: bars, heat map, roofline, memory, threads, growth, the last layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import bars, boardplots, linear_report, report, results, tables
from bench.cases import LOSS_GRAD, Case
from bench.contenders import REFERENCE, split
from bench.results import Row, by_case, case_of
from bench.tables import Cell, Table, best_rival, label, shape, three_digits

METHOD = f"""{report.METHOD.replace("3 to 15", "5 to 21")}
Backward passes (vjp) begin with what the forward pass left. *torch eager* is then autograd's backward pass alone,
*torch eager out=* the kernel beneath it, which PyTorch keeps to itself."""
LARGE, TILES = (1024, 50257), (65536, 10)
Run = dict[str, Any]


def contests(run: Run) -> list[tuple[Case, Row, Row]]:
    """Return every case with fastce's row and that of its fastest rival."""
    found = []
    for case, rows in by_case(run["speed"]):
        ours = next((rows[name] for name in REFERENCE if name in rows), None)
        rival = best_rival(rows)
        if ours and rival:
            found.append((case, ours, rows[rival]))
    return found


def rivals_tables(run: Run) -> list[Table]:
    """Show for every dtype how many times as long as fastce its fastest rival takes."""
    found = []
    for dtype in dict.fromkeys(row["dtype"] for row in run["speed"]):
        table = tables.rivals_table(run, dtype)
        table.title = f"{dtype}: time of the fastest rival as a multiple of fastce's; bold, below 1: fastce loses"
        found.append(table)
    return found


def memory_table(run: Run) -> Table:
    rows = run["memory"]
    ops = list(dict.fromkeys(row["op"] for row in rows))
    where = shape(case_of(rows[0])) if rows else ""
    table = Table(f"Peak extra memory at {where}, in parentheses as a multiple of the logits", ["", *ops])
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = {row["op"]: row for row in rows if row["contender"] == name}
        cells = [f"{own[op]['bytes'] / 1e6:.0f} MB ({own[op]['multiple']:.2f})" if op in own else "–" for op in ops]
        table.rows.append([Cell(label(name)), *map(Cell, cells)])
    table.note = "Beyond logits, labels and what is given as out=; a fresh result counts."
    return table


def threads_table(run: Run) -> Table:
    """Show how much faster each contender is with all threads than with one."""
    plain = [n for n in dict.fromkeys(row["contender"] for row in run["threads"]) if not split(n)[1]]
    table = Table("Threads: times as fast as on one, for all threads of the run", ["", *map(label, plain)])
    for case, rows in by_case(run["threads"]):
        cells = [Cell(f"{case.op} {shape(case)}")]
        for name in plain:
            one, all_ = rows.get(f"{name}@1"), rows.get(name)
            cells.append(Cell(f"{three_digits(one['median'] / all_['median'])}" if one and all_ else "–"))
        table.rows.append(cells)
    return table


def growth_table(run: Run) -> Table:
    """Show the exponent of the growth of time with samples and with classes, which should be 1."""
    names = list(dict.fromkeys(row["contender"] for row in run["growth"]))
    table = Table(f"Growth of the time of {LOSS_GRAD}: exponent (1 is proportional)", ["", *map(label, names)])
    for axis, fixed in (("batch", "classes"), ("classes", "batch")):
        value = _common(run["growth"], fixed)
        rows = [row for row in run["growth"] if row[fixed] == value]
        sizes = sorted({row[axis] for row in rows})
        if len(sizes) < 2:
            continue
        text = f"{axis} {sizes[0]:,} to {sizes[-1]:,}, {fixed} {value:,}"
        table.rows.append(
            [Cell(text), *(Cell(_exponent([r for r in rows if r["contender"] == n], axis)) for n in names)]
        )
    table.note = "Slope of the logarithms, from within the caches to beyond them where the sizes are so large."
    return table


def _common(rows: list[Row], key: str) -> int:
    values = [row[key] for row in rows]
    return max(set(values), key=values.count, default=0)


def _exponent(rows: list[Row], axis: str) -> str:
    if len(rows) < 2:
        return "–"
    slope = np.polyfit(np.log([row[axis] for row in rows]), np.log([row["median"] for row in rows]), 1)[0]
    return f"{slope:.2f}"


def headline(run: Run) -> str:
    """Return the sentences that the README begins with."""
    found = contests(run)
    won = sum(rival["median"] > ours["median"] for _, ours, rival in found)
    mean = np.exp(np.mean([np.log(rival["median"] / ours["median"]) for _, ours, rival in found]))
    text = (
        f"In {won} of {len(found)} cases of the full benchmark (operations, shapes, dtypes and layouts) fastce is the "
        f"fastest of all on {run['facts']['cpu']} ({run['facts']['vectors']}); its best rival takes "
        f"{three_digits(mean)} times as long, in the geometric mean."
    )
    eager = {
        (c.batch, c.classes): rows["torch"]["ratio"]
        for c, rows in by_case(run["speed"])
        if c.op == LOSS_GRAD and c.dtype == "float32" and "torch" in rows
    }
    parts = [f"{three_digits(eager[s])} times at {s[0]:,} × {s[1]:,}" for s in (TILES, LARGE) if s in eager]
    return f"{text} PyTorch's eager loss and gradient take {' and '.join(parts)}." if parts else text


def verdicts(run: Run) -> list[bars.Verdict]:
    """Judge all bars."""
    return bars.verdicts(run) + linear_report.verdicts(run["linear"])


def summary(run: Run) -> list[Table]:
    """Return the tables that fit a terminal."""
    found = [bars.table(verdicts(run)), *rivals_tables(run), memory_table(run), threads_table(run), growth_table(run)]
    return [table for table in [*found, *linear_report.tables(run["linear"])] if table.rows]


def show(run: Run, console: Console) -> None:
    console.print(report.facts_line(run), style="dim")
    if report.busy_line(run):
        console.print(report.busy_line(run), style="bold red")
    for table in summary(run):
        console.print()
        console.print(table.rich())
    for line in tables.left_out_lines(run):
        console.print(line, style="yellow")
    for verdict in verdicts(run):
        console.print(verdict.line(), style="green" if verdict.found and verdict.passed else "bold red")
    console.print(headline(run), style="bold")


def write(run: Run, folder: Path, suffix: str = "svg") -> list[Path]:
    """Write full.json, full.md and the plots; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = boardplots.draw(run, contests(run), folder, suffix) + linear_report.draw(run["linear"], folder, suffix)
    results.save(run, folder / "full.json")
    (folder / "full.md").write_text(markdown(run, drawn), encoding="utf-8")
    return [folder / "full.json", folder / "full.md", *drawn]


def markdown(run: Run, drawn: list[Path]) -> str:
    warnings = ["**A smoke run: the figures mean nothing.**", ""] if run["facts"]["smoke"] else []
    warnings += [f"**{report.busy_line(run)}**", ""] if report.busy_line(run) else []
    parts = ["# fastce: full benchmark", "", *warnings, headline(run), "", report.facts_line(run), "", METHOD, ""]
    parts += [f"![{path.stem}]({path.name})\n" for path in drawn]
    parts += [table.markdown() for table in summary(run)]
    notes = tables.failure_lines(run) + tables.left_out_lines(run)
    parts += ["### Failed and left out", "", *(f"- {line}" for line in notes), ""] if notes else []
    parts += ["## All times", "", *(table.markdown() for table in tables.speed_tables(run))]
    return "\n".join(parts).rstrip() + "\n"
