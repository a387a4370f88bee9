"""Helpers of the tests of fastce.interop.torch: tensors, layouts, and comparison with PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F

import fastce.interop.torch as fce

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EACH_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)
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


def assert_same(ours, theirs):
    for result, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


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
