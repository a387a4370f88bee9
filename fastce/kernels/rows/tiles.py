"""Building blocks for rows of few classes: 16 rows (8 of float64) transposed.

A row of ten classes would fill ten of sixteen lanes and need sums across them. A *tile* is a block of as many rows
as a value has lanes, transposed in registers. It lies in scratch memory, one value a class, with a sample in every
lane. Loops run over its classes, and results are transposed back.
"""

import numpy as np

from fastce.kernels import formulas
from fastce.kernels.codegen.jit import inline
from fastce.kernels.rows.long_rows import TERMS
from fastce.kernels.rows.targets import of_class
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import (
    load,
    load_one,
    offset,
    prefetch_read,
    prefetch_write,
    row,
    step_of,
    store,
    store_one,
)
from fastce.kernels.simd.transpose import (
    load_group,
    load_packed,
    store_group,
    store_packed,
    store_square,
    stores_masked,
)
from fastce.kernels.simd.vecmath import exp, two_sum
from fastce.kernels.simd.vector import (
    add_where,
    bits,
    full_like,
    increment_where,
    lanes,
    maximum,
    narrow,
    to_float,
    where,
    widen,
)

MAX_CLASSES = 32  # of a tile
PREFETCHED_TILES = 3  # between a tile's loads and the prefetches that go with them


@inline
def load_tile(x, start, n, tile):
    """Transpose rows ``start`` to ``start + n`` into a tile; the last row fills the lanes without a row.

    Classes are loaded in groups of 16 bytes or less. The last group overlaps the one before it if it would be short.
    """
    width, classes, step = lanes(x), x.shape[1], step_of(x, 0)
    p = row(x, start)
    if step == classes:
        for c in range(0, width * classes, width):
            prefetch_read(p, PREFETCHED_TILES * width * classes + c)  # harmless past the last row
    if n < width:
        for r in range(width):
            for c in range(classes):
                store_one(tile, c * width + r, load_one(p, smaller(r, n - 1) * step + c))
    elif classes >= 4 and width == 16:
        for k in range(0, classes, 4):
            c = smaller(k, classes - 4)
            load_group(offset(p, c), step, 4, offset(tile, c * width))
    elif classes == 3 and _is_packed(x):
        load_packed(p, 3, tile)
    elif classes == 2 and _is_packed(x):
        load_packed(p, 2, tile)
    elif classes >= 2:
        for k in range(0, classes, 2):
            c = smaller(k, classes - 2)
            load_group(offset(p, c), step, 2, offset(tile, c * width))
    else:
        load_group(p, step, 1, tile)


@inline
def _is_packed(x):
    """Tell whether rows are contiguous, and one instruction permutes the lanes of two values of 16."""
    return lanes(x) == 16 and stores_masked(x) and step_of(x, 0) == x.shape[1]


@inline
def store_tile(x, start, n, tile):
    """Transpose a tile into rows ``start`` to ``start + n``."""
    width, classes, step = lanes(x), x.shape[1], step_of(x, 0)
    p = row(x, start)
    if n < width:
        for r in range(n):
            for c in range(classes):
                store_one(p, r * step + c, load_one(tile, c * width + r))
    elif stores_masked(x) and classes > width // 2:
        for c in range(0, classes, width):
            store_square(offset(p, c), step, smaller(width, classes - c), offset(tile, c * width))
    elif classes >= 4 and width == 16:
        for k in range(0, classes, 4):
            c = smaller(k, classes - 4)
            store_group(offset(p, c), step, 4, offset(tile, c * width))
    elif classes == 3 and _is_packed(x):
        store_packed(p, 3, tile)
    elif classes == 2 and _is_packed(x):
        store_packed(p, 2, tile)
    elif classes >= 2:
        for k in range(0, classes, 2):
            c = smaller(k, classes - 2)
            store_group(offset(p, c), step, 2, offset(tile, c * width))
    else:
        store_group(p, step, 1, tile)


@inline
def prefetch_for_write(x, start, n):
    """Prefetch rows for writing, unless ``x`` is None."""
    if x is not None:
        length, step = x.shape[1], step_of(x, 0)
        if step == length:  # contiguous: a line holds several rows
            length, n = n * length, 1
        p = row(x, start)
        for r in range(n):
            for c in range(0, length, lanes(x)):
                prefetch_write(p, r * step + c)


@inline
def maximum_of(tile, classes):
    """Return the maximum over the classes; there is at least one.

    Even and odd classes have a maximum each: two independent chains halve the latency.
    """
    width = lanes(tile)
    even = odd = full_like(tile, -np.inf)
    for c in range(0, classes - 1, 2):
        even = maximum(load(tile, c * width), even)
        odd = maximum(load(tile, (c + 1) * width), odd)
    return maximum(maximum(load(tile, (classes - 1) * width), even), odd)


