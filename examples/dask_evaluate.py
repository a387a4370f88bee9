"""Evaluate a language model's logits on disk that do not fit memory: perplexity and accuracies, by Dask from zarr.

The logits are made up: noise, and more for each label. They are written to a zarr array, a chunk of rows at a time, and
read back by two threads of Dask, which hold a few chunks at a time. So 2 GB of logits take less than 500 MB of memory.

    python examples/dask_evaluate.py                    64 MB of logits
    python examples/dask_evaluate.py --megabytes 2000   2 GB, in a temporary folder of the current one
"""

import argparse
import sys
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from dask.diagnostics import ProgressBar
from rich.console import Console
from rich.table import Table

from fastce.interop.dask import cross_entropy, evaluate

CLASSES, CHUNK_ROWS = 8192, 512  # 16 MB a chunk
MOST_MEGABYTES = 500


def write(path, tokens, rng):
    """Write logits to disk, and return the labels."""
    labels = rng.integers(0, CLASSES, tokens)
    logits = zarr.create_array(
        path, shape=(tokens, CLASSES), chunks=(CHUNK_ROWS, CLASSES), dtype="float32", compressors=None
    )
    for start in range(0, tokens, CHUNK_ROWS):
        part = labels[start : start + CHUNK_ROWS]
        block = rng.standard_normal((len(part), CLASSES), dtype=np.float32)
        block[np.arange(len(part)), part] += rng.gamma(4.0, 1.5, len(part))
        logits[start : start + len(part)] = block
    return labels


def peak_megabytes():
    """Return the most memory that this process has had; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1000


def main():
    """Write the logits, evaluate them, and print the result."""
    parser = argparse.ArgumentParser(description="Evaluate logits on disk that do not fit memory.")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the logits")
    tokens = max(parser.parse_args().megabytes * 10**6 // (4 * CLASSES), 1)

    with tempfile.TemporaryDirectory(dir=".") as folder:
        labels = write(f"{folder}/logits.zarr", tokens, np.random.default_rng(0))
        logits = da.from_zarr(f"{folder}/logits.zarr")
        with ProgressBar(out=sys.stderr):
            result = evaluate(logits, labels, top_k=(5, 10)).compute(num_workers=2)
        smoothed = cross_entropy(logits, labels, label_smoothing=0.1).compute(num_workers=2)

    table = Table("", "value", title=f"{tokens:,} tokens, {logits.nbytes / 1e6:,.0f} MB in {logits.npartitions} chunks")
    table.add_row("perplexity", f"{result.perplexity:.2f}")
    table.add_row("top 1, 5 and 10", f"{result.accuracy:.1%}, " + ", ".join(f"{k:.1%}" for k in result.top_k_accuracy))
    table.add_row("loss with label smoothing", f"{smoothed:.4f}")
    peak = peak_megabytes()
    if peak is not None:
        table.add_row("most memory of the process", f"{peak:.0f} MB")
    Console().print(table)
    if peak is not None and peak > MOST_MEGABYTES:
        raise SystemExit(f"it took more than {MOST_MEGABYTES} MB")


if __name__ == "__main__":
    main()
