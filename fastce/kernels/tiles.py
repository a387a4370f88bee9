"""Where the samples of one lane block lie: side by side in memory, or to be transposed.

Kernels that keep samples in the lanes see ``x`` in one of two shapes:

- (outer, C, inner), inner contiguous: neighbouring samples are neighbours in memory. A block
  is a panel of up to ``panel`` values of them, read and written in place.
- (N, C) with contiguous rows of at most ``MAX_CLASSES`` classes: a row would fill few
  lanes, so a *tile* of 16 rows (8 of float64) is turned on its side in registers and lies,
  class after class, in scratch memory; results are turned back.

``fetch`` and ``place`` say where class 0 of a block lies, how far the next class is and how
many samples to compute; ``put`` brings a result home. Single elements are reached from
``origin`` by ``class_step`` and ``sample_step``. Each has one implementation a shape.
"""

from numba.extending import overload

from fastce.kernels.columns import BLOCK
from fastce.kernels.memory import load_square, offset, row, store_square
from fastce.kernels.simd import lanes

MAX_CLASSES = 2 * BLOCK  # then a tile is laid out as the buffer of ``columns.stats``


def _implements(stub):
    return overload(stub, jit_options={"forceinline": True, "error_model": "numpy"})


def block_count(x, panel):
    """Return how many blocks cover all samples of ``x``."""


@_implements(block_count)
def _block_count(x, panel):
    if x.ndim == 3:

        def impl(x, panel):
            return x.shape[0] * -(-x.shape[2] // (panel * lanes(x)))
    else:

        def impl(x, panel):
            return -(-x.shape[0] // lanes(x))

    return impl


def block_range(x, b, panel):
    """Return (the first sample of block ``b``, the number of its samples)."""


@_implements(block_range)
def _block_range(x, b, panel):
    if x.ndim == 3:

        def impl(x, b, panel):
            inner = x.shape[2]
            across = -(-inner // (panel * lanes(x)))
            i = (b % across) * (panel * lanes(x))
            return (b // across) * inner + i, min(panel * lanes(x), inner - i)
    else:

        def impl(x, b, panel):
            start = b * lanes(x)
            return start, min(lanes(x), x.shape[0] - start)

    return impl


def origin(x, start):
    """Return a pointer to class 0 of sample ``start``."""


@_implements(origin)
def _origin(x, start):
    if x.ndim == 3:

        def impl(x, start):
            return offset(row(x, start // x.shape[2]), start % x.shape[2])
    else:

        def impl(x, start):
            return row(x, start)

    return impl


def class_step(x):
    """Return how many elements it is from class to class."""


@_implements(class_step)
def _class_step(x):
    if x.ndim == 3:

        def impl(x):
            return x.strides[1] // x.itemsize
    else:

        def impl(x):
            return 1

    return impl


def sample_step(x):
    """Return how many elements it is from sample to sample within a block."""


@_implements(sample_step)
def _sample_step(x):
    if x.ndim == 3:

        def impl(x):
            return 1
    else:

        def impl(x):
            return x.strides[0] // x.itemsize

    return impl


def place(x, start, n, tile):
    """Return (pointer, step, samples) for writing a block; follow with ``put``."""


@_implements(place)
def _place(x, start, n, tile):
    if x.ndim == 3:

        def impl(x, start, n, tile):
            return origin(x, start), class_step(x), n
    else:

        def impl(x, start, n, tile):
            return tile, lanes(x), lanes(x)

    return impl


def fetch(x, start, n, tile):
    """Return (pointer, step, samples) for reading a block."""


@_implements(fetch)
def _fetch(x, start, n, tile):
    if x.ndim == 3:

        def impl(x, start, n, tile):
            return place(x, start, n, tile)
    else:

        def impl(x, start, n, tile):
            width = lanes(x)
            for c in range(0, x.shape[1], width):
                p = offset(row(x, start), c)
                load_square(p, sample_step(x), n, min(width, x.shape[1] - c), offset(tile, c * width))
            return place(x, start, n, tile)

    return impl


def put(x, start, n, tile):
    """Bring a block home after it was written where ``place`` said."""


@_implements(put)
def _put(x, start, n, tile):
    if x.ndim == 3:

        def impl(x, start, n, tile):
            return
    else:

        def impl(x, start, n, tile):
            width = lanes(x)
            for c in range(0, x.shape[1], width):
                p = offset(row(x, start), c)
                store_square(p, sample_step(x), n, min(width, x.shape[1] - c), offset(tile, c * width))

    return impl
