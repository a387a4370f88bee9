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
from fastce.kernels.formulas import prob_gradient, prob_gradient_factor, smoothed_target, softmax_vjp, target_times_gap
from fastce.kernels.rows.write import write as write_row
from fastce.kernels.simd.memory import (
    load,
    load_as,
    load_between,
    load_n,
    offset,
    prefetch_read,
    row,
    scratch,
    store,
    until_aligned,
    will_touch,
)
from fastce.kernels.simd.vecmath import exp, two_sum
from fastce.kernels.simd.vector import (
    add_true,
    add_where,
    any_lane,
    bits,
    fma,
    full_like,
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
def stats(p, step, classes, n, lead, maxima, sum_exp_rests):
    """Write (maximum, rest) of every sample; rest sums exp(x - maximum) over all but one greatest class.

    The first value begins ``lead`` lanes before the first sample, and so do those of ``maxima`` and ``sum_exp_rests``.

    The maximum's own 1 stays out of the sum: beside it, the small terms that decide the
    loss of a confident sample would be rounded away. Without a finite maximum, and with NaN
    anywhere, rest is NaN.

    Classes come in blocks, and of each block one value of neighbouring samples after the other. While
    the exponentials of a value are summed, the next one is copied to where the first-level cache keeps
    it, however far apart its classes lie, and its maximum taken.
    """
    width = lanes(p)
    p, maxima, sum_exp_rests, n = offset(p, -lead), offset(maxima, -lead), offset(sum_exp_rests, -lead), n + lead
    across = -(-n // width) * width
    shifts, comps, num_at_max = scratch(p, ROOM), scratch(p, ROOM), scratch(p, ROOM)  # ones holds the bits of integers
    for j in range(0, across, width):
        for terms, start in (
            (maxima, -np.inf),
            (shifts, -np.inf),
            (sum_exp_rests, 0.0),
            (comps, 0.0),
            (num_at_max, 0.0),
        ):
            store(terms, j, full_like(p, start))
    near, far = scratch(p, BLOCK), scratch(p, BLOCK)
    higher = full_like(p, -np.inf)  # the maximum up to and with the block at hand
    for c in range(min(BLOCK, classes)):
        higher = _copied(p, step, c, 0, n, lead, far, higher)
    for start in range(0, classes, BLOCK):
        count = min(BLOCK, classes - start)
        for j in range(0, across, width):
            near, far = far, near
            following, ahead, k = offset(p, start * step), count, j + width
            if k == across:  # the next block's first
                following, ahead, k = offset(following, BLOCK * step), min(BLOCK, classes - start - count), 0
            shift, part = _raised(higher, maxima, shifts, sum_exp_rests, comps, num_at_max, j)
            row_max, higher, below = higher, load(maxima, k), bits(full_like(p, 0.0))
            for c in range(ahead):
                part, below = _add(load(near, c * width), row_max, shift, part, below)
                higher = _copied(following, step, c, k, n, lead, far, higher)
            for c in range(ahead, count):
                part, below = _add(load(near, c * width), row_max, shift, part, below)
            _add_part(sum_exp_rests, comps, j, part)
            store(num_at_max, j, bits(bits(load(num_at_max, j)) + (count - below)))
    for j in range(0, across, width):
        _finish(maxima, shifts, sum_exp_rests, comps, num_at_max, j)


@inline
def _copied(p, step, c, j, n, lead, q, higher):
    """Copy a value, lanes j and on of class c, and return its maximum with ``higher``.

    What comes next is asked for, which is no access behind the panel or the last class.
    """
    k = c * step + j
    prefetch_read(p, k + NEAR * lanes(p))
    will_touch(p, k + BLOCK * step)
    x = load_between(p, k, lead - j, n - j, 0.0)
    store(q, c * lanes(p), x)
    return maximum(x, higher)


@inline
def _raised(higher, maxima, shifts, sum_exp_rests, comps, num_at_max, j):
    """Note a maximum that may be higher than before; return what to subtract before exp, and what to add to the sum.

    The former follows the maximum at a distance, so that sums need not be scaled, and rounded,
    each time it grows. The latter are the classes that were at the maximum.
    """
    row_max, shift, one = load(maxima, j), load(shifts, j), load(num_at_max, j)
    far = higher > shift + LAG
    if any_lane(far):
        raised = where(far, higher, shift)
        total, comp = load(sum_exp_rests, j), load(comps, j)
        wide = _scaled(total, comp, shift, raised)
        total = where(far, narrow(wide, total), total)
        store(sum_exp_rests, j, total)
        store(comps, j, where(far, narrow(wide - widen(total), total), comp))
        shift = raised
        store(shifts, j, shift)
    shift = where(shift > -np.inf, shift, 0.0)
    grown = higher > row_max
    store(num_at_max, j, where(grown, 0.0, one))
    store(maxima, j, higher)
    return shift, where(grown, to_float(bits(one)) * exp(row_max - shift), 0.0)


@inline
def _scaled(total, comp, shift, raised):
    """Return a sum of exponentials below ``shift`` as one below ``raised``, in float64."""
    return (widen(total) + widen(comp)) * exp(widen(shift) - widen(raised))


@inline
def _add_part(sums, comps, j, part):
    """Add to the sums, and keep what that rounds off in ``comps``, less than the last place of the sums."""
    total, err = two_sum(load(sums, j), part)
    comp = load(comps, j) + err
    high = total + comp
    store(sums, j, high)
    store(comps, j, comp - (high - total))


@inline
def _finish(maxima, shifts, sum_exp_rests, comps, num_at_max, j):
    """Bring a sum below the maximum, and take one class at the maximum off it."""
    row_max, total = load(maxima, j), load(sum_exp_rests, j)
    sum_exp_rest = _scaled(total, load(comps, j), load(shifts, j), row_max) + widen(
        to_float(bits(load(num_at_max, j)) - 1)
    )
    store(sum_exp_rests, j, where(row_max - row_max == 0.0, narrow(sum_exp_rest, row_max), np.nan))
    # without a maximum: -inf, or NaN where a NaN is in the sum
    store(maxima, j, where(row_max > -np.inf, row_max, row_max + total))


@inline
def _add(x, row_max, shift, sum_exp_rest, count):
    """Where x is not the maximum, add exp(x - shift) to ``sum_exp_rest`` and 1 to ``count``."""
    below = x != row_max  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, exp(x - shift)), add_true(count, below)


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
    ``streamed``, the caller has to ``stream_fence`` what was written.
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
def softmax(j, n, c, p, step, maxima, factors):
    """Return exp(x - top) * factor."""
    return exp(reload(p, step, c, j, n) - load_n(maxima, j, n, 0.0)) * load_n(factors, j, n, 0.0)


@inline
def log_softmax(j, n, c, p, step, maxima, log_sums):
    """Return (x - top) - log_sum."""
    return (reload(p, step, c, j, n) - load_n(maxima, j, n, 0.0)) - load_n(log_sums, j, n, 0.0)


@inline
def gradient(j, n, c, p, step, maxima, factors, labels, at_labels, class_weight, smoothing_terms):
    """Return exp(x - top) * factor - w * minus; ``at_label`` at the label, 0 where label is -1.

    ``labels`` holds the bits of integers as wide as the logits.
    """
    value = exp(reload(p, step, c, j, n) - load_n(maxima, j, n, 0.0)) * load_n(factors, j, n, 0.0)
    if smoothing_terms is not None:
        smoothing_term = load_n(smoothing_terms, j, n, 0.0)
        if class_weight is not None:
            smoothing_term = smoothing_term * class_weight[c]
        value = value - smoothing_term
    label = bits(load_n(labels, j, n, 0.0))
    value = where(label == c, load_n(at_labels, j, n, 0.0), value)
    return where(label >= 0, value, 0.0)


@inline
def _clear(sums, comps, wide, n):
    """Start compensated sums in float64, whose memory the caller provides, of ``n`` samples."""
    for j in range(0, n, lanes(wide)):
        store(sums, j, wide)
        store(comps, j, wide)


@inline
def _add_to(sums, comps, j, term):
    """Add a value to the sums, and what the addition rounds off to ``comps``."""
    term = widen(term)
    total, err = two_sum(load_as(sums, j, term), term)
    store(sums, j, total)
    store(comps, j, load_as(comps, j, term) + err)


@inline
def _write_sums(sums, comps, n, like, results):
    """Write the sums in the precision of ``like``."""
    wide = widen(full_like(like, 0.0))
    for j in range(0, n, lanes(like)):
        total = load_as(sums, j, wide)
        comp = load_as(comps, j, wide)
        # an infinite total has NaN for what it lost
        store(results, j, narrow(where(total - total == 0.0, total + comp, total), like))


@block
def sums_below_max(p, step, class_weight, classes, n, maxima, results):
    """Write the sums of w (top - x) over the classes."""
    width = lanes(p)
    wide = widen(full_like(p, 0.0))
    sums, comps = scratch(wide, ROOM), scratch(wide, ROOM)
    _clear(sums, comps, wide, n)
    for c in range(classes):
        source = offset(p, c * step)
        for j in range(0, n, width):
            gap = load(maxima, j) - load_n(source, j, n - j, 0.0)
            if class_weight is not None:
                gap = gap * class_weight[c]
            _add_to(sums, comps, j, gap)
    _write_sums(sums, comps, n, p, results)


@block
def soft_sums(p, step, t, t_step, class_weight, classes, n, maxima, smoothing, target_sums, dots):
    """Write the sums of t and of t (top - x), for targets after smoothing and weights."""
    width = lanes(p)
    wide = widen(full_like(p, 0.0))
    amount_sums, amount_losts = scratch(wide, ROOM), scratch(wide, ROOM)
    dot_sums, dot_losts = scratch(wide, ROOM), scratch(wide, ROOM)
    _clear(amount_sums, amount_losts, wide, n)
    _clear(dot_sums, dot_losts, wide, n)
    for c in range(classes):
        source = offset(p, c * step)
        for j in range(0, n, width):
            target_prob = _target_prob(offset(t, c * t_step + j), n - j, c, class_weight, smoothing)
            gap = load(maxima, j) - load_n(source, j, n - j, 0.0)
            product = target_times_gap(target_prob, gap)
            _add_to(amount_sums, amount_losts, j, target_prob)
            _add_to(dot_sums, dot_losts, j, product)
    _write_sums(amount_sums, amount_losts, n, p, target_sums)
    _write_sums(dot_sums, dot_losts, n, p, dots)


@inline
def soft(j, n, c, p, step, t, t_step, class_weight, maxima, sum_exp_rests, target_sums, grad_scales, smoothing):
    """Return slope * (amount * softmax - t), for targets after smoothing and weights."""
    target_prob = _target_prob(offset(t, c * t_step + j), n, c, class_weight, smoothing)
    sum_exp_rest, target_sum, grad_scale = (
        load_n(sum_exp_rests, j, n, 0.0),
        load_n(target_sums, j, n, 0.0),
        load_n(grad_scales, j, n, 0.0),
    )
    e = exp(reload(p, step, c, j, n) - load_n(maxima, j, n, 0.0))
    factor = prob_gradient_factor(target_sum, sum_exp_rest, grad_scale)
    return prob_gradient(e, target_prob, factor, sum_exp_rest, target_sum, grad_scale)


@inline
def _target_prob(t, n, c, class_weight, smoothing):
    """Return ``n`` targets of class ``c`` after smoothing and weights."""
    target_prob = smoothed_target(load_n(t, 0, n, 0.0), smoothing)
    if class_weight is not None:
        target_prob = target_prob * class_weight[c]
    return target_prob


@block
def dots(p, step, g, g_step, classes, n, results):
    """Write the sums of p g over the classes, of g where ``p`` is None, a block of classes at a time."""
    width = lanes(g)
    comps = scratch(g, ROOM)
    for j in range(0, n, width):
        store(results, j, full_like(g, 0.0))
        store(comps, j, full_like(g, 0.0))
    for start in range(0, classes, FEW):
        stop = min(start + FEW, classes)
        for j in range(0, n, width):
            part = full_like(g, 0.0)
            for c in range(start, stop):
                term = _asked(g, g_step, c, j, n)
                if p is None:
                    part = part + term
                else:
                    part = fma(_asked(p, step, c, j, n), term, part)
            total, err = two_sum(load(results, j), part)
            store(results, j, total)
            store(comps, j, load(comps, j) + where(total - total == 0.0, err, 0.0))
    for j in range(0, n, width):
        store(results, j, load(results, j) + load(comps, j))


@inline
def _asked(p, step, c, j, n):
    """Load a value of class c, and ask for that of the next block."""
    k = c * step + j
    will_touch(p, k + FEW * step)
    return load_n(p, k, n - j, 0.0)


@inline
def vjp(j, n, c, y, step, g, g_step, dots, probs):
    """Return `softmax_vjp` of ``n`` samples of class c."""
    return softmax_vjp(reload(y, step, c, j, n), reload(g, g_step, c, j, n), load_n(dots, j, n, 0.0), probs)
