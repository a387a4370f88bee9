"""One-hot targets of integers or booleans: the labels that they name, to the bit, in every function."""

import re
import tracemalloc

import numpy as np
import pytest

import fastce
from tests.helpers import assert_same_bits, labels_for, logits, tuple_of

WEIGHTS = {"weight": [1.0, 2, 0.5, 3, 1], "sample_weight": np.linspace(0.5, 2, 8), "label_smoothing": 0.2}
ALL = WEIGHTS | {"ignore_index": 3, "reduction": "none"}
W = np.linspace(-1, 1, 20).reshape(5, 4)


def _criterion(x, target, **options):
    batch = {name: options.pop(name) for name in ("sample_weight", "where", "normalizer") if name in options}
    criterion = fastce.CrossEntropyLoss(**options)
    return criterion(x, target, **batch), criterion.backward(), criterion.lse, *criterion.parts


def _linear(function):
    return lambda x, target, **options: function(x[:, :4], W, target, **options)


def _evaluate(x, target, **options):
    found = fastce.evaluate((x, target), **options), fastce.evaluate([(x, target.tolist())], **options)
    return [value for result in found for value in (result.count, result.loss, result.accuracy, result.entropy)]


def _hvp(x, target, **options):
    return fastce.cross_entropy_hvp(x, target, x[::-1], **options)


def _probabilities(function):
    return lambda x, target, **options: function(1 / (1 + np.exp(-x)), target, **options)


def _focal(function):
    def run(x, target, weight=None, label_smoothing=0.0, **options):
        return function(x, target, gamma=2.0, alpha=weight, **options)

    return run


def _without(function, *names):
    def run(x, target, **options):
        return function(x, target, **{key: value for key, value in options.items() if key not in names})

    return run


WEIGHT_NAMES = "weight", "sample_weight", "label_smoothing"


def _in_linear(function):
    def run(x, target, weight=None, sample_weight=None, **options):
        return _linear(function)(x, target, class_weight=weight, **options)

    return run


FUNCTIONS = {
    "cross_entropy": fastce.cross_entropy,
    "cross_entropy_and_grad": fastce.cross_entropy_and_grad,
    "CrossEntropyLoss": _criterion,
    "from_probs": _probabilities(fastce.cross_entropy_from_probs),
    "from_probs_and_grad": _probabilities(fastce.cross_entropy_from_probs_and_grad),
    "focal_loss": _focal(fastce.focal_loss),
    "focal_loss_and_grad": _focal(fastce.focal_loss_and_grad),
    "score": _without(fastce.score, *WEIGHT_NAMES, "reduction"),
    "evaluate": _without(_evaluate, *WEIGHT_NAMES, "reduction"),
    "hessian": _without(
        fastce.cross_entropy_grad_and_hessian, "weight", "label_smoothing", "ignore_index", "reduction"
    ),
    "hvp": _hvp,
    "linear": _in_linear(fastce.linear_cross_entropy),
    "linear_and_grad": _in_linear(fastce.linear_cross_entropy_and_grad),
}
EVERY = pytest.mark.parametrize("name", FUNCTIONS)


def same(actual, expected):
    actual, expected = (list(r) if isinstance(r, list) else tuple_of(r) for r in (actual, expected))
    for a, e in zip(actual, expected, strict=True):
        if e is not None:
            assert_same_bits(np.asarray(a), np.asarray(e))


