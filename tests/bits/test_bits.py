"""A row's results are a function of the row: its neighbours, place, layout and the threads change no bit.

Seen to fail: with the kernel of few classes for aligned rows only, for contiguous ones only, or for more than one
row only, and with a sum of losses a thread.
"""

import hashlib
import itertools

import numpy as np
import pytest

import fastce
from tests.functions import CALLS, FAMILIES, OTHERS
from tests.helpers import (
    WIDE,
    assert_any_threads_agree,
    assert_same_bits,
    labels_for,
    large_batch,
    logits,
    name_of,
)
from tests.oracle.layouts import LAYOUTS

BY_SAMPLE = [name for name in FAMILIES if CALLS[name].function.takes("axis")]
ALL_CASES = pytest.mark.parametrize("name", BY_SAMPLE)
WIDE_DTYPES = pytest.mark.parametrize("dtype", WIDE, ids=name_of)
BOTH = ("softmax", "cross_entropy none")  # in parallel in float64 as well; the source of the kernels is one
SIDE_BY_SIDE = ("Fortran order", "leading axes swapped")
CLASSES = pytest.mark.parametrize("classes", [1, 3, 10, 31, 32, 33, 40, 513, 1100])


@ALL_CASES
@WIDE_DTYPES
@CLASSES
def test_batch(classes, dtype, name, rng):
    """Alone, in any part of a small batch, in a large one (where kernels run in parallel)."""
    run = CALLS[name].on_rows
    large = large_batch(classes, dtype == np.float32 or name in BOTH)
    x = CALLS[name].suited(logits(rng, (large, classes), dtype))
    in_large = run(x)
    for start, stop in [(0, 1), (5, 6), (0, 7), (3, 20), (20, 37), (large - 1, large)]:
        for part, whole in zip(run(x[start:stop]), in_large, strict=True):
            assert_same_bits(part, whole[start:stop], f"rows {start} to {stop}")


def others(x, p):
    """The results of the other functions by name; ``p`` holds probabilities."""
    more = {"cross_entropy bent": {"z_loss": 0.1}}
    firsts = {name: p if CALLS[name].first == "p" else x for name in OTHERS}
    return {name: CALLS[name].on_rows(first, **more.get(name, {})) for name, first in firsts.items()}


@pytest.mark.parametrize(
    ("classes", "dtype"),
    [*itertools.product([1, 3, 32, 33, 257, 513, 1100], WIDE[:1]), *itertools.product([3, 33], WIDE[1:])],
    ids=name_of,
)
def test_other_functions(classes, dtype, rng):
    """As above, and anywhere in memory."""
    large = large_batch(classes, dtype == np.float32)
    x = logits(rng, (large, classes), dtype)
    p = np.abs(x) / (1 + np.abs(x))
    in_large = others(x, p)
    for start, stop in [(0, 1), (5, 6), (3, 20), (large - 1, large)]:
        parts = []
        for array in (x, p):
            moved = np.empty((stop - start) * classes + start, dtype)[start:].reshape(stop - start, classes)
            moved[...] = array[start:stop]
            parts.append(moved)
        for name, results in others(*parts).items():
            for part, whole in zip(results, in_large[name], strict=True):
                assert_same_bits(part, whole[start:stop], f"{name}, rows {start} to {stop}")


@ALL_CASES
@WIDE_DTYPES
@pytest.mark.parametrize("classes", [10, 40, 1100])
def test_alignment(classes, dtype, name, rng):
    run = CALLS[name].on_rows
    x = CALLS[name].suited(logits(rng, (9, classes), dtype))
    expected = run(x)
    for shift in (1, 2, 3, 5, 8, 15):
        buffer = np.empty(x.size + shift, dtype)
        moved = buffer[shift:].reshape(x.shape)
        moved[...] = x
        for a, e in zip(run(moved), expected, strict=True):
            assert_same_bits(a, e, f"{shift} elements on")


@ALL_CASES
@WIDE_DTYPES
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout not in SIDE_BY_SIDE])
@pytest.mark.parametrize("classes", [10, 40, 1100])
def test_layout(classes, layout, dtype, name, rng):
    x = CALLS[name].suited(logits(rng, (9, classes), dtype))
    for a, e in zip(CALLS[name].on_rows(LAYOUTS[layout](x)), CALLS[name].on_rows(x), strict=True):
        assert_same_bits(a, e, layout)


