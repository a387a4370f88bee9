"""Adapters are no part of fastce: it imports none of their libraries, and each names its extra without its library."""

import importlib
import inspect
import re
import sys
import tomllib
from pathlib import Path

import pytest

import fastce.interop
from tests.helpers import ROOT, in_new_process

LIBRARIES = {  # by adapter
    "autograd": "autograd",
    "dask": "dask",
    "mpi": "mpi4py",
    "mygrad": "mygrad",
    "torch": "torch",
}
DUCK_TYPED = {"boosting": {"lightgbm", "xgboost"}}  # adapters that import none of their libraries


def test_every_adapter_is_here():
    """All other files are shared, or parts of an adapter, which begin with its name."""
    names = {path.stem for path in Path(fastce.interop.__path__[0]).glob("*.py")} - {"__init__", "extras", "gradients"}
    assert {name.partition("_")[0] for name in names} == {*LIBRARIES, *DUCK_TYPED} <= names


def test_fastce_imports_no_library():
    """Seen to fail: with an import of an adapter in ``fastce/__init__.py``."""
    in_new_process(f"""
import sys
import fastce
import fastce.interop
names = {{name.partition(".")[0] for name in sys.modules}}
assert not names & {set(LIBRARIES.values())}, names
assert not [name for name in sys.modules if name.startswith("fastce.interop.")]
""")


@pytest.mark.parametrize("adapter", LIBRARIES)
def test_a_missing_library_is_named_with_its_extra(adapter):
    """One error, which does not show another as its cause."""
    library = LIBRARIES[adapter]
    in_new_process(f"""
import sys
sys.modules["{library}"] = None
try:
    import fastce.interop.{adapter}
except ImportError as error:
    assert type(error) is ImportError
    assert str(error) == 'fastce.interop.{adapter} needs {library}: pip install "fastce[{adapter}]"', error
    assert error.__cause__ is None and error.__suppress_context__
    assert error.name == "{library}"
else:
    raise AssertionError("it was imported")
""")


def test_a_broken_library_is_not_said_to_be_missing():
    in_new_process("""
import sys
sys.modules["mygrad.tensor_base"] = None
try:
    import fastce.interop.mygrad
except ModuleNotFoundError as error:
    assert error.name == "mygrad.tensor_base"
""")


@pytest.mark.parametrize("adapter", DUCK_TYPED)
def test_an_adapter_without_its_libraries(adapter):
    """It imports none of them, whether they are there or not. Seen to fail: with an import of one."""
    in_new_process(f"""
import sys
import fastce.interop.{adapter}
assert not {DUCK_TYPED[adapter]} & set(sys.modules)
""")


@pytest.mark.parametrize("adapter", [*LIBRARIES, *DUCK_TYPED])
def test_extras(adapter):
    """The library, with the oldest version tried; nothing where nothing is imported."""
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    requirements = metadata["project"]["optional-dependencies"][adapter]
    if adapter in LIBRARIES:
        assert re.match(rf"{LIBRARIES[adapter]}(\[\w+\])?>=", requirements[0])
    else:
        assert not requirements


@pytest.mark.parametrize("adapter", [*LIBRARIES, *DUCK_TYPED])
def test_names_are_documented(adapter):
    """Public names are sorted, and each is documented with its parameters, its result, its errors and an example."""
    if adapter == "mpi" and sys.platform != "linux":
        pytest.skip("MPI is installed on Linux alone")
    module = importlib.import_module(f"fastce.interop.{adapter}")
    assert sorted(module.__all__) == module.__all__
    for name in module.__all__:
        function = getattr(module, name)
        text = function.__doc__ + ((function.__call__.__doc__ or "") if inspect.isclass(function) else "")
        for section in ("Parameters\n", "Returns\n", "Raises\n", "Examples\n", ">>> "):
            assert section in text, f"{name} has no {section.strip()}"
        for parameter in inspect.signature(function).parameters:
            is_elsewhere = f"As in `fastce.{name}`." in function.__doc__
            assert is_elsewhere or parameter in function.__doc__, f"{name} does not document {parameter}"
