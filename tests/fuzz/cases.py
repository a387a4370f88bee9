"""One case of the fuzzer: run, and judged."""

from typing import Any

import numpy as np

from tests.functions import FUNCTIONS
from tests.fuzz.calls import ERRORS, Call
from tests.fuzz.fields import Case
from tests.fuzz.races import Race
from tests.helpers import assert_same_bits
from tests.oracle.compare import compare
from tests.oracle.oracles import EPS

SUMS = {"x": "d_hidden_out", "w": "d_weight_out", "b": "d_bias_out"}  # what may be added to, by letters of results
OVERLAP = ("overlap", "share memory")  # words of the error for outputs over other arguments


def trouble(case: Case) -> str | None:
    """Run a case; return what is wrong with what came of it, None for nothing."""
    return judge(Call(case))


def judge(call: Call) -> str | None:
    """Make a call, or many of them beside a writer; return what is wrong with what came of it, None for nothing."""
    problem = _judge_one(call)
    if problem is None and call.is_raced:
        race = Race(Call(call.case))
        call.raced = race.run(ERRORS)
        problem = race.problem
    return problem


def _judge_one(call: Call) -> str | None:
    try:
        results = call.run()
    except call.errors as error:
        call.is_refused = True
        is_overlap = call.may_raise and any(word in str(error) for word in OVERLAP)
        is_out_of_range = call.case["others"] == "any" and "within the range of" in str(error)
        if not (call.must_raise or is_overlap or is_out_of_range):
            return f"{type(error).__name__}: {error}"
        if not (call.may_raise or is_out_of_range) and len(call.reasons) == 1 and call.reasons[0] not in str(error):
            return f"{type(error).__name__} that does not say {call.reasons[0]}: {error}"
        touched = [name for name, array in call.guarded.items() if not array.is_untouched()]
        return f"{', '.join(touched)} written to before {type(error).__name__}" if touched else None
    except Exception as error:  # anything else is not documented, or not here
        return f"undocumented {type(error).__name__}: {error}"
    if call.must_raise:
        return "no error"
    for name, array in call.guarded.items():
        if not array.is_untouched_around():
            return f"memory around {name} written to" if array.outs else f"{name} written to"
    return _difference(call, results) or _difference_from_labels(call, results)


def _difference_from_labels(call: Call, results: list[Any]) -> str | None:
    """Compare with what the labels give that one-hot integers name."""
    if call.case.get("target") != "one-hot integers" or call.case.get("accumulate") or call.may_raise:
        return None  # outputs that are added to hold anything before; those over labels are refused
    for actual, expected in zip(results, Call(call.case | {"target": "labels"}).run(), strict=True):
        try:
            assert_same_bits(np.asarray(actual), np.asarray(expected))
        except AssertionError as error:
            return f"other bits than those of labels: {error}"
    return None


def _difference(call: Call, results: list[Any]) -> str | None:
    """Compare with the oracle."""
    positional, options = call.oracle
    is_anything = call.case["others"] == "any" or _is_divided_by_tiny_weights(call)
    with np.errstate(all="ignore"):
        expected = [] if is_anything else FUNCTIONS[call.name].oracle(*positional, **options)
    try:
        for i, (letter, actual) in enumerate(zip(FUNCTIONS[call.name].results, results, strict=False)):
            if is_anything:
                _check_dtype(np.asarray(actual), call.dtype_of(i))
                continue
            value, size = (np.asarray(v) for v in expected[i])
            if options.get("accumulate") and letter in SUMS:
                before = call.content_before(SUMS[letter])
                value, size = value + before, size + np.abs(before)
            inner = call.dtype_of_result("l")
            compare(np.asarray(actual), value, size, call.dtype_of(i), EPS, inner=inner)
        returned = [id(result) for result in results]
        for name, out in call.outs.items():
            assert id(out[0]) in returned, f"{name} is not returned"
    except AssertionError as error:
        return str(error)
    return None


def _is_divided_by_tiny_weights(call: Call) -> bool:
    """Tell of a mean whose losses, times their weights, are rounded below the smallest normal number of float32."""
    weights = {"weight", "sample_weight", "class_weight", "alpha"} & set(call.case.get("options", ()))
    is_mean = call.case.get("reduction") == "mean" and call.dtype_of_result("l") == np.float32
    return call.case["others"] == "tiny" and is_mean and bool(weights)


def _check_dtype(actual: np.ndarray, dtype: np.dtype[Any]) -> None:
    assert actual.dtype.newbyteorder("=") == dtype, f"dtype {actual.dtype}, not {dtype}"
