"""Writes the README's speed section from the committed run: ``make readme``; ``--check`` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import busy_stage, linear_report, scoreboard, tables
from bench.linear import MAIN
from bench.report import facts_line

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
# of the marks <!-- speed:begin --> and <!-- speed:end -->, for instance
SPEED, HEADLINE, LINEAR = "speed", "headline", "linear"


def section(run: dict[str, Any]) -> str:
    """Return the section's Markdown: loss + gradient in full, the other operations against the best of the others."""
    full = next(tables.speed_tables({**run, "speed": [r for r in run["speed"] if r["op"] == "loss+grad"]}))
    full.title = ""
    dtype = run["speed"][0]["dtype"]
    image = f"![loss + gradient: speed against batch size](bench/results/speed-loss-grad-{dtype}.svg)"
    parts = [
        "Loss and gradient, median time of a call, in parentheses as a multiple of `fastce out=`; bold is the fastest.",
        "",
        full.markdown(),
        image,
        "",
        "All operations: how many times as long as fastce the fastest other contender of this run takes (named in "
        "parentheses). Bold, below 1: fastce loses.",
        "",
        tables.rivals_table(run, dtype).markdown(),
        "A two-layer NumPy network on scikit-learn's digits, trained with each loss:",
        "",
        _untitled(tables.training_table(run)),
        *busy_stage.readme_lines(run.get("busy", [])),
        f"Measured by `make bench`, reported in full in [bench/results/report.md](bench/results/report.md): "
        f"{facts_line(run)}",
    ]
    return "\n".join(parts)


def _untitled(table: tables.Table) -> str:
    table.title = ""
    return table.markdown()


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def replaced(readme: str, text: str, name: str = SPEED) -> str:
    """Return the README with the part between the marks replaced.

    Raises
    ------
    ValueError
        If the README does not have both marks, once each.
    """
    begin, end = marks(name)
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"README.md needs one {begin} and one {end}")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def filled(readme: str) -> str:
    """Return the README with all that the committed runs say; of the full run only where run and marks exist."""
    new = replaced(readme, section(_load("results.json")))
    if (RESULTS / "full.json").exists():
        run = _load("full.json")
        for name, text in ((HEADLINE, scoreboard.headline(run)), (LINEAR, last_layer(run))):
            if text and any(mark in readme for mark in marks(name)):
                new = replaced(new, text, name)
    return new


def last_layer(run: dict[str, Any]) -> str:
    """Return the Markdown of the section on the last layer, nothing where the run has not measured it."""
    rows = run.get("linear", [])
    if not rows:
        return ""
    parts = [
        f"Hidden states {MAIN.tokens:,} × {MAIN.features:,}, {MAIN.classes:,} classes, float32, in parentheses as a "
        "multiple of the bare matrix products, one for the loss and three for all; memory beyond the arguments.",
        "",
        linear_report.readme_table(rows).markdown(),
        linear_report.memory_line(rows),
        "",
        "![time and memory over tokens and classes](bench/results/linear.svg)",
        "",
        f"Measured by `make bench-full`: {facts_line(run)}",
    ]
    return "\n".join(parts)


def _load(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the README is not up to date")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    new = filled(readme)
    if check:
        print("README.md is up to date" if new == readme else "README.md is not up to date: run make readme")
        return int(new != readme)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
