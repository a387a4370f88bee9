"""Link a kernel from its parts first, then optimize and emit machine code once.

Numba does both for every helper function by itself, and three times for the body of a parallel loop. Nothing ever calls
these parts on their own, so that this work is wasted. It is half of a kernel's compile time.

The compiler that asks for a library decides whether it is a part. Blocks and inline functions have a compiler of their
own (`PartCompiler`). So have kernels (`KernelCompiler`), whose parallel loops are lowered with a code generator that
makes parts (`_PartCodegen`). Other functions that are compiled meanwhile,
by another thread, a signal handler or a listener, are not affected.

This module uses private parts of Numba. ``jit`` does without it if its import or a compilation fails.
"""

import inspect
from typing import Any

import numba
from numba.core.base import BaseContext
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.cpu import CPUContext

from fastce.kernels.codegen.compiling import private_engine
from fastce.kernels.codegen.target import BYTES

_PACKAGE = __name__.partition(".")[0]
_MANGLED_PREFIX = f"_ZN{len(_PACKAGE)}{_PACKAGE}"  # of the names of this package's functions in LLVM's code

_USED_METHODS = (
    "add_ir_module",
    "codegen",
    "get_pointer_to_function",
    "_ensure_finalized",
    "_finalize_dynamic_globals",
    "_finalize_final_module",
    "_optimize_final_module",
    "_optimize_functions",
    "_verify_declare_only_symbols",
)


def _check_numba() -> None:
    """Raise AttributeError unless Numba has all that this module overrides or calls."""
    for name in _USED_METHODS:
        getattr(JITCodeLibrary, name)
    for owner, name in ((BaseContext, "subtarget"), (CPUContext, "codegen"), (Compiler, "compile_extra")):
        getattr(owner, name)
    if "pipeline_class" not in inspect.signature(numba.jit).parameters:
        raise AttributeError("numba.jit takes no pipeline_class")


_check_numba()


class _PartLibrary(JITCodeLibrary):
    """Code that is linked into a kernel and never optimized or loaded on its own."""

    def add_ir_module(self, module: Any) -> None:
        """Add code.

        A block stays a function of its own: its loop has all registers to itself. Its stack is aligned, so
        that a vector that it spills lies in one cache line.
        """
        for function in module.functions:
            is_ours = function.name.startswith(_MANGLED_PREFIX) and not function.is_declaration
            if is_ours and "alwaysinline" not in function.attributes:
                function.attributes.add("noinline")
                function.attributes.alignstack = BYTES
        super().add_ir_module(module)

    def _optimize_final_module(self) -> None:
        return

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return a null pointer: a part has no machine code."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """The object on which Numba sets the function's environment, which only exceptions and printing use."""
        return _NoEnvironment


class _NoEnvironment:
    @staticmethod
    def set_env(name: str, environment: object) -> None:
        return


class _KernelLibrary(JITCodeLibrary):
    """A kernel with all its parts, none of which has been optimized."""

    def _optimize_final_module(self) -> None:
        """Inline the parts, then simplify each function.

        Numba's full pipeline takes twice as long. It also unrolls loops, which slows narrow rows by a
        tenth on processors with 16 registers. Kernels need no vectorizer: they are vectors already.
        """
        passes, builder = self._codegen._module_pass_manager(
            loop_vectorize=False, slp_vectorize=False, opt=0, cost="cheap"
        )
        passes.add_global_dead_code_eliminate_pass()
        passes.run(self._final_module, builder)
        self._optimize_functions(self._final_module)


class _PartCodegen:
    """Numba's code generator, with libraries that are parts."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def create_library(self, name: str) -> JITCodeLibrary:
        return _PartLibrary(self._codegen, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)


class PartCompiler(Compiler):
    """The compiler of blocks and inline functions."""

    is_disabled = False  # module state: True for all compilers once linking has failed

    def compile_extra(self, func: Any) -> Any:
        """Compile a function, and all that its lowering compiles, into parts."""
        if PartCompiler.is_disabled:
            return super().compile_extra(func)
        return self._compile_into(_PartLibrary, self.state.targetctx, func)

    def _compile_into(self, library: type, context: Any, func: Any) -> Any:
        codegen = context.codegen()
        self.state.library = library(codegen, func.__qualname__)
        self.state.library.enable_object_caching()
        self.state.targetctx = context.subtarget(_internal_codegen=_PartCodegen(codegen))
        return super().compile_extra(func)


class KernelCompiler(PartCompiler):
    """The compiler of kernels."""

    def compile_extra(self, func: Any) -> Any:
        """Compile a function into a kernel, and all that its lowering compiles into its parts."""
        with private_engine(self.state.targetctx) as context:
            return self._compile_into(_KernelLibrary, context, func)
