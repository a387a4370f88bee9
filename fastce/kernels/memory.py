"""Memory for SIMD values: typed pointers, masked loads and stores, scratch, transposition.

Values are float32 or float64. 16-bit floats exist in memory only: they are widened by every
load, rounded to nearest even by every store.

``row(x, i)`` points at ``x[i, ...]``, ``offset(p, k)`` moves by ``k`` elements. Nothing is
bounds-checked. The ``_n`` forms touch the first ``n`` lanes only; memory behind the other
lanes is neither read nor written.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fastce.kernels.simd import (
    BFLOAT16,
    BYTES,
    FLOAT16,
    I32,
    I64,
    IR,
    Simd,
    call,
    first,
    llvm_type,
    meet,
    shuffle,
    value_type,
)


@intrinsic
def row(typingctx, x, i):
    """Return a pointer to the first element of ``x[i]``; None stays None."""
    if isinstance(x, types.NoneType):
        return x(x, types.intp), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context, builder, sig, args):
        array = context.make_array(x)(context, builder, args[0])
        step = builder.extract_value(array.strides, 0)
        return cgutils.pointer_add(builder, array.data, builder.mul(args[1], step), array.data.type)

    return types.CPointer(x.dtype)(x, types.intp), codegen


def given(option, value):
    """Return ``value``, or None where ``option`` is None, which is settled when compiling."""


@overload(given, jit_options={"forceinline": True})
def _given(option, value):
    if isinstance(option, types.NoneType):
        return lambda option, value: None
    return lambda option, value: value


def either(a, b):
    """Return ``a``, or ``b`` where that is None, which is settled when compiling."""


@overload(either, jit_options={"forceinline": True})
def _either(a, b):
    if isinstance(a, types.NoneType):
        return lambda a, b: b
    return lambda a, b: a


@intrinsic
def offset(typingctx, p, k):
    """Return the pointer ``k`` elements further on; None stays None."""
    if isinstance(p, types.NoneType):
        return p(p, types.intp), lambda context, builder, sig, args: context.get_dummy_value()

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


# --- the form elements have in memory ----------------------------------------


def _raw(simd, dtype):
    """Return the LLVM type of one value in memory."""
    return ir.VectorType(ir.IntType(16), simd.lanes) if dtype in (FLOAT16, BFLOAT16) else llvm_type(simd)


def _like(example, scalar):
    """Return a scalar or vector type of the shape of ``example``."""
    return ir.VectorType(scalar, example.count) if isinstance(example, ir.VectorType) else scalar


def _constant(example, value):
    return ir.Constant(example, [value] * example.count if isinstance(example, ir.VectorType) else value)


def _widen(builder, raw, dtype):
    """Bring what memory holds to what is computed with; scalars and vectors."""
    if dtype == FLOAT16:
        half = builder.bitcast(raw, _like(raw.type, ir.HalfType()))
        return builder.fpext(half, _like(raw.type, ir.FloatType()))
    if dtype == BFLOAT16:
        bits = builder.zext(raw, _like(raw.type, I32))
        return builder.bitcast(builder.shl(bits, _constant(bits.type, 16)), _like(raw.type, ir.FloatType()))
    return raw


def _narrow(builder, value, dtype):
    """Round to what memory holds, to nearest even; NaN stays NaN."""
    if dtype == FLOAT16:
        half = builder.fptrunc(value, _like(value.type, ir.HalfType()))
        return builder.bitcast(half, _like(value.type, ir.IntType(16)))
    if dtype == BFLOAT16:
        bits = builder.bitcast(value, _like(value.type, I32))
        sixteen = _constant(bits.type, 16)
        odd = builder.and_(builder.lshr(bits, sixteen), _constant(bits.type, 1))
        rounded = builder.add(bits, builder.add(odd, _constant(bits.type, 0x7FFF)))
        quiet = builder.or_(bits, _constant(bits.type, 0x400000))
        result = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return builder.trunc(builder.lshr(result, sixteen), _like(value.type, ir.IntType(16)))
    return value


def _at(builder, p, k, vector):
    return builder.bitcast(builder.gep(p, [k]), vector.as_pointer())


def _align(vector):
    width = {ir.FloatType(): 4, ir.DoubleType(): 8}
    return width.get(vector.element) or vector.element.width // 8


def _name(vector):
    kind = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}
    return f"v{vector.count}{kind.get(vector.element) or f'i{vector.element.width}'}.p0"


def _masked_load(builder, pointer, mask, fill):
    align = ir.Constant(I32, _align(fill.type))
    return call(builder, f"llvm.masked.load.{_name(fill.type)}", fill.type, [pointer, align, mask, fill])


def _masked_store(builder, value, pointer, mask):
    align = ir.Constant(I32, _align(value.type))
    call(builder, f"llvm.masked.store.{_name(value.type)}", ir.VoidType(), [value, pointer, align, mask])


# --- loads and stores --------------------------------------------------------


@intrinsic
def load(typingctx, p, k):
    """Return the value that starts ``k`` elements after ``p``."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        vector = _raw(simd, p.dtype)
        raw = builder.load(_at(builder, args[0], args[1], vector), align=_align(vector))
        return _widen(builder, raw, p.dtype)

    return simd(p, types.intp), codegen


@intrinsic
def will_write(typingctx, p, k):
    """Ask for the cache line ``k`` elements after ``p`` in a state to be written to."""

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        function_type = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [pointer, ir.Constant(I32, 1), ir.Constant(I32, 3), ir.Constant(I32, 1)])

    return types.void(p, types.intp), codegen


