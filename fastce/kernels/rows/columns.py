"""Building blocks for a class axis that is not last: one class after the other, many samples at once.

Arrays are (outer, C, inner) with a contiguous last axis, so that neighbouring samples are neighbours in memory. The
samples of one `Panel` are contiguous, and at most ``ROOM`` values hold them wherever the first of them begins.
Per-sample terms (maxima, factors) lie in scratch memory, one value after the other.

The loops run over the samples inside those over the classes, so that memory is read in contiguous runs.
"""

from typing import Any, NamedTuple

import numpy as np

from fastce.kernels import formulas
from fastce.kernels.codegen.jit import block, inline
from fastce.kernels.rows.targets import of_class
from fastce.kernels.rows.write import write as write_row
from fastce.kernels.simd.integer import larger, smaller
from fastce.kernels.simd.memory import (
    load,
    load_as,
    load_between,
    load_n,
    offset,
    prefetch_l2,
    prefetch_read,
    row,
    scratch,
    store,
    until_aligned,
)
from fastce.kernels.simd.vecmath import exp, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    any_lane,
    bits,
    fma,
    full_like,
    increment_where,
    lanes,
    maximum,
    narrow,
    to_float,
    where,
    widen,
)

PANEL = 64  # most values across a panel, as it is planned
ROOM = PANEL + 1  # most values across a panel in memory: its first sample may be in the middle of a value
ALIGNED_PANEL = 16  # values across a panel from which on beginning at a cache line pays
PREFETCHED_VALUES = 4  # values across between a load and the prefetch that goes with it
PREFETCHED_CLASSES = 2  # classes between a second load, or a store, and the prefetch that goes with it
SHIFT_LAG = 8.0  # most that the shift subtracted before exp may lie below the running maximum
BLOCK = 16  # classes whose exponentials are added plainly; sums of blocks are compensated
DOT_BLOCK = 4  # the same of products: the first-level cache holds that many classes of two arrays at any step


class ColumnPlan(NamedTuple):
    """How a kernel goes through columns, and how it writes them."""

    width: int  # values across a panel
    streamed: bool  # results go past the caches


class Panel(NamedTuple):
    """All classes of neighbouring samples."""

    first: Any  # pointer to class 0 of the first sample
    step: int  # elements from class to class


class GradientTerms(NamedTuple):
    """Pointers to the per-sample terms of `gradient`."""

    maxima: Any
    factors: Any  # of the exponentials
    labels: Any  # as the bits of integers as wide as the logits; -1 for ignored samples
    at_labels: Any  # gradients at the labels
    smoothing_terms: Any  # before class weights; None without smoothing


class ProbGradientTerms(NamedTuple):
    """Pointers to the per-sample terms of `prob_gradient`: see `formulas`."""

    maxima: Any
    sum_exp_rests: Any
    pulls: Any
    grad_scales: Any
    static_scales: Any  # the same, None where none of them is a sample's own


