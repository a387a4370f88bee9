"""Memory for SIMD values: typed pointers, masked and streamed loads and stores, scratch memory on the stack.

Values are float32 or float64. 16-bit floats exist only in memory: each load widens them to float32, and each store
rounds to nearest even.

``row(x, i)`` points at ``x[i, ...]``, and ``offset(p, k)`` is ``p`` moved by ``k`` elements. Nothing is bounds-checked.
The ``_n`` functions access the first ``n`` lanes only; they neither read nor write the memory of the other lanes.

Functions are documented as ``fastce.kernels.simd`` says. ``p`` is a pointer, and ``k`` counts elements from it.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastce.kernels.codegen.jit import inline_for
from fastce.kernels.codegen.target import BYTES
from fastce.kernels.simd.float16 import constant, from_memory, raw_type, to_memory
from fastce.kernels.simd.value import (
    BFLOAT16,
    FLOAT16,
    I32,
    I64,
    IR,
    Simd,
    alignment,
    broadcast_to,
    call_intrinsic,
    join,
    llvm_type,
    mask_of_first,
    masked_load,
    masked_store,
    value_type,
    vector_pointer,
)

MAX_STACK = 1 << 16  # bytes of scratch memory of a kernel and its blocks; ``test_stacks`` checks it


@intrinsic
def row(typingctx, x, i):
    """Return a pointer to the first element of ``x[i]``, or None if ``x`` is None.

    Types: an array or None.
    """
    if isinstance(x, types.NoneType):
        return x(x, types.intp), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context, builder, sig, args):
        array = context.make_array(x)(context, builder, args[0])
        step = builder.extract_value(array.strides, 0)
        return cgutils.pointer_add(builder, array.data, builder.mul(args[1], step), array.data.type)

    return types.CPointer(x.dtype)(x, types.intp), codegen


@intrinsic
def address(typingctx, x):
    """Return the address of the first element of an array, an integer."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(context.make_array(x)(context, builder, args[0]).data, I64)

    return types.intp(x), codegen


@intrinsic
def step_of(typingctx, x, axis):
    """Return the stride of an array along an axis, in elements.

    Range: strides that are a multiple of the size of an element.
    """
    size = x.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        strides = context.make_array(x)(context, builder, args[0]).strides
        pointer = cgutils.alloca_once_value(builder, strides)
        step = builder.load(cgutils.gep_inbounds(builder, pointer, 0, args[1]))
        return builder.sdiv(step, ir.Constant(I64, size), flags=["exact"])

    return types.intp(x, types.intp), codegen


def static_if_present(option, value):
    """Return ``value``, or None if ``option`` is None; Numba decides when it compiles."""


@inline_for(static_if_present)
def _static_if_present(option, value):
    if isinstance(option, types.NoneType):
        return lambda option, value: None
    return lambda option, value: value


def static_if_half(like, value):
    """Return ``value`` if ``like`` holds 16-bit floats, else None; Numba decides when it compiles.

    Types: ``like`` is a pointer or array.
    """


@inline_for(static_if_half)
def _static_if_half(like, value):
    if like.dtype in (FLOAT16, BFLOAT16):
        return lambda like, value: value
    return lambda like, value: None


def static_first_present(a, b):
    """Return ``a``, or ``b`` if ``a`` is None; Numba decides when it compiles."""


@inline_for(static_first_present)
def _static_first_present(a, b):
    if isinstance(a, types.NoneType):
        return lambda a, b: b
    return lambda a, b: a


@intrinsic
def offset(typingctx, p, k):
    """Return ``p`` moved by ``k`` elements, or None if ``p`` is None."""
    if isinstance(p, types.NoneType):
        return p(p, types.intp), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return p(p, types.intp), codegen


@intrinsic(prefer_literal=True)
def scratch(typingctx, like, values):
    """Return a pointer to uninitialised stack memory for a number of values of the type ``like``.

    The memory lives until the calling function returns. A kernel and its blocks together use at most `MAX_STACK`
    bytes, since a thread may have a small stack. Larger buffers are arguments of the kernel.

    Types: ``like`` is a value, scalar, pointer or array; ``values`` is a literal.
    """
    simd = value_type(like)
    if not isinstance(values, types.IntegerLiteral):
        return None

    def codegen(context, builder, sig, args):
        return _reserve(builder, simd, values)

    return types.CPointer(simd.element)(like, values), codegen


@intrinsic(prefer_literal=True)
def scratch_from(typingctx, like, values, k):
    """Return a pointer to the element ``k`` of new memory as of ``scratch``."""
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


