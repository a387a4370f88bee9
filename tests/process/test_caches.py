"""The disk cache under fire: no place to write, no home, another user, company, sudden ends, other sources.

Without what ``kernels.codegen.cache`` does about them these troubles end in exceptions, stale kernels, or a crash.
Its files are tested in ``test_cache_files``.
"""

import compileall
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, in_new_process

POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

CALL = """
from numba.core import event
import numpy as np
import fastce

with event.install_recorder("numba:compile") as compiled:
    loss = fastce.binary_cross_entropy_with_logits(0.0, 1.0, reduction="none")  # one kernel
assert abs(loss - np.log(2)) < 1e-15
print(len(compiled.buffer))
"""

NOWHERE = """
from fastce.kernels.codegen import cache

cache._places = lambda: iter(())
"""

FULL_DISK = """
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file may have a byte
"""

UPGRADED = """
import numba

numba.__version__ = "999.0"
"""


def compiled_in(directory, before=""):
    """How many compilations a process with this cache directory sees."""
    return int(in_new_process(before + CALL, NUMBA_CACHE_DIR=str(directory)))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder that has been the cache of a process."""
    folder = tmp_path_factory.mktemp("filled")
    assert compiled_in(folder) > 0
    return folder


@pytest.fixture
def cache(filled, tmp_path):
    """A copy of the filled cache, to be damaged."""
    return shutil.copytree(filled, tmp_path / "cache")


def test_a_second_process_compiles_nothing(cache):
    assert compiled_in(cache) == 0


CACHED_FIRST = """
import sys
import numba, numpy as np
import fastce

x, target = np.zeros((65536, 10), np.float32), np.zeros(65536, int)
loss, grad = fastce.cross_entropy_and_grad(x, target)
assert abs(loss - np.log(10)) < 1e-6 and abs(grad[0, 1] - 0.1 / 65536) < 1e-11
print("numba.np.arraymath" in sys.modules)

# what others compile, and what fastce compiles then, finds Numba's typing
assert numba.njit(lambda a: a.sum() + np.exp(a[0, 0]))(x) == 1.0
assert abs(fastce.logsumexp(np.zeros((5, 4)))[0] - np.log(4)) < 1e-15
assert fastce.cross_entropy_and_grad(x, target)[0] == loss
"""


def test_a_cached_kernel_waits_for_nothing_of_the_compiler(tmp_path):
    """Seen to fail: with Numba's own way of loading, which imports all of its typing, and SciPy, first."""
    assert in_new_process(CACHED_FIRST, NUMBA_CACHE_DIR=str(tmp_path)) == "True\n"
    assert in_new_process(CACHED_FIRST, NUMBA_CACHE_DIR=str(tmp_path)) == "False\n"


def one_file(folder):
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    return path


