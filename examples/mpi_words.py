"""Train the last layer of a word model with its vocabulary over the ranks of MPI, each of which has a slice of it.

The words of Python's language reference are predicted from the word before: an embedding, and the scores of all words.
Each rank scores its slice of the words; the loss, and the gradient of the embeddings, are those of all of them, with
the same bits on every rank. It prints the losses and how much of the layer a rank has.

    mpirun -n 2 python -m mpi4py examples/mpi_words.py
    python examples/mpi_words.py            one process, which has all words
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a rank has one core here; before NumPy is imported

import re
from pydoc_data.topics import topics
from time import perf_counter

import numba
import numpy as np
from mpi4py import MPI

from fastce.interop.mpi import vocab_parallel_linear_cross_entropy_and_grad

WIDTH, BATCH, STEPS, RATE = 64, 512, 30, 0.3
COMM = MPI.COMM_WORLD


class Adagrad:
    """Parameters that take steps along their gradients."""

    def __init__(self, values):
        self.values, self.squares = values.astype(np.float32), np.full(values.shape, 1e-8, np.float32)

    def step(self, gradient):
        """Take a step."""
        self.squares += gradient * gradient
        self.values -= RATE * gradient / np.sqrt(self.squares)


def main():
    """Train, and show the losses."""
    numba.set_num_threads(1)
    text = re.findall(r"\w+|[^\w\s]", " ".join(topics.values()))
    words, codes = np.unique(text, return_inverse=True)
    counts = np.bincount(codes)
    first, last = (len(words) * rank // COMM.size for rank in (COMM.rank, COMM.rank + 1))

    rng = np.random.default_rng(0)  # the same on every rank
    embedding = Adagrad(rng.normal(size=(len(words), WIDTH)) * 0.1)
    weight = Adagrad(np.zeros((last - first, WIDTH)))
    bias = Adagrad(np.log(counts[first:last] / len(codes)))

    losses, times = [], []
    for _ in range(STEPS):
        places = rng.integers(0, len(codes) - 1, BATCH)
        before, target = codes[places], codes[places + 1]
        began = perf_counter()
        loss, d_hidden, d_weight, d_bias = vocab_parallel_linear_cross_entropy_and_grad(
            embedding.values[before], weight.values, target, bias=bias.values
        )
        times.append(perf_counter() - began)
        losses.append(float(loss))
        d_embedding = np.zeros_like(embedding.values)
        np.add.at(d_embedding, before, d_hidden)
        for parameters, gradient in ((embedding, d_embedding), (weight, d_weight), (bias, d_bias)):
            parameters.step(gradient)
    milliseconds = np.median(times) * 1e3  # the first compiles kernels, or reads them from disk

    slices = COMM.gather(f"{first:,} to {last - 1:,}, {weight.values.nbytes / 1e6:.1f} MB of weights")
    ends = COMM.gather(losses[-1])
    if COMM.rank == 0:
        print(f"{len(codes):,} words of text, {len(words):,} different ones")
        for rank, text in enumerate(slices):
            print(f"rank {rank}: words {text}")
        print(f"loss {losses[0]:.4f} at first, {np.mean(losses[-5:]):.4f} after {STEPS} steps")
        print(f"last layer and loss: {milliseconds:.1f} ms a step")
        assert len(set(ends)) == 1, "the ranks differ"
        assert losses[-1] < losses[0]


if __name__ == "__main__":
    main()
