"""Second derivatives of cross-entropy: the Hessian's diagonal and its product with a vector."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn._loss import HalfMultinomialLoss

import fastce
from fastce import cross_entropy_grad_and_hessian, cross_entropy_hvp
from tests.helpers import (
    SIZES,
    WIDE,
    assert_same_bits,
    assert_within,
    finfo,
    labels_for,
    logits,
    name_of,
    shapes_and_dtypes,
    soft_for,
)
from tests.oracle import reference
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS
from tests.oracle.reference import real
from tests.oracle.reference_losses import grad_and_hessian as expected
from tests.oracle.reference_losses import hessian_product as product

SHAPES = [(1, 1), (17, 10), (33, 32), (9, 33), (17, 100), (3, 2600), (5003, 10), (37, 1031)]
KINDS = pytest.mark.parametrize("kind", ["indices", "probabilities"])


def target_for(rng, kind, shape, axis=-1):
    return labels_for(rng, shape, axis) if kind == "indices" else reference.softmax(rng.normal(size=shape), axis)


# --- gradient and diagonal -----------------------------------------------------


@KINDS
@shapes_and_dtypes(SHAPES)
def test_against_the_definition(rng, shape, dtype, kind):
    x = logits(rng, shape, dtype)
    target = target_for(rng, kind, shape)
    u = rng.random(shape[0]) if shape[0] > 3 else None
    if kind == "probabilities":
        target = target.astype(np.float64)
    before = x.copy()
    options = {"sample_weight": u, "hessian_scale": 2.0}
    result = assert_matches_oracle("cross_entropy_grad_and_hessian", x, target, **options)
    assert result._fields == ("grad", "hessian")
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("classes", [2, 40])
def test_confident_samples_keep_their_digits(classes, dtype):
    x = np.zeros((4, classes), dtype)
    x[:, 1] = [10, 20, 30, 45]
    grad, hessian = cross_entropy_grad_and_hessian(x, np.ones(4, int))
    grads, hessians, _ = expected(x, np.ones(4, int), None)
    assert (hessians > 0).all()
    assert_within(grad, grads, 8)
    assert_within(hessian, hessians, 8)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("weighted", [False, True])
def test_against_scikit_learn(rng, dtype, weighted):
    x = logits(rng, (200, 7), dtype)
    y = labels_for(rng, x.shape)
    u = rng.random(200).astype(dtype) if weighted else None
    grad, hessian = HalfMultinomialLoss(n_classes=7).gradient_hessian(y.astype(dtype), x, sample_weight=u)
    got = cross_entropy_grad_and_hessian(x, y, sample_weight=u)
    np.testing.assert_allclose(got.grad, grad, rtol=0, atol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(got.hessian, hessian, rtol=0, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("classes", [5, 40])
def test_against_torch(rng, classes):
    """The diagonal of the Hessian that automatic differentiation finds."""
    x, y = logits(rng, (3, classes), spread=1), labels_for(rng, (3, classes))
    got = cross_entropy_grad_and_hessian(x, y)
    for row, label, diagonal in zip(torch.tensor(x), torch.tensor(y), got.hessian, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda z, label=label: torch.nn.functional.cross_entropy(z, label), row
        )
        np.testing.assert_allclose(diagonal, hessian.diagonal().numpy(), rtol=1e-12, atol=1e-15)


@KINDS
@pytest.mark.parametrize("classes", [6, 60])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_layouts(rng, name, classes, dtype, kind):
    x = logits(rng, (3, 4, classes), dtype)
    target = target_for(rng, kind, x.shape).astype(np.int64 if kind == "indices" else np.float64)
    want = cross_entropy_grad_and_hessian(x, target)
    got = cross_entropy_grad_and_hessian(LAYOUTS[name](x), LAYOUTS[name](target))
    assert_same_bits(got.hessian, want.hessian)
    # other kernels give the gradient of classes that are not last
    size = expected(x, target, None)[2] if kind == "probabilities" else real(want.grad)
    assert_within(got.grad, real(want.grad), 8, dtype, scale=size)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axes(rng, axis):
    x, y = logits(rng, (5, 40, 6), np.float32), labels_for(rng, (5, 40, 6), axis)
    u = rng.random(y.shape)
    grad, hessian = cross_entropy_grad_and_hessian(x, y, axis=axis, sample_weight=u)
    grads, hessians, _ = expected(np.moveaxis(x, axis, -1), y, u)
    assert_within(grad, np.moveaxis(grads, -1, axis), 16)
    assert_within(hessian, np.moveaxis(hessians, -1, axis), 16)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("size", [8, 50])
def test_out(rng, axis, size):
    x, y = logits(rng, (size, size), np.float32), labels_for(rng, (size, size))
    want = cross_entropy_grad_and_hessian(x, y, axis=axis)
    hessian = np.full_like(x, np.nan)
    got = cross_entropy_grad_and_hessian(x, y, axis=axis, out=x, hessian_out=hessian)
    assert got.grad is x
    assert got.hessian is hessian
    assert_same_bits(got.grad, want.grad)
    assert_same_bits(got.hessian, want.hessian)
    pair = np.full((size, size, 2), np.nan, np.float32)
    got = cross_entropy_grad_and_hessian(
        logits(np.random.default_rng(20240), (size, size), np.float32), y, axis=axis, out=pair[..., 0],
        hessian_out=pair[..., 1],
    )  # fmt: skip
    assert_within(pair[..., 0], real(want.grad), 8)  # staged: other kernels than those of neighbouring samples
    assert_same_bits(pair[..., 1], want.hessian)


@pytest.mark.parametrize("classes", [3, 40])
def test_special_samples(rng, classes):
    x = logits(rng, (5, classes), np.float32)
    x[0, 1] = np.nan
    x[1, 1] = np.inf
    x[2] = -np.inf
    x[3, 1] = -np.inf
    result = cross_entropy_grad_and_hessian(x, np.zeros(5, int))
    for array in result:
        assert np.isnan(array[:3]).all()
        assert np.isfinite(array[3:]).all()
        assert array[3, 1] == 0


def test_one_class_and_empty():
    grad, hessian = cross_entropy_grad_and_hessian(np.ones((3, 1)), [0, 0, 0])
    assert not grad.any()
    assert not hessian.any()
    for shape, labels in (((0, 3), 0), ((0, 0), 0)):
        result = cross_entropy_grad_and_hessian(np.empty(shape), np.empty(labels, int))
        assert [a.shape for a in result] == [shape] * 2
    with pytest.raises(IndexError, match=r"target\[0\] is 0, expected no class index, as there are no classes"):
        cross_entropy_grad_and_hessian(np.empty((2, 0)), [0, 0])


def test_integers():
    result = cross_entropy_grad_and_hessian([[1, 2, 3]], np.array([2], np.uint8))
    assert [a.dtype for a in result] == [np.float64] * 2


def test_errors():
    x, y = np.zeros((2, 3)), np.array([0, 1])
    out, hessian = np.ones((2, 3)), np.ones((2, 3))
    options = {"out": out, "hessian_out": hessian}
    for label in (-1, 3, -(2**63)):
        message = rf"target\[1\] is {label}, expected a class index from 0 to 2 or ignore_index -100$"
        with pytest.raises(IndexError, match=message):
            cross_entropy_grad_and_hessian(x, np.array([0, label]), **options)
    with pytest.raises(TypeError, match="hessian_scale must be a real number"):
        cross_entropy_grad_and_hessian(x, y, hessian_scale="2", **options)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(2,\)"):
        cross_entropy_grad_and_hessian(x, y, sample_weight=[1.0], **options)
    with pytest.raises(ValueError, match=r"hessian_out must have shape \(2, 3\) and dtype float64, got shape \(2, 2\)"):
        cross_entropy_grad_and_hessian(x, y, out=out, hessian_out=np.ones((2, 2)))
    with pytest.raises(TypeError, match="hessian_out must be a NumPy array, got list"):
        cross_entropy_grad_and_hessian(x, y, out=out, hessian_out=[1])
    with pytest.raises(ValueError, match="hessian_out must not share memory with logits"):
        cross_entropy_grad_and_hessian(x, y, hessian_out=x)
    with pytest.raises(ValueError, match="hessian_out must not share memory with out"):
        cross_entropy_grad_and_hessian(x, y, out=out, hessian_out=out)
    with pytest.raises(ValueError, match="hessian_out must not share memory with target"):
        cross_entropy_grad_and_hessian(x, out, hessian_out=out)
    assert (out == 1).all()
    assert (hessian == 1).all()


OPTIONS = {"weight": np.linspace(0.5, 2, 40), "label_smoothing": 0.1, "sample_weight": np.linspace(0, 2, 20)}


@KINDS
@pytest.mark.parametrize("names", [("weight",), ("label_smoothing",), tuple(OPTIONS)], ids=str)
def test_options_against_torch(rng, names, kind):
    """The diagonal of the whole Hessian that automatic differentiation finds."""
    x, target = logits(rng, (20, 40), spread=1), target_for(rng, kind, (20, 40))
    options = {name: OPTIONS[name] for name in names}
    u = torch.tensor(options.get("sample_weight", np.ones(20)))
    more = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items() if k != "sample_weight"}
    if kind == "indices":
        target[::4] = -100
    target = target if kind == "indices" else target.astype(np.float64)

    def losses(z):
        return (u * torch.nn.functional.cross_entropy(z, torch.tensor(target), reduction="none", **more)).sum()

    z = torch.tensor(x, requires_grad=True)
    hessian = torch.autograd.functional.hessian(losses, z).reshape(x.size, x.size).diagonal().numpy().reshape(x.shape)
    gradient = torch.autograd.grad(losses(z), z)[0].numpy()
    got = cross_entropy_grad_and_hessian(x, target, **options)
    np.testing.assert_allclose(got.grad, gradient, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(got.hessian, hessian, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("classes", [5, 40])
def test_what_does_not_count_is_0(rng, classes):
    """Seen to fail: with the NaN of a product of 0 and NaN in the Hessian."""
    x = np.full((4, classes), np.nan)
    x[3] = 0
    weight = np.ones(classes)
    weight[1] = 0
    got = cross_entropy_grad_and_hessian(x, [-100, 2, 1, 3], weight=weight, sample_weight=[1, 0, 1, 1])
    assert not got.grad[0].any()
    assert not got.hessian[:3].any()
    assert np.isfinite(got.hessian).all()
    got = cross_entropy_grad_and_hessian(x, [4, 2, 4, 3], ignore_index=4)
    assert not got.grad[[0, 2]].any()
    assert not got.hessian[[0, 2]].any()
    assert np.isnan(got.hessian[1]).all()


# --- the product with a vector -------------------------------------------------


@KINDS
@shapes_and_dtypes(SHAPES)
def test_product_against_the_formula(rng, shape, dtype, kind):
    x, v = logits(rng, shape, dtype), rng.normal(size=shape).astype(dtype)
    target = target_for(rng, kind, shape)
    if kind == "indices" and len(target) > 3:
        target[::4] = -100
    target = target if kind == "indices" else target.astype(np.float64)
    options = {"weight": rng.random(shape[1]), "sample_weight": rng.random(shape[0]), "label_smoothing": 0.2}
    before = x.copy(), v.copy()
    assert_matches_oracle("cross_entropy_hvp", x, target, v, **options)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(v, before[1])


@KINDS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_product_against_torch(rng, kind, reduction):
    x, v = logits(rng, (20, 6)), rng.normal(size=(20, 6))
    target = target_for(rng, kind, x.shape)
    target = target if kind == "indices" else target.astype(np.float64)
    weight = rng.random(6)

    def loss(z):
        options = {"weight": torch.tensor(weight), "label_smoothing": 0.1}
        each = torch.nn.functional.cross_entropy(z, torch.tensor(target), reduction=reduction, **options)
        return each.sum()

    _, want = torch.autograd.functional.hvp(loss, torch.tensor(x), torch.tensor(v))
    got = cross_entropy_hvp(x, target, v, weight=weight, label_smoothing=0.1, reduction=reduction)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("classes", [6, 60])
def test_product_is_the_derivative_of_the_gradient(rng, classes):
    x, v, y = logits(rng, (5, classes), spread=1), rng.normal(size=(5, classes)), labels_for(rng, (5, classes))
    options = {"weight": rng.random(classes), "sample_weight": rng.random(5)}
    step = 1e-5
    high, low = (fastce.cross_entropy_and_grad(x + s * v, y, **options).grad for s in (step, -step))
    np.testing.assert_allclose(cross_entropy_hvp(x, y, v, **options), (high - low) / (2 * step), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("classes", [5, 40])
def test_product_of_confident_samples_keeps_its_digits(classes):
    x = np.zeros((3, classes), np.float32)
    x[:, 1] = [20, 30, 45]
    v = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    want, _ = product(x, np.zeros(3, int), v)
    assert_within(cross_entropy_hvp(x, np.zeros(3, int), v), want, 20)


@pytest.mark.parametrize("classes", [6, 60])
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("dtype", SIZES, ids=name_of)
def test_product_layouts_give_the_same_bits(rng, name, classes, dtype):
    x, v = (rng.normal(size=(3, 4, classes)).astype(dtype) for _ in range(2))
    y = labels_for(rng, x.shape)
    want = cross_entropy_hvp(x, y, v)
    assert_same_bits(cross_entropy_hvp(LAYOUTS[name](x), LAYOUTS[name](y), v), want)
    assert_same_bits(cross_entropy_hvp(x, y, LAYOUTS[name](v)), want)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_product_axes_and_out(rng, axis):
    x, v = (rng.normal(size=(5, 40, 6)).astype(np.float32) for _ in range(2))
    y = labels_for(rng, x.shape, axis)
    want = cross_entropy_hvp(np.moveaxis(x, axis, -1).copy(), y, np.moveaxis(v, axis, -1).copy())
    for place in (None, 0, 1):
        arrays = [x.copy(), v.copy()]
        out = None if place is None else arrays[place]
        got = cross_entropy_hvp(arrays[0], y, arrays[1], axis=axis, out=out)
        assert out is None or got is out
        assert_same_bits(got, np.moveaxis(want, -1, axis))


@pytest.mark.parametrize("classes", [3, 40])
def test_product_of_what_does_not_count_is_0(rng, classes):
    x, v = np.full((3, classes), np.nan), rng.normal(size=(3, classes))
    x[2] = 0
    got = cross_entropy_hvp(x, [-100, 1, 1], v, sample_weight=[1, 0, 1])
    assert not got[:2].any()
    assert np.isfinite(got).all()
    assert not cross_entropy_hvp(x, [-100] * 3, v).any()
    assert np.isnan(cross_entropy_hvp(x, [-100, 1, 1], v)[1]).all()


@KINDS
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_product_with_an_upstream_gradient(rng, reduction, kind):
    """Seen to fail: as there was no way to give one."""
    x, v, target = logits(rng, (20, 6)), rng.normal(size=(20, 6)), target_for(rng, kind, (20, 6))
    target = target if kind == "indices" else target.astype(np.float64)
    options = {"weight": rng.random(6), "sample_weight": rng.random(20), "reduction": reduction}
    want = cross_entropy_hvp(x, target, v, **options)
    for factor in (-2.0, np.float32(0.5), [3.0] * 20 if reduction == "none" else 3):
        factors = np.reshape(factor, (-1, 1))
        got = cross_entropy_hvp(x, target, v, grad_output=factor, **options)
        np.testing.assert_allclose(got, want * factors, rtol=1e-14)
    if reduction == "none":
        g = rng.normal(size=20)
        got = cross_entropy_hvp(x, target, v, grad_output=g, **options)
        np.testing.assert_allclose(got, want * g[:, None], rtol=1e-14)
        x[3] = np.nan
        g[3] = 0
        assert not cross_entropy_hvp(x, target, v, grad_output=g, **options)[3].any()
    with pytest.raises(ValueError, match="grad_output"):
        cross_entropy_hvp(x, target, v, grad_output=[1.0, 2.0], **options)


def test_product_empty():
    assert cross_entropy_hvp(np.empty((0, 3)), np.empty(0, int), np.empty((0, 3))).shape == (0, 3)
    assert cross_entropy_hvp(np.empty((2, 0)), np.empty((2, 0)), np.empty((2, 0))).shape == (2, 0)


def test_product_errors():
    x, y = np.zeros((2, 3)), np.array([0, 3])
    out = np.ones((2, 3))
    with pytest.raises(IndexError, match=r"target\[1\] is 3, expected a class index from 0 to 2 or ignore_index -100"):
        cross_entropy_hvp(x, y, x, out=out)
    with pytest.raises(ValueError, match=r"v must have the shape of logits, \(2, 3\), got \(3,\)"):
        cross_entropy_hvp(x, [0, 1], np.zeros(3), out=out)
    with pytest.raises(TypeError, match="v must hold real numbers"):
        cross_entropy_hvp(x, [0, 1], x * 1j, out=out)
    assert (out == 1).all()
    memory = np.zeros((3, 3))
    with pytest.raises(ValueError, match="out must not overlap v, unless it is the very same array"):
        cross_entropy_hvp(x, [0, 1], memory[1:], out=memory[:2])


@KINDS
@given(
    shape=st.sampled_from([(4, 3), (3, 35), (2, 600)]),
    dtype=st.sampled_from(SIZES),
    spread=st.floats(0.0, 8.0),
    smoothing=st.floats(0.0, 1.0),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    weighted=st.tuples(st.booleans(), st.booleans()),
    ignored=st.sampled_from([-100, 0]),
    seed=st.integers(0, 10),
)
def test_any_options(kind, shape, dtype, spread, smoothing, reduction, weighted, ignored, seed):
    rng = np.random.default_rng(seed)
    x, v = logits(rng, shape, dtype, spread), rng.normal(size=shape).astype(dtype)
    target = labels_for(rng, shape) if kind == "indices" else soft_for(rng, shape)
    if kind == "indices":
        target[0] = 1  # not all are ignored
    options = {
        "weight": rng.random(shape[1]) if weighted[0] else None,
        "sample_weight": rng.random(shape[0]) if weighted[1] else None,
        "label_smoothing": smoothing,
        "ignore_index": ignored,
        "reduction": reduction,
    }
    got = assert_matches_oracle("cross_entropy_hvp", x, target, v, **options)
    _, size = product(x, target, v, **options)
    assert np.abs(got.astype(np.float64).sum(-1)).max() <= 100 * float(finfo(dtype).eps) * float(size.sum(-1).max())
