"""logsumexp, softmax and log_softmax: values over shapes, dtypes and regimes."""

import itertools

import numpy as np
import pytest

import fastce
from tests.helpers import DTYPES, HALF, NARROW, PARALLEL, ROWS, WIDE, WIDE_CLASSES, assert_within, logits, name_of
from tests.oracle import reference
from tests.oracle.compare import assert_matches_oracle

FAMILY = ["logsumexp", "softmax", "log_softmax"]
WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)


def test_known_values():
    np.testing.assert_allclose(fastce.softmax([1, 2, 3]), [0.09003057, 0.24472847, 0.66524096], atol=5e-9)
    np.testing.assert_allclose(fastce.logsumexp([1, 2, 3]), 3.40760596, atol=5e-9)
    np.testing.assert_allclose(fastce.log_softmax([1, 2, 3]), [-2.40760596, -1.40760596, -0.40760596], atol=5e-9)


@WIDE_DTYPES
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("classes", NARROW + WIDE_CLASSES)
def test_every_regime(name, classes, dtype, rng):
    for rows in ROWS if classes <= 40 else (1, 17):
        assert_matches_oracle(name, logits(rng, (rows, classes), dtype))


@WIDE_DTYPES
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("shape", PARALLEL, ids=name_of)
def test_large(name, shape, dtype, rng, threads):
    if dtype != np.float32 and name != "softmax":
        threads(1)  # the source of the parallel kernels is one
    assert_matches_oracle(name, logits(rng, shape, dtype))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*itertools.product([(1, 1), (17, 10), (33, 16), (9, 40), (3, 1100), (2, 7, 5)], HALF[:1]), ((17, 10), HALF[1])],
    ids=name_of,
)
def test_half_precision_is_rounded_once(name, shape, dtype, rng):
    assert_matches_oracle(name, logits(rng, shape, dtype))
    assert_matches_oracle(name, logits(rng, shape, dtype), 0)


@WIDE_DTYPES
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("classes", [1, 5, 16, 33, 70, 1030])
def test_every_axis(name, classes, dtype, rng):
    for axis, shape in [(0, (classes, 19)), (0, (classes, 3, 5)), (1, (2, classes, 21)), (2, (3, 4, classes))]:
        x = logits(rng, shape, dtype)
        assert_matches_oracle(name, x, axis)
        assert_matches_oracle(name, x, axis - x.ndim)


@pytest.mark.parametrize("name", FAMILY)
def test_the_maximum_may_lie_anywhere(name):
    """Rows rise, fall and peak in every block, so that sums are rescaled or not at each."""
    for classes in (24, 40, 1025, 2100):
        ramp = np.linspace(-30, 30, classes)
        x = np.stack([ramp, ramp[::-1], *(np.roll(ramp, k) for k in range(0, classes, max(classes // 13, 1)))])
        assert_matches_oracle(name, x.astype(np.float32))
        assert_matches_oracle(name, x)


@WIDE_DTYPES
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("step", [2.0**-13, 2.0**-10, 0.25])
def test_a_maximum_that_rises_with_every_block(step, axis, dtype):
    """No rounding for each rise piles up. The differences of these logits are exact."""
    x = np.arange(min(30_000, 60 / step)) * step - 30
    x = np.stack([x, x + 8, x + 30], axis=axis - 1).astype(dtype)
    assert_within(fastce.softmax(x, axis), reference.softmax(x, axis), 5, dtype)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_large_offsets_do_not_overflow(name, dtype):
    top = float(np.float16(60000))
    x = np.array([[top, top - 32, top - 64], [-top, -top, -top - 64], [top, 0, -top]], dtype)
    assert_matches_oracle(name, x)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_the_whole_range_of_exponents(dtype):
    """Gaps up to far past the point where an exponential is 0."""
    gap = np.linspace(0, 1.2 * -float(np.log(np.finfo(dtype).tiny)), 501)
    x = np.stack([np.zeros_like(gap), -gap], axis=-1).astype(dtype)
    p = fastce.softmax(x)
    assert_within(p, reference.softmax(x), 5, dtype)
    assert np.all(p >= 0)
    assert p[-1, 1] == 0


def test_logsumexp_keeps_dimensions(rng):
    x = rng.normal(size=(3, 4, 5))
    for axis in (-3, -1, 0, 1, 2):
        kept = fastce.logsumexp(x, axis, keepdims=True)
        assert kept.shape == tuple(1 if k == axis % 3 else n for k, n in enumerate(x.shape))
        np.testing.assert_array_equal(np.squeeze(kept, axis), fastce.logsumexp(x, axis))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_one_dimension(dtype):
    x = np.array([1, 2, 3], dtype)
    lse = fastce.logsumexp(x)
    assert isinstance(lse, np.generic)
    assert lse.dtype == dtype
    assert fastce.logsumexp(x, keepdims=True).shape == (1,)
    assert fastce.softmax(x).shape == fastce.log_softmax(x).shape == (3,)


def test_two_equal_classes_are_exactly_even():
    for dtype in WIDE:
        for value in (-700.0, -1e-30, 0.0, 3.3, 1e30):
            np.testing.assert_array_equal(fastce.softmax(np.full((5, 2), value, dtype)), np.full((5, 2), 0.5, dtype))


def test_one_class():
    x = np.array([[-3.0], [0.0], [5e300]])
    np.testing.assert_array_equal(fastce.softmax(x), np.ones((3, 1)))
    np.testing.assert_array_equal(fastce.log_softmax(x), np.zeros((3, 1)))
    np.testing.assert_array_equal(fastce.logsumexp(x), x[:, 0])
