"""score: log-probability, lse, argmax, correctness, rank and entropy of each sample."""

import itertools

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastce
from fastce import Score, score
from tests.helpers import (
    HALF,
    SIZES,
    WIDE,
    assert_same_bits,
    assert_within,
    computed,
    labels_for,
    large_batch,
    logits,
    name_of,
)
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.exact import Exact, rows
from tests.oracle.layouts import LAYOUTS
from tests.oracle.reference import real
from tests.oracle.reference_losses import score as reference

WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)
INF, NAN = np.inf, np.nan
NANS = [[NAN, 1], [1, NAN], [NAN], [NAN, INF], [-INF, NAN]]
# up to 32 classes are transposed, up to 256 go several rows together, more in blocks of 512 (256 of float64) that
# look one block ahead
CLASSES = [1, 2, 3, 16, 31, 32, 33, 40, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1600, 2600]


def tied(rng, shape, dtype):
    """Logits of which many are equal, and both zeros."""
    x = np.round(rng.normal(size=shape) * 2)
    x[rng.random(shape) < 0.1] = -0.0
    return x.astype(dtype)


# --- values ---------------------------------------------------------------------


@WIDE_DTYPES
@pytest.mark.parametrize("classes", CLASSES)
def test_values(classes, dtype, rng):
    for count in (1, 7, 33):
        for x in (logits(rng, (count, classes), dtype), tied(rng, (count, classes), dtype)):
            target = labels_for(rng, x.shape)
            target[count // 2] = -100
            for top_k in (1, 3, classes + 1):
                assert_matches_oracle("score", x, target, top_k=top_k)


@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("shape", [(4100, 10), (37, 1031), (3, 20_000)], ids=name_of)
def test_parallel(shape, dtype, rng):
    x, target = logits(rng, shape, dtype), labels_for(rng, shape)
    top = np.argmax(real(x), 1)
    target[::2] = top[::2]
    assert_matches_oracle("score", x, target)


@pytest.mark.parametrize(
    ("classes", "dtype"), [*itertools.product([5, 32, 33, 700], HALF[:1]), (5, HALF[1])], ids=name_of
)
def test_half_precision(classes, dtype, rng):
    """16-bit logits give what the same numbers as float32 do, to the bit."""
    x, target = logits(rng, (50, classes), dtype), labels_for(rng, (50, classes))
    for a, e in zip(score(x, target), score(x.astype(np.float32), target), strict=True):
        assert_same_bits(a, e)
    assert_matches_oracle("score", x, target)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, bool, ">f4", ">f8"])
def test_other_dtypes(kind, rng):
    x, target = (rng.normal(size=(20, 40)) * 3 + 8).astype(kind), labels_for(rng, (20, 40))
    assert_matches_oracle("score", x, target)
    assert_matches_oracle("score", x.tolist(), target.tolist())


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, ">i4"])
def test_dtypes_of_labels(kind, rng):
    x, target = logits(rng, (30, 12)), labels_for(rng, (30, 12))
    for a, e in zip(score(x, target.astype(kind)), score(x, target), strict=True):
        assert_same_bits(a, e)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("shape", [(5, 6, 7), (3, 70, 40), (40, 3, 65)], ids=name_of)
def test_axes(shape, axis, rng):
    x, target = tied(rng, shape, np.float32), labels_for(rng, shape, axis)
    target.flat[3] = -100
    result = assert_matches_oracle("score", x, target, axis=axis, top_k=2)
    for a, e in zip(result, score(np.moveaxis(x, axis, -1).copy(), target, top_k=2), strict=True):
        assert_same_bits(a, e)


def test_one_sample():
    result = score(np.array([1.0, 3.0, 2.0], np.float32), 2)
    assert isinstance(result, Score)
    kinds = [np.float32, np.float32, np.int64, np.bool_, np.int64, np.float32]
    assert [type(value) for value in result] == kinds
    assert (result.argmax, result.correct, result.rank) == (1, False, 1)