@intrinsic
def load(typingctx, p, k):
    """Return the value that starts at ``p[k]``."""
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        vector = raw_type(simd, p.dtype)
        raw = builder.load(vector_pointer(builder, args[0], args[1], vector), align=alignment(vector))
        return from_memory(builder, raw, p.dtype)

    return simd(p, types.intp), codegen


def _prefetch(to_write, locality):
    """Return a function (p, k) that prefetches the cache line of ``p[k]``; any address is allowed."""

    @intrinsic
    def prefetch(typingctx, p, k):
        def codegen(context, builder, sig, args):
            pointer = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
            function_type = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
            function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
            builder.call(function, [pointer, *(ir.Constant(I32, word) for word in (to_write, locality, 1))])

        return types.void(p, types.intp), codegen

    return prefetch


prefetch_read = _prefetch(0, 3)  # into all caches
prefetch_write = _prefetch(1, 3)  # the same, and take the line from other cores, to write to it
prefetch_l2 = _prefetch(0, 2)  # into the second-level cache, which has more outstanding misses than the first


def _load_masked(context, builder, sig, args, mask):
    """Emit a load of ``args[0][args[1]]`` under a mask, with ``args[-1]`` in the other lanes."""
    dtype, simd = sig.args[0].dtype, sig.return_type
    vector = raw_type(simd, dtype)
    pointer = vector_pointer(builder, args[0], args[1], vector)
    others = broadcast_to(context, builder, args[-1], sig.args[-1], simd)
    if vector == others.type:
        return masked_load(builder, pointer, mask, others)
    raw = masked_load(builder, pointer, mask, constant(vector, 0))
    return builder.select(mask, from_memory(builder, raw, dtype), others)


@intrinsic
def load_n(typingctx, p, k, n, fill):
    """Return the value that starts at ``p[k]`` in the first ``n`` lanes, with ``fill`` in the others.

    Range: ``n`` as in `vector.first_lanes`.
    """
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        return _load_masked(context, builder, sig, args, mask_of_first(builder, args[2], simd))

    return simd(p, types.intp, types.intp, fill), codegen


@intrinsic
def load_between(typingctx, p, k, start, stop, fill):
    """Return the value that starts at ``p[k]`` in lanes ``start`` to ``stop - 1``, with ``fill`` in the others.

    Range: ``start`` and ``stop`` as in `vector.first_lanes`.
    """
    simd = value_type(p)

    def codegen(context, builder, sig, args):
        start, stop = (mask_of_first(builder, n, simd) for n in args[2:4])
        return _load_masked(context, builder, sig, args, builder.and_(stop, builder.not_(start)))

    return simd(p, types.intp, types.intp, types.intp, fill), codegen


@intrinsic
def load_one(typingctx, p, k):
    """Return the element ``p[k]``."""

    def codegen(context, builder, sig, args):
        return from_memory(builder, builder.load(builder.gep(args[0], [args[1]])), p.dtype)

    return value_type(p).element(p, types.intp), codegen


@intrinsic
def load_once(typingctx, p, k):
    """Return the integer ``p[k]``, read exactly once.

    The compiler may neither repeat nor omit the access. So a check of the value holds, even while another thread or
    process writes to this address.
    """

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "monotonic", p.dtype.bitwidth // 8)

    return p.dtype(p, types.intp), codegen


@intrinsic
def load_as(typingctx, p, k, like):
    """Return the value that starts at ``p[k]``, with as many lanes as ``like``.

    Types: a pointer to float32, float64 or integers; a value.
    """
    simd = Simd(p.dtype, like.lanes)

    def codegen(context, builder, sig, args):
        vector = llvm_type(simd)
        return builder.load(vector_pointer(builder, args[0], args[1], vector), align=alignment(vector))

    return simd(p, types.intp, like), codegen


@intrinsic
def store(typingctx, p, k, value):
    """Write a value to ``p[k]`` and the elements after it."""

    def codegen(context, builder, sig, args):
        raw = to_memory(builder, args[2], p.dtype)
        builder.store(raw, vector_pointer(builder, args[0], args[1], raw.type), align=alignment(raw.type))

    return types.void(p, types.intp, value), codegen


