"""Compile kernels and their helpers with Numba: flags, variants, signatures, entry points.

No other module calls Numba's compiler.

- A *block* is a helper that stays a function of its own in the machine code. An *inline* function is a helper that
  LLVM inlines into its callers. ``inline_for`` gives an inline function one implementation for each type of argument.
- A *kernel* is a function that Python calls. It is compiled on the first call with new types of arguments. It has two
  variants: the *parallel* one, and the *serial* one, in which ``prange`` is ``range``. The serial variant starts no
  thread and does not use Numba's threading layer.

Python calls a kernel through its compiled entry point, without Numba's dispatcher. Arguments are typed by role: every
array is "any layout". So C-ordered, strided and read-only arrays share one compilation, and a call saves the half
microsecond of overload resolution. The caller checks dtypes and shapes.

``link`` and ``cache`` use private parts of Numba, only to save compile time. Where these parts are not as expected,
Numba compiles kernels as it compiles any function.
"""

import functools
import pickle
import sys
import types as python_types
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import types
from numba.extending import overload

from fastce.kernels.codegen import cache, compiling, target
from fastce.kernels.codegen.borrowed import BorrowedArray

_PACKAGE = __name__.partition(".")[0]

# Module state, for `describe`: messages of the exceptions that turned something off.
link_failures: list[str] = []  # kernels are compiled without ``link``
cache_failures: list[str] = []  # compiled kernels are not written to disk


def _message_of(error: Exception) -> str:
    return str(error).partition(" (/")[0]  # without the path at the end of an ImportError


try:
    from fastce.kernels.codegen import link
except (AttributeError, ImportError) as error:
    link = None  # type: ignore[assignment]
    link_failures.append(_message_of(error))

# error_model: Python's ZeroDivisionError would put a branch behind every division.
# fastmath stays off: it breaks NaN, infinities and the range reduction of exp.
_FLAGS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
# Kernels need none of the parallel transformations but prange; the others cost compile time.
_PARALLEL_PASSES = {
    "prange": True,
    "comprehension": False,
    "fusion": False,
    "inplace_binop": False,
    "numpy": False,
    "reduction": False,
    "setitem": False,
    "stencil": False,
}

# Numba's global options that change the machine code; they are part of the cache's key.
_NUMBA_OPTIONS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")