@inline
def panel_count(x, width):
    """Return how many panels of ``width`` values cover all samples."""
    return x.shape[0] * -(-x.shape[2] // (width * lanes(x)))


@inline
def panel_range(x, b, width):
    """Return (first sample of panel ``b``, number of its samples, lanes before the first sample in its value).

    Panels begin where cache lines do. The first panel of contiguous samples begins with them, and has lanes before it
    in its first value; the last one is that much longer.
    """
    inner, size = x.shape[2], width * lanes(x)
    across = -(-inner // size)
    i, k = b // across, b % across
    lead = 0
    if width >= ALIGNED_PANEL and class_step(x) % lanes(x) == 0:
        lead = -until_aligned(row(x, i)) % lanes(x)
    start = larger(k * size - lead, 0)
    stop = inner if k == across - 1 else (k + 1) * size - lead
    return i * inner + start, stop - start, 0 if k else lead


@inline
def panel_at(x, start):
    """Return the panel of ``x`` that begins with sample ``start``."""
    return Panel(offset(row(x, start // x.shape[2]), start % x.shape[2]), class_step(x))


@inline
def class_step(x):
    """Return how many elements it is from class to class."""
    return x.strides[1] // x.itemsize


@block
def stats(x, classes, n, lead, maxima, sum_exp_rests):
    """Write the maximum and ``sum_exp_rest`` of each of the ``n`` samples of a panel.

    ``sum_exp_rest`` sums exp(x - maximum) over all classes but one that attains the maximum. That class's 1 stays out
    of the sum: beside it, the small terms that decide the loss of a confident sample would be rounded away.
    Without a finite maximum, and with NaN anywhere, it is NaN.

    The first value begins ``lead`` lanes before the first sample, in ``maxima`` and ``sum_exp_rests`` too.

    The outer loop runs over blocks of classes, the inner one over the values across. While it adds the exponentials of
    one value, it copies the next value's classes to a buffer in the first-level cache, whatever the step between
    them, and takes their maximum.
    """
    step, width = x.step, lanes(x.first)
    p, n = offset(x.first, -lead), n + lead
    maxima, sum_exp_rests = offset(maxima, -lead), offset(sum_exp_rests, -lead)
    across = -(-n // width) * width
    shifts, comps, nums_at_max = scratch(p, ROOM), scratch(p, ROOM), scratch(p, ROOM)  # the last as bits of integers
    for j in range(0, across, width):
        store(maxima, j, full_like(p, -np.inf))
        store(shifts, j, full_like(p, -np.inf))
        for terms in (sum_exp_rests, comps, nums_at_max):
            store(terms, j, full_like(p, 0.0))
    buf_cur, buf_next = scratch(p, BLOCK), scratch(p, BLOCK)
    higher = full_like(p, -np.inf)  # the maximum up to and with the current block
    for c in range(smaller(BLOCK, classes)):
        higher = _load_and_copy(p, step, c, 0, n, lead, buf_next, higher)
    for start in range(0, classes, BLOCK):
        count = smaller(BLOCK, classes - start)
        for j in range(0, across, width):
            buf_cur, buf_next = buf_next, buf_cur
            next_p, next_count, k = offset(p, start * step), count, j + width
            if k == across:  # the first value of the next block
                next_p, next_count, k = offset(next_p, BLOCK * step), smaller(BLOCK, classes - start - count), 0
            shift, part = _update_max(higher, maxima, shifts, sum_exp_rests, comps, nums_at_max, j)
            row_max, higher, below = higher, load(maxima, k), bits(full_like(p, 0.0))
            for c in range(next_count):
                part, below = _add_exp(load(buf_cur, c * width), row_max, shift, part, below)
                higher = _load_and_copy(next_p, step, c, k, n, lead, buf_next, higher)
            for c in range(next_count, count):
                part, below = _add_exp(load(buf_cur, c * width), row_max, shift, part, below)
            _add_part(sum_exp_rests, comps, j, part)
            store(nums_at_max, j, bits(bits(load(nums_at_max, j)) + (count - below)))
    for j in range(0, across, width):
        _finish(maxima, shifts, sum_exp_rests, comps, nums_at_max, j)


@inline
def _load_and_copy(p, step, c, j, n, lead, q, higher):
    """Copy lanes j and on of class c to ``q``, and return their maximum with ``higher``.

    Prefetch the next block; prefetching past the panel or the last class is harmless.
    """
    k = c * step + j
    prefetch_read(p, k + PREFETCHED_VALUES * lanes(p))
    prefetch_l2(p, k + BLOCK * step)
    x = load_between(p, k, lead - j, n - j, 0.0)
    store(q, c * lanes(p), x)
    return maximum(x, higher)


@inline
def _update_max(higher, maxima, shifts, sum_exp_rests, comps, nums_at_max, j):
    """Update the running maximum to ``higher``, and return (shift, extra).

    The shift is subtracted before exp. It lags the maximum by at most `SHIFT_LAG`, so that sums need not be rescaled,
    and rounded, each time the maximum grows. ``extra`` is the contribution to the sum of the classes at the maximum
    that ``higher`` replaces.
    """
    row_max, shift, num_at_max = load(maxima, j), load(shifts, j), load(nums_at_max, j)
    is_far = higher > shift + SHIFT_LAG
    if any_lane(is_far):
        new_shift = where(is_far, higher, shift)
        total, comp = load(sum_exp_rests, j), load(comps, j)
        wide = _rescale(total, comp, shift, new_shift)
        total = where(is_far, narrow(wide, total), total)
        store(sum_exp_rests, j, total)
        store(comps, j, where(is_far, narrow(wide - widen(total), total), comp))
        shift = new_shift
        store(shifts, j, shift)
    shift = where(shift > -np.inf, shift, 0.0)
    grown = higher > row_max
    store(nums_at_max, j, where(grown, 0.0, num_at_max))
    store(maxima, j, higher)
    return shift, where(grown, to_float(bits(num_at_max)) * exp(row_max - shift), 0.0)


@inline
def _rescale(total, comp, shift, new_shift):
    """Return a compensated sum of exponentials below ``shift`` as one below ``new_shift``, in float64."""
    return (widen(total) + widen(comp)) * exp(widen(shift) - widen(new_shift))


@inline
def _add_part(sums, comps, j, part):
    """Add to a compensated sum (Neumaier), renormalised so that comp is less than an ulp of the sum."""
    total, err = two_sum(load(sums, j), part)
    comp = load(comps, j) + err
    high = total + comp
    store(sums, j, high)
    store(comps, j, comp - (high - total))


@inline
def _finish(maxima, shifts, sum_exp_rests, comps, nums_at_max, j):
    """Rescale a sum to the maximum, and take one class at the maximum off it."""
    row_max, total = load(maxima, j), load(sum_exp_rests, j)
    sum_exp_rest = _rescale(total, load(comps, j), load(shifts, j), row_max) + widen(
        to_float(bits(load(nums_at_max, j)) - 1)
    )
    store(sum_exp_rests, j, where(row_max - row_max == 0.0, narrow(sum_exp_rest, row_max), np.nan))
    # without a maximum: -inf, or NaN where a NaN is in the sum
    store(maxima, j, where(row_max > -np.inf, row_max, row_max + total))


@inline
def _add_exp(x, row_max, shift, sum_exp_rest, count):
    """Where x is not the maximum, add exp(x - shift) to ``sum_exp_rest`` and 1 to ``count``."""
    below = x != row_max  # true of NaN, which so reaches the sum
    return add_where(sum_exp_rest, below, exp(x - shift)), increment_where(count, below)


@inline
def or_nan(value, x, j, classes, n):
    """Return ``value``, NaN where a class of the sample in its lane, from sample ``j`` of a panel on, is NaN."""
    for c in range(classes):
        value_c = load_n(x.first, c * x.step + j, n - j, 0.0)
        value = where(value_c != value_c, np.nan, value)
    return value


@block
def write(x, out, classes, n, streamed, formula, args):
    """Write ``formula(j, m, c, x, *args)``, which gives samples j to j + m of class c, to all of the panel ``out``.

    Classes come in reverse: the cache still holds those that were read last. Where ``streamed``, the caller has to
    call ``stream_fence`` afterwards.
    """
    for c in range(classes - 1, -1, -1):
        if not streamed:
            for j in range(0, n, lanes(out.first)):
                prefetch_l2(out.first, (c - PREFETCHED_CLASSES) * out.step + j)
        write_row(offset(out.first, c * out.step), n, streamed, formula, (c, x, *args))


@inline
def reload(x, c, j, n):
    """Load ``n`` samples of class c again, and prefetch a later class: runs are too short for the hardware to do so."""
    prefetch_l2(x.first, (c - PREFETCHED_CLASSES) * x.step + j)  # harmless before the first class
    return load_n(x.first, c * x.step + j, n, 0.0)


@inline
def softmax(j, n, c, x, maxima, factors):
    """Return exp(x - maximum) * factor."""
    return exp(reload(x, c, j, n) - load_n(maxima, j, n, 0.0)) * load_n(factors, j, n, 0.0)


@inline
def log_softmax(j, n, c, x, maxima, log_sums):
    """Return (x - maximum) - log_sum."""
    return (reload(x, c, j, n) - load_n(maxima, j, n, 0.0)) - load_n(log_sums, j, n, 0.0)


@inline
def gradient(j, n, c, x, terms, class_weight):
    """Return the gradient of class c for index targets: exp(x - maximum) * factor - w * smoothing term.

    It is the gradient at the label for class c = label, and 0 for ignored samples.
    """
    value = softmax(j, n, c, x, terms.maxima, terms.factors)
    value = _less_smoothing(value, j, n, c, terms.smoothing_terms, class_weight)
    label = bits(load_n(terms.labels, j, n, 0.0))
    value = where(label == c, load_n(terms.at_labels, j, n, 0.0), value)
    return where(label >= 0, value, 0.0)


@inline
def _less_smoothing(value, j, n, c, smoothing_terms, class_weight):
    """Subtract w * smoothing term from the gradient of class c."""
    if smoothing_terms is None:
        return value
    smoothing_term = load_n(smoothing_terms, j, n, 0.0)
    if class_weight is not None:
        smoothing_term = smoothing_term * class_weight[c]
    return value - smoothing_term


@inline
def _clear(sums, comps, wide, n):
    """Set compensated float64 sums of ``n`` samples to ``wide``, which is 0."""
    for j in range(0, n, lanes(wide)):
        store(sums, j, wide)
        store(comps, j, wide)


@inline
def _add_to(sums, comps, j, term):
    """Add a value to the sums, and the rounding error of that to ``comps``."""
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
        # the compensation of an infinite sum is NaN
        store(results, j, narrow(where(total - total == 0.0, total + comp, total), like))


@block
def sums_below_max(x, class_weight, classes, n, maxima, results):
    """Write the sums of w (maximum - x) over the classes."""
    p, width = x.first, lanes(x.first)
    wide = widen(full_like(p, 0.0))
    sums, comps = scratch(wide, ROOM), scratch(wide, ROOM)
    _clear(sums, comps, wide, n)
    for c in range(classes):
        source = offset(p, c * x.step)
        for j in range(0, n, width):
            below_max = load(maxima, j) - load_n(source, j, n - j, 0.0)
            if class_weight is not None:
                below_max = formulas.times_weight(below_max, full_like(below_max, class_weight[c]))
            _add_to(sums, comps, j, below_max)
    _write_sums(sums, comps, n, p, results)


@block
def target_sums_and_dots(x, targets, classes, n, maxima, target_sums, dots):
    """Write the sums of t and of t (maximum - x) over the classes; the values of ``targets`` are a panel."""
    p, width = x.first, lanes(x.first)
    wide = widen(full_like(p, 0.0))
    sums, sum_comps = scratch(wide, ROOM), scratch(wide, ROOM)
    dot_sums, dot_comps = scratch(wide, ROOM), scratch(wide, ROOM)
    _clear(sums, sum_comps, wide, n)
    _clear(dot_sums, dot_comps, wide, n)
    for c in range(classes):
        source = offset(p, c * x.step)
        for j in range(0, n, width):
            target_prob = _target_prob(targets, c, j, n - j)
            below_max = load(maxima, j) - load_n(source, j, n - j, 0.0)
            _add_to(sums, sum_comps, j, target_prob)
            _add_to(dot_sums, dot_comps, j, formulas.target_term(target_prob, below_max))
    _write_sums(sums, sum_comps, n, p, target_sums)
    _write_sums(dot_sums, dot_comps, n, p, dots)


@inline
def prob_gradient(j, n, c, x, targets, terms):
    """Return the gradient of class c for probability targets, whose values are a panel."""
    target_prob = _target_prob(targets, c, j, n)
    sum_exp_rest = load_n(terms.sum_exp_rests, j, n, 0.0)
    pull = load_n(terms.pulls, j, n, 0.0)
    grad_scale = load_n(terms.grad_scales, j, n, 0.0)
    exp_x = exp(reload(x, c, j, n) - load_n(terms.maxima, j, n, 0.0))
    factor = formulas.prob_gradient_factor(pull, sum_exp_rest, grad_scale)
    value = formulas.prob_gradient(exp_x, target_prob, factor, sum_exp_rest, pull, grad_scale)
    return _cleared(value, grad_scale, terms.static_scales)


@inline
def _cleared(value, grad_scale, static_scales):
    """Return the gradient, 0 where its factor is, even if it is NaN."""
    if static_scales is None:
        return value
    return where(grad_scale == 0.0, 0.0, value)


@inline
def _target_prob(targets, c, j, n):
    """Return t of class ``c`` and ``n`` samples."""
    return of_class(load_n(targets.values.first, c * targets.values.step + j, n, 0.0), c, targets)


@block
def dots(y, g, classes, n, results):
    """Write the sums of y g over the classes, of g where ``y`` is None, a block of classes at a time."""
    width = lanes(g.first)
    zero = full_like(g.first, 0.0)
    comps = scratch(g.first, ROOM)
    for j in range(0, n, width):
        store(results, j, zero)
        store(comps, j, zero)
    for start in range(0, classes, DOT_BLOCK):
        stop = smaller(start + DOT_BLOCK, classes)
        for j in range(0, n, width):
            part = zero
            for c in range(start, stop):
                term = _load_and_prefetch(g, c, j, n)
                if y is None:
                    part = part + term
                else:
                    part = fma(_load_and_prefetch(y, c, j, n), term, part)
            total, err = two_sum(load(results, j), part)
            store(results, j, total)
            store(comps, j, load(comps, j) + where(total - total == 0.0, err, 0.0))
    for j in range(0, n, width):
        store(results, j, load(results, j) + load(comps, j))


@inline
def _load_and_prefetch(x, c, j, n):
    """Load a value of class c, and prefetch that of the next block."""
    k = c * x.step + j
    prefetch_l2(x.first, k + DOT_BLOCK * x.step)
    return load_n(x.first, k, n - j, 0.0)


@inline
def vjp(j, n, c, y, g, dots, static_probs):
    """Return `formulas.softmax_vjp` of ``n`` samples of class c."""
    return formulas.softmax_vjp(reload(y, c, j, n), reload(g, c, j, n), load_n(dots, j, n, 0.0), static_probs)
