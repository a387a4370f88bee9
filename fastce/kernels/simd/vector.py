"""A portable SIMD value type for Numba kernels.

A :class:`Simd` value is one LLVM vector: ``float32`` x 16 or ``float64`` x 8, the integers
of the same widths that carry their bits and indices, and the masks that comparisons give.
LLVM splits it into the registers the machine has (AVX-512, AVX2, NEON), so kernels are
plain Python over values and the order of operations, hence every bit, is fixed here and
nowhere else.

Rules of the type:

- Operators work lane by lane. A scalar operand takes the vector's element type.
- No operation carries fast-math flags. Multiply and add fuse only where ``fma`` says so.

``memory`` moves values between registers and arrays.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
    type_callable,
)

from fastce.kernels.codegen.target import BYTES, has_avx512

IR = {
    types.boolean: ir.IntType(1),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
}
I32, I64 = ir.IntType(32), ir.IntType(64)
# 16-bit floats lie in memory as integers, told apart by sign, and are float32 in registers
FLOAT16, BFLOAT16 = types.uint16, types.int16
_COMPUTED = {FLOAT16: types.float32, BFLOAT16: types.float32}


def lanes_of(element):
    """Return how many elements of this type one value holds."""
    return BYTES // (element.bitwidth // 8)


class Simd(types.Type):
    """The Numba type of ``lanes`` elements in one LLVM vector."""

    def __init__(self, element, lanes):
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Simd({element} x {lanes})")

    @property
    def mask(self):
        """The type of a comparison's result."""
        return Simd(types.boolean, self.lanes)

    @property
    def integer(self):
        """The integer type of the same width."""
        return Simd(types.int32 if self.element.bitwidth == 32 else types.int64, self.lanes)

    @property
    def is_float(self):
        """Whether the elements are floating-point."""
        return isinstance(self.element, types.Float)

    @property
    def suffix(self):
        """How LLVM's intrinsics name this type."""
        return f"v{self.lanes}{'f' if self.is_float else 'i'}{self.element.bitwidth}"


@register_model(Simd)
class _SimdModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def llvm_type(simd):
    return ir.VectorType(IR[simd.element], simd.lanes)


def value_type(like):
    """Return the Simd type of a value, of a scalar, or of what a pointer or an array holds."""
    if isinstance(like, Simd):
        return like
    if isinstance(like, types.Number):
        return Simd(like, lanes_of(like))
    element = _COMPUTED.get(like.dtype, like.dtype)
    return Simd(element, lanes_of(element))


def splat(builder, scalar, lanes):
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def broadcast_to(context, builder, value, given, wanted):
    """Bring a scalar or a vector to the vector type ``wanted``."""
    if isinstance(given, Simd):
        return value
    plain = types.unliteral(given)
    if plain is not given:
        value = context.cast(builder, value, given, plain)
    return splat(builder, context.cast(builder, value, plain, wanted.element), wanted.lanes)


def call(builder, name, result, args):
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def join(builder, vectors):
    """Put a power of two of vectors of one length end to end."""
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [shuffle(builder, a, b, list(range(2 * a.type.count))) for a, b in pairs]
    return vectors[0]


def first(builder, n, simd):
    """Make the mask of the first ``n`` lanes."""
    count = Simd(types.int32, simd.lanes)
    iota = ir.Constant(llvm_type(count), list(range(simd.lanes)))
    most = ir.Constant(n.type, simd.lanes)
    n = builder.select(builder.icmp_signed(">", n, most), most, n)
    return builder.icmp_signed("<", iota, splat(builder, builder.trunc(n, I32), simd.lanes))


# --- operators ---------------------------------------------------------------


def _pair(x, y):
    """Return the Simd type two operands meet in, or None where none of them is one."""
    if isinstance(x, Simd):
        return x if isinstance(y, types.Number | types.Boolean) or x == y else None
    return y if isinstance(y, Simd) and isinstance(x, types.Number | types.Boolean) else None


def _binary(op, result, emit):
    """Teach Numba one operator: ``result`` gives its type, ``emit`` its instruction."""

    @type_callable(op)
    def _typing(context):
        def typer(x, y):
            simd = _pair(x, y)
            return None if simd is None else result(simd)

        return typer

    def lower(context, builder, sig, args):
        simd = _pair(*sig.args)
        x, y = (broadcast_to(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True))
        return emit(builder, simd, x, y)

    for operands in ((Simd, Simd), (Simd, types.Number), (types.Number, Simd)):
        lower_builtin(op, *operands)(lower)


