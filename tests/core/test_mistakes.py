"""Calls that mean something else than they say: they work, or their message says what to write."""

import ml_dtypes
import numpy as np
import pytest
import scipy.special

import fastce
from tests.functions import CALLS
from tests.helpers import assert_same_bits, tuple_of
from tests.inputs import SAMPLES, FewInputs

X, Y = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 1, 2, 0])
P = fastce.softmax(X)
EXPECTED = fastce.evaluate([(X, Y)])
HUGE = (10**400, -(10**400), 10**5000)  # Python refuses to print the last one

NUMBERS = {
    fastce.cross_entropy: ((X, Y), "label_smoothing z_loss logit_scale softcap normalizer ignore_index axis"),
    fastce.cross_entropy_and_grad: ((X, Y), "grad_output z_loss"),
    fastce.CrossEntropyLoss: ((), "label_smoothing z_loss logit_scale softcap ignore_index"),
    fastce.cross_entropy_from_probs_and_grad: ((P, Y), "label_smoothing ignore_index grad_output"),
    fastce.binary_cross_entropy_with_logits_and_grad: ((X, P), "grad_output weight pos_weight"),
    fastce.kl_divergence_and_grad: ((X, X), "temperature grad_output axis"),
    fastce.focal_loss_and_grad: ((X, Y), "gamma alpha grad_output ignore_index"),
    fastce.cross_entropy_grad_and_hessian: ((X, Y), "hessian_scale axis"),
    fastce.cross_entropy_hvp: ((X, Y, X), "label_smoothing ignore_index"),
    fastce.linear_cross_entropy_and_grad: (
        (X, X, Y),
        "label_smoothing z_loss logit_scale softcap normalizer ignore_index grad_output",
    ),
    fastce.score: ((X, Y), "ignore_index axis"),
    fastce.evaluate: (([(X, Y)],), "ignore_index axis label_smoothing"),
    fastce.EvaluationSums: ((), "ignore_index label_smoothing"),
    fastce.logsumexp: ((X,), "b axis"),
    fastce.warmup: ((), "classes"),
}


@pytest.mark.parametrize("function", NUMBERS, ids=lambda f: f.__name__)
def test_integers_beyond_float(function):
    arguments, options = NUMBERS[function]
    for option in options.split():
        for value in HUGE:
            given = {"gamma": 2.0} if function is fastce.focal_loss_and_grad else {}
            with pytest.raises(ValueError, match=option):
                function(*arguments, **given | {option: value})


def test_huge_labels():
    for function in (fastce.cross_entropy, fastce.score, lambda x, y: fastce.linear_cross_entropy(x, x, y)):
        for label in (2**70, 10**5000):
            with pytest.raises(IndexError, match=r"target\[2\] is .*, expected a class index"):
                function(X, [0, 1, label, 0])
    with pytest.raises(ValueError, match="weight must hold numbers of at most 64 bits, got an integer of 1329 bits"):
        fastce.cross_entropy(X, Y, weight=[1, 1, 10**400])


# --- labels and weights -------------------------------------------------------------

