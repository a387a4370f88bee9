"""Non-finite logits, empty input and degenerate denominators, in every regime."""

import numpy as np
import pytest

import fastce
from tests.helpers import DTYPES, SIZES, WIDE, computed, name_of
from tests.oracle.compare import assert_matches_oracle

INF, NAN = np.inf, np.nan
WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)
# narrow (tiles), wide (rows), wide with a look-ahead maximum; axis 0 puts samples in the lanes
REGIMES = pytest.mark.parametrize(("classes", "axis"), [(5, -1), (70, -1), (1500, -1), (5, 0), (70, 0)])


def batch(special, classes, axis, dtype):
    """``special`` as row 3 of 20 ordinary ones; it fills the row's last places, the rest is ``special[0]``."""
    x = np.random.default_rng(5).normal(size=(20, classes))
    x[3] = special[0]
    x[3, -len(special) :] = special
    return np.ascontiguousarray(np.moveaxis(x, -1, axis)).astype(dtype)


# --- the softmax family --------------------------------------------------------


@REGIMES
@WIDE_DTYPES
@pytest.mark.parametrize(
    "special",
    [[-INF], [-INF, 0], [0, -INF], [INF, 0], [0, INF], [INF], [INF, -INF], [NAN, 1], [1, NAN], [NAN], [NAN, INF]],
    ids=str,
)
def test_softmax_family(special, classes, axis, dtype):
    x = batch(special, classes, axis, dtype)
    for name in ("logsumexp", "softmax", "log_softmax"):
        assert_matches_oracle(name, x, axis)


def test_softmax_family_known_answers():
    assert fastce.logsumexp([-INF, -INF]) == -INF
    assert fastce.logsumexp([1.0, INF]) == INF
    assert fastce.logsumexp([INF, -INF]) == INF
    assert np.isnan(fastce.logsumexp([NAN, INF]))
    for row in ([-INF, -INF], [1.0, INF], [NAN, 1.0]):
        assert np.isnan(fastce.softmax(row)).all()
        assert np.isnan(fastce.log_softmax(row)).all()
    np.testing.assert_array_equal(fastce.softmax([0.0, -INF]), [1, 0])
    np.testing.assert_array_equal(fastce.log_softmax([0.0, -INF]), [0, -INF])


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_empty(dtype):
    no_classes = np.empty((3, 0), dtype)
    np.testing.assert_array_equal(fastce.logsumexp(no_classes), np.full(3, -INF, dtype))
    for function in (fastce.softmax, fastce.log_softmax):
        for shape in [(3, 0), (0, 3), (0,), (2, 0, 4)]:
            result = function(np.empty(shape, dtype))
            assert result.shape == shape
            assert result.dtype == dtype
    assert fastce.logsumexp(np.empty((0, 3), dtype)).shape == (0,)
    assert fastce.logsumexp(np.empty((2, 0, 4), dtype), 1).shape == (2, 4)
    assert fastce.logsumexp(np.empty(0, dtype)) == -INF


# --- cross-entropy: non-finite logits --------------------------------------------


def check_cross_entropy(x, target, axis, **options):
    for reduction in ("none", "mean"):
        for name in ("cross_entropy", "cross_entropy_and_grad"):
            assert_matches_oracle(name, x, target, axis=axis, reduction=reduction, **options)


@REGIMES
@pytest.mark.parametrize(
    ("dtype", "label_smoothing"),
    [(WIDE[0], 0.0), (WIDE[1], 0.0), (WIDE[1], 0.3)],
    ids=["float32", "float64", "smoothed"],
)
@pytest.mark.parametrize("last", [True, False], ids=["label last", "label first"])
@pytest.mark.parametrize(
    "special",
    [[-INF, 0], [0, -INF], [-INF], [INF, 0], [0, INF], [NAN, 0], [0, NAN]],
    ids=str,
)
def test_labels(special, last, label_smoothing, classes, axis, dtype):
    x = batch(special, classes, axis, dtype)
    target = np.full(20, classes - 1 if last else 0)
    check_cross_entropy(x, target, axis, label_smoothing=label_smoothing)


@REGIMES
@WIDE_DTYPES
@pytest.mark.parametrize("special", [[-INF, 0], [0, -INF], [-INF], [0, INF], [NAN, 0]], ids=str)
def test_soft_targets(special, classes, axis, dtype):
    """-inf where the target is 0 contributes 0; where it is not, the loss is inf."""
    x = batch(special, classes, axis, dtype)
    target = np.random.default_rng(6).dirichlet(np.ones(classes), 20)
    for place in (0, -1):
        target[3] = 0
        target[3, place] = 1
        check_cross_entropy(x, np.ascontiguousarray(np.moveaxis(target, -1, axis)).astype(dtype), axis)


