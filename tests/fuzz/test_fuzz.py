"""The fuzzer of ``tests.fuzz`` for a short while, through Hypothesis and by seed, and that it finds what is planted.

The last tests plant a defect of each kind, and see it found.
"""

import inspect
import itertools
import math
import signal
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import fastce
from tests.fuzz import deadly_job, races
from tests.fuzz import run as fuzz
from tests.fuzz.calls import Call
from tests.fuzz.cases import trouble
from tests.fuzz.fields import EVERY, FUNCTIONS, Bad
from tests.fuzz.jobs import Share, outcomes

# few combinations of shapes, dtypes and options: each is a kernel to compile
FEW = {
    "shape": ((2, 3), (1, 1), (4,), (17, 10), (3, 33), (2, 3, 4), (0, 4), (2, 0, 3), ()),
    "dtype": ("float32", Bad("complex64")),
    "other": ("same", "float64", Bad("short")),
    "grad_output": (None, Bad("short")),
    "gamma": (2.0, Bad(-1.0)),
    "beside a writer": (False,),
    "seed": tuple(range(100)),
}


def plain(function):
    return {"function": function} | {name: choices[0] for name, choices in FUNCTIONS[function].fields.items()}


PLAIN = plain("softmax")


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


# what no case draws, and why
NOT_DRAWN = {
    "stats": "it comes from the forward pass",
    "progress": "it prints, and changes no result",
}


def parameters(function):
    """Those of the public function, and for the criterion those of a call with a batch and of the backward pass."""
    public = getattr(fastce, function.partition(" ")[0])
    calls = [public, public.__call__, public.backward] if function == "CrossEntropyLoss" else [public]
    return {name: p for call in calls for name, p in inspect.signature(call).parameters.items() if name != "self"}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_option_is_drawn(function):
    """A field, or an option of one, has another value than the default for each parameter.

    Seen to fail: without the field "more out", or without the options that hold ``where``.
    """
    drawn, fields = set(), FUNCTIONS[function].fields
    good = {name: [c for c in choices if not isinstance(c, Bad)] for name, choices in fields.items()}
    for options in ((), max(good.get("options", [()]), key=len)):  # with a bias there is an array for its gradient
        for field in fields.keys() - EVERY.keys() - {"shape"}:
            for choice in good[field]:
                case = plain(function) | {"seed": 1, "options": options, field: choice}
                drawn |= given(case, parameters(function))
    optional = {name for name, p in parameters(function).items() if p.default is not p.empty}
    required = parameters(function).keys() - optional - {"b"}
    if function == "logsumexp":
        optional -= {"b", "return_sign"}  # there is "logsumexp with b"
    if function == "evaluate":
        optional -= {"target"}
    assert optional - drawn <= NOT_DRAWN.keys()
    call = Call(plain(function))
    assert len(call.positional) + len(required & call.keywords.keys()) >= len(required - NOT_DRAWN.keys())


def given(case, known):
    """The options of a case that are other than by default."""
    found = {name: value for name, value in Call(case).keywords.items() if name in known}
    return {name for name, value in found.items() if isinstance(value, np.ndarray) or value != known[name].default}


def test_bad_options_are_drawn():
    """Each number and each weight has a choice that is refused."""
    for function, (_, fields) in FUNCTIONS.items():
        options = fields.get("options", ())
        bad = {name.rpartition(" ")[2] for c in options if isinstance(c, Bad) for name in c.value}
        good = {name.rpartition(" ")[2] for c in options if not isinstance(c, Bad) for name in c}
        assert good - bad <= {"b", "keepdims", "sign"}, function


def test_most_cases_are_to_be_computed():
    refused = [Call(case).must_raise for case in itertools.islice(fuzz.cases(0), 640)]
    assert 0.2 < np.mean(refused) < 0.5


def plant(monkeypatch, call, function="softmax"):
    monkeypatch.setitem(FUNCTIONS, function, FUNCTIONS[function]._replace(call=call))


