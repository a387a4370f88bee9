"""fastce.interop.torch on all inputs that PyTorch's own losses take, and on those that they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastce.interop.torch as fce
from tests.interop.torch_helpers import (
    DTYPES,
    EACH_DTYPE,
    EACH_LAYOUT,
    EACH_REDUCTION,
    LAYOUTS,
    REDUCTIONS,
    assert_agrees,
    assert_as_exact_as,
    assert_same,
    expected_for,
    labels_for,
    normal,
    options_in,
    pulled,
    soft_for,
)

OPTIONS = {
    "plain": {},
    "weight": {"weight": torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5])},
    "smoothing": {"label_smoothing": 0.1},
    "ignored": {"ignore_index": 2},
    "all": {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5]), "label_smoothing": 0.2, "ignore_index": 1},
}
SHAPES = {"rows": (12, 5), "images": (2, 5, 3, 4)}
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


# --- dtypes and layouts -------------------------------------------------------------------------


@EACH_LAYOUT
@EACH_SHAPE
@EACH_DTYPE
def test_layouts(layout, shape, dtype):
    """Dtypes but float32 with no option and with all: each combination is kernels that take seconds to compile."""
    x = LAYOUTS[layout](normal(*shape, dtype=dtype))
    for name in OPTIONS if dtype == torch.float32 else ("plain", "all"):
        options = OPTIONS[name]
        for reduction in REDUCTIONS:
            given = {**options_in(options, dtype), "reduction": reduction}
            assert_agrees(x, labels_for(x), message=f"{name} {reduction}", **given)
            if "ignore_index" not in options:
                assert_agrees(x, soft_for(x), message=f"{name} {reduction}, probabilities", **given)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels last"])
@EACH_SHAPE
@EACH_DTYPE
@EACH_REDUCTION
def test_gradients_have_the_layout_of_the_logits(layout, shape, dtype, reduction):
    """Else PyTorch would copy a gradient before it is added up."""
    x = LAYOUTS[layout](normal(*shape, dtype=dtype))
    _, gradient = pulled(fce.cross_entropy, x, labels_for(x), reduction=reduction)
    assert gradient.stride() == x.stride()


@EACH_LAYOUT
@EACH_DTYPE
def test_layouts_of_targets(layout, dtype):
    x = normal(2, 5, 3, 4, dtype=dtype)
    assert_agrees(x, LAYOUTS[layout](soft_for(x)))
    y = labels_for(x)
    assert_agrees(x, y.transpose(1, 2).contiguous().transpose(1, 2))
    assert_agrees(x, torch.repeat_interleave(y, 2, 2)[..., ::2])
    assert_agrees(x, y[:1, :1].expand(2, 3, 4))


@EACH_DTYPE
def test_one_sample_without_a_batch(dtype):
    x = normal(5, dtype=dtype)
    for reduction in REDUCTIONS:
        assert_agrees(x, torch.tensor(3), reduction=reduction)
        assert_agrees(x, soft_for(x), reduction=reduction)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_dtypes_of_labels(kind):
    """PyTorch takes uint8 and int64 alone."""
    x = normal(12, 5)
    y = labels_for(x)
    assert_same(pulled(fce.cross_entropy, x, y.to(kind)), pulled(fce.cross_entropy, x, y))
    assert_same(pulled(fce.cross_entropy, x, F.one_hot(y, 5).to(kind)), pulled(fce.cross_entropy, x, y))
    weight = normal(5, 4, seed=1)
    hidden = normal(12, 4)
    ours = (pulled(fce.linear_cross_entropy, hidden, weight, labels) for labels in (y.to(kind), y))
    assert_same(*ours)


def test_last_layer_of_sequences():
    """PyTorch takes a matrix alone."""
    hidden, weight = normal(2, 3, 4), normal(5, 4, seed=1)
    y = labels_for(normal(6, 5))
    loss, gradient = pulled(fce.linear_cross_entropy, hidden, weight, y.view(2, 3))
    assert_same((loss, gradient.view(6, 4)), pulled(fce.linear_cross_entropy, hidden.view(6, 4), weight, y))


@pytest.mark.parametrize("kind", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_probabilities_of_another_dtype(kind, dtype):
    """The loss has the dtype of the logits, where PyTorch's is promoted."""
    x = normal(12, 5, dtype=dtype)
    target = soft_for(x, kind)
    for result, expected in zip(pulled(fce.cross_entropy, x, target), expected_for(x, target), strict=True):
        assert_as_exact_as(result, expected, dtype)


