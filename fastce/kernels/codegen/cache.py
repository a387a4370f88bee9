"""Compiled kernels on disk: one file for each variant, without an index.

A file's name holds a digest of the kernel (function, types, processor) and one of its origin (sources, versions). The
file holds a digest of the rest, the whole key, and the code. The code is used only if digest and key are right, so a
damaged or foreign file is compiled anew and replaced. A new file is written under another name in the same folder and
then renamed, so no process ever reads half a file.

The code is a pickle, so the cache trusts a folder or file only if it belongs to the user or to root and not everybody
may write to it. A folder with the sticky bit, such as ``/tmp``, is trusted: everybody may add files to it, but
replace only their own. A folder may be shared with a group; files of its other members are not trusted.

Kernels are written to the first writable folder. The folders before it are only read: root may have filled them.
"""

import contextlib
import functools
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba

_FORMAT = b"fastce kernel 1\n"
_SUFFIX = ".fastce"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LENGTH_BYTES = 4  # of the field that holds the length of the key
_MAX_FILE_BYTES = 1 << 26  # larger files are ignored: no kernel is so large
_OUTDATED_FILES = 3  # files of the same kernel, from other sources or versions, that a new file leaves in place
_ABANDONED_SECONDS = 3600  # after which a file that was never renamed is removed


class Key(NamedTuple):
    """The identity of a compiled variant."""

    name: str  # for people who read the names of files
    kernel: str  # function, flags, types, processor
    made_of: str  # a digest of the sources, versions of packages

    @property
    def stem(self) -> str:
        """The beginning of the names of all files of this kernel, from any sources and versions."""
        return f"{re.sub(r'[^0-9A-Za-z_]', '_', self.name)[:80]}.{_short_digest(self.kernel)}."

    @property
    def file(self) -> str:
        """The name of this kernel's file."""
        return f"{self.stem}{_short_digest(self.made_of)}{_SUFFIX}"

    @property
    def text(self) -> bytes:
        """The key as it stands in the file."""
        return "\n".join(self).encode("utf-8", "surrogateescape")


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


# --- places ------------------------------------------------------------------


def _places() -> Iterator[str]:
    """Yield the folders that may hold kernels, in the order of preference."""
    if numba.config.CACHE_DIR:
        yield os.path.join(numba.config.CACHE_DIR, "fastce")
    yield os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")
    caches = _user_caches()
    if os.path.isabs(caches):  # there may be no home
        yield os.path.join(caches, "fastce")


def _user_caches() -> str:
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA", "")
    if sys.platform == "darwin":
        return os.path.expanduser("~/Library/Caches")
    return os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")


