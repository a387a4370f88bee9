"""Where the samples of one lane block lie: side by side in memory, or to be transposed.

Kernels that keep samples in the lanes see ``x`` in one of two shapes:

- (outer, C, inner), inner contiguous: neighbouring samples are neighbours in memory and a
  block is read and written in place.
- (N, C) with contiguous rows of at most ``MAX_CLASSES`` classes: a row would fill few
  lanes, so a *tile* of 16 rows (8 of float64) is turned on its side in registers and lies,
  class after class, in scratch memory; results are turned back.

``fetch`` and ``place`` say where class 0 of a block lies and how far the next class is;
``put`` brings a result home. Each has one implementation a shape.
"""

from numba.extending import overload

from fastce.kernels.memory import (
    load_square,
    offset,
    row,
    store_square,
)
from fastce.kernels.simd import (
    lanes,
)

MAX_CLASSES = 32


def _strict_inline(stub):
    return overload(stub, jit_options={"forceinline": True, "error_model": "numpy"})


def block_count(x):
    """Return how many lane blocks cover all samples of ``x``."""


@_strict_inline(block_count)
def _block_count(x):
    if x.ndim == 3:

        def impl(x):
            return x.shape[0] * -(-x.shape[2] // lanes(x))
    else:

        def impl(x):
            return -(-x.shape[0] // lanes(x))

    return impl


def block_range(x, b):
    """Return (the first sample of block ``b``, the number of its samples)."""


@_strict_inline(block_range)
def _block_range(x, b):
    if x.ndim == 3:

        def impl(x, b):
            inner = x.shape[2]
            across = -(-inner // lanes(x))
            i = (b % across) * lanes(x)
            return (b // across) * inner + i, min(lanes(x), inner - i)
    else:

        def impl(x, b):
            start = b * lanes(x)
            return start, min(lanes(x), x.shape[0] - start)

    return impl


def place(x, b, tile):
    """Return (pointer, step) for writing block ``b``; follow with ``put``."""


@_strict_inline(place)
def _place(x, b, tile):
    if x.ndim == 3:

        def impl(x, b, tile):
            across = -(-x.shape[2] // lanes(x))
            i = (b % across) * lanes(x)
            return offset(row(x, b // across), i), x.strides[1] // x.itemsize
    else:

        def impl(x, b, tile):
            return tile, lanes(x)

    return impl


def fetch(x, b, tile):
    """Return (pointer, step) for reading block ``b``."""


@_strict_inline(fetch)
def _fetch(x, b, tile):
    if x.ndim == 3:

        def impl(x, b, tile):
            return place(x, b, tile)
    else:

        def impl(x, b, tile):
            width = lanes(x)
            start, n = block_range(x, b)
            step = x.strides[0] // x.itemsize
            for c in range(0, x.shape[1], width):
                p = offset(row(x, start), c)
                load_square(p, step, n, min(width, x.shape[1] - c), offset(tile, c * width))
            return tile, width

    return impl


def put(x, b, tile):
    """Bring block ``b`` home after it was written where ``place`` said."""


@_strict_inline(put)
def _put(x, b, tile):
    if x.ndim == 3:

        def impl(x, b, tile):
            return
    else:

        def impl(x, b, tile):
            width = lanes(x)
            start, n = block_range(x, b)
            step = x.strides[0] // x.itemsize
            for c in range(0, x.shape[1], width):
                p = offset(row(x, start), c)
                store_square(p, step, n, min(width, x.shape[1] - c), offset(tile, c * width))

    return impl
