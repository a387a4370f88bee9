"""``out``: the same object, the same numbers, in place; and refused before anything is written."""

import numpy as np
import pytest

import fastce
from tests.functions import CALLS, FAMILIES
from tests.helpers import (
    DTYPES,
    HALF,
    SIZES,
    WIDE,
    assert_same_bits,
    in_parallel,
    labels_for,
    logits,
    name_of,
    soft_for,
)
from tests.oracle.layouts import LAYOUTS

WITH_OUT = [name for name in FAMILIES if CALLS[name].function.outs]
SHAPED_LIKE_X = [name for name in WITH_OUT if name != "logsumexp"]
ALL_CASES = pytest.mark.parametrize("name", WITH_OUT)
SAME_SHAPE = pytest.mark.parametrize("name", SHAPED_LIKE_X)
SENTINEL = 77.0


def written(name, x):
    """The array that ``out`` of a case receives, as computed without it."""
    return CALLS[name].on_rows(x)[-1]


# --- accepted -------------------------------------------------------------------------


@ALL_CASES
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
@pytest.mark.parametrize("shape", [(17, 5), (9, 40), (0, 5)], ids=name_of)
def test_out_is_returned(shape, dtype, name, rng):
    x = CALLS[name].suited(logits(rng, shape, dtype))
    expected = CALLS[name].on_rows(x)
    out = np.full(expected[-1].shape, SENTINEL, dtype)
    results = CALLS[name].on_rows(x, out=out)
    assert results[-1] is out
    for a, e in zip(results, expected, strict=True):
        assert_same_bits(a, e)


@SAME_SHAPE
@pytest.mark.parametrize(
    "shape", [(17, 5), (9, 40), (3, 1100), (4001, 10), (801, 50), (3, 4, 6), (2, 40, 3)], ids=name_of
)
def test_in_place(shape, name, rng):
    axes = range(len(shape)) if CALLS[name].function.takes("axis") else [-1]
    dtype = np.float32 if in_parallel(shape) else np.float64
    for axis in axes:
        x = CALLS[name].suited(logits(rng, shape, dtype))
        expected = CALLS[name].on_rows(x, axis)
        results = CALLS[name].on_rows(x, axis, out=x)
        assert results[-1] is x
        for a, e in zip(results, expected, strict=True):
            assert_same_bits(a, e, f"axis {axis}")


@SAME_SHAPE
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("read-only", "other byte order")])
def test_in_place_in_any_layout(layout, name, rng):
    for shape in ((17, 5), (9, 40)):
        x = LAYOUTS[layout](CALLS[name].suited(logits(rng, shape)))
        expected = CALLS[name].on_rows(x)
        results = CALLS[name].on_rows(x, out=x)
        assert results[-1] is x
        for a, e in zip(results, expected, strict=True):
            assert_same_bits(a, e)


@SAME_SHAPE
@pytest.mark.parametrize("dtype", HALF, ids=name_of)
def test_in_place_in_half_precision(dtype, name, rng):
    x = CALLS[name].suited(logits(rng, (17, 5), dtype))
    expected = written(name, x)
    assert_same_bits(CALLS[name].on_rows(x, out=x)[-1], expected)


@SAME_SHAPE
def test_in_place_through_another_view_of_all(name, rng):
    x = CALLS[name].suited(logits(rng, (17, 5)))
    expected = written(name, x)
    CALLS[name].on_rows(x, out=x[:])
    assert_same_bits(x, expected)


@ALL_CASES
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("read-only", "other byte order")])
def test_out_in_any_layout(layout, name, rng):
    """Elements between those of ``out`` stay as they are."""
    for shape in ((17, 6), (9, 40), (2, 3, 7)):
        x = CALLS[name].suited(logits(rng, shape))
        expected = written(name, x)
        out = LAYOUTS[layout](np.full(expected.shape, SENTINEL))
        untouched = outside(out.base, out) if out.base is not None else lambda: b""
        before = untouched()
        assert CALLS[name].on_rows(x, out=out)[-1] is out
        np.testing.assert_allclose(out, expected, rtol=2e-15, atol=1e-15)
        assert untouched() == before


def outside(root, view):
    """A function that returns the bytes of ``root`` that are no part of ``view``."""
    inside = np.zeros(root.nbytes, np.uint8)
    start = view.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    np.ndarray(view.shape, f"V{view.itemsize}", inside, start, view.strides)[...] = b"\x01" * view.itemsize
    return lambda: np.ascontiguousarray(root).reshape(-1).view(np.uint8)[inside == 0].tobytes()


