"""Across values: rows of classes to lanes and back, and reductions of as many values as a value has lanes."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.kernels.codegen.target import BYTES, has_avx512
from fastce.kernels.simd.float16 import from_memory, raw_type, to_memory
from fastce.kernels.simd.memory import alignment, masked_store, place
from fastce.kernels.simd.vector import I64, Simd, first, join, llvm_type, shuffle, value_type


def _exchange(builder, a, b, stride):
    """Swap the lanes of ``a`` that have the bit ``stride`` for those of ``b`` that have not."""
    n = a.type.count
    low = [k if not k & stride else n + k - stride for k in range(n)]
    high = [k + stride if not k & stride else n + k for k in range(n)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, high)


def _interleave(builder, a, b, size):
    """Return the lower halves of blocks of ``size`` lanes, taken from ``a`` and ``b`` in turn, and the upper halves."""
    n, half = a.type.count, size // 2
    low = [start + k + other for start in range(0, n, size) for k in range(half) for other in (0, n)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, [lane + half for lane in low])


def _transpose(builder, vectors):
    """Transpose the squares of adjacent lanes, as wide as there are vectors: log2 stages of two-input shuffles.

    Within 16 bytes an interleaving is one instruction everywhere, which exchanges are not.
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
    """Return ``count`` values of scratch memory."""
    places = [place(builder, values, ir.Constant(I64, i * simd.lanes), llvm_type(simd)) for i in range(count)]
    return [builder.load(at, align=BYTES) for at in places]


@intrinsic
def stores_masked(typingctx, like):
    """Return whether the machine stores under a mask as fast as without one."""

    def codegen(context, builder, sig, args):
        return ir.Constant(ir.IntType(1), has_avx512())

    return types.boolean(like), codegen


@intrinsic(prefer_literal=True)
def load_group(typingctx, p, step, classes, values):
    """Transpose a power of two of classes of as many rows as a value has lanes, ``step`` elements apart.

    Row r becomes lane r of the values, one a class.
    """
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value
    raw = raw_type(Simd(simd.element, size), dtype)

    def codegen(context, builder, sig, args):
        p, step, _, values = args

        def load(r):
            return builder.load(place(builder, p, builder.mul(step, ir.Constant(I64, r)), raw), align=alignment(raw))

        # rows far apart fill a vector, so that what is left to do stays within blocks of lanes
        vectors = []
        for k in range(size):
            rows = join(builder, [load(r) for r in range(k, simd.lanes, size)])
            vectors.append(from_memory(builder, rows, dtype))
        for i, column in enumerate(_transpose(builder, vectors)):
            at = place(builder, values, ir.Constant(I64, i * simd.lanes), column.type)
            builder.store(column, at, align=BYTES)

    return types.void(p, types.intp, classes, values), codegen


@intrinsic(prefer_literal=True)
def store_group(typingctx, p, step, classes, values):
    """Transpose values back into memory: the inverse of ``load_group``."""
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value

    def codegen(context, builder, sig, args):
        p, step, _, values = args
        turned = _transpose(builder, _read(builder, values, simd, size))
        vectors = [to_memory(builder, column, dtype) for column in turned]
        for r in range(simd.lanes):
            vector, start = vectors[r % size], r // size * size
            raw = shuffle(builder, vector, vector, list(range(start, start + size)))
            builder.store(
                raw, place(builder, p, builder.mul(step, ir.Constant(I64, r)), raw.type), align=alignment(raw.type)
            )

    return types.void(p, types.intp, classes, values), codegen


def _gathered(builder, vectors, places):
    """Return a vector of lanes from anywhere: ``places`` are (vector, lane)."""
    n = len(places)
    result = vectors[0]
    for k in range(1, len(vectors)):  # lanes of what comes later are open still
        before = [lane if k == 1 else i for i, (_, lane) in enumerate(places)]
        lanes = [n + lane if v == k else before[i] for i, (v, lane) in enumerate(places)]
        result = shuffle(builder, result, vectors[k], lanes)
    return result


@intrinsic(prefer_literal=True)
def load_packed(typingctx, p, classes, values):
    """Transpose rows of so few classes that lie one behind the other into values, one a class."""
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value

    def codegen(context, builder, sig, args):
        p, _, values = args
        raw = raw_type(simd, dtype)
        vectors = []
        for k in range(size):
            at = place(builder, p, ir.Constant(I64, k * simd.lanes), raw)
            vectors.append(from_memory(builder, builder.load(at, align=alignment(raw)), dtype))
        for c in range(size):
            column = _gathered(builder, vectors, [divmod(r * size + c, simd.lanes) for r in range(simd.lanes)])
            builder.store(column, place(builder, values, ir.Constant(I64, c * simd.lanes), column.type), align=BYTES)

    return types.void(p, classes, values), codegen


@intrinsic(prefer_literal=True)
def store_packed(typingctx, p, classes, values):
    """Transpose values back into memory: the inverse of ``load_packed``."""
    simd, dtype, size = value_type(p), p.dtype, classes.literal_value

    def codegen(context, builder, sig, args):
        p, _, values = args
        columns = _read(builder, values, simd, size)
        for k in range(size):
            places = [divmod(k * simd.lanes + i, size)[::-1] for i in range(simd.lanes)]
            raw = to_memory(builder, _gathered(builder, columns, places), dtype)
            at = place(builder, p, ir.Constant(I64, k * simd.lanes), raw.type)
            builder.store(raw, at, align=alignment(raw.type))

    return types.void(p, classes, values), codegen


@intrinsic
def store_square(typingctx, p, step, classes, square):
    """Transpose as many values as they have lanes into memory; of each row, write the first ``classes`` lanes."""
    simd, dtype = value_type(p), p.dtype

    def codegen(context, builder, sig, args):
        p, step, classes, square = args
        mask = first(builder, classes, simd)
        for r, column in enumerate(_transpose(builder, _read(builder, square, simd, simd.lanes))):
            raw = to_memory(builder, column, dtype)
            pointer = place(builder, p, builder.mul(step, ir.Constant(I64, r)), raw.type)
            masked_store(builder, raw, pointer, mask)

    return types.void(p, types.intp, types.intp, square), codegen


def _row_reduction(square, combine):
    """Return the signature and code of a reduction of each row of a square to one lane.

    The tree of `vector.reduce_add`, for all rows at once and with each stage half as wide as the one before.
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
    """Return in lane r the sum of the square's value r."""
    return _row_reduction(square, lambda builder, a, b: builder.fadd(a, b))


@intrinsic
def max_rows(typingctx, square):
    """Return in lane r the greatest lane of the square's value r; none may be NaN."""
    return _row_reduction(square, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