@intrinsic
def load_n(typingctx, p, k, n, fill):
    """Load the first ``n`` lanes and put ``fill`` into the others."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        vector = _raw(simd, p.dtype)
        pointer = _at(builder, args[0], args[1], vector)
        mask = first(builder, args[2], simd)
        others = meet(context, builder, args[3], fill, simd)
        if vector == others.type:
            return _masked_load(builder, pointer, mask, others)
        raw = _masked_load(builder, pointer, mask, _constant(vector, 0))
        return builder.select(mask, _widen(builder, raw, p.dtype), others)

    return simd(p, types.intp, types.intp, fill), codegen


@intrinsic
def load_one(typingctx, p, k):
    """Return the element ``k`` after ``p``."""

    def codegen(context, builder, sig, args):
        return _widen(builder, builder.load(builder.gep(args[0], [args[1]])), p.dtype)

    return value_type(p).element(p, types.intp), codegen


@intrinsic
def load_as(typingctx, p, k, like):
    """Return the value that starts ``k`` elements after ``p``, with as many lanes as ``like``."""
    simd = Simd(p.dtype, like.lanes)

    def codegen(context, builder, sig, args):
        vector = llvm_type(simd)
        return builder.load(_at(builder, args[0], args[1], vector), align=_align(vector))

    return simd(p, types.intp, like), codegen


@intrinsic
def store(typingctx, p, k, value):
    """Write a value that starts ``k`` elements after ``p``."""

    def codegen(context, builder, sig, args):
        raw = _narrow(builder, args[2], p.dtype)
        builder.store(raw, _at(builder, args[0], args[1], raw.type), align=_align(raw.type))

    return types.void(p, types.intp, value), codegen


@intrinsic
def store_n(typingctx, p, k, n, value):
    """Write the first ``n`` lanes of a value."""

    def codegen(context, builder, sig, args):
        raw = _narrow(builder, args[3], p.dtype)
        pointer = _at(builder, args[0], args[1], raw.type)
        # machines without masks in hardware are slow at masked stores, even of whole values
        whole = builder.icmp_signed(">=", args[2], ir.Constant(I64, value.lanes))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(raw, pointer, align=_align(raw.type))
            with otherwise:
                _masked_store(builder, raw, pointer, first(builder, args[2], value))

    return types.void(p, types.intp, types.intp, value), codegen


@intrinsic
def store_one(typingctx, p, k, scalar):
    """Write one element ``k`` after ``p``.

    Not ``p[k] = scalar``: the parallel pass drops assignments to what it takes for a local.
    """

    def codegen(context, builder, sig, args):
        builder.store(_narrow(builder, args[2], p.dtype), builder.gep(args[0], [args[1]]))

    return types.void(p, types.intp, value_type(p).element), codegen


@intrinsic
def load_labels(typingctx, p, n, fill, like):
    """Load ``n`` int64 labels for the lanes of ``like``; ``fill`` in the other lanes."""
    simd = Simd(types.int64, value_type(like).lanes)

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(args[0], llvm_type(simd).as_pointer())
        others = meet(context, builder, args[2], fill, simd)
        return _masked_load(builder, pointer, first(builder, args[1], simd), others)

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
    simd = Simd(value_type(p).element, indices.lanes)

    def codegen(context, builder, sig, args):
        raw = ir.Constant(_raw(simd, p.dtype), ir.Undefined)
        for i in range(simd.lanes):
            lane = ir.Constant(I32, i)
            pointer = builder.gep(args[0], [builder.extract_element(args[1], lane)])
            raw = builder.insert_element(raw, builder.load(pointer), lane)
        return _widen(builder, raw, p.dtype)

    return simd(p, indices), codegen


# --- transposition -----------------------------------------------------------


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
        vector = _raw(simd, dtype)
        undefined = ir.Constant(vector, ir.Undefined)
        vectors = []
        for i in range(simd.lanes):
            index = ir.Constant(I64, i)
            index = builder.select(builder.icmp_signed("<", index, rows), index, last)
            pointer = _at(builder, p, builder.mul(step, index), vector)
            vectors.append(_widen(builder, _masked_load(builder, pointer, mask, undefined), dtype))
        for i, column in enumerate(_transpose(builder, vectors)):
            builder.store(column, _at(builder, square, ir.Constant(I64, i * simd.lanes), column.type), align=BYTES)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


@intrinsic
def store_square(typingctx, p, step, rows, classes, square):
    """Transpose ``square`` back into memory: the inverse of ``load_square``."""
    simd, dtype = value_type(p), p.dtype

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        vectors = []
        for i in range(simd.lanes):
            at = _at(builder, square, ir.Constant(I64, i * simd.lanes), llvm_type(simd))
            vectors.append(builder.load(at, align=BYTES))
        for i, column in enumerate(_transpose(builder, vectors)):
            index = ir.Constant(I64, i)
            wanted = builder.icmp_signed("<", index, rows)
            count = builder.select(wanted, classes, ir.Constant(I64, 0))
            raw = _narrow(builder, column, dtype)
            pointer = _at(builder, p, builder.mul(step, index), raw.type)
            _masked_store(builder, raw, pointer, first(builder, count, simd))

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


def _row_reduction(square, combine):
    """Return the signature and code of a reduction of each row of a square to one lane.

    The tree of `simd.reduce_add`, for all rows at once and with each stage half as wide as the one before.
    """
    simd = value_type(square)

    def codegen(context, builder, sig, args):
        vectors = []
        for i in range(simd.lanes):
            at = _at(builder, args[0], ir.Constant(I64, i * simd.lanes), llvm_type(simd))
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
