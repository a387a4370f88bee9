"""The benchmark's own structure: the direction of imports, and runs that resume."""

import ast
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from bench import runner
from bench.__main__ import parse
from bench.cases import AVX512, Case, Op, Plan
from bench.contenders import CONTENDERS
from bench.data import Results
from bench.plans import BUSY_CONTENDERS, full, standard
from tests.helpers import imports

BENCH = Path(__file__).parents[1] / "bench"


def own_imports(path: Path) -> set[str]:
    """Return the modules of the benchmark, and of fastce, that a file imports."""
    return {name for _, name in imports(path) if name.split(".")[0] in ("bench", "fastce")}


def test_imports_go_one_way():
    """Seen to fail: with two modules swapped in the package's docstring."""
    docstring = ast.get_docstring(ast.parse((BENCH / "__init__.py").read_text(encoding="utf-8")))
    order = re.search(r"cases -> .*__main__", docstring, re.DOTALL)[0].replace("\n", " ").split("->")
    order = [name.strip() for name in order]
    modules = {path.stem for path in BENCH.glob("*.py")} - {"__init__"} | {"contenders"}
    assert modules == set(order)
    for number, module in enumerate(order):
        path = BENCH / "contenders" / "__init__.py" if module == "contenders" else BENCH / f"{module}.py"
        allowed = {f"bench.{name}" for name in order[:number]}
        assert own_imports(path) <= allowed, module


# more imports of contenders: the library itself, and the tensors of another contender's
MORE_IMPORTS = {"fastce": {"fastce"}, "interop": {"fastce.interop.torch", "bench.contenders.torch"}}


@pytest.mark.parametrize("path", sorted((BENCH / "contenders").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_contenders_import_only_their_inputs(path):
    allowed = {"bench.cases", "bench.formulas", "bench.inputs"} | MORE_IMPORTS.get(path.stem, set())
    assert own_imports(path) <= allowed


def test_contenders_have_their_table_and_a_group_that_installs_them():
    """Checked in the sources, for contenders that are not installed too.

    Seen to fail: with another name of a table, without a package of a group.
    """
    groups = tomllib.loads((BENCH.parent / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    lines = [line for name in ("test", "peers", "tensorflow") for line in groups[name]]
    installed = {re.match(r"[\w-]+", line)[0].removesuffix("-cpu") for line in lines}
    for name, contender in CONTENDERS.items():
        module, table = contender.table.split(":")
        tree = ast.parse((BENCH / "contenders" / f"{module}.py").read_text(encoding="utf-8"))
        stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert table in stored, name
        assert {"sklearn": "scikit-learn"}.get(contender.needs, contender.needs) in installed | {""}, name


def test_busy_contenders_of_an_ordinary_run_are_three():
    """A full run has the others, in the same plans; seen to fail with JAX among the standard contenders."""
    options = parse([])
    busy = {plan.name: plan.contenders for plan in standard(options) if plan.span}
    assert busy == dict.fromkeys(("quiet", "busy"), ("fastce-out", "numpy", "torch"))
    of_full = [plan for plan in full(parse(["--full", "--smoke"]), AVX512) if plan.span]
    present = [name for name in BUSY_CONTENDERS if not CONTENDERS[name].missing]
    assert [(plan.name, [*plan.contenders]) for plan in of_full] == [("quiet", present), ("busy", present)]
    assert {case.op for plan in of_full for case in plan.cases} == {Op.LOSS_GRAD, Op.SOFTMAX}


def test_stored_results_are_resumed_for_the_same_plan_only(tmp_path, monkeypatch):
    """A finished plan runs once; another plan, other code and a failure run again."""
    ran = []

    def run_plan(plan, logs, show):
        ran.append(plan.name)
        results = Results([{"op": "loss", "median": 1.0}])
        if plan.name == "failing":
            results.note("failed", "loss", "torch", "wrong")
        return results

    monkeypatch.setattr(runner, "run_plan", run_plan)
    plan = Plan("one", "speed", ("fastce",), (Case(Op.LOSS, 2, 3),), seconds=5)
    shown = []
    for plans, same in (
        ([plan], "code"),
        ([replace(plan, seconds=7)], "code"),
        ([replace(plan, threads=2)], "code"),
        ([replace(plan, threads=2)], "other code"),
        ([replace(plan, threads=2)], ""),
        ([replace(plan, name="failing")], "code"),
        ([replace(plan, name="failing")], "code"),
    ):
        results, _ = runner.run_all(plans, tmp_path, same, shown.append)
        assert [record["median"] for record in results.records] == [1.0]
    assert ran == ["one"] * 4 + ["failing"] * 2
