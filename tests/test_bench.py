"""The benchmark's own structure: the direction of imports, and runs that resume."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench import runner
from bench.cases import Case, Op, Plan
from bench.data import Results
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
