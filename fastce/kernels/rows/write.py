"""How results are written: in whole aligned values, past the caches where they are large.

A store to a line that no cache holds reads the line first. Streaming whole lines does not, which saves a third of a
large result's traffic. It would cost more for a result that the caches could hold.
"""

from fastce.kernels.codegen.jit import inline
from fastce.kernels.simd.memory import fence, store, store_n, stream, until_aligned
from fastce.kernels.simd.vector import lanes


@inline
def write(q, count, streamed, formula, args):
    """Write ``formula(j, n, *args)``, which gives elements j to j + n, for all ``count``.

    Where ``streamed``, the caller has to call ``stream_fence`` afterwards.
    """
    width = lanes(q)
    head = min(until_aligned(q), count)
    j = 0
    while j < head:
        n = min(width, head - j)
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
    """Write as ``write``, without alignment: for short rows, stores across two lines cost less than a head."""
    width = lanes(q)
    whole = count // width * width
    for j in range(0, whole, width):
        store(q, j, formula(j, width, *args))
    if whole < count:
        store_n(q, whole, count - whole, formula(whole, count - whole, *args))


@inline
def stream_fence(streamed):
    """Order streamed stores before all later stores."""
    if streamed:
        fence()
