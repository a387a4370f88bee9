"""cross_entropy and cross_entropy_and_grad: values over shapes, dtypes, targets and options."""

import itertools
from functools import partial

import numpy as np
import pytest

import fastce
from tests.helpers import (
    DTYPES,
    HALF,
    NARROW,
    PARALLEL,
    ROWS,
    WIDE,
    WIDE_CLASSES,
    assert_same_bits,
    assert_within,
    computed,
    labels_for,
    logits,
    name_of,
    soft_for,
)
from tests.oracle import reference
from tests.oracle.compare import assert_matches_oracle

WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)
REDUCTIONS = ["mean", "sum", "none"]


def check(x, target, *, grad_output=None, **options):
    """Compare loss and gradient with the oracle, and the function of the loss alone with that loss."""
    loss = check_with_gradient(x, target, grad_output=grad_output, **options).loss
    assert_same_bits(np.asarray(fastce.cross_entropy(x, target, **options)), np.asarray(loss))


check_with_gradient = partial(assert_matches_oracle, "cross_entropy_and_grad")


# --- known values ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "target", "loss"),
    [
        ([[2, 1, 0.1]], [0], 0.41702995),
        ([[0.5, 2, 0.3]], [0], 1.84061623),
        ([[1, 2, 3], [2, 4, 6]], [0, 2], 1.2753),
        ([[1, 2, 3], [2, 4, 6]], [[1.0, 0, 0], [0, 0, 1]], 1.2753),
        ([[2, 2, 2], [0, 0, 1e6]], [0, 2], 0.54930614),
    ],
)
def test_known_losses(x, target, loss):
    digits = 5e-5 if loss == 1.2753 else 1e-7  # as published, from float32
    assert abs(fastce.cross_entropy(x, target) - loss) < digits
    assert abs(fastce.cross_entropy_and_grad(x, target).loss - loss) < digits


@pytest.mark.parametrize(
    ("target", "options", "loss"),
    [
        ([1, 2], {}, 0.7078),
        ([1, 2], {"label_smoothing": 0.3}, 0.7204),
        ([1, 2], {"label_smoothing": 0.3, "reduction": "none"}, [2.3745, 1.2274]),
        ([[0.0, 1, 0], [0, 0, 1]], {}, 1.7696),
        ([[0.0, 1, 0], [0, 0, 1]], {"label_smoothing": 0.3}, 1.8009),
    ],
)
def test_known_weighted_losses(target, options, loss):
    x = [[1, 2, 3], [0.5, -1, 2]]
    assert np.all(np.abs(fastce.cross_entropy(x, target, weight=[0, 2, 3], **options) - loss) < 5e-5)


def test_known_gradient():
    loss, grad = fastce.cross_entropy_and_grad([[1.0, 2, 3], [0, 0, 0]], [2, 0])
    np.testing.assert_allclose(
        grad, np.array([[0.09003057, 0.24472847, 0.66524096 - 1], [1 / 3 - 1, 1 / 3, 1 / 3]]) / 2, atol=5e-9
    )
    assert loss == pytest.approx((0.40760596 + np.log(3)) / 2)


def test_result_names():
    result = fastce.cross_entropy_and_grad([[0.0, 0.0]], [1])
    loss, grad = result
    assert result.loss is loss
    assert result.grad is grad
    assert result._fields == ("loss", "grad")


# --- shapes and regimes ------------------------------------------------------------


@WIDE_DTYPES
@pytest.mark.parametrize("classes", NARROW + WIDE_CLASSES)
def test_every_regime_with_labels(classes, dtype, rng):
    for rows in ROWS if classes <= 40 else (1, 17):
        x = logits(rng, (rows, classes), dtype)
        target = labels_for(rng, x.shape)
        check(x, target, reduction="none")
        target[rows // 2] = -100
        check(x, target, reduction="sum")


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [*NARROW[::3], 32, *WIDE_CLASSES[::2]])
def test_every_regime_with_soft_targets(classes, dtype, rng):
    for rows in (1, 8, 17, 33) if classes <= 40 else (1, 17):
        x = logits(rng, (rows, classes), dtype)
        check(x, soft_for(rng, x.shape, dtype=dtype), reduction="none")