@pytest.mark.usefixtures("one_thread")
def test_loss_and_lse_are_those_of_the_other_functions(rng):
    for classes in (10, 300, 3000):
        x, target = logits(rng, (20, classes)), labels_for(rng, (20, classes))
        result = score(x, target)
        np.testing.assert_allclose(-result.log_prob, fastce.cross_entropy(x, target, reduction="none"), rtol=1e-15)
        np.testing.assert_allclose(result.lse, fastce.logsumexp(x), rtol=1e-15)


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [7, 1000])
def test_torch(classes, dtype, rng):
    x, target = logits(rng, (30, classes), dtype), labels_for(rng, (30, classes))
    result, theirs, k = score(x, target, top_k=5), torch.from_numpy(x), torch.from_numpy(target)
    eps = float(np.finfo(dtype).eps)
    loss = torch.nn.functional.cross_entropy(theirs, k, reduction="none").numpy()
    np.testing.assert_allclose(-result.log_prob, loss, rtol=8 * eps, atol=32 * eps)
    np.testing.assert_allclose(result.lse, torch.logsumexp(theirs, 1).numpy(), rtol=8 * eps)
    entropy = torch.distributions.Categorical(logits=theirs).entropy().numpy()
    np.testing.assert_allclose(result.entropy, entropy, rtol=32 * eps, atol=32 * eps)
    np.testing.assert_array_equal(result.argmax, theirs.argmax(1).numpy())
    np.testing.assert_array_equal(result.correct, (theirs.topk(5).indices == k[:, None]).any(1).numpy())


def test_derivative_of_lse_gives_the_entropy(rng):
    """H = lse - t d lse(t x) / dt at t = 1: the two formulas share no step."""
    x, step = logits(rng, (20, 40)), 1e-5
    slope = (score(x * (1 + step), np.zeros(20, int)).lse - score(x * (1 - step), np.zeros(20, int)).lse) / (2 * step)
    result = score(x, np.zeros(20, int))
    np.testing.assert_allclose(result.entropy, result.lse - slope, atol=1e-8)


