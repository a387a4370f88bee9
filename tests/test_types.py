"""Types: type checkers and a run agree on a page of user code; overloads have the parameters of their functions."""

import inspect
import os
import pickle
import pydoc
import re
import runpy
import subprocess
import sys
import types
import typing
from pathlib import Path

import numpy as np
import pytest

import fastce
from fastce.api import options
from fastce.core.reduction import Reduction

ROOT = Path(__file__).parents[1]
PAGE = "tests/types_page.py"
FUNCTIONS = {name: f for name, f in vars(fastce).items() if name in fastce.__all__ and inspect.isfunction(f)}
INITS = {cls.__name__: cls.__init__ for cls in (fastce.CrossEntropyLoss, fastce.EvaluationSums)}
SHARDS = {f"shards.{name}": getattr(fastce.shards, name) for name in fastce.shards.__all__}
OVERLOADED = {name: f for name, f in (FUNCTIONS | INITS | SHARDS).items() if typing.get_overloads(f)}

MYPY = ["mypy", "--strict", "--config-file=", f"--cache-dir={os.devnull}", "--follow-imports=silent"]
PYRIGHT = ["pyright", "--pythonpath", sys.executable]


@pytest.mark.parametrize(
    "command", [[*MYPY, os.devnull], ["pyright", "--pythonpath", sys.executable]], ids=lambda c: c[0]
)
def test_type_checkers_accept_the_page(command):
    """Both are strict. Each also complains about a wrong call that it does not find."""
    run = subprocess.run(
        [sys.executable, "-m", *command, PAGE], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def is_of(value, kind):
    """Tell whether a value is of a type, as far as a value can tell."""
    origin, args = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(is_of(value, arg) for arg in args)
    if origin is np.ndarray and isinstance(value, np.ndarray):
        scalar = typing.get_args(args[1])[0]
        return scalar is typing.Any or issubclass(value.dtype.type, typing.get_origin(scalar) or scalar)
    if origin is tuple:
        return type(value) is tuple and all(
            is_of(x, arg) for x, arg in zip(value, args, strict=False) if arg is not ...
        )
    return isinstance(value, origin)


def test_values_have_the_types_of_the_page(monkeypatch):
    """A run of the page finds the types that it asserts. Seen to fail: with a loss of Python's float."""
    found = []

    def assert_type(value, kind):
        assert is_of(value, kind), f"{type(value)} is not of the type {kind}"
        found.append(value)
        return value

    monkeypatch.setattr(typing, "assert_type", assert_type)
    runpy.run_path(str(ROOT / PAGE))
    assert len(found) > 80


def test_the_page_has_everything():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    missing = {name for name in [*fastce.__all__, *SHARDS] if not re.search(rf"fastce\.{name}\b", text)}
    assert missing == {"GradAndHessian", "LossParts", "Score"}  # only results
    for name in OVERLOADED:
        if "reduction" in inspect.signature(OVERLOADED[name]).parameters:
            assert re.search(rf'fastce\.{name}\(.*reduction="none"', text), name


def test_all_functions_with_a_reduction_are_overloaded():
    """But for those whose results do not depend on it."""
    functions = FUNCTIONS | SHARDS
    with_reduction = {name for name in functions if "reduction" in inspect.signature(functions[name]).parameters}
    constant = {"cross_entropy_backward", "cross_entropy_hvp", "shards.cross_entropy_grad"}
    assert with_reduction - set(OVERLOADED) == constant


def parameters_of(overload):
    """Return (kind, default, type) of each parameter of an overload by its name; options have the default ``...``."""
    hints = typing.get_type_hints(overload, localns=vars(options))
    parameters = {}
    for name, parameter in inspect.signature(overload).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            parameters[name] = parameter.kind, parameter.default, hints.get(name)
            continue
        keys = typing.get_args(hints[name])[0]
        for key, hint in typing.get_type_hints(keys).items():
            default = parameter.empty if key in keys.__required_keys__ else ...
            parameters[key] = parameter.KEYWORD_ONLY, default, hint
    parameters.pop("self", None)
    return parameters


@pytest.mark.parametrize("name", OVERLOADED)
def test_overloads_have_the_parameters_of_the_function(name):
    """Names, kinds, types and defaults. Seen to fail: with a missing option, and with one of another type."""
    function = OVERLOADED[name]
    hints = typing.get_type_hints(function)
    expected = {key: value for key, value in inspect.signature(function).parameters.items() if key != "self"}
    chosen_by = {"reduction", "top_k", "return_sign"} | ({"logits", "target"} if name == "evaluate" else set())
    overloads = [parameters_of(overload) for overload in typing.get_overloads(function)]
    for found in overloads:
        assert set(expected) - set(found) <= ({"sample_weight"} if name == "evaluate" else set())  # in its batches
        assert set(found) <= set(expected)
        for parameter, (kind, default, hint) in found.items():
            assert kind == expected[parameter].kind, parameter
            if parameter in chosen_by:
                assert default in (inspect.Parameter.empty, expected[parameter].default), parameter
                continue
            assert hint == hints[parameter], parameter
            if default is ...:
                assert expected[parameter].default is not inspect.Parameter.empty, parameter
            else:
                assert default == expected[parameter].default, parameter
    if "reduction" in expected:
        kinds = [typing.get_args(found["reduction"][2]) for found in overloads]
        assert kinds == [("mean", "sum"), ("none",), typing.get_args(Reduction)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_starts_with_a_readable_signature(name):
    signature = pydoc.render_doc(FUNCTIONS[name], renderer=pydoc.plaintext).split("\n\n")[1].partition("    ")[0]
    assert signature.startswith(f"{name}(")
    positions = [re.search(rf"\b{p}: ", signature).start() for p in inspect.signature(FUNCTIONS[name]).parameters]
    assert positions == sorted(positions)
    assert not re.search(r"\*\*|Any\b|Union|ForwardRef|_Supports|numpy\.ndarray|overload", signature), signature


@pytest.mark.parametrize(
    "value",
    [
        fastce.cross_entropy_and_grad([[1.0, 2.0]], [0]),
        fastce.cross_entropy_forward([[1.0, 2.0]], [0], reduction="none"),
        fastce.LossParts(np.float32(1.0), np.float32(2.0)),
        fastce.linear_cross_entropy_and_grad(np.eye(2), np.eye(2), [0, 1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_generic_tuples_are_plain_tuples(value):
    """They unpack, pickle, and keep their type; the by-products of the last layer alone are in a dictionary."""
    copy = pickle.loads(pickle.dumps(value))
    assert type(copy) is type(value)
    assert hasattr(copy, "__dict__") == isinstance(value, fastce.LinearCrossEntropy)
    assert all(np.array_equal(a, b) for a, b in zip(copy, value, strict=True) if a is not None)


def test_objects_of_a_given_type_pickle():
    criterion = fastce.CrossEntropyLoss[np.floating](reduction="sum")
    assert pickle.loads(pickle.dumps(criterion)).reduction == "sum"