# Only compiled code calls helpers.
_HELPER_FLAGS = {**_FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
if link is not None:
    _HELPER_FLAGS["pipeline_class"] = link.PartCompiler


def block(function: Callable[..., Any], forceinline: bool = False) -> Any:
    """Make a helper of a function; see the module's docstring."""
    helper = numba.njit(forceinline=forceinline, **_HELPER_FLAGS)(function)
    if numba.config.DISABLE_JIT:
        helper.py_func = function  # as compiled functions have
    else:
        compiling.helpers.append(helper)
    return helper


inline = functools.partial(block, forceinline=True)
inline_for = functools.partial(overload, jit_options={"forceinline": True, **_HELPER_FLAGS})


def _numba_type(argument: object) -> types.Type:
    if argument is None:
        return types.none
    if isinstance(argument, np.ndarray):
        return BorrowedArray(numba.from_dtype(argument.dtype), argument.ndim)
    if _has_fields(argument):  # the cached kernel names the class, which has to be importable
        return types.BaseTuple.from_types(tuple(map(_numba_type, argument)), type(argument))  # type: ignore[call-overload]
    if isinstance(argument, tuple):
        return types.UniTuple(types.float64, len(argument))  # plain tuples hold floats alone
    return {bool: types.boolean, int: types.intp, float: types.float64}[type(argument)]


def _has_fields(argument: object) -> bool:
    """Tell whether an argument is a NamedTuple."""
    return hasattr(argument, "_fields")


class Kernel:
    """A kernel's Python function and the entry points of its compiled variants.

    ``kernel(parallel, args)`` runs it. The first argument is an array, whose dtype and number of dimensions determine
    those of all other arrays. NamedTuples have the same positions in every call. Numba prunes the branches of an
    argument that is None, and of a field of a NamedTuple that is None, in helpers that take the field as an argument
    of their own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._sources = cache.sources(function.__module__)
        self._entries: dict[Any, Any] = {}
        self._with_fields: tuple[int, ...] = ()  # positions of the NamedTuples, from the first call

    def __call__(self, parallel: bool, args: tuple[Any, ...]) -> Any:
        """Run one variant; compile it first if these types of arguments are new."""
        return self.entry(parallel, args)(*args)

    def entry(self, parallel: bool, args: tuple[Any, ...]) -> Callable[..., Any]:
        """Return the entry point of one variant for arguments of these types."""
        x = args[0]
        if not self._entries:
            self._with_fields = tuple(i for i, argument in enumerate(args) if _has_fields(argument))
        key = (parallel, x.dtype.num, x.ndim, *map(type, args))
        for i in self._with_fields:
            key += (*map(type, args[i]),)
        if x.itemsize == 2:  # results may be wider
            key += tuple(a.dtype.num for a in args if type(a) is np.ndarray)
        entry = self._entries.get(key)
        if entry is None:
            with compiling.compiler_lock:  # another thread may have compiled it meanwhile
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._entries[key] = self._compile(parallel, args)
        return entry  # type: ignore[no-any-return]

    def _compile(self, parallel: bool, args: tuple[Any, ...]) -> Any:
        """Load a variant from the cache, or compile it; the caller holds the compiler's lock."""
        if numba.config.DISABLE_JIT:
            raise RuntimeError(
                "fastce is compiled by Numba, which NUMBA_DISABLE_JIT turns off; unset it before Python starts"
            )
        signature = tuple(map(_numba_type, args))
        key = self._key(parallel, signature)
        entry = _load(key)
        if entry is None:
            with compiling.isolated():
                return self._compile_variant(parallel, signature, key)
        return entry

    def _key(self, parallel: bool, signature: tuple[types.Type, ...]) -> cache.Key | None:
        """Return a variant's key in the cache; None without the sources, of which the key holds a digest."""
        if self._sources is None:
            return None
        name = _variant_name(self.function, parallel)
        mode = "portable" if target.PORTABLE else ""
        kernel: list[Any] = [self.function.__module__, name, signature, mode, target.machine()]
        kernel += [getattr(numba.config, option, None) for option in _NUMBA_OPTIONS]
        python = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
        made_of = [self._sources, numba.__version__, llvmlite.__version__, np.__version__, python]
        return cache.Key(name, "\n".join(map(str, kernel)), "\n".join(made_of))

    def _compile_variant(self, parallel: bool, signature: tuple[types.Type, ...], key: cache.Key | None) -> Any:
        """Compile a variant with ``link``; with Numba alone once that has failed."""
        if link is None or link.PartCompiler.is_disabled:
            return _compile_and_save(self.function, parallel, signature, key)
        try:
            return _compile_and_save(self.function, parallel, signature, key, pipeline_class=link.KernelCompiler)
        except Exception as error:
            if not _is_from_compiler(error):
                raise
            link.PartCompiler.is_disabled = True
            try:
                entry = _compile_and_save(self.function, parallel, signature, key)
            except BaseException:
                link.PartCompiler.is_disabled = False  # ``link`` was not the cause
                raise
            link_failures.append(_message_of(error))
            return entry


def _variant_name(function: Callable[..., Any], parallel: bool) -> str:
    return f"{function.__qualname__}_{'parallel' if parallel else 'serial'}"


def _compile_and_save(
    function: Callable[..., Any],
    parallel: bool,
    signature: tuple[types.Type, ...],
    key: cache.Key | None,
    **compiler: Any,
) -> Any:
    """Compile a variant, write it to the cache if it has a key, and return its entry point."""
    # Numba names machine code after the function, so each variant is a function with a name of its own.
    variant = python_types.FunctionType(function.__code__, function.__globals__, function.__name__)
    variant.__qualname__ = _variant_name(function, parallel)
    variant.__module__ = function.__module__
    options = {"parallel": _PARALLEL_PASSES if parallel else False, "no_cfunc_wrapper": True, **_FLAGS, **compiler}
    dispatcher = numba.njit(**options)(variant)
    entry = dispatcher.compile(signature)
    if key is not None:
        _save(dispatcher, signature, key)
    return entry if callable(entry) else dispatcher  # the latter with an unknown Numba


def _save(dispatcher: Any, signature: tuple[types.Type, ...], key: cache.Key) -> None:
    """Write a compiled variant to the cache."""
    try:
        from numba.core.serialize import dumps

        result = dispatcher.overloads[signature]
        symbols = _runtime_symbols().items()
        can_relink = all(llvmlite.binding.address_of_symbol(name) == address for name, address in symbols)
        # Dynamic globals are addresses, which differ in another process.
        if can_relink and not result.library.has_dynamic_globals:
            cache.save(key, dumps(result._reduce()))
    except Exception as error:
        if not _is_from_compiler(error):
            raise
        cache_failures.append(_message_of(error))


def _runtime_symbols() -> dict[str, int]:
    """Return the addresses of the functions of Numba's runtime, by the symbols that compiled code uses."""
    from numba.core.runtime import _nrt_python

    return {name if name[0] == "_" else f"NRT_{name}": value for name, value in _nrt_python.c_helpers.items()}


def _load(key: cache.Key | None) -> Any:
    """Return the entry point of a variant in the cache, or None.

    It skips Numba's typing, which only the compiler needs and which takes half a second to initialise.
    """
    code = None if key is None else cache.load(key)
    if code is None:
        return None
    try:
        from numba.core.compiler import CompileResult
        from numba.core.registry import cpu_target

        for name, address in _runtime_symbols().items():
            llvmlite.binding.add_symbol(name, address)
        with compiling.private_engine(cpu_target.target_context) as context:
            entry = CompileResult._rebuild(context, *pickle.loads(code)).entry_point
    except Exception as error:
        if not _is_from_compiler(error):
            raise
        return None
    return entry if callable(entry) else None  # None compiles the variant anew


def _is_from_compiler(error: Exception) -> bool:
    """Return whether the compiler raised an exception, and not a signal handler or listener that ran meanwhile."""
    modules, trace = set(), error.__traceback__
    while trace is not None:
        modules.add(trace.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        trace = trace.tb_next
    return modules <= {_PACKAGE, "numba", "llvmlite", "numpy", *sys.stdlib_module_names}


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a kernel of a function; see :class:`Kernel`."""
    return Kernel(function)


def describe() -> list[tuple[str, str]]:
    """Return lines for users, (subject, text): where compiled kernels are kept, and any fallback of the compiler."""
    if cache.sources(__name__) is None:
        place = "none: there are no sources, by which kernels of other releases would be known"
    elif cache_failures:
        place = f"none: it does not know Numba {numba.__version__} ({cache_failures[0]})"
    else:
        place = cache.place() or "none: no writable place of the user's own; NUMBA_CACHE_DIR names one"
    lines = [("kernel cache", place)]
    if numba.config.DISABLE_JIT:
        lines.append(("compiler", "none: NUMBA_DISABLE_JIT is set"))
    elif link_failures:
        lines.append(("compiler", f"Numba {numba.__version__} alone, which takes longer ({link_failures[0]})"))
    return lines
