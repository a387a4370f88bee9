"""The only place that calls Numba's compiler: flags, variants, signatures.

A *block* is a helper that kernels call; an *inline* one is put in the place of its calls, and
``inline_for`` makes one of what a formula is for each type. A *kernel* is an entry
point: one source, compiled on first use for the arguments' types, as a serial variant and as
a parallel one (``prange`` is ``range`` in the former). The serial variant starts no thread
and knows none of Numba's threading layers.

Kernels are called through their compiled entry points, not through Numba's dispatcher:
arguments are typed by role (every array is "any layout"), so that C-ordered, strided and
read-only arrays share one compilation, and half a microsecond of overload resolution goes.
The caller answers for dtypes and shapes.

What is private to Numba saves time and nothing else: how kernels are put together (``link``) and kept on
disk (``cache``). Where it is not as expected, Numba compiles kernels as it compiles any function.
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

_PACKAGE = __name__.partition(".")[0]
troubles: list[str] = []  # why kernels are not put together from parts
unkept: list[str] = []  # why they are not written to disk


def _told(error: Exception) -> str:
    return str(error).partition(" (/")[0]  # no paths


try:
    from fastce.kernels.codegen import link
except (AttributeError, ImportError) as error:
    link = None  # type: ignore[assignment]
    troubles.append(_told(error))

# Python's ZeroDivisionError would put a branch behind every division. fastmath stays off:
# it breaks NaN, infinities and the range reduction of exp.
_FLAGS = {"error_model": "numpy", "nogil": True}
# Only prange is wanted of the parallel transformations; the others cost compile time.
_PARALLEL = {
    "prange": True,
    "comprehension": False,
    "fusion": False,
    "inplace_binop": False,
    "numpy": False,
    "reduction": False,
    "setitem": False,
    "stencil": False,
}

# of Numba, which change what is compiled
_OPTIONS = ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT", "LOOP_VECTORIZE", "SLP_VECTORIZE")

# blocks are called by compiled code only
_INTERNAL = {**_FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_PART = {} if link is None else {"pipeline_class": link.PartCompiler}


def block(function: Callable[..., Any], forceinline: bool = False) -> Any:
    """Make a helper that kernels call."""
    helper = numba.njit(forceinline=forceinline, **_INTERNAL, **_PART)(function)
    if numba.config.DISABLE_JIT:
        helper.py_func = function  # as Numba's has
    else:
        compiling.helpers.append(helper)
    return helper


inline = functools.partial(block, forceinline=True)
inline_for = functools.partial(overload, jit_options={"forceinline": True, **_INTERNAL, **_PART})


def _numba_type(argument: object) -> types.Type:
    if argument is None:
        return types.none
    if isinstance(argument, np.ndarray):
        return types.Array(numba.from_dtype(argument.dtype), argument.ndim, "A")
    if _has_fields(argument):  # the cached kernel names the class, which has to be importable
        return types.BaseTuple.from_types(tuple(map(_numba_type, argument)), type(argument))  # type: ignore[call-overload]
    if isinstance(argument, tuple):
        return types.UniTuple(types.float64, len(argument))
    return {bool: types.boolean, int: types.intp, float: types.float64}[type(argument)]


def _has_fields(argument: object) -> bool:
    """Tell whether an argument is a NamedTuple."""
    return hasattr(argument, "_fields")


class Kernel:
    """One kernel source and its compiled variants.

    ``kernel(parallel, args)`` runs it. The first argument is an array whose dtype and
    dimensions settle those of all others; an argument that is None drops its branches from the compiled code.
    So does a field of a NamedTuple, in helpers that take the field as an argument of their own.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._sources = cache.sources(function.__module__)
        self._entries: dict[Any, Any] = {}
        self._with_fields: tuple[int, ...] = ()  # positions of the arguments that are NamedTuples

    def __call__(self, parallel: bool, args: tuple[Any, ...]) -> Any:
        """Run one variant, compiled first where these types are new."""
        return self.entry(parallel, args)(*args)

    def entry(self, parallel: bool, args: tuple[Any, ...]) -> Callable[..., Any]:
        """Return one variant's entry point for arguments of these types."""
        x = args[0]
        if not self._entries:
            self._with_fields = tuple(i for i, argument in enumerate(args) if _has_fields(argument))
        key = (parallel, x.dtype.num, x.ndim, *map(type, args))
        for i in self._with_fields:
            key += (*map(type, args[i]),)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._compile(parallel, args)
        return entry  # type: ignore[no-any-return]

    def _compile(self, parallel: bool, args: tuple[Any, ...]) -> Any:
        """Load or compile a variant."""
        if numba.config.DISABLE_JIT:
            raise RuntimeError(
                "fastce is compiled by Numba, which NUMBA_DISABLE_JIT turns off; unset it before Python starts"
            )
        signature = tuple(map(_numba_type, args))
        with compiling.lock:
            key = self._key(parallel, signature)
            entry = _loaded(key)
            if entry is None:
                with compiling.apart():
                    entry = self._compiled(parallel, signature, key)
        return entry

    def _key(self, parallel: bool, signature: tuple[types.Type, ...]) -> cache.Key | None:
        """Describe a variant to the cache; None where it cannot be told from one of other sources."""
        if self._sources is None:
            return None
        name = _name(self.function, parallel)
        kernel: list[Any] = [self.function.__module__, name, signature, _mode(), target.machine()]
        kernel += [getattr(numba.config, option, None) for option in _OPTIONS]
        python = f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
        made_of = [self._sources, numba.__version__, llvmlite.__version__, np.__version__, python]
        return cache.Key(name, "\n".join(map(str, kernel)), "\n".join(made_of))

    def _compiled(self, parallel: bool, signature: tuple[types.Type, ...], key: cache.Key | None) -> Any:
        """Compile a variant; by Numba alone where putting it together has failed, now or before."""
        if link is not None and not link.PartCompiler.is_off:
            try:
                return _compiled(self.function, parallel, signature, key, pipeline_class=link.KernelCompiler)
            except Exception as error:
                if not _is_numbas(error):
                    raise
                link.PartCompiler.is_off = True
                try:
                    entry = _compiled(self.function, parallel, signature, key)
                except BaseException:
                    link.PartCompiler.is_off = False  # that was not why
                    raise
                troubles.append(_told(error))
                return entry
        return _compiled(self.function, parallel, signature, key)


