"""Kernels of logit_scale and softcap: the transform x' of the logits before the softmax, and its chain rule.

``formulas.transform_logits`` has x' and dx'/dx. The kernels go through rows element by element.
"""

from numba import prange

from fastce.kernels.codegen.jit import kernel
from fastce.kernels.formulas import times_weight, transform_logits
from fastce.kernels.rows.split import chunk_count, chunk_of
from fastce.kernels.simd.memory import load_n, offset, row, store_n
from fastce.kernels.simd.vector import lanes


@kernel
def logit_transform(x, scale, cap, out):
    """Write x' of (N, C) logits."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, n = chunk_of(x, task)
        p, q = offset(row(x, i), start), offset(row(out, i), start)
        for j in range(0, n, lanes(x)):
            transformed, _ = transform_logits(load_n(p, j, n - j, 0.0), scale, cap)
            store_n(q, j, n - j, transformed)


@kernel
def logit_transform_vjp(x, scale, cap, grad, out):
    """Write ``grad``, with respect to x', as a gradient with respect to the (N, C) logits ``x``; 0 where it is 0."""
    for task in prange(x.shape[0] * chunk_count(x)):
        i, start, n = chunk_of(x, task)
        p, g, q = offset(row(x, i), start), offset(row(grad, i), start), offset(row(out, i), start)
        for j in range(0, n, lanes(x)):
            _, slope = transform_logits(load_n(p, j, n - j, 0.0), scale, cap)
            store_n(q, j, n - j, times_weight(slope, load_n(g, j, n - j, 0.0)))