def spoil(data, how):
    """Cut a file in half, flip a bit of the machine code, clear a sector of it, or put something else there."""
    middle = len(data) // 8  # within the machine code, which comes before the bitcode
    if how == "flip":
        return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]
    if how == "clear":
        return data[:middle] + bytes(512) + data[middle + 512 :]
    return data[: len(data) // 2] if how == "cut" else b"something else"


@pytest.mark.parametrize("how", ["cut", "flip", "clear", "replace"])
def test_damaged_files(how, cache):
    """Compiled anew, and replaced.

    Seen to fail: with Numba's files, where flipped and cleared bits are run.
    """
    files = [path for path in cache.rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(spoil(path.read_bytes(), how))
    assert compiled_in(cache) > 0
    if how == "flip":
        assert compiled_in(cache) == 0


def test_no_place(tmp_path):
    """Seen to fail: where a kernel that has no place is an error."""
    assert compiled_in(tmp_path, NOWHERE) > 0
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@POSIX
def test_full_disk(tmp_path):
    """Seen to fail: where errors pass through ``cache.save``."""
    assert compiled_in(tmp_path, FULL_DISK) > 0
    assert compiled_in(tmp_path) > 0
    assert compiled_in(tmp_path) == 0


def package_in(folder):
    """Copy the package there, without caches."""
    shutil.copytree(ROOT / "fastce", folder / "fastce", ignore=shutil.ignore_patterns("__pycache__"))


def run_there(folder, before=(), **environment):
    """Run the call in a process that imports from the folder; return how many compilations it saw."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | environment
    command = [*before, sys.executable, "-c", CALL]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_read_only_installation_without_a_home(tmp_path):
    """Files where folders would have to be made: what stops even root from writing."""
    package_in(tmp_path)
    (tmp_path / "fastce" / "kernels" / "codegen" / "__pycache__").write_bytes(b"")
    nowhere = tmp_path / "nowhere"
    nowhere.write_bytes(b"")
    for _ in range(2):
        assert run_there(tmp_path, HOME=str(nowhere), XDG_CACHE_HOME=str(nowhere), TMPDIR=str(nowhere)) > 0
    assert not list(tmp_path.rglob("*.fastce*"))


@POSIX
def test_read_only_installation_of_another_user(tmp_path):
    """Installed by an administrator, called by someone who may write nowhere.

    Seen to fail: where errors pass through ``cache.place``.
    """
    package_in(tmp_path)
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    nowhere = str(tmp_path)
    try:
        assert run_there(tmp_path, unprivileged, HOME=nowhere, XDG_CACHE_HOME=nowhere, TMPDIR=nowhere) > 0
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert not list(tmp_path.rglob("*.fastce*"))


def test_edited_helpers_never_run_stale(tmp_path):
    """The one that is edited is not the file that holds the kernel.

    Seen to fail: with Numba's own stamp, that of the kernel's file.
    """
    package_in(tmp_path)
    assert run_there(tmp_path) > 0
    assert run_there(tmp_path) == 0
    helper = tmp_path / "fastce" / "kernels" / "simd" / "vecmath.py"
    helper.write_text(helper.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    assert run_there(tmp_path) > 0


def edit(folder, file, old, new):
    path = folder / "fastce" / "kernels" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def upgrade(folder):
    """Make another release, whose losses are twice as large, by an edit of a helper in the kernel's own file.

    Numba's key knows the kernel itself, and its stamp that file: neither changes where sources are not there.
    """
    edit(folder, "ops/binary.py", "return where(x == x, loss, x), slope", "return where(x == x, loss + loss, x), slope")


def loss_there(folder, before="", **environment):
    """Run the call in a process that imports from the folder; return the loss in units of log 2."""
    code = f"{before}\nimport math\nimport fastce\n"
    code += "print(round(fastce.binary_cross_entropy_with_logits(0.0, 1.0, reduction='none') / math.log(2)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


LITTLE_ROOM = """
import resource

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # for an index, not for code
"""


@POSIX
def test_an_upgrade_on_a_full_disk(tmp_path):
    """The old release's code is never run.

    Seen to fail: with Numba's files, whose new index names the old code.
    """
    package_in(tmp_path)
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert loss_there(tmp_path, **place) == 1
    upgrade(tmp_path)
    assert loss_there(tmp_path, LITTLE_ROOM, **place) == 2
    assert loss_there(tmp_path, **place) == 2


def test_programs_without_sources(tmp_path):
    """Two releases, one after the other in one place, with one folder for their kernels.

    Seen to fail: with a digest of the sources that are found: of none.
    """
    frozen = "import sys\nsys.frozen = True\n"
    for expected in (1, 2):
        shutil.rmtree(tmp_path / "fastce", ignore_errors=True)
        package_in(tmp_path)
        if expected == 2:
            upgrade(tmp_path)
        compileall.compile_dir(tmp_path / "fastce", legacy=True, quiet=1)
        for path in (tmp_path / "fastce").rglob("*.py"):
            path.unlink()
        assert loss_there(tmp_path, frozen, XDG_CACHE_HOME=str(tmp_path / "cache"), NUMBA_CACHE_DIR="") == expected
    assert not list(tmp_path.rglob("*.fastce"))


def test_numbas_locators_do_not_go_past_the_sources(tmp_path):
    """Seen to fail: with Numba's locators, whose stamp is the kernel's own file."""
    package_in(tmp_path)
    place = {"NUMBA_CACHE_LOCATOR_CLASSES": "InTreeCacheLocator", "NUMBA_CACHE_DIR": ""}
    assert run_there(tmp_path, **place) > 0
    edit(tmp_path, "simd/vecmath.py", "import inline, inline_for", "import inline, inline_for  # edited")
    assert run_there(tmp_path, **place) > 0


@POSIX
def test_paths_that_are_no_text(tmp_path):
    """Seen to fail: with names of folders made from encoded paths: UnicodeEncodeError."""
    installed = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(installed)
    folder = Path(os.fsdecode(installed))
    package_in(folder)
    for place in ({}, {"NUMBA_CACHE_DIR": os.fsdecode(installed + b"-cache")}):
        assert run_there(folder, **place) > 0
        assert run_there(folder, **place) == 0


def test_another_numba_compiles_anew(cache):
    """Seen to fail: with a key that leaves out the version."""
    assert compiled_in(cache, UPGRADED) > 0
    assert compiled_in(cache, UPGRADED) == 0


def test_another_processor_compiles_anew(cache):
    """Seen to fail: with a key that leaves out the processor."""
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(cache)}
    assert int(in_new_process(CALL, **environment)) > 0
    assert compiled_in(cache) == 0


def test_a_cache_that_vanishes(tmp_path):
    """While the process runs: it is made again, or cannot be, as something else has taken its place.

    Seen to fail: where errors pass through ``cache.save``.
    """
    place = tmp_path / "cache"
    code = f"""
import pathlib
import shutil
import numpy as np
import fastce
place = pathlib.Path({str(place)!r})
fastce.softmax(np.ones(3))
shutil.rmtree(place)
fastce.softmax(np.ones(3, np.float32))
shutil.rmtree(place)
place.write_bytes(b"")
fastce.softmax(np.ones(3, np.float16))
"""
    in_new_process(code, NUMBA_CACHE_DIR=str(place))


COMPANY = """
import numpy as np
import fastce

dtype = "{}"
x = np.asarray([[0.0, 1.0, 2.0]] * 3, dtype)
for _ in range(2):
    assert abs(fastce.logsumexp(x)[0] - 2.407605964) < 4e-3 and fastce.logsumexp(x).dtype == dtype
print("right")
"""


def start(folder, code=CALL):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_six_processes_at_once(tmp_path):
    """Two for each of three dtypes.

    Seen to fail: with files that are written in place, of which others read halves, and with one file for all types.
    """
    codes = [COMPANY.format(dtype) for dtype in ("float16", "float32", "float64")]
    together = [start(tmp_path, code) for code in codes * 2]
    for process in together:
        assert process.communicate()[0] == "right\n"
        assert process.returncode == 0
    assert len(list(tmp_path.rglob("*.fastce"))) == 3
    assert not list(tmp_path.rglob("*.tmp"))
    for code in codes:
        in_new_process(code, NUMBA_CACHE_DIR=str(tmp_path))


@POSIX
@pytest.mark.parametrize("files", [0, 1])
def test_killed_while_compiling(files, tmp_path):
    """Before anything is written, or as soon as the cache has so many files.

    Seen to fail: with files that are written in place and errors that pass through ``cache.load``.
    """
    process = start(tmp_path)
    while process.poll() is None and sum(path.is_file() for path in tmp_path.rglob("*")) < files:
        time.sleep(0.001)
    time.sleep(0 if files else 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    compiled_in(tmp_path)
    assert compiled_in(tmp_path) == 0


ALL = """
from numba.core import event
import numpy as np
import fastce

with event.install_recorder("numba:compile") as compiled:
    for shape in [(5, 10), (5, 40), (3, 1100), (2, 70001)]:
        rows, target = np.ones(shape, np.float32), np.zeros(shape[0], int)
        for x in (rows, np.asfortranarray(rows)):
            fastce.softmax(x), fastce.log_softmax(x), fastce.softmax_vjp(x, x), fastce.log_softmax_vjp(x, x)
            fastce.logsumexp_vjp(x[:, 0], x, fastce.logsumexp(x))
            fastce.cross_entropy_and_grad(x, target, label_smoothing=0.1), fastce.cross_entropy_and_grad(x, x)
        fastce.cross_entropy_grad_and_hessian(x, target), fastce.cross_entropy_hvp(x, target, x)
        fastce.kl_divergence_and_grad(x, x), fastce.score(x, target)
print(len(compiled.buffer))
"""


def test_every_kernel_is_kept():
    """Numba silently leaves out what holds an address: a function that a helper takes and is not compiled into it.

    In the cache of the other tests, which compile most of them anyway.

    Seen to fail: where parts that are inlined stay in the kernel.
    """
    in_new_process(ALL)
    assert int(in_new_process(ALL)) == 0