@EACH_DTYPE
@pytest.mark.parametrize("classes", [1, 3])
@EACH_REDUCTION
def test_empty_batches(classes, dtype, reduction):
    for shape in ((0, classes), (0, classes, 2), (2, classes, 0)):
        x = torch.empty(shape, dtype=dtype)
        for target in (labels_for(x), soft_for(x)):
            assert_same(*(pulled(f, x, target, reduction=reduction) for f in (fce.cross_entropy, F.cross_entropy)))


@EACH_DTYPE
@EACH_REDUCTION
def test_all_samples_ignored(dtype, reduction):
    """A mean is NaN and its gradient 0, as PyTorch has it."""
    x, y = normal(4, 5, dtype=dtype), torch.full((4,), -100)
    assert_same(*(pulled(f, x, y, reduction=reduction) for f in (fce.cross_entropy, F.cross_entropy)))


def test_ignored_samples_leak_nothing():
    """PyTorch's gradient is NaN where an ignored sample is."""
    x = normal(4, 5)
    x[1] = torch.nan
    loss, gradient = pulled(fce.cross_entropy, x, torch.tensor([0, -100, 2, 4]))
    assert loss.isfinite() and not gradient[1].any() and gradient.isfinite().all()


@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 20.0), (torch.float64, 40.0)], ids=str)
def test_confident_samples_keep_their_digits(dtype, gap):
    """PyTorch rounds 1 − p to 0, and the loss with it."""
    x, y = torch.tensor([[gap, 0.0]], dtype=dtype), torch.tensor([0])
    exact = float(np.exp(-gap))
    loss, gradient = pulled(fce.cross_entropy, x, y)
    assert F.cross_entropy(x, y) == 0.0
    np.testing.assert_allclose(loss, exact, rtol=2 * torch.finfo(dtype).eps)
    np.testing.assert_allclose(gradient, [[-exact, exact]], rtol=2 * torch.finfo(dtype).eps)


def test_infinite_logits():
    inf, nan = torch.inf, torch.nan
    x = torch.tensor([[0, -inf, 1], [-inf, 0, 1], [-inf, -inf, -inf], [inf, 0, 0], [nan, 0, 0], [1, 2, 3]])
    y = torch.zeros(6, dtype=torch.long)
    for options in ({}, {"label_smoothing": 0.1}):
        ours, theirs = (pulled(f, x, y, reduction="none", **options) for f in (fce.cross_entropy, F.cross_entropy))
        for result, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(result, expected, equal_nan=True)


def test_infinite_scales_are_noticed():
    """`torch.amp.GradScaler` looks for infinities in gradients."""
    x = normal(4, 5, dtype=torch.float16).requires_grad_()
    (fce.cross_entropy(x, labels_for(x)) * torch.tensor(torch.inf)).backward()
    assert not x.grad.isfinite().any()


# --- errors -------------------------------------------------------------------------------------

