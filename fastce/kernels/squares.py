"""Squares: as many values as a value has lanes, one after the other in scratch memory.

They are transposed on the way from and to memory, and reduced a lane a row.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.kernels.memory import from_memory, masked_load, masked_store, place, raw_type, to_memory
from fastce.kernels.simd import BYTES, I64, first, llvm_type, shuffle, value_type


def _exchange(builder, a, b, stride):
    """Swap the lanes of ``a`` that have the bit ``stride`` for those of ``b`` that have not."""
    n = a.type.count
    low = [k if not k & stride else n + k - stride for k in range(n)]
    high = [k + stride if not k & stride else n + k for k in range(n)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, high)


def _transpose(builder, vectors):
    """Transpose a square of vectors: log2(lanes) stages of two-input shuffles."""
    vectors = list(vectors)
    n = len(vectors)
    stride = n // 2
    while stride:
        for i in range(n):
            if not i & stride:
                vectors[i], vectors[i | stride] = _exchange(builder, vectors[i], vectors[i | stride], stride)
        stride //= 2
    return vectors


@intrinsic
def load_square(typingctx, p, step, rows, classes, square):
    """Transpose ``rows`` rows, ``step`` elements apart, ``classes`` of each, into ``square``.

    Row r becomes lane r. Lanes past ``rows`` repeat the last row; classes past ``classes``
    are unspecified.
    """
    simd, dtype = value_type(p), p.dtype

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        mask = first(builder, classes, simd)
        last = builder.sub(rows, ir.Constant(I64, 1))
        vector = raw_type(simd, dtype)
        undefined = ir.Constant(vector, ir.Undefined)
        vectors = []
        for i in range(simd.lanes):
            index = ir.Constant(I64, i)
            index = builder.select(builder.icmp_signed("<", index, rows), index, last)
            pointer = place(builder, p, builder.mul(step, index), vector)
            vectors.append(from_memory(builder, masked_load(builder, pointer, mask, undefined), dtype))
        for i, column in enumerate(_transpose(builder, vectors)):
            builder.store(column, place(builder, square, ir.Constant(I64, i * simd.lanes), column.type), align=BYTES)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


@intrinsic
def store_square(typingctx, p, step, rows, classes, square):
    """Transpose ``square`` back into memory: the inverse of ``load_square``."""
    simd, dtype = value_type(p), p.dtype

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        vectors = []
        for i in range(simd.lanes):
            at = place(builder, square, ir.Constant(I64, i * simd.lanes), llvm_type(simd))
            vectors.append(builder.load(at, align=BYTES))
        for i, column in enumerate(_transpose(builder, vectors)):
            index = ir.Constant(I64, i)
            wanted = builder.icmp_signed("<", index, rows)
            count = builder.select(wanted, classes, ir.Constant(I64, 0))
            raw = to_memory(builder, column, dtype)
            pointer = place(builder, p, builder.mul(step, index), raw.type)
            masked_store(builder, raw, pointer, first(builder, count, simd))

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


def _row_reduction(square, combine):
    """Return the signature and code of a reduction of each row of a square to one lane.

    The tree of `simd.reduce_add`, for all rows at once and with each stage half as wide as the one before.
    """
    simd = value_type(square)

    def codegen(context, builder, sig, args):
        vectors = []
        for i in range(simd.lanes):
            at = place(builder, args[0], ir.Constant(I64, i * simd.lanes), llvm_type(simd))
            vectors.append(builder.load(at, align=BYTES))
        stride = simd.lanes // 2
        while stride:
            pairs = [_exchange(builder, vectors[i], vectors[i + stride], stride) for i in range(stride)]
            vectors = [combine(builder, low, high) for low, high in pairs]
            stride //= 2
        return vectors[0]

    return simd(square), codegen


@intrinsic
def sum_rows(typingctx, square):
    """Return in lane r the sum of the square's value r."""
    return _row_reduction(square, lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def max_rows(typingctx, square):
    """Return in lane r the greatest lane of the square's value r; none may be NaN."""
    return _row_reduction(square, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
