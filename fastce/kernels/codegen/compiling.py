"""What goes on around a compilation: its lock, forks in other threads, and compilations within one another.

Numba compiles one function at a time. A signal handler, a listener to Numba's events or what the garbage collector
calls may compile too, in the midst of it, on the same thread, which the lock lets through; so may a fork come in
the midst of it, on another thread.

A fork waits for the compiler, as it does for ``malloc`` and for ``logging``: a child that was forked
while LLVM changed its tables, or held a lock, could compile and load nothing. It waits no longer than ``PATIENCE``,
as others' functions may take minutes; the child then has new locks, and whatever was under way is set aside.
That LLVM was left between two calls then has to do.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 10.0  # seconds: more than a kernel takes on a busy machine

try:
    from numba.core import compiler_lock
except ImportError:
    lock: Any = threading.RLock()
else:
    lock = getattr(compiler_lock, "global_compiler_lock", threading.RLock())

helpers: list[Any] = []  # all blocks and inlines


def _nothing() -> None:
    return


def _set_aside() -> Callable[[], None]:
    """Have Numba forget what is being compiled; return what makes it remember.

    It takes a function that is being compiled, and is called by another, for a recursive one.
    """
    try:
        from numba.core.registry import cpu_target

        typing = cpu_target.typing_context
        if not len(typing.callstack):
            return _nothing
        before = [(typing, "callstack", typing.callstack)]
        before += [(helper, "_compiling_counter", helper._compiling_counter) for helper in helpers]
        for owner, name, value in before:
            setattr(owner, name, type(value)())
    except (AttributeError, ImportError, TypeError):  # a Numba that does otherwise
        return _nothing

    def remember() -> None:
        for owner, name, value in before:
            setattr(owner, name, value)

    return remember


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Compile as if nothing else were being compiled; the lock is held."""
    remember = _set_aside()
    try:
        yield
    finally:
        remember()


_idle: list[Any] = []  # code generators


@contextlib.contextmanager
def engine(context: Any) -> Iterator[Any]:
    """Lend a target context with an LLVM engine that nothing else uses.

    While an engine makes machine code, Numba looks at its objects, which lets signal handlers run; what
    these compile with the same engine ends the process.
    """
    try:
        codegen = _idle.pop() if _idle else type(context.codegen())("fastce")
        context = context.subtarget(_internal_codegen=codegen)
    except (AttributeError, NameError, TypeError):  # a Numba that does otherwise
        yield context
        return
    yield context
    _idle.append(codegen)  # unless it was left in the midst of it


# --- forks -------------------------------------------------------------------


def _owners() -> list[Any]:
    """Return what has a lock of the compiler's in ``_lock``, in the order in which they are taken."""
    owners = [lock]
    with contextlib.suppress(ImportError, AttributeError):
        from llvmlite.binding import ffi

        owners.append(ffi.lib._lock)
    return [owner for owner in owners if hasattr(getattr(owner, "_lock", None), "release")]


_taken: dict[int, list[Any]] = {}  # locks by the thread that forks


def _before_fork() -> None:
    _taken[threading.get_ident()] = [owner for owner in _owners() if owner._lock.acquire(timeout=PATIENCE)]


def _after_fork_in_parent() -> None:
    for owner in reversed(_taken.pop(threading.get_ident(), [])):
        owner._lock.release()


def _after_fork_in_child() -> None:
    taken = _taken.pop(threading.get_ident(), [])
    _taken.clear()
    for owner in reversed(_owners()):
        if owner in taken:
            owner._lock.release()
        else:
            owner._lock = threading.RLock()
    if lock not in taken:
        _set_aside()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
