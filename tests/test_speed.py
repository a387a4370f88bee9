"""``tools.speed``: every module runs, and fills in the marks of its pages."""

import re
import subprocess
import sys

import pytest

from tests import ENVIRONMENT
from tests.helpers import ROOT
from tools.speed.__main__ import NAMES

SHARED = {"turns", "mpi_ranks"}
PAGES = {page.relative_to(ROOT / "docs").as_posix(): page for page in (ROOT / "docs").rglob("*.md")}
MADE = re.compile(r"<!-- (\w+):begin -->(?:(?!:end -->).)*Made by `python -m tools\.speed\.(\w+)`", re.S)


def test_every_module_is_run():
    names = {path.stem for path in (ROOT / "tools" / "speed").glob("[!_]*.py")}
    assert names == {*NAMES, *SHARED} and len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_quick_run(name):
    """It has a part for each of the marks that it has filled in, and for no other.

    Seen to fail: with a part that was left out, and with a mark that no page has.
    """
    if name == "boosting" and sys.platform == "darwin":
        pytest.skip("XGBoost and LightGBM need OpenMP, which macOS lacks")
    if name == "mpi" and sys.platform != "linux":
        pytest.skip("MPI is installed on Linux alone")
    command = [sys.executable, "-m", f"tools.speed.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    filled = {
        f"{page}#{mark}"
        for page, path in PAGES.items()
        for mark, module in MADE.findall(path.read_text(encoding="utf-8"))
        if module == name
    }
    assert set(re.findall(r"^(\S+\.md#\w+)$", done.stdout, re.M)) == filled != set()
