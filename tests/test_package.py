"""The package as a whole: names, typing, dependencies, and what importing it does."""

import importlib.metadata
import inspect
import re
import subprocess
import tomllib

import fastce
from tests.helpers import ROOT, in_new_process

IMPORT = """
import os
import signal
import sys
import warnings
import numba
import numpy
from numba.core import config, event

modules = set(sys.modules)
before = {name: repr(value) for name, value in vars(config).items() if name.isupper()}
threads = numba.get_num_threads()
errors = numpy.geterr()

for number in signal.valid_signals():
    if signal.getsignal(number) is signal.SIG_IGN:  # as whoever started this process may have left it
        signal.signal(number, signal.SIG_DFL)

def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return dict(os.environ), handlers, list(warnings.filters), sys.getrecursionlimit(), sys.getswitchinterval()

written = []

def audit(name, args):
    if name == "open" and (args[1] is None or set(args[1]) & set("wax+")):
        if args[1] is not None or args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(args[0])
    elif name in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        written.append(args[0])

sys.dont_write_bytecode = True
sys.addaudithook(audit)
outside = state()
with event.install_recorder("numba:compile") as compiled:
    import fastce
    assert not compiled.buffer, compiled.buffer
    loaded = {name.partition(".")[0] for name in set(sys.modules) - modules}
    assert not loaded & {"scipy", "torch", "sklearn", "matplotlib", "ml_dtypes", "jax", "pandas"}, loaded
    fastce.softmax([1.0, 2.0])
    fastce.softmax(numpy.zeros((9000, 5)))
    assert compiled.buffer, "the recorder sees nothing"
assert outside == state()
assert before == {name: repr(value) for name, value in vars(config).items() if name.isupper()}
assert numba.get_num_threads() == threads
assert numpy.geterr() == errors
cache = os.environ["NUMBA_CACHE_DIR"]
assert written and all(os.fsdecode(path).startswith(cache) for path in written), written
"""


def test_import_compiles_nothing_and_changes_nothing(tmp_path):
    """And what the first calls write goes to the cache.

    Seen to fail: with a setting, an environment variable, a warning filter or a thread count that is changed, a kernel
    that is compiled, or a file that is written on import.
    """
    in_new_process(IMPORT, NUMBA_CACHE_DIR=str(tmp_path))


IMPORT_TIME = """
import time
start = time.perf_counter()
import numba
between = time.perf_counter()
import fastce
print(between - start, time.perf_counter() - between)
"""


def test_import_takes_less_than_twice_numbas():
    """The least of several shares: other work on the machine only adds.

    Seen to fail: with half a second of sleep in ``fastce/__init__.py``.
    """
    times = [tuple(map(float, in_new_process(IMPORT_TIME).split())) for _ in range(4)]
    assert min(own / numba for numba, own in times) < 1


def test_public_names():
    assert sorted(fastce.__all__) == fastce.__all__
    for name in fastce.__all__:
        public = getattr(fastce, name)
        assert public.__doc__, name
        assert inspect.isroutine(public) or inspect.isclass(public)
    visible = {name for name, value in vars(fastce).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert visible == set(fastce.__all__)


def test_public_names_of_shards():
    assert sorted(fastce.shards.__all__) == fastce.shards.__all__
    for name in fastce.shards.__all__:
        function = getattr(fastce.shards, name)
        assert function.__module__ == "fastce.shards"
        parameters = inspect.signature(function).parameters.values()
        first = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        assert set(first) <= {"logits", "target", "stats", "parts", "dtype", "classes"}
        assert all(p.annotation is not inspect.Parameter.empty for p in parameters)


def test_arrays_first_then_keywords():
    positional = {
        "cross_entropy_backward": ["logits", "target", "stats"],
        "cross_entropy_hvp": ["logits", "target", "v"],
        "jensen_shannon": ["logits", "target_logits"],
        "jensen_shannon_and_grad": ["logits", "target_logits"],
        "kl_divergence": ["logits", "target_logits"],
        "kl_divergence_and_grad": ["logits", "target_logits"],
        "linear_cross_entropy": ["hidden", "weight", "target"],
        "linear_cross_entropy_and_grad": ["hidden", "weight", "target"],
        "logsumexp": ["x", "axis"],
        "softmax": ["x", "axis"],
        "log_softmax": ["x", "axis"],
        "logsumexp_vjp": ["g", "x", "lse", "axis"],
        "softmax_vjp": ["g", "p", "axis"],
        "log_softmax_vjp": ["g", "logp", "axis"],
    }
    for name in fastce.__all__:
        public = getattr(fastce, name)
        if inspect.isfunction(public) and name not in ("warmup", "show_config"):
            parameters = inspect.signature(public).parameters.values()
            first = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
            assert first == positional.get(name, [first[0], "target"])


def test_everything_public_is_annotated():
    for name in fastce.__all__:
        public = getattr(fastce, name)
        if inspect.isfunction(public):
            signature = inspect.signature(public)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def test_typed():
    assert (ROOT / "fastce" / "py.typed").exists()


def test_metadata():
    metadata = importlib.metadata.metadata("fastce")
    assert metadata["Version"] == fastce.__version__
    required = [r for r in importlib.metadata.requires("fastce") if "extra ==" not in r]
    assert {re.match(r"[\w.-]+", r).group().lower() for r in required} == {"numpy", "numba"}


def test_warmup_covers_the_usual_calls():
    in_new_process("""
import numpy as np
from numba.core import event
import fastce

fastce.warmup()
rng = np.random.default_rng(0)
with event.install_recorder("numba:compile") as compiled:
    for shape in [(32, 10), (20_000, 10), (8, 1000), (2000, 1000)]:
        x = rng.normal(size=shape).astype(np.float32)
        target = np.zeros(shape[0], int)
        fastce.softmax(x), fastce.log_softmax(x), fastce.logsumexp(x)
        fastce.cross_entropy(x, target), fastce.cross_entropy_and_grad(x, target)
    assert not compiled.buffer, [record[1].data for record in compiled.buffer]
""")


def test_the_source_distribution_holds_what_is_tracked():
    """Tests read more than the package, and run from an unpacked source distribution, where nothing is tracked.

    Seen to fail: with a list without the benchmark, whose modules tests import.
    """
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = {path.removeprefix("/") for path in metadata["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    assert all((ROOT / path).exists() for path in listed)
    always = {"pyproject.toml", "README.md", "LICENSE", ".gitignore"}  # the build backend adds them unasked
    if (ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert {path.partition("/")[0] for path in tracked.splitlines()} == listed | always
    else:
        assert all((ROOT / path).exists() for path in always)
