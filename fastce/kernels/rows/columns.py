"""Building blocks for a class axis that is not last: one class after the other, many samples at once.

Arrays are (outer, C, inner) with a contiguous last axis, so that neighbouring samples are
neighbours in memory. A *panel* is a pointer to class 0 of the first sample, the distance
``step`` from class to class, and ``n`` samples, contiguous in memory, that ``ROOM`` values hold
wherever the first of them begins. Per-sample terms (maxima, factors) lie in scratch memory, one
value after the other.

The loops run over the samples inside those over the classes: memory is read in streaks.
"""

import numpy as np

from fastce.kernels.codegen.jit import block, inline
from fastce.kernels.rows.write import write as write_row
from fastce.kernels.simd.memory import (
    load,
    load_as,
    load_between,
    load_n,
    offset,
    row,
    scratch,
    store,
    until_aligned,
    will_read,
    will_touch,
)
from fastce.kernels.simd.vecmath import exp, two_sum
from fastce.kernels.simd.vector import (
    add_true,
    add_where,
    any_lane,
    bits,
    fma,
    full,
    lanes,
    maximum,
    narrow,
    to_float,
    where,
    widen,
)

PANEL = 64  # values across
ROOM = PANEL + 1  # values of a panel that begins anywhere in the first one, and ends as much later
WIDE = 16  # values across, so many that one more is little
NEAR = 4  # values across that are asked for before they are read
AHEAD = 2  # classes that are asked for before they are read again, and those of the result
LAG = 8.0  # of what is subtracted before exp behind the maximum
BLOCK = 16  # classes added before what rounding takes off their sum is kept
FEW = 4  # the same of products: of two arrays the first-level cache keeps so many, however far apart they lie


