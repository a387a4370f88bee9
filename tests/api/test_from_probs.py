"""cross_entropy_from_probs and its gradient."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastce
from tests.helpers import (
    SIZES,
    WIDE,
    assert_same_bits,
    assert_within,
    computed,
    finfo,
    labels_for,
    name_of,
    soft_for,
)
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS

REDUCTIONS = ["mean", "sum", "none"]
SHAPES = [(1, 1), (9, 5), (17, 33), (3, 1100), (7001, 6)]


def probabilities(rng, shape, axis=-1, dtype=np.float64):
    raw = rng.random(shape) + 0.01
    return (raw / raw.sum(axis, keepdims=True)).astype(dtype)


def check(probs, target, *, grad_output=None, **options):
    """Compare loss and gradient with the oracle, and the function of the loss alone with that loss."""
    loss, _ = assert_matches_oracle(
        "cross_entropy_from_probs_and_grad", probs, target, grad_output=grad_output, **options
    )
    assert_same_bits(np.asarray(fastce.cross_entropy_from_probs(probs, target, **options)), np.asarray(loss))


def test_known_values():
    assert abs(fastce.cross_entropy_from_probs([[0.7, 0.2, 0.1]], [0]) - 0.35667494) < 5e-9
    probs = [[0.25] * 4, [0.01, 0.01, 0.01, 0.96]]
    assert abs(fastce.cross_entropy_from_probs(probs, [3, 3]) - 0.71355818) < 5e-9
    loss, grad = fastce.cross_entropy_from_probs_and_grad([[0.7, 0.2, 0.1]], [0])
    np.testing.assert_allclose(grad, [[-1 / 0.7, 0, 0]], rtol=1e-15)
    assert loss == fastce.cross_entropy_from_probs([0.7, 0.2, 0.1], 0)


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("classes", [3, 40])
def test_zero_probability_costs_much_but_finitely(classes, reduction, dtype):
    probs = np.zeros((2, classes), dtype)
    probs[:, 1] = 1
    loss, grad = fastce.cross_entropy_from_probs_and_grad(probs, [0, 1], reduction=reduction)
    tiny = float(finfo(computed(dtype)).tiny)
    worst = -np.log(tiny)
    expected = {"none": [worst, 0], "sum": worst, "mean": worst / 2}[reduction]
    assert_within(loss, np.array(expected), 4)
    assert np.isfinite(loss).all()
    # -1 / tiny is outside float16's range
    assert_within(grad[0, 0], -1 / tiny / (2 if reduction == "mean" else 1), 4, dtype)
    assert np.isfinite(grad[0, 0]) or dtype == np.float16


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_clipping_begins_at_the_smallest_normal_number(soft, dtype):
    tiny = np.finfo(dtype).tiny
    for p in (tiny, tiny * 2, tiny / 2, 0):
        probs = np.array([[p, 1], [1, p]], dtype)
        check(probs, np.eye(2, dtype=dtype) if soft else np.array([0, 1]), reduction="none")


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_shapes(shape, soft, dtype, rng):
    probs = probabilities(rng, shape, dtype=dtype)
    target = soft_for(rng, shape, dtype=computed(dtype)) if soft else labels_for(rng, shape)
    for reduction in REDUCTIONS:
        check(probs, target, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_options_on_every_axis(axis, reduction, rng):
    shape = (4, 5, 6)
    probs = probabilities(rng, shape, axis)
    weight = rng.random(shape[axis]) + 0.5
    target = labels_for(rng, shape, axis)
    target[0, 0] = -100
    grad_output = rng.normal(size=target.shape) if reduction == "none" else -0.7
    for options in (
        {},
        {"weight": weight},
        {"label_smoothing": 0.3},
        {"weight": weight, "label_smoothing": 0.3, "grad_output": grad_output},
    ):
        for t in (target, soft_for(rng, shape, axis)):
            check(probs, t, axis=axis, reduction=reduction, **options)


def test_probabilities_of_a_softmax_agree_with_logits(rng):
    x = rng.normal(size=(20, 7))
    target = labels_for(rng, x.shape)
    for options in ({}, {"label_smoothing": 0.2}, {"weight": rng.random(7)}):
        np.testing.assert_allclose(
            fastce.cross_entropy_from_probs(fastce.softmax(x), target, **options),
            fastce.cross_entropy(x, target, **options),
            rtol=1e-14,
        )


def test_ignored(rng):
    probs = probabilities(rng, (6, 4))
    probs[2] = np.nan
    target = np.array([0, 1, -100, 2, 3, -100])
    for smoothing in (0.0, 0.2):
        loss, grad = fastce.cross_entropy_from_probs_and_grad(probs, target, label_smoothing=smoothing)
        kept = target >= 0
        expected = fastce.cross_entropy_from_probs(probs[kept], target[kept], label_smoothing=smoothing)
        assert_within(loss, expected, 2)
        np.testing.assert_array_equal(grad[~kept], np.zeros((2, 4)))
    loss, grad = fastce.cross_entropy_from_probs_and_grad(probs, np.full(6, -100))
    assert np.isnan(loss)
    np.testing.assert_array_equal(grad, np.zeros((6, 4)))
    assert fastce.cross_entropy_from_probs(probs, np.full(6, -100), reduction="sum") == 0


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_zero_total_weight(label_smoothing):
    """A mean of nothing is NaN, without a warning; the gradient is 0 where nothing counts."""
    probs, target = np.full((2, 4), 0.25), np.array([1, -100])
    for options in ({"weight": [1, 0, 1, 1]}, {"sample_weight": [0, 3]}):
        loss, grad = fastce.cross_entropy_from_probs_and_grad(
            probs, target, label_smoothing=label_smoothing, **options
        )  # fmt: skip
        assert np.isnan(loss) or (label_smoothing and "weight" in options and loss == np.inf)
        assert np.all(np.isfinite(grad[0])) == (not label_smoothing or "sample_weight" in options)
        assert not grad[1].any()


@given(
    case=st.sampled_from([((5, 4), -1), ((3, 40), 1), ((4, 5, 3), 1), ((6, 2), 0), ((5,), 0)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    soft=st.booleans(),
    weights=st.sets(st.sampled_from(["weight", "sample_weight"])),
    label_smoothing=st.sampled_from([0.0, 0.25, 1.0]),
    ignore_index=st.sampled_from([-100, 1, 99]),
    reduction=st.sampled_from(REDUCTIONS),
    grad_output=st.sampled_from([None, -1.7, "each"]),
    seed=st.integers(0, 1000),
)
def test_any_options(case, dtype, layout, soft, weights, reduction, grad_output, seed, **numbers):
    (shape, axis), rng = case, np.random.default_rng(seed)
    probs = LAYOUTS[layout](probabilities(rng, shape, axis, dtype))
    samples = tuple(np.delete(shape, axis))
    target = soft_for(rng, shape, axis, np.float32) if soft else np.asarray(labels_for(rng, shape, axis))
    if not soft:
        target = np.where(rng.random(samples) < 0.3, numbers["ignore_index"], target)
    made = {"weight": rng.integers(1, 5, shape[axis]) / 4, "sample_weight": rng.integers(1, 5, samples) / 4}
    if grad_output == "each":
        grad_output = rng.normal(size=samples) if reduction == "none" else 0.3
    options = {name: made[name] for name in weights} | numbers
    check(probs, target, axis=axis, reduction=reduction, grad_output=grad_output, **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_slopes_that_overflow_are_infinite_without_a_warning(smoothing):
    with np.errstate(all="raise"):
        grad = fastce.cross_entropy_from_probs_and_grad(
            [[0.0, 1.0]], [0], label_smoothing=smoothing, grad_output=10.0, reduction="sum"
        ).grad
    assert grad[0, 0] == -np.inf
