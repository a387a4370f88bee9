"""Arguments are converted once, whatever they are, and the caller's error settings change nothing."""

import warnings

import numpy as np
import pytest
import torch

import fastce
from tests.functions import CALLS, FUNCTIONS
from tests.helpers import assert_same_bits
from tests.inputs import SAMPLES, FewInputs


def has_more(call, other):
    """Whether a call takes all inputs of another call of the same function, and more."""
    return call.name == other.name and call.inputs.items() > other.inputs.items()


# the calls with the most arrays of each function, results unreduced
FULL = {
    name: call.with_all_arrays()
    for name, call in CALLS.items()
    if not any(has_more(other, call) for other in CALLS.values())
}
ALL_CALLS = pytest.mark.parametrize("name", FULL)
FLOAT16, FLOAT32, FLOAT64 = map(np.dtype, ("float16", "float32", "float64"))


def arrays_of(call, dtype):
    return call.arrays(FewInputs(dtype))


def test_all_functions_are_in_the_table():
    """But for those that compute nothing. Seen to fail: without the row of ``score``, and without its call."""
    names = {name for name in fastce.__all__ if name == "CrossEntropyLoss" or name[0].islower()}
    assert {name.partition(" ")[0] for name in FUNCTIONS} == names - {"show_config", "warmup"}
    assert {call.name for call in CALLS.values()} == {*FUNCTIONS}


def same(results, expected):
    for a, e in zip(results, expected, strict=True):
        if e is not None:
            assert_same_bits(np.asarray(a), np.asarray(e))


# --- once --------------------------------------------------------------------------------


class Fickle:
    """An array-like with another answer to every question, and a method of its own for everything."""

    def __init__(self, array):
        self.array, self.asked = array, 0

    def __array__(self, dtype=None, copy=None):
        self.asked += 1
        return self.array if self.asked == 1 else np.zeros_like(self.array[..., :1])

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AssertionError(f"{name} of an argument was used")


# in the table, the backward pass is two calls: see the test after this one
@pytest.mark.parametrize("name", [name for name, call in FULL.items() if call.name != "cross_entropy_backward"])
def test_each_array_is_converted_once(name):
    """Seen to fail: with a label-smoothing term from the class weights as given, or with ``np.ndim`` of an argument."""
    call = FULL[name]
    arrays = arrays_of(call, FLOAT64)
    expected = call.run(arrays)
    fickle = {key: Fickle(array) for key, array in arrays.items()}
    same(call.run(fickle), expected)
    assert {key: array.asked for key, array in fickle.items()} == dict.fromkeys(arrays, 1)


def test_the_backward_pass_converts_each_array_once():
    call = FULL["backward options"]
    arrays = arrays_of(call, FLOAT64)
    upstream = {"grad_output": arrays.pop("grad_output")}
    arrays["stats"] = fastce.cross_entropy_forward(**arrays, **call.options).stats
    arrays |= upstream
    expected = fastce.cross_entropy_backward(**arrays, **call.options)
    fickle = {key: Fickle(array) for key, array in arrays.items()}
    same([fastce.cross_entropy_backward(**fickle, **call.options)], [expected])
    assert {key: array.asked for key, array in fickle.items()} == dict.fromkeys(arrays, 1)


def test_a_scalar_grad_output_is_converted_once():
    for name in ("cross_entropy options", "linear options", "binary options"):
        arrays = arrays_of(FULL[name], FLOAT64) | {"grad_output": np.array(2.5)}
        expected = FULL[name].run(arrays)
        arrays["grad_output"] = Fickle(arrays["grad_output"])
        same(FULL[name].run(arrays), expected)
        assert arrays["grad_output"].asked == 1


def test_tensors_with_a_sum_of_their_own():
    x, y, w = np.eye(3), [0, 1, 2], np.array([1.0, 2, 0.5])
    expected = fastce.cross_entropy(x, y, weight=w, label_smoothing=0.1)
    assert fastce.cross_entropy(x, y, weight=torch.from_numpy(w), label_smoothing=0.1) == expected


# --- results over the memory of arguments that are no arrays -------------------------------