@inline
def block_count(x, panel):
    """Return how many panels, ``panel`` values wide, cover all samples."""
    return x.shape[0] * -(-x.shape[2] // (panel * lanes(x)))


@inline
def block_range(x, b, panel):
    """Return (the first sample of panel ``b``, the number of its samples, lanes before it).

    Panels begin where cache lines do, but for the first of a row of samples, whose first value has
    lanes before it; the last is that much longer.
    """
    inner, size = x.shape[2], panel * lanes(x)
    across = -(-inner // size)
    i, k = b // across, b % across
    lead = 0
    if panel >= WIDE and class_step(x) % lanes(x) == 0:
        lead = -until_aligned(row(x, i)) % lanes(x)
    start = max(k * size - lead, 0)
    stop = inner if k == across - 1 else (k + 1) * size - lead
    return i * inner + start, stop - start, 0 if k else lead


@inline
def origin(x, start):
    """Return a pointer to class 0 of sample ``start``."""
    return offset(row(x, start // x.shape[2]), start % x.shape[2])


@inline
def class_step(x):
    """Return how many elements it is from class to class."""
    return x.strides[1] // x.itemsize


@block
def stats(p, step, classes, n, lead, tops, rests):
    """Write (maximum, rest) of every sample; rest sums exp(x - maximum) over all but one greatest class.

    The first value begins ``lead`` lanes before the first sample, and so do those of ``tops`` and ``rests``.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident sample would be rounded away. Without a finite maximum, and with NaN
    anywhere, rest is NaN.

    Classes come in blocks, and of each block one value of neighbouring samples after the other. While
    the exponentials of a value are summed, the next one is copied to where the first-level cache keeps
    it, however far apart its classes lie, and its maximum taken.
    """
    width = lanes(p)
    p, tops, rests, n = offset(p, -lead), offset(tops, -lead), offset(rests, -lead), n + lead
    across = -(-n // width) * width
    shifts, losts, ones = scratch(p, ROOM), scratch(p, ROOM), scratch(p, ROOM)  # ones holds the bits of integers
    for j in range(0, across, width):
        for terms, start in ((tops, -np.inf), (shifts, -np.inf), (rests, 0.0), (losts, 0.0), (ones, 0.0)):
            store(terms, j, full(p, start))
    near, far = scratch(p, BLOCK), scratch(p, BLOCK)
    higher = full(p, -np.inf)  # the maximum up to and with the block at hand
    for c in range(min(BLOCK, classes)):
        higher = _copied(p, step, c, 0, n, lead, far, higher)
    for start in range(0, classes, BLOCK):
        count = min(BLOCK, classes - start)
        for j in range(0, across, width):
            near, far = far, near
            following, ahead, k = offset(p, start * step), count, j + width
            if k == across:  # the next block's first
                following, ahead, k = offset(following, BLOCK * step), min(BLOCK, classes - start - count), 0
            shift, part = _raised(higher, tops, shifts, rests, losts, ones, j)
            top, higher, below = higher, load(tops, k), bits(full(p, 0.0))
            for c in range(ahead):
                part, below = _add(load(near, c * width), top, shift, part, below)
                higher = _copied(following, step, c, k, n, lead, far, higher)
            for c in range(ahead, count):
                part, below = _add(load(near, c * width), top, shift, part, below)
            _add_part(rests, losts, j, part)
            store(ones, j, bits(bits(load(ones, j)) + (count - below)))
    for j in range(0, across, width):
        _finish(tops, shifts, rests, losts, ones, j)


@inline
def _copied(p, step, c, j, n, lead, q, higher):
    """Copy a value, lanes j and on of class c, and return its maximum with ``higher``.

    What comes next is asked for, which is no access behind the panel or the last class.
    """
    k = c * step + j
    will_read(p, k + NEAR * lanes(p))
    will_touch(p, k + BLOCK * step)
    x = load_between(p, k, lead - j, n - j, 0.0)
    store(q, c * lanes(p), x)
    return maximum(x, higher)


@inline
def _raised(higher, tops, shifts, rests, losts, ones, j):
    """Note a maximum that may be higher than before; return what to subtract before exp, and what to add to the sum.

    The former follows the maximum at a distance, so that sums need not be scaled, and rounded,
    each time it grows. The latter are the classes that were at the maximum.
    """
    top, shift, one = load(tops, j), load(shifts, j), load(ones, j)
    far = higher > shift + LAG
    if any_lane(far):
        raised = where(far, higher, shift)
        total, lost = load(rests, j), load(losts, j)
        wide = _scaled(total, lost, shift, raised)
        total = where(far, narrow(wide, total), total)
        store(rests, j, total)
        store(losts, j, where(far, narrow(wide - widen(total), total), lost))
        shift = raised
        store(shifts, j, shift)
    shift = where(shift > -np.inf, shift, 0.0)
    grown = higher > top
    store(ones, j, where(grown, 0.0, one))
    store(tops, j, higher)
    return shift, where(grown, to_float(bits(one)) * exp(top - shift), 0.0)


@inline
def _scaled(total, lost, shift, raised):
    """Return a sum of exponentials below ``shift`` as one below ``raised``, in float64."""
    return (widen(total) + widen(lost)) * exp(widen(shift) - widen(raised))


@inline
def _add_part(sums, losts, j, part):
    """Add to the sums, and keep what that rounds off in ``losts``, less than the last place of the sums."""
    total, rounded = two_sum(load(sums, j), part)
    lost = load(losts, j) + rounded
    high = total + lost
    store(sums, j, high)
    store(losts, j, lost - (high - total))


@inline
def _finish(tops, shifts, rests, losts, ones, j):
    """Bring a sum below the maximum, and take one class at the maximum off it."""
    top, total = load(tops, j), load(rests, j)
    rest = _scaled(total, load(losts, j), load(shifts, j), top) + widen(to_float(bits(load(ones, j)) - 1))
    store(rests, j, where(top - top == 0.0, narrow(rest, top), np.nan))
    # without a maximum: -inf, or NaN where a NaN is in the sum
    store(tops, j, where(top > -np.inf, top, top + total))


@inline
def _add(x, top, shift, rest, count):
    """Where x is not the maximum, add exp(x - shift) to ``rest`` and 1 to ``count``."""
    below = x != top  # true of NaN, which so reaches the sum
    return add_where(rest, below, exp(x - shift)), add_true(count, below)


@inline
def or_nan(value, p, step, classes, n):
    """Return one value of ``value``, NaN where a class of the sample is NaN."""
    for c in range(classes):
        x = load_n(p, c * step, n, 0.0)
        value = where(x != x, np.nan, value)
    return value


@block
def write(p, step, q, q_step, classes, n, streamed, formula, args):
    """Write ``formula(j, m, c, p, step, *args)``, which gives samples j to j + m of class c, for all.

    The last class is the first: the cache still holds those that were read last. Where
    ``streamed``, the caller has to ``settle`` what was written.
    """
    for c in range(classes - 1, -1, -1):
        if not streamed:
            for j in range(0, n, lanes(q)):
                will_touch(q, (c - AHEAD) * q_step + j)
        write_row(offset(q, c * q_step), n, streamed, formula, (c, p, step, *args))


@inline
def reload(p, step, c, j, n):
    """Load ``n`` samples of class c again, and ask for those of a later one: streaks are too short to be guessed."""
    will_touch(p, (c - AHEAD) * step + j)  # before the first class that is no access
    return load_n(p, c * step + j, n, 0.0)


@inline
def softmax(j, n, c, p, step, tops, factors):
    """Return exp(x - top) * factor."""
    return exp(reload(p, step, c, j, n) - load_n(tops, j, n, 0.0)) * load_n(factors, j, n, 0.0)


@inline
def log_softmax(j, n, c, p, step, tops, log_sums):
    """Return (x - top) - log_sum."""
    return (reload(p, step, c, j, n) - load_n(tops, j, n, 0.0)) - load_n(log_sums, j, n, 0.0)


@inline
def gradient(j, n, c, p, step, tops, factors, labels, at_labels, class_weight, minuses):
    """Return exp(x - top) * factor - w * minus; ``at_label`` at the label, 0 where label is -1.

    ``labels`` holds the bits of integers as wide as the logits.
    """
    value = exp(reload(p, step, c, j, n) - load_n(tops, j, n, 0.0)) * load_n(factors, j, n, 0.0)
    if minuses is not None:
        minus = load_n(minuses, j, n, 0.0)
        if class_weight is not None:
            minus = minus * class_weight[c]
        value = value - minus
    label = bits(load_n(labels, j, n, 0.0))
    value = where(label == c, load_n(at_labels, j, n, 0.0), value)
    return where(label >= 0, value, 0.0)


@inline
def _clear(sums, losts, wide, n):
    """Start compensated sums in float64, whose memory the caller provides, of ``n`` samples."""
    for j in range(0, n, lanes(wide)):
        store(sums, j, wide)
        store(losts, j, wide)


@inline
def _add_to(sums, losts, j, term):
    """Add a value to the sums, and what the addition rounds off to ``losts``."""
    term = widen(term)
    total, rounded = two_sum(load_as(sums, j, term), term)
    store(sums, j, total)
    store(losts, j, load_as(losts, j, term) + rounded)


@inline
def _write_sums(sums, losts, n, like, results):
    """Write the sums in the precision of ``like``."""
    wide = widen(full(like, 0.0))
    for j in range(0, n, lanes(like)):
        total = load_as(sums, j, wide)
        lost = load_as(losts, j, wide)
        # an infinite total has NaN for what it lost
        store(results, j, narrow(where(total - total == 0.0, total + lost, total), like))


@block
def gap_sums(p, step, class_weight, classes, n, tops, results):
    """Write the sums of w (top - x) over the classes."""
    width = lanes(p)
    wide = widen(full(p, 0.0))
    sums, losts = scratch(wide, ROOM), scratch(wide, ROOM)
    _clear(sums, losts, wide, n)
    for c in range(classes):
        source = offset(p, c * step)
        for j in range(0, n, width):
            gap = load(tops, j) - load_n(source, j, n - j, 0.0)
            if class_weight is not None:
                gap = gap * class_weight[c]
            _add_to(sums, losts, j, gap)
    _write_sums(sums, losts, n, p, results)


@block
def soft_sums(p, step, t, t_step, class_weight, classes, n, tops, smoothing, amounts, dots):
    """Write the sums of t and of t (top - x), for targets after smoothing and weights."""
    width = lanes(p)
    wide = widen(full(p, 0.0))
    amount_sums, amount_losts = scratch(wide, ROOM), scratch(wide, ROOM)
    dot_sums, dot_losts = scratch(wide, ROOM), scratch(wide, ROOM)
    _clear(amount_sums, amount_losts, wide, n)
    _clear(dot_sums, dot_losts, wide, n)
    for c in range(classes):
        source = offset(p, c * step)
        for j in range(0, n, width):
            share = _share(offset(t, c * t_step + j), n - j, c, class_weight, smoothing)
            gap = load(tops, j) - load_n(source, j, n - j, 0.0)
            product = where(share == 0.0, full(p, 0.0), share * gap)  # 0 x inf is 0 here
            _add_to(amount_sums, amount_losts, j, share)
            _add_to(dot_sums, dot_losts, j, product)
    _write_sums(amount_sums, amount_losts, n, p, amounts)
    _write_sums(dot_sums, dot_losts, n, p, dots)


@inline
def soft(j, n, c, p, step, t, t_step, class_weight, tops, rests, amounts, slopes, smoothing):
    """Return slope * (amount * softmax - t), for targets after smoothing and weights."""
    share = _share(offset(t, c * t_step + j), n, c, class_weight, smoothing)
    rest, amount, slope = load_n(rests, j, n, 0.0), load_n(amounts, j, n, 0.0), load_n(slopes, j, n, 0.0)
    e = exp(reload(p, step, c, j, n) - load_n(tops, j, n, 0.0))
    return soft_gradient(e, share, amount * slope / (rest + 1.0), rest, amount, slope)


@inline
def _share(t, n, c, class_weight, smoothing):
    """Return ``n`` targets of class ``c`` after smoothing and weights."""
    share = soft_share(load_n(t, 0, n, 0.0), smoothing)
    if class_weight is not None:
        share = share * class_weight[c]
    return share


@inline
def soft_share(t, smoothing):
    """Return the smoothed target."""
    if smoothing is not None:
        t = t * smoothing[0] + smoothing[1]
    return t


@inline
def soft_gradient(e, share, factor, rest, amount, slope):
    """Return slope * (amount * softmax - share) for exp(x - maximum) = e.

    Where both softmax and target are nearer to all than to nothing, what they lack is
    compared: exact where a one-hot target and a confident prediction agree.
    """
    near = (e == 1.0) & (rest < 1.0) & (share + share > amount)
    return where(near, (amount - share) * slope - factor * rest, e * factor - share * slope)


@block
def dots(p, step, g, g_step, classes, n, results):
    """Write the sums of p g over the classes, of g where ``p`` is None, a block of classes at a time."""
    width = lanes(g)
    losts = scratch(g, ROOM)
    for j in range(0, n, width):
        store(results, j, full(g, 0.0))
        store(losts, j, full(g, 0.0))
    for start in range(0, classes, FEW):
        stop = min(start + FEW, classes)
        for j in range(0, n, width):
            part = full(g, 0.0)
            for c in range(start, stop):
                term = _asked(g, g_step, c, j, n)
                if p is None:
                    part = part + term
                else:
                    part = fma(_asked(p, step, c, j, n), term, part)
            total, rounded = two_sum(load(results, j), part)
            store(results, j, total)
            store(losts, j, load(losts, j) + where(total - total == 0.0, rounded, 0.0))
    for j in range(0, n, width):
        store(results, j, load(results, j) + load(losts, j))


@inline
def _asked(p, step, c, j, n):
    """Load a value of class c, and ask for that of the next block."""
    k = c * step + j
    will_touch(p, k + FEW * step)
    return load_n(p, k, n - j, 0.0)


@inline
def vjp(j, n, c, y, step, g, g_step, dots, probs):
    """Return `pulled_back` of ``n`` samples of class c."""
    return pulled_back(reload(y, step, c, j, n), reload(g, g_step, c, j, n), load_n(dots, j, n, 0.0), probs)


@inline
def pulled_back(y, g, dot, probs):
    """Return p (g - dot), or g - exp(l) dot where ``probs`` is None and ``y`` is l."""
    if probs is None:
        return g - exp(y) * dot
    return y * (g - dot)
