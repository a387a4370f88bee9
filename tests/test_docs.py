"""What the documentation shows runs: docstrings, the README and the examples."""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastce
from tests.helpers import ROOT, imports, python_blocks, run_blocks
from tools import readme

MODULES = ["fastce", *(m.name for m in pkgutil.walk_packages(fastce.__path__, "fastce.") if not m.ispkg)]
README = ROOT / "README.md"
NEEDS = {  # which are not installed everywhere
    "boosting_soft_labels.py": ("lightgbm", "xgboost"),
    "mpi_words.py": ("mpi4py",),
}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name.startswith("fastce.interop.mpi"):
        pytest.importorskip("mpi4py")
    with np.printoptions(legacy=False):
        results = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples fail (see the captured output)"


def test_readme():
    assert python_blocks(README), "README.md has no ```python block"
    run_blocks(README)


def test_page_of_shards():
    page = ROOT / "docs" / "shards.md"
    results = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert results.attempted > 8 and not results.failed


def test_figures_are_of_the_committed_runs(monkeypatch, capsys):
    """Seen to fail: with a figure of the README changed by hand."""
    monkeypatch.setattr(sys, "argv", ["readme", "--check"])
    assert readme.main() == 0, capsys.readouterr().out


def test_there_are_examples():
    assert EXAMPLES


def shown(path):
    """Return the command and the lines of the output that an example ends with, if it does."""
    text = path.read_text(encoding="utf-8")
    block = re.search(r"^# The output of ``(.+)``::\n#\n((?:#     .+\n)+)\Z", text, re.M)
    return (block.group(1), re.findall(r"^#     (.+)$", block.group(2), re.M)) if block else (None, [])


