"""The last layer and its loss in one: values, gradients, memory, and what is refused."""

import itertools
import os
import re
import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastce
from fastce import linear_cross_entropy, linear_cross_entropy_and_grad
from tests.helpers import BFLOAT16, DTYPES, HALF, WIDE, finfo, in_new_process, name_of
from tests.layouts import LAYOUTS
from tests.reference_linear import linear

N, D, V = 300, 17, 43
CHUNKED = {"max_bytes": 1}  # chunks of as few rows as there ever are
NAMES = ("loss", "d_hidden", "d_weight", "d_bias")
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "class weights": {"class_weight": np.linspace(0.25, 2, V)},
    "both": {"class_weight": np.linspace(0.25, 2, V), "label_smoothing": 0.3},
    "z-loss": {"z_loss": 0.01},
    "softcap": {"softcap": 2.0},
    "all": {"class_weight": np.linspace(0.25, 2, V), "label_smoothing": 0.1, "z_loss": 0.02, "softcap": 3.0},
    "normalizer": {"normalizer": 77.0},
    "ignored class": {"ignore_index": 3},
}


@pytest.fixture
def case(rng):
    """(hidden, weight, bias, target): more rows than a chunk has, a third of them ignored."""
    target = np.where(rng.random(N) < 0.3, -100, rng.integers(0, V, N))
    return rng.normal(size=(N, D)), rng.normal(size=(V, D)) / 3, rng.normal(size=V), target


def in_dtype(case, dtype):
    return *(x.astype(dtype) for x in case[:3]), case[3]


def suited(target, options):
    """Labels that fit the options."""
    return np.where(target == -100, 3, target) if "ignore_index" in options else target


def assert_close(actual, expected, rtol, message=""):
    """Within ``rtol`` of the greatest element."""
    for name, ours, theirs in zip(NAMES, actual, expected, strict=True):
        if ours is None:
            continue
        assert np.shape(ours) == np.shape(theirs), f"{message} {name}"
        wide, theirs = np.asarray(ours).astype(np.float64), np.asarray(theirs).astype(np.float64)
        scale = np.max(np.abs(theirs), initial=1e-300)
        np.testing.assert_allclose(wide, theirs, rtol=0, atol=rtol * scale, err_msg=f"{message} {name}")


# --- values --------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_float64(case, options, reduction, rng):
    hidden, weight, bias, target = case
    target = suited(target, options)
    if "normalizer" in options and reduction != "mean":
        return
    g = rng.normal(size=N) if reduction == "none" else 1.7
    for some_bias, chunk in itertools.product((None, bias), ({}, CHUNKED)):
        found = linear_cross_entropy_and_grad(
            hidden, weight, target, bias=some_bias, reduction=reduction, grad_output=g, **options, **chunk
        )
        expected = linear(hidden, weight, target, bias=some_bias, reduction=reduction, grad_output=g, **options)
        assert_close(found, expected, 1e-13)
        assert (found.d_bias is None) == (some_bias is None)
        loss = linear_cross_entropy(hidden, weight, target, bias=some_bias, reduction=reduction, **options, **chunk)
        np.testing.assert_allclose(loss, np.asarray(expected.loss, float), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("chunk", [{}, CHUNKED], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_dtypes(case, dtype, options, chunk):
    """16-bit results are float32 sums, rounded once: half an ulp of the greatest element."""
    options = OPTIONS[options]
    hidden, weight, bias, target = in_dtype(case, dtype)
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **options, **chunk)
    assert_close(found, linear(hidden, weight, target, bias=bias, **options), max(float(finfo(dtype).eps), 2e-15) * 4)
    assert {x.dtype for x in found[1:]} == {np.dtype(dtype)}
    assert found.loss.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert linear_cross_entropy(hidden, weight, target, bias=bias, **options, **chunk).dtype == found.loss.dtype


def test_integers_and_lists():
    hidden, weight, target = [[1, 2], [3, -1], [0, 1]], [[1, 0], [0, 1], [1, 1]], [0, 2, 1]
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=[1, 0, 2])
    assert_close(found, linear(hidden, weight, target, bias=[1, 0, 2]), 1e-15)
    assert {np.asarray(x).dtype for x in found} == {np.dtype(np.float64)}


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64], ids=str)
def test_labels_of_any_integer_dtype(case, dtype):
    hidden, weight, _, target = case
    target = np.abs(target) % V
    assert linear_cross_entropy(hidden, weight, target.astype(dtype)) == linear_cross_entropy(hidden, weight, target)


