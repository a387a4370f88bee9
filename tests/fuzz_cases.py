"""One case of the fuzzer: run, and judged."""

from typing import Any

import numpy as np

from tests.fuzz_calls import Call
from tests.fuzz_fields import Case
from tests.fuzz_oracles import EPS, ORACLES
from tests.helpers import assert_within, finfo

ERRORS = (TypeError, ValueError, IndexError)  # those documented; AxisError is of the latter two
EPS_OF_HALVES = 4


def trouble(case: Case) -> str | None:
    """Run a case; return what is wrong with what came of it, None for nothing."""
    return judge(Call(case))


def judge(call: Call) -> str | None:
    """Make a call; return what is wrong with what came of it, None for nothing."""
    try:
        results = call.run()
    except ERRORS as error:
        if not call.must_raise:
            return f"{type(error).__name__}: {error}"
        touched = [name for name, array in call.guarded.items() if not array.is_untouched()]
        return f"{', '.join(touched)} written to before {type(error).__name__}" if touched else None
    except Exception as error:  # anything else is not documented
        return f"undocumented {type(error).__name__}: {error}"
    if call.must_raise:
        return "no error"
    outs = call.outs.values()
    for name, array in call.guarded.items():
        if not (array.is_untouched_around() if array in outs else array.is_untouched()):
            return f"memory around {name} written to" if array in outs else f"{name} written to"
    return _difference(call, results)


def _difference(call: Call, results: list[Any]) -> str | None:
    """Compare with the oracle."""
    positional, options = call.oracle
    with np.errstate(all="ignore"):
        expected = ORACLES[call.name](*positional, **options)
    try:
        for i, (letter, actual) in enumerate(zip(call.function.results, results, strict=False)):
            value, size = (np.asarray(v) for v in expected[i])
            if options.get("accumulate") and i:
                before = call.content_before(("d_hidden_out", "d_weight_out", "d_bias_out")[i - 1])
                value, size = value + before, size + np.abs(before)
            _compare(np.asarray(actual), value, size, call.dtype_of_result(letter), call.dtype_of_result("l"))
        returned = [id(result) for result in results]
        for name, out in call.outs.items():
            assert id(out.array) in returned, f"{name} is not returned"
    except AssertionError as error:
        return str(error)
    return None


def _compare(actual: np.ndarray, value: np.ndarray, size: Any, dtype: np.dtype[Any], inner: np.dtype[Any]) -> None:
    """``inner`` is the dtype of the computation, below whose smallest normal number all may be 0."""
    assert actual.dtype.newbyteorder("=") == dtype, f"dtype {actual.dtype}, not {dtype}"
    if dtype.kind in "ib":
        np.testing.assert_array_equal(actual, value)
        return
    info = finfo(dtype)
    with np.errstate(all="ignore"):
        size = np.broadcast_to(np.asarray(np.abs(size), np.float64), value.shape)
        size = np.nan_to_num(size, posinf=np.inf) + float(finfo(inner).tiny) / float(info.eps)
    value = np.where(size == np.inf, np.asarray(actual, value.dtype), value)  # nothing left to compare
    assert_within(actual, value, EPS if info.bits > 16 else EPS_OF_HALVES, scale=np.where(size == np.inf, 0, size))
