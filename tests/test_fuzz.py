"""The fuzzer of ``tests.fuzz`` for a short while, through Hypothesis and by seed, and that it finds what is planted.

The last tests plant a defect of each kind, and see it found.
"""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np

import fastce
from tests import fuzz
from tests.fuzz_calls import Call
from tests.fuzz_cases import trouble
from tests.fuzz_fields import FUNCTIONS, Bad, Function

# few combinations of shapes, dtypes and options: each is a kernel to compile
FEW = {
    "shape": ((2, 3), (1, 1), (4,), (17, 10), (3, 33), (2, 3, 4), (0, 4), (2, 0, 3), ()),
    "dtype": ("float32", Bad("complex64")),
    "other": ("same", "float64", Bad("short")),
    "grad_output": (None, Bad("short")),
    "gamma": (2.0, Bad(-1.0)),
    "seed": tuple(range(100)),
}
PLAIN = {"function": "softmax"} | {name: choices[0] for name, choices in FUNCTIONS["softmax"].fields.items()}


def few(name, choices):
    """A good choice four times of five."""
    if name == "options":
        choices = [*choices[:2], *[choice for choice in choices if isinstance(choice, Bad)][:1]]
    found = [choice for choice in choices if name not in FEW or choice in FEW[name]]
    good = [choice for choice in found if not isinstance(choice, Bad)]
    bad = [choice for choice in found if isinstance(choice, Bad)]
    return st.sampled_from([*good * (4 * len(bad) // len(good) + 1), *bad])


def cases(function):
    fields = {name: few(name, choices) for name, choices in FUNCTIONS[function].fields.items()}
    return st.fixed_dictionaries({"function": st.just(function), **fields})


@hypothesis.given(st.sampled_from(sorted(FUNCTIONS)).flatmap(cases))
@hypothesis.settings(max_examples=60)
def test_calls(case):
    assert trouble(case) is None


def test_all_public_functions_are_called():
    """But for those that compute nothing."""
    names = {name.partition(" ")[0] for name in FUNCTIONS}
    functions = {name for name in fastce.__all__ if name == "CrossEntropyLoss" or name[0].islower()}
    assert functions - names == {"show_config", "warmup"}


def test_most_cases_are_to_be_computed():
    refused = [Call(case).must_raise for case in itertools.islice(fuzz.cases(0), 1000)]
    assert 0.2 < np.mean(refused) < 0.5


def plant(monkeypatch, call):
    monkeypatch.setitem(FUNCTIONS, "softmax", Function(call, "x", FUNCTIONS["softmax"].fields))


def softmax(x, axis=-1, out=None):
    result = np.exp(x - x.max(axis, keepdims=True))
    result /= result.sum(axis, keepdims=True)
    if out is not None:
        out[...] = result
    return result if out is None else out


def test_it_is_content_with_what_is_right(monkeypatch):
    plant(monkeypatch, softmax)
    assert trouble(PLAIN) is None


def test_a_wrong_result_is_found_and_shrunk(monkeypatch):
    plant(monkeypatch, lambda x, axis=-1, out=None: softmax(x, axis, out) * (1 + 1e-9 * (x.shape[-1] > 5)))
    assert trouble(PLAIN) is None
    case = PLAIN | {"shape": (5, 70), "axis": 0, "seed": 7}
    assert "differ" in trouble(case)
    assert fuzz.shrink(case, trouble) == PLAIN | {"shape": (17, 10)}


def test_a_write_beside_out_is_found(monkeypatch):
    def careless(x, axis=-1, out=None):
        beyond = np.lib.stride_tricks.as_strided(out, (out.size + 1,), (out.itemsize,))
        beyond[-1] = 0
        return softmax(x, axis, out)

    plant(monkeypatch, careless)
    assert trouble(PLAIN | {"out": "C order"}) == "memory around out written to"


def test_a_change_of_an_input_is_found(monkeypatch):
    def careless(x, axis=-1, out=None):
        result = softmax(x, axis, out)
        x[0, 0] += 1
        return result

    plant(monkeypatch, careless)
    assert trouble(PLAIN) == "first argument written to"


def test_missing_and_undocumented_errors_are_found(monkeypatch):
    plant(monkeypatch, softmax)
    assert trouble(PLAIN | {"out": Bad("read-only")}) is None
    assert trouble(PLAIN | {"dtype": Bad("complex64")}) == "no error"

    def late(x, axis=-1, out=None):
        if out is not None:
            out[...] = 0
        raise ValueError("too late")

    plant(monkeypatch, late)
    assert trouble(PLAIN) == "ValueError: too late"
    assert trouble(PLAIN | {"out": Bad("short")}) == "out written to before ValueError"
    plant(monkeypatch, lambda x, axis=-1, out=None: 1 / 0)
    assert "undocumented ZeroDivisionError" in trouble(PLAIN)