@intrinsic
def stream(typingctx, p, k, value, next_value):
    """Write two values to ``p[k]`` and the elements after it by non-temporal stores, which bypass the caches.

    Other threads may see them only after ``fence``.

    Range: ``p[k]`` is the first element of a cache line.
    """

    def codegen(context, builder, sig, args):
        parts = [to_memory(builder, x, p.dtype) for x in args[2:]]
        is_line = parts[0].type.count * alignment(parts[0].type) == BYTES
        lines = parts if is_line else [join(builder, parts)]
        pointer = vector_pointer(builder, args[0], args[1], lines[0].type)
        for i, line in enumerate(lines):
            written = builder.store(line, builder.gep(pointer, [ir.Constant(I32, i)]), align=BYTES)
            written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))

    return types.void(p, types.intp, value, value), codegen


@intrinsic
def fence(typingctx):
    """Order all non-temporal stores before all later stores."""

    def codegen(context, builder, sig, args):
        if builder.module.triple.startswith("x86"):  # a full fence waits for all lines
            call_intrinsic(builder, "llvm.x86.sse.sfence", ir.VoidType(), [])
        else:
            builder.fence("seq_cst")

    return types.void(), codegen


@intrinsic
def until_aligned(typingctx, p):
    """Return the number of elements from ``p`` to the next cache line, 0 at the beginning of one."""
    size = p.dtype.bitwidth // 8

    def codegen(context, builder, sig, args):
        missing = builder.and_(builder.neg(builder.ptrtoint(args[0], I64)), ir.Constant(I64, BYTES - 1))
        return builder.udiv(missing, ir.Constant(I64, size))

    return types.intp(p), codegen


@intrinsic
def store_n(typingctx, p, k, n, value):
    """Write the first ``n`` lanes of a value to ``p[k]`` and the elements after it.

    Range: ``n`` as in `vector.first_lanes`.
    """

    def codegen(context, builder, sig, args):
        raw = to_memory(builder, args[3], p.dtype)
        pointer = vector_pointer(builder, args[0], args[1], raw.type)
        # processors without mask registers are slow at masked stores, even of all lanes
        whole = builder.icmp_signed(">=", args[2], ir.Constant(I64, value.lanes))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(raw, pointer, align=alignment(raw.type))
            with otherwise:
                masked_store(builder, raw, pointer, mask_of_first(builder, args[2], value))

    return types.void(p, types.intp, types.intp, value), codegen


@intrinsic
def store_one(typingctx, p, k, scalar):
    """Write one element to ``p[k]``.

    Kernels do not write ``p[k] = scalar``: Numba's parallel pass drops it if it takes ``p`` for a local variable.
    """

    def codegen(context, builder, sig, args):
        builder.store(to_memory(builder, args[2], p.dtype), builder.gep(args[0], [args[1]]))

    return types.void(p, types.intp, value_type(p).element), codegen


@intrinsic
def load_labels(typingctx, p, n, fill, like):
    """Return ``n`` int64 labels, as many lanes as ``like`` has, with ``fill`` in the others.

    Only `samples.labels_at` and `samples.shard_labels_at` call it, since labels have to be checked.

    Types: a pointer to int64; ``like`` is a value, scalar, pointer or array.
    """
    simd = Simd(types.int64, value_type(like).lanes)

    def codegen(context, builder, sig, args):
        pointer = builder.bitcast(args[0], llvm_type(simd).as_pointer())
        others = broadcast_to(context, builder, args[2], fill, simd)
        return masked_load(builder, pointer, mask_of_first(builder, args[1], simd), others)

    return simd(p, types.intp, fill, like), codegen


@intrinsic
def narrow_labels(typingctx, labels, like):
    """Return int64 labels as integers of the width of ``like``, for cheap comparisons.

    Types: a value of int64; ``like`` is a value, scalar, pointer or array of floats.
    Range: labels that fit.
    """
    simd = value_type(like).integer

    def codegen(context, builder, sig, args):
        return args[0] if simd == labels else builder.trunc(args[0], llvm_type(simd))

    return simd(labels, like), codegen


@intrinsic
def gather(typingctx, p, indices):
    """Return ``p[indices]`` lane by lane.

    Types: a pointer to floats; integers.
    Range: all lanes are loaded, so every index has to be valid.
    """
    simd = Simd(value_type(p).element, indices.lanes)

    def codegen(context, builder, sig, args):
        raw = ir.Constant(raw_type(simd, p.dtype), ir.Undefined)
        for i in range(simd.lanes):
            lane = ir.Constant(I32, i)
            pointer = builder.gep(args[0], [builder.extract_element(args[1], lane)])
            raw = builder.insert_element(raw, builder.load(pointer), lane)
        return from_memory(builder, raw, p.dtype)

    return simd(p, indices), codegen