def test_logsumexp_writes_to_a_scalar_array():
    out = np.empty(())
    assert fastce.logsumexp([1.0, 2, 3], out=out) is out
    assert out == fastce.logsumexp([1.0, 2, 3])
    out = np.empty((2, 1))
    assert fastce.logsumexp([[1.0, 2], [3, 4]], keepdims=True, out=out) is out
    np.testing.assert_array_equal(out, fastce.logsumexp([[1.0, 2], [3, 4]], keepdims=True))


def test_logsumexp_into_its_own_input(rng):
    """The result is smaller than the input: sharing memory is refused, or right."""
    x = logits(rng, (9, 5))
    expected = fastce.logsumexp(x)
    before = x.copy()
    try:
        result = fastce.logsumexp(x, out=x[:, 0])
    except ValueError:
        assert_same_bits(x, before)
    else:
        np.testing.assert_array_equal(result, expected)


# --- refused, before anything is written ------------------------------------------------


def refused(name, x, out, kind, *fragments):
    """The call raises, its message has all fragments, and neither array has changed."""
    before = x.tobytes(), (out.tobytes() if isinstance(out, np.ndarray) else None)
    with pytest.raises(kind) as caught:
        CALLS[name].on_rows(x, out=out)
    for fragment in ("out", *fragments):
        assert fragment in str(caught.value)
    assert (x.tobytes(), out.tobytes() if isinstance(out, np.ndarray) else None) == before


@ALL_CASES
def test_wrong_shape(name, rng):
    x = CALLS[name].suited(logits(rng, (17, 5)))
    right = written(name, x).shape
    for wrong in [(18, *right[1:]), (16, *right[1:]), (*right, 1), (1, *right), right[:-1], (17, 4)]:
        refused(name, x, np.full(wrong, SENTINEL), ValueError, "shape", str(right), str(wrong))


@ALL_CASES
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_wrong_dtype(dtype, name, rng):
    x = CALLS[name].suited(logits(rng, (17, 5), dtype))
    shape = written(name, x).shape
    for wrong in {*WIDE, *DTYPES, np.dtype(int), np.dtype(complex)} - {dtype}:
        refused(name, x, np.zeros(shape, wrong), ValueError, "dtype", str(dtype), str(wrong))


@ALL_CASES
def test_integer_input_has_float64_results(name):
    x = np.array([[1, 0, 1], [0, 0, 1]])
    shape = written(name, x).shape
    refused(name, x, np.zeros(shape, int), ValueError, "dtype", "float64", "int64")
    out = np.zeros(shape)
    assert CALLS[name].on_rows(x, out=out)[-1] is out


@ALL_CASES
def test_read_only(name, rng):
    x = CALLS[name].suited(logits(rng, (17, 5)))
    out = np.full(written(name, x).shape, SENTINEL)
    out.flags.writeable = False
    refused(name, x, out, ValueError, "read-only")


@ALL_CASES
@pytest.mark.parametrize("out", [[[0.0] * 5] * 17, 3.0, "x", True], ids=["list", "number", "string", "boolean"])
def test_no_array(out, name, rng):
    refused(name, CALLS[name].suited(logits(rng, (17, 5))), out, TypeError, type(out).__name__)


@SAME_SHAPE
def test_partial_overlap(name, rng):
    for shift in (1, 5, 10, 41, 84):
        buffer = CALLS[name].suited(logits(rng, (40, 5))).reshape(-1)
        refused(name, buffer[:85].reshape(17, 5), buffer[shift : shift + 85].reshape(17, 5), ValueError, "overlap")


@SAME_SHAPE
def test_same_memory_in_another_order(name, rng):
    x = CALLS[name].suited(logits(rng, (5, 5)))
    for out in (x.T, x[::-1], x[:, ::-1]):
        refused(name, x, out, ValueError, "overlap")


@ALL_CASES
def test_out_that_overlaps_itself(name, rng):
    x = CALLS[name].suited(logits(rng, (17, 5)))
    shape = written(name, x).shape
    one = np.zeros(shape[1:] or 1)
    out = np.lib.stride_tricks.as_strided(one, shape, (0, *one.strides[: len(shape) - 1]), writeable=True)
    refused(name, x, out, ValueError, "overlap")