@EVERY
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "options"])
def test_the_bits_of_labels(name, options, rng):
    """Of any integer dtype, as lists, in any layout; ``ignore_index`` is the class index that it is with labels."""
    x, labels = logits(rng, (8, 5)), np.array([0, 1, 2, 3, 4, 3, 0, 1])
    function = FUNCTIONS[name]
    expected = function(x, labels, **options)
    for dtype in (int, bool, np.uint8, np.int16, np.uint64, ">i4"):
        target = np.eye(5, dtype=dtype)[labels]
        before = target.copy()
        same(function(x, target, **options), expected)
        np.testing.assert_array_equal(target, before)
    wide = np.zeros((16, 10), int)
    wide[::2, ::2] = target
    for strided in (np.asfortranarray(target), wide[::2, ::2]):
        same(function(x, strided, **options), expected)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not name.startswith(("linear", "evaluate"))])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_class_axis(name, axis, rng):
    x = logits(rng, (4, 5, 6))
    labels = labels_for(rng, x.shape, axis)
    one_hot = np.expand_dims(labels, axis) == np.arange(x.shape[axis]).reshape([-1] + [1] * (2 - axis % 3))
    same(FUNCTIONS[name](x, one_hot.astype(int), axis=axis), FUNCTIONS[name](x, labels, axis=axis))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_evaluation_in_blocks(axis, rng, monkeypatch):
    monkeypatch.setattr("fastce.api.evaluate.BLOCK_ELEMENTS", 40)
    x = logits(rng, (4, 5, 6))
    labels = labels_for(rng, x.shape, axis)
    one_hot = np.expand_dims(labels, axis) == np.arange(x.shape[axis]).reshape([-1] + [1] * (2 - axis % 3))
    assert fastce.evaluate((x, one_hot), axis=axis) == fastce.evaluate((x, labels), axis=axis)
    one_hot[:] = False
    with pytest.raises(ValueError, match="one-hot") as caught:
        fastce.evaluate((x, one_hot), axis=axis)
    assert "block that starts at target[" in caught.value.__notes__[0]


def test_with_a_mask(rng):
    x, labels = logits(rng, (8, 5)), np.arange(8) % 5
    where = rng.random(x.shape) < 0.7
    where[3] = False
    for smoothing in (0.0, 0.1):
        options = {"where": where, "label_smoothing": smoothing, "reduction": "none"}
        target = np.eye(5, dtype=int)[labels]
        same(fastce.cross_entropy_and_grad(x, target, **options), fastce.cross_entropy_and_grad(x, labels, **options))


def test_one_sample_and_no_sample():
    assert fastce.cross_entropy([1.0, 2, 3], [0, 0, 1]) == fastce.cross_entropy([1.0, 2, 3], 2)
    assert fastce.cross_entropy(np.zeros((0, 3)), np.zeros((0, 3), int), reduction="sum") == 0
    assert fastce.cross_entropy([[1.0]], [[True]]) == 0
    assert fastce.linear_cross_entropy([1.0, 2], np.eye(2), [0, 1]) == fastce.linear_cross_entropy(
        [1.0, 2], np.eye(2), 1
    )
    with pytest.raises(ValueError, match=r"one-hot.*target\[0, :\] is not: its sum is 0"):
        fastce.cross_entropy(np.zeros((2, 0)), np.zeros((2, 0), int))


def test_the_values_of_textbooks():
    assert round(float(fastce.cross_entropy_from_probs([[0.1, 0.8, 0.1]], [[0, 0, 1]])), 7) == 2.3025851
    assert round(float(fastce.cross_entropy_from_probs([[0.2, 0.3, 0.5]], [[0, 0, 1]])), 7) == 0.6931472
    assert round(float(fastce.cross_entropy([[1, 2, 3], [2, 4, 6]], [[1, 0, 0], [0, 0, 1]])), 4) == 1.2753


BAD = [
    ([0, 0, 0, 0, 0], "its sum is 0, its number of non-zero values 0"),
    ([0, 1, 0, 1, 0], "its sum is 2, its number of non-zero values 2"),
    ([0, 0, 2, 0, 0], "its sum is 2, its number of non-zero values 1"),
    ([0, 0, 2, -1, 0], "its sum is 1, its number of non-zero values 2"),
    ([2**62, 2**62, 1, 0, 0], f"its sum is {2**63 + 1}, its number of non-zero values 3"),
]


@EVERY
@pytest.mark.parametrize(("row", "told"), BAD, ids=str)
def test_what_is_not_one_hot(name, row, told, rng):
    """The first such sample is named, and the ways out; nothing is written."""
    x, target = logits(rng, (8, 5)), np.eye(5, dtype=int)[[0, 1, 2, 3, 4, 3, 0, 1]]
    target[6] = 0
    target[3] = row
    with pytest.raises(ValueError, match=re.escape(f"target[3, :] is not: {told}")) as caught:
        FUNCTIONS[name](x, target)
    for way in ("one-hot", "probabilities as floats", "binary_cross_entropy_with_logits"):
        assert way in str(caught.value)