def _arithmetic(float_name, integer_name):
    def emit(builder, simd, x, y):
        return getattr(builder, float_name if simd.is_float else integer_name)(x, y)

    return emit


def _compare(symbol):
    def emit(builder, simd, x, y):
        if not simd.is_float:
            return builder.icmp_signed(symbol, x, y)
        # != is true of NaN, every other comparison false: as in IEEE 754 and Python
        compare = builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered
        return compare(symbol, x, y)

    return emit


for _op, _names in {
    operator.add: ("fadd", "add"),
    operator.sub: ("fsub", "sub"),
    operator.mul: ("fmul", "mul"),
    operator.truediv: ("fdiv", None),
    operator.and_: (None, "and_"),
    operator.or_: (None, "or_"),
    operator.lshift: (None, "shl"),
    operator.rshift: (None, "ashr"),
}.items():
    _binary(_op, lambda simd: simd, _arithmetic(*_names))

for _op, _symbol in {
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
}.items():
    _binary(_op, lambda simd: simd.mask, _compare(_symbol))


@type_callable(operator.neg)
def _type_neg(context):
    return lambda x: x if isinstance(x, Simd) else None


@lower_builtin(operator.neg, Simd)
def _lower_neg(context, builder, sig, args):
    return builder.fneg(args[0])


@type_callable(operator.invert)
def _type_invert(context):
    return lambda x: x if isinstance(x, Simd) else None


@lower_builtin(operator.invert, Simd)
def _lower_invert(context, builder, sig, args):
    return builder.not_(args[0])


# --- making and choosing -----------------------------------------------------


@intrinsic
def lanes(typingctx, like):
    """Return the number of lanes of the values that an array or a pointer holds."""
    count = value_type(like).lanes

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, count)

    return types.intp(like), codegen


@intrinsic
def full_like(typingctx, like, scalar):
    """Return a value with ``scalar`` in every lane, of the element type of ``like``."""
    simd = value_type(like)

    def codegen(context, builder, sig, args):
        return broadcast_to(context, builder, args[1], sig.args[1], simd)

    return simd(like, scalar), codegen


@intrinsic
def lane_index(typingctx, like):
    """Return 0, 1, 2, … as int64, a lane of ``like`` each."""
    simd = Simd(types.int64, value_type(like).lanes)

    def codegen(context, builder, sig, args):
        return ir.Constant(llvm_type(simd), list(range(simd.lanes)))

    return simd(like), codegen


@intrinsic
def first_lanes(typingctx, like, n):
    """Return the mask of the first ``n`` lanes."""
    simd = value_type(like)

    def codegen(context, builder, sig, args):
        return first(builder, args[1], simd)

    return simd.mask(like, types.intp), codegen


@intrinsic
def where(typingctx, mask, x, y):
    """Return ``x`` where the mask is true, ``y`` elsewhere; one of them may be a scalar."""
    simd = _pair(x, y)

    def codegen(context, builder, sig, args):
        a, b = (broadcast_to(context, builder, v, t, simd) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], a, b)

    return simd(mask, x, y), codegen


@intrinsic
def maximum(typingctx, x, y):
    """Return ``x`` where x > y, else ``y``: NaN in ``y`` stays, NaN in ``x`` is passed over."""
    simd = _pair(x, y)

    def codegen(context, builder, sig, args):
        a, b = (broadcast_to(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True))
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return simd(x, y), codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Return ``x * y + z``, rounded once; at most two of the three may be scalars."""
    simd = next(t for t in (x, y, z) if isinstance(t, Simd))

    def codegen(context, builder, sig, args):
        operands = [broadcast_to(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True)]
        return call(builder, f"llvm.fma.{simd.suffix}", llvm_type(simd), operands)

    return simd(x, y, z), codegen


@intrinsic
def polynomial(typingctx, x, coefficients):
    """Evaluate by Horner's rule with fma; the coefficients start at the highest power."""

    def codegen(context, builder, sig, args):
        value, table = args
        terms = [
            broadcast_to(context, builder, builder.extract_value(table, k), types.float64, x)
            for k in range(len(coefficients))
        ]
        result = terms[0]
        for term in terms[1:]:
            result = call(builder, f"llvm.fma.{x.suffix}", llvm_type(x), [result, value, term])
        return result

    return x(x, coefficients), codegen