def test_overlap_that_is_too_hard_to_decide():
    """NumPy gives up on these strides: refused, lest the result be silently wrong."""
    strides = [8 * s for s in (50021, 8009, 1301, 211, 31, 5)]
    buffer = np.zeros(400_000)
    x, out = (np.lib.stride_tricks.as_strided(buffer[start:], (6,) * 6, strides) for start in (0, 1))
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(x, out, max_work=10_000)
    with pytest.raises(ValueError, match="overlap"):
        fastce.softmax(x, out=out)
    assert not buffer.any()


def test_overlap_with_the_other_arguments(rng):
    x, soft = logits(rng, (6, 6)), soft_for(rng, (6, 6))
    labels = labels_for(rng, x.shape)
    for options in ({"weight": soft[0]}, {"sample_weight": soft[:, 0]}, {"weight": soft[2]}):
        expected = fastce.cross_entropy_and_grad(x, labels, **options)
        right_or_refused(
            lambda out, options=options: fastce.cross_entropy_and_grad(x, labels, **options, out=out), expected, soft
        )
    right_or_refused(
        lambda out: fastce.cross_entropy_and_grad(x, soft, out=out), fastce.cross_entropy_and_grad(x, soft), soft
    )
    upstream = np.linspace(1, 2, 36).reshape(6, 6)
    right_or_refused(
        lambda out: fastce.cross_entropy_and_grad(x, labels, reduction="none", grad_output=upstream[1], out=out),
        fastce.cross_entropy_and_grad(x, labels, reduction="none", grad_output=upstream[1]),
        upstream,
    )
    for shared in (upstream, np.linspace(1, 2, 72).reshape(12, 6)[:6]):
        right_or_refused(
            lambda out, shared=shared: fastce.binary_cross_entropy_with_logits_and_grad(
                x, soft, reduction="none", grad_output=shared[::-1], out=out
            ),
            fastce.binary_cross_entropy_with_logits_and_grad(x, soft, reduction="none", grad_output=shared[::-1]),
            shared,
        )
    probs = fastce.softmax(x)
    right_or_refused(
        lambda out: fastce.cross_entropy_from_probs_and_grad(probs, soft, out=out),
        fastce.cross_entropy_from_probs_and_grad(probs, soft),
        soft,
    )
    for options in ({}, {"weight": soft}, {"pos_weight": soft[3]}):
        right_or_refused(
            lambda out, options=options: fastce.binary_cross_entropy_with_logits_and_grad(x, soft, **options, out=out),
            fastce.binary_cross_entropy_with_logits_and_grad(x, soft, **options),
            soft,
        )


def right_or_refused(call, expected, out):
    """With ``out`` sharing memory with an argument: right, or an error that leaves it alone."""
    before = out.copy()
    try:
        loss, grad = call(out)
    except ValueError as error:
        assert "overlap" in str(error)
        assert_same_bits(out, before)
    else:
        np.testing.assert_allclose(loss, expected.loss)
        np.testing.assert_allclose(grad, expected.grad)
        out[...] = before


@pytest.mark.parametrize("shape", [(17, 5), (9, 40), (5003, 10)], ids=name_of)
def test_a_bad_label_is_found_before_anything_is_written(shape, rng):
    x = logits(rng, shape, np.float32)
    target = labels_for(rng, shape)
    target[-1] = shape[1]
    for out in (x, np.full(shape, SENTINEL, np.float32)):
        before = out.copy()
        for options in ({}, {"weight": np.ones(shape[1])}, {"reduction": "none"}):
            with pytest.raises(IndexError):
                fastce.cross_entropy_and_grad(x, target, out=out, **options)
            assert_same_bits(out, before)


def test_other_bad_arguments_are_found_before_anything_is_written(rng):
    x, target = logits(rng, (6, 3)), labels_for(rng, (6, 3))
    out = np.full(x.shape, SENTINEL)
    for options in (
        {"grad_output": [1.0, 2]},
        {"grad_output": "x"},
        {"reduction": "none", "grad_output": np.ones(5)},
        {"weight": np.ones(4)},
        {"sample_weight": np.ones(5)},
        {"label_smoothing": 2},
        {"reduction": "average"},
        {"ignore_index": 1.5},
        {"axis": 2},
    ):
        with pytest.raises((ValueError, TypeError, IndexError)):
            fastce.cross_entropy_and_grad(x, target, out=out, **options)
        assert np.all(out == SENTINEL)
