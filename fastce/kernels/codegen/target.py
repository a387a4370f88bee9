"""The processor that kernels are compiled for: its name, its instructions, and the width of a SIMD value."""

import functools
import os

import llvmlite.binding as llvm
import numba
from llvmlite import ir

BYTES = 64  # of one SIMD value, and of a cache line; LLVM splits a value where registers are narrower
# Module state: whether results have the same bits on every processor. Kernels read it when they are compiled.
PORTABLE = os.environ.get("FASTCE_PORTABLE", "0") not in ("", "0")


def machine() -> tuple[str, str, str]:
    """Return (triple, processor, features) of the target, which environment variables of Numba's can set."""
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
    """Return whether the target has AVX-512: masked operations at full speed, and table lookups in registers."""
    return _has("avx512f")


def uses_avx512_algorithms() -> bool:
    """Return whether kernels use algorithms for AVX-512 whose results differ in their last bits from the others."""
    return has_avx512() and not PORTABLE


def has_bfloat16():
    """Return whether the target has an instruction that rounds to bfloat16."""
    return _has("avx512bf16")


@functools.cache
def has_float16():
    """Return whether the target has instructions that convert float16.

    Elsewhere LLVM calls library functions that some processes lack, or that pass float16 in other registers. The
    test looks for these calls in the machine code of a conversion, since lists of features may be empty.
    """
    module = ir.Module()
    half, single = ir.HalfType(), ir.FloatType()
    for name, source, result in (("widen", half, single), ("round", single, half)):
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [source.as_pointer(), result.as_pointer()]), name)
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
