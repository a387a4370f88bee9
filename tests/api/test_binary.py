"""binary_cross_entropy_with_logits and its gradient."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import fastce
from tests.helpers import SIZES, WIDE, assert_same_bits, computed, logits, name_of
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS

REDUCTIONS = ["mean", "sum", "none"]
INF, NAN = np.inf, np.nan


def check(x, target, *, grad_output=None, **options):
    """Compare loss and gradient with the oracle, and the function of the loss alone with that loss."""
    loss, _ = assert_matches_oracle(
        "binary_cross_entropy_with_logits_and_grad", x, target, grad_output=grad_output, **options
    )
    alone = fastce.binary_cross_entropy_with_logits(x, target, **options)
    assert_same_bits(np.asarray(alone), np.asarray(loss), f"{np.shape(x)} {options.keys()}")


def test_known_values():
    np.testing.assert_allclose(
        fastce.binary_cross_entropy_with_logits([0.0, 2.0, -1.0], [1.0, 1, 0.25], reduction="none"),
        [0.69314718, 0.12692801, 0.56326169],
        atol=5e-9,
    )
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad([0.0, 0.0], [1, 0])
    assert loss == pytest.approx(np.log(2), rel=1e-15)
    np.testing.assert_array_equal(grad, [-0.25, 0.25])


@pytest.mark.usefixtures("parallel_in_float32")
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("size", [1, 7, 8, 9, 15, 16, 17, 4095, 4096, 4097, 70_001])
def test_sizes(size, dtype, rng):
    x = logits(rng, size, dtype, spread=8)
    target = rng.integers(0, 2, size)
    for t in (target, target.astype(computed(dtype)), rng.random(size).astype(computed(dtype))):
        check(x, t)
        check(x, t, reduction="none")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (3, 4, 6), (120, 300)], ids=name_of)
def test_options(shape, reduction, rng):
    x, target = rng.normal(size=shape), rng.random(shape)
    upstream = rng.normal(size=shape) if reduction == "none" else 1.7
    last = shape[-1:]
    combinations = [(rng.random(last), rng.random(last) * 3, upstream)]  # the one that is compiled for large arrays
    if x.size < 1000:
        combinations += [(None, None, 1.0), (rng.random(), None, None), (None, rng.random() * 3, -0.5)]
        combinations += [(rng.random(shape), None, None), (None, rng.random(shape), None)]
    for weight, pos_weight, grad_output in combinations:
        check(x, target, grad_output=grad_output, weight=weight, pos_weight=pos_weight, reduction=reduction)


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_types_of_results(reduction, dtype, rng):
    x, target = logits(rng, (4, 6), dtype), rng.integers(0, 2, (4, 6))
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target, reduction=reduction)
    assert isinstance(loss, np.ndarray if reduction == "none" else np.generic)
    assert loss.dtype == computed(dtype)
    assert isinstance(grad, np.ndarray)
    assert grad.dtype == dtype


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_relative_precision_over_the_whole_range(dtype):
    """Losses and gradients of confident elements down to the smallest normal number."""
    x = np.linspace(-120, 120, 4801).astype(dtype)
    for target in (0, 1):
        check(x, np.full(x.size, target), reduction="none")


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_infinite_logits(dtype):
    x = np.array([INF, INF, -INF, -INF], dtype)
    target = np.array([1, 0, 1, 0])
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target, reduction="none")
    np.testing.assert_array_equal(loss, [0, INF, INF, 0])
    np.testing.assert_array_equal(grad, np.array([0, 1, -1, 0], dtype))
    np.testing.assert_array_equal(
        fastce.binary_cross_entropy_with_logits(x, np.full(4, 0.5), reduction="none"), np.full(4, INF)
    )


@pytest.mark.parametrize("place", [0, 5, 16, 19])
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_nan_stays_where_it_is(dtype, place, rng):
    x, target = logits(rng, 20, dtype), rng.integers(0, 2, 20)
    x[place] = NAN
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target, reduction="none")
    np.testing.assert_array_equal(np.isnan(loss), np.arange(20) == place)
    np.testing.assert_array_equal(np.isnan(grad), np.arange(20) == place)
    assert np.isnan(fastce.binary_cross_entropy_with_logits(x, target))
    target = target.astype(dtype)
    target[place] = NAN
    assert np.isnan(fastce.binary_cross_entropy_with_logits(np.zeros(20, dtype), target, reduction="none")[place])


def test_pos_weight_zero_ignores_positive_targets():
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(
        [-INF, 3.0, 3.0], [1, 1, 0], pos_weight=0.0, reduction="none"
    )
    np.testing.assert_allclose(loss, [0, 0, 3.04858735], atol=5e-9)
    np.testing.assert_allclose(grad, [0, 0, 0.95257413], atol=5e-9)


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_weight_zero_ignores_infinite_losses(dtype):
    x = np.array([INF, -INF, INF, 0.0], dtype)
    options = {"weight": [0.0, 0.0, 1.0, 2.0]}
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, [0, 1, 1, 1], reduction="none", **options)
    np.testing.assert_array_equal(loss, np.array([0, 0, 0, 2 * np.log(2)], computed(dtype)))
    np.testing.assert_array_equal(grad, np.array([0, 0, 0, -1], dtype))
    assert np.isfinite(fastce.binary_cross_entropy_with_logits(x, [0, 1, 1, 1], **options))


@pytest.mark.parametrize("shape", [(0,), (3, 0)], ids=name_of)
def test_empty(shape):
    x = np.empty(shape, np.float32)
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, x)
    assert np.isnan(loss)
    assert loss.dtype == np.float32
    assert grad.shape == shape
    assert fastce.binary_cross_entropy_with_logits(x, x, reduction="sum") == 0
    assert fastce.binary_cross_entropy_with_logits(x, x, reduction="none").shape == shape


def test_mean_of_half_precision():
    loss = fastce.binary_cross_entropy_with_logits(np.zeros(70_000, np.float16), np.zeros(70_000, np.float16))
    assert loss == pytest.approx(np.log(2), rel=1e-6)


def test_strided_and_broadcast_arguments(rng):
    x, target = rng.normal(size=(6, 8)), rng.random((6, 8))
    expected = fastce.binary_cross_entropy_with_logits_and_grad(x, target, reduction="none")
    for a, b in ((np.asfortranarray(x), target), (x, np.asfortranarray(target)), (x[::-1], target[::-1])):
        loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(a, b, reduction="none")
        flip = -1 if a.strides[0] < 0 else 1
        np.testing.assert_array_equal(loss, expected.loss[::flip])
        np.testing.assert_array_equal(grad, expected.grad[::flip])
    one = np.broadcast_to(x[:1], (6, 8))
    np.testing.assert_array_equal(
        fastce.binary_cross_entropy_with_logits(one, target, reduction="none"),
        fastce.binary_cross_entropy_with_logits(one.copy(), target, reduction="none"),
    )


@given(
    shape=st.sampled_from([(), (5,), (4, 6), (3, 4, 6)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    target=st.sampled_from(["hard", "soft"]),
    weights=st.tuples(*[st.sampled_from([None, "number", "row", "all"])] * 2),
    reduction=st.sampled_from(REDUCTIONS),
    grad_output=st.sampled_from([None, -1.7, "each"]),
    infinite=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_options(shape, dtype, layout, target, weights, reduction, grad_output, infinite, seed):
    """Weights of 0 among them, which outweigh infinite losses."""
    rng = np.random.default_rng(seed)
    x = np.asarray(logits(rng, shape, np.float64))
    if infinite:
        x = np.where(rng.random(shape) < 0.3, np.inf * np.sign(x), x)
    x = x.astype(dtype)
    x = LAYOUTS[layout](x) if shape else x
    t = rng.integers(0, 2, shape) if target == "hard" else rng.integers(0, 5, shape) / 4
    made = [{"number": 1.5, "row": rng.integers(0, 4, shape[-1:]), "all": rng.integers(0, 4, shape) / 2} for _ in "wp"]
    weight, pos_weight = (None if kind is None else values[kind] for kind, values in zip(weights, made, strict=True))
    if weights != (None, None):  # one alone, which is a kernel of its own, has a test above
        weight, pos_weight = (1.0 if w is None else w for w in (weight, pos_weight))
    if grad_output == "each":
        grad_output = rng.normal(size=shape) if reduction == "none" else 0.3
    check(x, t, weight=weight, pos_weight=pos_weight, reduction=reduction, grad_output=grad_output)
