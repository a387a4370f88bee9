"""Labels that another thread changes during a call take no kernel outside its arrays."""

import ast
import sys
from pathlib import Path

import pytest

import fastce.kernels
from tests.helpers import in_new_process
from tests.process.label_race_program import REGIMES


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")
@pytest.mark.parametrize("regime", [*REGIMES, "linear"])
def test_neither_reads_nor_writes_outside(regime):
    """Seen to fail in every regime, by a crash, with labels that kernels look up after they are checked."""
    assert in_new_process(f"from tests.process.label_race_program import main; main({regime!r})") == "done\n"


def test_kernels_have_labels_from_one_place():
    """Labels are looked up in `kernels.rows.samples` alone: an index of one would be a second reading."""
    for path in Path(fastce.kernels.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        subscripted = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Subscript) and _is_target(node)]
        assert not subscripted, f"{path.name}, lines {subscripted}"
        if path.name not in ("memory.py", "samples.py"):
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
            assert not names & {"load_labels", "load_once"}, path.name


def _is_target(node):
    return isinstance(node.value, ast.Name) and node.value.id == "target"