class Interface:
    """An object that is nothing but a place in memory."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self.array = array


FOREIGN = {"tensor": torch.from_numpy, "memoryview": memoryview, "interface": Interface}
WITH_OUT = [(name, out) for name, call in FULL.items() for out in call.function.outs]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize(("name", "out"), WITH_OUT)
def test_results_over_foreign_memory(name, out, foreign):
    """Right, or refused before anything is written; the start of the result is at one place or another.

    Seen to fail: where overlap is looked for in ndarrays alone. Labels that are written over end in a crash.
    """
    call = FULL[name]
    arrays = arrays_of(call, FLOAT64)
    expected = call.run(arrays)
    like = call.function.outs[out]
    shape = (SAMPLES,) if like == "samples" else arrays[like].shape
    refused = 0
    for key, array in arrays.items():
        for shift in (8, 16, 40):
            room = np.zeros(1000, np.uint8)
            inside = np.ndarray(array.shape, array.dtype, room, 80)
            inside[...] = array
            result = np.ndarray(shape, FLOAT64, room, 80 + shift)
            before = room.copy()
            if not np.shares_memory(inside, result):
                continue
            try:
                found = call.run(arrays | {key: FOREIGN[foreign](inside)}, **{out: result})
            except ValueError as error:
                assert "overlap" in str(error) or "share memory" in str(error)
                np.testing.assert_array_equal(room, before)
                refused += 1
            else:
                same(found, expected)
    assert refused


# --- the caller's error settings -------------------------------------------------------------

EXTREMES = [5e-324, 1e-310, 1e-46, 1e-40, 1e-39, 1e39, 1e300, np.inf, np.nan]


def results_under(call, arrays, **settings):
    """Results, or the message of the error for what is out of range."""
    with np.errstate(**settings):
        try:
            return [np.array(result) for result in call.run(arrays) if result is not None]
        except ValueError as error:
            return [np.frombuffer(str(error).encode(), np.uint8)]


SETTINGS = [
    *((name, FLOAT32) for name in FULL),
    *(("softmax where", FLOAT16), ("logsumexp where", FLOAT16), ("cross_entropy options", FLOAT16)),
    *(("cross_entropy options", FLOAT64), ("hvp all options", FLOAT64)),
]


@pytest.mark.parametrize(("name", "dtype"), SETTINGS, ids=str)
def test_error_settings_change_nothing(name, dtype):
    """Neither results nor warnings, whatever the values; by default there are no warnings either.

    Seen to fail: with a cast to the dtype of the logits that heeds them.
    """
    call = FULL[name]
    heard = []
    for key in arrays_of(call, dtype):
        for extreme in EXTREMES:
            arrays = arrays_of(call, dtype)
            if arrays[key].dtype.kind != "f":
                continue
            with np.errstate(all="ignore"):
                arrays[key].flat[0] = extreme
                arrays[key].flat[-1] = -extreme
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                expected = results_under(call, arrays)
                same(results_under(call, arrays, all="raise"), expected)
                same(results_under(call, arrays, all="warn"), expected)
                old = np.seterrcall(lambda kind, flag: heard.append(kind))
                try:
                    same(results_under(call, arrays, all="call"), expected)
                finally:
                    np.seterrcall(old)
    assert not heard


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("row", [[2e38, 0.0], [3e38, -3e38], [88.0, 0.0], [100.0, 0.0]], ids=str)
def test_error_settings_and_losses_that_leave_the_range(row, reduction):
    """Three times a loss near the end of the range, or a third of three that are subnormal."""
    x = np.array([row] * 3, np.float32)
    for target in ([0, 0, 0], [1, 1, 1], [0, 0, -100]):
        with np.errstate(all="raise"):
            found = fastce.cross_entropy_and_grad(x, target, reduction=reduction)
            weighted = fastce.cross_entropy(x, target, reduction=reduction, weight=[1 / 3, 1 / 7])
        same(found, fastce.cross_entropy_and_grad(x, target, reduction=reduction))
        same([weighted], [fastce.cross_entropy(x, target, reduction=reduction, weight=[1 / 3, 1 / 7])])


@pytest.mark.parametrize("normalizer", [1e38, 1e-37])
def test_error_settings_and_means_that_leave_the_range(normalizer):
    x, target = np.zeros((3, 2), np.float32), [0, 1, 1]
    with np.errstate(all="raise"):
        found = fastce.cross_entropy(x, target, normalizer=normalizer)
    same([found], [fastce.cross_entropy(x, target, normalizer=normalizer)])


def test_error_settings_in_staged_layouts():
    x = np.asfortranarray(np.full((9, 6), 1e-40, np.float32))[::2, ::-1]
    teacher = np.full(x.shape, 1e-310)
    with np.errstate(all="raise"):
        found = fastce.kl_divergence_and_grad(x, teacher), fastce.cross_entropy_and_grad(x, teacher)
    same(found[0], fastce.kl_divergence_and_grad(x, teacher))
    same(found[1], fastce.cross_entropy_and_grad(x, teacher))


# --- numbers ---------------------------------------------------------------------------------

X, Y, W = np.eye(4, 3), np.array([0, 1, 2, 1]), np.eye(5, 3)
INTEGERS = {
    "cross_entropy": lambda one: fastce.cross_entropy(X, Y, ignore_index=one, axis=one),
    "cross_entropy_and_grad": lambda one: fastce.cross_entropy_and_grad(X, Y, ignore_index=one, axis=one),
    "CrossEntropyLoss": lambda one: fastce.CrossEntropyLoss(ignore_index=one, axis=one)(X, Y),
    "from_probs": lambda one: fastce.cross_entropy_from_probs_and_grad(X, Y, ignore_index=one, axis=one),
    "focal_loss": lambda one: fastce.focal_loss_and_grad(X, Y, gamma=2.0, ignore_index=one, axis=one),
    "linear": lambda one: fastce.linear_cross_entropy_and_grad(X, W, Y, ignore_index=one, max_bytes=one),
    "score": lambda one: fastce.score(X, Y, ignore_index=one, axis=one, top_k=one),
    "evaluate": lambda one: fastce.evaluate([(X, Y)], ignore_index=one, axis=one, top_k=one),
    "hvp": lambda one: fastce.cross_entropy_hvp(X, Y, X, ignore_index=one, axis=one),
    "hessian": lambda one: fastce.cross_entropy_grad_and_hessian(X, Y, ignore_index=one, axis=one),
    "two passes": lambda one: fastce.cross_entropy_backward(
        X, Y, fastce.cross_entropy_forward(X, Y, ignore_index=one, axis=one).stats, ignore_index=one, axis=one
    ),
    "kl_divergence": lambda one: fastce.kl_divergence_and_grad(X, -X, axis=one),
    "softmax": lambda one: fastce.softmax(X, one),
    "logsumexp": lambda one: fastce.logsumexp(X, one, b=X),
    "vjp": lambda one: fastce.logsumexp_vjp(np.ones(4), X, np.ones(4), one),
}
NUMBERS = {
    "cross_entropy": lambda one: fastce.cross_entropy_and_grad(
        X, Y, label_smoothing=one, z_loss=one, logit_scale=one, softcap=one, normalizer=one, grad_output=one
    ),
    "from_probs": lambda one: fastce.cross_entropy_from_probs_and_grad(X, Y, label_smoothing=one, grad_output=one),
    "focal_loss": lambda one: fastce.focal_loss_and_grad(X, Y, gamma=one, grad_output=one),
    "linear": lambda one: fastce.linear_cross_entropy_and_grad(
        X, W, Y, label_smoothing=one, z_loss=one, logit_scale=one, softcap=one, normalizer=one, grad_output=one
    ),
    "kl_divergence": lambda one: fastce.kl_divergence_and_grad(X, -X, temperature=one, grad_output=one),
    "binary": lambda one: fastce.binary_cross_entropy_with_logits_and_grad(X, X, grad_output=one),
    "hessian": lambda one: fastce.cross_entropy_grad_and_hessian(X, Y, hessian_scale=one, label_smoothing=one),
    "hvp": lambda one: fastce.cross_entropy_hvp(X, Y, X, label_smoothing=one, grad_output=one),
    "two passes": lambda one: fastce.cross_entropy_backward(
        X, Y, fastce.cross_entropy_forward(X, Y, softcap=one).stats, softcap=one, z_loss=one, grad_output=one
    ),
}


def flat(result):
    return [result] if not isinstance(result, tuple) else [part for part in result if part is not None]


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_of_any_kind(name):
    """Seen to fail: where a kernel is given what the caller gave, or True is left a boolean."""
    for one in (np.int64(1), np.int8(1), np.uint16(1), np.array(1), True):
        a, e = INTEGERS[name](one), INTEGERS[name](1)
        assert a == e if name == "evaluate" else same(flat(a), flat(e)) is None


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_any_kind(name):
    for one in (np.float64(1), np.float32(1), np.float16(1), np.int64(1), np.bool_(True), np.array(1.0), 1, True):
        same(flat(NUMBERS[name](one)), flat(NUMBERS[name](1.0)))
