"""Compiled kernels on disk: one file each, without an index.

A file is named by the kernel (its name, types and processor) and by what it was made of (sources, versions).
Inside stand a digest of all that follows, the whole key again, and the code. Nothing of a file is used before both
are found right, so that a damaged or a foreign one is compiled anew and replaced. Files are written elsewhere in
their folder and renamed, so that none is ever seen half-written.

The code is a pickle. Folders and files that belong to neither the user nor root, or that everybody may write to,
are passed over; a folder with the sticky bit, such as ``/tmp``, is not, as everybody can put files there but
replace none. A folder may be shared with a group: files of its other members are passed over.

Kernels are written to the first folder that can be written to. Those before it are read: root may have filled them.
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
_DIGEST = hashlib.sha256().digest_size
_LENGTH = 4  # bytes of the key's length
_MOST = 1 << 26  # bytes of a file: no kernel has so many, and a damaged file may claim any number
_OLDER = 3  # files of the same kernel, of other sources or versions, that a new one leaves alone
_ABANDONED = 3600  # seconds after which a file that was never renamed is removed


class Key(NamedTuple):
    """What tells a compiled kernel from all others."""

    name: str  # for people who look into the folder
    kernel: str  # which it is: function, flags, types, processor
    made_of: str  # sources and versions

    @property
    def stem(self) -> str:
        """What the names of all files of this kernel begin with, whatever they are made of."""
        return f"{re.sub(r'[^0-9A-Za-z_]', '_', self.name)[:80]}.{_short(self.kernel)}."

    @property
    def file(self) -> str:
        """The name of this kernel's file."""
        return f"{self.stem}{_short(self.made_of)}{_SUFFIX}"

    @property
    def text(self) -> bytes:
        """What is compared with the key inside a file."""
        return "\n".join(self).encode("utf-8", "surrogateescape")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:20]


# --- places ------------------------------------------------------------------


def _places() -> Iterator[str]:
    """Yield the folders where kernels may lie, the preferred first."""
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
    """Tell whether only the user and root can have written there, or to a folder replaced something there."""
    if not hasattr(os, "geteuid"):
        return True
    if status.st_uid not in (os.geteuid(), 0):
        return False
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    return bool(is_sticky or not status.st_mode & stat.S_IWOTH)


def _folders() -> Iterator[tuple[str, bool]]:
    """Yield (folder, whether it can be written to) up to the first of the latter: those behind it are not used."""
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
    """Return the folder that kernels are written to, None where there is none."""
    return next((folder for folder, can_write in _folders() if can_write), None)


# --- files -------------------------------------------------------------------


def load(key: Key) -> bytes | None:
    """Return the code of a kernel, None where there is none, or none that is whole and can be trusted."""
    for folder, _ in _folders():
        with contextlib.suppress(OSError):
            code = _unwrapped(_read(os.path.join(folder, key.file)), key)
            if code is not None:
                return code
    return None


def _read(path: str) -> bytes:
    # what waits for a writer, as a pipe does, is not waited for
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_trusted(status) or status.st_size > _MOST:
            return b""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _wrapped(code: bytes, key: Key) -> bytes:
    body = len(key.text).to_bytes(_LENGTH, "big") + key.text + code
    return _FORMAT + hashlib.sha256(body).digest() + body


def _unwrapped(data: bytes, key: Key) -> bytes | None:
    """Return the code within a file's bytes, None unless all of them are right."""
    digest_at, body_at = len(_FORMAT), len(_FORMAT) + _DIGEST
    head = data[:digest_at] + data[body_at : body_at + _LENGTH + len(key.text)]
    if head != _FORMAT + len(key.text).to_bytes(_LENGTH, "big") + key.text:
        return None
    if hashlib.sha256(memoryview(data)[body_at:]).digest() != data[digest_at:body_at]:
        return None
    return data[body_at + _LENGTH + len(key.text) :]


def save(key: Key, code: bytes) -> None:
    """Write a kernel, if there is a place and it has room."""
    folder = place()
    if folder is not None:
        with contextlib.suppress(OSError):
            _write(os.path.join(folder, key.file), _wrapped(code, key))
            _tidy(folder, key)


def _write(path: str, data: bytes) -> None:
    aside = f"{path}.{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    # others may read: an image's kernels are often compiled by root and run by somebody else
    descriptor = os.open(aside, flags, 0o644)
    try:
        try:
            left = memoryview(data)
            while left:  # a disk that is nearly full takes a part
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise


def _tidy(folder: str, key: Key) -> None:
    """Remove the oldest files of this kernel, and what killed processes have left."""
    others, abandoned = [], []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(key.stem) and entry.name.endswith(_SUFFIX) and entry.name != key.file:
                others.append((entry.stat().st_mtime, entry.path))
            elif f"{_SUFFIX}." in entry.name and time.time() - entry.stat().st_mtime > _ABANDONED:
                abandoned.append(entry.path)
    for path in abandoned + [path for _, path in sorted(others, reverse=True)[_OLDER:]]:
        with contextlib.suppress(OSError):
            os.unlink(path)


# --- sources -----------------------------------------------------------------

_PACKAGE = __name__.partition(".")[0]
_IMPORT = re.compile(rf"^ *(?:from +({_PACKAGE}[\w.]*) +import +(\([^)]*\)|[^\n]*)|import +({_PACKAGE}[^\n]*))", re.M)


def _once_an_import(function: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have a function of a module computed again only where the module has been loaded again."""
    known: dict[str, tuple[object, Any]] = {}

    @functools.wraps(function)
    def of_module(name: str) -> Any:
        spec = sys.modules[name].__spec__
        if name not in known or known[name][0] is not spec:
            known[name] = spec, function(name)
        return known[name][1]

    return of_module


@_once_an_import
def sources(module: str) -> str | None:
    """Digest the source of a module and of all those of this package that it imports, however indirectly.

    Called while the module is imported: later, the files may have been edited. None where one has no source.
    """
    found: dict[str, bytes] = {}
    pending = {module}
    while pending:
        name = pending.pop()
        source = _source(name)
        if source is None:
            return None
        found[name], imported = source
        pending |= {other for other in imported if other in sys.modules and other not in found}
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(name.encode() + b"\n" + found[name])
    return digest.hexdigest()


@_once_an_import
def _source(name: str) -> tuple[bytes, frozenset[str]] | None:
    """Return (digest, names of imported modules) of a module's source."""
    spec = sys.modules[name].__spec__
    path = getattr(spec, "origin", None) or ""
    if not path.endswith(".py"):
        return None  # frozen, or compiled: such a file tells nothing of its release
    try:
        data = spec.loader.get_data(path)
    except Exception:  # a loader may raise anything
        return None
    return hashlib.sha256(data).digest(), frozenset(imports(data.decode("utf-8", "replace")))


def imports(source: str) -> Iterator[str]:
    """Yield the names of this package's modules that a source imports; some may be names of what is in them."""
    for package, names, plain in _IMPORT.findall(source):
        for name in re.findall(r"[\w.]+", re.sub(r"#[^\n]*| as +\w+", "", names or plain)):
            yield f"{package}.{name}" if package else name
        if package:
            yield package
