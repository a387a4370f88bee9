"""The disk cache under fire: no place to write, no home, another user, company, sudden ends, edited sources.

Without what ``kernels.jit`` does about them these troubles end in exceptions, or in stale kernels.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

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
import numba.core.caching

def fail(self, *args):
    raise OSError("no place")

numba.core.caching._CacheLocator.ensure_cache_path = fail
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


def test_damaged_cache_files(cache):
    """Seen to fail: where errors of loading pass through ``jit._Cache``."""
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert compiled_in(cache) > 0


def test_no_place(tmp_path):
    """Seen to fail: where RuntimeError passes through ``jit.Kernel``."""
    assert compiled_in(tmp_path, NOWHERE) > 0
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@POSIX
def test_full_disk(tmp_path):
    """Seen to fail: where errors of saving pass through ``jit._Cache``."""
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
    (tmp_path / "fastce" / "kernels" / "__pycache__").write_bytes(b"")
    nowhere = tmp_path / "nowhere"
    nowhere.write_bytes(b"")
    for _ in range(2):
        assert run_there(tmp_path, HOME=str(nowhere), XDG_CACHE_HOME=str(nowhere), TMPDIR=str(nowhere)) > 0
    assert not list(tmp_path.rglob("*.nb?"))


@POSIX
def test_read_only_installation_of_another_user(tmp_path):
    """Installed by an administrator, called by someone who may write nowhere.

    Seen to fail: where RuntimeError passes through ``jit.Kernel``.
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
    assert not list(tmp_path.rglob("*.nb?"))


def test_edited_helpers_never_run_stale(tmp_path):
    """The one that is edited is not the file that holds the kernel.

    Seen to fail: with Numba's own stamp, that of the kernel's file.
    """
    package_in(tmp_path)
    assert run_there(tmp_path) > 0
    assert run_there(tmp_path) == 0
    helper = tmp_path / "fastce" / "kernels" / "vecmath.py"
    helper.write_text(helper.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    assert run_there(tmp_path) > 0


def test_another_numba_compiles_anew(cache):
    """Seen to fail: with an index file that does not ask for the version."""
    assert compiled_in(cache, UPGRADED) > 0
    assert compiled_in(cache, UPGRADED) == 0


def test_another_processor_compiles_anew(cache):
    """Seen to fail: with a key that leaves out the processor."""
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(cache)}
    assert int(in_new_process(CALL, **environment)) > 0
    assert compiled_in(cache) == 0


def test_a_cache_that_vanishes(tmp_path):
    """While the process runs: it is made again, or cannot be, as something else has taken its place.

    Seen to fail: where errors of saving pass through ``jit._Cache``.
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


def test_foreign_files(cache):
    """Seen to fail: where errors of loading pass through ``jit._Cache``."""
    for path in [path for path in cache.rglob("*") if path.is_file()]:
        path.write_bytes(b"something else")
    assert compiled_in(cache) > 0


def start(folder):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    return subprocess.Popen([sys.executable, "-c", CALL], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_four_processes_at_once(tmp_path):
    """Seen to fail: with files that are written in place, of which others read halves."""
    together = [start(tmp_path) for _ in range(4)]
    for process in together:
        assert process.communicate()[0].strip().isdigit()
        assert process.returncode == 0
    assert compiled_in(tmp_path) == 0


@POSIX
@pytest.mark.parametrize("files", [0, 1, 2])
def test_killed_while_compiling(files, tmp_path):
    """Before anything is written, or as soon as the cache has so many files.

    Seen to fail: with files that are written in place and errors of loading that pass through ``jit._Cache``.
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

    In the cache of the other tests, which compile most of them anyway. Of two processes that
    add to one index at once, one may undo what the other did: so there are a few runs.

    Seen to fail: where parts that are inlined stay in the kernel.
    """
    assert 0 in (int(in_new_process(ALL)) for _ in range(4))
