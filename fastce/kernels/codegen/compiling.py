"""Guard compilations against forks and against other compilations on the same thread.

Numba compiles one function at a time, under a lock. Two things can happen in the middle of a compilation all the same:

- Another compilation on the same thread, which the lock admits because it is reentrant. A signal handler, a listener to
  Numba's events or a finalizer may start one. `isolated` hides the outer compilation from it.
- A fork, on the same thread or on another one.

A fork on another thread waits for the compiler, as it waits for ``malloc`` and ``logging``. Otherwise the child could
compile and load nothing: it would inherit a lock that nobody releases, or LLVM's tables in the middle of a change.
The fork waits for at most ``FORK_TIMEOUT``, since functions of other packages may compile for minutes. After that the
child gets new locks and drops the unfinished compilation. It then uses LLVM in the state in which the fork found it.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

FORK_TIMEOUT = 10.0  # seconds that a fork waits for a lock: a kernel takes less, even on a busy machine

compiler_lock: Any
try:
    from numba.core.compiler_lock import global_compiler_lock as compiler_lock
except ImportError:
    compiler_lock = threading.RLock()

# Module state.
helpers: list[Any] = []  # the dispatchers of all blocks and inline functions
_idle_codegens: list[Any] = []  # code generators that `private_engine` has made and nobody uses
_held_locks: dict[int, list[Any]] = {}  # the owners of the locks that a forking thread has taken, by thread


def _nothing() -> None:
    return


def _hide_outer_compilations() -> Callable[[], None]:
    """Make Numba forget which functions it is compiling; return the function that restores them.

    Numba takes a function for recursive if it is being compiled and is called by the function to compile.
    """
    try:
        from numba.core.registry import cpu_target

        typing = cpu_target.typing_context
        if not len(typing.callstack):
            return _nothing
        saved = [(typing, "callstack", typing.callstack)]
        saved += [(helper, "_compiling_counter", helper._compiling_counter) for helper in helpers]
        for owner, name, value in saved:
            setattr(owner, name, type(value)())
    except (AttributeError, ImportError, TypeError):  # another version of Numba
        return _nothing

    def restore() -> None:
        for owner, name, value in saved:
            setattr(owner, name, value)

    return restore


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Compile as if no other compilation were unfinished; the caller holds the lock."""
    restore = _hide_outer_compilations()
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def private_engine(context: Any) -> Iterator[Any]:
    """Provide a target context with an LLVM engine that nothing else uses meanwhile.

    While an engine emits machine code, Numba runs Python code, and so signal handlers. If a handler compiles with
    the same engine, LLVM aborts the process.
    """
    try:
        codegen = _idle_codegens.pop() if _idle_codegens else type(context.codegen())("fastce")
        context = context.subtarget(_internal_codegen=codegen)
    except (AttributeError, NameError, TypeError):  # another version of Numba
        yield context
        return
    yield context
    _idle_codegens.append(codegen)  # not after an exception, which may leave the engine in any state


# --- forks -------------------------------------------------------------------


def _lock_owners() -> list[Any]:
    """Return the objects whose ``_lock`` is a lock of the compiler, in the order in which threads take them."""
    owners = [compiler_lock]
    with contextlib.suppress(ImportError, AttributeError):
        from llvmlite.binding import ffi

        owners.append(ffi.lib._lock)
    return [owner for owner in owners if hasattr(getattr(owner, "_lock", None), "release")]


def _before_fork() -> None:
    held = [owner for owner in _lock_owners() if owner._lock.acquire(timeout=FORK_TIMEOUT)]
    _held_locks[threading.get_ident()] = held


def _after_fork_in_parent() -> None:
    for owner in reversed(_held_locks.pop(threading.get_ident(), [])):
        owner._lock.release()


def _after_fork_in_child() -> None:
    held = _held_locks.pop(threading.get_ident(), [])
    _held_locks.clear()
    for owner in reversed(_lock_owners()):
        if owner in held:
            owner._lock.release()
        else:
            owner._lock = threading.RLock()
    if compiler_lock not in held:
        _hide_outer_compilations()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
