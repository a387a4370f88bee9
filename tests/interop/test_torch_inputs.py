"""fastce.interop.torch on all inputs that PyTorch's own losses take, and on those that they refuse."""

import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint

import fastce
import fastce.interop.torch as fce
from tests.helpers import in_new_process

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
OPTIONS = {
    "plain": {},
    "weight": {"weight": torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5])},
    "smoothing": {"label_smoothing": 0.1},
    "ignored": {"ignore_index": 2},
    "all": {"weight": torch.tensor([0.5, 1.0, 2.0, 0.25, 1.5]), "label_smoothing": 0.2, "ignore_index": 1},
}
REDUCTIONS = ["mean", "sum", "none"]
EACH_REDUCTION = pytest.mark.parametrize("reduction", REDUCTIONS)


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def labels_for(x, seed=1):
    axis = min(x.ndim - 1, 1)
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    return torch.randint(0, x.shape[axis], shape, generator=torch.Generator().manual_seed(seed))


def soft_for(x, dtype=None):
    return normal(*x.shape, seed=2, dtype=torch.float64).softmax(min(x.ndim - 1, 1)).to(dtype or x.dtype)


def options_in(options, dtype):
    return {key: value.to(dtype) if isinstance(value, torch.Tensor) else value for key, value in options.items()}


def pulled(function, x, *arguments, upstream=None, **options):
    """Return the loss, and the gradient for x times an upstream gradient."""
    x = x.detach().requires_grad_() if x.is_leaf else x
    loss = function(x, *arguments, **options)
    (gradient,) = torch.autograd.grad(loss, x, torch.ones_like(loss) if upstream is None else upstream.to(loss.dtype))
    return loss.detach(), gradient


def wide(x):
    """Return the same numbers in float64."""
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def expected_for(x, *arguments, upstream=None, **options):
    """Return PyTorch's loss and gradient, in float64."""
    options = {key: wide(value) for key, value in options.items()}
    return pulled(F.cross_entropy, wide(x.detach()), *map(wide, arguments), upstream=upstream, **options)


def assert_as_exact_as(actual, expected, dtype, message=""):
    """The results are in this dtype and differ by its rounding, and by some eps of the greatest number."""
    inner = torch.float64 if dtype == torch.float64 else torch.float32
    size = expected[expected.isfinite()].abs().max().item() if expected.isfinite().any() else 0.0
    rounding = torch.finfo(dtype).eps * 0.51 if dtype != inner else 0.0
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    atol = 16 * torch.finfo(inner).eps * max(size, 0.01) + smallest
    assert actual.dtype == dtype, message
    torch.testing.assert_close(
        actual.double(), expected, rtol=rounding, atol=atol, equal_nan=True, msg=lambda text: f"{message}: {text}"
    )


def assert_agrees(x, *arguments, message="", **options):
    """Loss and gradient are PyTorch's; the gradient has a scale, or one for each sample."""
    if options.get("reduction") == "none":
        samples = F.cross_entropy(x.detach().double(), *map(wide, arguments), reduction="none")
        upstream = torch.linspace(-1, 2, samples.numel(), dtype=torch.float64).reshape(samples.shape)
    else:
        upstream = torch.tensor(2.5, dtype=torch.float64)
    ours = pulled(fce.cross_entropy, x, *arguments, upstream=upstream, **options)
    upstream = upstream.to(x.dtype).double()
    for result, expected, name in zip(
        ours, expected_for(x, *arguments, upstream=upstream, **options), ("loss", "gradient"), strict=True
    ):
        assert result.shape == expected.shape
        assert_as_exact_as(result, expected, x.dtype, f"{message} {name}")


# --- dtypes and layouts -------------------------------------------------------------------------


def sliced(x, axis):
    """Return a view with gaps along one axis, full of NaN."""
    double = torch.full([2 * n if i == axis else n for i, n in enumerate(x.shape)], torch.nan, dtype=x.dtype)
    view = double[tuple(slice(1, None, 2) if i == axis else slice(None) for i in range(x.ndim))]
    return view.copy_(x)


LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "every other row": lambda x: sliced(x, 0),
    "every other class": lambda x: sliced(x, 1),
    "channels last": lambda x: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x.t().contiguous().t(),
    "expanded": lambda x: x[:1].expand(x.shape),
    "negated": lambda x: torch._neg_view(-x),
    "a part": lambda x: torch.cat([torch.full((3,), torch.nan, dtype=x.dtype), x.flatten()])[3:].view(x.shape),
}
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
SHAPES = {"rows": (12, 5), "images": (2, 5, 3, 4)}
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@EACH_LAYOUT
@EACH_SHAPE
@EACH_DTYPE
def test_layouts(layout, shape, dtype):
    x = LAYOUTS[layout](normal(*shape, dtype=dtype))
    for name, options in OPTIONS.items():
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


