"""How a kernel is put together from its parts: they are optimized and made machine code once, in it.

Numba does both to every helper, and three times to the body of a parallel loop. Parts are
never called on their own, so that this would only cost time: half of what a kernel takes to compile.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock

from fastce.kernels.simd import BYTES


class _Part(JITCodeLibrary):
    """Code that is only ever linked into a kernel."""

    def add_ir_module(self, module: Any) -> None:
        """Add code.

        A block stays a function of its own, so that its loop has the registers to itself, and
        what it spills of them lies in one cache line.
        """
        for function in module.functions:
            is_ours = function.name.startswith("_ZN6fastce") and not function.is_declaration
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


@contextlib.contextmanager
def assembled(dispatcher: Any) -> Iterator[None]:
    """Have everything that is compiled in this context be a part of what the dispatcher compiles."""

    def create_library(name: str) -> JITCodeLibrary:
        is_kernel = name == dispatcher.py_func.__qualname__
        return (_Kernel if is_kernel else _Part)(codegen, name)

    with global_compiler_lock:
        codegen = dispatcher.targetctx.codegen()
        codegen.create_library = create_library
        try:
            yield
        finally:
            del codegen.create_library
