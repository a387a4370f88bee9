"""A language model with a large vocabulary
========================================

A model of words reads the docstrings of Python's standard library. The embeddings of the last words go through a hidden
layer, and the last layer scores every word of the vocabulary as the next one. ``linear_cross_entropy_and_grad``
computes this layer and its loss together, a chunk at a time, so the scores are never all in memory.

Install ``pip install . matplotlib``.
"""

import re
import sysconfig
import tracemalloc
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import fastce

CONTEXT, WIDTH, BATCH, STEPS, RATE = 3, 32, 512, 50, 0.1

# %%
# The text: every docstring once. Words are numbered.

docstrings = {}
for path in sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py")):
    source = path.read_text(encoding="utf-8", errors="ignore")
    docstrings |= dict.fromkeys(re.findall(r'^ *r?"""(.*?)"""', source, re.DOTALL | re.MULTILINE))
words, codes = np.unique(re.findall(r"\w+|[^\w\s]", " ".join(docstrings)), return_inverse=True)
print(f"{len(codes):,} words of text, a vocabulary of {len(words):,}")

# %%
# The parameters take steps by Adagrad. The bias starts at the frequencies of the words.

rng = np.random.default_rng(0)


def normal(*shape, scale):
    """Draw float32 numbers."""
    return (rng.normal(size=shape) * scale).astype(np.float32)


parameters = {
    "embedding": normal(len(words), WIDTH, scale=0.1),
    "w1": normal(CONTEXT * WIDTH, WIDTH, scale=0.1),
    "w2": normal(len(words), WIDTH, scale=0.02),
    "b2": np.log(np.bincount(codes) / len(codes)).astype(np.float32),
}
squares = {name: np.full_like(values, 1e-8) for name, values in parameters.items()}


def update(name, gradient):
    """Take a step of Adagrad."""
    squares[name] += gradient * gradient
    parameters[name] -= RATE * gradient / np.sqrt(squares[name])


# %%
# One call returns the loss and the gradients of the hidden layer, the weights and the bias. ``max_bytes`` bounds the
# scores that are in memory at a time.


def step(context, target):
    """Take one step and return the loss before it."""
    embedded = parameters["embedding"][context].reshape(len(context), -1)
    hidden = np.tanh(embedded @ parameters["w1"])
    loss, d_hidden, d_w2, d_b2 = fastce.linear_cross_entropy_and_grad(
        hidden, parameters["w2"], target, bias=parameters["b2"], max_bytes=4_000_000
    )
    d_hidden *= 1 - hidden**2
    d_embedding = np.zeros_like(parameters["embedding"])
    np.add.at(d_embedding, context.ravel(), (d_hidden @ parameters["w1"].T).reshape(-1, WIDTH))
    for name, gradient in {"embedding": d_embedding, "w1": embedded.T @ d_hidden, "w2": d_w2, "b2": d_b2}.items():
        update(name, gradient)
    return loss


windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)
losses = []
for _ in range(STEPS):
    batch = windows[rng.integers(0, len(windows), BATCH)]
    losses.append(step(batch[:, :-1], batch[:, -1]))
print(f"loss {losses[0]:.3f} at first, {np.mean(losses[-5:]):.3f} after {STEPS} steps")

# %%
# The memory of one call, its results included, beside the scores and their gradient, which it never holds.

hidden = np.zeros((BATCH, WIDTH), np.float32)
tracemalloc.start()
fastce.linear_cross_entropy_and_grad(hidden, parameters["w2"], batch[:, -1], bias=parameters["b2"], max_bytes=4_000_000)
peak = tracemalloc.get_traced_memory()[1]
tracemalloc.stop()
whole = 2 * 4 * BATCH * len(words)
print(f"memory of a call: {peak / 1e6:.1f} MB; the scores and their gradient alone: {whole / 1e6:.1f} MB")

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
axes.plot(losses)
axes.set(xlabel="step", ylabel="loss (nats a word)")
axes.grid(alpha=0.3)
plt.show()
