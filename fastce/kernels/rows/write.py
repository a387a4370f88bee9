"""How results are written: in whole aligned values, past the caches where they are large.

A store to a line that no cache holds reads the line first. Streaming whole lines does not, which saves a third of a
large result's traffic. It would cost more for a result that the caches could hold.
"""

from fastce.kernels.codegen.jit import inline
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import fence, store, store_n, stream, until_aligned
from fastce.kernels.simd.vector import lanes

UNALIGNED_VALUES = 16  # most values of a row that is written from its first class on, instead of from a cache line on


@inline
def write(q, count, streamed, formula, args):
    """Write ``formula(j, n, *args)``, which gives elements j to j + n, for all ``count``.

    Where ``streamed``, the caller has to call ``stream_fence`` afterwards.
    """
    width = lanes(q)
    head = smaller(until_aligned(q), count)
    j = 0
    while j < head:
        n = smaller(width, head - j)
        store_n(q, j, n, formula(j, n, *args))
        j += n
    while j + 2 * width <= count:
        a = formula(j, width, *args)
        b = formula(j + width, width, *args)
        if streamed:
            stream(q, j, a, b)
        else:
            store(q, j, a)
            store(q, j + width, b)
        j += 2 * width
    while j < count:
        store_n(q, j, count - j, formula(j, count - j, *args))
        j += width


@inline
def write_short(q, count, formula, args):
    """Write as ``write``, without alignment: for short rows, stores across two lines cost less than a head.

    The last value overlaps the one before it, so that no store is masked. It is computed first, as ``q`` may be what
    the formula reads.
    """
    width = lanes(q)
    if count < width:
        store_n(q, 0, count, formula(0, count, *args))
    else:
        last = formula(count - width, width, *args)
        for j in range(0, count - width, width):
            store(q, j, formula(j, width, *args))
        store(q, count - width, last)


@inline
def write_cached(q, count, formula, args):
    """Write as ``write`` or ``write_short``, whichever takes less time, where lines of ``q`` are in the caches."""
    if count <= UNALIGNED_VALUES * lanes(q):
        write_short(q, count, formula, args)
    else:
        write(q, count, False, formula, args)


@inline
def stream_fence(streamed):
    """Order streamed stores before all later stores."""
    if streamed:
        fence()