@inline
def stats(tile, classes, exps):
    """Return (maximum, sum_exp_rest) as ``columns.stats``, and write exp(x - maximum) to ``exps``.

    With so few classes, all exponentials are added in the logits' precision, ``TERMS`` to a partial sum.
    """
    width = lanes(tile)
    row_max = maximum_of(tile, classes)
    shift = where(row_max > -np.inf, row_max, 0.0)
    sum_exp_rest, count = full_like(tile, 0.0), bits(full_like(tile, 0.0))
    for start in range(0, classes, TERMS):
        part = full_like(tile, 0.0)
        for c in range(start, smaller(start + TERMS, classes)):
            d = load(tile, c * width) - shift
            e = exp(d)
            store(exps, c * width, e)
            below = d != 0.0  # true of NaN, which so reaches the sum
            part = add_where(part, below, e)
            count = increment_where(count, below)
        sum_exp_rest = sum_exp_rest + part
    num_at_max = classes - count
    # without a maximum: -inf, or NaN where a NaN is in the sum
    row_max = where(row_max > -np.inf, row_max, row_max + sum_exp_rest)
    return row_max, where(num_at_max > 0, sum_exp_rest + to_float(num_at_max - 1), np.nan)


@inline
def write_exps(tile, classes, row_max, exps):
    """Write exp(x - maximum) to ``exps``, the bits of `stats`."""
    width = lanes(tile)
    shift = where(row_max > -np.inf, row_max, 0.0)
    for c in range(0, classes * width, width):
        store(exps, c, exp(load(tile, c) - shift))


@inline
def or_nan(value, tile, classes):
    """Return ``value``, NaN where a class of the sample is NaN."""
    for c in range(classes):
        x = load(tile, c * lanes(tile))
        value = where(x != x, np.nan, value)
    return value


@inline
def write_softmax(exps, classes, factor):
    """Multiply exponentials by ``factor``."""
    width = lanes(exps)
    for c in range(classes):
        store(exps, c * width, load(exps, c * width) * factor)


@inline
def write_log_softmax(tile, result, classes, row_max, log_sum):
    """Write (x - maximum) - log_sum."""
    width = lanes(tile)
    for c in range(classes):
        store(result, c * width, (load(tile, c * width) - row_max) - log_sum)


@inline
def write_gradient(exps, classes, factor, labels, at_label, class_weight, smoothing_term):
    """Replace exponentials by the gradient for index targets: exponential * factor - w * smoothing term.

    At the label it is ``at_label``. Where the label is -1, it is 0 for all classes. ``labels`` are integers as wide as
    the logits; ``smoothing_term`` is None without smoothing.
    """
    width = lanes(exps)
    classes_left = labels  # until the label
    for c in range(classes):
        value = load(exps, c * width) * factor
        if smoothing_term is not None and class_weight is not None:
            value = value - smoothing_term * class_weight[c]
        elif smoothing_term is not None:
            value = value - smoothing_term
        value = where(classes_left == 0, at_label, value)
        classes_left = classes_left - 1
        store(exps, c * width, where(labels >= 0, value, 0.0))


@inline
def sum_below_max(tile, class_weight, classes, row_max):
    """Return the sum of w (maximum - x) over the classes."""
    width = lanes(tile)
    total = widen(full_like(tile, 0.0))
    for c in range(classes):
        below_max = row_max - load(tile, c * width)
        if class_weight is not None:
            below_max = formulas.times_weight(below_max, full_like(below_max, class_weight[c]))
        total = total + widen(below_max)
    return narrow(total, tile)


@inline
def target_sum_and_dot(tile, targets, classes, row_max):
    """Return the sums of t and of t (maximum - x) over the classes; the values of ``targets`` are a tile."""
    width = lanes(tile)
    target_sum = comp = dot = widen(full_like(tile, 0.0))
    for c in range(classes):
        target_prob = of_class(load(targets.values, c * width), c, targets)
        below_max = row_max - load(tile, c * width)
        target_sum, err = two_sum(target_sum, widen(target_prob))  # compensated: the gradient is a difference of it
        comp = comp + err
        dot = dot + widen(formulas.target_term(target_prob, below_max))
    return narrow(target_sum + comp, tile), narrow(dot, tile)


@inline
def write_prob_gradient(exps, targets, classes, sum_exp_rest, pull, grad_scale):
    """Replace exponentials by the gradient for probability targets, whose values are a tile."""
    width = lanes(exps)
    factor = formulas.prob_gradient_factor(pull, sum_exp_rest, grad_scale)
    for c in range(classes):
        target_prob = of_class(load(targets.values, c * width), c, targets)
        exp_x = load(exps, c * width)
        value = formulas.prob_gradient(exp_x, target_prob, factor, sum_exp_rest, pull, grad_scale)
        store(exps, c * width, value)


@inline
def clear(values, classes, factor):
    """Write 0 over the classes of samples whose factor is 0, unless ``factor`` is None."""
    width = lanes(values)
    if factor is not None:
        for c in range(0, classes * width, width):
            store(values, c, where(factor == 0.0, 0.0, load(values, c)))


@inline
def dot(tile, g, classes):
    """Return the sum of tile * g over the classes, of g where ``tile`` is None."""
    width = lanes(g)
    total = widen(full_like(g, 0.0))
    for c in range(classes):
        term = load(g, c * width)
        if tile is not None:
            term = term * load(tile, c * width)
        total = total + widen(term)
    return narrow(total, g)
