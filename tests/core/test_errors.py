"""Every error: its type, and a message that says what was expected and what came."""

import numpy as np
import pytest

import fastce

X = np.zeros((4, 3))
Y = np.array([0, 1, 2, 0])
SOFT = np.full((4, 3), 1 / 3)


def raises(kind, fragments, function, *args, **options):
    with pytest.raises(kind) as caught:
        function(*args, **options)
    assert type(caught.value) is kind or kind is np.exceptions.AxisError
    message = str(caught.value)
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"{missing} not in {message!r}"


def both(name):
    return [getattr(fastce, name), getattr(fastce, f"{name}_and_grad")]


CROSS_ENTROPY = both("cross_entropy")
WITH_LABELS = [*CROSS_ENTROPY, *both("cross_entropy_from_probs")]
BINARY = both("binary_cross_entropy_with_logits")
FAMILY = [fastce.logsumexp, fastce.softmax, fastce.log_softmax]


def functions(which):
    return pytest.mark.parametrize("function", which, ids=lambda f: f.__name__)


# --- the first argument -----------------------------------------------------------------


@functions(FAMILY)
def test_family(function):
    raises(ValueError, ["dimension", "scalar"], function, 1.0)
    raises(TypeError, ["real", "complex128"], function, np.zeros(3, complex))
    raises(TypeError, ["real", "object"], function, np.zeros(3, object))
    raises(TypeError, ["real", "<U1"], function, ["a"])
    for axis in (2, -3):
        raises(np.exceptions.AxisError, [str(axis), "2"], function, X, axis)
    raises(TypeError, ["axis", "integer", "0.5"], function, X, 0.5)
    raises(TypeError, ["axis", "integer", "'x'"], function, X, "x")
    raises(TypeError, ["x", "masked array"], function, np.ma.array(X))
    raises(ValueError, ["x", "equal lengths", "inhomogeneous"], function, [[1.0, 2.0], [3.0]])
    raises(TypeError, ["where", "masked array"], function, X, where=np.ma.array(X > 0))
    raises(ValueError, ["where", "equal lengths"], function, X, where=[[True, True], [True]])
    with pytest.raises(TypeError, match="positional"):
        function(X, 0, None)


@functions(WITH_LABELS)
def test_first_argument(function):
    name = "probs" if "probs" in function.__name__ else "logits"
    raises(ValueError, ["dimension", "scalar"], function, 1.0, 0)
    raises(TypeError, [name, "real", "complex128"], function, X.astype(complex), Y)
    raises(TypeError, [name, "real", "object"], function, X.astype(object), Y)
    raises(ValueError, [name, "equal lengths"], function, [[1.0, 2.0], [3.0]], [0, 1])
    raises(ValueError, ["target", "equal lengths"], function, X, [[1.0, 0.0, 0.0], [1.0]])
    raises(TypeError, [name, "real", "<U1"], function, [["a", "b"]], [0])
    raises(np.exceptions.AxisError, ["2"], function, X, Y, axis=2)
    raises(TypeError, ["axis", "integer"], function, X, Y, axis=None)
    with pytest.raises(TypeError, match="positional"):
        function(X, Y, -1)


# --- targets ----------------------------------------------------------------------------


@functions(WITH_LABELS)
@pytest.mark.parametrize("label", [3, -1, 2**40, -(2**40), 2**62])
def test_label_out_of_range(label, function):
    """Named with its value and its place; negative labels do not wrap."""
    target = Y.copy()
    target[2] = label
    for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"weight": [1, 1, 1]}):
        raises(IndexError, ["target[2]", str(label), "0 to 2", "-100"], function, X, target, **options)


@functions(WITH_LABELS)
def test_the_first_label_out_of_range_in_more_dimensions(function):
    x, target = np.zeros((2, 3, 4, 5)), np.zeros((2, 4, 5), int)
    target[1, 2, 3] = 7
    target[1, 3, 0] = 9
    raises(IndexError, ["target[1, 2, 3]", "7", "0 to 2"], function, x, target, axis=1)
    raises(IndexError, ["target", "5", "0 to 2"], function, np.zeros(3), 5)