def test_mixed_dtypes(case):
    """Each gradient has the dtype of what it is the gradient of; the widest computes."""
    hidden, weight, bias, target = case
    dtypes = HALF[0], np.float32, np.float64
    arrays = hidden.astype(dtypes[0]), weight.astype(dtypes[1]), bias.astype(dtypes[2])
    for chunk in ({}, CHUNKED):
        found = linear_cross_entropy_and_grad(*arrays[:2], target, bias=arrays[2], **chunk)
        expected = linear(*arrays[:2], target, bias=arrays[2])
        assert tuple(x.dtype for x in found) == (np.float64, *dtypes)
        np.testing.assert_allclose(found.d_weight, expected.d_weight.astype(float), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.loss, float(expected.loss), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16], ids=name_of)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(case, layout, dtype):
    hidden, weight, bias, target = in_dtype(case, dtype)
    expected = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **CHUNKED)
    arrange = LAYOUTS[layout]
    if layout == "rows reversed":
        assert not fastce._linear_chunks.is_ready(arrange(weight), np.dtype(dtype))  # it tests staging, too
    if layout in ("every other class", "rows with padding") and dtype == BFLOAT16:
        expected = linear_cross_entropy_and_grad(hidden, weight, target, **CHUNKED)
        found = linear_cross_entropy_and_grad(arrange(hidden), arrange(weight), target, **CHUNKED)
    else:
        found = linear_cross_entropy_and_grad(
            arrange(hidden), arrange(weight), LAYOUTS["every other row"](target), bias=arrange(bias), **CHUNKED
        )
    assert_close(found, expected, 4e-6 if dtype == np.float32 else 2**-7)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (3, 2, 50)], ids=name_of)
def test_leading_axes(shape, rng):
    hidden, weight, target = rng.normal(size=(*shape, D)), rng.normal(size=(V, D)), rng.integers(0, V, shape)
    g = rng.normal(size=shape)
    expected = linear(hidden, weight, target, reduction="none", grad_output=g)
    swapped = hidden.swapaxes(0, -2).copy().swapaxes(0, -2) if len(shape) > 1 else hidden
    for h, chunk in itertools.product((hidden, swapped), ({}, CHUNKED)):
        options = {"reduction": "none", "grad_output": g, **chunk}
        found = linear_cross_entropy_and_grad(h, weight, target, **options)
        assert_close((*found[:3], None), expected, 1e-13)
        out = np.full((*shape, 2 * D), 9.0)[..., ::2]
        assert linear_cross_entropy_and_grad(h, weight, target, d_hidden_out=out, **options).d_hidden is out
        np.testing.assert_array_equal(out, found.d_hidden)


def test_blocks_of_weights(monkeypatch, rng):
    """More classes than a block of weights has."""
    monkeypatch.setattr("fastce._linear_chunks.BLOCK_BYTES", 1)
    hidden, weight, bias = rng.normal(size=(200, 5)), rng.normal(size=(150, 5)), rng.normal(size=150)
    target = rng.integers(0, 150, 200)
    expected = linear(hidden, weight, target, bias=bias)
    for layout, chunk in itertools.product(("C order", "Fortran order", "classes reversed"), ({}, CHUNKED)):
        arranged = LAYOUTS[layout](weight)
        assert_close(linear_cross_entropy_and_grad(hidden, arranged, target, bias=bias, **chunk), expected, 1e-13)


@pytest.mark.parametrize("options", ["plain", "both", "all"])
def test_numeric_derivatives(options, rng):
    options = OPTIONS[options]
    hidden, weight, bias = rng.normal(size=(4, 3)), rng.normal(size=(V, 3)), rng.normal(size=V)
    target = np.array([0, 5, -100, 42])
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **options)
    step = 1e-5
    for x, grad in ((hidden, found.d_hidden), (weight, found.d_weight), (bias, found.d_bias)):
        for index in list(np.ndindex(x.shape))[:40]:
            before, ends = x[index], []
            for change in (step, -step):
                x[index] = before + change
                ends.append(linear_cross_entropy(hidden, weight, target, bias=bias, **options))
            x[index] = before
            assert abs((ends[0] - ends[1]) / (2 * step) - grad[index]) < 1e-8


