"""Whether kernels can take a caller's arrays as they are, asked by the kernels of small calls.

Python would take as long to ask as such a kernel takes to run.
"""

from fastce.kernels.codegen.jit import inline
from fastce.kernels.simd.memory import address


@inline
def takes(is_checked, x, out, vector):
    """Tell whether a kernel can take these arrays; True without asking if they ``is_checked``.

    Where ``is_checked`` is None, they are checked as well, and the question is not compiled. It would take a twentieth
    of a kernel's first call.
    ``x`` and ``out`` are (N, C) with contiguous rows, one after the other. ``vector`` is contiguous and has N values.
    No two overlap, unless ``out`` is ``x``. ``out`` and ``vector`` may be None.
    """
    if is_checked is None:  # a condition of its own: Numba prunes no other
        return True
    if is_checked:
        return True
    start, end = _bytes_of_rows(x)
    if end < 0:
        return False
    out_start = out_end = 0
    if out is not None:
        out_start, out_end = _bytes_of_rows(out)
        if out_end < 0 or out.shape[0] != x.shape[0] or out.shape[1] != x.shape[1]:
            return False
        is_same = out_start == start and out.strides[0] == x.strides[0] and out.strides[1] == x.strides[1]
        if not (is_same or out_end <= start or end <= out_start):
            return False
    if vector is not None:
        first, size = address(vector), vector.itemsize
        last = first + vector.size * size
        if vector.size != x.shape[0] or first & (size - 1) or (vector.size > 1 and vector.strides[0] != size):
            return False
        return (last <= start or end <= first) and (last <= out_start or out_end <= first)
    return True


@inline
def _bytes_of_rows(x):
    """Return the addresses of the first row and behind the last one.

    The second is -1 unless the rows are contiguous and aligned, and each ends before the next one.
    """
    count, classes = x.shape
    start, step, size = address(x), x.strides[0], x.itemsize  # a power of two; a mask compiles faster than ``%``
    if count > 1 and (step < classes * size or step & (size - 1)):
        return start, -1
    if start & (size - 1) or (classes > 1 and x.strides[1] != size):
        return start, -1
    return start, start + (count - 1) * step + classes * size