# --- order ----------------------------------------------------------------------


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [5, 32, 33, 512, 1500])
def test_every_class_has_a_rank_of_its_own(classes, dtype, rng):
    """The ranks of all labels of a row are 0 to C - 1, in the order of a stable sort."""
    for row in (tied(rng, classes, dtype), np.zeros(classes, dtype), np.linspace(0, 9, classes, dtype=dtype)):
        result = score(np.tile(row, (classes, 1)), np.arange(classes))
        order = np.argsort(-row, kind="stable")
        np.testing.assert_array_equal(result.rank[order], np.arange(classes))
        np.testing.assert_array_equal(result.argmax, np.full(classes, order[0]))
        np.testing.assert_array_equal(result.correct, result.argmax == np.arange(classes))


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [3, 40, 2100])
def test_the_first_of_equal_maxima(classes, dtype, rng):
    for first in range(0, classes, max(classes // 50, 1)):
        x = rng.random((1, classes)).astype(dtype)
        x[0, first] = 2
        x[0, rng.integers(first, classes, 3)] = 2
        assert score(x, [classes - 1]).argmax[0] == first


def test_top_k(rng):
    x, target = logits(rng, (50, 8)), labels_for(rng, (50, 8))
    rank = score(x, target).rank
    for k in (1, 2, np.int8(3), 8, 9, 2**70):
        np.testing.assert_array_equal(score(x, target, top_k=k).correct, rank < k)


# --- accuracy -------------------------------------------------------------------


def errors(e, top, result, i, label):
    """The errors of a row's (log_prob, lse, entropy) in eps, beyond what rounding x - max once costs."""
    lse = mpmath.log(e.total)
    entropy = mpmath.fsum(p * (lse - gap) for p, gap in zip(e.p, e.gaps, strict=True))
    slopes = [p * abs(lse - gap - entropy) * -gap for p, gap in zip(e.p, e.gaps, strict=True)]
    return (
        e.loss(-result.log_prob[i], label),
        e.error(result.lse[i], top + lse, e.spread),
        e.error(result.entropy[i], entropy, mpmath.fsum(slopes)),
    )


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 32, 33, 100, 1030])
@WIDE_DTYPES
def test_accuracy(classes, dtype):
    x = rows(classes, dtype)
    with mpmath.workprec(150):
        exact = [Exact(row) for row in x]
        for target in (x.argmax(1), x.argmin(1), np.full(len(x), classes // 3)):
            result = score(x, target)
            for i, e in enumerate(exact):
                log_prob, lse, entropy = errors(e, mpmath.mpf(float(x[i].max())), result, i, target[i])
                assert log_prob <= 4, f"log_prob, row {i}: {log_prob:.2f} eps"
                assert lse <= 4, f"lse, row {i}: {lse:.2f} eps"
                assert entropy <= 8, f"entropy, row {i}: {entropy:.2f} eps"


@WIDE_DTYPES
def test_accuracy_of_many_classes(dtype, rng):
    x = (rng.normal(size=(1, 30_000)) * 3).astype(dtype)
    x.sort()  # the maximum rises with every block
    for row in (x, x[:, ::-1].copy(), rng.permuted(x, axis=1)):
        expected = reference(row, [5])
        for name, eps in (("log_prob", 4), ("lse", 4), ("entropy", 8)):
            assert_within(getattr(score(row, [5]), name), getattr(expected, name), eps, dtype, message=name)


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [2, 10, 40, 513, 1100])
def test_confident_rows(classes, dtype):
    """One class ahead by 0 to 80: all digits of the log-probability and of the entropy.

    But for gap / 40 eps, which the exponential of a gap costs in float32.
    """
    x = np.zeros((81, classes), dtype)
    place = classes // 3
    x[:, place] = np.arange(81)
    result = score(x, np.full(81, place))
    with mpmath.workprec(150):
        eps, exps = mpmath.mpf(float(np.finfo(dtype).eps)), 1 / 40 if dtype == np.float32 else 0.0
        for gap in range(81):
            rest = (classes - 1) * mpmath.exp(-gap)
            off = abs(mpmath.mpf(float(-result.log_prob[gap])) / mpmath.log1p(rest) - 1) / eps
            assert off <= 4 + gap * exps, f"log_prob, gap {gap}: {float(off):.2f} eps"
            entropy = mpmath.log1p(rest) + rest / (1 + rest) * gap
            off = abs(mpmath.mpf(float(result.entropy[gap])) / entropy - 1) / eps
            assert off <= 8, f"entropy, gap {gap}: {float(off):.2f} eps"


@WIDE_DTYPES
@pytest.mark.parametrize("classes", [10, 1100])
def test_huge_and_distant_logits(classes, dtype):
    """Differences beyond the range of exp, the maximum in the last block."""
    great = float(np.finfo(dtype).max) / 2
    for low, high in [(-great, great), (0, great), (-great, 0), (-1200, 0)]:
        x = np.full((1, classes), low, dtype)
        x[0, -1] = high
        result = score(x, [classes - 1])
        assert_within(result.lse, np.array([high], dtype), 0)
        assert (result.log_prob[0], result.entropy[0], result.rank[0]) == (0, 0, 0)


# --- special values -------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("classes", [5, 70, 1500])
@WIDE_DTYPES
@pytest.mark.parametrize(
    "special",
    [[-INF], [-INF, 0], [0, -INF], [0, -INF, 3], [INF, 0], [0, INF], [INF], [INF, -INF], *NANS],
    ids=str,
)
def test_non_finite_logits(special, dtype, classes, axis, rng):
    """In one row, from its first place on or only at its end; the others are as without it."""
    x = rng.normal(size=(20, classes)).astype(dtype)
    x[3] = special[0]
    x[4, -len(special) :] = special
    x[3, -len(special) :] = special
    x[5, : len(special)] = special
    for label in (0, classes // 2, classes - 1):
        target = np.full(20, label)
        given = np.ascontiguousarray(np.moveaxis(x, -1, axis))
        assert_matches_oracle("score", given, target, axis=axis)


def test_known_answers():
    result = score([[-INF, 0.0, 0.0], [-INF, -INF, -INF], [INF, 0.0, 0.0], [NAN, 0.0, 0.0]], [0, 1, 0, 0])
    np.testing.assert_allclose(result.log_prob, [-INF, NAN, NAN, NAN])
    np.testing.assert_allclose(result.lse, [np.log(2), -INF, INF, NAN])
    np.testing.assert_allclose(result.entropy, [np.log(2), NAN, NAN, NAN])
    np.testing.assert_array_equal(result.argmax, [1, 0, 0, 0])
    np.testing.assert_array_equal(result.rank, [2, 1, 0, 3])
    np.testing.assert_array_equal(result.correct, [False, False, True, False])


def test_a_row_with_nan_is_never_correct():
    assert not score([[NAN, 0.0], [0.0, NAN]], [0, 1], top_k=9).correct.any()


@pytest.mark.parametrize("classes", [4, 40])
@pytest.mark.parametrize("ignored", [-100, 1, -1, -(2**63)])
def test_ignored_samples_are_not_looked_at(ignored, classes, rng):
    x, target = logits(rng, (20, classes)), np.full(20, 2)
    target[5:9] = ignored
    expected = score(x, target, ignore_index=ignored)
    x[5:9] = NAN
    result = score(x, target, ignore_index=ignored)
    for a, e in zip(result, expected, strict=True):
        assert_same_bits(a, e)
    for name, value in Score(0, 0, -1, False, -1, 0)._asdict().items():
        np.testing.assert_array_equal(getattr(result, name)[5:9], [value] * 4, name)


@pytest.mark.parametrize("dtype", [*SIZES, np.dtype(int)], ids=name_of)
def test_empty(dtype):
    for shape, axis in [((0, 3), 1), ((0, 40), 1), ((3, 0, 4), 0), ((0,), 0)]:
        rest = shape[:axis] + shape[axis + 1 :]
        result = score(np.empty(shape, dtype), np.full(rest, -100), axis=axis)
        assert [np.shape(value) for value in result] == [rest] * 6
        assert result.log_prob.dtype == (np.float64 if dtype.kind == "i" else computed(dtype))
        np.testing.assert_array_equal(result.rank, np.full(rest, -1))
    with pytest.raises(IndexError, match=r"target\[0\] is 0.*no classes"):
        score(np.empty((2, 0), dtype), [0, 0])


# --- the row alone decides --------------------------------------------------------


@WIDE_DTYPES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [10, 40, 1100])
def test_layouts(classes, layout, dtype, rng):
    x, target = logits(rng, (9, classes), dtype), labels_for(rng, (9, classes))
    before = x.copy()
    for a, e in zip(score(LAYOUTS[layout](x), LAYOUTS[layout](target)), score(x, target), strict=True):
        assert_same_bits(a, e, layout)
    assert_same_bits(x, before)


@pytest.mark.parametrize("classes", [10, 40, 1100])
def test_batch_and_threads(classes, rng, threads):
    count = large_batch(classes)
    x, target = logits(rng, (count, classes), np.float32), labels_for(rng, (count, classes))
    expected = score(x, target)
    for start, stop in [(0, 1), (5, 6), (3, 20), (count - 1, count)]:
        for part, whole in zip(score(x[start:stop], target[start:stop]), expected, strict=True):
            assert_same_bits(part, whole[start:stop])
    threads(1)
    for a, e in zip(score(x, target), expected, strict=True):
        assert_same_bits(a, e)


@pytest.mark.parametrize("shape", [(3, 100, 2000), (2, 5, 40_000)], ids=name_of)
def test_blocks_of_staged_rows(shape, rng):
    """More than one staging buffer, and labels that go with their rows."""
    x, target = logits(rng, shape, np.float32), labels_for(rng, shape, 1)
    result = score(x, target, axis=1)
    for a, e in zip(result, score(np.moveaxis(x, 1, -1).copy(), target), strict=True):
        assert_same_bits(a, e)


@given(
    case=st.sampled_from([((7, 5), -1), ((40, 10), 0), ((9, 70), 1), ((2, 1100), -1), ((4, 20, 3), 1), ((1, 6), 1)]),
    dtype=st.sampled_from(SIZES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    ignore_index=st.sampled_from([-100, 1, 99]),
    top_k=st.sampled_from([None, 1, 3, 2000]),
    values=st.sampled_from(["normal", "tied", "special"]),
    seed=st.integers(0, 1000),
)
def test_any_options(case, dtype, layout, ignore_index, top_k, values, seed):
    (shape, axis), rng = case, np.random.default_rng(seed)
    x = logits(rng, shape, dtype) if values == "normal" else tied(rng, shape, dtype)
    if values == "special":
        x = np.where(rng.random(shape) < 0.1, rng.choice([INF, -INF, NAN], shape), x.astype(np.float64)).astype(dtype)
    target = np.asarray(labels_for(rng, shape, axis))
    target = np.where(rng.random(target.shape) < 0.3, ignore_index, target)
    options = {"axis": axis, "ignore_index": ignore_index}
    assert_matches_oracle("score", LAYOUTS[layout](x), target, top_k=top_k, **options)


# --- errors -----------------------------------------------------------------------

X, Y = np.zeros((4, 3)), [0, 1, 2, 0]
SOFT = (
    r"target must hold class indices of shape \(4,\), or one-hot integers, "
    r"got class probabilities: dtype float64 and shape \(4, 3\)"
)


@pytest.mark.parametrize(
    ("kind", "message", "x", "target", "options"),
    [
        (TypeError, "logits must hold real numbers .* got dtype complex128", X.astype(complex), Y, {}),
        (TypeError, "logits must not be a masked array", np.ma.array(X), Y, {}),
        (TypeError, "target must not be a masked array", X, np.ma.array(Y), {}),
        (ValueError, "logits must have at least one dimension", 1.0, 0, {}),
        (np.exceptions.AxisError, "axis 2 is out of bounds", X, Y, {"axis": 2}),
        (TypeError, "axis must be an integer, got None", X, Y, {"axis": None}),
        (ValueError, r"target has shape \(3,\), expected \(4,\)", X, [0] * 3, {}),
        (TypeError, "class indices must be integers, got dtype float64", X, np.zeros(4), {}),
        (TypeError, SOFT, X, X, {}),
        (TypeError, "ignore_index must be an integer, got 0.5", X, Y, {"ignore_index": 0.5}),
        (ValueError, "ignore_index must fit 64 bits", X, Y, {"ignore_index": 2**63}),
        (TypeError, "top_k must be an integer, got 1.0", X, Y, {"top_k": 1.0}),
        (ValueError, "top_k must be at least 1, got 0", X, Y, {"top_k": 0}),
        (IndexError, r"target\[2\] is 3, expected a class index from 0 to 2 or ignore_index -100", X, [0, 1, 3, 0], {}),
        (IndexError, r"target\[1\] is -100, .* or ignore_index 0", X, [1, -100, 0, 0], {"ignore_index": 0}),
        (IndexError, r"target\[1, 2\] is -1", np.zeros((2, 40, 3)), [[0, 0, 0], [0, 0, -1]], {"axis": 1}),
    ],
)
def test_errors(kind, message, x, target, options):
    with pytest.raises(kind, match=message):
        score(x, target, **options)
