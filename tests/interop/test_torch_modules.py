"""fastce.interop.torch in the cases with which PyTorch tests its own modules, as a module, and in training."""

import copy
import functools
import importlib.util
import io
import itertools
import sys
import types
import unittest

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastce.interop.torch as fce

DTYPES = [torch.float32, torch.float64]
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
TOLERANCES = {  # those of torch.testing.assert_close
    torch.float16: {"rtol": 1e-3, "atol": 1e-5},
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-5},
    torch.float32: {"rtol": 1.3e-6, "atol": 1e-5},
    torch.float64: {"rtol": 1e-7, "atol": 1e-7},
}


@pytest.fixture(scope="module")
def torchs_cases():
    """PyTorch's test cases, which are in its wheel; they import a package for expected texts, which none here has."""
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("expecttest") is None:
            patch.setitem(sys.modules, "expecttest", stand_in)
        from torch.testing._internal import common_modules
    return common_modules


def info_of(torchs_cases, module):
    (info,) = (info for info in torchs_cases.module_db if info.module_cls is module)
    return info


def inputs_of(torchs_cases, module, dtype):
    torch.manual_seed(0)
    info = info_of(torchs_cases, module)
    cases = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
    for case in cases:
        case.forward_input.args[0].requires_grad_()
    return cases


def small_inputs_of(torchs_cases, module, elements):
    """Yield the name of the case, the function and the input, but for those whose loss is NaN."""
    for case in inputs_of(torchs_cases, module, torch.float64):
        x, target = case.forward_input.args
        loss = functools.partial(fce.CrossEntropyLoss(**case.constructor_input.kwargs), target=target)
        if x.numel() <= elements and loss(x).isfinite().all():
            yield case.desc, loss, x


def error_inputs_of(torchs_cases, module, dtype=torch.float32):
    info = info_of(torchs_cases, module)
    return info.module_error_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=True)


def pulled(loss, variables):
    """Return the gradients of a loss; one for each sample gets an upstream gradient of its own."""
    upstream = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return torch.autograd.grad(loss, variables, upstream)


def assert_close(actual, expected, message=""):
    torch.testing.assert_close(actual, expected, equal_nan=True, **TOLERANCES[actual.dtype], msg=lambda m: message + m)


# --- PyTorch's cases ----------------------------------------------------------------------------


@EACH_DTYPE
def test_torchs_cases_of_the_module(torchs_cases, dtype):
    """As their test_forward: the result is the reference's; so is the gradient, and the function agrees."""
    cases = inputs_of(torchs_cases, nn.CrossEntropyLoss, dtype)
    assert len(cases) > 60
    for case in cases:
        options, (x, target) = case.constructor_input.kwargs, case.forward_input.args
        module, theirs = fce.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
        loss = module(x, target)
        assert loss.shape == theirs(x, target).shape and loss.dtype == dtype, case.desc
        assert_close(loss, case.reference_fn(theirs, x, target), f"{case.desc}: ")
        assert_close(pulled(loss, x)[0], pulled(theirs(x, target), x)[0], f"{case.desc}: ")
        same = fce.cross_entropy(x, target, **options)
        torch.testing.assert_close(same, loss, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_torchs_cases_of_the_module_in_16_bits(torchs_cases, dtype):
    """Against float64, as PyTorch's own result loses digits in the logarithms of the softmax."""
    for case in inputs_of(torchs_cases, nn.CrossEntropyLoss, dtype):
        options, (x, target) = case.constructor_input.kwargs, case.forward_input.args
        module, theirs = fce.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options).double()
        loss, wide = module(x, target), x.detach().double().requires_grad_()
        expected = theirs(wide, target.double() if target.is_floating_point() else target)
        assert_close(loss, expected.to(dtype), f"{case.desc}: ")
        upstream = torch.linspace(0.5, 2, loss.numel(), dtype=dtype).reshape(loss.shape)
        gradient, wanted = torch.autograd.grad((loss, expected), (x, wide), (upstream, upstream.double()))
        assert_close(gradient, wanted.to(dtype), f"{case.desc}: ")


