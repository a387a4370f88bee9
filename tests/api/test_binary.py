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


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_weight_0_leaves_out_any_logit_and_target(dtype, bad):
    """Of the gradient too. Seen to fail: with a slope that was multiplied by the weight."""
    for x, target in (([bad, 0.0], [1.0, 1.0]), ([0.5, 0.0], [bad, 1.0]), ([bad, 0.0], [bad, 1.0])):
        given = np.array(x, dtype), np.array(target, dtype)
        for upstream in (None, [3.0, 1.0]):
            loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(
                *given, weight=[0.0, 2.0], reduction="none", grad_output=upstream
            )
            assert loss.tolist() == [0, computed(dtype).type(2 * np.log(2))]
            assert grad.tolist() == [0, -1]
        loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(*given, weight=[0.0, 2.0])
        assert loss == pytest.approx(np.log(2), rel=1e-6)
        assert grad.tolist() == [0, -0.5]


def test_pos_weight_0_leaves_out_nan():
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad([NAN, NAN], [1, 0], pos_weight=0, reduction="none")
    assert loss[0] == grad[0] == 0
    assert np.isnan([loss[1], grad[1]]).all()


@pytest.mark.parametrize("ignored", [-1, -100, 255, 0.1, NAN, INF, np.int64(-1), True])
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ignored_targets(reduction, dtype, ignored, rng):
    """As if they were not there, whatever their logits are."""
    x, target = logits(rng, (6, 50), dtype), rng.random((6, 50))
    is_out = rng.random((6, 50)) < 0.4
    target[is_out], x[is_out] = ignored, NAN
    weight, pos_weight = rng.random((6, 50)), rng.random((6, 50))
    kept = {"weight": weight[~is_out], "pos_weight": pos_weight[~is_out], "reduction": reduction}
    expected = fastce.binary_cross_entropy_with_logits_and_grad(x[~is_out], target[~is_out], **kept)
    options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction, "ignore_index": ignored}
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target, **options)
    if reduction == "none":
        assert not loss[is_out].any()
        loss = loss[~is_out]
    np.testing.assert_allclose(loss, expected.loss, rtol=3e-7)
    assert not grad[is_out].any()
    np.testing.assert_allclose(grad[~is_out].astype(float), expected.grad.astype(float), rtol=1e-3, atol=1e-7)
    alone = fastce.binary_cross_entropy_with_logits(x, target, **options)
    assert_same_bits(np.asarray(alone)[~is_out if alone.ndim else ()], np.asarray(loss))


def test_ignored_targets_of_integers(rng):
    x, target = logits(rng, (300, 300), np.float32), rng.integers(-1, 2, (300, 300))
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target, ignore_index=-1)
    kept = target >= 0
    expected = fastce.binary_cross_entropy_with_logits_and_grad(x[kept], target[kept])
    assert loss == pytest.approx(expected.loss, rel=1e-6)
    assert_same_bits(grad[kept], expected.grad)


def test_nothing_but_ignored_targets():
    loss, grad = fastce.binary_cross_entropy_with_logits_and_grad([1.0, 2.0], [-1, -1], ignore_index=-1)
    assert np.isnan(loss)
    assert grad.tolist() == [0, 0]
    assert fastce.binary_cross_entropy_with_logits([1.0], [-1], ignore_index=-1, reduction="sum") == 0


@pytest.mark.parametrize("amount", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_label_smoothing(amount, dtype, rng):
    x, pos_weight = logits(rng, (4, 300), dtype, spread=6), rng.random(300)
    for target in (rng.integers(0, 2, (4, 300)), rng.random((4, 300))):
        for reduction in REDUCTIONS:
            check(x, target, label_smoothing=amount, reduction=reduction)
        check(x, target, label_smoothing=amount, pos_weight=pos_weight, weight=pos_weight + 1)
        smoothed = target * (1 - amount) + amount / 2
        plain = fastce.binary_cross_entropy_with_logits(x, smoothed)
        assert fastce.binary_cross_entropy_with_logits(x, target, label_smoothing=amount) == pytest.approx(
            plain, rel=1e-5
        )


def test_ignored_targets_are_compared_before_they_are_smoothed(rng):
    x, target = logits(rng, (5, 60)), rng.integers(-1, 2, (5, 60)).astype(float)
    for reduction in REDUCTIONS:
        check(x, target, label_smoothing=0.2, ignore_index=-1, reduction=reduction)


def test_errors_of_options():
    out = np.ones(2)
    for amount in (-0.1, 1.1, NAN):
        with pytest.raises(ValueError, match="label_smoothing must be from 0 to 1, got"):
            fastce.binary_cross_entropy_with_logits_and_grad([0.0, 0.0], [0, 1], label_smoothing=amount, out=out)
    for ignored in ("one", 1j, [1, 2]):
        with pytest.raises((TypeError, ValueError), match="ignore_index must be a"):
            fastce.binary_cross_entropy_with_logits_and_grad([0.0, 0.0], [0, 1], ignore_index=ignored, out=out)
    assert (out == 1).all()
