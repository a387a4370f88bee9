"""A portable SIMD value type for Numba kernels.

A :class:`Simd` value is one LLVM vector: ``float32`` x 16 or ``float64`` x 8, the integers
of the same widths that carry their bits and indices, and the masks that comparisons give.
LLVM splits it into the registers the machine has (AVX-512, AVX2, NEON), so kernels are
plain Python over values and the order of operations, hence every bit, is fixed here and
nowhere else.

Rules of the type:

- Operators work lane by lane. A scalar operand takes the vector's element type.
- No operation carries fast-math flags. Multiply and add fuse only where ``fma`` says so.
- Memory is reached through typed pointers: ``row(x, i)`` points at ``x[i, ...]``,
  ``offset(p, k)`` moves by ``k`` elements. Nothing is bounds-checked.
- The ``_n`` forms touch the first ``n`` lanes only; other lanes are never read or written.
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

BYTES = 64  # of one value; LLVM splits it where registers are narrower

_IR = {
    types.boolean: ir.IntType(1),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
}
_I32, _I64 = ir.IntType(32), ir.IntType(64)


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
        super().__init__(dmm, fe_type, _ir(fe_type))


def _ir(simd):
    return ir.VectorType(_IR[simd.element], simd.lanes)


def _value(like):
    """Return the Simd type of a value, or of what a pointer or an array holds."""
    return like if isinstance(like, Simd) else Simd(like.dtype, lanes_of(like.dtype))


def _splat(builder, scalar, lanes):
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _as(context, builder, value, given, wanted):
    """Bring a scalar or a vector to the vector type ``wanted``."""
    if isinstance(given, Simd):
        return value
    plain = types.unliteral(given)
    if plain is not given:
        value = context.cast(builder, value, given, plain)
    return _splat(builder, context.cast(builder, value, plain, wanted.element), wanted.lanes)


def _call(builder, name, result, args):
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


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
        x, y = (_as(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True))
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
    count = _value(like).lanes

    def codegen(context, builder, sig, args):
        return ir.Constant(_I64, count)

    return types.intp(like), codegen


@intrinsic
def full(typingctx, like, scalar):
    """Return a value with ``scalar`` in every lane, of the element type of ``like``."""
    simd = _value(like)

    def codegen(context, builder, sig, args):
        return _as(context, builder, args[1], sig.args[1], simd)

    return simd(like, scalar), codegen


@intrinsic
def lane_index(typingctx, like):
    """Return 0, 1, 2, … as int64, a lane of ``like`` each."""
    simd = Simd(types.int64, _value(like).lanes)

    def codegen(context, builder, sig, args):
        return ir.Constant(_ir(simd), list(range(simd.lanes)))

    return simd(like), codegen


@intrinsic
def first_lanes(typingctx, like, n):
    """Return the mask of the first ``n`` lanes."""
    simd = _value(like)

    def codegen(context, builder, sig, args):
        return _first(builder, args[1], simd)

    return simd.mask(like, types.intp), codegen


@intrinsic
def where(typingctx, mask, x, y):
    """Return ``x`` where the mask is true, ``y`` elsewhere; one of them may be a scalar."""
    simd = _pair(x, y)

    def codegen(context, builder, sig, args):
        a, b = (_as(context, builder, v, t, simd) for v, t in zip(args[1:], sig.args[1:], strict=True))
        return builder.select(args[0], a, b)

    return simd(mask, x, y), codegen


@intrinsic
def maximum(typingctx, x, y):
    """Return ``x`` where x > y, else ``y``: NaN in ``y`` stays, NaN in ``x`` is passed over."""
    simd = _pair(x, y)

    def codegen(context, builder, sig, args):
        a, b = (_as(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True))
        return builder.select(builder.fcmp_ordered(">", a, b), a, b)

    return simd(x, y), codegen


@intrinsic
def fma(typingctx, x, y, z):
    """Return ``x * y + z``, rounded once; at most two of the three may be scalars."""
    simd = next(t for t in (x, y, z) if isinstance(t, Simd))

    def codegen(context, builder, sig, args):
        operands = [_as(context, builder, v, t, simd) for v, t in zip(args, sig.args, strict=True)]
        return _call(builder, f"llvm.fma.{simd.suffix}", _ir(simd), operands)

    return simd(x, y, z), codegen


@intrinsic
def polynomial(typingctx, x, coefficients):
    """Evaluate by Horner's rule with fma; the coefficients start at the highest power."""

    def codegen(context, builder, sig, args):
        value, table = args
        terms = [
            _as(context, builder, builder.extract_value(table, k), types.float64, x) for k in range(len(coefficients))
        ]
        result = terms[0]
        for term in terms[1:]:
            result = _call(builder, f"llvm.fma.{x.suffix}", _ir(x), [result, value, term])
        return result

    return x(x, coefficients), codegen


