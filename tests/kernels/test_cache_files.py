"""Files of the disk cache: damaged, cut short, killed while written, others', and what outdates them."""

import ast
import gc
import os
import shutil
import sys
import time
from pathlib import Path

import numba
import pytest

from fastce.kernels.codegen import cache
from tests.helpers import ROOT, in_new_process

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX owners and modes")
KEY = cache.Key("softmax_serial", "array(float32, 2d, A)\nznver4", "sources\n0.62")
CODE = bytes(range(256))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path / "fastce"


@pytest.fixture
def path(folder):
    """The file of a kernel that was kept."""
    cache.save(KEY, CODE)
    (path,) = folder.iterdir()
    return path


def test_what_was_kept_is_found(path):
    assert cache.load(KEY) == CODE
    assert cache.place() == str(path.parent)
    assert path.name.startswith("softmax_serial.")


@pytest.mark.parametrize("field", cache.Key._fields)
def test_other_kernels_have_other_files(path, field):
    other = KEY._replace(**{field: "other"})
    assert cache.load(other) is None
    cache.save(other, b"other")
    assert cache.load(KEY) == CODE
    assert cache.load(other) == b"other"


@pytest.mark.parametrize("field", cache.Key._fields)
def test_a_file_under_anothers_name(path, field):
    """Seen to fail: where the key inside is not looked at."""
    other = KEY._replace(**{field: "other"})
    shutil.copy(path, path.parent / other.file)
    assert cache.load(other) is None


def test_any_byte_changed(path):
    """Seen to fail: with a digest of the code alone, for the bytes of the key and of its length."""
    whole = path.read_bytes()
    for i in range(len(whole)):
        for flipped in (1, 128):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ flipped]) + whole[i + 1 :])
            assert cache.load(KEY) is None, i
    cache.save(KEY, CODE)
    assert cache.load(KEY) == CODE


