"""Kernels of second derivatives of cross-entropy: the Hessian's diagonal, and its product with a vector.

For p = softmax(x) and one factor s a sample:

    diagonal    s p (1 - p)
    product     s p (v - sum_j p_j v_j)

In the product, v is measured from ``centre``, its value at the greatest class: see ``formulas.hessian_vector_product``.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import block, inline, kernel
from fastce.kernels.formulas import hessian_diagonal, hessian_vector_product
from fastce.kernels.rows import long_rows, row_formulas, tiles
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.rows.samples import has_factor, scaled
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import write
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load, load_n, row, scratch, static_if_present, store
from fastce.kernels.simd.vecmath import exp
from fastce.kernels.simd.vector import full_like, lanes, maximum, reduce_add, reduce_max, where


@inline
def _diagonal(j, n, p, row_max, sum_exp_rest, grad_scale):
    """Return `hessian_diagonal` of ``n`` classes."""
    exp_x = exp(load_n(p, j, n, 0.0) - row_max)
    sum_exp_rest_ = full_like(p, sum_exp_rest)
    factor = full_like(p, 1.0) / (sum_exp_rest_ + 1.0)
    return hessian_diagonal(exp_x, sum_exp_rest_, factor, grad_scale)


@kernel
def diagonal_rows(x, sample_weight, scale, hessian):
    """``x`` is (N, C) with contiguous rows; ``hessian`` may be ``x`` itself.

    A factor of 0 gives 0, whatever the logits.
    """
    classes = x.shape[1]
    for i in prange(x.shape[0]):
        grad_scale = scale
        if sample_weight is not None:
            grad_scale = scale * sample_weight[i]
        if has_factor(sample_weight, i):
            row_max, sum_exp_rest = long_rows.stats(row(x, i), classes, None)
            write(row(hessian, i), classes, False, _diagonal, (row(x, i), row_max, sum_exp_rest, grad_scale))
        else:
            write(row(hessian, i), classes, False, row_formulas.zero, (full_like(x, 0.0),))


@kernel
def diagonal_tiles(x, sample_weight, scale, hessian):
    """``x`` is (N, C) with contiguous rows of few classes; see `diagonal_rows`."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(hessian, start, n)
        tiles.load_tile(x, start, n, tile)
        _, sum_exp_rest = tiles.stats(tile, classes, exps)
        grad_scale = scaled(x, sample_weight, scale, start, n)
        factor = full_like(x, 1.0) / (sum_exp_rest + 1.0)
        for c in range(0, classes * width, width):
            store(tile, c, hessian_diagonal(load(exps, c), sum_exp_rest, factor, grad_scale))
        tiles.clear(tile, classes, static_if_present(sample_weight, grad_scale))
        tiles.store_tile(hessian, start, n, tile)


@block
def _at_greatest(p, v, classes, row_max):
    """Return ``v`` at the greatest class; where classes tie, the greatest of their values."""
    width = lanes(p)
    best = full_like(p, -np.inf)
    for j in range(0, classes, width):
        at_max = load_n(p, j, classes - j, np.nan) == full_like(p, row_max)
        best = maximum(where(at_max, load_n(v, j, classes - j, 0.0), -np.inf), best)
    return reduce_max(best)


@block
def _mean(p, v, classes, row_max, sum_exp_rest, centre):
    """Return the sum of softmax (v - centre)."""
    width = lanes(p)
    total = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = smaller(start + PLAIN_SUM * width, classes)
        part = full_like(p, 0.0)
        for j in range(start, stop, width):
            e = exp(load_n(p, j, stop - j, -np.inf) - row_max)
            part = part + e * (load_n(v, j, stop - j, centre) - centre)
        total += np.float64(reduce_add(part))
    return total / (sum_exp_rest + 1.0)


@inline
def _product(j, n, p, v, row_max, sum_exp_rest, centre, mean, grad_scale):
    """Return `hessian_vector_product` of ``n`` classes."""
    exp_x = exp(load_n(p, j, n, 0.0) - row_max)
    factor = full_like(p, 1.0) / (full_like(p, sum_exp_rest) + 1.0)
    return hessian_vector_product(exp_x, factor, load_n(v, j, n, 0.0) - centre, mean, grad_scale)


@kernel
def product_rows(x, v, grad_scales, out):
    """``x`` and ``v`` are (N, C) with contiguous rows; a factor of 0 gives 0, whatever the logits."""
    classes = x.shape[1]
    for i in prange(x.shape[0]):
        grad_scale = grad_scales[i]
        if grad_scale == 0.0:
            write(row(out, i), classes, False, row_formulas.zero, (full_like(x, 0.0),))
        else:
            p, g = row(x, i), row(v, i)
            row_max, sum_exp_rest = long_rows.stats(p, classes, None)
            centre = _at_greatest(p, g, classes, row_max)
            mean = _mean(p, g, classes, row_max, sum_exp_rest, centre)
            write(row(out, i), classes, False, _product, (p, g, row_max, sum_exp_rest, centre, mean, grad_scale))


@kernel
def product_tiles(x, v, grad_scales, out):
    """``x`` and ``v`` are (N, C) with contiguous rows of few classes; see `product_rows`."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, exps, vector = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(out, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.load_tile(v, start, n, vector)
        row_max, sum_exp_rest = tiles.stats(tile, classes, exps)
        grad_scale = load_n(row(grad_scales, start), 0, n, 0.0)
        factor = full_like(x, 1.0) / (sum_exp_rest + 1.0)
        centre = full_like(x, 0.0)
        for c in range(0, classes * width, width):
            centre = where(load(tile, c) == row_max, load(vector, c), centre)
        mean = full_like(x, 0.0)
        for c in range(0, classes * width, width):
            mean = mean + load(exps, c) * (load(vector, c) - centre)
        mean = mean * factor
        for c in range(0, classes * width, width):
            value = hessian_vector_product(load(exps, c), factor, load(vector, c) - centre, mean, grad_scale)
            store(tile, c, where(grad_scale == 0.0, 0.0, value))
        tiles.store_tile(out, start, n, tile)
