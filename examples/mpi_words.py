"""A vocabulary over the ranks of MPI (extra: mpi)
===============================================

The words of Python's language reference are predicted from the word before. Each rank has a slice of the last layer and
scores its own words. The loss, and the gradient of the embeddings, are those of all words, with the same bits on every
rank.

Install ``pip install ".[mpi]"``, and ``mpich`` with it if the machine has no MPI. Without ``mpirun`` there is one rank,
which has all words.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a rank has one core here; before NumPy is imported

import re
from pydoc_data.topics import topics

import numba
import numpy as np
from mpi4py import MPI

from fastce.interop.mpi import vocab_parallel_linear_cross_entropy_and_grad

WIDTH, BATCH, STEPS, RATE = 32, 512, 30, 0.3
COMM = MPI.COMM_WORLD
numba.set_num_threads(1)

# %%
# Every rank reads the text. Its slice of the vocabulary is ``first:last``.

words, codes = np.unique(re.findall(r"\w+|[^\w\s]", " ".join(topics.values())), return_inverse=True)
first, last = (len(words) * rank // COMM.size for rank in (COMM.rank, COMM.rank + 1))

# %%
# The embeddings are on all ranks; weights and bias have the rank's slice alone.

rng = np.random.default_rng(0)  # the same on every rank
embedding = (rng.normal(size=(len(words), WIDTH)) * 0.1).astype(np.float32)
weight = np.zeros((last - first, WIDTH), np.float32)
bias = np.log(np.bincount(codes)[first:last] / len(codes)).astype(np.float32)
parameters = (embedding, weight, bias)
squares = [np.full_like(values, 1e-8) for values in parameters]

# %%
# One call exchanges a few numbers a sample, and the sum of the gradients of the embeddings. The steps are Adagrad's.

losses = []
for _ in range(STEPS):
    places = rng.integers(0, len(codes) - 1, BATCH)
    before, target = codes[places], codes[places + 1]
    loss, d_hidden, d_weight, d_bias = vocab_parallel_linear_cross_entropy_and_grad(
        embedding[before], weight, target, bias=bias
    )
    losses.append(float(loss))
    d_embedding = np.zeros_like(embedding)
    np.add.at(d_embedding, before, d_hidden)
    for values, gradient, square in zip(parameters, (d_embedding, d_weight, d_bias), squares, strict=True):
        square += gradient * gradient
        values -= RATE * gradient / np.sqrt(square)

slices = COMM.gather(f"words {first} to {last - 1}, {weight.nbytes / 1e6:.2f} MB of weights")
ends = COMM.gather(losses[-1])
if COMM.rank == 0:
    for rank, text in enumerate(slices):
        print(f"rank {rank}: {text}")
    print(f"loss {losses[0]:.3f} at first, {np.mean(losses[-5:]):.3f} after {STEPS} steps")
    assert len(set(ends)) == 1, "the ranks differ"

# %%
# The output of ``mpirun -n 2 python -m mpi4py examples/mpi_words.py``::
#
#     rank 0: words 0 to 2096, 0.27 MB of weights
#     rank 1: words 2097 to 4193, 0.27 MB of weights
#     loss 5.305 at first, 4.422 after 30 steps
