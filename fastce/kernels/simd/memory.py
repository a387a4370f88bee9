"""Memory for SIMD values: typed pointers, masked and streamed loads and stores, scratch.

Values are float32 or float64. 16-bit floats exist in memory only: they are widened by every
load, rounded to nearest even by every store.

``row(x, i)`` points at ``x[i, ...]``, ``offset(p, k)`` moves by ``k`` elements. Nothing is
bounds-checked. The ``_n`` forms touch the first ``n`` lanes only; memory behind the other
lanes is neither read nor written.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastce.kernels.codegen.jit import inline_for
from fastce.kernels.codegen.target import BYTES
from fastce.kernels.simd.float16 import constant, from_memory, raw_type, to_memory
from fastce.kernels.simd.vector import (
    BFLOAT16,
    FLOAT16,
    I32,
    I64,
    IR,
    Simd,
    broadcast_to,
    call,
    first,
    join,
    llvm_type,
    value_type,
)

MAX_STACK = 1 << 16


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


@intrinsic
def step_of(typingctx, x, axis):
    """Return how many elements it is from one place along an axis to the next."""
    size = x.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        strides = context.make_array(x)(context, builder, args[0]).strides
        pointer = cgutils.alloca_once_value(builder, strides)
        step = builder.load(cgutils.gep_inbounds(builder, pointer, 0, args[1]))
        return builder.sdiv(step, ir.Constant(I64, size), flags=["exact"])

    return types.intp(x, types.intp), codegen


def static_if_present(option, value):
    """Return ``value``, or None where ``option`` is None, which is settled when compiling."""


@inline_for(static_if_present)
def _given(option, value):
    if isinstance(option, types.NoneType):
        return lambda option, value: None
    return lambda option, value: value


def static_if_half(like, value):
    """Return ``value`` where ``like`` holds 16-bit floats, otherwise None, which is settled when compiling."""


@inline_for(static_if_half)
def _if_16_bits(like, value):
    if like.dtype in (FLOAT16, BFLOAT16):
        return lambda like, value: value
    return lambda like, value: None


def static_first_present(a, b):
    """Return ``a``, or ``b`` where that is None, which is settled when compiling."""


@inline_for(static_first_present)
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

    It lives until the function that asked for it returns. A kernel and its blocks together take at most
    `MAX_STACK` bytes: callers may have threads of little stack. What needs more comes from the caller.
    """
    simd = value_type(like)
    if not isinstance(values, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        return _reserve(builder, simd, values)

    return types.CPointer(simd.element)(like, values), codegen


@intrinsic(prefer_literal=True)
def scratch_from(typingctx, like, values, k):
    """Reserve memory as ``scratch`` does, and return a pointer ``k`` elements into it."""
    simd = value_type(like)
    if not isinstance(values, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        return builder.gep(_reserve(builder, simd, values), [args[2]])

    return types.CPointer(simd.element)(like, values, types.intp), codegen


def _reserve(builder, simd, values):
    size = ir.Constant(I64, values.literal_value)
    memory = cgutils.alloca_once(builder, llvm_type(simd), size=size)
    return builder.bitcast(memory, IR[simd.element].as_pointer())


# --- loads and stores --------------------------------------------------------


def place(builder, p, k, vector):
    return builder.bitcast(builder.gep(p, [k]), vector.as_pointer())


def alignment(vector):
    width = {ir.FloatType(): 4, ir.DoubleType(): 8}
    return width.get(vector.element) or vector.element.width // 8


def _name(vector):
    kind = {ir.FloatType(): "f32", ir.DoubleType(): "f64"}
    return f"v{vector.count}{kind.get(vector.element) or f'i{vector.element.width}'}.p0"


def masked_load(builder, pointer, mask, fill):
    align = ir.Constant(I32, alignment(fill.type))
    return call(builder, f"llvm.masked.load.{_name(fill.type)}", fill.type, [pointer, align, mask, fill])


def masked_store(builder, value, pointer, mask):
    align = ir.Constant(I32, alignment(value.type))
    call(builder, f"llvm.masked.store.{_name(value.type)}", ir.VoidType(), [value, pointer, align, mask])


@intrinsic
def load(typingctx, p, k):
    """Return the value that starts ``k`` elements after ``p``."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        vector = raw_type(simd, p.dtype)
        raw = builder.load(place(builder, args[0], args[1], vector), align=alignment(vector))
        return from_memory(builder, raw, p.dtype)

    return simd(p, types.intp), codegen


def _prefetch(to_write, locality):
    """Return the intrinsic function that asks for a cache line."""

    @intrinsic
    def ask(typingctx, p, k):
        def codegen(context, builder, sig, args):
            pointer = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
            function_type = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
            function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
            builder.call(function, [pointer, *(ir.Constant(I32, word) for word in (to_write, locality, 1))])

        return types.void(p, types.intp), codegen

    return ask


prefetch_read = _prefetch(0, 3)  # (p, k): ask for the cache line k elements after p
prefetch_write = _prefetch(1, 3)  # the same in a state to be written to
will_touch = _prefetch(0, 2)  # no further than the second-level cache: the first can ask for few lines at a time


def _load_masked(context, builder, sig, args, mask):
    """Load ``args[0][args[1]]`` under a mask, ``args[-1]`` in the other lanes."""
    dtype, simd = sig.args[0].dtype, sig.return_type
    vector = raw_type(simd, dtype)
    pointer = place(builder, args[0], args[1], vector)
    others = broadcast_to(context, builder, args[-1], sig.args[-1], simd)
    if vector == others.type:
        return masked_load(builder, pointer, mask, others)
    raw = masked_load(builder, pointer, mask, constant(vector, 0))
    return builder.select(mask, from_memory(builder, raw, dtype), others)


@intrinsic
def load_n(typingctx, p, k, n, fill):
    """Load the first ``n`` lanes and put ``fill`` into the others."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        return _load_masked(context, builder, sig, args, first(builder, args[2], simd))

    return simd(p, types.intp, types.intp, fill), codegen


@intrinsic
def load_between(typingctx, p, k, start, stop, fill):
    """Load lanes ``start`` to ``stop`` and put ``fill`` into the others."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        start, stop = (first(builder, n, simd) for n in args[2:4])
        return _load_masked(context, builder, sig, args, builder.and_(stop, builder.not_(start)))

    return simd(p, types.intp, types.intp, types.intp, fill), codegen


@intrinsic
def load_one(typingctx, p, k):
    """Return the element ``k`` after ``p``."""

    def codegen(context, builder, sig, args):
        return from_memory(builder, builder.load(builder.gep(args[0], [args[1]])), p.dtype)

    return value_type(p).element(p, types.intp), codegen


@intrinsic
def load_once(typingctx, p, k):
    """Return the integer ``k`` after ``p``, in one access that the compiler may neither repeat nor leave out.

    What follows from the value holds then, even while another thread or process writes there.
    """

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "monotonic", p.dtype.bitwidth // 8)

    return p.dtype(p, types.intp), codegen


@intrinsic
def load_as(typingctx, p, k, like):
    """Return the value that starts ``k`` elements after ``p``, with as many lanes as ``like``."""
    simd = Simd(p.dtype, like.lanes)

    def codegen(context, builder, sig, args):
        vector = llvm_type(simd)
        return builder.load(place(builder, args[0], args[1], vector), align=alignment(vector))

    return simd(p, types.intp, like), codegen


@intrinsic
def store(typingctx, p, k, value):
    """Write a value that starts ``k`` elements after ``p``."""

    def codegen(context, builder, sig, args):
        raw = to_memory(builder, args[2], p.dtype)
        builder.store(raw, place(builder, args[0], args[1], raw.type), align=alignment(raw.type))

    return types.void(p, types.intp, value), codegen


@intrinsic
def stream(typingctx, p, k, value, following):
    """Write two values, one behind the other, past the caches; a cache line begins ``k`` elements after ``p``.

    Other threads see them after ``fence``.
    """

    def codegen(context, builder, sig, args):
        parts = [to_memory(builder, x, p.dtype) for x in args[2:]]
        is_line = parts[0].type.count * alignment(parts[0].type) == BYTES
        lines = parts if is_line else [join(builder, parts)]
        pointer = place(builder, args[0], args[1], lines[0].type)
        for i, line in enumerate(lines):
            written = builder.store(line, builder.gep(pointer, [ir.Constant(I32, i)]), align=BYTES)
            written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))

    return types.void(p, types.intp, value, value), codegen


@intrinsic
def fence(typingctx):
    """Put what was streamed before what is written from here on."""

    def codegen(context, builder, sig, args):
        if builder.module.triple.startswith("x86"):  # a full fence would wait for every line
            call(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        else:
            builder.fence("seq_cst")

    return types.void(), codegen


@intrinsic
def until_aligned(typingctx, p):
    """Return how many elements after ``p`` the next cache line begins."""
    size = p.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        missing = builder.and_(builder.neg(builder.ptrtoint(args[0], I64)), ir.Constant(I64, BYTES - 1))
        return builder.udiv(missing, ir.Constant(I64, size))

    return types.intp(p), codegen


@intrinsic
def store_n(typingctx, p, k, n, value):
    """Write the first ``n`` lanes of a value."""

    def codegen(context, builder, sig, args):
        raw = to_memory(builder, args[3], p.dtype)
        pointer = place(builder, args[0], args[1], raw.type)
        # machines without masks in hardware are slow at masked stores, even of whole values
        whole = builder.icmp_signed(">=", args[2], ir.Constant(I64, value.lanes))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(raw, pointer, align=alignment(raw.type))
            with otherwise:
                masked_store(builder, raw, pointer, first(builder, args[2], value))

    return types.void(p, types.intp, types.intp, value), codegen


@intrinsic
def store_one(typingctx, p, k, scalar):
    """Write one element ``k`` after ``p``.

    Not ``p[k] = scalar``: the parallel pass drops assignments to what it takes for a local.
    """

    def codegen(context, builder, sig, args):
        builder.store(to_memory(builder, args[2], p.dtype), builder.gep(args[0], [args[1]]))

    return types.void(p, types.intp, value_type(p).element), codegen


@intrinsic
def load_labels(typingctx, p, n, fill, like):
    """Load ``n`` int64 labels for the lanes of ``like``, for `samples.labels_at`; ``fill`` in the other lanes."""
    simd = Simd(types.int64, value_type(like).lanes)

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(args[0], llvm_type(simd).as_pointer())
        others = broadcast_to(context, builder, args[2], fill, simd)
        return masked_load(builder, pointer, first(builder, args[1], simd), others)

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
        raw = ir.Constant(raw_type(simd, p.dtype), ir.Undefined)
        for i in range(simd.lanes):
            lane = ir.Constant(I32, i)
            pointer = builder.gep(args[0], [builder.extract_element(args[1], lane)])
            raw = builder.insert_element(raw, builder.load(pointer), lane)
        return from_memory(builder, raw, p.dtype)

    return simd(p, indices), codegen
