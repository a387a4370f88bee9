"""Evaluation by Dask (extra: dask)
================================

A stack of files holds the logits of a model, a chunk of samples each. Dask reads and evaluates them in threads, a few
chunks at a time. Sums of chunks merge exactly, so the result has the bits of one call for the whole array.

Install ``pip install ".[dask]"``.
"""

import tempfile

import dask.array as da
import numpy as np

import fastce
from fastce.interop.dask import cross_entropy, evaluate

SAMPLES, CLASSES, CHUNK = 10_000, 1_000, 2_500

# %%
# The logits are made up: noise, and more for the label.

rng = np.random.default_rng(0)
labels = rng.integers(0, CLASSES, SAMPLES)
whole = rng.standard_normal((SAMPLES, CLASSES), dtype=np.float32)
whole[np.arange(SAMPLES), labels] += rng.gamma(4, 1, SAMPLES)

folder = tempfile.TemporaryDirectory()
da.to_npy_stack(folder.name, da.from_array(whole, chunks=(CHUNK, CLASSES)), axis=0)

# %%
# Nothing is read before ``compute``. A chunk of zarr or HDF5 would do as well.

logits = da.from_npy_stack(folder.name)
print(f"{logits.nbytes / 1e6:.0f} MB in {logits.npartitions} chunks")

result = evaluate(logits, labels, top_k=(1, 5, 10)).compute(num_workers=2)
print(f"perplexity {result.perplexity:.2f}, top 1, 5, 10: " + ", ".join(f"{k:.2%}" for k in result.top_k_accuracy))

# %%
# The bits are the same as without Dask.

assert result == fastce.evaluate(whole, labels, top_k=(1, 5, 10))

# %%
# Losses and gradients are lazy too. They take the options of fastce's functions.

smoothed = cross_entropy(logits, labels, label_smoothing=0.1).compute(num_workers=2)
print(f"loss with label smoothing {smoothed:.4f}")

del logits  # some systems delete no file that is mapped
folder.cleanup()
