"""The arrays of kernels in Numba's type system: borrowed from the caller for the length of a call.

Numba's own type makes compiled code a co-owner of each array that it gets: it allocates a record of the ownership, and
frees it with the interpreter's lock held. That takes a tenth of a small call. Kernels return no array and keep none,
and Python's caller holds all arguments until they return.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import NativeValue, models, register_model, unbox

# Of NumPy's stable ABI: behind the header of an object are the data, the number of dimensions, shape and strides.
_HEADER = object.__basicsize__
_WORD = types.intp.bitwidth // 8


class BorrowedArray(types.Array):
    """An array of a kernel's caller, in any layout."""

    def __init__(self, dtype: types.Type, ndim: int) -> None:
        super().__init__(dtype, ndim, "A", name=f"borrowed({dtype}, {ndim}d)")

    def __reduce__(self):  # type: ignore[no-untyped-def]
        """Pickle for the cache of kernels."""
        return BorrowedArray, (self.dtype, self.ndim)


register_model(BorrowedArray)(models.ArrayModel)


@unbox(BorrowedArray)
def _borrow(typ, obj, c):
    """Read the fields of an array object; TypeError for another number of dimensions."""
    builder, word = c.builder, ir.IntType(8 * _WORD)

    def field(position, llvm_type):
        place = cgutils.pointer_add(builder, obj, _HEADER + position * _WORD, llvm_type.as_pointer())
        return builder.load(place)

    def axes(pointer):
        return [builder.load(cgutils.gep_inbounds(builder, pointer, axis)) for axis in range(typ.ndim)]

    array = c.context.make_array(typ)(c.context, builder)
    ndim = field(1, ir.IntType(32))
    is_wrong = builder.icmp_signed("!=", ndim, ndim.type(typ.ndim))
    with builder.if_else(is_wrong, likely=False) as (wrong, right):
        with wrong:
            c.pyapi.err_set_string("PyExc_TypeError", f"a kernel takes an array of {typ.ndim} dimensions here")
        with right:
            shape = axes(field(2, word.as_pointer()))
            array.meminfo, array.parent = array.meminfo.type(None), array.parent.type(None)
            array.nitems = functools.reduce(builder.mul, shape)
            array.itemsize = word(typ.dtype.bitwidth // 8)
            array.data = field(0, array.data.type)
            array.shape = cgutils.pack_array(builder, shape)
            array.strides = cgutils.pack_array(builder, axes(field(3, word.as_pointer())))
    return NativeValue(array._getvalue(), is_error=is_wrong)
