"""Sums of products over one contiguous row, for the backward pass of softmax."""

from fastce.kernels.codegen.jit import block, inline
from fastce.kernels.rows.long_rows import TERMS, chunk_length
from fastce.kernels.rows.row_formulas import vjp
from fastce.kernels.simd.integer import smaller
from fastce.kernels.simd.memory import load_n, offset, store, store_n
from fastce.kernels.simd.vector import fma, full_like, lanes, reduce_add, widen

SHORT_VALUES = 2 * TERMS  # most values of a row whose products are added in two sums, see `short_dot`


@block
def dot(p, g, classes):
    """Return the sum of p g over the classes in float64, of g where ``p`` is None.

    Long rows are summed in chunks, so that several threads that share a row get the same bits.
    """
    total = 0.0
    length = chunk_length(classes)
    for start in range(0, classes, length):
        total += chunk_dot(offset(p, start), offset(g, start), smaller(length, classes - start))
    return total


@block
def chunk_dot(p, g, classes):
    """Return `dot` of one chunk."""
    return dot_while_writing(p, g, classes, None, None)


@inline
def dot_while_writing(p, g, classes, q, args):
    """Return `chunk_dot`, and write ``vjp(j, n, *args)`` of another row to ``q``, unless that is None.

    So the loads of one row overlap the stores of the other.
    """
    width = lanes(g)
    size = 2 * TERMS * width
    total = widen(full_like(g, 0.0))
    for start in range(0, classes, size):
        stop = smaller(start + size, classes)
        a = b = full_like(g, 0.0)
        j = start
        while j + 2 * width <= stop:
            a = add_product(p, g, j, width, a)
            b = add_product(p, g, j + width, width, b)
            if q is not None:
                store(q, j, vjp(j, width, *args))
                store(q, j + width, vjp(j + width, width, *args))
            j += 2 * width
        while j < stop:
            a = add_product(p, g, j, stop - j, a)
            if q is not None:
                store_n(q, j, stop - j, vjp(j, stop - j, *args))
            j += width
        total = total + widen(a + b)
    return reduce_add(total)


@inline
def add_product(p, g, j, n, total):
    """Add p g of ``n`` classes from j on to ``total``, or g where ``p`` is None."""
    term = load_n(g, j, n, 0.0)
    if p is None:
        return total + term
    return fma(load_n(p, j, n, 0.0), term, total)


@inline
def short_dot(p, g, classes):
    """Return the sum of p g over at most `SHORT_VALUES` values of classes, of g where ``p`` is None."""
    width = lanes(g)
    whole = classes // width * width
    a = b = full_like(g, 0.0)
    for j in range(0, whole - width, 2 * width):
        a = add_product(p, g, j, width, a)
        b = add_product(p, g, j + width, width, b)
    if whole // width % 2:
        a = add_product(p, g, whole - width, width, a)
    if whole < classes:
        b = add_product(p, g, whole, classes - whole, b)
    return reduce_add(a + b)