def softmax(x, axis=-1, out=None):
    x = np.asarray(x)
    if out is not None and not out.flags.writeable:
        raise ValueError("out is read-only")
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
        raise ValueError("out comes too late")

    plant(monkeypatch, late)
    assert trouble(PLAIN) == "ValueError: out comes too late"
    assert trouble(PLAIN | {"out": Bad("short")}) == "out written to before ValueError"
    plant(monkeypatch, lambda x, axis=-1, out=None: 1 / 0)
    assert "undocumented ZeroDivisionError" in trouble(PLAIN)


# --- arguments that are no ndarrays, and what the caller and other threads do -------------


def test_an_argument_not_converted_is_found(monkeypatch):
    plant(monkeypatch, lambda x, axis=-1, out=None: softmax(x + 0, axis, out))
    assert trouble(PLAIN) is None
    assert "can only concatenate" in trouble(PLAIN | {"objects": "list"})
    assert "undocumented AssertionError: a ufunc of an argument's own" in trouble(PLAIN | {"objects": "subclass"})


def test_an_argument_converted_twice_is_found(monkeypatch):
    plant(monkeypatch, lambda x, axis=-1, out=None: (np.asarray(x), softmax(x, axis, out))[1])
    assert trouble(PLAIN | {"objects": "memoryview"}) is None
    assert trouble(PLAIN | {"objects": "__array__"}) is not None


def test_floating_point_errors_are_found(monkeypatch):
    plant(monkeypatch, lambda x, axis=-1, out=None: softmax(x + np.float64(1e-300) * 1e-300, axis, out))
    assert "undocumented FloatingPointError: underflow" in trouble(PLAIN)
    assert "undocumented RuntimeWarning: underflow" in trouble(PLAIN | {"floating-point errors": "warn"})


def test_overlap_not_noticed_is_found(monkeypatch):
    def careless(x, axis=-1, out=None):
        x = np.asarray(x)
        for row, goal in zip(x, x if out is None else out, strict=True):
            goal[...] = softmax(row)
        return out

    over = [PLAIN | {"out": "over an argument", "objects": "memoryview", "seed": seed} for seed in range(20)]
    assert {trouble(case) for case in over} == {None}
    plant(monkeypatch, careless)
    assert any("differ" in str(trouble(case)) for case in over)


def test_other_bits_than_those_of_labels_are_found(monkeypatch):
    def careless(x, target, **options):
        loss = fastce.cross_entropy(x, target, **options)
        return np.nextafter(loss, 9) if np.ndim(target) == np.ndim(x) else loss

    case = plain("cross_entropy") | {"target": "one-hot integers"}
    assert trouble(case) is None
    plant(monkeypatch, careless, "cross_entropy")
    assert "other bits than those of labels" in trouble(case)


def test_what_is_read_twice_is_found_beside_a_writer(monkeypatch):
    monkeypatch.setattr(races, "WRITTEN", 300_000_000)
    monkeypatch.setattr(races, "SECONDS", 5)
    case = PLAIN | {"beside a writer": True, "out": "C order"}
    assert trouble(case) is None

    def careless(x, axis=-1, out=None, harm=None):
        before = x.copy()
        time.sleep(1e-3)
        if not np.array_equal(before, x):
            harm(out)
        return softmax(np.clip(np.nan_to_num(before), -99, 99), axis, out)

    def lose(out):
        raise KeyError("lost")

    def write_beyond(out):
        np.lib.stride_tricks.as_strided(out, (out.size + 1,), (out.itemsize,))[-1] = 0

    plant(monkeypatch, lambda x, axis=-1, out=None: careless(x, axis, out, lose))
    assert trouble(case) == "beside a writer: undocumented KeyError: 'lost'"
    plant(monkeypatch, lambda x, axis=-1, out=None: careless(x, axis, out, write_beyond))
    assert trouble(case) == "beside a writer: memory around out written to"


# --- processes ----------------------------------------------------------------------------


def test_jobs_share_the_cases_and_outlive_a_crash():
    told = list(outcomes(Share(deadly_job.cases, 0, 50, math.inf, fuzz.TOGETHER, jobs=2), deadly_job.examine))
    expected = [repr({"number": i}) for i in range(50)]
    assert sorted(outcome.small for outcome in told) == sorted(expected)
    problems = [outcome.problem for outcome in told if outcome.problem]
    assert problems == [f"the process ended with status {-signal.SIGKILL}: {expected[deadly_job.DEADLY]}"]
