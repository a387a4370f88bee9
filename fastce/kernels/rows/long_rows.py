"""Building blocks on one contiguous row of many classes.

A row is a pointer to its first class and their number. Tails shorter than a value are
masked, so that every class goes through the same lanes whatever the row's length.
"""

import numpy as np
from numba import types

from fastce.kernels.codegen.jit import block, inline, inline_for
from fastce.kernels.rows.columns import pulled_back, soft_gradient, soft_share
from fastce.kernels.simd.memory import (
    either,
    given,
    if_16_bits,
    load,
    load_n,
    load_one,
    offset,
    row,
    scratch,
    store,
    store_n,
    store_one,
    until_aligned,
    will_read,
)
from fastce.kernels.simd.vecmath import exp, exp_one, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    any_lane,
    count_true,
    first_lanes,
    fma,
    full,
    get_lane,
    lanes,
    maximum,
    reduce_add,
    reduce_max,
    where,
    widen,
)

VALUES = 32  # whose terms are added in the logits' precision
BLOCK = 64  # values of which the maximum is known before their exponentials are added, in sums of `TERMS`
TERMS = 16  # so few that rounding the same way each time does not pile up
CHUNK = 1 << 15  # classes that one thread sums at a time, at most
MAXIMA = 8  # values that hold the maxima of the blocks of a chunk, or of a row of which all waits


@block
def _max(p, start, stop, copy):
    """Return the greatest of ``p[start:stop]``; NaN is passed over.

    Whole values are left in ``copy`` too, unless that is None.
    """
    width = lanes(p)
    a = b = full(p, -np.inf)
    j = start
    while j + 2 * width <= stop:
        a = maximum(_copied(p, j, copy), a)
        b = maximum(_copied(p, j + width, copy), b)
        j += 2 * width
    while j < stop:
        a = maximum(load_n(p, j, stop - j, -np.inf), a)
        j += width
    return reduce_max(maximum(a, b))


@inline
def _copied(p, j, copy):
    """Return a value, which is left in ``copy`` too, unless that is None."""
    value = load(p, j)
    _keep(copy, j, lanes(p), value)
    return value


@inline
def _keep(q, j, n, value):
    """Leave ``n`` lanes in ``q``, unless that is None."""
    if q is not None:
        store_n(q, j, n, value)


@inline
def _add(x, shift, rest, count, q, j, n):
    """Where x is below the shift, add exp(x - shift) to ``rest`` and 1 to ``count``."""
    d = x - shift
    e = exp(d)
    _keep(q, j, n, e)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return add_where(rest, below, e), count + count_true(below)


@block
def _sum(p, start, stop, shift, q):
    """Return (rest, ones) of ``p[start:stop]``, see ``stats``, and leave the exponentials in ``q``."""
    width = lanes(p)
    total, below = full(p, 0.0), 0
    j = start
    while j < stop:
        end = min(j + TERMS * width, stop)
        rest = full(p, 0.0)
        while j + width <= end:
            rest, below = _add(load(p, j), shift, rest, below, q, j, width)
            j += width
        if j < end:
            rest, below = _add(load_n(p, j, end - j, -np.inf), shift, rest, below, q, j, end - j)
            j += width
        total = total + rest
    return reduce_add(total), j - start - below


