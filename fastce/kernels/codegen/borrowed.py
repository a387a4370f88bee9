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

_WORD = types.intp.bitwidth // 8
# Positions in words behind the header of an object, by the ABI of NumPy 2: of an array, and of a dtype.
_HEADER = object.__basicsize__
_DATA, _NDIM, _SHAPE, _STRIDES, _DTYPE = 0, 1, 2, 3, 5
_ITEMSIZE = 3


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
    """Read the fields of an array object; TypeError for another number of dimensions or another size of elements.

    Callers have checked both, but another thread may have changed the array's shape or dtype since.
    """
    builder, word, ndim = c.builder, ir.IntType(8 * _WORD), ir.IntType(32)

    def field(instance, position, llvm_type):
        place = cgutils.pointer_add(builder, instance, _HEADER + position * _WORD, llvm_type.as_pointer())
        return builder.load(place)

    def axes(position):
        pointer = field(obj, position, word.as_pointer())
        return [builder.load(cgutils.gep_inbounds(builder, pointer, axis)) for axis in range(typ.ndim)]

    itemsize = word(typ.dtype.bitwidth // 8)
    has_other_ndim = builder.icmp_signed("!=", field(obj, _NDIM, ndim), ndim(typ.ndim))
    has_other_itemsize = builder.icmp_signed("!=", field(field(obj, _DTYPE, obj.type), _ITEMSIZE, word), itemsize)
    is_wrong = builder.or_(has_other_ndim, has_other_itemsize)
    array = c.context.make_array(typ)(c.context, builder)
    with builder.if_else(is_wrong, likely=False) as (wrong, right):
        with wrong:
            message = f"a kernel takes an array of {typ.dtype} and {typ.ndim} dimensions here"
            c.pyapi.err_set_string("PyExc_TypeError", message)
        with right:
            shape = axes(_SHAPE)
            array.meminfo, array.parent = array.meminfo.type(None), array.parent.type(None)
            array.nitems = functools.reduce(builder.mul, shape)
            array.itemsize = itemsize
            array.data = field(obj, _DATA, array.data.type)
            array.shape = cgutils.pack_array(builder, shape)
            array.strides = cgutils.pack_array(builder, axes(_STRIDES))
    return NativeValue(array._getvalue(), is_error=is_wrong)