def test_any_length(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache.load(KEY) is None, length
    for more in (b"\0", bytes(4096), whole):
        path.write_bytes(whole + more)
        assert cache.load(KEY) is None


def test_a_file_far_too_long(path):
    """Seen to fail: where all of it is read, a MemoryError."""
    with path.open("r+b") as file:
        file.truncate(200 << 30)  # takes no place on most disks
    assert cache.load(KEY) is None
    cache.save(KEY, CODE)
    assert cache.load(KEY) == CODE


def test_places_that_are_no_files(path):
    """Seen to fail: with a plain open, which waits at a pipe for ever."""
    path.unlink()
    path.mkdir()
    assert cache.load(KEY) is None
    cache.save(KEY, CODE)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        assert cache.load(KEY) is None


@POSIX
def test_full_disk_at_each_byte(tmp_path):
    """What was there stays, and nothing is left behind.

    Seen to fail: with files that are written in place.
    """
    in_new_process(f"""
import os, resource
import numba
from fastce.kernels.codegen import cache

numba.config.CACHE_DIR = {str(tmp_path)!r}
new, old = (cache.Key("softmax_serial", "types", text) for text in ("new", "old"))
cache.save(old, bytes(100))
size = os.path.getsize(os.path.join(cache.place(), old.file))
for room in range(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    cache.save(new, bytes(100))
    cache.save(old, b"1" * 100)
    assert cache.load(new) is None
    assert cache.load(old) == bytes(100)
    assert os.listdir(cache.place()) == [old.file]
""")


KILLED = """
import os, signal
import numba
from fastce.kernels.codegen import cache

numba.config.CACHE_DIR = {folder!r}
key = cache.Key("softmax_serial", "types", "sources")
whole = {whole}
if whole:
    cache.save(key, b"old" * 1000)
for name in ("open", "write", "close", "replace", "scandir"):
    for done in (0, 0.5, 1):  # before, halfway, afterwards
        child = os.fork()
        if not child:
            def die(*args, of=getattr(os, name), **kwargs):
                if name == "write":
                    of(args[0], args[1][: int(len(args[1]) * done)])
                elif done:
                    of(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            setattr(os, name, die)
            cache.save(key, b"new" * 1000)
            os._exit(0)
        os.waitpid(child, 0)
        found = cache.load(key)
        assert found in ([b"old" * 1000, b"new" * 1000] if whole else [None, b"new" * 1000]), (name, done)
cache.save(key, b"next" * 1000)
assert cache.load(key) == b"next" * 1000
"""


@POSIX
def test_a_file_that_vanishes_while_old_ones_are_removed(path):
    """Seen to fail, by a warning: where the folder stays open until the garbage collector closes it."""
    (path.parent / f"{KEY.stem}gone.fastce").symlink_to(path.parent / "nowhere")
    cache.save(KEY._replace(made_of="other sources"), CODE)
    gc.collect()
    assert cache.load(KEY) == CODE


@POSIX
@pytest.mark.parametrize("whole", [False, True], ids=["none before", "one before"])
def test_killed_at_each_step(whole, tmp_path):
    """Before and after each call of the system, and halfway through the file.

    Seen to fail: with files that are written in place.
    """
    in_new_process(KILLED.format(folder=str(tmp_path), whole=whole))


def test_what_others_left_is_cleared_away(path):
    """Of other sources the last three stay; halves of files go after an hour, as processes may still write them."""
    for i in range(6):
        cache.save(KEY._replace(made_of=f"release {i}"), CODE)
        os.utime(path.parent / KEY._replace(made_of=f"release {i}").file, (i, i))
    cache.save(KEY._replace(kernel="another's"), CODE)
    old, young = path.parent / f"{path.name}.0.tmp", path.parent / f"{path.name}.1.tmp"
    for half in (old, young):
        half.write_bytes(b"half")
    os.utime(old, (time.time() - 4000,) * 2)
    cache.save(KEY._replace(made_of="release 6"), CODE)
    assert not old.exists()
    assert young.exists()
    kept = [i for i in range(7) if cache.load(KEY._replace(made_of=f"release {i}"))]
    assert kept == [4, 5, 6]
    assert cache.load(KEY) == CODE  # the newest of the others
    assert cache.load(KEY._replace(kernel="another's")) == CODE


def give_away(path, monkeypatch):
    """Have a file or folder belong to somebody else: root can, others become somebody else."""
    if os.geteuid() == 0:
        os.chown(path, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)


@POSIX
def test_files_of_others(path, monkeypatch):
    """Never unpickled, and replaced.

    Seen to fail: where nobody asks for the owner.
    """
    give_away(path, monkeypatch)
    assert cache.load(KEY) is None


@POSIX
def test_folders_of_others(path, monkeypatch):
    """Passed over, for the next place.

    Seen to fail: where nobody asks for the owner.
    """
    give_away(path.parent, monkeypatch)
    assert cache.load(KEY) is None
    assert cache.place() != str(path.parent)


@POSIX
@pytest.mark.parametrize(
    ("folder_mode", "file_mode", "trusted"),
    [(0o755, 0o644, True), (0o775, 0o664, True), (0o1777, 0o644, True), (0o777, 0o644, False), (0o755, 0o666, False)],
    ids=oct,
)
def test_modes(path, folder_mode, file_mode, trusted):
    """What everybody may write to is passed over; what a group may, is not.

    Seen to fail: where nobody asks for the mode.
    """
    path.chmod(file_mode)
    path.parent.chmod(folder_mode)
    assert (cache.load(KEY) == CODE) == trusted


@POSIX
def test_others_may_read(path):
    """Kernels that root has compiled into an image are those that its user runs."""
    before = os.umask(0)
    try:
        cache.save(KEY._replace(kernel="another"), CODE)
    finally:
        os.umask(before)
    modes = {entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()}
    assert modes <= {0o644, 0o644 & ~before}


def test_a_folder_that_can_only_be_read(path, monkeypatch, tmp_path):
    """It is read, and the next one is written to.

    Seen to fail: where only the folder that is written to is read.
    """
    next_one = str(tmp_path / "next")
    monkeypatch.setattr(cache, "_places", lambda: iter([str(path.parent), next_one]))
    can = os.access
    monkeypatch.setattr(os, "access", lambda folder, mode: folder == next_one and can(folder, mode))
    assert cache.place() == next_one
    assert cache.load(KEY) == CODE
    cache.save(KEY._replace(kernel="another"), CODE)
    assert len(os.listdir(next_one)) == 1


def test_no_home(monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert [Path(place).name for place in cache._places()] == ["__pycache__"]


# --- sources -----------------------------------------------------------------


def imported(tree, modules):
    """The package's modules that a syntax tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports by full names alone are followed"
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            yield from (name for name in names if name in modules)


def test_imports_are_those_of_the_language():
    """For every kernel module.

    Seen to fail: with an expression that leaves out names in parentheses.
    """
    modules = {name for name in sys.modules if name.partition(".")[0] == "fastce"}
    kernels = [name for name in modules if name.startswith("fastce.kernels.")]
    assert len(kernels) > 15
    for name in kernels:
        source = Path(sys.modules[name].__file__).read_text(encoding="utf-8")
        assert set(cache.imports(source)) & modules == set(imported(ast.parse(source), modules)), name


DIGESTS = """
import json, sys
import fastce
from fastce.kernels.ops import binary, cross_entropy, softmax
kernels = binary.binary, cross_entropy.hard_tiles, softmax.softmax_rows
print(json.dumps([kernel._sources for kernel in kernels]))
"""


def test_an_edit_outdates_what_it_can_change(tmp_path):
    """The dispatcher outdates nothing, a helper what imports it, the compiler's flags everything.

    Seen to fail: with one digest of all kernel sources.
    """
    shutil.copytree(ROOT / "fastce", tmp_path / "fastce", ignore=shutil.ignore_patterns("__pycache__"))

    def digests():
        return in_new_process(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{DIGESTS}")[2:-3].split('", "')

    first = before = digests()
    assert len(set(first)) == 3
    for file, outdated in [
        ("dispatch.py", (False, False, False)),
        ("kernels/rows/tiles.py", (False, True, True)),
        ("kernels/ops/binary.py", (True, False, False)),
        ("kernels/simd/vecmath.py", (True, True, True)),
        ("kernels/codegen/jit.py", (True, True, True)),
    ]:
        path = tmp_path / "fastce" / file
        path.write_bytes(path.read_bytes() + b"\n# edited\n")
        after = digests()
        assert tuple(a != b for a, b in zip(before, after, strict=True)) == outdated, file
        before = after


def test_sources_are_digested_while_they_are_imported(tmp_path):
    """What is edited later is not what runs; what is imported again is.

    Seen to fail: with a digest that is taken when a kernel is first needed, or taken once a process.
    """
    shutil.copytree(ROOT / "fastce", tmp_path / "fastce", ignore=shutil.ignore_patterns("__pycache__"))
    in_new_process(f"""
import importlib, sys
sys.path.insert(0, {str(tmp_path)!r})
from fastce.kernels.ops import binary
before = binary.binary._sources
with open(binary.__file__, "a") as file:
    file.write("# edited")
assert binary.kernel(binary.binary.function)._sources == before
importlib.reload(binary)
assert binary.binary._sources != before
""")
