"""Building blocks on one contiguous row of many classes.

A row is a pointer to its first class and their number. Tails shorter than a value are
masked, so that every class goes through the same lanes whatever the row's length.
"""

import numpy as np
from numba import types

from fastce.kernels.codegen.jit import block, inline, inline_for
from fastce.kernels.formulas import prob_gradient, prob_gradient_factor, smoothed_target, softmax_vjp, target_times_gap
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
    first_lanes,
    fma,
    full_like,
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
    a = b = full_like(p, -np.inf)
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
def _add(x, shift, sum_exp_rest, count, q, j, n):
    """Where x is below the shift, add exp(x - shift) to ``sum_exp_rest`` and 1 to ``count``."""
    d = x - shift
    e = exp(d)
    _keep(q, j, n, e)
    below = d != 0.0  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, e), count + count_true(below)


@block
def _sum(p, start, stop, shift, q):
    """Return (rest, ones) of ``p[start:stop]``, see ``stats``, and leave the exponentials in ``q``."""
    width = lanes(p)
    total, below = full_like(p, 0.0), 0
    j = start
    while j < stop:
        end = min(j + TERMS * width, stop)
        sum_exp_rest = full_like(p, 0.0)
        while j + width <= end:
            sum_exp_rest, below = _add(load(p, j), shift, sum_exp_rest, below, q, j, width)
            j += width
        if j < end:
            sum_exp_rest, below = _add(load_n(p, j, end - j, -np.inf), shift, sum_exp_rest, below, q, j, end - j)
            j += width
        total = total + sum_exp_rest
    return reduce_add(total), j - start - below


