"""The SIMD value: its Numba type, its operators, and functions that emit LLVM code for it.

A `Simd` value is one LLVM vector: ``float32`` x 16 or ``float64`` x 8, integers of the same widths, or the mask that a
comparison returns. LLVM splits it into the registers of the processor (AVX-512, AVX2, NEON). Kernels are plain Python
over values. So their order of operations, hence every bit of a result, is the same for registers of any width.

Operators work lane by lane. A scalar operand is converted to the vector's type of element. No operation carries
fast-math flags: a multiplication and an addition fuse only in `vector.fma`.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, models, register_model, type_callable

from fastce.kernels.codegen.target import BYTES

IR = {
    types.boolean: ir.IntType(1),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
}
I32, I64 = ir.IntType(32), ir.IntType(64)
# 16-bit floats are typed as integers in memory, one signed and one not. In registers they are float32.
FLOAT16, BFLOAT16 = types.uint16, types.int16
_REGISTER_TYPE = {FLOAT16: types.float32, BFLOAT16: types.float32}


def lanes_of(element):
    """Return the number of lanes of a value with this type of element."""
    return BYTES // (element.bitwidth // 8)


class Simd(types.Type):
    """The Numba type of a value: an LLVM vector of ``lanes`` elements."""

    def __init__(self, element, lanes):
        self.element = element
        self.lanes = lanes
        super().__init__(name=f"Simd({element} x {lanes})")

    @property
    def mask(self):
        """The type of a comparison of two such values."""
        return Simd(types.boolean, self.lanes)

    @property
    def integer(self):
        """The type with integers of the same width."""
        return Simd(types.int32 if self.element.bitwidth == 32 else types.int64, self.lanes)

    @property
    def is_float(self):
        """Whether the elements are floating-point."""
        return isinstance(self.element, types.Float)

    @property
    def suffix(self):
        """The name of this type in the names of LLVM's intrinsics."""
        return f"v{self.lanes}{'f' if self.is_float else 'i'}{self.element.bitwidth}"


@register_model(Simd)
class _SimdModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, llvm_type(fe_type))


def llvm_type(simd):
    """Return the LLVM vector of a `Simd` type."""
    return ir.VectorType(IR[simd.element], simd.lanes)


def value_type(like):
    """Return the `Simd` type of a value, or that with the elements of a scalar, a pointer or an array."""
    if isinstance(like, Simd):
        return like
    if isinstance(like, types.Number):
        return Simd(like, lanes_of(like))
    element = _REGISTER_TYPE.get(like.dtype, like.dtype)
    return Simd(element, lanes_of(element))


# --- LLVM code ---------------------------------------------------------------


def splat(builder, scalar, lanes):
    """Emit a vector with ``scalar`` in every lane."""
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def broadcast_to(context, builder, value, source, simd):
    """Emit ``value``, of the type ``source``, as a vector of the type ``simd``: a scalar is converted and splatted."""
    if isinstance(source, Simd):
        return value
    plain = types.unliteral(source)
    if plain is not source:
        value = context.cast(builder, value, source, plain)
    return splat(builder, context.cast(builder, value, plain, simd.element), simd.lanes)


def call_intrinsic(builder, name, result, args):
    """Emit a call of one of LLVM's intrinsics."""
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def shuffle(builder, a, b, lanes):
    """Emit a vector of the lanes with these numbers, of which those of ``b`` follow those of ``a``."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def join(builder, vectors):
    """Emit the concatenation of vectors of one length, whose number is a power of two."""
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [shuffle(builder, a, b, list(range(2 * a.type.count))) for a, b in pairs]
    return vectors[0]


def mask_of_first(builder, n, simd):
    """Emit the mask of the first ``n`` lanes of a `Simd` type."""
    count = Simd(types.int32, simd.lanes)
    iota = ir.Constant(llvm_type(count), list(range(simd.lanes)))
    most = ir.Constant(n.type, simd.lanes)
    n = builder.select(builder.icmp_signed(">", n, most), most, n)
    return builder.icmp_signed("<", iota, splat(builder, builder.trunc(n, I32), simd.lanes))


def vector_pointer(builder, p, k, vector):
    """Emit the pointer to the vector that starts at the element ``k``."""
    return builder.bitcast(builder.gep(p, [k]), vector.as_pointer())


def alignment(vector):
    """Return the size of an element in bytes, which all vectors in memory are aligned to."""
    width = {ir.FloatType(): 4, ir.DoubleType(): 8}
    return width.get(vector.element) or vector.element.width // 8


def _suffix(vector):
    """Return the name of a vector and of a pointer to it in the names of LLVM's intrinsics."""
    kind = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}
    return f"v{vector.count}{kind.get(vector.element) or f'i{vector.element.width}'}.p0"


def masked_load(builder, pointer, mask, fill):
    """Emit a load of the lanes in the mask; the others come from ``fill``."""
    align = ir.Constant(I32, alignment(fill.type))
    return call_intrinsic(builder, f"llvm.masked.load.{_suffix(fill.type)}", fill.type, [pointer, align, mask, fill])


def masked_store(builder, value, pointer, mask):
    """Emit a store of the lanes in the mask."""
    align = ir.Constant(I32, alignment(value.type))
    call_intrinsic(builder, f"llvm.masked.store.{_suffix(value.type)}", ir.VoidType(), [value, pointer, align, mask])


# --- operators ---------------------------------------------------------------


def common_type(x, y):
    """Return the `Simd` type of an operation on two types; None unless one is a `Simd` type that suits the other."""
    if isinstance(x, Simd):
        return x if isinstance(y, types.Number | types.Boolean) or x == y else None
    return y if isinstance(y, Simd) and isinstance(x, types.Number | types.Boolean) else None


def _binary(op, result, emit):
    """Register a binary operator with Numba: ``result`` returns its type, ``emit`` emits its instruction."""

    @type_callable(op)
    def _typing(context):
        def typer(x, y):
            simd = common_type(x, y)
            return None if simd is None else result(simd)

        return typer

    def lower(context, builder, sig, args):
        simd = common_type(*sig.args)
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
        # With NaN, != is true and every other comparison is false, as in IEEE 754 and Python.
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
