"""The fuzzer of ``tests.fuzz`` for a short while, through Hypothesis and by seed, and that it finds what is planted."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from tests import fuzz, fuzz_cases
from tests.fuzz_cases import FIELDS, FUNCTIONS, Bad, Function

# few combinations of dtypes and options: each is a kernel to compile
FEW = {
    "dtype": ("float64", "float32", Bad("complex64")),
    "options": ((), ("weight",), ("where",), Bad(("weight",))),
    "grad_output": (None,),
    "seed": tuple(range(100)),
}
PLAIN = {name: choices[0] for name, choices in FIELDS.items()}


def strategy(choices):
    good = [choice for choice in choices if not isinstance(choice, Bad)]
    return (
        st.sampled_from(good) if len(good) == len(choices) else st.sampled_from([*good * 4, *set(choices) - set(good)])
    )


@hypothesis.given(st.fixed_dictionaries({name: strategy(FEW.get(name, c)) for name, c in FIELDS.items()}))
@hypothesis.settings(max_examples=300)
def test_calls(case):
    assert fuzz_cases.trouble(case) is None


def plant(monkeypatch, call):
    monkeypatch.setitem(FUNCTIONS, "softmax", Function(call, FUNCTIONS["softmax"].fields))


def softmax(x, axis=-1, out=None):
    result = np.exp(x - x.max(axis, keepdims=True))
    result /= result.sum(axis, keepdims=True)
    if out is not None:
        out[...] = result
    return result if out is None else out


def test_it_is_content_with_what_is_right(monkeypatch):
    plant(monkeypatch, softmax)
    assert fuzz_cases.trouble(PLAIN) is None


def test_a_wrong_result_is_found_and_shrunk(monkeypatch):
    plant(monkeypatch, lambda x, axis=-1, out=None: softmax(x, axis, out) * (1 + 1e-9 * (x.shape[-1] > 5)))
    assert fuzz_cases.trouble(PLAIN) is None
    case = PLAIN | {"shape": (5, 70), "axis": 0, "seed": 7, "reduction": "sum"}
    assert "differ" in fuzz_cases.trouble(case)
    small = fuzz.shrink(case, fuzz_cases.trouble)
    assert small == PLAIN | {"shape": (17, 10)}


def test_a_write_beside_out_is_found(monkeypatch):
    def careless(x, axis=-1, out=None):
        beyond = np.lib.stride_tricks.as_strided(out, (out.size + 1,), (out.itemsize,))
        beyond[-1] = 0
        return softmax(x, axis, out)

    plant(monkeypatch, careless)
    assert fuzz_cases.trouble(PLAIN | {"out": "C order"}) == "memory around out written to"


def test_a_change_of_an_input_is_found(monkeypatch):
    def careless(x, axis=-1, out=None):
        result = softmax(x, axis, out)
        x[0, 0] += 1
        return result

    plant(monkeypatch, careless)
    assert fuzz_cases.trouble(PLAIN) == "first argument written to"


def test_missing_and_undocumented_errors_are_found(monkeypatch):
    plant(monkeypatch, softmax)
    assert fuzz_cases.trouble(PLAIN | {"out": Bad("read-only")}) is None
    assert fuzz_cases.trouble(PLAIN | {"dtype": Bad("complex64")}) == "no error"

    def late(x, axis=-1, out=None):
        if out is not None:
            out[...] = 0
        raise ValueError("too late")

    plant(monkeypatch, late)
    assert fuzz_cases.trouble(PLAIN) == "ValueError: too late"
    assert fuzz_cases.trouble(PLAIN | {"out": Bad("short")}) == "out written to before ValueError"
    plant(monkeypatch, lambda x, axis=-1, out=None: 1 / 0)
    assert "undocumented ZeroDivisionError" in fuzz_cases.trouble(PLAIN)
