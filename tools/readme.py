"""Writes figures of README and docs/benchmarks.md from the committed runs: ``make readme``; ``--check`` only checks."""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from bench import data, report, tables
from bench.cases import LARGE_LAYER, LAYER, MAIN_LAYER, Op
from bench.contenders import CONTENDERS, LIMIT, PRODUCTS
from bench.data import ROOT, Run
from bench.plans import BUSY_SECONDS
from bench.tables import LABELS, SHAPE, Table, duration, megabytes, three_digits
from tools.marks import replaced

RESULTS = ROOT / "bench" / "results"
# what the README shows of the ordinary run: small and large batches of few, some and many classes
SIX = ((32, 10), (65_536, 10), (256, 1_000), (4_096, 1_000), (32, 50_257), (1_024, 50_257))
SHOWN = ("fastce-out", "numpy-stable", "torch", LIMIT)


def six(run: Run) -> str:
    """Return loss and gradient in six shapes, and where others are faster."""
    frame = run.section("speed")
    pairs = pd.Series(list(zip(frame.batch, frame.classes, strict=True)), frame.index)
    shown = frame[(frame.op == Op.LOSS_GRAD) & pairs.isin(SIX) & frame.contender.isin(SHOWN)]
    table = next(tables.speed_tables(Run(run.facts, shown, [])))
    table.title = ""
    facts = run.facts
    return "\n".join(
        [
            "Loss and gradient, float32: the median time of a call and, in parentheses, its multiple of fastce's time.",
            "",
            table.markdown(),
            f"{report.lost(run)} Measured by `make bench` on {facts['cpu']} ({facts['vectors']}, "
            f"{facts['threads']} threads), {facts['date']}.",
        ]
    )


def speed(run: Run) -> str:
    """Return loss + gradient in full, and the other operations against the best of the others."""
    records = run.records
    only = Run(run.facts, records[(records.section == "speed") & (records.op == Op.LOSS_GRAD)], [])
    full, training = next(tables.speed_tables(only)), tables.training_table(run)
    full.title = training.title = ""
    dtype = run.section("speed").dtype.iloc[0]
    parts = [
        "Loss and gradient: the median time of a call and, in parentheses, its multiple of the time of `fastce out=`. "
        "Bold is the fastest.",
        "",
        full.markdown(),
        f"![loss + gradient: speed against batch size](../bench/results/speed-loss-grad-{dtype}.svg)",
        "",
        "All operations: the time of the fastest other contender, named in parentheses, as a multiple of fastce's. "
        "Bold, below 1: fastce is slower.",
        "",
        tables.rivals_table(run, dtype).markdown(),
        "A two-layer NumPy network on scikit-learn's digits, trained with each loss:",
        "",
        training.markdown(),
        *busy(run),
        f"Measured by `make bench` ([full report](../bench/results/report.md)) on {report.facts_line(run)}",
    ]
    return "\n".join(parts)


def busy(run: Run) -> list[str]:
    """Return the lines on a shared machine, none where the run has not measured this."""
    frame = tables.busy_pairs(run)
    if frame.empty:
        return []
    texts = frame["mean"].map(duration) + frame.times.map(lambda times: f" ({three_digits(times)})")
    frame = frame.assign(text=tables.bold(texts, frame.index.isin(frame.groupby("shape")["mean"].idxmin())))
    sentence = (
        f"Loss and gradient beside a busy process a core: the mean time of calls over {BUSY_SECONDS} s, stalls "
        "included. In parentheses, its multiple of the mean on the quiet machine:"
    )
    return [sentence, "", Table("", tables.pivoted(frame, "shape", "contender", SHAPE)).markdown()]


def last_layer(run: Run) -> str:
    """Return the section on the last layer."""
    frame = run.section("layer")
    frame = frame.set_index(["batch", "features", "classes"], drop=False).sort_index(kind="stable")
    if MAIN_LAYER not in frame.index:
        return ""
    main, large = (frame.loc[[shape]].reset_index(drop=True) for shape in (MAIN_LAYER, LARGE_LAYER))
    large = large[large.contender != PRODUCTS]
    texts = [f"{LABELS[name]} {megabytes(size)}" for name, size in zip(large.contender, large.bytes, strict=True)]
    tokens, features, classes = MAIN_LAYER
    n, d, v = LARGE_LAYER
    parts = [
        f"Hidden states of {tokens:,} × {features:,}, {classes:,} classes, float32. In parentheses, the time as a "
        "multiple of the bare matrix products: one for the loss, three for loss and gradients. Memory is counted "
        "beyond the arguments.",
        "",
        Table("", summary(main)).markdown(),
        f"At {n:,} × {d:,} × {v:,} the logits alone are {4e-9 * n * v:.1f} GB. Loss and gradients take this memory: "
        f"{'; '.join(texts)}.",
        "",
        "![time and memory over tokens and classes](../bench/results/linear.svg)",
        "",
        f"Measured by `make bench-full` on {report.facts_line(run)}",
    ]
    return "\n".join(parts)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return times and memory of the last layer on one shape, a line a contender."""
    memory = frame.bytes.map(megabytes).where(frame.contender != PRODUCTS, "–")
    frame = frame.assign(time=tables.times(frame), memory=memory)
    columns = {"": pd.Series({name: LABELS[name] for name in CONTENDERS if name in set(frame.contender)})}
    for head, column in (("", "time"), ("memory, ", "memory")):
        for op in LAYER:
            texts = frame[frame.op == op].set_index("contender")[column]
            columns[f"{head}{op.removeprefix('layer-')}"] = texts
    return pd.DataFrame(columns).reindex(columns[""].index).fillna("–")


def written(page: str, parts: dict[str, str]) -> str:
    """Return the page with its parts as the runs have them."""
    for name, text in parts.items():
        page = replaced(page, text, name)
    return page


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(prog="python -m tools.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is not up to date")
    check = parser.parse_args().check
    ordinary, full = data.load(RESULTS, "report"), data.load(RESULTS, "full")
    pages = {
        ROOT / "README.md": {"speed": six(ordinary)},
        ROOT / "docs" / "benchmarks.md": {
            "headline": report.headline(full),
            "speed": speed(ordinary),
            "linear": last_layer(full),
        },
    }
    status = 0
    for path, parts in pages.items():
        page = path.read_text(encoding="utf-8")
        new = written(page, parts)
        if not check:
            path.write_text(new, encoding="utf-8")
        elif new != page:
            print(f"{path.name} is not up to date: run make readme")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
