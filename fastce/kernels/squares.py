"""Across values: rows of classes to lanes and back, and reductions of as many values as a value has lanes."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.kernels.memory import alignment, from_memory, masked_load, masked_store, place, raw_type, to_memory
from fastce.kernels.simd import BYTES, I64, Simd, first, llvm_type, shuffle, value_type

QUARTERS = 4


def _exchange(builder, a, b, stride):
    """Swap the lanes of ``a`` that have the bit ``stride`` for those of ``b`` that have not."""
    n = a.type.count
    low = [k if not k & stride else n + k - stride for k in range(n)]
    high = [k + stride if not k & stride else n + k for k in range(n)]
    return shuffle(builder, a, b, low), shuffle(builder, a, b, high)


def _transpose(builder, vectors):
    """Transpose the squares of adjacent lanes, as wide as there are vectors: log2 stages of two-input shuffles."""
    vectors = list(vectors)
    stride = len(vectors) // 2
    while stride:
        for i in range(len(vectors)):
            if not i & stride:
                vectors[i], vectors[i | stride] = _exchange(builder, vectors[i], vectors[i | stride], stride)
        stride //= 2
    return vectors


def _read(builder, values, simd, count):
    """Return ``count`` values of scratch memory."""
    places = [place(builder, values, ir.Constant(I64, i * simd.lanes), llvm_type(simd)) for i in range(count)]
    return [builder.load(at, align=BYTES) for at in places]


def _store_some(builder, raw, pointer, r, rows, classes, simd):
    """Write the first ``classes`` lanes of row ``r``, if there is such a row."""
    wanted = builder.icmp_signed("<", ir.Constant(I64, r), rows)
    count = builder.select(wanted, classes, ir.Constant(I64, 0))
    masked_store(builder, raw, pointer, first(builder, count, simd))


def _group(simd):
    """Return the type of the classes of a row that fill a quarter of a value."""
    return Simd(simd.element, simd.lanes // QUARTERS)


@intrinsic
def group(typingctx, p):
    """Return how many classes are transposed together: a quarter of a value, 16 bytes."""
    count = _group(value_type(p)).lanes
    return types.intp(p), lambda context, builder, sig, args: ir.Constant(I64, count)


@intrinsic
def load_group(typingctx, p, step, rows, classes, values):
    """Transpose a ``group`` of classes, or the first few of one, of ``rows`` rows ``step`` elements apart.

    Row r becomes lane r of the values, one a class. Lanes past ``rows`` repeat the last row;
    classes past ``classes`` are unspecified.
    """
    simd, dtype = value_type(p), p.dtype
    part = _group(simd)
    raw = raw_type(part, dtype)

    def codegen(context, builder, sig, args):
        p, step, rows, classes, values = args

        def transpose_with(load):
            # a quarter of the rows fills each quarter of the lanes, so that what is left to do stays within them
            vectors = []
            for k in range(part.lanes):
                quarters = [load(g * part.lanes + k) for g in range(QUARTERS)]
                while len(quarters) > 1:
                    pairs = zip(quarters[::2], quarters[1::2], strict=True)
                    quarters = [shuffle(builder, a, b, list(range(2 * a.type.count))) for a, b in pairs]
                vectors.append(from_memory(builder, quarters[0], dtype))
            for i, column in enumerate(_transpose(builder, vectors)):
                at = place(builder, values, ir.Constant(I64, i * simd.lanes), column.type)
                builder.store(column, at, align=BYTES)

        def whole(r):
            return builder.load(place(builder, p, builder.mul(step, ir.Constant(I64, r)), raw), align=alignment(raw))

        def masked(r):
            index = ir.Constant(I64, r)
            index = builder.select(builder.icmp_signed("<", index, rows), index, last)
            pointer = place(builder, p, builder.mul(step, index), raw)
            return masked_load(builder, pointer, mask, ir.Constant(raw, ir.Undefined))

        with builder.if_else(_is_whole(builder, rows, classes, simd, part), likely=True) as (then, otherwise):
            with then:
                transpose_with(whole)
            with otherwise:
                mask = first(builder, classes, part)
                last = builder.sub(rows, ir.Constant(I64, 1))
                transpose_with(masked)

    return types.void(p, types.intp, types.intp, types.intp, values), codegen


@intrinsic
def store_group(typingctx, p, step, rows, classes, values):
    """Transpose values back into memory: the inverse of ``load_group``."""
    simd, dtype = value_type(p), p.dtype
    part = _group(simd)

    def codegen(context, builder, sig, args):
        p, step, rows, classes, values = args
        turned = _transpose(builder, _read(builder, values, simd, part.lanes))
        vectors = [to_memory(builder, column, dtype) for column in turned]

        def each_row(store):
            for r in range(simd.lanes):
                vector, g = vectors[r % part.lanes], r // part.lanes
                raw = shuffle(builder, vector, vector, list(range(g * part.lanes, (g + 1) * part.lanes)))
                store(r, raw, place(builder, p, builder.mul(step, ir.Constant(I64, r)), raw.type))

        def whole(r, raw, pointer):
            builder.store(raw, pointer, align=alignment(raw.type))

        def masked(r, raw, pointer):
            _store_some(builder, raw, pointer, r, rows, classes, part)

        with builder.if_else(_is_whole(builder, rows, classes, simd, part), likely=True) as (then, otherwise):
            with then:
                each_row(whole)
            with otherwise:
                each_row(masked)

    return types.void(p, types.intp, types.intp, types.intp, values), codegen


def _is_whole(builder, rows, classes, simd, part):
    """Tell whether a group needs no masks."""
    all_rows = builder.icmp_signed(">=", rows, ir.Constant(I64, simd.lanes))
    return builder.and_(all_rows, builder.icmp_signed(">=", classes, ir.Constant(I64, part.lanes)))


@intrinsic
def store_square(typingctx, p, step, rows, classes, square):
    """Transpose as many values as they have lanes into memory: as ``store_group``, with one store a row."""
    simd, dtype = value_type(p), p.dtype

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        for r, column in enumerate(_transpose(builder, _read(builder, square, simd, simd.lanes))):
            raw = to_memory(builder, column, dtype)
            pointer = place(builder, p, builder.mul(step, ir.Constant(I64, r)), raw.type)
            _store_some(builder, raw, pointer, r, rows, classes, simd)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


def _row_reduction(square, combine):
    """Return the signature and code of a reduction of each row of a square to one lane.

    The tree of `simd.reduce_add`, for all rows at once and with each stage half as wide as the one before.
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
