"""How rows of results are written: in whole aligned values, past the caches where they are large.

A store to a line that no cache holds reads it first. Streaming whole lines does not, which
saves a third of a large result's traffic; a result that the caches could have held would
cost more this way.
"""

from fastce.kernels.jit import inline
from fastce.kernels.memory import store, store_n, stream, until_aligned
from fastce.kernels.simd import lanes


@inline
def write(q, classes, streamed, formula, args):
    """Write ``formula(j, n, *args)``, which gives classes j to j + n, for all classes.

    Where ``streamed``, the caller has to ``settle`` what was written.
    """
    width = lanes(q)
    j = min(until_aligned(q), classes)
    if j > 0:
        store_n(q, 0, j, formula(0, j, *args))
    while j + 2 * width <= classes:
        a = formula(j, width, *args)
        b = formula(j + width, width, *args)
        if streamed:
            stream(q, j, a)
            stream(q, j + width, b)
        else:
            store(q, j, a)
            store(q, j + width, b)
        j += 2 * width
    while j < classes:
        store_n(q, j, classes - j, formula(j, classes - j, *args))
        j += width