@functions(WITH_LABELS)
def test_the_default_ignore_index_is_a_bad_label_once_another_is_chosen(function):
    raises(IndexError, ["target[1]", "-100", "0 to 2", "ignore_index 0"], function, X, [1, -100, 2, 0], ignore_index=0)


@functions(WITH_LABELS)
def test_huge_unsigned_labels(function):
    raises(IndexError, ["target[1]", str(2**64 - 1)], function, X, np.array([0, 2**64 - 1, 1, 1], np.uint64))
    # as int64 this one would be -100
    raises(IndexError, ["target[0]", str(2**64 - 100)], function, X, np.array([2**64 - 100, 0, 1, 1], np.uint64))


@functions(WITH_LABELS)
def test_no_classes(function):
    raises(IndexError, ["target[0]"], function, np.zeros((2, 0)), [0, 0])


@functions(WITH_LABELS)
def test_shape_of_target(function):
    for wrong in [(5,), (4, 1), (1, 4), (3, 4), (4, 3, 1), (), (4, 4)]:
        expected = ["target", str(wrong), "(4,)", "(4, 3)"]
        raises(ValueError, expected, function, X, np.zeros(wrong, int))
        raises(ValueError, expected, function, X, np.zeros(wrong))
    raises(ValueError, ["(3,)", "expected (4,)", "axis=0"], function, X, np.zeros(3, int))
    raises(ValueError, ["(2, 4)", "(2, 3)", "axis=1"], function, np.zeros((2, 3, 4)), np.zeros((2, 4), int))


@functions(WITH_LABELS)
def test_dtype_of_target(function):
    raises(TypeError, ["integers", "float64"], function, X, Y.astype(float))
    raises(TypeError, ["integers", "bool"], function, X, Y.astype(bool))
    raises(ValueError, ["one-hot", "target[0, :]", "sum is 0", "floats"], function, X, SOFT.astype(int))
    raises(ValueError, ["one-hot", "target[0, :]", "sum is 3", "with_logits"], function, X, SOFT.astype(bool))
    raises(TypeError, ["target", "complex128"], function, X, SOFT.astype(complex))
    raises(TypeError, ["object"], function, X, Y.astype(object))
    raises(TypeError, ["<U1"], function, X, list("abca"))


# --- options ----------------------------------------------------------------------------


@functions(WITH_LABELS)
def test_options(function):
    raises(ValueError, ["weight", "(3,)", "(4,)"], function, X, Y, weight=np.ones(4))
    raises(ValueError, ["weight", "(3,)", "()"], function, X, Y, weight=2.0)
    raises(TypeError, ["weight", "complex128"], function, X, Y, weight=np.ones(3, complex))
    raises(ValueError, ["reduction", "mean", "sum", "none", "'batchmean'"], function, X, Y, reduction="batchmean")
    raises(ValueError, ["reduction", "None"], function, X, Y, reduction=None)
    for smoothing in (-0.1, 1.01, float("nan"), float("inf")):
        expected = ["label_smoothing", "0 to 1", str(smoothing)]
        raises(ValueError, expected, function, X, Y, label_smoothing=smoothing)
        raises(ValueError, expected, function, X, SOFT, label_smoothing=smoothing)
    raises(TypeError, ["label_smoothing", "number", "'x'"], function, X, Y, label_smoothing="x")
    raises(TypeError, ["label_smoothing", "number"], function, X, Y, label_smoothing=1j)
    raises(ValueError, ["label_smoothing", "scalar", "(2,)"], function, X, Y, label_smoothing=[0.1, 0.2])
    raises(TypeError, ["ignore_index", "integer", "1.0"], function, X, Y, ignore_index=1.0)
    raises(ValueError, ["ignore_index", str(2**70)], function, X, Y, ignore_index=2**70)