def _name(function: Callable[..., Any], parallel: bool) -> str:
    return f"{function.__qualname__}_{'parallel' if parallel else 'serial'}"


def _mode() -> str:
    """Return what else tells kernels of one source apart."""
    return "portable" if target.PORTABLE else ""


def _compiled(
    function: Callable[..., Any],
    parallel: bool,
    signature: tuple[types.Type, ...],
    key: cache.Key | None,
    **compiler: Any,
) -> Any:
    # what is compiled is named after the function
    variant = python_types.FunctionType(function.__code__, function.__globals__, function.__name__)
    variant.__qualname__ = _name(function, parallel)
    variant.__module__ = function.__module__
    options = {"parallel": _PARALLEL if parallel else False, "no_cfunc_wrapper": True, **_FLAGS, **compiler}
    dispatcher = numba.njit(**options)(variant)
    entry = dispatcher.compile(signature)
    if key is not None:
        _save(dispatcher, signature, key)
    return entry if callable(entry) else dispatcher


def _save(dispatcher: Any, signature: tuple[types.Type, ...], key: cache.Key) -> None:
    try:
        from numba.core.serialize import dumps

        result = dispatcher.overloads[signature]
        is_known = all(llvmlite.binding.address_of_symbol(name) == value for name, value in _runtime().items())
        # of dynamic globals, which are addresses, other processes have others
        if is_known and not result.library.has_dynamic_globals:
            cache.save(key, dumps(result._reduce()))
    except Exception as error:
        if not _is_numbas(error):
            raise
        unkept.append(_told(error))


def _runtime() -> dict[str, int]:
    """Return what Numba's runtime has for compiled code, by the names under which that looks for it."""
    from numba.core.runtime import _nrt_python

    return {name if name[0] == "_" else f"NRT_{name}": value for name, value in _nrt_python.c_helpers.items()}


def _loaded(key: cache.Key | None) -> Any:
    """Load a kernel without what only the compiler needs, all of Numba's typing: half a second of a process."""
    code = None if key is None else cache.load(key)
    if code is None:
        return None
    try:
        from numba.core.compiler import CompileResult
        from numba.core.registry import cpu_target

        for name, address in _runtime().items():
            llvmlite.binding.add_symbol(name, address)
        with compiling.engine(cpu_target.target_context) as context:
            entry = CompileResult._rebuild(context, *pickle.loads(code)).entry_point
    except Exception as error:
        if not _is_numbas(error):
            raise
        return None
    return entry if callable(entry) else None


def _is_numbas(error: Exception) -> bool:
    """Tell whether an exception comes of compiling, not of a signal handler or listener that ran meanwhile."""
    modules, trace = set(), error.__traceback__
    while trace is not None:
        modules.add(trace.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        trace = trace.tb_next
    return modules <= {_PACKAGE, "numba", "llvmlite", "numpy", *sys.stdlib_module_names}


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a kernel of a function; see :class:`Kernel`."""
    return Kernel(function)


def describe() -> list[tuple[str, str]]:
    """Return in words, by subject, where kernels are kept and what keeps them from being compiled as usual."""
    if cache.sources(__name__) is None:
        place = "none: there are no sources, by which kernels of other releases would be known"
    elif unkept:
        place = f"none: it does not know Numba {numba.__version__} ({unkept[0]})"
    else:
        place = cache.place() or "none: no writable place of the user's own; NUMBA_CACHE_DIR names one"
    lines = [("kernel cache", place)]
    if numba.config.DISABLE_JIT:
        lines.append(("compiler", "none: NUMBA_DISABLE_JIT is set"))
    elif troubles:
        lines.append(("compiler", f"Numba {numba.__version__} alone, which takes longer ({troubles[0]})"))
    return lines
