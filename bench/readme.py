"""Writes the README's speed section from the committed run: ``make readme``; ``--check`` only compares."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench import tables
from bench.report import facts_line

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"


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
        "All operations: how many times as long as fastce the fastest of all other contenders takes (named in "
        "parentheses). Bold, below 1: fastce loses.",
        "",
        tables.rivals_table(run, dtype).markdown(),
        "A two-layer NumPy network on scikit-learn's digits, trained with each loss:",
        "",
        _untitled(tables.training_table(run)),
        f"Measured by `make bench`, reported in full in [bench/results/report.md](bench/results/report.md): "
        f"{facts_line(run)}",
    ]
    return "\n".join(parts)


def _untitled(table: tables.Table) -> str:
    table.title = ""
    return table.markdown()


def replaced(readme: str, text: str) -> str:
    """Return the README with the part between the marks replaced.

    Raises
    ------
    ValueError
        If the README does not have both marks, once each.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md needs one {BEGIN} and one {END}")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the README is not up to date")
    check = parser.parse_args().check
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    new = replaced(readme, section(json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))))
    if check:
        print("README.md is up to date" if new == readme else "README.md is not up to date: run make readme")
        return int(new != readme)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