@functions(CROSS_ENTROPY)
def test_sample_weight(function):
    raises(ValueError, ["sample_weight", "(4,)", "(3,)"], function, X, Y, sample_weight=np.ones(3))
    raises(ValueError, ["sample_weight", "(4,)", "(4, 1)"], function, X, Y, sample_weight=np.ones((4, 1)))
    raises(TypeError, ["sample_weight", "object"], function, X, Y, sample_weight=np.ones(4, object))


@functions([fastce.cross_entropy_and_grad])
def test_grad_output(function):
    raises(ValueError, ["grad_output", "scalar", "(4,)"], function, X, Y, grad_output=[1.0, 2, 3, 4])
    raises(ValueError, ["grad_output", "scalar", "(4,)"], function, X, Y, reduction="sum", grad_output=np.ones(4))
    raises(TypeError, ["grad_output", "number", "'x'"], function, X, Y, grad_output="x")
    raises(ValueError, ["grad_output", "(4,)", "(3,)"], function, X, Y, reduction="none", grad_output=np.ones(3))
    raises(TypeError, ["grad_output"], function, X, Y, reduction="none", grad_output=np.ones(4, complex))


def test_grad_output_of_backward():
    criterion = fastce.CrossEntropyLoss()
    criterion(X, Y)
    raises(ValueError, ["grad_output", "scalar", "(2,)"], criterion.backward, [1.0, 2])
    raises(TypeError, ["out", "list"], criterion.backward, out=[1.0])
    raises(ValueError, ["out", "(4, 3)", "(3, 4)"], criterion.backward, out=np.zeros((3, 4)))


# --- binary cross-entropy -----------------------------------------------------------------


@functions(BINARY)
def test_binary(function):
    raises(ValueError, ["target", "(4, 3)", "(4,)"], function, X, Y)
    raises(ValueError, ["target", "(4, 3)", "(3,)"], function, X, np.zeros(3))
    raises(ValueError, ["weight", "broadcast", "(4, 3)", "(4,)"], function, X, SOFT, weight=np.ones(4))
    raises(ValueError, ["pos_weight", "broadcast", "(4, 3)", "(2,)"], function, X, SOFT, pos_weight=np.ones(2))
    raises(ValueError, ["weight", "broadcast", "(2, 4, 3)"], function, X, SOFT, weight=np.ones((2, 4, 3)))
    raises(ValueError, ["reduction", "'average'"], function, X, SOFT, reduction="average")
    raises(TypeError, ["logits", "complex128"], function, X.astype(complex), SOFT)
    raises(TypeError, ["target", "object"], function, X, SOFT.astype(object))
    raises(TypeError, ["pos_weight", "<U1"], function, X, SOFT, pos_weight="x")
    with pytest.raises(TypeError, match="positional"):
        function(X, SOFT, None)


@functions([fastce.binary_cross_entropy_with_logits_and_grad])
def test_binary_grad_output(function):
    raises(ValueError, ["grad_output", "scalar", "(4, 3)"], function, X, SOFT, grad_output=np.ones((4, 3)))
    raises(ValueError, ["grad_output", "(4, 3)", "(4,)"], function, X, SOFT, reduction="none", grad_output=np.ones(4))


def test_masked_arrays():
    """Their data would be computed with, mask or not."""
    masked = np.ma.masked_array(X, X == 0)
    raises(TypeError, ["x", "masked"], fastce.softmax, masked)
    for function in WITH_LABELS:
        raises(TypeError, ["masked"], function, masked, Y)
        raises(TypeError, ["target", "masked"], function, X, np.ma.masked_array(SOFT))
        raises(TypeError, ["target", "masked"], function, X, np.ma.masked_array(Y, Y == 2))
    for function in BINARY:
        raises(TypeError, ["masked"], function, masked, SOFT)


def test_warmup():
    raises(ValueError, ["classes", "0"], fastce.warmup, classes=0)
    raises(ValueError, ["classes", "-3"], fastce.warmup, classes=[10, -3])
    raises(TypeError, ["complex128"], fastce.warmup, [complex])
    raises(TypeError, ["classes", "2.5"], fastce.warmup, classes=2.5)
    raises(TypeError, ["classes", "'10'"], fastce.warmup, classes="10")