def command(path):
    """Return the command that an example names with its output, or else the one that runs it, quickly if it can."""
    named = shown(path)[0]
    if named:
        folder = Path(sys.executable).parent
        whole = {"python": sys.executable, f"examples/{path.name}": str(path)}
        whole["mpirun"] = shutil.which("mpirun", path=folder) or shutil.which("mpirun") or "mpirun"
        return [whole.get(word, word) for word in named.split()]
    return [sys.executable, str(path), *(["--quick"] if "--quick" in path.read_text(encoding="utf-8") else [])]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path, tmp_path):
    """They run, and an output that is kept is the one of the run, with numbers of other libraries within a tenth.

    Seen to fail: with another word, another number and a line less in the output that is kept.
    """
    for library in NEEDS.get(path.name, ()):
        pytest.importorskip(library)
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(command(path), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    if kept := shown(path)[1]:
        number = r"\d+(?:\.\d+)?"
        lines = [line.rstrip() for line in done.stdout.splitlines()]
        assert [re.sub(number, "#", line).split() for line in lines] == [re.sub(number, "#", k).split() for k in kept]
        values, expected = (np.array(re.findall(number, "\n".join(text)), float) for text in (lines, kept))
        np.testing.assert_allclose(values, expected, rtol=0.1)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_name_what_they_need(path):
    """The packages to install are those that are imported, and the title has the extra.

    Seen to fail: with matplotlib left out.
    """
    text = path.read_text(encoding="utf-8")
    imported = {name.split(".")[0] for _, name in imports(path)}
    third = {{"sklearn": "scikit-learn"}.get(name, name) for name in imported - set(sys.stdlib_module_names)}
    third -= {"fastce", "numpy", "numba"}
    install = re.search(r"``pip install (?:\.|\"\.\[(\w+)\]\")((?: [\w-]+)*)``", text)
    extra, packages = install.group(1), set(install.group(2).split())
    brought = {"autograd": {"autograd"}, "dask": {"dask"}, "mpi": {"mpi4py"}, "mygrad": {"mygrad"}, "torch": {"torch"}}
    assert third - {"scipy"} == packages | brought.get(extra, set())  # scikit-learn brings SciPy
    assert (f"(extra: {extra})" in text.splitlines()[0]) == bool(extra)


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


# --- docstrings of public functions ---------------------------------------------------

PUBLIC = {
    name: public
    for name in fastce.__all__
    if callable(public := getattr(fastce, name)) and not (isinstance(public, type) and issubclass(public, tuple))
}
SHARDS = {f"shards.{name}": getattr(fastce.shards, name) for name in fastce.shards.__all__}
CLASSES = [name for name, public in PUBLIC.items() if isinstance(public, type)]
METHODS = {
    f"{name}.{method}": function
    for name in CLASSES
    for method, function in vars(PUBLIC[name]).items()
    if inspect.isfunction(function) and method[0] != "_" and len(inspect.signature(function).parameters) > 1
}
DOCUMENTED = PUBLIC | METHODS | SHARDS
# parameters that mean another thing than in most functions: why they have another wording
OTHER_WORDING = {
    ("binary_cross_entropy_with_logits", "logits"): "log-odds of elements, there are no classes",
    ("binary_cross_entropy_with_logits", "target"): "one value an element",
    ("binary_cross_entropy_with_logits", "weight"): "a factor of each element",
    ("binary_cross_entropy_with_logits", "ignore_index"): "no class index, but a target",
    ("binary_cross_entropy_with_logits", "label_smoothing"): "towards 1/2, there are no classes",
    ("binary_cross_entropy_with_logits", "reduction"): "its denominator",
    ("binary_cross_entropy_from_probs", "probs"): "of elements, there are no classes",
    ("binary_cross_entropy_from_probs", "target"): "one value an element",
    ("binary_cross_entropy_from_probs", "weight"): "a factor of each element",
    ("binary_cross_entropy_from_probs", "reduction"): "elements, there are no samples",
    ("sigmoid_focal_loss", "logits"): "log-odds of elements, there are no classes",
    ("sigmoid_focal_loss", "target"): "one value an element",
    ("sigmoid_focal_loss", "gamma"): "it has a default",
    ("sigmoid_focal_loss", "alpha"): "there are two classes",
    ("sigmoid_focal_loss", "reduction"): "elements, there are no samples",
    ("linear_cross_entropy", "weight"): "the weights of the layer; class_weight has one per class",
    ("evaluate", "logits"): "or batches",
    ("evaluate", "target"): "none for batches",
    ("evaluate", "top_k"): "several",
    ("cross_entropy", "target"): "the definition that other functions refer to",
    ("cross_entropy_and_grad", "target"): "a reference that names the three kinds",
    ("cross_entropy_from_probs", "target"): "a reference that names the three kinds",
    ("cross_entropy_grad_and_hessian", "target"): "a reference that names the three kinds",
    ("cross_entropy_hvp", "target"): "a reference that names the three kinds",
    ("linear_cross_entropy", "target"): "its shape is the one of hidden",
    ("cross_entropy", "reduction"): "its denominator",
    ("focal_loss", "target"): "three kinds; cross_entropy says more of them",
    ("focal_loss", "alpha"): "weights, or a number",
    ("focal_loss", "reduction"): "its denominator",
    ("kl_divergence", "reduction"): "its denominator",
    ("jensen_shannon", "reduction"): "its denominator",
    ("jensen_shannon", "target_logits"): "no class makes the loss infinite",
    ("linear_cross_entropy", "reduction"): "its denominator",
    ("cross_entropy_hvp", "reduction"): "all samples have one Hessian",
    ("cross_entropy", "where"): "classes have targets, elements of a softmax have none",
    ("softmax", "where"): "the result there",
    ("log_softmax", "where"): "the result there",
    ("logsumexp", "axis"): "several axes",
    ("softmax", "axis"): "several axes",
    ("log_softmax", "axis"): "several axes",
    ("logsumexp_vjp", "axis"): "several axes",
    ("softmax_vjp", "axis"): "several axes",
    ("log_softmax_vjp", "axis"): "several axes",
    ("cross_entropy_forward", "target"): "a reference that names the three kinds",
    ("cross_entropy_backward", "target"): "a reference that names the three kinds",
    ("logsumexp", "out"): "no argument has the shape of the result",
    ("softmax", "out"): "the result is no gradient",
    ("log_softmax", "out"): "the result is no gradient",
    ("cross_entropy_hvp", "out"): "two arguments have the shape of the result",
    ("logsumexp_vjp", "out"): "the argument is not the first one",
    ("softmax_vjp", "out"): "two arguments have the shape of the result",
    ("log_softmax_vjp", "out"): "two arguments have the shape of the result",
    ("CrossEntropyLoss.backward", "out"): "the object has a buffer",
    ("shards.statistics", "logits"): "some of the classes, or none",
    ("shards.softmax", "logits"): "some of the classes, or none",
    ("shards.log_softmax", "logits"): "some of the classes, or none",
    ("shards.cross_entropy_grad", "logits"): "some of the classes, or none",
    ("shards.statistics", "target"): "its labels count the classes of all shards",
    ("shards.cross_entropy", "target"): "class probabilities are in the statistics",
    ("shards.cross_entropy_grad", "target"): "as in another function",
    ("shards.statistics", "classes"): "an option",
    ("shards.chunk_length", "classes"): "one number",
    ("shards.statistics", "weight"): "of the shard's classes",
    ("shards.statistics", "label_smoothing"): "over the classes of all shards",
    ("shards.statistics", "out"): "statistics are no gradient",
    ("shards.cross_entropy", "sample_weight"): "the samples have another shape for class probabilities",
    ("shards.softmax", "out"): "the result is no gradient",
    ("shards.log_softmax", "out"): "the result is no gradient",
    ("cross_entropy_backward", "stats"): "those of a forward pass",
    ("shards.softmax", "stats"): "without logit_scale and softcap",
    ("shards.log_softmax", "stats"): "without logit_scale and softcap",
}


def sections(function):
    """Return the sections of a numpydoc docstring, by their titles."""
    doc = inspect.cleandoc(function.__doc__)
    parts = re.split(r"^(\w[\w ]*)\n-+$", doc, flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def parameters(function):
    """Return the documented parameters in order: (names of one entry, description without line ends)."""
    entries = []
    for line in sections(function).get("Parameters", "").splitlines():
        if line and not line.startswith(" "):
            entries.append((line.split(" : ")[0].split(", "), []))
        elif line:
            entries[-1][1].append(line.strip())
    return [(names, " ".join(words)) for names, words in entries]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_parameters(name):
    """All of the signature, in its order; a reference names a function that has them.

    Seen to fail: with a parameter left out, and with two that were swapped.
    """
    documented = parameters(DOCUMENTED[name])
    signature = [parameter for parameter in inspect.signature(DOCUMENTED[name]).parameters if parameter != "self"]
    assert [parameter for names, _ in documented for parameter in names] == signature
    for names, text in documented:
        reference = re.match(r"As in `(fastce\.)?(\w+)`\.", text)
        assert text
        if reference:
            family = SHARDS if name in SHARDS and not reference.group(1) else PUBLIC
            function = family[f"shards.{reference.group(2)}" if family is SHARDS else reference.group(2)]
            assert set(names) <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_sections(name):
    """Seen to fail: with a function without Raises."""
    found = sections(DOCUMENTED[name])
    if name in CLASSES:  # an object returns and raises nothing before it is called
        assert {"Parameters", "Examples"} <= set(found)
    elif name == "EvaluationSums.add":  # it returns nothing
        assert {"Parameters", "Raises"} <= set(found)
    elif name in METHODS:
        assert {"Parameters", "Returns", "Raises"} <= set(found)
    elif name in ("show_config", "warmup", "shards.chunk_length", "shards.merge"):
        assert {"Parameters", "Raises", "Examples"} <= set(found)
    else:
        assert {"Parameters", "Returns", "Raises", "Examples"} <= set(found)
        assert ".. math::" in found[""], "it has no formula"


def test_one_wording_a_parameter():
    """Seen to fail: with an axis that was described in other words."""
    wordings = {}
    for name, function in DOCUMENTED.items():
        for names, text in parameters(function):
            for parameter in names:
                if not text.startswith("As in `") or (name, parameter) in OTHER_WORDING:
                    wordings.setdefault(parameter, {})[name] = text
    for parameter, by_function in wordings.items():
        common = {text for name, text in by_function.items() if (name, parameter) not in OTHER_WORDING}
        assert len(common) <= 1, f"{parameter}: {common}"
        other = [name for name in by_function if (name, parameter) in OTHER_WORDING]
        assert not common & {by_function[name] for name in other}, f"{parameter}: drop an entry of OTHER_WORDING"
    assert {(name, parameter) for parameter, found in wordings.items() for name in found} >= set(OTHER_WORDING)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_help_starts_with_a_readable_signature(name):
    """Seen to fail: without ``from __future__ import annotations``, where array-likes take a screen each."""
    signature = inspect.signature(DOCUMENTED[name])
    assert not any(word in str(signature) for word in ("_typing", "Union[", "ForwardRef")), signature
    assert len(str(signature)) < 60 * (1 + len(signature.parameters)), signature
