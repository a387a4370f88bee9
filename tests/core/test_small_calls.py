"""The short way of small calls: kernels check the arrays, and take or refuse them as they are."""

from collections import deque

import numpy as np
import pytest

import fastce
from fastce import dispatch
from fastce.core import loss
from fastce.core.loss import LossCall
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS
from fastce.kernels.ops.cross_entropy import MEAN, NO_OPTIONS, NOT_TAKEN
from fastce.kernels.ops.softmax import softmax_tiles

SHAPES = [(1, 3), (5, 3), (1, 100), (5, 100), (3, 2000)]  # tiles, short rows, long rows
SHARED, WRONG = "must not overlap", "must have shape"


def unaligned(array):
    """Return a copy at an odd address."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def strided(array, step):
    """Return a copy whose last axis has a stride."""
    wide = np.empty((*array.shape[:-1], array.shape[-1] * abs(step)), array.dtype)
    view = wide[..., ::step]
    view[...] = array
    return view


def in_wide_rows(array):
    """Return a copy whose rows have a gap after each."""
    view = np.empty((array.shape[0], array.shape[1] + 3), array.dtype)[:, :-3]
    view[...] = array
    return view


def backwards(array):
    """Return a copy whose first axis has a negative stride."""
    view = np.empty_like(array)[::-1]
    view[...] = array
    return view


MATRICES = [np.copy, np.asfortranarray, in_wide_rows, backwards, unaligned, lambda x: strided(x, 2)]
LABELS = [np.copy, backwards, unaligned, lambda y: strided(y, 2), lambda y: y.astype(np.int32)]


def calls(x, y, out=None, out_rows=None):
    """Yield (name, function of no argument) for the functions that have the short way."""
    yield "softmax", lambda: fastce.softmax(x, out=out)
    yield "log_softmax", lambda: fastce.log_softmax(x, out=out)
    yield "logsumexp", lambda: fastce.logsumexp(x, out=out_rows)
    yield "loss", lambda: fastce.cross_entropy(x, y)
    for reduction in ("mean", "sum", "none"):
        yield reduction, lambda r=reduction: fastce.cross_entropy_and_grad(x, y, reduction=r, out=out)


def parts(result):
    return result if isinstance(result, tuple) else (result,)


def case(rng, shape, dtype):
    x = rng.normal(size=shape).astype(dtype)
    return x, rng.integers(0, shape[1], shape[0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_arrangement_gives_the_same_bits(rng, shape, dtype):
    """Seen to fail: with kernels that take labels of any strides, or logits of any stride from class to class."""
    x, y = case(rng, shape, dtype)
    expected = {name: parts(call()) for name, call in calls(x, y)}
    arrangements = [(m, np.copy, None) for m in MATRICES]
    arrangements += [(np.copy, v, None) for v in LABELS] + [(np.copy, np.copy, m) for m in MATRICES]
    for matrix, vector, out_like in arrangements:
        out = None if out_like is None else out_like(np.zeros_like(x))
        out_rows = None if out_like is None else LABELS[MATRICES.index(out_like) % 4](np.zeros(len(x), dtype))
        for name, call in calls(matrix(x), vector(y), out, out_rows):
            result = parts(call())
            for a, b in zip(result, expected[name], strict=True):
                assert a.dtype == b.dtype
                if np.asfortranarray in (matrix, out_like):  # the lanes hold other elements
                    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8, err_msg=name)
                else:
                    np.testing.assert_array_equal(a, b, err_msg=name, strict=True)
            given = out_rows if name == "logsumexp" else out
            assert given is None or name == "loss" or result[-1] is given


def test_kernels_refuse_unaligned_arrays(rng):
    """Most processors can load unaligned values; some cannot.

    Seen to fail: with kernels that do not look at the addresses, of matrices and of vectors.
    """
    x, _ = case(rng, (3, 4), np.float32)
    for args in (
        (unaligned(x), None, np.empty_like(x), None),
        (x, None, unaligned(x), None),
        (x, unaligned(x[:, 0]), None, None),
    ):
        assert not dispatch.run_softmax(*args, is_checked=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_place(rng, shape):
    """Seen to fail: with long rows that store exponentials in the result where that is the logits."""
    x, y = case(rng, shape, np.float32)
    for name, call in calls(x, y):
        if name in ("loss", "logsumexp"):
            continue
        buffer = x.copy()
        again = dict(calls(buffer, y, buffer))[name]()
        np.testing.assert_array_equal(parts(again)[-1], parts(call())[-1])
        assert parts(again)[-1] is buffer


@pytest.mark.parametrize("shape", SHAPES)
def test_shared_memory_is_refused_before_anything_is_written(rng, shape):
    """Seen to fail: with kernels that do not compare the addresses of ``x`` and ``out``, or of the target."""
    rows, classes = shape
    memory = rng.normal(size=4 * rows * classes + 8).astype(np.float32)
    size = rows * classes

    def at(start):
        return memory[start : start + size].reshape(shape)

    x, y = at(size + 4), rng.integers(0, classes, rows)
    before = memory.copy()
    for shift in (-size + 1, -classes, -1, 1, classes, size - 1):
        if not abs(shift) < size:
            continue
        for name, call in calls(x, y, at(size + 4 + shift), memory[size + 4 + shift :][:rows]):
            if name == "loss" or (name == "logsumexp" and not -rows < shift < size):
                continue
            with pytest.raises(ValueError, match=SHARED):
                call()
    assert np.array_equal(memory, before)
    for shift in (-size, size):  # side by side
        for name, call in calls(x, y, at(size + 4 + shift)):
            if name not in ("loss", "logsumexp"):
                call()
    labels = np.zeros(max(rows, size // 2 + 1), np.int64)
    out = labels.view(np.float32)[:size].reshape(shape)
    with pytest.raises(ValueError, match="must not overlap target"):
        fastce.cross_entropy_and_grad(x.copy(), labels[:rows], out=out)
    assert not labels.any()


def test_shared_memory_of_reversed_rows_is_refused(rng):
    """Seen to fail: with kernels that take rows in any order: the first is not where the memory begins."""
    memory, y = case(rng, (6, 3), np.float32)
    before = memory.copy()
    reversed_rows, other_rows = memory[:5][::-1], memory[1:]
    for x, out in ((reversed_rows, other_rows), (other_rows, reversed_rows)):
        for name, call in calls(x, y[:5], out):
            if name not in ("loss", "logsumexp"):
                with pytest.raises(ValueError, match=SHARED):
                    call()
    np.testing.assert_array_equal(memory, before)


def test_rows_between_rows(rng):
    """Rows of ``out`` between those of ``x`` share no element, so they are taken, though not by the short way."""
    x, _ = case(rng, (4, 3), np.float32)
    memory = np.zeros((4, 6), np.float32)
    memory[:, :3] = x
    np.testing.assert_array_equal(fastce.softmax(memory[:, :3], out=memory[:, 3:]), fastce.softmax(x))
    np.testing.assert_array_equal(memory[:, :3], x)


@pytest.mark.parametrize("shape", SHAPES)
def test_wrong_shapes_are_refused(rng, shape):
    """Seen to fail: with kernels that do not compare shapes."""
    rows, classes = shape
    x, y = case(rng, shape, np.float32)
    for out in (np.zeros((rows + 1, classes), np.float32), np.zeros((rows, classes + 1), np.float32)):
        for name, call in calls(x, y, out, np.zeros(len(out) + 1, np.float32)):
            if name != "loss":
                with pytest.raises(ValueError, match=WRONG):
                    call()
        assert not out.any()
    for labels in (y[1:], np.append(y, 0)):
        with pytest.raises(ValueError, match="target has shape"):
            fastce.cross_entropy(x, labels)


def test_plain_calls_make_no_object(rng, monkeypatch):
    """Seen to fail: with a kernel that refuses everything."""
    monkeypatch.setattr(LossCall, "bind", lambda *_, **__: pytest.fail("made a LossCall"))
    for shape in SHAPES:
        x, y = case(rng, shape, np.float32)
        view = np.empty(2 * x.size, np.float32)[: x.size].reshape(shape)
        x.flags.writeable = y.flags.writeable = False
        for out in (None, np.empty_like(x), view, in_wide_rows(x)):
            for axis in (-1, 1):
                fastce.cross_entropy_and_grad(x, y, axis=axis, reduction="sum", out=out)
        fastce.cross_entropy(x, y, ignore_index=-(2**63), reduction="none")
    with pytest.raises(IndexError, match="target\\[1\\] is 7"):
        fastce.cross_entropy(np.zeros((2, 3)), np.array([0, 7]))
    with pytest.raises(pytest.fail.Exception):
        fastce.cross_entropy(x, y, z_loss=0)


@pytest.mark.parametrize("options", [{"label_smoothing": np.zeros(1)}, {"z_loss": 0j}, {"logit_scale": "1"}])
def test_options_that_equal_the_defaults_are_checked(rng, options):
    """Seen to fail: with a comparison with the defaults and none of the types."""
    x, y = case(rng, (2, 3), np.float32)
    for function in (fastce.cross_entropy, fastce.cross_entropy_and_grad):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            function(x, y, **options)


def test_large_calls_are_refused_before_threads_run(rng, monkeypatch):
    """A refused call would look like a fast one, compared to which threads lose time.

    Seen to fail: with kernels for threads that check the arrays.
    """
    monkeypatch.setattr(dispatch, "_run_op", lambda *_: pytest.fail("ran a kernel"))
    x, y = case(rng, (PARALLEL_ELEMENTS // 8, 8), np.float32)
    out = np.asfortranarray(x)
    result = dispatch.run_index_targets(
        x, strided(y, 2), -100, NO_OPTIONS, MEAN, None, np.empty(len(x), x.dtype), None, is_checked=False
    )
    assert result[0] == NOT_TAKEN
    assert not dispatch.run_softmax(x, None, out, None, is_checked=False)


def test_kernels_for_threads_are_compiled_without_the_check(rng, monkeypatch):
    """Seen to fail: with kernels for threads that get ``is_checked`` as the others."""
    taken = []
    monkeypatch.setattr(dispatch, "run", lambda entry, args, *_: taken.append(args))
    monkeypatch.setattr(dispatch.threads, "may_serve", lambda: True)
    x, y = case(rng, (PARALLEL_ELEMENTS // 8, 8), np.float32)
    dispatch.run_softmax(x, None, np.empty_like(x), None, is_checked=False)
    dispatch.run_index_targets(x, y, -100, NO_OPTIONS, MEAN, None, np.empty(len(x), x.dtype), None)
    assert [args[-1] for args in taken] == [None, None]


def test_buffer_is_kept_after_its_last_use(rng, monkeypatch):
    """Another thread may take the buffer as soon as it is kept.

    Seen to fail: with a buffer that is kept before the loss is made in it.
    """

    class Taken(deque):
        def append(self, buffer):
            buffer.fill(np.nan)
            super().append(buffer)

    x, y = case(rng, (loss.MIN_KEPT_BYTES // 4, 3), np.float32)
    buffers = Taken()
    monkeypatch.setattr(loss, "_loss_buffers", buffers)
    assert fastce.cross_entropy(x, y) > 0.0
    assert np.isnan(buffers[0]).all()


def test_kernels_refuse_other_elements_and_dimensions(rng):
    """Another thread may give an array another dtype or shape after its checks.

    Seen to fail: with kernels that do not compare the size of an element, or the number of dimensions.
    """
    args = rng.normal(size=(3, 4)), None, np.empty((3, 4)), None, True
    entry = softmax_tiles.entry(False, args)
    for x in (args[0].astype(np.float32), args[0][0]):
        with pytest.raises(TypeError, match="float64 and 2 dimensions"):
            entry(x, *args[1:])
    assert entry(*args)
