"""Building blocks on one contiguous row of many classes.

A row is given by a pointer to its first class and the number of classes. Tails shorter than a value are masked, so
that every class goes through the same lanes whatever the row's length.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastce.kernels import formulas
from fastce.kernels.codegen.jit import block, inline, inline_for
from fastce.kernels.rows.targets import of_row
from fastce.kernels.simd.integer import larger, smaller
from fastce.kernels.simd.memory import (
    load,
    load_n,
    load_one,
    offset,
    prefetch_read,
    row,
    scratch,
    static_first_present,
    static_if_half,
    static_if_present,
    store,
    store_n,
    store_one,
    until_aligned,
)
from fastce.kernels.simd.vecmath import exp, exp_one, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    any_lane,
    count_true,
    full_like,
    get_lane,
    lanes,
    maximum,
    reduce_add,
    reduce_max,
)

PLAIN_SUM = 32  # values added in the logits' precision; their sums are added in float64
BLOCK = 64  # values whose maximum is known before their exponentials are added
TERMS = 16  # values added to one partial sum: so few that rounding errors of one sign do not pile up
CHUNK = 1 << 15  # most classes that one thread sums at a time
MAXIMA = 8  # values of scratch memory for the maxima of all blocks of a row: one chunk, or two of 16-bit floats


class RowPlan(NamedTuple):
    """How a kernel goes through long rows, and how it writes them."""

    rows_a_block: int  # rows that a thread takes at a time
    streamed: bool  # results go past the caches
    static_chunked: bool | None  # rows have several chunks
    static_store_exp: Any  # store exponentials: in the result (True), or in the rows of this array, one a block


@block
def max_of(p, start, stop, copy):
    """Return the maximum of ``p[start:stop]``, ignoring NaN; copy whole values to ``copy``, unless that is None."""
    width = lanes(p)
    a = b = full_like(p, -np.inf)
    j = start
    while j + 2 * width <= stop:
        a = maximum(_load_and_copy(p, j, copy), a)
        b = maximum(_load_and_copy(p, j + width, copy), b)
        j += 2 * width
    while j < stop:
        a = maximum(load_n(p, j, stop - j, -np.inf), a)
        j += width
    return reduce_max(maximum(a, b))


@inline
def _load_and_copy(p, j, copy):
    """Load a value, and store it to ``copy``, unless that is None."""
    value = load(p, j)
    _store_if(copy, j, lanes(p), value)
    return value


@inline
def _store_if(q, j, n, value):
    """Store ``n`` lanes to ``q``, unless that is None."""
    if q is not None:
        store_n(q, j, n, value)


@inline
def _add_exp(x, shift, sum_exp_rest, count, q, j, n):
    """Store exp(x - shift) to ``q``; where x is not the shift, add it to ``sum_exp_rest`` and 1 to ``count``."""
    d = x - shift
    e = exp(d)
    _store_if(q, j, n, e)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, e), count + count_true(below)


@block
def _sum(p, start, stop, shift, q, next_p):
    """Return (sum_exp_rest, num_at_max) of ``p[start:stop]``, see ``chunk_stats``, and the maximum of ``next_p`` there.

    Exponentials are stored to ``q``, unless that is None. The maximum is -inf where ``next_p`` is None.
    """
    width = lanes(p)
    total, below = full_like(p, 0.0), 0
    row_max = full_like(p, -np.inf)
    j = start
    while j < stop:
        end = smaller(j + TERMS * width, stop)
        sum_exp_rest = full_like(p, 0.0)
        while j + width <= end:
            sum_exp_rest, below = _add_exp(load(p, j), shift, sum_exp_rest, below, q, j, width)
            if next_p is not None:
                row_max = maximum(load(next_p, j), row_max)
            j += width
        if j < end:
            n = end - j
            sum_exp_rest, below = _add_exp(load_n(p, j, n, -np.inf), shift, sum_exp_rest, below, q, j, n)
            if next_p is not None:
                row_max = maximum(load_n(next_p, j, n, -np.inf), row_max)
            j += width
        total = total + sum_exp_rest
    return reduce_add(total), j - start - below, reduce_max(row_max)


@block
def _sum_and_next_max(p, start, shift, has_max, q, next_p, copy):
    """Return (sum_exp_rest, num_at_max) of one block of ``p``, and the maximum of the block of ``next_p``.

    ``next_p`` comes from memory while the exponentials keep the core busy, with prefetches half a block further on.
    It is copied to ``copy``, and exponentials are stored to ``q``, unless those are None. Only a block that
    ``has_max`` can have classes at the maximum.
    """
    width = lanes(p)
    size = BLOCK * width
    total, below = full_like(p, 0.0), 0
    row_max = full_like(p, -np.inf)
    for part in range(start, start + size, TERMS * width):
        sum_exp_rest = full_like(p, 0.0)
        if has_max:
            for j in range(part, part + TERMS * width, width):
                sum_exp_rest, below = _add_exp(load(p, j), shift, sum_exp_rest, below, q, j, width)
                row_max = maximum(_load_and_copy(next_p, j, copy), row_max)
        else:
            for j in range(part, part + TERMS * width, width):
                if q is None or copy is not None:  # else the stores to ``q`` keep memory busy
                    prefetch_read(next_p, j + size // 2)
                e = exp(load(p, j) - shift)
                _store_if(q, j, width, e)
                sum_exp_rest = sum_exp_rest + e
                row_max = maximum(_load_and_copy(next_p, j, copy), row_max)
        total = total + sum_exp_rest
    return reduce_add(total), size - below if has_max else 0, reduce_max(row_max)


@inline
def _raise_max(row_max, higher, sum_exp_rest, num_at_max):
    """Return (sum_exp_rest, num_at_max) for the maximum ``higher`` instead of ``row_max``, which may be lower."""
    if higher > row_max:
        return (sum_exp_rest + num_at_max) * exp_one(np.float64(row_max) - np.float64(higher)), 0.0
    return sum_exp_rest, num_at_max


@inline
def shift_of(p, row_max):
    """Return the shift subtracted before exp: the maximum, or 0 while all classes are -inf."""
    return full_like(p, row_max if row_max > -np.inf else 0.0)


@inline
def lowest(like):
    """Return -inf, the maximum of no class, in the dtype of ``like``."""
    return get_lane(full_like(like, -np.inf), 0)


@block
def chunk_stats(p, start, stop, q, block_maxima):
    """Return (maximum, sum_exp_rest, num_at_max) of ``p[start:stop]``.

    ``num_at_max`` counts the classes at the maximum, and ``sum_exp_rest`` sums exp(x - maximum) over all others.

    Memory is read once: the maximum is one block ahead of the sum, which is rescaled when the maximum grows.
    16-bit floats are widened once: a buffer holds each block until it is summed. Exponentials are stored to ``q``
    relative to the maximum of their time, which is stored to ``block_maxima``, unless those are None.
    """
    size = BLOCK * lanes(p)
    blocks = larger((stop - start) // size - 1, 0)  # whole blocks that another whole block follows
    buf_cur, buf_next = static_if_half(p, scratch(p, BLOCK)), static_if_half(p, scratch(p, BLOCK))
    row_max = max_of(offset(p, start), 0, size, buf_cur) if blocks else max_of(p, start, stop, None)
    next_max, sum_exp_rest, comp, num_at_max = row_max, 0.0, 0.0, 0.0
    for _ in range(blocks):
        has_max = next_max == row_max
        _store_max(block_maxima, start // size, row_max)
        block_p, next_p = static_first_present(buf_cur, offset(p, start)), offset(p, start + size)
        block_rest, block_num_at_max, next_max = _sum_and_next_max(
            block_p, 0, shift_of(p, row_max), has_max, offset(q, start), next_p, buf_next
        )
        buf_cur, buf_next = buf_next, buf_cur
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(block_rest))
        comp += err
        num_at_max += block_num_at_max
        if next_max > row_max:
            decay = exp_one(np.float64(row_max) - np.float64(next_max))
            sum_exp_rest, comp, num_at_max, row_max = (sum_exp_rest + num_at_max) * decay, comp * decay, 0.0, next_max
        start += size
    if blocks:
        higher = max(row_max, max_of(p, start + size, stop, None))
        sum_exp_rest, num_at_max = _raise_max(row_max, higher, sum_exp_rest + comp, num_at_max)
        comp, row_max = 0.0, higher
    while start < stop:
        _store_max(block_maxima, start // size, row_max)
        end = smaller(start + size, stop)
        block_rest, block_num_at_max, _ = _sum(p, start, end, shift_of(p, row_max), q, None)
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(block_rest))
        comp += err
        num_at_max += block_num_at_max
        start = end
    return row_max, sum_exp_rest + comp, num_at_max


@inline
def chunk_length(classes):
    """Return how many classes each chunk of a row has; the last one may have fewer.

    Chunks are whole blocks, and about equally many for each of 2 or 4 threads.
    """
    if classes <= CHUNK:
        return CHUNK
    chunks = 2 if classes < 2 * CHUNK else -(-classes // (4 * CHUNK)) * 4
    size = BLOCK * 16  # of a block of float32, or of two of float64
    return -(-classes // (chunks * size)) * size


@inline
def merge(row_max, sum_exp_rest, num_at_max, other_max, other_rest, other_num_at_max):
    """Return (maximum, sum_exp_rest, num_at_max) of two parts of a row together."""
    higher = max(row_max, other_max)
    sum_exp_rest, num_at_max = _raise_max(row_max, higher, sum_exp_rest, num_at_max)
    other_rest, other_num_at_max = _raise_max(other_max, higher, other_rest, other_num_at_max)
    return higher, sum_exp_rest + other_rest, num_at_max + other_num_at_max


@inline
def finish(row_max, sum_exp_rest, num_at_max):
    """Return (maximum, sum_exp_rest) as ``stats``, from the (maximum, sum_exp_rest, num_at_max) of a whole row."""
    if num_at_max:
        return np.float64(row_max), sum_exp_rest + (num_at_max - 1.0)
    if row_max > -np.inf:
        return np.float64(row_max), np.nan
    return row_max + sum_exp_rest, np.nan  # -inf, or NaN where a NaN is in the sum


@inline
def _store_max(block_maxima, k, row_max):
    """Store the maximum of block ``k``, unless ``block_maxima`` is None."""
    if block_maxima is not None:
        store_one(block_maxima, k, row_max)


@block
def _rescale(q, block_maxima, classes, row_max):
    """Make exponentials relative to the row's maximum that were stored relative to their ``block_maxima``."""
    width = lanes(q)
    size = BLOCK * width
    for start in range(0, classes, size):
        block_max = load_one(block_maxima, start // size)
        if block_max < row_max:
            decay = exp(full_like(q, block_max) - row_max)
            for j in range(start, smaller(start + size, classes), width):
                store(q, j, load(q, j) * decay)


@block
def stats(p, classes, q):
    """Return (maximum, sum_exp_rest) of a row.

    ``sum_exp_rest`` sums exp(x - maximum) over all classes but one that attains the maximum: see ``columns.stats``.
    Long rows are summed in chunks and merged in order, so that several threads that share a row get the same bits.
    The exponentials are stored to ``q``, in whole values, unless that is None.
    """
    row_max, sum_exp_rest, num_at_max = lowest(p), 0.0, 0.0
    block_maxima = static_if_present(q, scratch(p, MAXIMA))
    length = chunk_length(classes)
    for start in range(0, classes, length):
        part_max, part_rest, part_num_at_max = chunk_stats(p, start, smaller(start + length, classes), q, block_maxima)
        row_max, sum_exp_rest, num_at_max = merge(
            row_max, sum_exp_rest, num_at_max, part_max, part_rest, part_num_at_max
        )
    if q is not None:
        _rescale(q, block_maxima, classes, row_max)
    return finish(row_max, sum_exp_rest, num_at_max)


@block
def _maxima(p, classes, block_maxima):
    """Return the maximum of a row, and write the maximum of each block."""
    size = BLOCK * lanes(p)
    row_max = lowest(p)
    for start in range(0, classes, size):
        block_max = max_of(p, start, smaller(start + size, classes), None)
        store_one(block_maxima, start // size, block_max)
        row_max = max(row_max, block_max)
    return row_max


@block
def _sums_and_next_maxima(p, classes, row_max, maxima_cur, q, next_p, maxima_next):
    """Return ``stats`` of a row whose maxima are known, and ``_maxima`` of the row ``next_p``.

    The exponentials are stored to ``q``, unless that is None.
    """
    size = BLOCK * lanes(p)
    shift = shift_of(p, row_max)
    sum_exp_rest = comp = num_at_max = 0.0
    next_max = lowest(p)
    for start in range(0, classes, size):
        if start + size <= classes:
            has_max = load_one(maxima_cur, start // size) == row_max
            block_rest, block_num_at_max, block_max = _sum_and_next_max(p, start, shift, has_max, q, next_p, None)
        else:
            block_rest, block_num_at_max, block_max = _sum(p, start, classes, shift, q, next_p)
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(block_rest))
        comp += err
        num_at_max += block_num_at_max
        store_one(maxima_next, start // size, block_max)
        next_max = max(next_max, block_max)
    final_max, sum_exp_rest = finish(row_max, sum_exp_rest + comp, num_at_max)
    return final_max, sum_exp_rest, next_max


@inline
def first_max(x, i, stop, block_maxima, static_chunked):
    """Return the maximum of the first row ``i``, and write its blocks' maxima, for `stats_and_next_max`."""
    if static_chunked is None and i < stop:
        return _maxima(row(x, i), x.shape[1], block_maxima)
    return lowest(x)


def static_exp_buffer(static_store_exp, b):
    """Return the buffer for exponentials of block ``b``, a row of the array ``static_store_exp``, or None without one.

    Such a row is too large for a thread's stack.
    """


@inline_for(static_exp_buffer)
def _static_exp_buffer(static_store_exp, b):
    if isinstance(static_store_exp, types.Array):
        return lambda static_store_exp, b: offset(row(static_store_exp, b), until_aligned(row(static_store_exp, b)))
    return lambda static_store_exp, b: None


@inline
def exps_of(static_store_exp, buffer, out, i):
    """Return where to store row ``i``'s exponentials: in ``buffer``, else the row of ``out``; None if not stored."""
    return static_if_present(static_store_exp, static_if_present(out, static_first_present(buffer, row(out, i))))


@inline
def stats_and_next_max(x, i, next_row, row_max, maxima_cur, maxima_next, exps, static_chunked):
    """Return `stats` of row ``i`` and the maximum of row ``next_row``.

    Rows of one chunk are read once: the maxima of the next row are taken while the exponentials of this row keep the
    core busy. The exponentials are stored to ``exps``, unless that is None.
    """
    p, classes = row(x, i), x.shape[1]
    if static_chunked is not None:
        final_max, sum_exp_rest = stats(p, classes, exps)
        return final_max, sum_exp_rest, row_max
    return _sums_and_next_maxima(p, classes, row_max, maxima_cur, exps, row(x, next_row), maxima_next)


@block
def has_nan(p, classes):
    """Tell whether there is a NaN."""
    width = lanes(p)
    for j in range(0, classes, width):
        x = load_n(p, j, classes - j, 0.0)
        if any_lane(x != x):
            return True
    return False


@block
def sum_below_max(p, class_weight, classes, row_max):
    """Return the sum of w (maximum - x) over the classes, in float64."""
    width = lanes(p)
    total = 0.0
    size = PLAIN_SUM * width
    for start in range(0, classes, size):
        stop = smaller(start + size, classes)
        part = full_like(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            below_max = full_like(p, row_max) - load_n(p, j, n, row_max)  # 0 past the end
            if class_weight is not None:
                below_max = formulas.times_weight(below_max, load_n(row(class_weight, j), 0, n, 0.0))
            part = part + below_max
        total += reduce_add(part)
    return total


@block
def target_sum_and_dot(p, targets, classes, row_max):
    """Return the sums of t and of t (maximum - x) over the classes."""
    width = lanes(p)
    target_sum = dot = 0.0
    size = PLAIN_SUM * width
    for start in range(0, classes, size):
        stop = smaller(start + size, classes)
        block_target_sum = block_dot = full_like(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            target_prob = of_row(targets, j, n)
            below_max = full_like(p, row_max) - load_n(p, j, n, row_max)
            block_target_sum = block_target_sum + target_prob
            block_dot = block_dot + formulas.target_term(target_prob, below_max)
        target_sum += reduce_add(block_target_sum)
        dot += reduce_add(block_dot)
    return target_sum, dot