def assert_same(ours, theirs):
    for result, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


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


def test_16_bit_gradients_of_scaled_losses_do_not_underflow():
    """A gradient is rounded once, after it was multiplied with the scale of the loss."""
    x = torch.zeros(2, 1024, dtype=torch.float16, requires_grad=True)
    loss = fce.cross_entropy(x, torch.tensor([0, 1]), reduction="sum")
    (loss / 40_000 * 2**14).backward()
    expected = 2**14 / 40_000 / 1024
    torch.testing.assert_close(x.grad[:, 2:].double(), torch.full((2, 1022), expected).double(), rtol=1e-3, atol=0)


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


# --- the graph ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["target", "weight", "probabilities"])
@EACH_REDUCTION
def test_changes_in_place_are_noticed(name, reduction):
    """Of what the backward pass may read; as in PyTorch."""
    for function in (F.cross_entropy, fce.cross_entropy):
        x = normal(4, 5).requires_grad_()
        changed = {"target": labels_for(x), "weight": torch.ones(5), "probabilities": soft_for(x)}[name]
        target = labels_for(x) if name == "weight" else changed
        loss = function(x, target, changed if name == "weight" else None, reduction=reduction).sum()
        changed.zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@EACH_DTYPE
@EACH_REDUCTION
def test_changes_of_the_input_in_place(dtype, reduction):
    """They are an error, or the gradient is that of the logits before."""
    x = normal(4, 5, dtype=dtype).requires_grad_()
    logits = x * 1
    loss = fce.cross_entropy(logits, labels_for(x), reduction=reduction).sum()
    logits.mul_(2)
    try:
        loss.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert_as_exact_as(x.grad, expected_for(x, labels_for(x), reduction=reduction)[1], dtype)


@EACH_DTYPE
@EACH_REDUCTION
def test_losses_may_change_in_place(dtype, reduction):
    x = normal(4, 5, dtype=dtype)
    gradients = []
    for function in (fce.cross_entropy, F.cross_entropy):
        leaf = x.detach().requires_grad_()
        loss = function(leaf, labels_for(x), reduction=reduction)
        loss /= 4
        loss += 1
        loss.sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@EACH_DTYPE
@EACH_REDUCTION
def test_retained_graphs(dtype, reduction):
    """Each backward pass gives the same, and an array of its own."""
    x = normal(6, 5, dtype=dtype).requires_grad_()
    (expected,) = torch.autograd.grad(fce.cross_entropy(x, labels_for(x), reduction=reduction).sum(), x)
    for factors in ((1, 4, 1), (4, 1, 2), (2, 2, 4)):
        loss = fce.cross_entropy(x, labels_for(x), reduction=reduction).sum()
        for factor in factors:
            (gradient,) = torch.autograd.grad(factor * loss, x, retain_graph=True)
            torch.testing.assert_close(gradient, factor * expected)
            gradient.fill_(7)
        loss.backward()
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


@EACH_DTYPE
def test_gradients_accumulate(dtype):
    x, y = normal(6, 5, dtype=dtype), labels_for(normal(6, 5))
    gradients = []
    for function in (fce.cross_entropy, F.cross_entropy):
        leaf = x.detach().requires_grad_()
        function(leaf, y).backward()
        first = leaf.grad
        function(leaf, y, label_smoothing=0.1).backward()
        assert leaf.grad is first  # added in place
        function(leaf.t().contiguous().t(), y.flip(0), reduction="sum").backward()
        gradients.append(leaf.grad)
    tolerances = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    torch.testing.assert_close(*gradients, **tolerances)


def test_gradients_are_of_their_own():
    """No later call writes a gradient again."""
    x, other = (normal(6, 5, seed=seed).requires_grad_() for seed in (0, 1))
    fce.cross_entropy(x, labels_for(x)).backward()
    before = x.grad.clone()
    fce.cross_entropy(other, labels_for(x)).backward()
    other.grad.fill_(7)
    assert torch.equal(x.grad, before)