@intrinsic
def less_multiples(typingctx, x, n, parts):
    """Return ``x`` less ``n`` times each of a tuple's numbers, one after the other, by fma."""

    def codegen(context, builder, sig, args):
        result, n, table = args
        for k in range(len(parts)):
            part = broadcast_to(context, builder, builder.extract_value(table, k), types.float64, x)
            result = call(builder, f"llvm.fma.{x.suffix}", llvm_type(x), [n, builder.fneg(part), result])
        return result

    return x(x, n, parts), codegen


# --- bits and conversions ----------------------------------------------------


@intrinsic
def bits(typingctx, x):
    """Reinterpret floats as integers of the same width, or integers as floats."""
    if x.is_float:
        result = x.integer
    else:
        result = Simd(types.float32 if x.element.bitwidth == 32 else types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], llvm_type(result))

    return result(x), codegen


@intrinsic
def to_float(typingctx, x):
    """Convert integers to floats of the same width."""
    result = Simd(types.float32 if x.element.bitwidth == 32 else types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], llvm_type(result))

    return result(x), codegen


@intrinsic
def widen(typingctx, x):
    """Convert to as many lanes of float64; float64 stays as it is."""
    result = Simd(types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if x == result else builder.fpext(args[0], llvm_type(result))

    return result(x), codegen


@intrinsic
def narrow(typingctx, x, like):
    """Round float64 lanes to the element type of ``like``."""
    result = Simd(value_type(like).element, x.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if x == result else builder.fptrunc(args[0], llvm_type(result))

    return result(x, like), codegen


@intrinsic
def pick(typingctx, table, index):
    """Return the integers of a table of two registers, by the low bits of their index; only where there is AVX-512."""
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
        return join(builder, [call(builder, name, block, [low, part, high]) for part in parts])

    return index(table, index), codegen


# --- across the lanes --------------------------------------------------------


def _reduce(builder, value, combine):
    """Fold the upper half onto the lower until one lane is left: a fixed tree."""
    count = value.type.count
    while count > 1:
        half = count // 2
        low = shuffle(builder, value, value, list(range(half)))
        high = shuffle(builder, value, value, list(range(half, count)))
        value, count = combine(low, high), half
    return builder.extract_element(value, ir.Constant(I32, 0))


@intrinsic
def reduce_add(typingctx, x):
    """Return the sum of the lanes, added as a tree."""

    def codegen(context, builder, sig, args):
        return _reduce(builder, args[0], builder.fadd if x.is_float else builder.add)

    return x.element(x), codegen


@intrinsic
def reduce_max(typingctx, x):
    """Return the greatest lane, by the rule of ``maximum``."""

    def codegen(context, builder, sig, args):
        def combine(a, b):
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        return _reduce(builder, args[0], combine)

    return x.element(x), codegen


@intrinsic
def count_true(typingctx, mask):
    """Return in how many lanes the mask is true."""

    def codegen(context, builder, sig, args):
        bitmap = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.zext(builder.ctpop(bitmap), I64)

    return types.intp(mask), codegen


@intrinsic
def add_true(typingctx, counts, mask):
    """Return integers ``counts``, 1 more in the lanes where the mask is true."""

    def codegen(context, builder, sig, args):
        return builder.sub(args[0], builder.sext(args[1], args[0].type))

    return counts(counts, mask), codegen


@intrinsic
def add_where(typingctx, total, mask, value):
    """Return ``total``, greater by ``value`` in the lanes where the mask is true."""

    def codegen(context, builder, sig, args):
        total, mask, value = args
        if has_avx512():
            return builder.select(mask, builder.fadd(total, value), total)
        zero = ir.Constant(value.type, None)
        return builder.fadd(total, builder.select(mask, value, zero))

    return total(total, mask, value), codegen


@intrinsic
def any_lane(typingctx, mask):
    """Return whether the mask is true anywhere."""

    def codegen(context, builder, sig, args):
        bitmap = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", bitmap, ir.Constant(bitmap.type, 0))

    return types.boolean(mask), codegen


@intrinsic
def get_lane(typingctx, x, lane):
    """Return the element in one lane."""

    def codegen(context, builder, sig, args):
        return builder.extract_element(args[0], args[1])

    return x.element(x, types.intp), codegen


@intrinsic
def set_lane(typingctx, x, lane, scalar):
    """Return ``x`` with one lane replaced."""

    def codegen(context, builder, sig, args):
        index = Simd(x.integer.element, x.lanes)
        iota = ir.Constant(llvm_type(index), list(range(x.lanes)))
        here = builder.icmp_signed("==", iota, broadcast_to(context, builder, args[1], types.intp, index))
        return builder.select(here, broadcast_to(context, builder, args[2], scalar, x), args[0])

    return x(x, types.intp, scalar), codegen
