"""Memory for SIMD values: typed pointers, masked loads and stores, scratch, transposition.

``row(x, i)`` points at ``x[i, ...]``, ``offset(p, k)`` moves by ``k`` elements. Nothing is
bounds-checked. The ``_n`` forms touch the first ``n`` lanes only; memory behind the other
lanes is neither read nor written.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastce.kernels.simd import BYTES, I32, I64, IR, Simd, call, first, llvm_type, meet, shuffle, value_type


@intrinsic
def row(typingctx, x, i):
    """Return a pointer to the first element of ``x[i]``."""

    def codegen(context, builder, sig, args):
        array = context.make_array(x)(context, builder, args[0])
        step = builder.extract_value(array.strides, 0)
        return cgutils.pointer_add(builder, array.data, builder.mul(args[1], step), array.data.type)

    return types.CPointer(x.dtype)(x, types.intp), codegen


@intrinsic
def offset(typingctx, p, k):
    """Return the pointer ``k`` elements further on."""

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return p(p, types.intp), codegen


@intrinsic(prefer_literal=True)
def scratch(typingctx, like, values):
    """Reserve uninitialised stack memory for a literal number of values.

    It lives until the function that asked for it returns.
    """
    simd = value_type(like)
    if not isinstance(values, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        size = ir.Constant(I64, values.literal_value)
        memory = cgutils.alloca_once(builder, llvm_type(simd), size=size)
        return builder.bitcast(memory, IR[simd.element].as_pointer())

    return types.CPointer(simd.element)(like, values), codegen


def _vector_at(builder, p, k, vector):
    return builder.bitcast(builder.gep(p, [k]), vector.as_pointer())


def _masked_load(builder, pointer, mask, fill, simd):
    name = f"llvm.masked.load.{simd.suffix}.p0"
    align = ir.Constant(I32, simd.element.bitwidth // 8)
    return call(builder, name, llvm_type(simd), [pointer, align, mask, fill])


def _masked_store(builder, value, pointer, mask, simd):
    name = f"llvm.masked.store.{simd.suffix}.p0"
    align = ir.Constant(I32, simd.element.bitwidth // 8)
    call(builder, name, ir.VoidType(), [value, pointer, align, mask])


@intrinsic
def load(typingctx, p, k):
    """Return the value that starts ``k`` elements after ``p``."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], llvm_type(simd))
        return builder.load(pointer, align=simd.element.bitwidth // 8)

    return simd(p, types.intp), codegen


@intrinsic
def load_one(typingctx, p, k):
    """Return the element ``k`` after ``p``."""

    def codegen(context, builder, sig, args):
        return builder.load(builder.gep(args[0], [args[1]]))

    return p.dtype(p, types.intp), codegen


@intrinsic
def store_one(typingctx, p, k, scalar):
    """Write one element ``k`` after ``p``.

    Not ``p[k] = scalar``: the parallel pass drops assignments to what it takes for a local.
    """

    def codegen(context, builder, sig, args):
        builder.store(args[2], builder.gep(args[0], [args[1]]))

    return types.void(p, types.intp, p.dtype), codegen


@intrinsic
def load_as(typingctx, p, k, like):
    """Return the value that starts ``k`` elements after ``p``, with as many lanes as ``like``."""
    simd = Simd(p.dtype, like.lanes)

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], llvm_type(simd))
        return builder.load(pointer, align=simd.element.bitwidth // 8)

    return simd(p, types.intp, like), codegen


@intrinsic
def load_n(typingctx, p, k, n, fill):
    """Load the first ``n`` lanes and put ``fill`` into the others."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], llvm_type(simd))
        rest = meet(context, builder, args[3], fill, simd)
        return _masked_load(builder, pointer, first(builder, args[2], simd), rest, simd)

    return simd(p, types.intp, types.intp, fill), codegen


@intrinsic
def store(typingctx, p, k, value):
    """Write a value that starts ``k`` elements after ``p``."""

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], args[2].type)
        builder.store(args[2], pointer, align=value.element.bitwidth // 8)

    return types.void(p, types.intp, value), codegen


@intrinsic
def store_n(typingctx, p, k, n, value):
    """Write the first ``n`` lanes of a value."""

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], args[3].type)
        _masked_store(builder, args[3], pointer, first(builder, args[2], value), value)

    return types.void(p, types.intp, types.intp, value), codegen


@intrinsic
def load_labels(typingctx, p, n, fill, like):
    """Load ``n`` int64 labels for the lanes of ``like``; ``fill`` in the other lanes."""
    simd = Simd(types.int64, value_type(like).lanes)

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(args[0], llvm_type(simd).as_pointer())
        rest = meet(context, builder, args[2], fill, simd)
        return _masked_load(builder, pointer, first(builder, args[1], simd), rest, simd)

    return simd(p, types.intp, fill, like), codegen


@intrinsic
def narrow_labels(typingctx, labels, like):
    """Convert int64 labels to integers of the width of ``like``, for cheap comparisons."""
    simd = value_type(like).integer

    def codegen(context, builder, sig, args):
        return args[0] if simd == labels else builder.trunc(args[0], llvm_type(simd))

    return simd(labels, like), codegen


@intrinsic
def gather(typingctx, p, indices):
    """Load ``p[index]`` lane by lane; every index must be readable."""
    simd = Simd(p.dtype, indices.lanes)

    def codegen(context, builder, sig, args):
        value = ir.Constant(llvm_type(simd), ir.Undefined)
        for i in range(simd.lanes):
            lane = ir.Constant(I32, i)
            pointer = builder.gep(args[0], [builder.extract_element(args[1], lane)])
            value = builder.insert_element(value, builder.load(pointer), lane)
        return value

    return simd(p, indices), codegen


# --- transposition -----------------------------------------------------------


def _transpose(builder, vectors):
    """Transpose a square of vectors: log2(lanes) stages of two-input shuffles."""
    vectors = list(vectors)
    n = len(vectors)
    stride = n // 2
    while stride:
        for i in range(n):
            if not i & stride:
                a, b = vectors[i], vectors[i | stride]
                low = [k if not k & stride else n + k - stride for k in range(n)]
                high = [k + stride if not k & stride else n + k for k in range(n)]
                vectors[i] = shuffle(builder, a, b, low)
                vectors[i | stride] = shuffle(builder, a, b, high)
        stride //= 2
    return vectors


@intrinsic
def load_square(typingctx, p, step, rows, classes, square):
    """Transpose ``rows`` rows, ``step`` elements apart, ``classes`` of each, into ``square``.

    Row r becomes lane r. Lanes past ``rows`` repeat the last row; classes past ``classes``
    are unspecified.
    """
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        mask = first(builder, classes, simd)
        last = builder.sub(rows, ir.Constant(I64, 1))
        undefined = ir.Constant(llvm_type(simd), ir.Undefined)
        vectors = []
        for i in range(simd.lanes):
            index = ir.Constant(I64, i)
            index = builder.select(builder.icmp_signed("<", index, rows), index, last)
            pointer = builder.gep(p, [builder.mul(step, index)])
            pointer = builder.bitcast(pointer, llvm_type(simd).as_pointer())
            vectors.append(_masked_load(builder, pointer, mask, undefined, simd))
        for i, vector in enumerate(_transpose(builder, vectors)):
            at = _vector_at(builder, square, ir.Constant(I64, i * simd.lanes), llvm_type(simd))
            builder.store(vector, at, align=BYTES)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


@intrinsic
def store_square(typingctx, p, step, rows, classes, square):
    """Transpose ``square`` back into memory: the inverse of ``load_square``."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        vectors = []
        for i in range(simd.lanes):
            at = _vector_at(builder, square, ir.Constant(I64, i * simd.lanes), llvm_type(simd))
            vectors.append(builder.load(at, align=BYTES))
        for i, vector in enumerate(_transpose(builder, vectors)):
            wanted = builder.icmp_signed("<", ir.Constant(I64, i), rows)
            count = builder.select(wanted, classes, ir.Constant(I64, 0))
            pointer = builder.gep(p, [builder.mul(step, ir.Constant(I64, i))])
            pointer = builder.bitcast(pointer, llvm_type(simd).as_pointer())
            _masked_store(builder, vector, pointer, first(builder, count, simd), simd)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen
