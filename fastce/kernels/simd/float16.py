"""Conversions between memory and registers: 16-bit floats in memory are float32 in registers.

All functions emit code for scalars or vectors. Each conversion of a 16-bit float has a variant without instructions of
its own, ``…_by_bits``, which computes on the bits as integers. Both variants have the same results, but
for the payload of NaN.
"""

from llvmlite import ir

from fastce.kernels.codegen.target import BYTES, has_avx512, has_bfloat16, has_float16
from fastce.kernels.simd.value import BFLOAT16, FLOAT16, I32, call_intrinsic, llvm_type

_NEAREST_EVEN = 8  # argument of vcvtps2ph: this rounding, without exceptions
_SUBNORMAL = 0x20  # argument of vfpclassps: the class of subnormal numbers


class _BFloat16Type(ir.Type):
    """LLVM's bfloat, for which llvmlite has no class."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return type(self) is type(other)

    def __hash__(self):
        return hash(type(self))


def raw_type(simd, dtype):
    """Return the LLVM type of a value in memory, whose elements have the type ``dtype`` there."""
    return ir.VectorType(ir.IntType(16), simd.lanes) if dtype in (FLOAT16, BFLOAT16) else llvm_type(simd)


def constant(example, value):
    """Return a scalar or vector constant of the type ``example``."""
    return ir.Constant(example, [value] * example.count if isinstance(example, ir.VectorType) else value)


def _like(example, scalar):
    """Return a scalar or vector type of the shape of ``example``."""
    return ir.VectorType(scalar, example.count) if isinstance(example, ir.VectorType) else scalar


def from_memory(builder, raw, dtype):
    """Emit the conversion of loaded elements of the type ``dtype`` to registers; it is exact."""
    if dtype == FLOAT16:
        if not has_float16():
            return _from_float16_by_bits(builder, raw)
        half = builder.bitcast(raw, _like(raw.type, ir.HalfType()))
        return builder.fpext(half, _like(raw.type, ir.FloatType()))
    if dtype == BFLOAT16:
        bits = builder.zext(raw, _like(raw.type, I32))
        return builder.bitcast(builder.shl(bits, constant(bits.type, 16)), _like(raw.type, ir.FloatType()))
    return raw


def to_memory(builder, value, dtype):
    """Emit the conversion to elements of the type ``dtype``, rounded to nearest even; NaN stays NaN."""
    is_value = isinstance(value.type, ir.VectorType) and value.type.count * 4 == BYTES
    if dtype == FLOAT16:
        if is_value and has_avx512():
            return _to_float16(builder, value)
        if not has_float16():
            return _to_float16_by_bits(builder, value)
        half = builder.fptrunc(value, _like(value.type, ir.HalfType()))
        return builder.bitcast(half, _like(value.type, ir.IntType(16)))
    if dtype == BFLOAT16:
        return (_to_bfloat16 if is_value and has_bfloat16() else _to_bfloat16_by_bits)(builder, value)
    return value


def _to_float16(builder, value):
    """Convert to integers in one instruction: LLVM has no non-temporal store of a vector of half."""
    lanes = value.type.count
    halves, mask = ir.VectorType(ir.IntType(16), lanes), ir.IntType(lanes)
    arguments = [value, ir.Constant(I32, _NEAREST_EVEN), ir.Constant(halves, [0] * lanes), ir.Constant(mask, -1)]
    return call_intrinsic(builder, "llvm.x86.avx512.mask.vcvtps2ph.512", halves, arguments)


def _from_float16_by_bits(builder, raw):
    wide, floats = _like(raw.type, I32), _like(raw.type, ir.FloatType())
    bits = builder.zext(raw, wide)
    magnitude = builder.shl(builder.and_(bits, constant(wide, 0x7FFF)), constant(wide, 13))
    normal = builder.add(magnitude, constant(wide, (127 - 15) << 23))
    infinite = builder.add(magnitude, constant(wide, (255 - 31) << 23))  # or NaN
    # subnormal: read the digits as those of 2**-14 (1 + …), then subtract 2**-14
    tiny = builder.bitcast(builder.add(magnitude, constant(wide, (127 - 14) << 23)), floats)
    tiny = builder.bitcast(builder.fsub(tiny, constant(floats, 2.0**-14)), wide)
    result = builder.select(
        builder.icmp_unsigned(">=", magnitude, constant(wide, 31 << 23)),
        infinite,
        builder.select(builder.icmp_unsigned("<", magnitude, constant(wide, 1 << 23)), tiny, normal),
    )
    sign = builder.shl(builder.and_(bits, constant(wide, 0x8000)), constant(wide, 16))
    return builder.bitcast(builder.or_(result, sign), floats)


def _to_float16_by_bits(builder, value):
    wide = _like(value.type, I32)
    bits = builder.bitcast(value, wide)
    magnitude = builder.and_(bits, constant(wide, 0x7FFFFFFF))
    odd = builder.and_(builder.lshr(magnitude, constant(wide, 13)), constant(wide, 1))
    rounded = builder.add(builder.sub(magnitude, constant(wide, (127 - 15) << 23)), constant(wide, 0xFFF))
    normal = builder.lshr(builder.add(rounded, odd), constant(wide, 13))  # a carry may reach infinity, rightly
    # subnormal: adding 1/2 rounds to a multiple of 2**-24, since float32 has that spacing at 1/2
    tiny = builder.fadd(builder.bitcast(magnitude, value.type), constant(value.type, 0.5))
    tiny = builder.sub(builder.bitcast(tiny, wide), constant(wide, 126 << 23))
    beyond = builder.icmp_unsigned(">", magnitude, constant(wide, 0xFF << 23))
    infinite = builder.select(beyond, constant(wide, 0x7E00), constant(wide, 0x7C00))
    result = builder.select(
        builder.icmp_unsigned(">=", magnitude, constant(wide, (127 + 16) << 23)),
        infinite,
        builder.select(builder.icmp_unsigned("<", magnitude, constant(wide, (127 - 14) << 23)), tiny, normal),
    )
    sign = builder.and_(builder.lshr(bits, constant(wide, 16)), constant(wide, 0x8000))
    return builder.trunc(builder.or_(result, sign), _like(value.type, ir.IntType(16)))


def _to_bfloat16(builder, value):
    """Round in one instruction. It takes subnormal numbers for 0, so they are rounded by their bits."""
    lanes = value.type.count
    rounded = builder.fptrunc(value, ir.VectorType(_BFloat16Type(), lanes))
    rounded = builder.bitcast(rounded, ir.VectorType(ir.IntType(16), lanes))
    masks = ir.VectorType(ir.IntType(1), lanes)
    tiny = call_intrinsic(builder, "llvm.x86.avx512.fpclass.ps.512", masks, [value, ir.Constant(I32, _SUBNORMAL)])
    tiny = builder.bitcast(tiny, ir.IntType(lanes))
    before = builder.block
    with builder.if_then(builder.icmp_unsigned("!=", tiny, ir.Constant(tiny.type, 0)), likely=False):
        exact = _to_bfloat16_by_bits(builder, value)
        inside = builder.block
    result = builder.phi(rounded.type)
    result.add_incoming(rounded, before)
    result.add_incoming(exact, inside)
    return result


def _to_bfloat16_by_bits(builder, value):
    bits = builder.bitcast(value, _like(value.type, I32))
    sixteen = constant(bits.type, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), constant(bits.type, 1))
    rounded = builder.add(bits, builder.add(odd, constant(bits.type, 0x7FFF)))
    quiet = builder.or_(bits, constant(bits.type, 0x400000))
    result = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
    return builder.trunc(builder.lshr(result, sixteen), _like(value.type, ir.IntType(16)))
