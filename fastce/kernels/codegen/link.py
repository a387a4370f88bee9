"""How a kernel is put together from its parts: they are optimized and made machine code once, in it.

Numba does both to every helper, and three times to the body of a parallel loop. Parts are
never called on their own, so that this would only cost time: half of what a kernel takes to compile.

What is a part depends on who asks for it: blocks and inlines have a compiler of their own, and so has a kernel,
whose loops are lowered with a code generator that makes parts. Whatever else is compiled meanwhile, in
another thread, a signal handler or a listener, is compiled as ever.

All of this is private to Numba. ``jit`` does without where this module cannot be imported, or fails.
"""

import inspect
from typing import Any

import numba
from numba.core.base import BaseContext
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.cpu import CPUContext

from fastce.kernels.codegen.compiling import engine
from fastce.kernels.codegen.target import BYTES

_PACKAGE = __name__.partition(".")[0]
_MANGLED = f"_ZN{len(_PACKAGE)}{_PACKAGE}"  # how the names of this package's functions begin in LLVM's code

_OVERRIDDEN = (
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


def _check() -> None:
    """Raise AttributeError where Numba has no place for what is put there."""
    for name in _OVERRIDDEN:
        getattr(JITCodeLibrary, name)
    for owner, name in ((BaseContext, "subtarget"), (CPUContext, "codegen"), (Compiler, "compile_extra")):
        getattr(owner, name)
    if "pipeline_class" not in inspect.signature(numba.jit).parameters:
        raise AttributeError("numba.jit takes no pipeline_class")


_check()


class _Part(JITCodeLibrary):
    """Code that is only ever linked into a kernel."""

    def add_ir_module(self, module: Any) -> None:
        """Add code.

        A block stays a function of its own, so that its loop has the registers to itself, and
        what it spills of them lies in one cache line.
        """
        for function in module.functions:
            is_ours = function.name.startswith(_MANGLED) and not function.is_declaration
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
        """Return the address of no function."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """What Numba gives the function's environment to, which serves exceptions and printing."""
        return _NoEnvironment


class _NoEnvironment:
    @staticmethod
    def set_env(name: str, environment: object) -> None:
        return


class _Kernel(JITCodeLibrary):
    """A kernel with all its parts, which have not been optimized before."""

    def _optimize_final_module(self) -> None:
        """Put the parts in their places and simplify each function.

        Numba's full program takes twice as long and unrolls loops, which slows narrow rows by a
        tenth on processors with 16 registers: kernels are vectors already.
        """
        passes, builder = self._codegen._module_pass_manager(
            loop_vectorize=False, slp_vectorize=False, opt=0, cost="cheap"
        )
        passes.add_global_dead_code_eliminate_pass()
        passes.run(self._final_module, builder)
        self._optimize_functions(self._final_module)


class _PartCodegen:
    """Numba's code generator, but that it makes parts."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def create_library(self, name: str) -> JITCodeLibrary:
        return _Part(self._codegen, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)


class PartCompiler(Compiler):
    """Compiles a block or an inline function."""

    is_off = False  # for all, once it has failed

    def compile_extra(self, func: Any) -> Any:
        """Compile a function, and what its lowering compiles, into parts."""
        if PartCompiler.is_off:
            return super().compile_extra(func)
        return self._compile_into(_Part, self.state.targetctx, func)

    def _compile_into(self, library: type, context: Any, func: Any) -> Any:
        codegen = context.codegen()
        self.state.library = library(codegen, func.__qualname__)
        self.state.library.enable_object_caching()
        self.state.targetctx = context.subtarget(_internal_codegen=_PartCodegen(codegen))
        return super().compile_extra(func)


class KernelCompiler(PartCompiler):
    """Compiles a kernel, of parts."""

    def compile_extra(self, func: Any) -> Any:
        """Compile a function, and what its lowering compiles, into a kernel."""
        with engine(self.state.targetctx) as context:
            return self._compile_into(_Kernel, context, func)
