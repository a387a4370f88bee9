"""Evaluation by Dask (extra: dask)
================================

The logits of a language model lie on disk in zarr, a chunk of tokens each, and may be larger than memory. Dask reads
and evaluates them in threads, a few chunks at a time. Sums of chunks merge exactly, so the result has the bits of one
call for the whole array.

Install ``pip install ".[dask]" zarr``. Run ``python examples/dask_evaluate.py --megabytes 2000`` for 2 GB of logits,
which take less than 500 MB of memory.
"""

import sys
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from dask.diagnostics import ProgressBar

from fastce.interop.dask import cross_entropy, evaluate

MEGABYTES = int(sys.argv[2]) if sys.argv[1:2] == ["--megabytes"] else 64
CLASSES, CHUNK = 8192, 512  # 16 MB a chunk

# %%
# The logits are made up: noise, and more for the label. They are written a chunk at a time.

rng = np.random.default_rng(0)
tokens = MEGABYTES * 1_000_000 // (4 * CLASSES)
labels = rng.integers(0, CLASSES, tokens)
folder = tempfile.TemporaryDirectory(dir=".")
path = f"{folder.name}/logits.zarr"
stored = zarr.create_array(path, shape=(tokens, CLASSES), chunks=(CHUNK, CLASSES), dtype="float32", compressors=None)
for start in range(0, tokens, CHUNK):
    part = labels[start : start + CHUNK]
    block = rng.standard_normal((len(part), CLASSES), dtype=np.float32)
    block[np.arange(len(part)), part] += rng.gamma(4.0, 1.5, len(part))
    stored[start : start + len(part)] = block

# %%
# Nothing is read before ``compute``, and each chunk is read once. Dask's progress bar works as for any other array.

logits = da.from_zarr(path)
print(f"{tokens:,} tokens, {logits.nbytes / 1e6:,.0f} MB in {logits.npartitions} chunks")
with ProgressBar(out=sys.stderr):
    result = evaluate(logits, labels, top_k=(5, 10)).compute(num_workers=2)
top_5, top_10 = result.top_k_accuracy
print(f"perplexity {result.perplexity:.2f}, top 1, 5, 10: {result.accuracy:.1%}, {top_5:.1%}, {top_10:.1%}")

# %%
# Losses and gradients are lazy too. They take the options of fastce's functions.

smoothed = cross_entropy(logits, labels, label_smoothing=0.1).compute(num_workers=2)
print(f"loss with label smoothing {smoothed:.4f}")
folder.cleanup()

# %%
# Linux knows the most memory that a process has had.

status = Path("/proc/self/status")
if MEGABYTES > 64 and status.exists():
    peak = int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) / 1000
    print(f"most memory of the process: {peak:.0f} MB")
    assert peak < 500