@block
def _sum_and_next_max(p, start, shift, has_max, q, ahead, copy):
    """Return (rest, ones) of one block of ``p`` and the maximum of that of ``ahead``, left in ``copy`` unless None.

    The latter comes from memory while the exponentials keep the core busy, and lines half a
    block further on are asked for. Only a block that ``has_max`` can have classes at the maximum.
    """
    width = lanes(p)
    size = BLOCK * width
    total, below = full_like(p, 0.0), 0
    row_max = full_like(p, -np.inf)
    for part in range(start, start + size, TERMS * width):
        sum_exp_rest = full_like(p, 0.0)
        if has_max:
            for j in range(part, part + TERMS * width, width):
                sum_exp_rest, below = _add(load(p, j), shift, sum_exp_rest, below, q, j, width)
                row_max = maximum(_copied(ahead, j, copy), row_max)
        else:
            for j in range(part, part + TERMS * width, width):
                if q is None or copy is not None:  # else a result being written keeps memory busy
                    prefetch_read(ahead, j + size // 2)
                e = exp(load(p, j) - shift)
                _keep(q, j, width, e)
                sum_exp_rest = sum_exp_rest + e
                row_max = maximum(_copied(ahead, j, copy), row_max)
        total = total + sum_exp_rest
    return reduce_add(total), size - below if has_max else 0, reduce_max(row_max)


@inline
def _raise(row_max, higher, sum_exp_rest, num_at_max):
    """Move (rest, ones) from the maximum ``row_max`` to one that may be higher."""
    if higher > row_max:
        return (sum_exp_rest + num_at_max) * exp_one(np.float64(row_max) - np.float64(higher)), 0.0
    return sum_exp_rest, num_at_max


@inline
def _shift(p, row_max):
    """Return what to subtract before exp: the maximum, or 0 while all classes are -inf."""
    return full_like(p, row_max if row_max > -np.inf else 0.0)


@inline
def no_class(like):
    """Return the maximum of no class."""
    return get_lane(full_like(like, -np.inf), 0)


@block
def chunk_stats(p, start, stop, q, block_maxima):
    """Return (maximum, rest, ones) of ``p[start:stop]``: see ``stats``.

    It is read once: the maximum looks one block ahead of the sum, which is rescaled when the
    maximum grows. 16-bit floats are widened once: a block waits for its sum in a buffer.
    Exponentials are left in ``q``, those of each block below the maximum left in ``block_maxima``,
    unless those are None.
    """
    size = BLOCK * lanes(p)
    ahead = max((stop - start) // size - 1, 0)
    near, far = static_if_half(p, scratch(p, BLOCK)), static_if_half(p, scratch(p, BLOCK))
    row_max = _max(offset(p, start), 0, size, near) if ahead else _max(p, start, stop, None)
    next_max, sum_exp_rest, comp, num_at_max = row_max, 0.0, 0.0, 0.0
    for _ in range(ahead):
        has_max = next_max == row_max
        _keep_one(block_maxima, start // size, row_max)
        here, following = static_first_present(near, offset(p, start)), offset(p, start + size)
        block_rest, block_num_at_max, next_max = _sum_and_next_max(
            here, 0, _shift(p, row_max), has_max, offset(q, start), following, far
        )
        near, far = far, near
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(block_rest))
        comp += err
        num_at_max += block_num_at_max
        if next_max > row_max:
            fade = exp_one(np.float64(row_max) - np.float64(next_max))
            sum_exp_rest, comp, num_at_max, row_max = (sum_exp_rest + num_at_max) * fade, comp * fade, 0.0, next_max
        start += size
    if ahead:
        higher = max(row_max, _max(p, start + size, stop, None))
        sum_exp_rest, num_at_max = _raise(row_max, higher, sum_exp_rest + comp, num_at_max)
        comp, row_max = 0.0, higher
    while start < stop:
        _keep_one(block_maxima, start // size, row_max)
        end = min(start + size, stop)
        block_rest, block_num_at_max = _sum(p, start, end, _shift(p, row_max), q)
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(block_rest))
        comp += err
        num_at_max += block_num_at_max
        start = end
    return row_max, sum_exp_rest + comp, num_at_max


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
def merge(row_max, sum_exp_rest, num_at_max, other_max, other_rest, other_num_at_max):
    """Return (maximum, rest, ones) of two parts of a row together."""
    higher = max(row_max, other_max)
    sum_exp_rest, num_at_max = _raise(row_max, higher, sum_exp_rest, num_at_max)
    other_rest, other_num_at_max = _raise(other_max, higher, other_rest, other_num_at_max)
    return higher, sum_exp_rest + other_rest, num_at_max + other_num_at_max


@inline
def finish(row_max, sum_exp_rest, num_at_max):
    """Return (maximum, rest) of a whole row from (maximum, rest, ones)."""
    if num_at_max:
        return np.float64(row_max), sum_exp_rest + (num_at_max - 1.0)
    if row_max > -np.inf:
        return np.float64(row_max), np.nan
    return row_max + sum_exp_rest, np.nan  # -inf, or NaN where a NaN is in the sum


@inline
def _keep_one(block_maxima, k, row_max):
    if block_maxima is not None:
        store_one(block_maxima, k, row_max)


@block
def _lower(q, block_maxima, classes, row_max):
    """Bring the exponentials of blocks, each below its own maximum, below that of the row."""
    width = lanes(q)
    size = BLOCK * width
    for start in range(0, classes, size):
        block_max = load_one(block_maxima, start // size)
        if block_max < row_max:
            fade = exp(full_like(q, block_max) - row_max)
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
    row_max, sum_exp_rest, num_at_max = no_class(p), 0.0, 0.0
    block_maxima = static_if_present(q, scratch(p, MAXIMA))
    length = chunk_length(classes)
    for start in range(0, classes, length):
        part_max, part_rest, part_num_at_max = chunk_stats(p, start, min(start + length, classes), q, block_maxima)
        row_max, sum_exp_rest, num_at_max = merge(
            row_max, sum_exp_rest, num_at_max, part_max, part_rest, part_num_at_max
        )
    if q is not None:
        _lower(q, block_maxima, classes, row_max)
    return finish(row_max, sum_exp_rest, num_at_max)


@block
def _maxima(p, classes, block_maxima):
    """Return the greatest class, and write the greatest of each block."""
    size = BLOCK * lanes(p)
    row_max = no_class(p)
    for start in range(0, classes, size):
        block_max = _max(p, start, min(start + size, classes), None)
        store_one(block_maxima, start // size, block_max)
        row_max = max(row_max, block_max)
    return row_max


@block
def _sums_and_next_maxima(p, classes, row_max, block_maxima, q, ahead, next_block_maxima):
    """Return ``stats`` of a row whose maxima are known, and ``_maxima`` of the row ``ahead``.

    The exponentials are left in ``q``, unless that is None.
    """
    size = BLOCK * lanes(p)
    shift = _shift(p, row_max)
    sum_exp_rest = comp = num_at_max = 0.0
    next_max = no_class(p)
    for start in range(0, classes, size):
        if start + size <= classes:
            has_max = load_one(block_maxima, start // size) == row_max
            block_rest, block_num_at_max, block_max = _sum_and_next_max(p, start, shift, has_max, q, ahead, None)
        else:
            block_rest, block_num_at_max = _sum(p, start, classes, shift, q)
            block_max = _max(ahead, start, classes, None)
        sum_exp_rest, err = two_sum(sum_exp_rest, np.float64(block_rest))
        comp += err
        num_at_max += block_num_at_max
        store_one(next_block_maxima, start // size, block_max)
        next_max = max(next_max, block_max)
    final_max, sum_exp_rest = finish(row_max, sum_exp_rest + comp, num_at_max)
    return final_max, sum_exp_rest, next_max


@inline
def look_at(x, i, stop, block_maxima, chunked):
    """Return the maximum of row ``i``, and write the maxima of its blocks, before the first call of `stats_of`."""
    if chunked is None and i < stop:
        return _maxima(row(x, i), x.shape[1], block_maxima)
    return no_class(x)


def static_exp_buffer(store_exp, b):
    """Return where the exponentials of the rows of block ``b`` wait, None where there is no place but the result.

    ``store_exp`` is an array with a place for each block, too large for a thread's stack, or else True or None.
    """


@inline_for(static_exp_buffer)
def _static_exp_buffer(store_exp, b):
    if isinstance(store_exp, types.Array):
        return lambda store_exp, b: offset(row(store_exp, b), until_aligned(row(store_exp, b)))
    return lambda store_exp, b: None


@inline
def exp_buffer(store_exp, exps, out, i):
    """Return where those of row ``i`` wait, ``exps`` or the result; None unless ``store_exp``, and without a result."""
    return static_if_present(store_exp, static_if_present(out, static_first_present(exps, row(out, i))))


@inline
def stats_of(x, i, ahead, row_max, block_maxima, next_block_maxima, exps, chunked):
    """Return `stats` of row ``i`` and the maximum of row ``ahead``.

    Where ``chunked`` is None, rows are of one chunk, and the maxima of one are taken while the
    exponentials of the row before it keep the core busy. Those are left in ``exps`` unless that is None.
    """
    p, classes = row(x, i), x.shape[1]
    if chunked is not None:
        final_max, sum_exp_rest = stats(p, classes, exps)
        return final_max, sum_exp_rest, row_max
    return _sums_and_next_maxima(p, classes, row_max, block_maxima, exps, row(x, ahead), next_block_maxima)


@block
def has_nan(p, classes):
    """Tell whether there is a NaN."""
    width = lanes(p)
    for j in range(0, classes, width):
        x = load_n(p, j, classes - j, 0.0)
        if any_lane(x != x):
            return True
    return False


def static_exp_source(exps, p, row_max):
    """Return what results are made of: exponentials, (exps, None), or logits, (p, top), where ``exps`` is None.

    Which of them is settled when compiling.
    """


@inline_for(static_exp_source)
def _static_exp_source(exps, p, row_max):
    if isinstance(exps, types.NoneType):
        return lambda exps, p, row_max: (p, row_max)
    return lambda exps, p, row_max: (exps, None)


@inline
def gradient(j, n, p, row_max, factor, class_weight, smoothing_term):
    """Return exp(x - top) * factor - w * minus; softmax where ``smoothing_term`` is None.

    ``p`` and ``row_max`` are a `static_exp_source`.
    """
    value = load_n(p, j, n, 0.0)
    if row_max is not None:
        value = exp(value - row_max)
    value = value * factor
    if smoothing_term is not None:
        value = value - smoothing_term_of(class_weight, j, n, smoothing_term, value)
    return value


@inline
def smoothing_term_of(class_weight, j, n, smoothing_term, like):
    """Return what label smoothing takes off the gradients of ``n`` classes."""
    if class_weight is None:
        return full_like(like, smoothing_term)
    return load_n(row(class_weight, j), 0, n, 0.0) * smoothing_term


@inline
def log_softmax(j, n, p, row_max, log_sum):
    """Return (x - top) - log_sum."""
    return (load_n(p, j, n, 0.0) - row_max) - log_sum


@block
def sum_below_max(p, class_weight, classes, row_max):
    """Return the sum of w (top - x) over the classes, in float64."""
    width = lanes(p)
    total = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        part = full_like(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            gap = full_like(p, row_max) - load_n(p, j, n, row_max)  # 0 behind the end
            if class_weight is not None:
                gap = gap * load_n(row(class_weight, j), 0, n, 0.0)
            part = part + gap
        total += reduce_add(part)
    return total


@inline
def zero(j, n, like):
    """Return 0."""
    return full_like(like, 0.0)


@block
def soft_sums(p, t, class_weight, classes, row_max, smoothing):
    """Return the sums of t and of t (top - x), for targets after smoothing and weights."""
    width = lanes(p)
    target_sum = dot = 0.0
    size = VALUES * width
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        block_target_sum = block_dot = full_like(p, 0.0)
        for j in range(start, stop, width):
            n = stop - j
            target_prob = target_probs_of(t, j, n, class_weight, smoothing)
            gap = full_like(p, row_max) - load_n(p, j, n, row_max)
            block_target_sum = block_target_sum + target_prob
            block_dot = block_dot + target_times_gap(target_prob, gap)
        target_sum += reduce_add(block_target_sum)
        dot += reduce_add(block_dot)
    return target_sum, dot


@inline
def soft(j, n, p, row_max, t, class_weight, sum_exp_rest, target_sum, grad_scale, smoothing):
    """Return slope * (amount * softmax - t), for targets after smoothing and weights.

    ``p`` and ``row_max`` are a `static_exp_source`.
    """
    target_prob = target_probs_of(t, j, n, class_weight, smoothing)
    e = load_n(p, j, n, 0.0)
    if row_max is not None:
        e = exp(e - row_max)
    sum_exp_rest_, target_sum_, grad_scale_ = (
        full_like(p, sum_exp_rest),
        full_like(p, target_sum),
        full_like(p, grad_scale),
    )
    factor = prob_gradient_factor(target_sum_, sum_exp_rest_, grad_scale_)
    return prob_gradient(e, target_prob, factor, sum_exp_rest_, target_sum_, grad_scale_)


@inline
def target_probs_of(t, j, n, class_weight, smoothing):
    """Return ``n`` targets after smoothing and weights, 0 behind them."""
    target_prob = smoothed_target(load_n(t, j, n, 0.0), smoothing)
    if class_weight is not None:
        return target_prob * load_n(row(class_weight, j), 0, n, 0.0)
    if smoothing is not None:
        return where(first_lanes(t, n), target_prob, 0.0)
    return target_prob


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
    total = widen(full_like(g, 0.0))
    for start in range(0, classes, size):
        stop = min(start + size, classes)
        a = b = full_like(g, 0.0)
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
    """Return `softmax_vjp` of ``n`` classes."""
    return softmax_vjp(load_n(y, j, n, 0.0), load_n(g, j, n, 0.0), dot, probs)