TARGETS = {
    "names": (["cat", "dog", "cow", "cat"], r"np.unique\(target, return_inverse=True\)"),
    "digits": (["0", "1", "2", "0"], r"np.asarray\(target\).astype\(int\) would fit"),
    "bytes": (np.array([b"0", b"1", b"2", b"0"]), r"np.asarray\(target\).astype\(int\) would fit"),
    "objects": (np.array([0, 1, 2, 0], object), r"np.asarray\(target\).astype\(int\) would fit"),
    "missing": ([0, 1, None, 0], r"target\[2\] is None: drop"),
    "None": (None, "it is None"),
    "dict": ({"a": 1}, "it is a dict: give a list of its values in the order of the samples"),
    "set": ({0, 1}, "it is a set: give a list"),
    "generator": ((label for label in [0, 1, 2, 0]), r"it is a generator: give list\(target\)"),
    "something": ([0, 1, object(), 0], r"target\[2\] is of the type object"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_labels_that_are_no_numbers(name):
    target, hint = TARGETS[name]
    for function in (
        fastce.cross_entropy,
        fastce.cross_entropy_grad_and_hessian,
        fastce.score,
        lambda x, y: fastce.focal_loss(x, y, gamma=2),
        lambda x, y: fastce.cross_entropy_from_probs(P, y),
        lambda x, y: fastce.linear_cross_entropy(x, x[:3], y),
        lambda x, y: fastce.evaluate([(x, y)]),
    ):
        with pytest.raises(TypeError, match=f"target must hold real numbers .*{hint}"):
            function(X, target)


WEIGHTS = {
    "a word": ("balanced", "it is a string: give the numbers themselves"),
    "digits": (["1", "2", "0.5"], r"np.asarray\({}\).astype\(float\) would fit"),
    "names": (["a", "b", "c"], "it holds strings"),
    "objects": (np.array([1, 2, 0.5], object), r"np.asarray\({}\).astype\(float\) would fit"),
    "missing": ([1.0, 2.0, None], r"{}\[2\] is None"),
    "dict": ({0: 1.0, 1: 2.0, 2: 0.5}, "it is a dict: give a list of its values in the order of the classes"),
    "map": (map(float, [1, 2, 3]), r"it is a map: give list\({}\)"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_no_numbers(name):
    weight, hint = WEIGHTS[name]
    for option, function in {
        "weight": lambda w: fastce.cross_entropy(X, Y, weight=w),
        "alpha": lambda w: fastce.focal_loss(X, Y, gamma=2, alpha=w),
        "pos_weight": lambda w: fastce.binary_cross_entropy_with_logits(X, P, pos_weight=w),
        "class_weight": lambda w: fastce.linear_cross_entropy(X, X[:3], Y, class_weight=w),
    }.items():
        with pytest.raises(TypeError, match=f"^{option} must hold real numbers .*{hint.format(option)}"):
            function(weight)
    with pytest.raises(TypeError, match="weight must hold"):
        fastce.evaluate(X, Y, weight=weight)


# --- ignore_index ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int16, np.int64, np.uint64, np.array])
def test_ignore_index_of_any_integer_type(kind):
    """As a Python integer, in every function that has it."""
    inputs = FewInputs(np.float64)
    for call in CALLS.values():
        if call.function.takes("ignore_index") and "target" in call.inputs:
            arrays = call.arrays(inputs)
            if call.inputs["target"] == "ignoring":
                arrays["target"] = inputs.labels
            for a, e in zip(call.run(arrays, ignore_index=kind(1)), call.run(arrays, ignore_index=1), strict=True):
                if e is not None:
                    assert_same_bits(np.asarray(a), np.asarray(e))


# --- evaluate -------------------------------------------------------------------------


def test_ways_to_give_two_arrays():
    lists = X.tolist(), Y.tolist()
    for arguments in (
        *((X, Y), ((X, Y),), ([X, Y],), ((X, Y.tolist()),), ([X, Y.tolist()],), ((X.tolist(), Y),)),
        *(lists, (lists,), (list(lists),), ([[X, Y]],), (([X, Y],),), ([lists],), (iter([(X, Y)]),)),
    ):
        assert fastce.evaluate(*arguments) == EXPECTED
    twice = fastce.evaluate(((X, Y), (X, Y)))
    assert (twice.count, twice.loss) == (8, EXPECTED.loss)


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        (X, r"target is missing: write evaluate\(logits, target\).*got ndarray alone"),
        (None, "target is missing: .*got NoneType"),
        ({"x": X, "y": Y}, "target is missing: .*got dict"),
        ([{"x": X, "y": Y}], r"got dict: write \(\(batch\['x'\], batch\['y'\]\) for batch in batches\)"),
        ([X, X, Y], r"got ndarray; for two arrays write evaluate\(logits, target\)"),
        ([(X, Y, None, Y)], "got tuple of length 4; the third member of a batch may be its sample_weight"),
        (["ab"], "got str"),
    ],
)
def test_batches_that_are_none(batches, match):
    with pytest.raises(TypeError, match=match):
        fastce.evaluate(batches)


def test_sample_weights_of_batches_are_in_them():
    with pytest.raises(ValueError, match=r"sample_weight must be in the batches here, as in \[\(logits, target, sam"):
        fastce.evaluate([(X, Y)], sample_weight=np.ones(4))
    weights = np.arange(4.0)
    assert fastce.evaluate([(X, Y, weights)]) == fastce.evaluate(X, Y, sample_weight=weights)


# --- results --------------------------------------------------------------------------

OUTS = [(name, out) for name, call in CALLS.items() for out in call.function.outs]


@pytest.mark.parametrize(("name", "out"), OUTS)
def test_masked_arrays_to_write_to(name, out):
    """Refused: the mask would hide results. Seen to fail: without the check, in all functions."""
    call = CALLS[name]
    arrays, place = call.arrays(FewInputs(np.float64)), call.function.outs[out]
    if place in arrays or place == "samples":
        shape = SAMPLES if place == "samples" else arrays[place].shape
        masked = np.ma.masked_array(np.full(shape, 7.0), True)
        with pytest.raises(TypeError, match=f"{out} must not be a masked array"):
            call.run(arrays, **{out: masked})
        assert np.all(masked.data == 7)


def test_accumulation_into_nothing():
    with pytest.raises(ValueError, match="none of d_hidden_out, d_weight_out and d_bias_out is given"):
        fastce.linear_cross_entropy_and_grad(X, X, Y, accumulate=True)
    total = np.ones((4, 3))
    result = fastce.linear_cross_entropy_and_grad(X, X, Y, accumulate=True, d_weight_out=total)
    assert result.d_weight is total


# --- weighted log-sum-exp ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "b"),
    [
        ([np.inf, np.inf], [1, -1]),
        ([np.inf, np.inf, 0.0], [2, -2, 5]),
        ([np.inf, np.inf], [np.nan, 1]),
        ([np.inf, 3.0], [1, -np.inf]),
        ([np.inf, 3.0], [-1, 2]),
        ([np.inf, 3.0], [0, 2]),
    ],
)
def test_infinities_that_cancel(x, b):
    """NaN, and so is the sign, as in SciPy."""
    for dtype in (np.float32, np.float64):
        given = np.array(x, dtype), np.array(b, dtype)
        expected = scipy.special.logsumexp(given[0], b=given[1], return_sign=True) if b[0] else (3 + np.log(2), 1)
        np.testing.assert_allclose(tuple_of(fastce.logsumexp(given[0], b=given[1], return_sign=True)), expected, 1e-6)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.int64, np.float16, np.int8, np.float32])