def test_known_answers_of_infinite_logits():
    loss, grad = fastce.cross_entropy_and_grad([[0.0, -INF, 0.0]], [0])
    assert loss == pytest.approx(np.log(2))
    np.testing.assert_allclose(grad, [[-0.5, 0, 0.5]])
    loss, grad = fastce.cross_entropy_and_grad([[0.0, -INF, 0.0]], [1])
    assert loss == INF
    np.testing.assert_allclose(grad, [[0.5, -1, 0.5]])
    loss, grad = fastce.cross_entropy_and_grad([[0.0, -INF, 0.0]], [0], label_smoothing=0.3)
    assert loss == INF
    np.testing.assert_allclose(grad, [[0.5 - 0.8, -0.1, 0.5 - 0.1]])
    loss, grad = fastce.cross_entropy_and_grad(np.float32([[3e38, -3e38, 0]]), [1])
    assert loss == INF
    np.testing.assert_array_equal(grad, np.float32([[1, -1, 0]]))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@REGIMES
@WIDE_DTYPES
def test_an_ignored_row_is_not_even_read(bad, classes, axis, dtype):
    x = batch([bad], classes, axis, dtype)
    target = np.arange(20) % classes
    target[3] = -100
    loss, grad = fastce.cross_entropy_and_grad(x, target, axis=axis)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()
    ignored = np.moveaxis(grad, axis, -1)[3]
    np.testing.assert_array_equal(ignored, np.zeros(classes, dtype))
    assert not np.signbit(ignored).any()
    losses = fastce.cross_entropy(x, target, axis=axis, reduction="none")
    assert losses[3] == 0
    assert not np.signbit(losses[3])
    check_cross_entropy(x, target, axis)


# --- cross-entropy: degenerate reductions ----------------------------------------


@pytest.mark.parametrize("shape", [(4, 3), (4, 70), (1, 70_001)], ids=name_of)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_all_ignored(shape, dtype):
    """Silently. Seen to fail: with a warning of a division by zero, where threads share rows."""
    x = np.full(shape, NAN, dtype)
    target = np.full(len(x), -100)
    for reduction, expected in {"mean": NAN, "sum": 0, "none": np.zeros(len(x))}.items():
        with np.errstate(all="raise"):
            loss, grad = fastce.cross_entropy_and_grad(x, target, reduction=reduction)
            alone = fastce.cross_entropy(x, target, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(alone, expected)
        np.testing.assert_array_equal(grad, np.zeros(shape, dtype))
        assert loss.dtype == computed(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_empty_batch(soft, dtype):
    x = np.empty((0, 3), dtype)
    target = np.empty((0, 3), computed(dtype)) if soft else np.empty(0, int)
    for reduction, expected in {"mean": NAN, "sum": 0, "none": np.empty(0)}.items():
        loss, grad = fastce.cross_entropy_and_grad(x, target, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        np.testing.assert_array_equal(fastce.cross_entropy(x, target, reduction=reduction), expected)
        assert grad.shape == (0, 3)
        assert grad.dtype == dtype


@pytest.mark.parametrize("classes", [3, 70])
def test_zero_total_weight(classes):
    x = np.random.default_rng(8).normal(size=(4, classes))
    target = np.array([1, 1, -100, 1])
    weight = np.where(np.arange(classes) == 1, 0, 2.0)
    for options in ({"weight": weight}, {"sample_weight": np.array([0.0, 0, 5, 0])}):
        loss, grad = fastce.cross_entropy_and_grad(x, target, **options)
        assert np.isnan(loss)
        np.testing.assert_array_equal(grad, np.zeros(x.shape))
        assert fastce.cross_entropy(x, target, reduction="sum", **options) == 0


@WIDE_DTYPES
def test_one_class_costs_nothing(dtype):
    x = np.array([[3.0], [-1e30], [0]], dtype)
    loss, grad = fastce.cross_entropy_and_grad(x, [0, 0, 0])
    assert loss == 0
    np.testing.assert_array_equal(grad, np.zeros((3, 1)))


def test_no_class_at_all():
    with pytest.raises(IndexError):
        fastce.cross_entropy(np.empty((2, 0)), [0, 0])
    assert fastce.cross_entropy(np.empty((2, 0)), [-100, -100], reduction="sum") == 0
    for weights in (None, [1, 2]):
        assert np.isnan(fastce.cross_entropy(np.empty((2, 0)), np.empty((2, 0)), sample_weight=weights))


# --- where fastce differs from torch on purpose ------------------------------------


def test_half_precision_mean_of_many_rows():
    loss = fastce.cross_entropy(np.zeros((70_000, 2), np.float16), np.zeros(70_000, int))
    assert loss == pytest.approx(np.log(2), rel=1e-6)
    assert loss.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_labels_of_any_integer_dtype(dtype, rng):
    x = rng.normal(size=(9, 4))
    target = rng.integers(0, 4, 9)
    loss, grad = fastce.cross_entropy_and_grad(x, target)
    other_loss, other_grad = fastce.cross_entropy_and_grad(x, target.astype(dtype))
    assert loss == other_loss
    np.testing.assert_array_equal(grad, other_grad)