# --- beside torch and the unfused functions ---------------------------------------


def of_torch(hidden, weight, bias, target, class_weight, **options):
    leaves = [torch.from_numpy(x.copy()).requires_grad_() for x in (hidden, weight, bias)]
    logits = F.linear(*leaves)
    loss = F.cross_entropy(logits, torch.from_numpy(target), torch.from_numpy(class_weight), **options)
    loss.sum().backward()
    return [x.detach().numpy() for x in (loss, *(leaf.grad for leaf in leaves))]


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_torch(dtype, rng):
    for trial in range(25):
        n, d, v = (int(rng.integers(1, most)) for most in (400, 40, 90))
        hidden, weight, bias = (rng.normal(size=s).astype(dtype) for s in ((n, d), (v, d), v))
        target = np.where(rng.random(n) < 0.2, -100, rng.integers(0, v, n))
        target[0] = 0
        class_weight = (rng.random(v) + 0.1).astype(dtype)
        reduction = ("mean", "sum", "none")[trial % 3]
        common = {"reduction": reduction, "label_smoothing": (0.0, 0.25)[trial % 2]}
        theirs = of_torch(hidden, weight, bias, target, class_weight, **common)
        ours = linear_cross_entropy_and_grad(
            hidden, weight, target, bias=bias, class_weight=class_weight, **common, **({}, CHUNKED)[trial % 2]
        )
        assert_close(ours, theirs, 1e-8 if dtype == np.float64 else 1e-4, f"trial {trial}")


def test_as_cross_entropy_of_the_product(case):
    hidden, weight, bias, target = case
    expected = fastce.cross_entropy(hidden @ weight.T + bias, target, label_smoothing=0.1)
    found = linear_cross_entropy(hidden, weight, target, bias=bias, label_smoothing=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_confident_rows_keep_their_digits():
    found = linear_cross_entropy_and_grad(np.float32([[20.0]]), np.float32([[1.0], [0.0]]), [0])
    np.testing.assert_allclose(found.loss, 2.0611537e-09, rtol=1e-6)
    np.testing.assert_allclose(found.d_hidden, [[-2.0611537e-09]], rtol=1e-6)


# --- degenerate input -------------------------------------------------------------


def test_ignored_rows_are_not_looked_at(case):
    hidden, weight, _, target = case
    expected = linear_cross_entropy_and_grad(hidden, weight, target)
    hidden = hidden.copy()
    hidden[target == -100] = np.nan
    found = linear_cross_entropy_and_grad(hidden, weight, target)
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not found.d_hidden[target == -100].any()


def test_all_ignored():
    hidden, weight, target = np.ones((3, 2)), np.ones((4, 2)), [-100] * 3
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=np.ones(4))
    assert np.isnan(found.loss)
    assert not any(x.any() for x in found[1:])
    assert linear_cross_entropy(hidden, weight, target, normalizer=8) == 0
    assert linear_cross_entropy(hidden, weight, target, reduction="sum") == 0
    np.testing.assert_array_equal(linear_cross_entropy(hidden, weight, target, reduction="none"), np.zeros(3))
    out = np.full((4, 2), 5.0)
    linear_cross_entropy_and_grad(hidden, weight, target, d_weight_out=out, accumulate=True)
    assert np.all(out == 5)
    linear_cross_entropy_and_grad(hidden, weight, target, d_weight_out=out)
    assert not out.any()


