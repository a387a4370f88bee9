"""The last layer and its loss in one: values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastce
from fastce import linear_cross_entropy, linear_cross_entropy_and_grad
from tests.helpers import BFLOAT16, DTYPES, HALF, WIDE, finfo, name_of
from tests.linear.problem import CHUNKED, OPTIONS, REGIMES, D, N, V, assert_close, enter, in_dtype, make_problem
from tests.oracle.layouts import LAYOUTS
from tests.oracle.oracles import linear_cross_entropy_and_grad as linear_oracle
from tests.oracle.reference_linear import linear


@pytest.fixture
def case(rng):
    return make_problem(rng)


@pytest.fixture(params=REGIMES)
def regime(request, monkeypatch):
    return enter(request.param, monkeypatch)


def suited(target, options):
    """Labels that fit the options."""
    return np.where(target == -100, 3, target) if "ignore_index" in options else target


def assert_by_products(found, *arrays, eps=1e-13, **options):
    """The log-sum-exps and the part of the z-loss: in the dtype of the loss, NaN and 0 where a sample is left out."""
    lse, z_loss = linear_oracle(*arrays, **options)[1:3]
    for ours, (theirs, _) in ((found.lse, lse), (found.z_loss, z_loss)):
        assert (np.shape(ours), ours.dtype) == (np.shape(theirs), found.loss.dtype)
        np.testing.assert_allclose(ours, np.asarray(theirs, float), rtol=eps, atol=eps)


# --- values --------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_float64(case, options, reduction, regime, rng):
    hidden, weight, bias, target = case
    target = suited(target, options)
    if "normalizer" in options and reduction != "mean":
        return
    g = rng.normal(size=N) if reduction == "none" else 1.7
    for some_bias in (None, bias):
        same = {"bias": some_bias, "reduction": reduction, **options}
        found = linear_cross_entropy_and_grad(hidden, weight, target, grad_output=g, **same, **regime)
        expected = linear(hidden, weight, target, grad_output=g, **same)
        assert_close(found, expected, 1e-13)
        assert (found.d_bias is None) == (some_bias is None)
        assert_by_products(found, hidden, weight, target, **same)
        loss = linear_cross_entropy(hidden, weight, target, **same, **regime)
        np.testing.assert_allclose(loss, np.asarray(expected.loss, float), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("options", ["plain", "all", "all weights", "weighted z-loss"])
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_dtypes(case, dtype, options, regime):
    """16-bit results are float32 sums, rounded once: half an ulp of the greatest element."""
    options = OPTIONS[options]
    hidden, weight, bias, target = in_dtype(case, dtype)
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **options, **regime)
    assert_close(found, linear(hidden, weight, target, bias=bias, **options), max(float(finfo(dtype).eps), 2e-15) * 4)
    assert_by_products(found, hidden, weight, target, bias=bias, eps=1e-5, **options)
    assert {x.dtype for x in found[1:]} == {np.dtype(dtype)}
    assert found.loss.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert linear_cross_entropy(hidden, weight, target, bias=bias, **options, **regime).dtype == found.loss.dtype


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


def test_mixed_dtypes(case, regime):
    """Each gradient has the dtype of what it is the gradient of; the widest computes."""
    hidden, weight, bias, target = case
    dtypes = HALF[0], np.float32, np.float64
    arrays = hidden.astype(dtypes[0]), weight.astype(dtypes[1]), bias.astype(dtypes[2])
    found = linear_cross_entropy_and_grad(*arrays[:2], target, bias=arrays[2], **regime)
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
        assert not fastce.linear.layer.is_ready(arrange(weight), np.dtype(dtype))  # it tests staging, too
    if layout in ("every other class", "rows with padding") and dtype == BFLOAT16:
        expected = linear_cross_entropy_and_grad(hidden, weight, target, **CHUNKED)
        found = linear_cross_entropy_and_grad(arrange(hidden), arrange(weight), target, **CHUNKED)
    else:
        found = linear_cross_entropy_and_grad(
            arrange(hidden), arrange(weight), LAYOUTS["every other row"](target), bias=arrange(bias), **CHUNKED
        )
    assert_close(found, expected, 4e-6 if dtype == np.float32 else 2**-7)


@pytest.mark.parametrize("shape", [(), (1,), (6,), (2, 3), (3, 2, 50)], ids=name_of)
def test_leading_axes(shape, regime, rng):
    hidden, weight, target = rng.normal(size=(*shape, D)), rng.normal(size=(V, D)), rng.integers(0, V, shape)
    g = rng.normal(size=shape)
    expected = linear(hidden, weight, target, reduction="none", grad_output=g)
    swapped = hidden.swapaxes(0, -2).copy().swapaxes(0, -2) if len(shape) > 1 else hidden
    for h in (hidden, swapped):
        options = {"reduction": "none", "grad_output": g, **regime}
        found = linear_cross_entropy_and_grad(h, weight, target, **options)
        assert_close((*found[:3], None), expected, 1e-13)
        out = np.full((*shape, 2 * D), 9.0)[..., ::2]
        assert linear_cross_entropy_and_grad(h, weight, target, d_hidden_out=out, **options).d_hidden is out
        np.testing.assert_array_equal(out, found.d_hidden)


def test_blocks_of_weights(monkeypatch, regime, rng):
    """More classes than a block of weights has."""
    monkeypatch.setattr("fastce.linear.layer.BLOCK_BYTES", 1)
    hidden, weight, bias = rng.normal(size=(200, 5)), rng.normal(size=(150, 5)), rng.normal(size=150)
    target = rng.integers(0, 150, 200)
    expected = linear(hidden, weight, target, bias=bias)
    for layout in ("C order", "Fortran order", "classes reversed"):
        arranged = LAYOUTS[layout](weight)
        assert_close(linear_cross_entropy_and_grad(hidden, arranged, target, bias=bias, **regime), expected, 1e-13)


@pytest.mark.parametrize("options", ["plain", "both", "all", "scale and cap", "logit scale"])
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


def of_torch(hidden, weight, bias, target, *, sample_weight, z_loss, logit_scale, softcap, reduction, **options):
    """The loss, the part of the z-loss, and the gradients in float64, of a layer and a loss one after the other."""
    leaves = [
        None if x is None else torch.from_numpy(x.astype(np.float64)).requires_grad_() for x in (hidden, weight, bias)
    ]
    logits = F.linear(*leaves) * logit_scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    weights = options.pop("class_weight")
    weights = None if weights is None else torch.from_numpy(weights.astype(np.float64))
    labels = torch.from_numpy(target)
    kept = (labels != options["ignore_index"]).double()
    kept = kept if sample_weight is None else kept * torch.from_numpy(sample_weight.astype(np.float64))
    count = (kept if weights is None else kept * weights[labels.clamp(0)]).sum() if reduction == "mean" else 1.0
    losses = kept * F.cross_entropy(logits, labels, weights, reduction="none", **options)
    z_losses = z_loss * kept * torch.logsumexp(logits, 1) ** 2
    loss, z_part = (x if reduction == "none" else x.sum() / count for x in (losses + z_losses, z_losses))
    loss.sum().backward()
    results = (z_part, loss, *(leaf if leaf is None else leaf.grad for leaf in leaves))
    return [None if x is None else x.detach().numpy() for x in results]


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
def test_torch(dtype, regime, rng):
    """Random shapes and options, those that make a kernel another one all at once."""
    for trial in range(40):
        n, d, v = (int(rng.integers(1, most)) for most in (400, 40, 90))
        hidden, weight, bias = (rng.normal(size=s).astype(dtype) for s in ((n, d), (v, d), v))
        ignored = int(rng.choice([-100, 0, v // 2]))
        target = np.where(rng.random(n) < 0.2, ignored, rng.integers(0, v, n))
        target[0] = v - 1 if v - 1 != ignored else -100
        if np.all(target == ignored) or np.any((target == -100) & (ignored != -100)):
            continue
        plain = rng.random() < 0.3
        options = {
            "class_weight": None if plain else (rng.random(v) + 0.1).astype(dtype),
            "ignore_index": ignored,
            "label_smoothing": 0.0 if plain else 0.25,
            "sample_weight": None if rng.random() < 0.5 else (rng.random(n) + 0.1).astype(dtype),
            "z_loss": 0.0 if plain else 0.01,
            "logit_scale": 1.0 if rng.random() < 0.5 else 0.6,
            "softcap": None if rng.random() < 0.5 else 3.0,
            "reduction": str(rng.choice(["mean", "sum", "none"])),
        }
        some_bias = bias if rng.random() < 0.7 else None
        z_part, *theirs = of_torch(hidden, weight, some_bias, target, **options)
        ours = linear_cross_entropy_and_grad(hidden, weight, target, bias=some_bias, **options, **regime)
        eps = 1e-12 if dtype == np.float64 else 2e-5
        assert_close(ours, theirs, eps, f"trial {trial}: {n} {d} {v} {options}")
        np.testing.assert_allclose(ours.z_loss, z_part, rtol=eps, atol=eps * options["z_loss"])


def test_as_cross_entropy_of_the_product(case):
    hidden, weight, bias, target = case
    expected = fastce.cross_entropy(hidden @ weight.T + bias, target, label_smoothing=0.1)
    found = linear_cross_entropy(hidden, weight, target, bias=bias, label_smoothing=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


KERNEL_OPTIONS = [name for name in OPTIONS if name not in ("normalizer", "ignored class")]


@pytest.mark.parametrize("confident", [False, True], ids=["random", "confident"])
@pytest.mark.parametrize("options", KERNEL_OPTIONS)
def test_formulas_of_tiles_are_those_of_the_kernels(options, confident, monkeypatch, rng):
    """The identity for weights, so that the logits are ``x`` itself and the kernel sees the same.

    Losses differ by some units in the last place, gradients by some of the greatest in a row: to merge tiles is to
    round differences of maxima, up to 15 here. Seen to fail: with 2 z lse written as z lse, and without the case for
    confident rows.
    """
    x, labels = rng.normal(size=(N, V)), rng.integers(0, V, N)
    if confident:
        x[np.arange(N), labels] += rng.uniform(5, 15, N)
    found = linear_cross_entropy_and_grad(
        x, np.eye(V), labels, reduction="none", **OPTIONS[options], **enter("tiles", monkeypatch)
    )
    renamed = {"weight" if name == "class_weight" else name: value for name, value in OPTIONS[options].items()}
    expected = fastce.cross_entropy_and_grad(x, labels, reduction="none", **renamed)
    assert np.max(np.abs(found.loss - expected.loss) / np.spacing(expected.loss)) <= 32
    greatest = np.max(np.abs(expected.grad), axis=1, keepdims=True)
    assert np.max(np.abs(found.d_hidden - expected.grad) / np.spacing(greatest)) <= 32


def test_confident_rows_keep_their_digits(regime):
    weight = np.full((40, 1), -9.0, np.float32)
    weight[[7, 30]] = [[0.0], [1.0]]
    found = linear_cross_entropy_and_grad(np.float32([[20.0]]), weight, [30], **regime)
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


LEFT_OUT = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "softcap": {"softcap": 2.0, "logit_scale": 3.0},
    "z-loss": {"z_loss": 0.1, "class_weight": np.linspace(0, 1, V)},
    "upstream": {"reduction": "none", "grad_output": np.linspace(1, 2, N)},
}


@pytest.mark.parametrize("junk", [np.nan, np.inf])
@pytest.mark.parametrize("options", LEFT_OUT)
def test_samples_of_weight_0_are_not_looked_at(case, options, junk, regime):
    """All results are those of a call without them, whatever they hold; so is an array that is added to."""
    hidden, weight, bias, target = case
    options = LEFT_OUT[options]
    kept = np.arange(N) % 3 != 1
    sample_weight = np.where(kept, np.linspace(0.5, 2, N), 0.0)
    spoilt = np.where(kept[:, None], hidden, junk)
    of_kept = {name: value[kept] if np.shape(value) == (N,) else value for name, value in options.items()}
    expected = linear_cross_entropy_and_grad(
        hidden[kept], weight, target[kept], bias=bias, sample_weight=sample_weight[kept], **of_kept, **regime
    )
    sums = {"d_weight_out": np.ones_like(weight), "d_bias_out": np.ones_like(bias), "d_hidden_out": np.ones((N, D))}
    for more in ({}, {**sums, "accumulate": True}):
        found = linear_cross_entropy_and_grad(
            spoilt, weight, target, bias=bias, sample_weight=sample_weight, **options, **more, **regime
        )
        before = 1 if more else 0
        np.testing.assert_array_equal(found.loss[kept] if found.loss.ndim else found.loss, expected.loss)
        z_loss = found.z_loss[kept] if found.loss.ndim else found.z_loss
        np.testing.assert_allclose(z_loss, expected.z_loss, rtol=1e-15)
        np.testing.assert_array_equal(found.lse[kept], expected.lse)
        assert np.isnan(found.lse[~kept]).all()
        assert not found.loss.ndim or not found.loss[~kept].any()
        assert np.all(found.d_hidden[~kept] == before)
        for ours, theirs in zip((found.d_hidden[kept], *found[2:]), expected[1:], strict=True):
            np.testing.assert_allclose(ours, theirs + before, rtol=0, atol=1e-15 if not more else 1e-14)


def test_weights_of_0_alone():
    """Nothing is left: the mean of nothing is NaN, or 0 with a normalizer, and the gradients are 0."""
    arrays = np.full((3, 2), np.nan), np.ones((4, 2)), [0, 1, 3]
    options = {"sample_weight": np.zeros(3), "bias": np.ones(4)}
    for more, loss in (({}, np.nan), ({"normalizer": 0.0}, 0.0), ({"normalizer": 5.0}, 0.0), ({"reduction": "sum"}, 0)):
        found = linear_cross_entropy_and_grad(*arrays, **options, **more)
        np.testing.assert_array_equal([found.loss, linear_cross_entropy(*arrays, **options, **more)], loss)
        np.testing.assert_array_equal(found.z_loss, loss)
        assert not any(x.any() for x in found[1:])
        assert np.isnan(found.lse).all()
    with pytest.raises(IndexError, match=r"target\[2\] is 4"):
        linear_cross_entropy(arrays[0], arrays[1], [0, 1, 4], **options)


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


def test_infinite_logits_spoil_their_row_only(regime):
    hidden, weight = np.array([[np.inf], [1.0], [np.nan]]), np.linspace(1, 2, 40)[:, None]
    loss = linear_cross_entropy(hidden, weight, [0, 1, 0], reduction="none", **regime)
    assert np.isnan(loss[[0, 2]]).all()
    np.testing.assert_allclose(loss[1], np.log(np.exp(weight).sum()) - weight[1, 0], rtol=1e-14)


@pytest.mark.parametrize("masked", [slice(0, 25), slice(5, 40)], ids=["first tiles", "last tiles"])
def test_classes_masked_by_their_biases(masked, regime, rng):
    hidden, weight, target = rng.normal(size=(20, 3)), rng.normal(size=(40, 3)), np.full(20, 2 if masked.start else 30)
    bias = np.zeros(40)
    bias[masked] = -np.inf
    left = np.isfinite(bias)
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **regime)
    expected = linear(hidden, weight[left], target - (0 if masked.start else 25), bias=bias[left])
    np.testing.assert_allclose(found.loss, float(expected.loss), rtol=1e-14)
    np.testing.assert_allclose(found.d_weight[left], expected.d_weight.astype(float), rtol=0, atol=1e-14)
    assert not found.d_weight[~left].any()


def test_nothing_but_masked_classes(regime):
    loss = linear_cross_entropy(np.ones((2, 1)), np.ones((40, 1)), [0, 30], bias=np.full(40, -np.inf), **regime)
    assert np.isnan(loss)


def test_tiny_class_weights_sum_to_nothing():
    weights = {"class_weight": [0.0, 0.0]}
    found = linear_cross_entropy_and_grad([[1.0]], [[1.0], [2.0]], [0], **weights)
    assert np.isnan(found.loss)
    assert not found.d_weight.any()