X, Y = normal(2, 3), torch.tensor([0, 2])
SOFT = torch.full((2, 3), 1 / 3)
WRONG = {  # arguments, options, the class of PyTorch's error, what our sentence names
    "a list": (([[1.0, 2.0, 3.0]], Y[:1]), {}, TypeError, "input"),
    "an array": ((X.numpy(), Y), {}, TypeError, "input"),
    "no target": ((X, None), {}, TypeError, "target"),
    "a list of labels": ((X, [0, 2]), {}, TypeError, "target"),
    "an array of labels": ((X, Y.numpy()), {}, TypeError, "target"),
    "a list of weights": ((X, Y, [1.0, 2.0, 3.0]), {}, TypeError, "weight"),
    "a scalar": ((X[0, 0], Y[0]), {}, RuntimeError, "input|target"),
    "integers": ((X.long(), Y), {}, RuntimeError, "input"),
    "complex numbers": ((X.cfloat(), Y), {}, RuntimeError, "input"),
    "booleans": ((X.bool(), Y), {}, RuntimeError, "input"),
    "boolean labels": ((X, Y.bool()), {}, RuntimeError, "target"),
    "float labels": ((X, Y.float()), {}, RuntimeError, "target"),
    "integer probabilities": ((X, SOFT.long()), {}, RuntimeError, "target"),
    "labels (N, 1)": ((X, Y[:, None]), {}, RuntimeError, "target"),
    "more labels": ((X, torch.tensor([0, 1, 2])), {}, ValueError, "target"),
    "fewer labels": ((X, Y[:1]), {}, ValueError, "target"),
    "labels of other images": ((normal(2, 3, 4), torch.zeros(2, 5).long()), {}, RuntimeError, "target"),
    "labels without pixels": ((normal(2, 3, 4), Y), {}, RuntimeError, "target"),
    "two labels of a vector": ((X[0], Y), {}, ValueError, "target"),
    "too great a label": ((X, torch.tensor([0, 3])), {}, IndexError, "3"),
    "a negative label": ((X, torch.tensor([0, -1])), {}, IndexError, "-1"),
    "no classes": ((torch.zeros(2, 0), Y), {}, IndexError, "target|label"),
    "weights of other classes": ((X, Y), {"weight": torch.ones(2)}, RuntimeError, "weight"),
    "weights (1, C)": ((X, Y), {"weight": torch.ones(1, 3)}, RuntimeError, "weight"),
    "wider weights": ((X, Y), {"weight": torch.ones(3).double()}, RuntimeError, "weight"),
    "half weights": ((X, Y), {"weight": torch.ones(3).half()}, RuntimeError, "weight"),
    "an unknown reduction": ((X, Y), {"reduction": "max"}, ValueError, "reduction"),
    "another function's reduction": ((X, Y), {"reduction": "batchmean"}, ValueError, "reduction"),
    "no reduction": ((X, Y), {"reduction": None}, ValueError, "reduction"),
    "too much smoothing": ((X, Y), {"label_smoothing": 1.5}, RuntimeError, "label_smoothing"),
    "text for smoothing": ((X, Y), {"label_smoothing": "a"}, TypeError, "label_smoothing"),
    "a fraction to ignore": ((X, Y), {"ignore_index": 1.5}, TypeError, "ignore_index"),
    "None to ignore": ((X, Y), {"ignore_index": None}, TypeError, "ignore_index"),
    "a label to ignore beside probabilities": ((X, SOFT), {"ignore_index": 1}, RuntimeError, "ignore_index"),
    "an unknown option": ((X, Y), {"smoothing": 0.1}, TypeError, "smoothing"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("has_gradient", [True, False])
def test_errors_are_of_torchs_classes(case, has_gradient):
    (x, *rest), options, error, named = WRONG[case]
    if has_gradient and isinstance(x, torch.Tensor) and (x.is_floating_point() or x.is_complex()):
        x = x.detach().requires_grad_()
    with pytest.raises(error):
        F.cross_entropy(x, *rest, **options)
    with pytest.raises(error, match=named) as caught:
        fce.cross_entropy(x, *rest, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300, message
    assert "logits" not in message.replace("with_logits", ""), message  # no argument of this name


META = torch.device("meta")


@pytest.mark.parametrize("name", ["input", "target", "weight"])
def test_other_devices_are_a_type_error(name):
    arguments = {"input": X, "target": Y, "weight": torch.ones(3)}
    arguments[name] = arguments[name].to(META)
    with pytest.raises(TypeError, match=f"{name}.*CPU.*meta"):
        fce.cross_entropy(**arguments)


def test_sparse_tensors_are_refused():
    with pytest.raises((TypeError, RuntimeError), match="input"):
        fce.cross_entropy(X.to_sparse(), Y)


HIDDEN, WEIGHT = normal(2, 4), normal(3, 4)
WRONG_LAYER = {
    "a list": (([[1.0]], WEIGHT, Y), {}, (TypeError, AttributeError), "input"),
    "a list of weights": ((HIDDEN, [[1.0]], Y), {}, (TypeError, AttributeError), "linear_weight"),
    "other features": ((normal(2, 5), WEIGHT, Y), {}, RuntimeError, "input|linear_weight"),
    "another dtype": ((HIDDEN.double(), WEIGHT, Y), {}, RuntimeError, "linear_weight|dtype"),
    "another batch": ((HIDDEN, WEIGHT, Y[:1]), {}, ValueError, "target"),
    "three axes": ((normal(2, 2, 4), WEIGHT, Y), {}, RuntimeError, "input"),
    "too great a label": ((HIDDEN, WEIGHT, torch.tensor([0, 3])), {}, IndexError, "3"),
    "int32 labels": ((HIDDEN, WEIGHT, Y.cfloat()), {}, RuntimeError, "target"),
    "another bias": ((HIDDEN, WEIGHT, Y), {"linear_bias": torch.zeros(4)}, RuntimeError, "linear_bias"),
}


@pytest.mark.parametrize("case", WRONG_LAYER)
def test_errors_of_the_last_layer_are_of_torchs_classes(case):
    arguments, options, error, named = WRONG_LAYER[case]
    with pytest.raises(error):
        F.linear_cross_entropy(*arguments, **options)
    with pytest.raises(error, match=named):
        fce.linear_cross_entropy(*arguments, **options)


# --- the last layer -----------------------------------------------------------------------------


@EACH_DTYPE
@EACH_REDUCTION
def test_last_layer(dtype, reduction):
    """Against float64, where PyTorch rounds the logits of halves."""
    hidden, weight, bias = normal(6, 4, dtype=dtype) / 4, normal(5, 4, dtype=dtype, seed=1) / 4, normal(5, dtype=dtype)
    y = labels_for(normal(6, 5))
    upstream = torch.linspace(0.5, 2, 6) if reduction == "none" else torch.tensor(2.5)
    options = {"reduction": reduction, "label_smoothing": 0.1, "ignore_index": 3}
    results = []
    for function, kind in ((fce.linear_cross_entropy, dtype), (F.linear_cross_entropy, torch.float64)):
        leaves = [part.detach().to(kind).requires_grad_() for part in (hidden, weight, bias)]
        loss = function(*leaves[:2], y, linear_bias=leaves[2], weight=torch.linspace(0.5, 2, 5).to(kind), **options)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaves, upstream.to(kind))))
    eps = torch.finfo(dtype).eps
    for ours, expected in zip(*results, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), expected, rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_last_layer_with_frozen_parts(frozen):
    parts = [normal(6, 4), normal(5, 4, seed=1), normal(5, seed=2)]
    y, gradients = labels_for(normal(6, 5)), []
    for function in (fce.linear_cross_entropy, F.linear_cross_entropy):
        leaves = [part.detach().requires_grad_(i != frozen) for i, part in enumerate(parts)]
        function(*leaves[:2], y, linear_bias=leaves[2]).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for i, (ours, theirs) in enumerate(zip(*gradients, strict=True)):
        if i == frozen:
            assert ours is theirs is None
        else:
            torch.testing.assert_close(ours, theirs)