@block
def _sum_and_next_max(p, start, shift, has_top, q, ahead, copy):
    """Return (rest, ones) of one block of ``p`` and the maximum of that of ``ahead``, left in ``copy`` unless None.

    The latter comes from memory while the exponentials keep the core busy, and lines half a
    block further on are asked for. Only a block that ``has_top`` can have classes at the maximum.
    """
    width = lanes(p)
    size = BLOCK * width
    total, below = full(p, 0.0), 0
    top = full(p, -np.inf)
    for part in range(start, start + size, TERMS * width):
        rest = full(p, 0.0)
        if has_top:
            for j in range(part, part + TERMS * width, width):
                rest, below = _add(load(p, j), shift, rest, below, q, j, width)
                top = maximum(_copied(ahead, j, copy), top)
        else:
            for j in range(part, part + TERMS * width, width):
                if q is None or copy is not None:  # else a result being written keeps memory busy
                    will_read(ahead, j + size // 2)
                e = exp(load(p, j) - shift)
                _keep(q, j, width, e)
                rest = rest + e
                top = maximum(_copied(ahead, j, copy), top)
        total = total + rest
    return reduce_add(total), size - below if has_top else 0, reduce_max(top)


@inline
def _raise(top, higher, rest, ones):
    """Move (rest, ones) from the maximum ``top`` to one that may be higher."""
    if higher > top:
        return (rest + ones) * exp_one(np.float64(top) - np.float64(higher)), 0.0
    return rest, ones


@inline
def _shift(p, top):
    """Return what to subtract before exp: the maximum, or 0 while all classes are -inf."""
    return full(p, top if top > -np.inf else 0.0)


@inline
def no_class(like):
    """Return the maximum of no class."""
    return get_lane(full(like, -np.inf), 0)


@block
def chunk_stats(p, start, stop, q, tops):
    """Return (maximum, rest, ones) of ``p[start:stop]``: see ``stats``.

    It is read once: the maximum looks one block ahead of the sum, which is rescaled when the
    maximum grows. 16-bit floats are widened once: a block waits for its sum in a buffer.
    Exponentials are left in ``q``, those of each block below the maximum left in ``tops``,
    unless those are None.
    """
    size = BLOCK * lanes(p)
    ahead = max((stop - start) // size - 1, 0)
    near, far = if_16_bits(p, scratch(p, BLOCK)), if_16_bits(p, scratch(p, BLOCK))
    top = _max(offset(p, start), 0, size, near) if ahead else _max(p, start, stop, None)
    next_top, rest, lost, ones = top, 0.0, 0.0, 0.0
    for _ in range(ahead):
        has_top = next_top == top
        _keep_one(tops, start // size, top)
        here, following = either(near, offset(p, start)), offset(p, start + size)
        block_rest, block_ones, next_top = _sum_and_next_max(
            here, 0, _shift(p, top), has_top, offset(q, start), following, far
        )  # fmt: skip
        near, far = far, near
        rest, rounded = two_sum(rest, np.float64(block_rest))
        lost += rounded
        ones += block_ones
        if next_top > top:
            fade = exp_one(np.float64(top) - np.float64(next_top))
            rest, lost, ones, top = (rest + ones) * fade, lost * fade, 0.0, next_top
        start += size
    if ahead:
        higher = max(top, _max(p, start + size, stop, None))
        rest, ones = _raise(top, higher, rest + lost, ones)
        lost, top = 0.0, higher
    while start < stop:
        _keep_one(tops, start // size, top)
        end = min(start + size, stop)
        block_rest, block_ones = _sum(p, start, end, _shift(p, top), q)
        rest, rounded = two_sum(rest, np.float64(block_rest))
        lost += rounded
        ones += block_ones
        start = end
    return top, rest + lost, ones


@inline
def chunk_length(classes):
    """Return how many classes all chunks of a row but the last have.

    They are whole blocks, in about equal shares for 2 or 4 threads.
    """
    if classes <= CHUNK:
        return CHUNK
    chunks = 2 if classes < 2 * CHUNK else -(-classes // (4 * CHUNK)) * 4
    block = BLOCK * 16  # of float32; two of float64
    return -(-classes // (chunks * block)) * block


@inline
def merge(top, rest, ones, other_top, other_rest, other_ones):
    """Return (maximum, rest, ones) of two parts of a row together."""
    higher = max(top, other_top)
    rest, ones = _raise(top, higher, rest, ones)
    other_rest, other_ones = _raise(other_top, higher, other_rest, other_ones)
    return higher, rest + other_rest, ones + other_ones


@inline
def finish(top, rest, ones):
    """Return (maximum, rest) of a whole row from (maximum, rest, ones)."""
    if ones:
        return np.float64(top), rest + (ones - 1.0)
    if top > -np.inf:
        return np.float64(top), np.nan
    return top + rest, np.nan  # -inf, or NaN where a NaN is in the sum


@inline
def _keep_one(tops, k, top):
    if tops is not None:
        store_one(tops, k, top)


@block
def _lower(q, tops, classes, top):
    """Bring the exponentials of blocks, each below its own maximum, below that of the row."""
    width = lanes(q)
    size = BLOCK * width
    for start in range(0, classes, size):
        block_top = load_one(tops, start // size)
        if block_top < top:
            fade = exp(full(q, block_top) - top)
            for j in range(start, min(start + size, classes), width):
                store(q, j, load(q, j) * fade)


@block
def stats(p, classes, q):
    """Return (maximum, rest): rest sums exp(x - maximum) over all but one greatest class.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident row would be rounded away. Without a finite maximum, and with NaN
    anywhere, rest is NaN. Long rows are summed in chunks that are
    merged in order, so that several threads that share a row come to the same bits.
    The exponentials are left in ``q``, in whole values, unless that is None.
    """
    top, rest, ones = no_class(p), 0.0, 0.0
    tops = given(q, scratch(p, MAXIMA))
    length = chunk_length(classes)
    for start in range(0, classes, length):
        part_top, part_rest, part_ones = chunk_stats(p, start, min(start + length, classes), q, tops)
        top, rest, ones = merge(top, rest, ones, part_top, part_rest, part_ones)
    if q is not None:
        _lower(q, tops, classes, top)
    return finish(top, rest, ones)


@block
def _maxima(p, classes, tops):
    """Return the greatest class, and write the greatest of each block."""
    size = BLOCK * lanes(p)
    top = no_class(p)
    for start in range(0, classes, size):
        block_top = _max(p, start, min(start + size, classes), None)
        store_one(tops, start // size, block_top)
        top = max(top, block_top)
    return top


@block
def _sums_and_next_maxima(p, classes, top, tops, q, ahead, next_tops):
    """Return ``stats`` of a row whose maxima are known, and ``_maxima`` of the row ``ahead``.

    The exponentials are left in ``q``, unless that is None.
    """
    size = BLOCK * lanes(p)
    shift = _shift(p, top)
    rest = lost = ones = 0.0
    next_top = no_class(p)
    for start in range(0, classes, size):
        if start + size <= classes:
            has_top = load_one(tops, start // size) == top
            block_rest, block_ones, block_top = _sum_and_next_max(p, start, shift, has_top, q, ahead, None)
        else:
            block_rest, block_ones = _sum(p, start, classes, shift, q)
            block_top = _max(ahead, start, classes, None)
        rest, rounded = two_sum(rest, np.float64(block_rest))
        lost += rounded
        ones += block_ones
        store_one(next_tops, start // size, block_top)
        next_top = max(next_top, block_top)
    row_top, rest = finish(top, rest + lost, ones)
    return row_top, rest, next_top


@inline
def look_at(x, i, stop, tops, chunked):
    """Return the maximum of row ``i``, and leave those of its blocks in ``tops``, before the first of `stats_of`."""
    if chunked is None and i < stop:
        return _maxima(row(x, i), x.shape[1], tops)
    return no_class(x)


def waiting(kept, b):
    """Return where the exponentials of the rows of block ``b`` wait, None where there is no place but the result.

    ``kept`` is an array with a place for each block, too large for a thread's stack, or else True or None.
    """


@inline_for(waiting)
def _waiting(kept, b):
    if isinstance(kept, types.Array):
        return lambda kept, b: offset(row(kept, b), until_aligned(row(kept, b)))
    return lambda kept, b: None


@inline
def exponentials(kept, exps, out, i):
    """Return where those of row ``i`` wait, ``exps`` or the result; None unless ``kept``, and without a result."""
    return given(kept, given(out, either(exps, row(out, i))))


@inline
def stats_of(x, i, ahead, top, tops, next_tops, exps, chunked):
    """Return `stats` of row ``i`` and the maximum of row ``ahead``.

    Where ``chunked`` is None, rows are of one chunk, and the maxima of one are taken while the
    exponentials of the row before it keep the core busy. Those are left in ``exps`` unless that is None.
    """
    p, classes = row(x, i), x.shape[1]
    if chunked is not None:
        row_top, rest = stats(p, classes, exps)
        return row_top, rest, top
    return _sums_and_next_maxima(p, classes, top, tops, exps, row(x, ahead), next_tops)


@block
def has_nan(p, classes):
    """Tell whether there is a NaN."""
    width = lanes(p)
    for j in range(0, classes, width):
        x = load_n(p, j, classes - j, 0.0)
        if any_lane(x != x):
            return True
    return False


def source(exps, p, top):
    """Return what results are made of: exponentials, (exps, None), or logits, (p, top), where ``exps`` is None.

    Which of them is settled when compiling.
    """


@inline_for(source)
def _source(exps, p, top):
    if isinstance(exps, types.NoneType):
        return lambda exps, p, top: (p, top)
    return lambda exps, p, top: (exps, None)


@inline
def gradient(j, n, p, top, factor, class_weight, minus):
    """Return exp(x - top) * factor - w * minus; softmax where ``minus`` is None.

    ``p`` and ``top`` are a `source`.
    """
    value = load_n(p, j, n, 0.0)
    if top is not None:
        value = exp(value - top)
    value = value * factor
    if minus is not None:
        value = value - share_of(class_weight, j, n, minus, value)
    return value


@inline
def share_of(class_weight, j, n, minus, like):
    """Return what label smoothing takes off the gradients of ``n`` classes."""
    if class_weight is None:
        return full(like, minus)
    return load_n(row(class_weight, j), 0, n, 0.0) * minus


@inline
def log_softmax(j, n, p, top, log_sum):
    """Return (x - top) - log_sum."""
    return (load_n(p, j, n, 0.0) - top) - log_sum


@block
def gap_sum(p, class_weight, classes, top):
    """Return the sum of w (top - x) over the classes, in float64."""
    width = lanes(p)
    total = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        part = full(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            gap = full(p, top) - load_n(p, j, n, top)  # 0 behind the end
            if class_weight is not None:
                gap = gap * load_n(row(class_weight, j), 0, n, 0.0)
            part = part + gap
        total += reduce_add(part)
    return total


@inline
def zero(j, n, like):
    """Return 0."""
    return full(like, 0.0)


@block
def soft_sums(p, t, class_weight, classes, top, smoothing):
    """Return the sums of t and of t (top - x), for targets after smoothing and weights."""
    width = lanes(p)
    amount = dot = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        block_amount = block_dot = full(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            share = soft_share_of(t, j, n, class_weight, smoothing)
            gap = full(p, top) - load_n(p, j, n, top)
            block_amount = block_amount + share
            block_dot = block_dot + where(share == 0.0, full(p, 0.0), share * gap)  # 0 x inf is 0 here
        amount += reduce_add(block_amount)
        dot += reduce_add(block_dot)
    return amount, dot


@inline
def soft(j, n, p, top, t, class_weight, rest, amount, slope, smoothing):
    """Return slope * (amount * softmax - t), for targets after smoothing and weights.

    ``p`` and ``top`` are a `source`.
    """
    share = soft_share_of(t, j, n, class_weight, smoothing)
    e = load_n(p, j, n, 0.0)
    if top is not None:
        e = exp(e - top)
    rest_, amount_, slope_ = full(p, rest), full(p, amount), full(p, slope)
    factor = amount_ * slope_ / (rest_ + 1.0)
    return soft_gradient(e, share, factor, rest_, amount_, slope_)


@inline
def soft_share_of(t, j, n, class_weight, smoothing):
    """Return ``n`` targets after smoothing and weights, 0 behind them."""
    share = soft_share(load_n(t, j, n, 0.0), smoothing)
    if class_weight is not None:
        return share * load_n(row(class_weight, j), 0, n, 0.0)
    if smoothing is not None:
        return where(first_lanes(t, n), share, 0.0)
    return share


@block
def dot(p, g, classes):
    """Return the sum of p g over the classes in float64, of g where ``p`` is None.

    Long rows are summed in chunks, so that several threads that share a row come to the same bits.
    """
    total = 0.0
    length = chunk_length(classes)
    for start in range(0, classes, length):
        total += chunk_dot(offset(p, start), offset(g, start), min(length, classes - start))
    return total


@block
def chunk_dot(p, g, classes):
    """Return `dot` of one chunk."""
    return dot_while_writing(p, g, classes, None, None)


@inline
def dot_while_writing(p, g, classes, q, args):
    """Return `chunk_dot`, and meanwhile write ``vjp(j, n, *args)`` of another row to ``q``, unless that is None.

    So one row comes from the caches while another goes there.
    """
    width = lanes(g)
    size = 2 * TERMS * width
    total = widen(full(g, 0.0))
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        a = b = full(g, 0.0)
        j = start
        while j + 2 * width <= stop:
            a = add_product(p, g, j, width, a)
            b = add_product(p, g, j + width, width, b)
            if q is not None:
                store(q, j, vjp(j, width, *args))
                store(q, j + width, vjp(j + width, width, *args))
            j += 2 * width
        while j < stop:
            a = add_product(p, g, j, stop - j, a)
            if q is not None:
                store_n(q, j, stop - j, vjp(j, stop - j, *args))
            j += width
        total = total + widen(a + b)
    return reduce_add(total)


@inline
def add_product(p, g, j, n, total):
    """Add the products of ``n`` classes from j on to ``total``, those of ``g`` where ``p`` is None."""
    term = load_n(g, j, n, 0.0)
    if p is None:
        return total + term
    return fma(load_n(p, j, n, 0.0), term, total)


@inline
def vjp(j, n, y, g, dot, probs):
    """Return `columns.pulled_back` of ``n`` classes."""
    return pulled_back(load_n(y, j, n, 0.0), load_n(g, j, n, 0.0), dot, probs)
