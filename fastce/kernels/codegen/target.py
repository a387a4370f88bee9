"""What kernels are compiled for: the processor, what it does in an instruction, and the width of a SIMD value."""

import functools
import os

import llvmlite.binding as llvm
import numba
from llvmlite import ir

BYTES = 64  # of one value; LLVM splits it where registers are narrower
# whether results are to have the bits that they have on every processor; fixed once the first kernel is there
PORTABLE = os.environ.get("FASTCE_PORTABLE", "0") not in ("", "0")


def machine() -> tuple[str, str, str]:
    """Return what is compiled for: (triple, processor, features), which environment variables of Numba's change."""
    try:
        from numba.core.registry import cpu_target

        triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    except (AttributeError, ImportError):
        triple = llvm.get_process_triple()
        processor = numba.config.CPU_NAME or llvm.get_host_cpu_name()
        features = numba.config.CPU_FEATURES
        if features is None:
            features = llvm.get_host_cpu_features().flatten()
    return triple, processor, features


@functools.cache
def has_avx512():
    """Return whether the machine works under masks as fast as without, and finds lanes by index in an instruction."""
    return _has("avx512f")


def has_bits_of_its_own() -> bool:
    """Return whether code is chosen whose results differ in their last bits from those of other processors."""
    return has_avx512() and not PORTABLE


def has_bfloat16():
    """Return whether the machine rounds to bfloat16 in an instruction."""
    return _has("avx512bf16")


@functools.cache
def has_float16():
    """Return whether the machine converts float16 in an instruction.

    Elsewhere the compiler calls functions that not every process has, or that pass float16 in other registers. The
    machine code of a conversion tells, where lists of features may be empty.
    """
    module = ir.Module()
    half = ir.HalfType()
    for name, given, result in (("widen", half, ir.FloatType()), ("round", ir.FloatType(), half)):
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [given.as_pointer(), result.as_pointer()]), name)
        builder = ir.IRBuilder(function.append_basic_block())
        convert = builder.fpext if name == "widen" else builder.fptrunc
        builder.store(convert(builder.load(function.args[0]), result), function.args[1])
        builder.ret_void()
    triple, processor, features = machine()
    target = llvm.Target.from_triple(triple).create_target_machine(cpu=processor, features=features)
    return "hf2" not in target.emit_assembly(llvm.parse_assembly(str(module)))  # __extendhfsf2, __truncsfhf2


def _has(feature):
    _, _, features = machine()
    return f"+{feature}" in features.split(",")