@WIDE_DTYPES
@pytest.mark.parametrize("shape", PARALLEL, ids=name_of)
def test_large(shape, dtype, rng):
    x = logits(rng, shape, dtype)
    target = labels_for(rng, shape)
    target[1::5] = -100
    check(x, target)
    check_with_gradient(x, soft_for(rng, shape, dtype=dtype))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("classes", [4, 35])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_every_axis(reduction, classes, axis, rng):
    shape = [3, 5, 18]
    shape[axis] = classes
    x = logits(rng, tuple(shape))
    target = labels_for(rng, x.shape, axis)
    target.flat[::4] = -100
    check(x, target, axis=axis, reduction=reduction)
    check(x, soft_for(rng, x.shape, axis), axis=axis, reduction=reduction)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_one_dimension(dtype):
    """A single sample: its label is an integer, and 'none' gives a scalar."""
    x = np.array([0.5, 2, 0.25], dtype)
    for reduction in REDUCTIONS:
        for target in (1, np.int64(1), np.array(1)):
            loss, grad = fastce.cross_entropy_and_grad(x, target, reduction=reduction)
            assert isinstance(loss, np.generic)
            assert loss.dtype == computed(dtype)
            assert grad.shape == (3,)
            assert_within(loss, reference.cross_entropy(x, target), 4)
        soft = np.array([0.25, 0.5, 0.25], computed(dtype))
        assert_within(fastce.cross_entropy(x, soft, reduction=reduction), reference.cross_entropy(x, soft), 4)


# --- options -----------------------------------------------------------------------


def options_for(rng, shape, *, axis=-1):
    """Each option alone, and all together; extreme ones with neutral others, which share the kernels of all."""
    samples = labels_for(rng, shape, axis).shape
    weight = rng.random(shape[axis]) + 0.25
    neutral = {"weight": np.ones(shape[axis]), "sample_weight": np.ones(samples), "label_smoothing": 1e-9}
    return {
        "plain": {},
        "weight": {"weight": weight},
        "sample_weight": {"sample_weight": rng.random(samples) + 0.25},
        "smoothing": {"label_smoothing": 0.3},
        "full smoothing": {**neutral, "label_smoothing": 1.0},
        "zero weights": {**neutral, "weight": np.where(np.arange(shape[axis]) % 2, weight, 0)},
        "all": {"weight": weight, "sample_weight": rng.random(samples) * 3, "label_smoothing": 0.1},
    }


OPTIONS = list(options_for(np.random.default_rng(0), (1, 2)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "name"),
    [
        *itertools.product([(17, 3), (9, 32)], OPTIONS),
        *itertools.product([(9, 33), (5, 1100)], ["plain", "zero weights", "full smoothing", "all"]),
    ],
    ids=name_of,
)
def test_options(shape, name, reduction, rng):
    x = logits(rng, shape)
    options = {**options_for(rng, shape)[name], "reduction": reduction}
    grad_output = rng.normal(size=shape[0]) if reduction == "none" and name in ("plain", "all") else -1.7
    target = labels_for(rng, shape)
    check(x, target, grad_output=grad_output, **options)
    target[::3] = -100
    check(x, target, grad_output=grad_output, **options)
    check(x, soft_for(rng, shape), grad_output=grad_output, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["plain", "all"])
def test_options_with_samples_in_the_lanes(name, reduction, rng):
    for shape in ((4, 19), (40, 19), (2, 7, 21)):
        axis = len(shape) - 2
        x = logits(rng, shape)
        options = {**options_for(rng, shape, axis=axis)[name], "reduction": reduction, "axis": axis}
        target = labels_for(rng, shape, axis)
        target.flat[::5] = -100
        grad_output = rng.normal(size=target.shape) if reduction == "none" else 0.5
        check(x, target, grad_output=grad_output, **options)
        check(x, soft_for(rng, shape, axis), grad_output=grad_output, **options)


@pytest.mark.parametrize("shape", [(4001, 10), (801, 50), (2, 70_001), (500, 5, 17)], ids=name_of)
def test_options_large(shape, rng):
    """Parallel kernels, float32 logits, all options, float64 weights."""
    x = logits(rng, shape, np.float32)
    axis = min(1, len(shape) - 1)
    target = labels_for(rng, shape, axis)
    target.flat[::7] = -100
    options = {**options_for(rng, shape, axis=axis)["all"], "axis": axis}
    check_with_gradient(x, target, **options)
    check_with_gradient(x, soft_for(rng, shape, axis, np.float32), **options)


