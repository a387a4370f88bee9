"""Few rows of very many classes: threads share the chunks of a row, not the rows.

A first kernel computes the statistics of each chunk. Merged in order, they have the bits of ``long_rows.stats``.
A second kernel writes each chunk of the result on its own.
"""

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.rows import long_rows, row_dots
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import offset, row


@inline
def chunk_count(x):
    """Return how many chunks a row of ``x`` has."""
    return -(-x.shape[1] // long_rows.chunk_length(x.shape[1]))


@inline
def chunk_of(x, task):
    """Return (row, first class, number of classes) of a task; there is one task for each chunk of each row."""
    chunks, length = chunk_count(x), long_rows.chunk_length(x.shape[1])
    start = task % chunks * length
    return task // chunks, start, smaller(length, x.shape[1] - start)


@kernel
def split_stats(x, parts):
    """Write ``chunk_stats`` of every chunk to ``parts``, float64 of shape (N, chunks, 3)."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, n = chunk_of(x, task)
        row_max, sum_exp_rest, num_at_max = long_rows.chunk_stats(offset(row(x, i), start), 0, n, None, None)
        chunk = task % parts.shape[1]
        parts[i, chunk, 0] = row_max
        parts[i, chunk, 1] = sum_exp_rest
        parts[i, chunk, 2] = num_at_max


@kernel
def split_dots(g, p, parts):
    """Write ``chunk_dot`` of every chunk to ``parts``, float64 of shape (N, chunks)."""
    for task in prange(g.shape[0] * chunk_count(g)):
        i, start, n = chunk_of(g, task)
        parts[i, task % parts.shape[1]] = row_dots.chunk_dot(offset(row(p, i), start), offset(row(g, i), start), n)


@inline
def merged_dot(parts, i):
    """Return the dot of row ``i``: the sum of its chunks' parts, in order."""
    total = 0.0
    for chunk in range(parts.shape[1]):
        total += parts[i, chunk]
    return total


@kernel
def merge_stats(x, parts, stats):
    """Write (maximum, sum_exp_rest) of all rows to ``stats``, of shape (2, N)."""
    for i in range(x.shape[0]):
        row_max, sum_exp_rest, num_at_max = parts[i, 0, 0], parts[i, 0, 1], parts[i, 0, 2]
        for chunk in range(1, parts.shape[1]):
            part = parts[i, chunk]
            row_max, sum_exp_rest, num_at_max = long_rows.merge(
                row_max, sum_exp_rest, num_at_max, part[0], part[1], part[2]
            )
        stats[0, i], stats[1, i] = long_rows.finish(row_max, sum_exp_rest, num_at_max)
