"""Drivers of second derivatives of cross-entropy: the Hessian's diagonal, and its product with a vector.

For p = softmax(x) and one coefficient s a sample:

    diagonal    s p (1 - p)
    product     s p (v - sum_j p_j v_j)

With e = exp(x - maximum) and rest as in ``long_rows``, 1 - p = ((1 - e) + rest) / (1 + rest), which
loses nothing: either e is the greatest class's 1, or rest is at least e. In the product, v is
measured from its value at the greatest class, so that what all of a confident sample's
classes share never has to cancel.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import block, inline, kernel
from fastce.kernels.rows import long_rows, tiles
from fastce.kernels.rows.long_rows import VALUES
from fastce.kernels.rows.samples import scaled
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import write
from fastce.kernels.simd.memory import load, load_n, row, scratch, store
from fastce.kernels.simd.vecmath import exp
from fastce.kernels.simd.vector import full, lanes, maximum, reduce_add, reduce_max, where


@inline
def _diagonal(j, n, p, top, rest, slope):
    """Return slope * softmax * (1 - softmax)."""
    e = exp(load_n(p, j, n, 0.0) - top)
    rest_ = full(p, rest)
    factor = full(p, 1.0) / (rest_ + 1.0)
    return (e * factor) * (((1.0 - e) + rest_) * factor) * slope


@kernel
def diagonal_rows(x, sample_weight, scale, hessian):
    """``x`` is (N, C) with contiguous rows; ``hessian`` may be ``x`` itself."""
    classes = x.shape[1]
    for i in prange(x.shape[0]):
        top, rest = long_rows.stats(row(x, i), classes, None)
        slope = scale
        if sample_weight is not None:
            slope = scale * sample_weight[i]
        write(row(hessian, i), classes, False, _diagonal, (row(x, i), top, rest, slope))


@kernel
def diagonal_tiles(x, sample_weight, scale, hessian):
    """``x`` is (N, C) with contiguous rows of few classes; ``hessian`` may be ``x`` itself."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.announce(hessian, start, n)
        tiles.fetch(x, start, n, tile)
        _, rest = tiles.stats(tile, classes, exps)
        slope = scaled(x, sample_weight, scale, start, n)
        factor = full(x, 1.0) / (rest + 1.0)
        for c in range(0, classes * width, width):
            e = load(exps, c)
            store(tile, c, (e * factor) * (((1.0 - e) + rest) * factor) * slope)
        tiles.put(hessian, start, n, tile)


@block
def _at_greatest(p, v, classes, top):
    """Return ``v`` at the greatest class, the greatest such value where classes tie."""
    width = lanes(p)
    best = full(p, -np.inf)
    for j in range(0, classes, width):
        here = load_n(p, j, classes - j, np.nan) == full(p, top)
        best = maximum(where(here, load_n(v, j, classes - j, 0.0), -np.inf), best)
    return reduce_max(best)


@block
def _mean(p, v, classes, top, rest, centre):
    """Return the sum of softmax (v - centre)."""
    width = lanes(p)
    total = 0.0
    for start in range(0, classes, VALUES * width):
        stop = min(start + VALUES * width, classes)
        part = full(p, 0.0)
        for j in range(start, stop, width):
            e = exp(load_n(p, j, stop - j, -np.inf) - top)
            part = part + e * (load_n(v, j, stop - j, centre) - centre)
        total += np.float64(reduce_add(part))
    return total / (rest + 1.0)


@inline
def _product(j, n, p, v, top, rest, centre, mean, slope):
    """Return slope * softmax * (v - centre - mean)."""
    e = exp(load_n(p, j, n, 0.0) - top)
    factor = full(p, 1.0) / (full(p, rest) + 1.0)
    return (e * factor) * ((load_n(v, j, n, 0.0) - centre) - mean) * slope


@kernel
def product_rows(x, v, slopes, out):
    """``x`` and ``v`` are (N, C) with contiguous rows; a slope of 0 gives 0, whatever the logits."""
    classes = x.shape[1]
    for i in prange(x.shape[0]):
        slope = slopes[i]
        if slope == 0.0:
            write(row(out, i), classes, False, long_rows.zero, (full(x, 0.0),))
        else:
            p, g = row(x, i), row(v, i)
            top, rest = long_rows.stats(p, classes, None)
            centre = _at_greatest(p, g, classes, top)
            mean = _mean(p, g, classes, top, rest, centre)
            write(row(out, i), classes, False, _product, (p, g, top, rest, centre, mean, slope))


@kernel
def product_tiles(x, v, slopes, out):
    """``x`` and ``v`` are (N, C) with contiguous rows of few classes; else as `product_rows`."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = min(width, count - start)
        tile, exps, vector = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.announce(out, start, n)
        tiles.fetch(x, start, n, tile)
        tiles.fetch(v, start, n, vector)
        top, rest = tiles.stats(tile, classes, exps)
        slope = load_n(row(slopes, start), 0, n, 0.0)
        factor = full(x, 1.0) / (rest + 1.0)
        centre = full(x, 0.0)
        for c in range(0, classes * width, width):
            centre = where(load(tile, c) == top, load(vector, c), centre)
        mean = full(x, 0.0)
        for c in range(0, classes * width, width):
            mean = mean + load(exps, c) * (load(vector, c) - centre)
        mean = mean * factor
        for c in range(0, classes * width, width):
            value = (load(exps, c) * factor) * ((load(vector, c) - centre) - mean) * slope
            store(tile, c, where(slope == 0.0, 0.0, value))
        tiles.put(out, start, n, tile)