# --- the other functions ------------------------------------------------------------------------

FAMILY = {
    "softmax": (fce.softmax, torch.softmax),
    "log_softmax": (fce.log_softmax, torch.log_softmax),
    "logsumexp": (fce.logsumexp, torch.logsumexp),
}
EACH_OF_FAMILY = pytest.mark.parametrize("name", FAMILY)


@EACH_OF_FAMILY
@EACH_LAYOUT
@EACH_DTYPE
def test_softmax_family(name, layout, dtype):
    ours, theirs = FAMILY[name]
    x = LAYOUTS[layout](normal(2, 5, 3, 4, dtype=dtype))
    for dim in (0, 1, -1):
        upstream = normal(*theirs(x, dim).shape, dtype=dtype, seed=3)
        result = pulled(ours, x, dim, upstream=upstream)
        expected = pulled(theirs, x.detach().double(), dim, upstream=upstream)
        for actual, wanted in zip(result, expected, strict=True):
            eps = torch.finfo(dtype).eps
            assert actual.dtype == dtype
            torch.testing.assert_close(actual.double(), wanted, rtol=4 * eps, atol=16 * eps)


@EACH_OF_FAMILY
def test_corners_of_the_softmax_family(name):
    ours, theirs = FAMILY[name]
    for x in (torch.tensor(2.0), torch.empty(0, 3), torch.empty(3, 0, 2), torch.tensor([[torch.inf, 1.0]])):
        for dim in (0, -1):
            if name == "logsumexp" and x.ndim == 3 and dim == 0:
                continue
            assert_same(*(pulled(function, x, dim) for function in (ours, theirs)))
    x = normal(3, 4)
    for wrong, error in ((2, IndexError), (-3, IndexError), ("a", TypeError)):
        for function in (ours, theirs):
            with pytest.raises(error):
                function(x, wrong)
    with pytest.raises(TypeError, match="CPU"):
        ours(x.to(META), 0)
    with pytest.raises(TypeError, match="input"):
        ours(x.numpy(), 0)


@EACH_LAYOUT
@EACH_DTYPE
def test_focal_loss_without_focus_is_cross_entropy(layout, dtype):
    x = LAYOUTS[layout](normal(2, 5, 3, 4, dtype=dtype))
    y = labels_for(x)
    for actual, expected in zip(pulled(fce.focal_loss, x, y, gamma=0.0), expected_for(x, y), strict=True):
        assert_as_exact_as(actual, expected, dtype)


@EACH_LAYOUT
@EACH_DTYPE
@EACH_REDUCTION
def test_kl_divergence(layout, dtype, reduction):
    x, teacher = LAYOUTS[layout](normal(12, 5, dtype=dtype)), normal(12, 5, dtype=dtype, seed=4)

    def theirs(x, teacher):
        log_p, log_q = ((logits / 2).log_softmax(1) for logits in (x, teacher))
        losses = F.kl_div(log_p, log_q, log_target=True, reduction="none").sum(1)
        return {"mean": losses.mean(), "sum": losses.sum(), "none": losses}[reduction]

    ours = pulled(fce.kl_divergence, x, teacher, temperature=2.0, reduction=reduction)
    for actual, expected in zip(ours, pulled(theirs, x.detach().double(), teacher.double()), strict=True):
        assert_as_exact_as(actual, expected, dtype)
