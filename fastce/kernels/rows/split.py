"""Few rows of very many classes: the chunks of a row, not the rows, go to the threads.

Statistics first, a chunk at a time; merged in order, they are those that ``long_rows.stats`` finds.
Then each chunk of the result is written on its own.
"""

from numba import prange

from fastce.kernels.codegen.jit import inline, kernel
from fastce.kernels.rows import long_rows
from fastce.kernels.simd.memory import offset, row


@inline
def chunk_count(x):
    """Return how many chunks a row of ``x`` has."""
    return -(-x.shape[1] // long_rows.chunk_length(x.shape[1]))


@inline
def chunk_of(x, task):
    """Return (row, first class, classes) of a task, of which there is one a row and chunk."""
    chunks, length = chunk_count(x), long_rows.chunk_length(x.shape[1])
    start = task % chunks * length
    return task // chunks, start, min(length, x.shape[1] - start)


@kernel
def split_stats(x, parts):
    """Write (maximum, rest, ones) of every chunk to ``parts``, float64 of shape (N, chunks, 3)."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, n = chunk_of(x, task)
        row_max, sum_exp_rest, num_at_max = long_rows.chunk_stats(offset(row(x, i), start), 0, n, None, None)
        chunk = task % parts.shape[1]
        parts[i, chunk, 0] = row_max
        parts[i, chunk, 1] = sum_exp_rest
        parts[i, chunk, 2] = num_at_max


@kernel
def split_dots(g, p, parts):
    """Write `long_rows.dot` of every chunk to ``parts``, float64 of shape (N, chunks)."""
    for task in prange(g.shape[0] * chunk_count(g)):
        i, start, n = chunk_of(g, task)
        parts[i, task % parts.shape[1]] = long_rows.chunk_dot(offset(row(p, i), start), offset(row(g, i), start), n)


@inline
def merged_dot(parts, i):
    """Return the sum of a row's parts, in their order."""
    total = 0.0
    for chunk in range(parts.shape[1]):
        total += parts[i, chunk]
    return total


@kernel
def merge_stats(x, parts, stats):
    """Write the maxima and rests of all rows to ``stats``, of shape (2, N)."""
    for i in range(x.shape[0]):
        row_max, sum_exp_rest, num_at_max = parts[i, 0, 0], parts[i, 0, 1], parts[i, 0, 2]
        for chunk in range(1, parts.shape[1]):
            part = parts[i, chunk]
            row_max, sum_exp_rest, num_at_max = long_rows.merge(
                row_max, sum_exp_rest, num_at_max, part[0], part[1], part[2]
            )
        stats[0, i], stats[1, i] = long_rows.finish(row_max, sum_exp_rest, num_at_max)
