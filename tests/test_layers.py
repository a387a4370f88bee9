"""Imports go down: each folder of the package imports only itself and the folders below it; no test another test."""

import ast
from pathlib import Path

import pytest

import fastce
from tests.helpers import imports

PACKAGE = Path(fastce.__file__).parent
TESTS = Path(__file__).parent
FLOORS = [  # from the ground up
    "kernels/codegen",
    "kernels/simd",
    "kernels/formulas",
    "kernels/rows",
    "kernels/ops",
    "dispatch",
    "core",
    "linear",
    "api",
    "shards",
    "__init__",
    "command",
    "__main__",
    "interop",
]


def floor_of(module):
    """Return the floor of a module of the package, given by its path or by its dotted name without the package's."""
    name = module.replace(".", "/")
    return next(number for number, floor in enumerate(FLOORS) if f"{name}/".startswith(f"{floor}/"))


def own_imports(module):
    """Yield (line, module) for each import of the package's own modules, without the package's name."""
    for line, name in imports(PACKAGE / f"{module}.py"):
        if name.startswith("fastce."):
            yield line, name.removeprefix("fastce.")


FILES = sorted(path.relative_to(PACKAGE).as_posix().removesuffix(".py") for path in PACKAGE.rglob("*.py"))
MODULES = [name for name in FILES if not name.endswith("/__init__")]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    """Seen to fail: with an import of ``fastce.core`` in a kernel."""
    above = {
        f"{module}.py:{line} imports {name}" for line, name in own_imports(module) if floor_of(name) > floor_of(module)
    }
    assert not above


def test_no_circles():
    """Seen to fail: with two modules of one folder that import each other."""
    below = {module: {name.replace(".", "/") for _, name in own_imports(module)} for module in MODULES}
    while below:
        leaves = {module for module, names in below.items() if not names & set(below)}
        assert leaves, f"circle among {sorted(below)}"
        below = {module: names for module, names in below.items() if module not in leaves}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("command/", "interop/"))])
def test_the_command_and_adapters_use_public_names(module):
    """They import `fastce`, and modules of their own folder.

    Seen to fail: with an import of ``fastce.core.layout`` in an adapter.
    """
    folder = module.partition("/")[0]
    assert all(name.startswith(f"{folder}.") for _, name in own_imports(module))


def test_folders_hold_no_code():
    for name in FILES:
        if name.endswith("/__init__"):
            assert len(ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")).body) <= 1, name


def test_no_test_imports_another():
    """Helpers have modules of their own. Seen to fail: with a function of ``test_memory`` in another test."""
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            modules = f"{getattr(node, 'module', '')}.{'.'.join(names)}".strip(".").split(".")
            is_ours = modules[0] == "tests" or modules[0].startswith("test_")  # autograd has a module test_util
            assert not (is_ours and any(name.startswith("test_") for name in modules)), f"{path}:{node.lineno}"