def test_several_losses_on_one_graph():
    x, y = normal(6, 5, dtype=torch.float64), labels_for(normal(6, 5))
    gradients = []
    for function in (fce.cross_entropy, F.cross_entropy):
        leaf = x.detach().requires_grad_()
        hidden = torch.tanh(leaf)
        first, second = function(hidden, y), function(hidden[:, :4], y.clamp(max=3), reduction="none")
        (first + (second * torch.arange(6)).sum() + hidden.square().mean() + 2 * first).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_a_part_of_the_losses():
    """Samples whose upstream gradient is 0 have gradient 0."""
    x = normal(6, 5).requires_grad_()
    losses = fce.cross_entropy(x, labels_for(x), reduction="none")
    losses[losses > losses.median()].sum().backward()
    assert (x.grad.abs().sum(1) > 0).sum() == 3


def test_hooks():
    x = normal(6, 5).requires_grad_()
    hidden = 1 * x
    hidden.register_hook(lambda gradient: 2 * gradient)
    hidden.retain_grad()
    fce.cross_entropy(hidden, labels_for(x)).backward()
    torch.testing.assert_close(x.grad, 2 * pulled(F.cross_entropy, x, labels_for(x))[1])
    torch.testing.assert_close(hidden.grad, x.grad)


@EACH_DTYPE
def test_without_gradients(dtype):
    x, y = normal(6, 5, dtype=dtype), labels_for(normal(6, 5))
    expected = fce.cross_entropy(x, y)
    assert not expected.requires_grad
    leaf = x.detach().requires_grad_()
    with torch.no_grad():
        loss = fce.cross_entropy(leaf, y)
    assert not loss.requires_grad and torch.equal(loss, expected)
    with torch.inference_mode():
        loss = fce.cross_entropy(leaf, y)
        assert loss.is_inference() and torch.equal(loss, expected)
        made_here = x.clone(), y.clone()
    assert torch.equal(fce.cross_entropy(made_here[0], y), expected)
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"):
        fce.cross_entropy(leaf, made_here[1])


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_checkpoints_and_anomaly_detection():
    """A checkpoint runs the loss without a graph, and again with one in the backward pass."""
    layer, x = torch.nn.Linear(4, 5), normal(6, 4)
    gradients = []
    for function in (fce.cross_entropy, F.cross_entropy):
        layer.zero_grad()

        def loss(x, function=function):
            return function(layer(x), labels_for(normal(6, 5)), label_smoothing=0.1)

        torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False).backward()
        with torch.autograd.detect_anomaly(check_nan=True), torch.autograd.graph.save_on_cpu():
            loss(x).backward()
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_frozen_logits_beside_probabilities():
    """A target may be the only one that has a gradient."""
    x, raw = normal(4, 5), normal(4, 5, seed=3).requires_grad_()
    gradients = [torch.autograd.grad(f(x, raw.softmax(1)), raw)[0] for f in (fce.cross_entropy, F.cross_entropy)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, kind):
    """Losses are float32 at least, as PyTorch's; gradients have the dtype of the logits."""
    x = normal(12, 5, dtype=dtype)
    for target in (labels_for(x), soft_for(x)):
        results = []
        for function in (fce.cross_entropy, F.cross_entropy):
            leaf = x.detach().requires_grad_()
            with torch.autocast("cpu", dtype=kind):
                loss = function(leaf, target, torch.ones(5) if dtype == torch.float32 else None)
            loss.backward()
            results.append((loss.detach(), leaf.grad))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, **({"rtol": 1e-2, "atol": 1e-3} if ours.dtype == dtype else {}))
            assert ours.dtype == theirs.dtype


def test_autocast_of_a_network():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(8, 5), torch.randn(12, 8)
    gradients = []
    for function in (fce.cross_entropy, F.cross_entropy):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(layer(x), labels_for(torch.zeros(12, 5)))
        assert loss.dtype == torch.float32
        loss.backward()
        gradients.append(layer.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=2e-2, atol=2e-3)


def test_autocast_of_the_last_layer():
    hidden, weight = normal(6, 4).requires_grad_(), normal(5, 4, seed=1).requires_grad_()
    results = []
    for function in (fce.linear_cross_entropy, F.linear_cross_entropy):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(hidden, weight, labels_for(normal(6, 5)))
        results.append((loss, *torch.autograd.grad(loss, (hidden, weight))))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=3e-2, atol=3e-2)


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


# --- processes and threads ----------------------------------------------------------------------