# --- bits and conversions ----------------------------------------------------


@intrinsic
def bits(typingctx, x):
    """Reinterpret floats as integers of the same width, or integers as floats."""
    if x.is_float:
        result = x.integer
    else:
        result = Simd(types.float32 if x.element.bitwidth == 32 else types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return builder.bitcast(args[0], _ir(result))

    return result(x), codegen


@intrinsic
def to_float(typingctx, x):
    """Convert integers to floats of the same width."""
    result = Simd(types.float32 if x.element.bitwidth == 32 else types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return builder.sitofp(args[0], _ir(result))

    return result(x), codegen


@intrinsic
def widen(typingctx, x):
    """Convert to as many lanes of float64; float64 stays as it is."""
    result = Simd(types.float64, x.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if x == result else builder.fpext(args[0], _ir(result))

    return result(x), codegen


@intrinsic
def narrow(typingctx, x, like):
    """Round float64 lanes to the element type of ``like``."""
    result = Simd(_value(like).element, x.lanes)

    def codegen(context, builder, sig, args):
        return args[0] if x == result else builder.fptrunc(args[0], _ir(result))

    return result(x, like), codegen


# --- across the lanes --------------------------------------------------------


def _reduce(builder, value, combine):
    """Fold the upper half onto the lower until one lane is left: a fixed tree."""
    count = value.type.count
    while count > 1:
        half = count // 2
        low = _shuffle(builder, value, value, list(range(half)))
        high = _shuffle(builder, value, value, list(range(half, count)))
        value, count = combine(low, high), half
    return builder.extract_element(value, ir.Constant(_I32, 0))


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
        iota = ir.Constant(_ir(index), list(range(x.lanes)))
        here = builder.icmp_signed("==", iota, _as(context, builder, args[1], types.intp, index))
        return builder.select(here, _as(context, builder, args[2], scalar, x), args[0])

    return x(x, types.intp, scalar), codegen


# --- memory ------------------------------------------------------------------


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
    simd = _value(like)
    if not isinstance(values, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        size = ir.Constant(_I64, values.literal_value)
        memory = cgutils.alloca_once(builder, _ir(simd), size=size)
        return builder.bitcast(memory, _IR[simd.element].as_pointer())

    return types.CPointer(simd.element)(like, values), codegen


def _vector_at(builder, p, k, vector):
    return builder.bitcast(builder.gep(p, [k]), vector.as_pointer())


def _first(builder, n, simd):
    """Make the mask of the first ``n`` lanes."""
    count = Simd(types.int32, simd.lanes)
    iota = ir.Constant(_ir(count), list(range(simd.lanes)))
    most = ir.Constant(n.type, simd.lanes)
    n = builder.select(builder.icmp_signed(">", n, most), most, n)
    return builder.icmp_signed("<", iota, _splat(builder, builder.trunc(n, _I32), simd.lanes))


def _masked_load(builder, pointer, mask, fill, simd):
    name = f"llvm.masked.load.{simd.suffix}.p0"
    align = ir.Constant(_I32, simd.element.bitwidth // 8)
    return _call(builder, name, _ir(simd), [pointer, align, mask, fill])


def _masked_store(builder, value, pointer, mask, simd):
    name = f"llvm.masked.store.{simd.suffix}.p0"
    align = ir.Constant(_I32, simd.element.bitwidth // 8)
    _call(builder, name, ir.VoidType(), [value, pointer, align, mask])


@intrinsic
def load(typingctx, p, k):
    """Return the value that starts ``k`` elements after ``p``."""
    simd = _value(p)

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], _ir(simd))
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
def load_n(typingctx, p, k, n, fill):
    """Load the first ``n`` lanes and put ``fill`` into the others."""
    simd = _value(p)

    def codegen(context, builder, sig, args):
        pointer = _vector_at(builder, args[0], args[1], _ir(simd))
        rest = _as(context, builder, args[3], fill, simd)
        return _masked_load(builder, pointer, _first(builder, args[2], simd), rest, simd)

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
        _masked_store(builder, args[3], pointer, _first(builder, args[2], value), value)

    return types.void(p, types.intp, types.intp, value), codegen


@intrinsic
def load_labels(typingctx, p, n, fill, like):
    """Load ``n`` int64 labels for the lanes of ``like``; ``fill`` in the other lanes."""
    simd = Simd(types.int64, _value(like).lanes)

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(args[0], _ir(simd).as_pointer())
        rest = _as(context, builder, args[2], fill, simd)
        return _masked_load(builder, pointer, _first(builder, args[1], simd), rest, simd)

    return simd(p, types.intp, fill, like), codegen


@intrinsic
def narrow_labels(typingctx, labels, like):
    """Convert int64 labels to integers of the width of ``like``, for cheap comparisons."""
    simd = _value(like).integer

    def codegen(context, builder, sig, args):
        return args[0] if simd == labels else builder.trunc(args[0], _ir(simd))

    return simd(labels, like), codegen


@intrinsic
def gather(typingctx, p, indices):
    """Load ``p[index]`` lane by lane; every index must be readable."""
    simd = Simd(p.dtype, indices.lanes)

    def codegen(context, builder, sig, args):
        value = ir.Constant(_ir(simd), ir.Undefined)
        for i in range(simd.lanes):
            lane = ir.Constant(_I32, i)
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
                vectors[i] = _shuffle(builder, a, b, low)
                vectors[i | stride] = _shuffle(builder, a, b, high)
        stride //= 2
    return vectors


@intrinsic
def load_square(typingctx, p, step, rows, classes, square):
    """Transpose ``rows`` rows, ``step`` elements apart, ``classes`` of each, into ``square``.

    Row r becomes lane r. Lanes past ``rows`` repeat the last row; classes past ``classes``
    are unspecified.
    """
    simd = _value(p)

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        mask = _first(builder, classes, simd)
        last = builder.sub(rows, ir.Constant(_I64, 1))
        undefined = ir.Constant(_ir(simd), ir.Undefined)
        vectors = []
        for i in range(simd.lanes):
            index = ir.Constant(_I64, i)
            index = builder.select(builder.icmp_signed("<", index, rows), index, last)
            pointer = builder.gep(p, [builder.mul(step, index)])
            pointer = builder.bitcast(pointer, _ir(simd).as_pointer())
            vectors.append(_masked_load(builder, pointer, mask, undefined, simd))
        for i, vector in enumerate(_transpose(builder, vectors)):
            at = _vector_at(builder, square, ir.Constant(_I64, i * simd.lanes), _ir(simd))
            builder.store(vector, at, align=BYTES)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen


@intrinsic
def store_square(typingctx, p, step, rows, classes, square):
    """Transpose ``square`` back into memory: the inverse of ``load_square``."""
    simd = _value(p)

    def codegen(context, builder, sig, args):
        p, step, rows, classes, square = args
        vectors = []
        for i in range(simd.lanes):
            at = _vector_at(builder, square, ir.Constant(_I64, i * simd.lanes), _ir(simd))
            vectors.append(builder.load(at, align=BYTES))
        for i, vector in enumerate(_transpose(builder, vectors)):
            wanted = builder.icmp_signed("<", ir.Constant(_I64, i), rows)
            count = builder.select(wanted, classes, ir.Constant(_I64, 0))
            pointer = builder.gep(p, [builder.mul(step, ir.Constant(_I64, i))])
            pointer = builder.bitcast(pointer, _ir(simd).as_pointer())
            _masked_store(builder, vector, pointer, _first(builder, count, simd), simd)

    return types.void(p, types.intp, types.intp, types.intp, square), codegen
