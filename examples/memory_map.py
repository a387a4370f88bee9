"""Evaluation from a memory map
============================

The logits of a model lie in a file. ``evaluate`` reads a memory map of it a block at a time, so the file may be larger
than memory. One pass gives the loss, the perplexity, and top-k accuracies for several k.

Install ``pip install . matplotlib``.
"""

import tempfile
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import fastce

SAMPLES, CLASSES = 20_000, 1_000

# %%
# The logits are made up: noise, and more for the label. They are written 1,000 rows at a time.

folder = tempfile.TemporaryDirectory()
file = Path(folder.name) / "logits.npy"
rng = np.random.default_rng(0)
labels = rng.integers(0, CLASSES, SAMPLES)

logits = np.lib.format.open_memmap(file, "w+", np.float32, (SAMPLES, CLASSES))
for first in range(0, SAMPLES, 1000):
    rows = np.arange(first, first + 1000)
    logits[rows] = rng.standard_normal((1000, CLASSES), dtype=np.float32)
    logits[rows, labels[rows]] += rng.gamma(4, 1, 1000)
logits.flush()

# %%
# All means are exact sums, rounded once. They do not depend on the size of the blocks.

ks = (1, 2, 5, 10, 20, 50, 100, 200, 500)
logits = np.load(file, mmap_mode="r")
fastce.evaluate(logits[:10], labels[:10], top_k=ks)  # compiles, or loads compiled kernels
tracemalloc.start()
result = fastce.evaluate(logits, labels, top_k=ks)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()

print(f"{result.count:,} samples, loss {result.loss:.4f}, perplexity {result.perplexity:.2f}")
print(f"accuracy {result.accuracy:.2%}, mean entropy {result.entropy:.4f}")
print(f"{logits.nbytes / 1e6:.0f} MB on disk, {peak / 1e6:.1f} MB of memory at most")

# %%
# A share of the samples has its label among the k most probable classes.

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
axes.plot(ks, result.top_k_accuracy, "o-")
axes.set(xlabel="k", xscale="log", ylabel="top-k accuracy", ylim=(0, 1))
axes.grid(alpha=0.3)
plt.show()

del logits  # some systems delete no file that is mapped
folder.cleanup()
