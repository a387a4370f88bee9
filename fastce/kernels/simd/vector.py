"""Functions of SIMD values in registers: creation, selection, fused arithmetic, conversions, reductions.

Functions are documented as ``fastce.kernels.simd`` says.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.kernels.codegen.target import has_avx512
from fastce.kernels.simd.value import (
    I32,
    I64,
    IR,
    Simd,
    broadcast_to,
    call_intrinsic,
    common_type,
    join,
    lanes_of,
    llvm_type,
    mask_of_first,
    shuffle,
    value_type,
)

# --- creation and selection -----------------------------------------------------


@intrinsic
def lanes(typingctx, like):
    """Return the number of lanes of values of the type ``like``.

    Types: ``like`` is a value, scalar, pointer or array.
    """
    count = value_type(like).lanes

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, count)

    return types.intp(like), codegen


@intrinsic
def full_like(typingctx, like, scalar):
    """Return a value of the type ``like`` with ``scalar`` in every lane.

    Types: ``like`` is a value, scalar, pointer or array; the scalar is converted.
    """
    simd = value_type(like)

    def codegen(context, builder, sig, args):
        return broadcast_to(context, builder, args[1], sig.args[1], simd)

    return simd(like, scalar), codegen


@intrinsic
def lane_index(typingctx, like):
    """Return the lanes' numbers 0, 1, 2, … in int64, as many as ``like`` has lanes.

    Types: ``like`` is a value, scalar, pointer or array.
    """
    simd = Simd(types.int64, value_type(like).lanes)

    def codegen(context, builder, sig, args):
        return ir.Constant(llvm_type(simd), list(range(simd.lanes)))

    return simd(like), codegen


@intrinsic
def first_lanes(typingctx, like, n):
    """Return the mask of the first ``n`` lanes of ``like``.

    Types: ``like`` is a value, scalar, pointer or array.
    Range: any ``n`` above -2**31; a negative one counts as 0, one above the number of lanes as all.
    """
    simd = value_type(like)

    def codegen(context, builder, sig, args):
        return mask_of_first(builder, args[1], simd)

    return simd.mask(like, types.intp), codegen


@intrinsic
def where(typingctx, mask, x, y):
    """Return ``x`` in the lanes where the mask is true, ``y`` in the others.

    Types: ``x`` and ``y`` are values of one type; one of them may be a scalar.
    """
    simd = common_type(x, y)

    def codegen(context, builder, sig, args):
        a, b = (broadcast_to(context, builder, v, t, simd) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], a, b)

    return simd(mask, x, y), codegen


@intrinsic
def maximum(typingctx, x, y):
    """Return ``x`` in the lanes where x > y, ``y`` in the others: NaN in ``y`` stays, NaN in ``x`` gives ``y``.

    Types: floats; one of them may be a scalar.
    """
    simd = common_type(x, y)

    def codegen(context, builder, sig, args):
        a, b = (broadcast_to(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True))
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return simd(x, y), codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Return ``x * y + z``, rounded once.

    Types: floats; two of them may be scalars.
    """
    simd = next(t for t in (x, y, z) if isinstance(t, Simd))

    def codegen(context, builder, sig, args):
        operands = [broadcast_to(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True)]
        return call_intrinsic(builder, f"llvm.fma.{simd.suffix}", llvm_type(simd), operands)

    return simd(x, y, z), codegen


@intrinsic
def polynomial(typingctx, x, coefficients):
    """Return a polynomial of ``x`` by Horner's rule, each step an ``fma``.

    Types: floats; a tuple of float64, the coefficient of the highest power first.
    Error: one rounding a step.
    """

    def codegen(context, builder, sig, args):
        value, table = args
        terms = [
            broadcast_to(context, builder, builder.extract_value(table, k), types.float64, x)
            for k in range(len(coefficients))
        ]
        result = terms[0]
        for term in terms[1:]:
            result = call_intrinsic(builder, f"llvm.fma.{x.suffix}", llvm_type(x), [result, value, term])
        return result

    return x(x, coefficients), codegen


@intrinsic
def subtract_multiples(typingctx, x, n, parts):
    """Return ``x - n * parts[0] - n * parts[1] - …`` from left to right, each step an ``fma``.

    Types: floats ``x`` and ``n``; a tuple of float64.
    Error: one rounding a step.
    """

    def codegen(context, builder, sig, args):
        result, n, table = args
        for k in range(len(parts)):
            part = broadcast_to(context, builder, builder.extract_value(table, k), types.float64, x)
            result = call_intrinsic(builder, f"llvm.fma.{x.suffix}", llvm_type(x), [n, builder.fneg(part), result])
        return result

    return x(x, n, parts), codegen


# --- bits and conversions ----------------------------------------------------


@intrinsic
def bits(typingctx, x):
    """Return the same bits, floats as integers of the same width or integers as floats.

    Types: floats or integers.
    """
    if x.is_float:
        result = x.integer
    else:
        result = Simd(types.float32 if x.element.bitwidth == 32 else types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], llvm_type(result))

    return result(x), codegen


@intrinsic
def to_float(typingctx, x):
    """Return integers as floats of the same width.

    Types: integers.
    """
    result = Simd(types.float32 if x.element.bitwidth == 32 else types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], llvm_type(result))

    return result(x), codegen


