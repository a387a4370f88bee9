"""Whether kernels can take a caller's arrays as they are, asked by the kernels of small calls.

Python would take as long to ask as such a kernel takes to run.
"""

from fastce.kernels.codegen.jit import inline
from fastce.kernels.simd.memory import address


@inline
def takes(is_checked, x, out, vector):
    """Tell whether a kernel can take these arrays; True without asking if they ``is_checked``.

    ``x`` and ``out`` are (N, C) with contiguous rows, one after the other. ``vector`` is contiguous and has N values.
    No two overlap, unless ``out`` is ``x``. ``out`` and ``vector`` may be None.
    """
    return is_checked or (_has_rows(x) and _takes_out(x, out) and _takes_vector(x, out, vector))


@inline
def _has_rows(x):
    """Tell whether the rows of ``x`` are contiguous and aligned, and each ends before the next one."""
    count, classes = x.shape
    step, size = x.strides[0], x.itemsize
    if count > 1 and (step < classes * size or step % size != 0):
        return False
    return address(x) % size == 0 and (classes == 1 or x.strides[1] == size)


@inline
def _takes_out(x, out):
    """Tell whether ``out`` is None or fits ``x`` and, unless it is ``x``, has none of its memory."""
    if out is None:
        return True
    if out.shape != x.shape or not _has_rows(out):
        return False
    is_same = address(out) == address(x) and out.strides == x.strides
    return is_same or _are_apart(address(x), _end_of_rows(x), address(out), _end_of_rows(out))


@inline
def _takes_vector(x, out, vector):
    """Tell whether ``vector`` is None or fits ``x`` and has no memory of ``x`` or ``out``."""
    if vector is None:
        return True
    size = vector.itemsize
    start, end = address(vector), address(vector) + vector.size * size
    if vector.size != x.shape[0] or start % size != 0 or (vector.size > 1 and vector.strides[0] != size):
        return False
    return _are_apart(start, end, address(x), _end_of_rows(x)) and _is_apart_from_out(start, end, out)


@inline
def _is_apart_from_out(start, end, out):
    """Tell whether ``out`` is None or lies outside these bytes."""
    if out is None:
        return True
    return _are_apart(start, end, address(out), _end_of_rows(out))


@inline
def _end_of_rows(x):
    """Return the address behind the last row."""
    return address(x) + (x.shape[0] - 1) * x.strides[0] + x.shape[1] * x.itemsize


@inline
def _are_apart(start, end, other_start, other_end):
    """Tell whether two ranges of bytes have none in common."""
    return end <= other_start or other_end <= start
