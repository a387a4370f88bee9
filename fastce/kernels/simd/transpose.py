"""Transposition of values: rows of classes to lanes and back, and reductions of whole squares of values.

Where a function takes ``values`` or a ``square``, it is a pointer to scratch memory with one value after the other. A
square has as many values as lanes. ``step`` is the stride of rows in memory, in elements.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.kernels.codegen.target import BYTES, has_avx512
from fastce.kernels.simd.float16 import from_memory, raw_type, to_memory
from fastce.kernels.simd.value import (
    I64,
    Simd,
    alignment,
    join,
    llvm_type,
    mask_of_first,
    masked_store,
    shuffle,
    value_type,
    vector_pointer,
)


def _exchange(builder, a, b, stride):
    """Emit a swap: lanes of ``a`` whose number has the bit ``stride`` with lanes of ``b`` whose number does not."""
    n = a.type.count
    low = [k if not k & stride else n + k - stride for k in range(n)]
    high = [k + stride if not k & stride else n + k for k in range(n)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, high)


def _interleave(builder, a, b, size):
    """Emit alternate lanes of ``a`` and ``b``: those in lower halves of blocks of ``size`` lanes, then the others."""
    n, half = a.type.count, size // 2
    low = [start + k + other for start in range(0, n, size) for k in range(half) for other in (0, n)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, [lane + half for lane in low])


def _transpose(builder, vectors):
    """Emit a transposition of blocks of as many adjacent lanes as there are vectors: log2 stages of shuffles.

    Blocks smaller than a vector are interleaved: within 16 bytes that is one instruction on every processor.
    """
    size = len(vectors)
    if vectors[0].type.count > size:
        for _ in range(size.bit_length() - 1):
            pairs = zip(vectors[: size // 2], vectors[size // 2 :], strict=True)
            vectors = [vector for a, b in pairs for vector in _interleave(builder, a, b, size)]
        return vectors
    vectors = list(vectors)
    stride = size // 2
    while stride:
        for i in range(size):
            if not i & stride:
                vectors[i], vectors[i | stride] = _exchange(builder, vectors[i], vectors[i | stride], stride)
        stride //= 2
    return vectors


def _read(builder, values, simd, count):
    """Emit loads of ``count`` values from scratch memory."""
    starts = [ir.Constant(I64, i * simd.lanes) for i in range(count)]
    return [builder.load(vector_pointer(builder, values, start, llvm_type(simd)), align=BYTES) for start in starts]


def _write(builder, values, i, vector):
    """Emit a store of value number ``i`` to scratch memory."""
    start = ir.Constant(I64, i * vector.type.count)
    builder.store(vector, vector_pointer(builder, values, start, vector.type), align=BYTES)


def _row_pointer(builder, p, step, r, vector):
    """Emit a pointer to a vector in row ``r``."""
    return vector_pointer(builder, p, builder.mul(step, ir.Constant(I64, r)), vector)


@intrinsic
def stores_masked(typingctx, like):
    """Return whether masked stores are as fast as others, for any ``like``; LLVM knows the answer."""

    def codegen(context, builder, sig, args):
        return ir.Constant(ir.IntType(1), has_avx512())

    return types.boolean(like), codegen


@intrinsic(prefer_literal=True)
def load_group(typingctx, p, step, classes, values):
    """Write ``classes`` values to ``values``: lane r of value c is the class c of row r.

    Types: a pointer to floats; ``classes`` is a literal power of two, at most the number of lanes.
    """
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value
    raw = raw_type(Simd(simd.element, size), dtype)

    def codegen(context, builder, sig, args):
        p, step, _, values = args

        def load(r):
            return builder.load(_row_pointer(builder, p, step, r, raw), align=alignment(raw))

        # A vector is filled with rows that are far apart, so that only blocks of lanes remain to be transposed.
        vectors = []
        for k in range(size):
            rows = join(builder, [load(r) for r in range(k, simd.lanes, size)])
            vectors.append(from_memory(builder, rows, dtype))
        for i, column in enumerate(_transpose(builder, vectors)):
            _write(builder, values, i, column)

    return types.void(p, types.intp, classes, values), codegen


@intrinsic(prefer_literal=True)
def store_group(typingctx, p, step, classes, values):
    """Write values back to rows: the inverse of ``load_group``, with the same types."""
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value

    def codegen(context, builder, sig, args):
        p, step, _, values = args
        turned = _transpose(builder, _read(builder, values, simd, size))
        vectors = [to_memory(builder, column, dtype) for column in turned]
        for r in range(simd.lanes):
            vector, start = vectors[r % size], r // size * size
            raw = shuffle(builder, vector, vector, list(range(start, start + size)))
            builder.store(raw, _row_pointer(builder, p, step, r, raw.type), align=alignment(raw.type))

    return types.void(p, types.intp, classes, values), codegen


def _gathered(builder, vectors, places):
    """Emit a vector of any lanes of some vectors, given as ``places``: pairs (vector, lane)."""
    n = len(places)
    result = vectors[0]
    for k in range(1, len(vectors)):  # lanes of later vectors hold anything until their turn
        before = [lane if k == 1 else i for i, (_, lane) in enumerate(places)]
        lanes = [n + lane if v == k else before[i] for i, (v, lane) in enumerate(places)]
        result = shuffle(builder, result, vectors[k], lanes)
    return result


@intrinsic(prefer_literal=True)
def load_packed(typingctx, p, classes, values):
    """Write ``classes`` values to ``values`` as ``load_group`` does, from rows without gaps.

    Types: a pointer to floats; ``classes`` is a small literal, not necessarily a power of two.
    """
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value

    def codegen(context, builder, sig, args):
        p, _, values = args
        raw = raw_type(simd, dtype)
        vectors = []
        for k in range(size):
            at = vector_pointer(builder, p, ir.Constant(I64, k * simd.lanes), raw)
            vectors.append(from_memory(builder, builder.load(at, align=alignment(raw)), dtype))
        for c in range(size):
            column = _gathered(builder, vectors, [divmod(r * size + c, simd.lanes) for r in range(simd.lanes)])
            _write(builder, values, c, column)

    return types.void(p, classes, values), codegen


@intrinsic(prefer_literal=True)
def store_packed(typingctx, p, classes, values):
    """Write values back to rows: the inverse of ``load_packed``, with the same types."""
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value

    def codegen(context, builder, sig, args):
        p, _, values = args
        columns = _read(builder, values, simd, size)
        for k in range(size):
            places = [divmod(k * simd.lanes + i, size)[::-1] for i in range(simd.lanes)]
            raw = to_memory(builder, _gathered(builder, columns, places), dtype)
            at = vector_pointer(builder, p, ir.Constant(I64, k * simd.lanes), raw.type)
            builder.store(raw, at, align=alignment(raw.type))

    return types.void(p, classes, values), codegen


@intrinsic
def store_square(typingctx, p, step, classes, square):
    """Write the first ``classes`` values of a square to rows: class c of row r is lane r of value c.

    Types: a pointer to floats.
    Range: ``classes`` is at most the number of lanes.
    """
    simd, dtype = value_type(p), p.dtype

    def codegen(context, builder, sig, args):
        p, step, classes, square = args
        mask = mask_of_first(builder, classes, simd)
        for r, column in enumerate(_transpose(builder, _read(builder, square, simd, simd.lanes))):
            raw = to_memory(builder, column, dtype)
            masked_store(builder, raw, _row_pointer(builder, p, step, r, raw.type), mask)

    return types.void(p, types.intp, types.intp, square), codegen


def _row_reduction(square, combine):
    """Return the signature and the code generator of a reduction of each value of a square to one lane.

    It is the tree of `vector.reduce_add` for all values at once. Each stage has half as many vectors as the last one.
    """
    simd = value_type(square)

    def codegen(context, builder, sig, args):
        vectors = _read(builder, args[0], simd, simd.lanes)
        stride = simd.lanes // 2
        while stride:
            pairs = [_exchange(builder, vectors[i], vectors[i + stride], stride) for i in range(stride)]
            vectors = [combine(builder, low, high) for low, high in pairs]
            stride //= 2
        return vectors[0]

    return simd(square), codegen


@intrinsic
def sum_rows(typingctx, square):
    """Return in lane r the sum of the lanes of value r, with the bits of `vector.reduce_add`.

    Types: a square of floats.
    Error: one rounding a level of the tree.
    """
    return _row_reduction(square, lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def max_rows(typingctx, square):
    """Return in lane r the greatest lane of value r.

    Types: a square of floats.
    Range: no NaN.
    """
    return _row_reduction(square, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
