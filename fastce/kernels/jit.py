"""The only place that calls Numba's compiler: flags, twins, signatures and the disk cache.

A *block* is a helper that kernels call; an *inline* one is put in the place of its calls, and
``inline_for`` makes one of what a formula is for each type. A *kernel* is an entry
point: one source, compiled on first use for the arguments' types, as a serial twin and as
a parallel one (``prange`` is ``range`` in the former). The serial twin starts no thread
and knows none of Numba's threading layers.

Kernels are called through their compiled entry points, not through Numba's dispatcher:
arguments are typed by role (every array is "any layout"), so that C-ordered, strided and
read-only arrays share one compilation, and half a microsecond of overload resolution goes.
The caller answers for dtypes and shapes.
"""

import functools
import hashlib
import types as python_types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)
from numba.core.runtime import rtsys
from numba.extending import overload

from fastce.kernels.assembly import assembled
from fastce.kernels.simd import PORTABLE

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

# blocks are called by compiled code only
_INTERNAL = {**_FLAGS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

block = numba.njit(forceinline=False, **_INTERNAL)
inline = numba.njit(forceinline=True, **_INTERNAL)
inline_for = functools.partial(overload, jit_options={"forceinline": True, **_INTERNAL})


@functools.cache
def _sources() -> str:
    """Digest every kernel source: a change in a helper outdates all that call it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _WholeSource:
    def get_source_stamp(self) -> str:
        return _sources()


class _UserProvided(_WholeSource, UserProvidedCacheLocator):
    pass


class _InTree(_WholeSource, InTreeCacheLocator):
    pass


class _UserWide(_WholeSource, UserWideCacheLocator):
    pass


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_UserProvided, _InTree, _UserWide]  # noqa: RUF012 (Numba's name)


class _Cache(FunctionCache):
    """Numba's cache, stamped with all kernel sources, that never makes a call fail."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Load a kernel without what only the compiler needs, all of Numba's typing: half a second of a process."""
        try:
            rtsys.initialize(target_context)
            return self._load_overload(sig, target_context)
        except Exception:  # truncated, foreign or vanished files: compile instead
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:  # no space, no permission: work without
            return


def _numba_type(argument: object) -> types.Type:
    if argument is None:
        return types.none
    if isinstance(argument, np.ndarray):
        return types.Array(numba.from_dtype(argument.dtype), argument.ndim, "A")
    if isinstance(argument, tuple):
        return types.UniTuple(types.float64, len(argument))
    return {bool: types.boolean, int: types.intp, float: types.float64}[type(argument)]


class Kernel:
    """One kernel source and its compiled twins.

    ``kernel(parallel, args)`` runs it. The first argument is an array whose dtype and
    dimensions settle those of all others; an argument that is None drops its branches from the compiled code.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._entries: dict[Any, Any] = {}

    def __call__(self, parallel: bool, args: tuple[Any, ...]) -> Any:
        """Run one twin, compiled first where these types are new."""
        return self.entry(parallel, args)(*args)

    def entry(self, parallel: bool, args: tuple[Any, ...]) -> Callable[..., Any]:
        """Return one twin's entry point for arguments of these types."""
        x = args[0]
        key = (parallel, x.dtype.num, x.ndim, *map(type, args))
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._compile(parallel, args)
        return entry  # type: ignore[no-any-return]

    def _compile(self, parallel: bool, args: tuple[Any, ...]) -> Any:
        dispatcher = self._twins[parallel]
        signature = tuple(map(_numba_type, args))
        with assembled(dispatcher):
            dispatcher.compile(signature)
        return dispatcher.overloads[signature].entry_point

    @functools.cached_property
    def _twins(self) -> tuple[Any, Any]:
        return self._twin("serial", False), self._twin("parallel", _PARALLEL)

    def _twin(self, name: str, parallel: Any) -> Any:
        source = self.function
        # the cache tells functions apart by their qualified names, not by their flags
        copy = python_types.FunctionType(source.__code__, source.__globals__, source.__name__)
        copy.__qualname__ = f"{source.__qualname__}_{name}" + ("_portable" if PORTABLE else "")
        copy.__module__ = source.__module__
        dispatcher = numba.njit(parallel=parallel, no_cfunc_wrapper=True, **_FLAGS)(copy)
        try:
            dispatcher._cache = _Cache(copy)
        except RuntimeError:  # no writable place for a cache
            pass
        return dispatcher


def cache_place() -> str | None:
    """Return the folder of the disk cache, None where there is none."""
    try:
        return str(_Cache(cache_place).cache_path)
    except RuntimeError:
        return None


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a kernel of a function; see :class:`Kernel`."""
    return Kernel(function)
