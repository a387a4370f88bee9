"""Narrow classes: as many rows as a value has lanes, transposed in registers.

A row of few classes fills few lanes. A tile turns 16 rows (8 of float64) on their side, so
that ``columns`` works on all of them at once, and turns the result back.
"""

from fastce.kernels.jit import inline
from fastce.kernels.simd import lanes, load_square, offset, row, store_square

MAX_CLASSES = 32


@inline
def load_tile(x, start, n, tile):
    """Transpose ``x[start : start + n]`` into ``tile``: class c at ``c * lanes``."""
    width = lanes(x)
    classes = x.shape[1]
    step = x.strides[0] // x.itemsize
    for c in range(0, classes, width):
        load_square(offset(row(x, start), c), step, n, min(width, classes - c), offset(tile, c * width))


@inline
def store_tile(x, start, n, tile):
    """Transpose ``tile`` back into ``x[start : start + n]``."""
    width = lanes(x)
    classes = x.shape[1]
    step = x.strides[0] // x.itemsize
    for c in range(0, classes, width):
        store_square(offset(row(x, start), c), step, n, min(width, classes - c), offset(tile, c * width))
