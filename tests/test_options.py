"""The page of options: its tables are as the signatures have them, and nothing is missing."""

import inspect
import re

import pytest

import fastce
from tools import options

PAGE = options.PAGE.read_text(encoding="utf-8")
COLUMNS = [column for columns in options.TABLES.values() for column in columns]


def test_tables():
    """Seen to fail: with a default that was changed."""
    assert options.written(PAGE) == PAGE, "run python -m tools.options"


def test_every_call_has_its_place():
    """Seen to fail: with a function in no table."""
    results = {name for name, public in vars(fastce).items() if isinstance(public, type) and issubclass(public, tuple)}
    places = {*COLUMNS, *(f"{column}_and_grad" for column in COLUMNS), *options.SAME, *options.WITHOUT_OPTIONS}
    assert set(fastce.__all__) - results <= places


@pytest.mark.parametrize("call", options.SAME)
def test_same_options(call):
    """Seen to fail: with another default in one of both."""
    other, lacks = options.SAME[call]
    assert options.options(call) == {
        name: default for name, default in options.options(other).items() if name not in lacks
    }


def test_one_line_an_option():
    """Seen to fail: with an option without a meaning."""
    rows = {options.row_of(column, option) for column in COLUMNS for option in options.family(column)}
    meanings = re.findall(r"^- `(\w+)`: ", PAGE, re.M)
    assert sorted(meanings) == sorted(rows)


@pytest.mark.parametrize("thing", options.THINGS)
def test_other_names(thing):
    """Functions that are said to use a name have it.

    Seen to fail: with a name that was changed.
    """
    for name, functions in thing.others.items():
        for function in functions:
            calls = [getattr(fastce, call, None) for call in (function, f"{function}_and_grad")]
            assert any(name in inspect.signature(call).parameters for call in calls if call), f"{function}: {name}"
