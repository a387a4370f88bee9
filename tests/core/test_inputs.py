"""What comes in: layouts, byte orders, dtypes, lists, memmaps, sizes; never modified."""

import re

import numpy as np
import pytest

import fastce
from fastce.core.layout import is_kernel_matrix
from fastce.core.targets import is_kernel_labels
from tests.functions import CALLS, FAMILIES
from tests.helpers import (
    DTYPES,
    WIDE,
    WIDE_CLASSES,
    assert_within,
    computed,
    labels_for,
    logits,
    name_of,
    soft_for,
)
from tests.oracle.layouts import LAYOUTS

ALL_CASES = pytest.mark.parametrize("name", FAMILIES)
SHAPES = [(19, 5), (9, 40), (3, 5, 6), (2, 3, 4, 9)]
ALMOST = 8  # eps between two layouts whose sums may be taken in another order


def run_all_axes(name, x, make=lambda x: x):
    """Results for every class axis, as one list."""
    call = CALLS[name]
    axes = range(x.ndim) if call.function.takes("axis") else [-1]
    return [r for axis in axes for r in call.on_rows(make(x), axis)]


def compare(actual, expected, message=""):
    for a, e in zip(actual, expected, strict=True):
        # layouts may add in another order, and a gradient is a difference of terms of this size
        scale = np.maximum(np.abs(np.asarray(e, np.float64)), 0.2)
        assert_within(a, np.asarray(e, np.float64), ALMOST, e.dtype, scale=scale, message=message)


@ALL_CASES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_layouts(shape, layout, name, rng, tmp_path):
    x = CALLS[name].suited(logits(rng, shape))
    view = LAYOUTS[layout](x)
    np.testing.assert_array_equal(view, x)
    before = np.array(view)
    compare(run_all_axes(name, view), run_all_axes(name, x), f"{layout} {shape}")
    assert np.array(view).tobytes() == before.tobytes(), "the input was modified"


@ALL_CASES
def test_memmap(name, rng, tmp_path):
    x = CALLS[name].suited(logits(rng, (40, 20)))
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", x.dtype, "r", shape=x.shape)
    for a, e in zip(run_all_axes(name, mapped), run_all_axes(name, x), strict=True):
        np.testing.assert_array_equal(a, e)
        assert not isinstance(a, np.memmap)