def test_torchs_cases_of_gradients(torchs_cases):
    """As their test_grad."""
    for name, loss, x in small_inputs_of(torchs_cases, nn.CrossEntropyLoss, 60):
        assert torch.autograd.gradcheck(loss, x), name


def test_torchs_cases_of_second_derivatives(torchs_cases):
    """As their test_gradgrad."""
    for name, loss, x in small_inputs_of(torchs_cases, nn.CrossEntropyLoss, 30):
        assert torch.autograd.gradgradcheck(loss, x), name


@EACH_DTYPE
def test_gradients_of_probabilities_and_weights(dtype):
    """PyTorch's cases have targets that are part of the graph."""
    torch.manual_seed(0)
    x, raw = (torch.randn(5, 3, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    weight = torch.rand(3, dtype=dtype, requires_grad=True)
    for reduction, has_gradient in itertools.product(("mean", "sum", "none"), (True, False)):
        given = weight if has_gradient else weight.detach()
        options = {"weight": given, "label_smoothing": 0.1, "reduction": reduction}
        ours, theirs = (
            pulled(function(x, raw.softmax(1), **options), (x, raw, weight) if has_gradient else (x, raw))
            for function in (fce.cross_entropy, F.cross_entropy)
        )
        for gradient, expected in zip(ours, theirs, strict=True):
            assert_close(gradient, expected)


def test_gradients_of_weights_beside_labels():
    """PyTorch has none."""
    torch.manual_seed(0)
    x, y = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 2, -100, 1, 1])
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match="weight"):
        F.cross_entropy(x, y, weight)
    for reduction in ("mean", "sum", "none"):
        loss = functools.partial(fce.cross_entropy, target=y, reduction=reduction, label_smoothing=0.1)
        assert torch.autograd.gradcheck(lambda x, weight, loss=loss: loss(x, weight=weight), (x, weight))
    for label in (3, -1):
        with pytest.raises(IndexError):
            fce.cross_entropy(x, y.clamp(max=0).fill_(label), weight)


def test_torchs_cases_without_a_layout(torchs_cases):
    """As their test_non_contiguous_tensors."""
    for case in inputs_of(torchs_cases, nn.CrossEntropyLoss, torch.float64):
        options, (x, target) = case.constructor_input.kwargs, case.forward_input.args
        module = fce.CrossEntropyLoss(**options)
        expected = module(x, target)
        views = [torch.repeat_interleave(t.detach(), 2, -1)[..., ::2] if t.ndim else t for t in (x, target)]
        views[0].requires_grad_()
        loss = module(*views)
        assert_close(loss, expected, f"{case.desc}: ")
        assert_close(pulled(loss, views[0])[0], pulled(expected, x)[0], f"{case.desc}: ")


def test_torchs_errors_of_the_module(torchs_cases):
    cases = error_inputs_of(torchs_cases, nn.CrossEntropyLoss)
    assert len(cases) >= 7
    for case in cases:
        given = case.module_error_input
        with pytest.raises(case.error_type):
            fce.CrossEntropyLoss(**given.constructor_input.kwargs)(*given.forward_input.args)


@EACH_DTYPE
@pytest.mark.filterwarnings("ignore:linear_cross_entropy. ``options`` ignored:UserWarning")
def test_torchs_cases_of_the_last_layer(torchs_cases, dtype):
    cases = inputs_of(torchs_cases, nn.LinearCrossEntropyLoss, dtype)
    assert len(cases) > 100
    for case in cases:
        module = nn.LinearCrossEntropyLoss(*case.constructor_input.args, **case.constructor_input.kwargs)
        options = {
            "weight": module.weight,
            "reduction": module.reduction,
            "ignore_index": module.ignore_index,
            "label_smoothing": module.label_smoothing,
            "options": module.options,
        }
        x, target = case.forward_input.args
        variables = [x, module.linear.weight] + ([] if module.linear.bias is None else [module.linear.bias])
        shape = (module.num_classes, *module.out_features)
        bias = None if module.linear.bias is None else module.linear.bias.reshape(shape)
        arguments = (x, module.linear.weight.reshape(*shape, -1), target)
        loss = fce.linear_cross_entropy(*arguments, linear_bias=bias, **options)
        assert_close(loss, case.reference_fn(module, x, target))
        expected = module(x, target)
        assert loss.shape == expected.shape and loss.dtype == dtype
        for gradient, wanted in zip(pulled(loss, variables), pulled(expected, variables), strict=True):
            assert_close(gradient, wanted)