@pytest.mark.parametrize("ignore_index", [-100, -1, 0, 2, 7, 255])
def test_ignore_index_inside_and_outside_the_classes(ignore_index, rng):
    for shape in ((30, 4), (30, 40)):
        x = logits(rng, shape)
        target = labels_for(rng, shape)
        target[::4] = ignore_index
        for reduction in REDUCTIONS:
            check(x, target, ignore_index=ignore_index, reduction=reduction)
            check(x, target, ignore_index=ignore_index, reduction=reduction, label_smoothing=0.2)


def test_ignore_index_leaves_soft_targets_alone(rng):
    x = logits(rng, (9, 4))
    soft = soft_for(rng, x.shape)
    plain = fastce.cross_entropy_and_grad(x, soft)
    for ignore_index in (0, 1, -100):
        loss, grad = fastce.cross_entropy_and_grad(x, soft, ignore_index=ignore_index)
        assert loss == plain.loss
        assert_same_bits(grad, plain.grad)


def test_soft_targets_need_not_sum_to_one(rng):
    x = logits(rng, (9, 4))
    check(x, rng.random(x.shape) * 3, reduction="none")
    check(x, np.zeros(x.shape), reduction="none")


def test_one_hot_targets_are_labels(rng):
    for shape in ((20, 5), (20, 50)):
        x = logits(rng, shape)
        target = labels_for(rng, shape)
        one_hot = np.eye(shape[1])[target]
        for options in ({}, {"label_smoothing": 0.2}, {"reduction": "sum"}):
            loss, grad = fastce.cross_entropy_and_grad(x, one_hot, **options)
            expected = fastce.cross_entropy_and_grad(x, target, **options)
            assert_within(loss, expected.loss, 8)
            assert_within(grad, expected.grad, 8, scale=0.2)


def test_negative_weights(rng):
    x = logits(rng, (9, 4))
    target = labels_for(rng, x.shape)
    check(x, target, weight=[-1.0, -2, -0.5, -1], reduction="none")
    check(x, target, weight=[-1.0, 2, 0.5, -1], reduction="none")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((17, 10), HALF[0]), ((17, 10), HALF[1]), ((9, 40), HALF[0]), ((3, 1100), HALF[0])],
    ids=name_of,
)
def test_half_precision(shape, dtype, rng):
    """Losses keep float32's precision, gradients are rounded once."""
    x = logits(rng, shape, dtype)
    target = labels_for(rng, shape)
    for t in (target, soft_for(rng, shape, dtype=np.float32)):
        for reduction in ("none", "mean"):
            loss, grad = fastce.cross_entropy_and_grad(x, t, reduction=reduction)
            assert_within(loss, reference.cross_entropy(x, t, reduction=reduction), 40, np.float32)
            assert loss.dtype == fastce.cross_entropy(x, t, reduction=reduction).dtype
            expected = reference.cross_entropy_grad(x, t, reduction=reduction)
            assert_within(grad, expected, 0.51, dtype, scale=np.abs(expected) + 1e-4)  # of float32's rounding


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_types_of_results(reduction, dtype, rng):
    x = logits(rng, (6, 3), dtype)
    for target in (labels_for(rng, x.shape), soft_for(rng, x.shape, dtype=computed(dtype))):
        loss, grad = fastce.cross_entropy_and_grad(x, target, reduction=reduction)
        other = fastce.cross_entropy(x, target, reduction=reduction)
        kind = np.ndarray if reduction == "none" else np.generic
        assert isinstance(loss, kind)
        assert isinstance(other, kind)
        assert loss.dtype == other.dtype == computed(dtype)
        assert grad.dtype == dtype
        assert isinstance(grad, np.ndarray)
        if reduction == "none":
            assert loss.shape == other.shape == (6,)


def test_scalar_grad_output_with_reduction_none(rng):
    x = logits(rng, (6, 3))
    target = labels_for(rng, x.shape)
    check(x, target, reduction="none", grad_output=2.5)
    check(x, target, reduction="none", grad_output=0.0)


def test_confident_rows_keep_their_precision():
    loss, grad = fastce.cross_entropy_and_grad(np.float32([[20, 0]]), [0])
    exact = np.log1p(np.exp(-20.0))
    assert_within(loss, exact, 4, np.float32)
    assert_within(grad, np.array([[-1, 1]]) * np.exp(-20.0) / (1 + np.exp(-20.0)), 5, np.float32)
    assert f"{loss:.2e} {grad[0, 0]:.2e}" == "2.06e-09 -2.06e-09"