def test_where_the_first_sample_is(rng):
    x, target = np.zeros((2, 3, 4, 5)), np.zeros((2, 3, 4, 5), int)
    target[:, 1] = 1
    target[1, 1, 2, 3] = target[1, 0, 3, 0] = 0
    with pytest.raises(ValueError, match=re.escape("target[1, :, 2, 3] is not")):
        fastce.cross_entropy(x, target, axis=1)
    with pytest.raises(ValueError, match=re.escape("; target is not: its sum is 2")):
        fastce.cross_entropy([0.3, -2, 1.0], [1, 0, 1])
    large, wide = np.zeros((5000, 40), np.float32), np.zeros((5000, 40), bool)
    wide[:, 7] = True
    wide[4321, 8] = True
    with pytest.raises(ValueError, match=re.escape("target[4321, :] is not: its sum is 2")):
        fastce.cross_entropy(large, wide)


def test_out_is_left_alone(rng):
    x, target = logits(rng, (8, 5)), np.zeros((8, 5), int)
    out = np.full(x.shape, 7.0)
    with pytest.raises(ValueError, match="one-hot"):
        fastce.cross_entropy_and_grad(x, target, out=out)
    assert np.all(out == 7)


def test_memory():
    """A copy of a block at a time: a target of 32 MB takes less than two.

    Seen to fail: with the places of all ones in one array of the target's shape.
    """
    x = np.zeros((20_000, 200), np.float32)
    labels = np.arange(len(x)) % 200
    target = np.zeros(x.shape, np.int64)
    target[np.arange(len(x)), labels] = 1
    expected = fastce.cross_entropy(x, labels)
    tracemalloc.start()
    try:
        assert fastce.cross_entropy(x, target) == expected
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


# --- shapes that fit nothing ---------------------------------------------------------------

SHAPES = [
    ((4, 3), -1, (4, 1), "a column of class indices must lose its axis: np.squeeze(target, axis=1) would fit"),
    ((4, 3), 0, (1, 3), "a column of class indices must lose its axis: np.squeeze(target, axis=0) would fit"),
    ((2, 3, 4), 1, (2, 1, 4), "a column of class indices must lose its axis: np.squeeze(target, axis=1) would fit"),
    ((2, 3, 4), 1, (4, 2), "np.transpose(target) would fit"),
    ((2, 3, 4), 1, (8,), "np.reshape(target, (2, 4)) would fit"),
    ((3,), 0, (1, 1), "np.reshape(target, ()) would fit"),
    ((4, 3), 1, (1, 4), "np.reshape(target, (4,)) would fit"),
]


@pytest.mark.parametrize(("shape", "axis", "got", "advice"), SHAPES, ids=str)
def test_the_advice_is_right(shape, axis, got, advice):
    target = np.zeros(got, int)
    with pytest.raises(ValueError, match=re.escape(f"; {advice}") + "$"):
        fastce.cross_entropy(np.zeros(shape), target, axis=axis)
    code = re.search(r"np\..*\)(?= would)", advice).group()
    fastce.cross_entropy(np.zeros(shape), eval(code, {"np": np, "target": target}), axis=axis)


@pytest.mark.parametrize(
    ("got", "advice"), [((2, 1), "np.squeeze(target, axis=1)"), ((1, 2), "np.reshape(target, (2,))")]
)
def test_the_advice_for_the_last_layer_is_right(got, advice):
    target = np.zeros(got, int)
    with pytest.raises(ValueError, match=re.escape(f"{advice} would fit") + "$"):
        fastce.linear_cross_entropy(np.ones((2, 3)), np.ones((4, 3)), target)
    fastce.linear_cross_entropy(np.ones((2, 3)), np.ones((4, 3)), eval(advice, {"np": np, "target": target}))


def test_no_advice_that_would_mix_up_samples():
    """A target whose axes are in another order has as many values as one that fits, in other places."""
    for got in ((3, 4, 2), (2, 2, 6)):
        with pytest.raises(ValueError, match=r"axis 3$"):
            fastce.cross_entropy(np.zeros((2, 3, 4, 5)), np.zeros(got, int))
