"""What the documentation shows runs: docstrings, the README and the examples."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys

import numpy as np
import pytest

import fastce
from tests.helpers import ROOT

MODULES = ["fastce", *(m.name for m in pkgutil.walk_packages(fastce.__path__, "fastce.") if not m.ispkg)]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    with np.printoptions(legacy=False):
        results = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples fail (see the captured output)"


def test_every_public_function_has_an_example():
    for name in fastce.__all__:
        public = getattr(fastce, name)
        if not (isinstance(public, type) and issubclass(public, tuple)):  # results are shown where they come from
            assert ">>> " in public.__doc__, f"{name} shows no example"


def test_readme():
    """Its blocks run in order, in one namespace, as a reader would type them."""
    assert BLOCKS, "README.md has no ```python block"
    namespace = {}
    for block in BLOCKS:
        if ">>> " in block:
            parsed = doctest.DocTestParser().get_doctest(block, namespace, "README.md", "README.md", 0)
            runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
            runner.run(parsed, clear_globs=False)
            assert runner.summarize().failed == 0
            namespace.update(parsed.globs)
        else:
            exec(compile(block, "README.md", "exec"), namespace)


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path, tmp_path):
    quick = ["--quick"] if "--quick" in path.read_text(encoding="utf-8") else []
    done = subprocess.run(
        [sys.executable, path, *quick],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or any(tmp_path.iterdir()), "it neither printed nor wrote anything"


def _anchors(page):
    """Return what the headings of a page can be linked by: words joined by hyphens, without punctuation."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    """Seen to fail: with a page that was renamed, and with a heading that was."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        if not name.startswith(("http://", "https://")):
            other = page.parent / name if name else page
            assert other.exists(), link
            assert not anchor or anchor in _anchors(other), link


def test_architecture_names_every_module():
    """Seen to fail: with a file that was added, and with one that was renamed."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = re.search(r"^```\n(.*?)^```", page, re.M | re.S).group(1)
    shown, folder = set(), ""
    for line in picture.splitlines():
        text = line.strip("│ ")
        place = re.match(r"([a-z]\w*(?:/\w+)*/)(?:\w+\.py)?\s", text)
        name = re.match(r"(?:[\w/]+/)?(\w+)\.py\b", text)
        if name:
            shown.add(text.split()[0].removeprefix("fastce/"))
        elif place:
            folder = place.group(1)
        elif folder and text and not text.startswith(("┌", "├", "╞", "└")):
            words = text.split("  ")[0].split() if "   " in text else text.split()
            shown.update(f"{folder}{word}.py" for word in words if re.fullmatch(r"[a-z]\w*", word))
    package = ROOT / "fastce"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    files = {name for name in files if name == "__init__.py" or not name.endswith(("__init__.py", "__main__.py"))}
    assert shown == files