def test_bfloat16_with_weights_of_any_dtype(kind):
    """The dtype is that of float16 with the same weights, but float32 where that would be float16 and floats differ."""
    x = X.astype(ml_dtypes.bfloat16)
    result = fastce.logsumexp(x, b=np.array([1, 2, 3], kind))
    like_half = np.result_type(np.float16, kind)
    assert result.dtype == (np.float32 if kind == np.float16 else x.dtype if kind == np.int8 else like_half)
    expected = fastce.logsumexp(x.astype(float), b=[1.0, 2.0, 3.0])
    np.testing.assert_allclose(result.astype(float), expected, 1e-2 if kind == np.int8 else 1e-6)
    halves = fastce.logsumexp(X.astype(np.float16), b=np.ones(3, ml_dtypes.bfloat16))
    assert halves.dtype == np.float32


# --- many dimensions --------------------------------------------------------------------


@pytest.mark.parametrize("ndim", [33, 64])
def test_more_than_32_dimensions(ndim):
    """All that NumPy allows, as in two dimensions."""
    shape = (4, *(1,) * (ndim - 2), 3)
    x, y, p, weights = X.reshape(shape), Y.reshape(shape[:-1]), P.reshape(shape), np.array([1.0, -2.0, 0.5])
    pairs = {
        "weighted": lambda x, y, p: fastce.logsumexp(x, b=weights, return_sign=True),
        "mask": lambda x, y, p: fastce.logsumexp(x, b=2.0, where=x > -1),
        "loss": lambda x, y, p: fastce.cross_entropy_and_grad(x, y, weight=[1, 2, 3], label_smoothing=0.1),
        "where": lambda x, y, p: fastce.cross_entropy_and_grad(x, y, where=x > -5),
        "soft": lambda x, y, p: fastce.cross_entropy_and_grad(x, p),
        "binary": lambda x, y, p: fastce.binary_cross_entropy_with_logits_and_grad(x, p),
        "score": lambda x, y, p: fastce.score(x, y),
        "evaluate": lambda x, y, p: fastce.evaluate(x, y),
        "probs": lambda x, y, p: fastce.cross_entropy_from_probs_and_grad(p, p),
    }
    for name, function in pairs.items():
        for a, e in zip(tuple_of(function(x, y, p)), tuple_of(function(X, Y, P)), strict=True):
            assert_same_bits(np.reshape(a, np.shape(e)), np.asarray(e), name)
    if ndim == 64:
        with pytest.raises(ValueError, match="probs must have at most 63 dimensions for class indices, got 64"):
            fastce.cross_entropy_from_probs(p, y)