@ALL_CASES
def test_lists_integers_and_booleans_become_float64(name):
    values = [[1, 0, 1], [0, 0, 1]]
    expected = CALLS[name].on_rows(np.array(values, np.float64))
    for x in (values, np.array(values), np.array(values, np.uint8), np.array(values, bool)):
        for a, e in zip(CALLS[name].on_rows(x), expected, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_array_equal(a, e)


@ALL_CASES
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_dtypes_of_results(name, dtype, rng):
    results = CALLS[name].on_rows(CALLS[name].suited(logits(rng, (7, 5), dtype)))
    has_loss = name not in ("logsumexp", "softmax", "log_softmax")
    for k, result in enumerate(results):
        assert result.dtype == (computed(dtype) if has_loss and k == 0 else dtype)
        assert result.dtype.isnative


@pytest.mark.parametrize("dtype", [np.longdouble, np.complex64, np.complex128, object, "U3", "S3", "M8[s]"])
def test_dtypes_refused(dtype):
    x, labels, numbers = np.zeros((2, 3), dtype), np.zeros(2, int), np.zeros((2, 3))
    calls = [
        lambda: fastce.logsumexp(x),
        lambda: fastce.softmax(x),
        lambda: fastce.log_softmax(x),
        lambda: fastce.cross_entropy(x, labels),
        lambda: fastce.cross_entropy(numbers, x),
        lambda: fastce.cross_entropy(numbers, x[:, 0]),
        lambda: fastce.cross_entropy(numbers, labels, weight=x[0]),
        lambda: fastce.cross_entropy(numbers, labels, sample_weight=x[:, 0]),
        lambda: fastce.cross_entropy_and_grad(x, labels),
        lambda: fastce.cross_entropy_and_grad(numbers, labels, reduction="none", grad_output=x[:, 0]),
        lambda: fastce.CrossEntropyLoss()(x, labels),
        lambda: fastce.cross_entropy_from_probs(x, labels),
        lambda: fastce.cross_entropy_from_probs_and_grad(x, labels),
        lambda: fastce.binary_cross_entropy_with_logits(x, numbers),
        lambda: fastce.binary_cross_entropy_with_logits(numbers, x),
        lambda: fastce.binary_cross_entropy_with_logits(numbers, numbers, weight=x),
        lambda: fastce.binary_cross_entropy_with_logits_and_grad(numbers, numbers, pos_weight=x),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=re.escape(str(np.dtype(dtype)))):
            call()


# --- sizes -------------------------------------------------------------------------


@ALL_CASES
@pytest.mark.parametrize("shape", [(0, 3), (3, 1), (1, 1), (1, 40), (2, 0, 3), (0, 40, 2)], ids=name_of)
def test_small_and_empty(name, shape):
    x = np.full(shape, 0.5)
    axes = range(x.ndim) if CALLS[name].function.takes("axis") else [-1]
    for axis in axes:
        if x.shape[axis] == 0 and name not in ("softmax", "log_softmax", "logsumexp", "binary"):
            continue  # no class: tested with the special values
        for result in CALLS[name].on_rows(x, axis):
            assert np.isfinite(result).all() or (name == "logsumexp" and x.shape[axis] == 0)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("inner", [1, 2, 7, 8, 9, 15, 16, 17, 31, 33])
def test_every_tail_of_the_inner_axis(inner, dtype, rng):
    for classes in (3, 20, 50):
        x = logits(rng, (3, classes, inner), dtype)
        last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        for name in ("softmax", "cross_entropy weighted", "cross_entropy soft"):
            for a, e in zip(CALLS[name].on_rows(x, 1), CALLS[name].on_rows(last, -1), strict=True):
                a = np.moveaxis(a, 1, -1) if a.ndim == 3 else a
                compare([a], [e], f"{name} {x.shape}")


# --- staging: what is no kernel's layout goes through small buffers -----------------


@pytest.mark.parametrize("buffer", [1, 50, 64, 333])
@pytest.mark.parametrize("shape", [(7, 5), (3, 5, 40), (4, 3, 2, 6), (2, 1, 3, 9)], ids=name_of)
def test_every_cut_into_staged_blocks(shape, buffer, rng, monkeypatch):
    x = logits(rng, shape)
    strided = LAYOUTS["every other class"](x)
    for name in ("logsumexp", "log_softmax", "cross_entropy weighted", "cross_entropy soft"):
        expected = run_all_axes(name, x)
        with monkeypatch.context() as patch:
            patch.setattr("fastce.core.staging.STAGED_ELEMENTS", buffer)
            compare(run_all_axes(name, strided), expected, name)


@pytest.mark.parametrize("shape", [(5000, 70), (90_000, 5), (2, 300_001)], ids=name_of)
def test_staging_of_large_arrays(shape, rng):
    """More than one buffer, in parallel kernels, and rows longer than a buffer."""
    x = logits(rng, shape, np.float32)
    for name in ("softmax", "cross_entropy none", "cross_entropy soft"):
        compare(CALLS[name].on_rows(LAYOUTS["every other class"](x)), CALLS[name].on_rows(x), name)


# --- the other arguments -------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_targets_and_weights(layout, rng):
    x = logits(rng, (9, 6))
    target = labels_for(rng, x.shape)
    arrange = LAYOUTS[layout]
    soft, weight, sample_weight = soft_for(rng, x.shape), rng.random(6), rng.random(9)
    for t in (target, soft):
        expected = fastce.cross_entropy_and_grad(x, t, weight=weight, sample_weight=sample_weight)
        given = (arrange(t), arrange(weight), arrange(sample_weight))
        before = [np.array(v).tobytes() for v in given]
        actual = fastce.cross_entropy_and_grad(x, given[0], weight=given[1], sample_weight=given[2])
        compare(actual, expected, layout)
        assert [np.array(v).tobytes() for v in given] == before, "an argument was modified"
    expected = fastce.binary_cross_entropy_with_logits_and_grad(x, soft, weight=weight, pos_weight=weight + 1)
    actual = fastce.binary_cross_entropy_with_logits_and_grad(
        x, arrange(soft), weight=arrange(weight), pos_weight=arrange(weight + 1)
    )
    compare(actual, expected, layout)
    probs = fastce.softmax(x)
    for t in (target, soft):
        expected = fastce.cross_entropy_from_probs_and_grad(probs, t, weight=weight)
        actual = fastce.cross_entropy_from_probs_and_grad(probs, arrange(t), weight=arrange(weight))
        compare(actual, expected, layout)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("target_dtype", DTYPES, ids=name_of)
def test_soft_targets_of_another_dtype(target_dtype, dtype, rng):
    x = logits(rng, (9, 6), dtype)
    soft = soft_for(rng, x.shape, dtype=target_dtype)
    loss, grad = fastce.cross_entropy_and_grad(x, soft)
    assert loss.dtype == computed(dtype)
    assert grad.dtype == dtype
    same = fastce.cross_entropy_and_grad(x.astype(np.float64), soft.astype(np.float64))
    eps = 8 if dtype in WIDE else 1
    assert_within(loss, same.loss, 8 if target_dtype == dtype else 16)
    assert_within(grad, same.grad, eps, scale=np.maximum(np.abs(same.grad), 0.1))


def test_lists_for_everything():
    loss, grad = fastce.cross_entropy_and_grad(
        [[1, 2, 3], [3, 2, 1]], [0, 2], weight=[1, 2, 3], sample_weight=[1, 2], reduction="none", grad_output=[1, 2]
    )
    expected = fastce.cross_entropy_and_grad(
        np.array([[1.0, 2, 3], [3, 2, 1]]),
        np.array([0, 2]),
        weight=np.array([1.0, 2, 3]),
        sample_weight=np.array([1.0, 2]),
        reduction="none",
        grad_output=np.array([1.0, 2]),
    )
    np.testing.assert_array_equal(loss, expected.loss)
    np.testing.assert_array_equal(grad, expected.grad)


def test_the_wide_classes_in_fortran_order(rng):
    for classes in WIDE_CLASSES:
        x = logits(rng, (5, classes))
        for name in ("logsumexp", "softmax", "cross_entropy weighted"):
            compare(CALLS[name].on_rows(np.asfortranarray(x)), CALLS[name].on_rows(x), f"{name} {classes}")


def test_read_only_arrays_take_the_short_way(rng):
    """Other libraries hand out and lock read-only arrays; kernels read them as they are.

    Seen to fail: with a check for arrays that can be written.
    """
    x, target = logits(rng, (4, 3), np.float32), labels_for(rng, (4, 3))
    for array in (x, target):
        array.flags.writeable = False
    assert is_kernel_matrix(x) and is_kernel_labels(target)
    assert not is_kernel_matrix(x[:, ::2]) and not is_kernel_labels(target[::2])
