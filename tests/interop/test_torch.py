"""Derivatives of the functions for torch: by torch's checks, in its graph, its compiler and its transforms."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.nn import functional as F
from torch.testing._internal.two_tensor import TwoTensor

from fastce.interop import torch as fce
from fastce.interop import torch_formulas as formulas
from fastce.interop import torch_ops

REDUCTIONS = "mean", "sum", "none"
INDUCTOR = pytest.param(
    "inductor",
    marks=pytest.mark.skipif(
        not (shutil.which("g++") or shutil.which("clang++")), reason="torch's compiler needs one for C++: install g++"
    ),
)


def randn(*shape, dtype=torch.float64, requires_grad=True, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(requires_grad)


X, WEIGHT, LABELS = randn(4, 5), randn(5, requires_grad=False).abs(), torch.tensor([1, -100, 4, 0])
PROBS = randn(4, 5, seed=1).detach().softmax(1)
IMAGES, PIXELS = randn(2, 5, 1, 2), torch.tensor([[[0, -100]], [[4, 2]]])
VECTOR = randn(5)
HIDDEN, LINEAR, BIAS = randn(4, 3), randn(5, 3), randn(5, seed=4)
CASES = [(X, LABELS), (X, PROBS), (IMAGES, PIXELS), (VECTOR, torch.tensor(2))]
CASE_NAMES = ["labels", "probabilities", "images", "vector"]
OPTIONS = [
    {},
    {"weight": WEIGHT},
    {"label_smoothing": 0.1},
    {"weight": WEIGHT, "label_smoothing": 0.1},
    {"z_loss": 0.1},
    {"weight": WEIGHT, "z_loss": 0.1, "logit_scale": 0.5, "softcap": 2.0},
]
OPTION_NAMES = ["plain", "weight", "smoothing", "both", "z", "all"]
by_case = pytest.mark.parametrize("x, target", CASES, ids=CASE_NAMES)
by_option = pytest.mark.parametrize("options", OPTIONS, ids=OPTION_NAMES)
by_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def is_torchs(options):
    return options.keys().isdisjoint(("z_loss", "logit_scale", "softcap"))


def check(function, *inputs):
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


# --- cross-entropy ------------------------------------------------------------------------------


@by_case
@by_option
@by_reduction
def test_cross_entropy(x, target, options, reduction):
    """Seen to fail: with the product with the Hessian given no upstream gradient."""

    def loss(z):
        return fce.cross_entropy(z, target, reduction=reduction, **options)

    if is_torchs(options):
        torch.testing.assert_close(loss(x), F.cross_entropy(x, target, reduction=reduction, **options))
    check(loss, x)


@by_option
@by_reduction
def test_gradient_of_probabilities(options, reduction):
    probs = PROBS.clone().requires_grad_()
    check(lambda x, p: fce.cross_entropy(x, p, reduction=reduction, **options), X, probs)


@by_case
@by_option
@by_reduction
def test_formula(x, target, options, reduction):
    """What torch differentiates again is the same loss."""
    options = {"reduction": reduction, **options}
    loss = fce.cross_entropy(x, target, **options)
    weight = options.pop("weight", None)
    torch.testing.assert_close(formulas.cross_entropy(x, target, weight, **options), loss)


def test_third_derivative():
    v = randn(5, seed=2, requires_grad=False)

    def third(function):
        x = VECTOR.detach().requires_grad_()
        derivative = function(x, torch.tensor(1))
        for _ in range(3):
            (derivative,) = torch.autograd.grad(
                (derivative * v).sum() if derivative.ndim else derivative, x, create_graph=True
            )
        return derivative

    torch.testing.assert_close(third(fce.cross_entropy), third(F.cross_entropy))


def test_a_target_made_from_the_logits():
    """Derivatives of second order are partial where one input is made from another."""

    def second(function):
        x = X.detach().requires_grad_()
        (g,) = torch.autograd.grad(function(x, x.softmax(1)), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), x)[0]

    torch.testing.assert_close(second(fce.cross_entropy), second(F.cross_entropy))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_backward_twice(dtype, reduction):
    """The second time as the first, for any factor, and torch's gradient of float64, rounded once.

    Seen to fail: with gradients of bfloat16 multiplied.
    """
    for factor in 1.0, 3.0:
        x = randn(64, 10, dtype=dtype)
        loss = factor * fce.cross_entropy(x, torch.arange(64) % 10, reduction=reduction).sum()
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(loss, x)
        torch.testing.assert_close(first, second)
        assert dtype.itemsize > 2 or torch.equal(first, second)  # rounded once
        assert first.dtype is dtype
        (expected,) = torch.autograd.grad(
            factor * F.cross_entropy(z := x.double(), torch.arange(64) % 10, reduction=reduction).sum(), z
        )
        torch.testing.assert_close(first, expected.to(dtype))


def test_small_gradients_of_float16():
    """They are multiplied by the upstream gradient before they are rounded.

    Seen to fail: with one pass for float16.
    """
    x = torch.zeros(4096, 10, dtype=torch.float16, requires_grad=True)
    (g,) = torch.autograd.grad(fce.cross_entropy(x, torch.zeros(4096, dtype=int)) * 2.0**14, x)
    np.testing.assert_array_equal(g[:, 1].float().numpy(), np.float16(0.4))


def test_gradient_of_weights_is_torchs():
    weight = WEIGHT.clone().requires_grad_()
    check(lambda w: fce.cross_entropy(X.detach(), PROBS, w), weight)


# --- transforms -----------------------------------------------------------------------------


@pytest.mark.parametrize("x, target", [*CASES[:3], (VECTOR, torch.tensor(2)), (VECTOR, PROBS[0])])
@pytest.mark.parametrize("options", OPTIONS[:5], ids=OPTION_NAMES[:5])
@by_reduction
def test_transforms(x, target, options, reduction):
    """Per-sample gradients and jacobians are those of one batch after the other."""
    xs, targets = torch.stack([x.detach(), x.detach().flip(0)]), torch.stack([target, target])
    options = {"reduction": reduction, **options}

    def loss(x, t):
        return fce.cross_entropy(x, t, **options)

    def formula(x, t):
        weight = options.get("weight")
        return formulas.cross_entropy(x, t, weight, **{k: v for k, v in options.items() if k != "weight"})

    def squares(function):
        return lambda x, t: function(x, t).square().sum()

    for transform in (
        vmap,
        lambda f: grad(squares(vmap(f))),
        lambda f: vmap(grad(squares(f))),
        lambda f: vmap(jacrev(f)),
        lambda f: vmap(jacrev(grad(squares(f)))),
    ):
        torch.testing.assert_close(transform(loss)(xs, targets), transform(formula)(xs, targets))
    for in_dims, arguments in (((0, None), (xs, target)), ((None, 0), (x.detach(), targets))):
        torch.testing.assert_close(vmap(loss, in_dims)(*arguments), vmap(formula, in_dims)(*arguments))
    if target.is_floating_point():
        of_both = vmap(grad(squares(loss), argnums=(0, 1)))(xs, targets)
        torch.testing.assert_close(of_both, vmap(grad(squares(formula), argnums=(0, 1)))(xs, targets))


def test_vmap_over_weights():
    weights = torch.stack([WEIGHT, WEIGHT.flip(0)])
    x = X.detach()
    for function in fce.cross_entropy, lambda x, t, w: F.cross_entropy(x, t, w):
        losses = vmap(function, (None, None, 0))(x, LABELS, weights)
        gradients = vmap(grad(function), (None, None, 0))(x, LABELS, weights)
        for w, loss, gradient in zip(weights, losses, gradients, strict=True):
            torch.testing.assert_close(loss, F.cross_entropy(x, LABELS, w))
            torch.testing.assert_close(gradient, grad(F.cross_entropy)(x, LABELS, w))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # in torch
def test_forward_mode():
    v = randn(4, 5, seed=3, requires_grad=False)
    x = X.detach()
    of_loss = jvp(lambda x: fce.cross_entropy(x, LABELS), (x,), (v,))
    torch.testing.assert_close(of_loss, jvp(lambda x: F.cross_entropy(x, LABELS), (x,), (v,)))
    torch.testing.assert_close(
        hessian(lambda x: fce.cross_entropy(x, LABELS))(x), hessian(lambda x: F.cross_entropy(x, LABELS))(x)
    )


# --- compilation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none", "label_smoothing": 0.1}, {"z_loss": 0.1, "softcap": 2.0}]
)
@pytest.mark.parametrize(
    "x, target, weight",
    [
        (X.float(), LABELS, None),
        (X.bfloat16(), LABELS, WEIGHT),
        (X, PROBS.clone().requires_grad_(), WEIGHT),
        (IMAGES.to(memory_format=torch.channels_last), PIXELS, None),
        (VECTOR, torch.tensor(2), None),
        (X.T, torch.arange(5) % 4, None),
    ],
)
def test_operator(x, target, weight, options):
    opcheck(torch_ops._forward, (x.detach().requires_grad_(), target, weight), options)


@pytest.mark.parametrize("options", [{}, {"reduction": "none", "label_smoothing": 0.1}, {"max_bytes": 1 << 16}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_operator_of_a_layer(dtype, options):
    layer = [x.detach().to(dtype).requires_grad_() for x in (HIDDEN, LINEAR, BIAS)]
    opcheck(torch_ops.linear_cross_entropy, (*layer, LABELS, WEIGHT), options)
    opcheck(torch_ops.linear_cross_entropy, (*layer[:2], None, LABELS, None), options)


FUNCTIONS = {
    "cross_entropy": partial(fce.cross_entropy, target=LABELS, reduction="none"),
    "cross_entropy, soft": partial(fce.cross_entropy, target=PROBS),
    "cross_entropy, z_loss": partial(fce.cross_entropy, target=LABELS, z_loss=0.1),
    "focal_loss": partial(fce.focal_loss, target=LABELS, gamma=2.0),
    "kl_divergence": partial(fce.kl_divergence, target=PROBS),
    "linear_cross_entropy": partial(fce.linear_cross_entropy, linear_weight=X.detach().mT @ X.detach(), target=LABELS),
    "softmax": partial(fce.softmax, dim=1),
    "log_softmax": partial(fce.log_softmax, dim=1),
    "logsumexp": partial(fce.logsumexp, dim=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_batches_of_upstream_gradients(name):
    """They have no memory that fastce could read."""

    def function(x):
        return FUNCTIONS[name](x)

    x = X.detach()
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian
    torch.testing.assert_close(jacobian(function, x, vectorize=True), jacobian(function, x))
    of_sum = hessian(lambda x: function(x).square().sum(), x, vectorize=True)
    torch.testing.assert_close(of_sum, hessian(lambda x: function(x).square().sum(), x))


def test_classes_with_operators_of_their_own():
    """The loss of two tensors in one is two losses in one."""
    x = TwoTensor(X.detach(), 2 * X.detach()).requires_grad_()
    for weight in (None, WEIGHT):
        weights = None if weight is None else TwoTensor(weight, weight)
        loss = fce.cross_entropy(x, TwoTensor(LABELS, LABELS), weights)
        torch.testing.assert_close(loss.b, F.cross_entropy(2 * X, LABELS, weight))
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient.a, torch.autograd.grad(F.cross_entropy(X, LABELS, weight), X)[0])
    torch.testing.assert_close(fce.softmax(x, 1).a, torch.softmax(X, 1))


def test_tracers_see_the_operator():
    """No tracer takes the result for a constant."""
    traced = make_fx(lambda x: fce.cross_entropy(x, LABELS))(X.detach())
    assert "fastce.cross_entropy" in traced.code
    torch.testing.assert_close(traced(2 * X), F.cross_entropy(2 * X, LABELS))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # in torch
@pytest.mark.parametrize("backend", ["aot_eager", INDUCTOR])
def test_compile(backend):
    module = torch.compile(fce.CrossEntropyLoss(label_smoothing=0.1), fullgraph=True, backend=backend, dynamic=True)
    for n in 3, 8:
        x, target = randn(n, 5, dtype=torch.float32), torch.arange(n) % 5
        loss, expected = module(x, target), F.cross_entropy(x, target, label_smoothing=0.1)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, x), torch.autograd.grad(expected, x))


COMPILED = {
    "labels and weights": lambda x: fce.cross_entropy(x, LABELS, WEIGHT, reduction="none"),
    "probabilities": lambda x: fce.cross_entropy(x, PROBS),
    "focal_loss": lambda x: fce.focal_loss(x, LABELS, gamma=2.0, alpha=0.5),
    "kl_divergence": lambda x: fce.kl_divergence(x, PROBS),
    "softmax": lambda x: fce.softmax(x, 1) + fce.log_softmax(x, 1) + fce.logsumexp(x, 1, keepdim=True),
    "linear": lambda x: fce.linear_cross_entropy(x[:, :3], LINEAR, LABELS, linear_bias=BIAS),
    "transform": lambda x: grad(lambda x: fce.cross_entropy(x, LABELS))(x),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compile_everything(name):
    x, function = X.detach().requires_grad_(), COMPILED[name]
    compiled, eager = torch.compile(function, fullgraph=True, backend="aot_eager")(x).sum(), function(x).sum()
    torch.testing.assert_close(compiled, eager)
    if name != "transform":
        torch.testing.assert_close(torch.autograd.grad(compiled, x), torch.autograd.grad(eager, x))


# --- other functions --------------------------------------------------------------------------


@by_reduction
@pytest.mark.parametrize("target", [LABELS, PROBS], ids=["labels", "probabilities"])
@pytest.mark.parametrize("options", [{}, {"weight": WEIGHT, "label_smoothing": 0.1}], ids=["plain", "options"])
@pytest.mark.parametrize("bias", [None, BIAS], ids=["", "bias"])
def test_linear_cross_entropy(bias, options, target, reduction):
    def loss(hidden, weight, *bias):
        bias = bias[0] if bias else None
        return fce.linear_cross_entropy(hidden, weight, target, linear_bias=bias, reduction=reduction, **options)

    inputs = (HIDDEN, LINEAR) if bias is None else (HIDDEN, LINEAR, bias)
    expected = F.linear_cross_entropy(HIDDEN, LINEAR, target, linear_bias=bias, reduction=reduction, **options)
    torch.testing.assert_close(loss(*inputs), expected)
    check(loss, *inputs)


@by_case
@by_reduction
@pytest.mark.parametrize("alpha", [None, 0.25, WEIGHT], ids=["", "number", "classes"])
def test_focal_loss(x, target, reduction, alpha):
    def loss(x, target=target):
        return fce.focal_loss(x, target, gamma=2.0, alpha=alpha, reduction=reduction, label_smoothing=0.1)

    check(loss, x)
    if target.is_floating_point():
        check(loss, x, target.clone().requires_grad_())


@by_reduction
@pytest.mark.parametrize("reverse", [False, True], ids=["", "reversed"])
@pytest.mark.parametrize("x", [X, IMAGES, VECTOR], ids=["matrix", "images", "vector"])
def test_kl_divergence(x, reverse, reduction):
    def loss(x, y):
        return fce.kl_divergence(x, y, temperature=2.0, reverse=reverse, reduction=reduction)

    target = x.detach().flip(0) ** 2
    check(lambda x: loss(x, target), x)
    check(loss, x, target.clone().requires_grad_())


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_softmax(name, dim):
    function, expected = getattr(fce, name), getattr(torch, name)
    torch.testing.assert_close(function(X, dim), expected(X, dim))
    check(lambda x: function(x, dim), X)
    x = X.detach()
    torch.testing.assert_close(vmap(lambda x: function(x, 0))(x), vmap(lambda x: expected(x, 0))(x))
    assert torch.equal(function(torch.tensor(1.0), 0), expected(torch.tensor(1.0), 0))


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [(0, 2), (1,), (-1, 0), [1, 2], ()], ids=str)
def test_logsumexp_over_several_axes(dim, keepdim):
    """No axis stands for all, with which torch has errors."""
    x = randn(2, 3, 2)
    torch.testing.assert_close(fce.logsumexp(x, dim, keepdim), torch.logsumexp(x, dim or (0, 1, 2), keepdim))
    check(lambda x: fce.logsumexp(x, dim, keepdim), x)