LINEAR_ERRORS = {  # PyTorch's module tests have these of its constructor; the function raises them at the call
    "label_smoothing": ({"label_smoothing": 2.0}, RuntimeError),
    "weight": ({"weight": torch.ones(3)}, RuntimeError),
    "linear_bias": ({"linear_bias": torch.ones(3)}, RuntimeError),
    "reduction": ({"reduction": "max"}, ValueError),
}


@pytest.mark.parametrize(("options", "error"), LINEAR_ERRORS.values(), ids=LINEAR_ERRORS)
def test_torchs_errors_of_the_last_layers_options(options, error):
    arguments = torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(4, dtype=torch.long)
    for function in (F.linear_cross_entropy, fce.linear_cross_entropy):
        with pytest.raises(error):
            function(*arguments, **options)


def test_torchs_errors_of_the_last_layer(torchs_cases):
    cases = error_inputs_of(torchs_cases, nn.LinearCrossEntropyLoss)
    at_the_call = [case for case in cases if case.error_on is torchs_cases.ModuleErrorEnum.FORWARD_ERROR]
    assert len(at_the_call) >= 3
    for case in at_the_call:
        given = case.module_error_input.constructor_input
        module = nn.LinearCrossEntropyLoss(*given.args, **given.kwargs)
        x, target = case.module_error_input.forward_input.args
        with pytest.raises(case.error_type):
            fce.linear_cross_entropy(x, module.linear.weight, target)


# --- a module -----------------------------------------------------------------------------------

OPTIONS = {"weight": torch.tensor([0.5, 1.0, 2.0]), "ignore_index": 1, "label_smoothing": 0.1, "reduction": "sum"}
EXTRAS = {"z_loss": 0.01, "softcap": 4.0, "logit_scale": 0.5}


def a_batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64).to(dtype)
    return x.requires_grad_(), torch.tensor([0, 1, 2, 2, 1, 0])


def test_is_a_module_like_torchs():
    ours, theirs = fce.CrossEntropyLoss(**OPTIONS), nn.CrossEntropyLoss(**OPTIONS)
    assert isinstance(ours, nn.Module)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    assert [name for name, _ in ours.named_buffers()] == ["weight"] and not list(ours.parameters())
    for name in ("ignore_index", "label_smoothing", "reduction"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert "CrossEntropyLoss" in repr(ours)
    assert_close(ours(*a_batch()), theirs(*a_batch()))
    assert fce.CrossEntropyLoss().weight is None and not fce.CrossEntropyLoss().state_dict()


def test_is_written_and_read_again():
    module = fce.CrossEntropyLoss(**OPTIONS, **EXTRAS)
    expected = module(*a_batch())
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(*a_batch()), expected)


def test_its_state_is_written_and_read_again():
    """Also from and to PyTorch's own module."""
    file = io.BytesIO()
    torch.save(fce.CrossEntropyLoss(**OPTIONS).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    others = {**OPTIONS, "weight": torch.ones(3)}
    for module in (fce.CrossEntropyLoss(**others), nn.CrossEntropyLoss(**others)):
        module.load_state_dict(state)
        assert torch.equal(module.weight, OPTIONS["weight"])
        assert_close(module(*a_batch()), nn.CrossEntropyLoss(**OPTIONS)(*a_batch()))
    with pytest.raises(RuntimeError, match="weight"):
        fce.CrossEntropyLoss().load_state_dict(state)


def test_copies_are_independent():
    module = fce.CrossEntropyLoss(**OPTIONS, **EXTRAS)
    expected = module(*a_batch()).detach()
    copied = copy.deepcopy(module)
    assert torch.equal(copied(*a_batch()), expected)
    copied.weight.zero_()
    assert torch.equal(module(*a_batch()), expected)
    assert copied(*a_batch()) < expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_moves_to_other_dtypes(dtype):
    ours = nn.Sequential(fce.CrossEntropyLoss(**OPTIONS)).to(dtype)[0]
    theirs = nn.CrossEntropyLoss(**OPTIONS).to(dtype)
    assert ours.weight.dtype == dtype
    (x, y), (z, _) = a_batch(dtype), a_batch(dtype)
    loss, expected = ours(x, y), theirs(z, y)
    loss.backward()
    expected.backward()
    assert loss.dtype == x.grad.dtype == dtype
    assert_close(loss, expected)
    assert_close(x.grad, z.grad)


def test_is_told_of_legacy_arguments():
    for options in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="size_average and reduce args"):
            ours = fce.CrossEntropyLoss(**options)
        with pytest.warns(UserWarning, match="size_average and reduce args"):
            theirs = nn.CrossEntropyLoss(**options)
        assert_close(ours(*a_batch()), theirs(*a_batch()))
        with pytest.warns(UserWarning, match="size_average and reduce args"):
            assert_close(fce.cross_entropy(*a_batch(), **options), theirs(*a_batch()))


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_is_not_scripted():
    """Scripts know no NumPy: `torch.compile` is the way."""
    with pytest.raises(Exception, match="fastce"):
        torch.jit.script(fce.CrossEntropyLoss())