@pytest.mark.parametrize("n, d, v", [(0, 3, 4), (0, 0, 0), (3, 0, 4), (2, 3, 1), (0, 3, 0)])
def test_empty(n, d, v):
    hidden, weight, bias = np.ones((n, d), np.float32), np.ones((v, d), np.float32), np.ones(v, np.float32)
    found = linear_cross_entropy_and_grad(hidden, weight, np.zeros(n, int), bias=bias, reduction="sum")
    np.testing.assert_allclose(found.loss, n * np.log(max(v, 1)), rtol=1e-6)
    assert found.d_hidden.shape == (n, d)
    assert found.d_weight.shape == (v, d)
    assert not found.d_hidden.any()
    assert abs(found.d_bias.sum()) < 1e-6
    assert np.isnan(linear_cross_entropy(hidden, weight, np.zeros(n, int))) == (n == 0)
    assert linear_cross_entropy(hidden, weight, [] if n == 0 else [0] * n, reduction="none").shape == (n,)


def test_infinite_logits_spoil_their_row_only():
    hidden = np.array([[np.inf], [1.0], [np.nan]])
    loss = linear_cross_entropy(hidden, [[1.0], [2.0]], [0, 1, 0], reduction="none")
    assert np.isnan(loss[[0, 2]]).all()
    np.testing.assert_allclose(loss[1], np.log1p(np.exp(-1)), rtol=1e-14)
    masked = linear_cross_entropy([[1.0]], [[1.0], [2.0], [5.0]], [1], bias=[0.0, 0.0, -np.inf])
    np.testing.assert_allclose(masked, np.log1p(np.exp(-1)), rtol=1e-14)


def test_tiny_class_weights_sum_to_nothing():
    weights = {"class_weight": [0.0, 0.0]}
    found = linear_cross_entropy_and_grad([[1.0]], [[1.0], [2.0]], [0], **weights)
    assert np.isnan(found.loss)
    assert np.isnan(found.d_weight).all()


# --- results where they are wanted ---------------------------------------------------


@pytest.mark.parametrize("chunk", [{}, CHUNKED], ids=["one chunk", "chunks"])
@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every other row", "classes reversed", "unaligned"])
@pytest.mark.parametrize("dtype", [*HALF, np.dtype(np.float32)], ids=name_of)
def test_out_and_accumulate(case, dtype, layout, chunk):
    hidden, weight, bias, target = in_dtype(case, dtype)
    expected = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **chunk)
    arrange = LAYOUTS[layout]
    outs = [arrange(np.full_like(x, 2)) for x in (hidden, weight, bias)]
    given = dict(zip(("d_hidden_out", "d_weight_out", "d_bias_out"), outs, strict=True))
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **given, **chunk)
    assert all(ours is out for ours, out in zip(found[1:], outs, strict=True))
    eps = float(finfo(dtype).eps)
    assert_close(found, expected, 16 * eps if dtype == np.float32 else eps)
    linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **given, accumulate=True, **chunk)
    doubled = [expected.loss, *(2 * x.astype(np.float64) for x in expected[1:])]
    assert_close((expected.loss, *outs), doubled, 16 * eps if dtype == np.float32 else 1.5 * eps)


def test_accumulate_without_arrays_starts_at_nothing(case):
    hidden, weight, bias, target = case
    expected = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias)
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, accumulate=True)
    assert_close(found, expected, 1e-14)


def test_sums_of_16_bit_gradients_are_rounded_once():
    """Sums of thirds, a chunk's 42.67 more each time: as float16 they would drift where the spacing is 1."""
    n = 6000
    hidden, weight = np.ones((n, 1), np.float16), np.zeros((3, 1), np.float16)
    target = np.zeros(n, int)
    found = linear_cross_entropy_and_grad(hidden, weight, target, reduction="sum", **CHUNKED)
    np.testing.assert_array_equal(found.d_weight, [[-4000], [2000], [2000]])


def test_halves_of_a_batch_add_up(case):
    hidden, weight, bias, target = case
    count = np.sum(target != -100)
    whole = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias)
    d_weight, d_bias, loss = np.zeros_like(weight), np.zeros_like(bias), 0.0
    for part in (slice(0, 100), slice(100, N)):
        loss += linear_cross_entropy_and_grad(
            hidden[part], weight, target[part], bias=bias, normalizer=count,
            d_weight_out=d_weight, d_bias_out=d_bias, accumulate=True,
        ).loss  # fmt: skip
    assert_close((loss, None, d_weight, d_bias), whole, 1e-13)