def _is_trusted(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to the user or root, and not everybody may change or replace it."""
    if not hasattr(os, "geteuid"):
        return True
    if status.st_uid not in (os.geteuid(), 0):
        return False
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(is_sticky or not status.st_mode & stat.S_IWOTH)


def _folders() -> Iterator[tuple[str, bool]]:
    """Yield (folder, is writable) up to the first writable folder, which is the last to be used."""
    for folder in _places():
        with contextlib.suppress(OSError, ValueError):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        with contextlib.suppress(OSError, ValueError):
            if _is_trusted(os.stat(folder)):
                can_write = os.access(folder, os.W_OK | os.X_OK)
                yield folder, can_write
                if can_write:
                    return


def place() -> str | None:
    """Return the folder that kernels are written to, or None."""
    return next((folder for folder, can_write in _folders() if can_write), None)


# --- files -------------------------------------------------------------------


def load(key: Key) -> bytes | None:
    """Return the code of a kernel, or None without a file that is whole and trusted."""
    for folder, _ in _folders():
        with contextlib.suppress(OSError):
            code = _unpack(_read(os.path.join(folder, key.file)), key)
            if code is not None:
                return code
    return None


def _read(path: str) -> bytes:
    # O_NONBLOCK: opening a pipe must not wait for a writer
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_trusted(status) or status.st_size > _MAX_FILE_BYTES:
            return b""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _pack(code: bytes, key: Key) -> bytes:
    body = len(key.text).to_bytes(_LENGTH_BYTES, "big") + key.text + code
    return _FORMAT + hashlib.sha256(body).digest() + body


def _unpack(data: bytes, key: Key) -> bytes | None:
    """Return the code in a file's bytes, or None if any of them is wrong."""
    digest_at, body_at = len(_FORMAT), len(_FORMAT) + _DIGEST_BYTES
    head = data[:digest_at] + data[body_at : body_at + _LENGTH_BYTES + len(key.text)]
    if head != _FORMAT + len(key.text).to_bytes(_LENGTH_BYTES, "big") + key.text:
        return None
    if hashlib.sha256(memoryview(data)[body_at:]).digest() != data[digest_at:body_at]:
        return None
    return data[body_at + _LENGTH_BYTES + len(key.text) :]


def save(key: Key, code: bytes) -> None:
    """Write a kernel, if there is a writable folder with room for it."""
    folder = place()
    if folder is not None:
        with contextlib.suppress(OSError):
            _write(os.path.join(folder, key.file), _pack(code, key))
            _remove_old(folder, key)


def _write(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    # others may read: root often compiles the kernels of a container's image, and another user runs them
    descriptor = os.open(temporary, flags, 0o644)
    try:
        try:
            remaining = memoryview(data)
            while remaining:  # a write to a disk that is nearly full may be short
                remaining = remaining[os.write(descriptor, remaining) :]
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _remove_old(folder: str, key: Key) -> None:
    """Remove the oldest files of this kernel, and temporary files of killed processes."""
    outdated, abandoned = [], []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(key.stem) and entry.name.endswith(_SUFFIX) and entry.name != key.file:
                outdated.append((entry.stat().st_mtime, entry.path))
            elif f"{_SUFFIX}." in entry.name and time.time() - entry.stat().st_mtime > _ABANDONED_SECONDS:
                abandoned.append(entry.path)
    for path in abandoned + [path for _, path in sorted(outdated, reverse=True)[_OUTDATED_FILES:]]:
        with contextlib.suppress(OSError):
            os.unlink(path)


# --- sources -----------------------------------------------------------------

_PACKAGE = __name__.partition(".")[0]
_IMPORT = re.compile(rf"^ *(?:from +({_PACKAGE}[\w.]*) +import +(\([^)]*\)|[^\n]*)|import +({_PACKAGE}[^\n]*))", re.M)


def _cached_per_import(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Cache a function of a module's name until the module is imported again."""
    results: dict[str, tuple[object, Any]] = {}  # module state: (spec of the module, result) by name

    @functools.wraps(function)
    def cached(name: str) -> Any:
        spec = sys.modules[name].__spec__
        if name not in results or results[name][0] is not spec:
            results[name] = spec, function(name)
        return results[name][1]

    return cached


@_cached_per_import
def sources(module: str) -> str | None:
    """Return a digest of the sources of a module and of all modules of this package that it imports, also indirectly.

    Return None if one of them has no source. Call it while the module is imported: the files may be edited later.
    """
    digests: dict[str, bytes] = {}
    pending = {module}
    while pending:
        name = pending.pop()
        source = _source(name)
        if source is None:
            return None
        digests[name], imported = source
        pending |= {other for other in imported if other in sys.modules and other not in digests}
    digest = hashlib.sha256()
    for name in sorted(digests):
        digest.update(name.encode() + b"\n" + digests[name])
    return digest.hexdigest()


@_cached_per_import
def _source(name: str) -> tuple[bytes, frozenset[str]] | None:
    """Return (digest, names of imported modules) of a module's source, or None without a source."""
    spec = sys.modules[name].__spec__
    path = getattr(spec, "origin", None) or ""
    if not path.endswith(".py"):
        return None  # frozen or compiled: the file does not change with the release
    try:
        data = spec.loader.get_data(path)
    except Exception:  # a loader may raise anything
        return None
    return hashlib.sha256(data).digest(), frozenset(imports(data.decode("utf-8", "replace")))


def imports(source: str) -> Iterator[str]:
    """Yield the modules of this package that a source imports; some of the names may be of objects in modules."""
    for package, names, plain in _IMPORT.findall(source):
        for name in re.findall(r"[\w.]+", re.sub(r"#[^\n]*| as +\w+", "", names or plain)):
            yield f"{package}.{name}" if package else name
        if package:
            yield package
