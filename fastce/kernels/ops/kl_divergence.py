"""Kernels of the Kullback-Leibler divergence between two softmaxes: loss and, if ``grad`` is given, gradient.

For logits x, target logits z, beta = 1 / temperature, p = softmax(beta x), q = softmax(beta z) and t = log p - log q, a
sample's loss and gradient are

    loss   = sum_j q_j (exp(t_j) - 1 - t_j)
    grad_j = upstream scale beta (p_j - q_j)

The loss equals -sum_j q_j t_j, since the sums of p and q are equal, but none of its terms is negative. Where p is near
q, nothing cancels in t and p - q (see ``rows.softmax_pairs``). Then an error in both log-sum-exps changes the loss only
by its square.

A block of rows is read twice, the second time from a cache unless its rows are very long. ``grad`` may be ``x`` or
``target`` itself. The kernels return the sum of the losses. The reversed divergence is in ``jensen_shannon``.
"""

import numpy as np
from numba import prange

from fastce.kernels.codegen.jit import block, kernel
from fastce.kernels.rows import row_formulas, tiles
from fastce.kernels.rows.long_rows import PLAIN_SUM
from fastce.kernels.rows.samples import has_factor, scaled, total_of
from fastce.kernels.rows.softmax_pairs import (
    kl_terms,
    log_quotient,
    pair_of_lane,
    pair_of_rows,
    pair_of_tiles,
    softmaxes,
)
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.rows.write import write
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load, load_n, row, scratch, static_if_present, store, store_n
from fastce.kernels.simd.vector import full_like, get_lane, lanes, reduce_add, set_lane


@block
def _finish_row(p, z, g, classes, beta, pair, grad_scale):
    """Return the loss of a row; write its gradient to ``g`` unless that is None."""
    width = lanes(p)
    loss = 0.0
    for start in range(0, classes, PLAIN_SUM * width):
        stop = smaller(start + PLAIN_SUM * width, classes)
        part = full_like(p, 0.0)
        for j in range(start, stop, width):
            a, b = load_n(p, j, stop - j, -np.inf), load_n(z, j, stop - j, -np.inf)
            x_prob, z_prob = softmaxes(a, b, pair, beta)
            t, d = log_quotient(a, b, pair, beta)
            difference, term = kl_terms(x_prob, z_prob, t, d)
            part = part + term
            if g is not None:
                store_n(g, j, stop - j, difference * grad_scale)
        loss += np.float64(reduce_add(part))
    return loss


@kernel
def kl_rows(x, target, beta, upstream, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows; a block has as many rows as a value has lanes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        pair = pair_of_rows(x, target, start, n, classes, beta)
        grad_scale = scaled(x, upstream, scale * beta, start, n)
        losses = full_like(x, 0.0)
        for r in range(n):
            p, z, g = row(x, start + r), row(target, start + r), row(grad, start + r)
            value = _finish_row(p, z, g, classes, beta, pair_of_lane(pair, r), get_lane(grad_scale, r))
            losses = set_lane(losses, r, value)
            if grad is not None and not has_factor(upstream, start + r):
                write(g, classes, False, row_formulas.zero, (full_like(x, 0.0),))
        store_n(row(loss, start), 0, n, losses)
    return total_of(loss)


@kernel
def kl_tiles(x, target, beta, upstream, scale, loss, grad):
    """``x`` and ``target`` are (N, C) with contiguous rows of few classes."""
    count, classes = x.shape
    width = lanes(x)
    for b in prange(-(-count // width)):
        start = b * width
        n = smaller(width, count - start)
        tile, z_tile, shifted = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        exps, z_exps = scratch(x, MAX_CLASSES), scratch(x, MAX_CLASSES)
        tiles.prefetch_for_write(grad, start, n)
        tiles.load_tile(x, start, n, tile)
        tiles.load_tile(target, start, n, z_tile)
        pair = pair_of_tiles(tile, z_tile, classes, beta, shifted, exps, z_exps)
        grad_scale = scaled(x, upstream, scale * beta, start, n)
        value = full_like(x, 0.0)
        for c in range(0, classes * width, width):
            x_prob, z_prob = load(exps, c) * pair.x_factor, load(z_exps, c) * pair.z_factor
            t, d = log_quotient(load(tile, c), load(z_tile, c), pair, beta)
            difference, term = kl_terms(x_prob, z_prob, t, d)
            value = value + term
            if grad is not None:
                store(tile, c, difference * grad_scale)
        store_n(row(loss, start), 0, n, value)
        if grad is not None:
            tiles.clear(tile, classes, static_if_present(upstream, grad_scale))
            tiles.store_tile(grad, start, n, tile)
    return total_of(loss)
