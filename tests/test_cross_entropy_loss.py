"""CrossEntropyLoss: the functions as an object with options and a buffer."""

import numpy as np
import pytest

import fastce
from tests.helpers import DTYPES, assert_same_bits, computed, labels_for, logits, name_of, soft_for

OPTIONS = {
    "defaults": {},
    "weight": {"weight": [1.0, 2, 0.5, 3, 1]},
    "sample_weight": {"sample_weight": np.linspace(0.5, 2, 8)},
    "ignore_index": {"ignore_index": 2},
    "label_smoothing": {"label_smoothing": 0.2},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "all": {
        "weight": [1.0, 2, 0.5, 3, 1],
        "sample_weight": np.linspace(0.5, 2, 8),
        "label_smoothing": 0.2,
        "ignore_index": 0,
        "reduction": "none",
    },
}


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_agrees_with_the_functions(dtype, rng):
    check(logits(rng, (8, 5), dtype), {}, rng)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, rng):
    check(logits(rng, (8, 5)), OPTIONS[name], rng)


def check(x, options, rng):
    criterion = fastce.CrossEntropyLoss(**options)
    for target in (labels_for(rng, x.shape), soft_for(rng, x.shape, dtype=computed(x.dtype))):
        expected = fastce.cross_entropy_and_grad(x, target, **options)
        loss = criterion(x, target)
        assert type(loss) is type(expected.loss)
        assert_same_bits(loss, expected.loss)
        assert_same_bits(criterion.backward(), expected.grad)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_axis(axis, rng):
    x = logits(rng, (4, 5, 6))
    target = labels_for(rng, x.shape, axis)
    criterion = fastce.CrossEntropyLoss(axis=axis)
    expected = fastce.cross_entropy_and_grad(x, target, axis=axis)
    assert criterion(x, target) == expected.loss
    assert_same_bits(criterion.backward(), expected.grad)


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        fastce.CrossEntropyLoss(-1)


def test_grad_output(rng):
    x, target = logits(rng, (8, 5)), np.arange(8) % 5
    criterion = fastce.CrossEntropyLoss(reduction="none")
    criterion(x, target)
    for grad_output in (2.0, np.linspace(-1, 1, 8), [0.5] * 8):
        expected = fastce.cross_entropy_and_grad(x, target, reduction="none", grad_output=grad_output).grad
        assert_same_bits(criterion.backward(grad_output), expected)
    criterion = fastce.CrossEntropyLoss()
    criterion(x, target)
    assert_same_bits(criterion.backward(grad_output=-3), fastce.cross_entropy_and_grad(x, target, grad_output=-3).grad)


def test_backward_may_be_called_again(rng):
    x, target = logits(rng, (8, 5)), np.arange(8) % 5
    criterion = fastce.CrossEntropyLoss()
    criterion(x, target)
    first = criterion.backward().copy()
    assert_same_bits(criterion.backward(), first)


def test_the_buffer_is_kept(rng):
    criterion = fastce.CrossEntropyLoss()
    x, target = logits(rng, (8, 5)), np.arange(8) % 5
    criterion(x, target)
    buffer = criterion.backward()
    for _ in range(3):
        x = logits(rng, (8, 5))
        criterion(x, target)
        assert criterion.backward() is buffer
        assert_same_bits(buffer, fastce.cross_entropy_and_grad(x, target).grad)


@pytest.mark.parametrize("other", [logits(np.random.default_rng(3), (6, 4)), np.zeros((8, 5), np.float32)], ids=str)
def test_another_shape_or_dtype_gets_a_buffer_of_its_own(other, rng):
    criterion = fastce.CrossEntropyLoss()
    x = logits(rng, (8, 5))
    criterion(x, np.arange(8) % 5)
    first = criterion.backward()
    before = first.copy()
    target = np.zeros(len(other), int)
    criterion(other, target)
    second = criterion.backward()
    assert second is not first
    assert_same_bits(second, fastce.cross_entropy_and_grad(other, target).grad)
    assert_same_bits(first, before)


def test_logits_are_never_modified(rng):
    """Not even logits that live in the gradient buffer of an earlier call."""
    criterion = fastce.CrossEntropyLoss()
    x, target = logits(rng, (8, 5)), np.arange(8) % 5
    before = x.copy()
    criterion(x, target)
    grad = criterion.backward()
    assert_same_bits(x, before)
    assert not np.shares_memory(grad, x)
    for again in (grad, grad[:]):
        before = again.copy()
        criterion(again, target)
        other = criterion.backward()
        assert_same_bits(again, before)
        assert_same_bits(other, fastce.cross_entropy_and_grad(again, target).grad)