def test_workers_of_a_data_loader():
    """They fork after the loss has run in the parent on all threads, and call it themselves."""
    printed = in_new_process("""
import warnings

import torch
from torch.utils.data import DataLoader, Dataset

from fastce.interop.torch import cross_entropy

warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)

def loss_and_gradient(x, y):
    x = x.detach().requires_grad_()
    loss = cross_entropy(x, y)
    loss.backward()
    return loss.detach(), x.grad

class Samples(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(3000, 10, generator=generator)
        y = torch.randint(0, 10, (3000,), generator=generator)
        return i, x, y, *loss_and_gradient(x, y)

loss_and_gradient(*Samples()[0][1:3])
count = 0
for i, x, y, losses, gradients in DataLoader(Samples(), batch_size=2, num_workers=2, multiprocessing_context="fork"):
    for j in range(len(i)):
        loss, gradient = loss_and_gradient(x[j], y[j])
        assert torch.equal(loss, losses[j]) and torch.equal(gradient, gradients[j])
        count += 1
print(count)
""")
    assert printed.split() == ["8"]


def test_backward_passes_in_several_threads():
    x, y = normal(3000, 10), labels_for(normal(3000, 10))
    expected = pulled(fce.cross_entropy, x, y)

    def run(number):
        for _ in range(10):
            loss, gradient = pulled(fce.cross_entropy, x * (number + 1), y)
        return loss, gradient

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(4)))
    assert_same(results[0], expected)
    for number, result in enumerate(results):
        assert_same(result, pulled(fce.cross_entropy, x * (number + 1), y))


LOSSES = {
    "cross_entropy": fce.cross_entropy,
    "focal_loss": partial(fce.focal_loss, gamma=2.0),
    "linear_cross_entropy": lambda x, y: fce.linear_cross_entropy(x, torch.eye(3), y),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_backward_pass_frees_the_arguments(name):
    """Seen to fail: with arrays of the arguments that are kept for as long as the loss is."""
    x, y = normal(5, 3).requires_grad_(), np.zeros(5, np.int64)
    alive = weakref.ref(y)
    loss = LOSSES[name](x, torch.from_numpy(y))
    del y
    assert alive() is not None
    loss.backward()
    assert alive() is None


def test_one_graph_in_several_threads():
    """Its gradients add up, whoever asks first."""
    x = normal(50, 10, dtype=torch.float64).requires_grad_()
    hidden = 2 * x
    losses = [fce.cross_entropy(hidden, labels_for(x, seed), reduction="sum") for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda loss: loss.backward(retain_graph=True), losses))
    total = sum(F.cross_entropy(2 * x, labels_for(x, seed), reduction="sum") for seed in range(8))
    torch.testing.assert_close(x.grad, torch.autograd.grad(total, x)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_threads_on_one_graph_share_no_gradient(name):
    """Seen to fail: with a gradient that is read and given away in two steps."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(200):
                x = normal(5, 3).requires_grad_()
                loss = LOSSES[name](x, labels_for(x))
                start = Barrier(4)

                def gradient(_, x=x, loss=loss, start=start):
                    start.wait()
                    return torch.autograd.grad(loss, x, retain_graph=True)[0]

                gradients = list(pool.map(gradient, range(4)))
                assert len({gradient.data_ptr() for gradient in gradients}) == 4
    finally:
        sys.setswitchinterval(interval)


def test_shares_no_memory_with_its_results():
    """Losses and gradients stay when the arguments change."""
    x, y = normal(6, 5).requires_grad_(), labels_for(normal(6, 5))
    losses = fce.cross_entropy(x, y, reduction="none")
    losses.sum().backward()
    before = losses.detach().clone(), x.grad.clone()
    with torch.no_grad():
        x.zero_()
    fce.cross_entropy(x, y, reduction="none").sum().backward()
    assert torch.equal(losses, before[0])
    expected = fastce.cross_entropy_and_grad(x.detach().numpy(), y.numpy(), reduction="sum").grad
    torch.testing.assert_close(x.grad - before[1], torch.from_numpy(expected), rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("dim", [(0, 2), (-1, 0), (), [1, 2]], ids=str)
@pytest.mark.parametrize("keepdim", [True, False])
def test_logsumexp_over_several_axes(dim, keepdim):
    """No axis is all, whose gradient is an error in PyTorch."""
    x = normal(2, 3, 4, dtype=torch.float64)
    ours, theirs = pulled(fce.logsumexp, x, dim, keepdim), pulled(torch.logsumexp, x, dim or (0, 1, 2), keepdim)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected)


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