# --- training -----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.05),
}


def trained(criterion, optimizer, dtype, steps=25):
    """Return losses and parameters of a small network after some steps."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)).to(dtype)
    optimizer = OPTIMIZERS[optimizer](network.parameters())
    x, y = torch.randn(64, 8, dtype=dtype), torch.randint(0, 5, (64,))
    y[::7] = -100
    losses = []
    for step in range(steps):
        batch = slice(16 * (step % 4), 16 * (step % 4) + 16)
        optimizer.zero_grad()
        loss = criterion(network(x[batch]), y[batch])
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses, [parameter.detach() for parameter in network.parameters()]


@EACH_DTYPE
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trains_like_torchs(optimizer, dtype):
    options = {"weight": torch.linspace(0.5, 1.5, 5, dtype=dtype), "label_smoothing": 0.1}
    ours, our_parameters = trained(fce.CrossEntropyLoss(**options), optimizer, dtype)
    theirs, their_parameters = trained(nn.CrossEntropyLoss(**options), optimizer, dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=300 * eps, atol=300 * eps)
    for parameter, expected in zip(our_parameters, their_parameters, strict=True):
        torch.testing.assert_close(parameter, expected, rtol=3000 * eps, atol=3000 * eps)
    assert ours[-1] < 0.9 * ours[0]


def test_lbfgs_trains_like_torchs():
    """The optimizer calls the loss several times a step, under its own closure."""
    parameters = []
    for criterion in (fce.CrossEntropyLoss(), nn.CrossEntropyLoss()):
        torch.manual_seed(0)
        layer = nn.Linear(8, 5, dtype=torch.float64)
        x, y = torch.randn(64, 8, dtype=torch.float64), torch.randint(0, 5, (64,))
        optimizer = torch.optim.LBFGS(layer.parameters(), line_search_fn="strong_wolfe")

        def closure(criterion=criterion, layer=layer, optimizer=optimizer, x=x, y=y):
            optimizer.zero_grad()
            loss = criterion(layer(x), y) + 0.01 * layer.weight.square().sum()
            loss.backward()
            return loss

        for _ in range(5):
            optimizer.step(closure)
        parameters.append(layer.weight.detach())
    torch.testing.assert_close(*parameters, rtol=1e-6, atol=1e-8)


def test_last_layer_trains_like_torchs():
    parameters = []
    for function in (fce.linear_cross_entropy, F.linear_cross_entropy):
        torch.manual_seed(0)
        embedding, bias = nn.Embedding(7, 4, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
        bias.requires_grad_()
        tokens = torch.randint(0, 7, (40,))
        optimizer = torch.optim.SGD([embedding.weight, bias], lr=0.5)
        for _ in range(20):  # tied weights: their gradient comes from two places
            optimizer.zero_grad()
            hidden = torch.tanh(embedding(tokens[:-1]))
            function(hidden, embedding.weight, tokens[1:], linear_bias=bias).backward()
            optimizer.step()
        parameters.append((embedding.weight.detach(), bias.detach()))
    for ours, theirs in zip(*parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