@pytest.mark.parametrize(
    ("row", "lse"), [([1e200, 0.0], 1e200), ([800.0, 0.0], 800.0), ([-np.inf] * 2, np.nan), ([np.inf, 0.0], np.nan)]
)
def test_parts_and_lse_of_extreme_logits(row, lse):
    """They are told without a warning, of underflow neither, and there is no part of a loss that is not asked for."""
    criterion = fastce.CrossEntropyLoss()
    with np.errstate(all="raise"):
        loss = criterion([row], [0])
        parts = criterion.parts
        np.testing.assert_array_equal(criterion.lse, [lse])
    np.testing.assert_array_equal(parts, [loss, 0.0])


@pytest.mark.parametrize("target", [[0, 1, -100], np.full((3, 2), 0.5)], ids=["labels", "probabilities"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_lse_of_samples_without_classes(target, smoothing):
    """They are ignored, so their logits are not looked at."""
    where = [[True, True], [False, False], [True, False]]
    criterion = fastce.CrossEntropyLoss(where=where, label_smoothing=smoothing)
    criterion(np.zeros((3, 2)), target)
    last = 0.0 if np.ndim(target) == 2 else np.nan
    np.testing.assert_allclose(criterion.lse, [np.log(2), np.nan, last])


def test_repr():
    assert repr(fastce.CrossEntropyLoss()) == "CrossEntropyLoss()"
    shown = repr(fastce.CrossEntropyLoss(axis=1, label_smoothing=0.1, reduction="sum", weight=[1.0, 2.0]))
    for fragment in ("axis=1", "label_smoothing=0.1", "reduction='sum'", "weight="):
        assert fragment in shown
    assert "ignore_index" not in shown
    assert "sample_weight" not in shown


def test_two_objects_share_nothing(rng):
    x, target = logits(rng, (8, 5)), np.arange(8) % 5
    one, two = fastce.CrossEntropyLoss(), fastce.CrossEntropyLoss(reduction="sum")
    one(x, target)
    two(x, target)
    first, second = one.backward(), two.backward()
    assert not np.shares_memory(first, second)
    assert_same_bits(first, fastce.cross_entropy_and_grad(x, target).grad)


def test_backward_before_forward():
    with pytest.raises(RuntimeError, match="backward"):
        fastce.CrossEntropyLoss().backward()


def test_after_a_failed_forward_there_is_no_old_gradient(rng):
    criterion = fastce.CrossEntropyLoss()
    x = logits(rng, (8, 5))
    criterion(x, np.arange(8) % 5)
    with pytest.raises(IndexError):
        criterion(x, np.full(8, 5))
    with pytest.raises(RuntimeError, match="backward"):
        criterion.backward()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"reduction": "batchmean"}, ValueError),
        ({"label_smoothing": -0.1}, ValueError),
        ({"label_smoothing": 1.1}, ValueError),
        ({"label_smoothing": float("nan")}, ValueError),
        ({"label_smoothing": "a lot"}, TypeError),
        ({"ignore_index": 0.5}, TypeError),
        ({"axis": "last"}, TypeError),
        ({"weight": "heavy"}, TypeError),
    ],
    ids=str,
)
def test_bad_options_are_refused_at_once(options, kind):
    with pytest.raises(kind, match=next(iter(options))):
        fastce.CrossEntropyLoss(**options)


def test_training_by_the_object_and_by_the_function_is_the_same(rng):
    inputs, target = rng.normal(size=(64, 7)), rng.integers(0, 5, 64)
    by_object, by_function = np.zeros((7, 5)), np.zeros((7, 5))
    criterion = fastce.CrossEntropyLoss()
    losses = []
    for _ in range(20):
        losses.append(criterion(inputs @ by_object, target))
        by_object -= inputs.T @ criterion.backward()
        grad = fastce.cross_entropy_and_grad(inputs @ by_function, target).grad
        by_function -= inputs.T @ grad
    np.testing.assert_array_equal(by_object, by_function)
    assert losses[0] == pytest.approx(np.log(5))
    assert losses[-1] < losses[0]