@pytest.mark.parametrize("accumulate", [False, True])
def test_d_hidden_in_place(case, accumulate):
    hidden, weight, _, target = case
    expected = linear_cross_entropy_and_grad(hidden, weight, target)
    out = hidden.copy()
    found = linear_cross_entropy_and_grad(out, weight, target, d_hidden_out=out, accumulate=accumulate, **CHUNKED)
    assert found.d_hidden is out
    np.testing.assert_allclose(out, expected.d_hidden + (hidden if accumulate else 0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.d_weight, expected.d_weight, rtol=0, atol=1e-14)


def test_inputs_are_left_alone(case):
    arrays = in_dtype(case, np.float32)
    copies = [x.copy() for x in arrays]
    for x in arrays:
        x.flags.writeable = False
    hidden, weight, bias, target = arrays
    linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, softcap=3.0, z_loss=0.1, **CHUNKED)
    for x, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


# --- what is refused ----------------------------------------------------------------

H, W, T = np.ones((2, 3)), np.ones((4, 3)), np.zeros(2, int)
MEMORY = np.ones(100)
REFUSED = [
    (dict(hidden=1.0), ValueError, "hidden must have at least one dimension, the features; got a scalar"),
    (
        dict(weight=np.ones((3, 4))),
        ValueError,
        "weight has shape (3, 4), expected (V, 3): hidden has shape (2, 3), with the features along its last axis; "
        "weight.T would fit",
    ),
    (dict(weight=np.ones(3)), ValueError, "weight has shape (3,), expected (V, 3)"),
    (dict(hidden=H * 1j), TypeError, "hidden must hold real numbers"),
    (dict(weight=W.astype(str)), TypeError, "weight must hold real numbers"),
    (dict(target=[0, 1, 2]), ValueError, "target has shape (3,), expected (2,), a class index for each row of hidden"),
    (dict(target=[[0, 1]]), ValueError, "target.reshape(2,) would fit"),
    (dict(target=[0.0, 1.0]), TypeError, "class indices must be integers, got dtype float64; use target.astype(int)"),
    (dict(target=[0, 4]), IndexError, "target[1] is 4, expected a class index from 0 to 3 or ignore_index -100"),
    (dict(target=[-1, 0], normalizer=2.0), IndexError, "target[0] is -1"),
    (dict(bias=np.ones(3)), ValueError, "bias must have shape (4,), one per class, got (3,)"),
    (dict(class_weight=np.ones(3)), ValueError, "class_weight must have shape (4,), one per class, got (3,)"),
    (dict(label_smoothing=1.5), ValueError, "label_smoothing must be from 0 to 1, got 1.5"),
    (dict(z_loss="a"), TypeError, "z_loss must be a real number, got 'a'"),
    (dict(softcap=0), ValueError, "softcap must be greater than 0, got 0"),
    (dict(softcap=np.nan), ValueError, "softcap must be greater than 0, got nan"),
    (dict(reduction="max"), ValueError, "reduction must be 'mean', 'sum' or 'none', got 'max'"),
    (dict(normalizer=0), ValueError, "normalizer must be positive and finite, got 0"),
    (dict(normalizer=[2]), ValueError, "normalizer must be a scalar here, got an array of shape (1,)"),
    (dict(max_bytes=0), ValueError, "max_bytes must be at least 1, got 0"),
    (dict(max_bytes=1e6), TypeError, "max_bytes must be an integer, got 1000000.0"),
    (dict(ignore_index=0.5), TypeError, "ignore_index must be an integer, got 0.5"),
    (dict(target=np.ma.array([0, 1])), TypeError, "target must not be a masked array"),
]
REFUSED_OUT = [
    (dict(grad_output=[1.0, 1.0]), ValueError, "grad_output must be a scalar here"),
    (dict(grad_output=np.ones(3), reduction="none"), ValueError, "grad_output must have shape (2,), the loss's"),
    (dict(d_hidden_out=[1.0]), TypeError, "d_hidden_out must be a NumPy array, got list"),
    (dict(d_weight_out=np.ones((3, 4))), ValueError, "d_weight_out must have shape (4, 3) and dtype float64"),
    (dict(d_weight_out=np.ones((4, 3), np.float32)), ValueError, "d_weight_out must have shape (4, 3) and dtype"),
    (dict(d_bias_out=np.ones(4)), ValueError, "d_bias_out has no gradient to take, as there is no bias"),
    (dict(d_weight_out=W), ValueError, "d_weight_out must not overlap weight"),
    (dict(weight=MEMORY[:12].reshape(4, 3), d_hidden_out=MEMORY[6:12].reshape(2, 3)), ValueError,
     "d_hidden_out must not overlap weight"),
    (dict(hidden=MEMORY[:6].reshape(2, 3), d_hidden_out=MEMORY[3:9].reshape(2, 3)), ValueError,
     "d_hidden_out must not overlap hidden, unless it is the very same array"),
    (dict(d_hidden_out=MEMORY[:6].reshape(2, 3), d_weight_out=MEMORY[:12].reshape(4, 3)), ValueError,
     "d_weight_out must not overlap d_hidden_out"),
    (dict(bias=MEMORY[:4], d_bias_out=MEMORY[:4]), ValueError, "d_bias_out must not overlap bias"),
    (dict(d_weight_out=np.broadcast_to(1.0, (4, 3))), ValueError, "d_weight_out must be writable"),
]  # fmt: skip


