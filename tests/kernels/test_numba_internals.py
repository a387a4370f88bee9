"""A Numba whose internals have other names costs compile time, never a call; nor does one that may not compile."""

import pytest

from tests.helpers import in_new_process

RENAMED = """
import importlib.machinery, re, sys

class Renaming(importlib.machinery.SourceFileLoader):
    def get_code(self, module):
        source = self.get_data(self.path).decode()
        renamed = re.sub(r"\\b{name}\\b", "another_{name}", source)
        if renamed == source:
            return super().get_code(module)
        return compile(renamed, self.path, "exec", dont_inherit=True)

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        is_numbas = name.partition(".")[0] == "numba" and spec is not None
        if is_numbas and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Renaming(spec.loader.name, spec.loader.path)
        return spec

sys.meta_path.insert(0, Finder)
"""

CALLS = """
import numpy as np
import fastce

x, target = np.linspace(-3, 3, 30_000), np.full(30_000, 0.25)
loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target)
assert abs(loss - np.mean(np.logaddexp(0, x) - 0.25 * x)) < 1e-14
assert np.abs(grad * x.size - (1 / (1 + np.exp(-x)) - 0.25)).max() < 1e-15
fastce.show_config()
"""

# by what is lost with them: the putting together of kernels, the keeping on disk, neither
INTERNALS = {
    "compiler": [
        "JITCodeLibrary",
        "_module_pass_manager",
        "_internal_codegen",
        "pipeline_class",
    ],
    "cache": ["_reduce"],
    "": ["create_library", "magic_tuple", "entry_point", "global_compiler_lock", "callstack", "cpu_target"],
}


@pytest.mark.parametrize(("lost", "name"), [(lost, name) for lost, names in INTERNALS.items() for name in names])
def test_without(lost, name, tmp_path):
    """Seen to fail: with any of them used without a way out."""
    printed = in_new_process(RENAMED.format(name=name) + CALLS, NUMBA_CACHE_DIR=str(tmp_path))
    lines = dict(line.split(None, 1) for line in printed.splitlines())
    assert ("alone, which takes longer" in lines.get("compiler", "")) == (lost == "compiler")
    assert ("does not know Numba" in lines["kernel"]) == (lost == "cache")


def test_without_a_way_to_load(tmp_path):
    """What is kept and cannot be loaded is compiled.

    Seen to fail: where errors pass through ``jit._load``.
    """
    in_new_process(CALLS, NUMBA_CACHE_DIR=str(tmp_path))
    in_new_process(RENAMED.format(name="_rebuild") + CALLS, NUMBA_CACHE_DIR=str(tmp_path))


LISTENER = """
import numba
from numba.core import event
import numpy as np
import fastce
from fastce.kernels.codegen import jit

class Lost(event.Listener):
    def on_start(self, event):
        raise AttributeError("the listener's own")

    def on_end(self, event):
        return

with event.install_listener("numba:compile", Lost()):
    try:
        fastce.softmax(np.zeros(3))
    except AttributeError as error:
        assert str(error) == "the listener's own"
assert not jit.link_failures
assert abs(fastce.softmax(np.zeros(3))[0] - 1 / 3) < 1e-15
"""


def test_errors_of_others_are_theirs(tmp_path):
    """Seen to fail: with whatever is raised while a kernel is compiled taken for Numba's: it is lost."""
    in_new_process(LISTENER, NUMBA_CACHE_DIR=str(tmp_path))


def test_a_numba_that_may_not_compile():
    """Seen to fail: without a word of its own: an AttributeError of functions."""
    in_new_process(
        """
import numpy as np
import fastce

fastce.show_config()
fastce.show_config((1, 1_000_000))
for call in (lambda: fastce.softmax(np.zeros(3)), lambda: fastce.cross_entropy_and_grad(np.zeros((2, 3)), [0, 1])):
    try:
        call()
    except RuntimeError as error:
        assert "NUMBA_DISABLE_JIT" in str(error) and "unset" in str(error), error
    else:
        raise AssertionError("computed without a compiler")
""",
        NUMBA_DISABLE_JIT="1",
    )