@ALL_CASES
@WIDE_DTYPES
@pytest.mark.parametrize("classes", [10, 40, 1100])
def test_samples_side_by_side(classes, dtype, name, rng):
    """Neighbouring samples are neighbours in memory: class axis in front, or Fortran order.

    Classes are added in an order of their own, which does not depend on the neighbours.
    """
    rows = 50 if dtype == np.float32 or name in BOTH else 40_000 // max(classes, 1000)  # in parallel or not
    x = CALLS[name].suited(logits(rng, (rows, classes), dtype))
    expected = [a.T if a.ndim == 2 else a for a in CALLS[name].on_rows(np.ascontiguousarray(x.T), 0)]
    for stop in (7, 16, 17):  # one sample would be a contiguous row again
        front = np.ascontiguousarray(x[:stop].T)
        for a, e in zip(CALLS[name].on_rows(front, 0), expected, strict=True):
            assert_same_bits(a.T if a.ndim == 2 else a, e[:stop], f"class axis in front, {stop} samples")
    for layout in SIDE_BY_SIDE:
        for a, e in zip(CALLS[name].on_rows(LAYOUTS[layout](x)), expected, strict=True):
            assert_same_bits(a, e, layout)


@ALL_CASES
@pytest.mark.parametrize("dtype", [*WIDE, np.float16], ids=name_of)
def test_samples_side_by_side_anywhere_in_a_cache_line(dtype, name, rng):
    """Values begin where cache lines do, if that is the same for all classes.

    Seen to fail: with sums that begin at the first sample, and with panels that end too early.
    """
    run = CALLS[name].on_rows
    x = np.ascontiguousarray(CALLS[name].suited(logits(rng, (2096, 5), dtype)).T)
    expected = run(x, 0)
    for part, whole in zip(run(np.ascontiguousarray(x[:, :50]), 0), expected, strict=True):
        assert_same_bits(part, whole[..., :50], "few samples")
    for shift in range(1, 16):
        moved = np.empty(x.size + shift, dtype)[shift:].reshape(x.shape)
        moved[...] = x
        for a, e in zip(run(moved, 0), expected, strict=True):
            assert_same_bits(a, e, f"{shift} elements on")


@WIDE_DTYPES
def test_one_very_long_row(dtype, rng):
    """Alone, where threads might share it, and in a batch."""
    x = logits(rng, (3, 140_001), dtype)
    for name in ("logsumexp", "softmax", "cross_entropy none", "cross_entropy soft"):
        together = CALLS[name].on_rows(x)
        for i in range(3):
            for part, whole in zip(CALLS[name].on_rows(x[i]), together, strict=True):
                assert_same_bits(part, whole[i], name)


def test_in_place(rng):
    for shape in ((40, 10), (9, 40), (3, 1100)):
        x = logits(rng, shape)
        for name in ("softmax", "log_softmax", "cross_entropy none", "cross_entropy soft"):
            expected = CALLS[name].on_rows(x)
            copy = x.copy()
            for a, e in zip(CALLS[name].on_rows(copy, out=copy), expected, strict=True):
                assert_same_bits(a, e, name)


def test_loss_is_the_same_with_and_without_gradient(rng):
    for dtype in WIDE:
        for shape in ((40, 10), (9, 40), (3, 1100), (5003, 10)):
            x, target = logits(rng, shape, dtype), labels_for(rng, shape)
            for reduction in ("mean", "sum"):
                alone = fastce.cross_entropy(x, target, reduction=reduction)
                assert_same_bits(alone, fastce.cross_entropy_and_grad(x, target, reduction=reduction).loss)


def digest():
    """One number of results of all functions, in every regime that runs in parallel."""
    rng = np.random.default_rng(4)
    found = hashlib.sha256()
    for shape in [(9001, 10), (1203, 77), (37, 1031), (1, 80_001)]:
        for dtype in (np.float32, np.float64):
            x, target = logits(rng, shape, dtype), labels_for(rng, shape)
            for name in FAMILIES if dtype == np.float32 else BOTH:
                for result in CALLS[name].on_rows(CALLS[name].suited(x)):
                    found.update(result.tobytes())
            for reduction in ("mean", "sum"):
                found.update(fastce.cross_entropy(x, target, reduction=reduction).tobytes())
                found.update(fastce.binary_cross_entropy_with_logits(x, x > 0, reduction=reduction).tobytes())
            for results in others(x, np.abs(x) / (1 + np.abs(x))).values() if dtype == np.float32 else ():
                for result in results:
                    found.update(np.asarray(result).tobytes())
    return found.hexdigest()


def test_threads():
    assert_any_threads_agree(digest)