@intrinsic
def widen(typingctx, x):
    """Return the lanes in float64.

    Types: floats.
    """
    result = Simd(types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if x == result else builder.fpext(args[0], llvm_type(result))

    return result(x), codegen


@intrinsic
def narrow(typingctx, x, like):
    """Return lanes of float64 rounded to the type of element of ``like``.

    Types: a value of float64; ``like`` is a value, scalar, pointer or array of floats.
    """
    result = Simd(value_type(like).element, x.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if x == result else builder.fptrunc(args[0], llvm_type(result))

    return result(x, like), codegen


@intrinsic
def table_lookup(typingctx, table, index):
    """Return ``table[index]`` lane by lane, from two registers; AVX-512 only.

    Types: a tuple of integers that fills two registers of 64 bytes (32 of int32, 16 of int64); integers.
    Range: all indices; only their low 5 or 4 bits count.
    """
    size = lanes_of(index.element)
    block = ir.VectorType(IR[index.element], size)
    name = f"llvm.x86.avx512.vpermi2var.{'d' if index.element.bitwidth == 32 else 'q'}.512"

    def codegen(context, builder, sig, args):
        def register(start):
            entries = ir.Constant(block, ir.Undefined)
            for k in range(size):
                entry = builder.trunc(builder.extract_value(args[0], start + k), block.element)
                entries = builder.insert_element(entries, entry, ir.Constant(I32, k))
            return entries

        low, high = register(0), register(size)
        starts = range(0, index.lanes, size)
        parts = [shuffle(builder, args[1], args[1], list(range(k, k + size))) for k in starts]
        return join(builder, [call_intrinsic(builder, name, block, [low, part, high]) for part in parts])

    return index(table, index), codegen


# --- across the lanes --------------------------------------------------------


def _reduce(builder, value, combine):
    """Emit a fold of the upper half onto the lower one, until one lane is left: a fixed tree."""
    count = value.type.count
    while count > 1:
        half = count // 2
        low = shuffle(builder, value, value, list(range(half)))
        high = shuffle(builder, value, value, list(range(half, count)))
        value, count = combine(low, high), half
    return builder.extract_element(value, ir.Constant(I32, 0))


@intrinsic
def reduce_add(typingctx, x):
    """Return the sum of the lanes, added as a fixed tree.

    Types: floats or integers.
    Error: one rounding a level of the tree.
    """

    def codegen(context, builder, sig, args):
        return _reduce(builder, args[0], builder.fadd if x.is_float else builder.add)

    return x.element(x), codegen


@intrinsic
def reduce_max(typingctx, x):
    """Return the greatest lane.

    Types: floats.
    Range: no NaN.
    """

    def codegen(context, builder, sig, args):
        def combine(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _reduce(builder, args[0], combine)

    return x.element(x), codegen


@intrinsic
def count_true(typingctx, mask):
    """Return the number of lanes where the mask is true."""

    def codegen(context, builder, sig, args):
        bitmap = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.zext(builder.ctpop(bitmap), I64)

    return types.intp(mask), codegen


@intrinsic
def increment_where(typingctx, counts, mask):
    """Return ``counts + 1`` in the lanes where the mask is true, ``counts`` in the others.

    Types: integers.
    """

    def codegen(context, builder, sig, args):
        return builder.sub(args[0], builder.sext(args[1], args[0].type))

    return counts(counts, mask), codegen


@intrinsic
def add_where(typingctx, total, mask, value):
    """Return ``total + value`` in the lanes where the mask is true, ``total`` in the others.

    Types: floats.
    Range: no -0.0 in ``total``, which may become 0.0 where the mask is false.
    """

    def codegen(context, builder, sig, args):
        total, mask, value = args
        if has_avx512():
            return builder.select(mask, builder.fadd(total, value), total)
        zero = ir.Constant(value.type, None)
        return builder.fadd(total, builder.select(mask, value, zero))

    return total(total, mask, value), codegen


@intrinsic
def any_lane(typingctx, mask):
    """Return whether the mask is true in any lane."""

    def codegen(context, builder, sig, args):
        bitmap = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", bitmap, ir.Constant(bitmap.type, 0))

    return types.boolean(mask), codegen


@intrinsic
def get_lane(typingctx, x, lane):
    """Return the element in one lane.

    Range: ``lane`` is from 0 to the number of lanes - 1.
    """

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], args[1])

    return x.element(x, types.intp), codegen


@intrinsic
def set_lane(typingctx, x, lane, scalar):
    """Return ``x`` with ``scalar`` in one lane.

    Types: floats or integers; the scalar is converted.
    Range: all lanes; one that does not exist changes nothing.
    """

    def codegen(context, builder, sig, args):
        index = Simd(x.integer.element, x.lanes)
        iota = ir.Constant(llvm_type(index), list(range(x.lanes)))
        here = builder.icmp_signed("==", iota, broadcast_to(context, builder, args[1], types.intp, index))
        return builder.select(here, broadcast_to(context, builder, args[2], scalar, x), args[0])

    return x(x, types.intp, scalar), codegen