@pytest.mark.parametrize("options, error, message", REFUSED + REFUSED_OUT, ids=lambda v: v if type(v) is str else "")
def test_refused(options, error, message):
    arguments = {"hidden": H, "weight": W, "target": T, **options}
    arrays = [arguments.pop(name) for name in ("hidden", "weight", "target")]
    with pytest.raises(error, match=re.escape(message)):
        linear_cross_entropy_and_grad(*arrays, **arguments)
    if not options.keys() & {"grad_output", "d_hidden_out", "d_weight_out", "d_bias_out"}:
        with pytest.raises(error, match=re.escape(message)):
            linear_cross_entropy(*arrays, **arguments)


def test_nothing_is_written_before_an_error():
    outs = {"d_hidden_out": np.full((2, 3), 7.0), "d_weight_out": np.full((4, 3), 7.0), "d_bias_out": np.full(4, 7.0)}
    with pytest.raises(IndexError, match=re.escape("target[1] is 9")):
        linear_cross_entropy_and_grad(H, W, [0, 9], bias=np.ones(4), **outs)
    assert all(np.all(x == 7) for x in outs.values())


# --- memory --------------------------------------------------------------------------


def traced_peak(call):
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), HALF[0]], ids=name_of)
def test_no_more_than_a_chunk_of_logits(dtype, rng):
    n, d, v, bound = 2048, 16, 3000, 4 << 20
    hidden, weight = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(v, d)).astype(dtype)
    target = np.where(np.arange(n) % 3 == 0, -100, rng.integers(0, v, n))
    logits = 4 * n * v
    small = bound + 3 * 4 * v * d + 64 * n
    assert small < logits / 4
    loss = traced_peak(lambda: linear_cross_entropy(hidden, weight, target, max_bytes=bound))
    assert loss < small
    results = hidden.nbytes + weight.nbytes
    both = traced_peak(lambda: linear_cross_entropy_and_grad(hidden, weight, target, max_bytes=bound))
    assert both < small + results
    assert traced_peak(lambda: linear_cross_entropy(hidden, weight, target, max_bytes=2 * logits)) > logits / 2


RESIDENT = """
import resource, sys
import numpy as np
from fastce import linear_cross_entropy, linear_cross_entropy_and_grad

def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def call(function, n, d, v):
    hidden, weight = np.ones((n, d), np.float32), np.ones((v, d), np.float32)
    before = resident()
    found = function(hidden, weight, np.zeros(n, int), max_bytes=16 << 20)
    return resident() - before

for function in (linear_cross_entropy, linear_cross_entropy_and_grad):
    call(function, 300, 32, 4000)
    print(call(function, 4096, 32, 20000))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no getrusage")
def test_resident_memory():
    """What tracemalloc cannot see, BLAS's buffers: 4096 rows of 20000 logits are 328 MB, the gradients 3 MB."""
    for line in in_new_process(RESIDENT).splitlines():
        assert int(line) < 48 << 20
