"""The gallery of the built site: pages with outputs, small pictures, and notebooks that run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SITE = ROOT / "build" / "docs"
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
RUN = [name for name in NAMES if not name.startswith(("torch_", "boosting_", "mpi_"))]
CELLS = """
import json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
namespace = {"__name__": "__main__"}
for cell in cells:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), namespace)
"""


def page(name):
    file = SITE / "gallery" / f"{name}.html"
    assert file.exists(), "make docs builds the site"
    return file.read_text(encoding="utf-8")


def download(name, suffix):
    link = re.search(rf'href="\.\./(_downloads/\w+/{name}\.{suffix})"', page(name))
    return SITE / link.group(1)


@pytest.mark.parametrize("name", NAMES)
def test_output(name):
    """Each page has an output: of the build's run, or one that ``test_examples`` compares with a run.

    Seen to fail: with an example that is not run and keeps no output.
    """
    assert ("sphx-glr-script-out" in page(name)) == (name in RUN)
    assert name in RUN or "The output of" in page(name)


@pytest.mark.parametrize("name", NAMES)
def test_script(name):
    assert download(name, "py").read_bytes() == (ROOT / "examples" / f"{name}.py").read_bytes()


@pytest.mark.parametrize("name", RUN)
def test_notebook(name, tmp_path):
    """Its cells run in order, with the arguments that Jupyter gives its kernels.

    Seen to fail: with ``argparse`` in a script, which refuses these arguments.
    """
    program = [sys.executable, "-c", CELLS, str(download(name, "ipynb")), "-f", "kernel.json"]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_pictures_are_small():
    """Seen to fail: with a picture of 200 kB."""
    pictures = list((SITE / "_images").glob("sphx_glr_*"))
    assert len(pictures) > len(NAMES)
    assert not [path.name for path in pictures if path.stat().st_size > 100_000]
