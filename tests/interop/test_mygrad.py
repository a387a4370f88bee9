"""fastce.interop.mygrad: the values and gradients of fastce, and of MyGrad, on MyGrad's tensors."""

import inspect

import mygrad as mg
import numpy as np
import pytest
from mygrad.nnet import activations, losses

import fastce
import fastce.interop.mygrad as fce
from tests.helpers import WIDE, assert_same_bits, assert_within, labels_for, logits, name_of, soft_for

FOCAL = {"alpha": 0.3, "gamma": 2.0}
PAIRS = {  # ours and MyGrad's, of scores and labels
    "softmax_crossentropy": (fce.softmax_crossentropy, losses.softmax_crossentropy),
    "softmax_focal_loss": (
        lambda x, y, **options: fce.softmax_focal_loss(x, y, **FOCAL, **options),
        lambda x, y, **options: losses.softmax_focal_loss(x, y, **FOCAL, **options),
    ),
    "softmax": (
        lambda x, y, **options: fce.softmax(x, **options),
        lambda x, y, **options: activations.softmax(x, **options),
    ),
    "logsoftmax": (
        lambda x, y, **options: fce.logsoftmax(x, **options),
        lambda x, y, **options: activations.logsoftmax(x, **options),
    ),
}
EACH = pytest.mark.parametrize("name", PAIRS)
OPTIONS = {
    "plain": {},
    "class weights": {"weight": np.array([0.5, 1.0, 2.0, 0.0, 1.5])},
    "sample weights": {"sample_weight": np.array([0.5, 2.0, 0.0, 1.0, 3.0, 1.0])},
    "smoothing": {"label_smoothing": 0.1},
    "z": {"z_loss": 0.01},
    "scale and cap": {"logit_scale": 0.5, "softcap": 2.0},
    "normalizer": {"normalizer": 11.0},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "where": {"where": np.array([True, True, False, True, True]), "reduction": "none"},
}
EACH_OPTION = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def pulled(function, x, *args, upstream=None, **options):
    """Return (result, gradient) of a function of one tensor."""
    tensor = mg.tensor(x)
    result = function(tensor, *args, **options)
    (result if upstream is None else result * upstream).sum().backward()
    return result.data, tensor.grad


def numeric_gradient(function, x, step=1e-6):
    """Return central differences of a scalar function."""
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += step
        down[index] -= step
        gradient[index] = (float(function(up)) - float(function(down))) / (2 * step)
    return gradient


def layouts(x):
    """Yield arrays and views with the values of a matrix."""
    yield "C", x
    yield "Fortran", np.asfortranarray(x)
    wide = np.repeat(x, 2, axis=1)
    yield "every other column", wide[:, ::2]
    yield "rows reversed", x[::-1].copy()[::-1]
    locked = x.copy()
    locked.flags.writeable = False
    yield "read-only", locked


# --- in place of MyGrad's functions -------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 3), (3, 70)], ids=name_of)
def test_agrees_with_mygrad(name, shape, dtype, rng):
    ours, theirs = PAIRS[name]
    x, y = logits(rng, shape, dtype), labels_for(rng, shape)
    upstream = rng.normal(size=np.shape(theirs(x, y))).astype(dtype)
    for values, expected in zip(
        pulled(ours, x, y, upstream=upstream), pulled(theirs, x.astype(np.float64), y, upstream=upstream), strict=True
    ):
        assert values.dtype == dtype
        assert_within(values, expected, 60, scale=np.maximum(np.abs(expected), np.abs(expected).max()))


@EACH
def test_gradient_by_differences(name, rng):
    ours, _ = PAIRS[name]
    x, y = logits(rng, (4, 5)), labels_for(rng, (4, 5))
    upstream = rng.normal(size=ours(x, y).shape)
    _, gradient = pulled(ours, x, y, upstream=upstream)
    expected = numeric_gradient(lambda values: (ours(values, y).data * upstream).sum(), x)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["softmax", "logsoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (1,), None], ids=str)
def test_axes(name, axis, rng):
    ours, theirs = PAIRS[name]
    x, upstream = logits(rng, (3, 4, 2)), rng.normal(size=(3, 4, 2))
    for values, expected in zip(
        pulled(ours, x, None, axis=axis, upstream=upstream),
        pulled(theirs, x, None, axis=axis, upstream=upstream),
        strict=True,
    ):
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)


@EACH
def test_layouts(name, rng):
    ours, _ = PAIRS[name]
    x, y = logits(rng, (6, 4)), labels_for(rng, (6, 4))
    expected = pulled(ours, x, y)
    for layout, array in layouts(x):
        tensor = mg.tensor(array, copy=False)
        result = ours(tensor, y)
        result.sum().backward()
        for values, wanted in zip((result.data, tensor.grad), expected, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-14, atol=1e-15, err_msg=layout)


@EACH
def test_float16(name, rng):
    """The loss is float32 and does not overflow; the gradient has the dtype of the tensor."""
    ours, _ = PAIRS[name]
    x, y = logits(rng, (7, 5), np.float16), labels_for(rng, (7, 5))
    loss, gradient = pulled(ours, x, y)
    wide, wide_gradient = pulled(ours, x.astype(np.float32), y)
    assert loss.dtype == (np.float32 if "_" in name else np.float16)  # of a loss and of an activation
    assert gradient.dtype == np.float16
    np.testing.assert_allclose(loss, wide, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(gradient, wide_gradient, rtol=2e-3, atol=4e-3)


def test_gradients_of_scaled_losses_in_float16_do_not_underflow():
    """Seen to fail: with a gradient that is rounded before it is multiplied."""
    x = mg.tensor(np.zeros((2, 1024), np.float16))
    (fce.cross_entropy(x, [0, 1], normalizer=40_000.0) * 2.0**14).backward()
    # the labels are the first two classes
    np.testing.assert_allclose(x.grad[:, 2:].astype(float) / 2**14, 1 / 1024 / 40_000, rtol=1e-3)


@EACH
def test_empty(name):
    ours, theirs = PAIRS[name]
    x, y = np.empty((0, 3)), np.empty(0, int)
    with np.errstate(all="ignore"):
        for values, expected in zip(pulled(ours, x, y), pulled(theirs, x, y), strict=True):
            np.testing.assert_array_equal(values, expected)
            assert values.dtype == expected.dtype


@pytest.mark.parametrize("name", ["softmax", "logsoftmax"])
@pytest.mark.parametrize("axis", [-1, None])
def test_scalars(name, axis):
    ours, theirs = PAIRS[name]
    for values, expected in zip(
        pulled(ours, np.array(3.0), None, axis=axis), pulled(theirs, np.array(3.0), None, axis=axis), strict=True
    ):
        assert_same_bits(values, expected)


@pytest.mark.parametrize("name", ["softmax", "logsoftmax"])
def test_no_classes(name):
    """MyGrad's logsoftmax raises here."""
    loss, gradient = pulled(PAIRS[name][0], np.empty((3, 0)), None)
    assert loss.shape == gradient.shape == (3, 0)


def test_confident_samples_keep_their_digits():
    """MyGrad rounds 1 − p to 0, and the loss with it."""
    x, exact = np.array([[40.0, 0.0]]), np.exp(-40.0)
    loss, gradient = pulled(fce.softmax_crossentropy, x, [0])
    np.testing.assert_allclose(loss, exact, rtol=1e-14)
    np.testing.assert_allclose(gradient, [[-exact, exact]], rtol=1e-14)
    assert pulled(losses.softmax_crossentropy, x, [0])[0] == 0.0


@EACH
def test_complex_and_long_double_are_mygrads(name, rng):
    """Derivatives by complex steps are how MyGrad tests its operations."""
    ours, theirs = PAIRS[name]
    x, y = logits(rng, (3, 4)), labels_for(rng, (3, 4))
    with mg.no_autodiff:
        assert_same_bits(
            ours(mg.tensor(x.astype(np.longdouble)), y).data, theirs(mg.tensor(x.astype(np.longdouble)), y).data
        )
        np.testing.assert_array_equal(ours(x + 1e-20j, y).data, theirs(x + 1e-20j, y).data)


@EACH
def test_integers_are_constant(name):
    ours, _ = PAIRS[name]
    result = ours(mg.tensor([[1, 2, 3]]), [0])
    assert result.constant and result.dtype == np.float64


@EACH
def test_lists(name):
    ours, theirs = PAIRS[name]
    x, y = [[1.0, 2.0, 3.0], [0.5, 0.0, 0.0]], [0, 2]
    np.testing.assert_allclose(ours(x, y).data, theirs(x, y).data, rtol=1e-14)


# --- MyGrad's graph -----------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("constant", [True, False, None])
def test_constant(name, constant, rng):
    ours, theirs = PAIRS[name]
    x, y = logits(rng, (4, 3)), labels_for(rng, (4, 3))
    for given in (mg.tensor(x), mg.tensor(x, constant=True), x):
        assert ours(given, y, constant=constant).constant == theirs(given, y, constant=constant).constant
    tensor = mg.tensor(x)
    ours(tensor, y, constant=True).sum().backward()
    assert tensor.grad is None


@EACH
def test_no_autodiff(name, rng):
    ours, theirs = PAIRS[name]
    tensor, y = mg.tensor(logits(rng, (4, 3))), labels_for(rng, (4, 3))
    with mg.no_autodiff:
        result = ours(tensor, y)
        np.testing.assert_allclose(result.data, theirs(tensor, y).data, rtol=1e-12)
        result.sum().backward()
    assert result.creator is None and tensor.grad is None
    assert not tensor._ops


@EACH
def test_memory_guard(name, rng):
    ours, _ = PAIRS[name]
    tensor, y = mg.tensor(logits(rng, (4, 3))), labels_for(rng, (4, 3))
    result = ours(tensor, y)
    assert not tensor.data.flags.writeable
    result.sum().backward()
    del result
    assert tensor.data.flags.writeable
    with mg.mem_guard_off:
        result = ours(tensor, y)
        assert tensor.data.flags.writeable
        result.sum().backward()


def test_an_error_releases_the_lock():
    tensor = mg.tensor(np.zeros((2, 3)))
    with pytest.raises(IndexError):
        fce.softmax_crossentropy(tensor, [0, 3])
    assert tensor.data.flags.writeable


@EACH
def test_views_and_several_uses(name, rng):
    """Gradients of several uses add up, in an array that the adapter has handed out."""
    ours, theirs = PAIRS[name]
    x, y = logits(rng, (4, 6)), labels_for(rng, (4, 3))
    gradients = []
    for function in (ours, theirs):
        tensor = mg.tensor(x)
        total = (2 * function(tensor[:, ::2], y)).sum() + (3 * function(tensor[:, :3], y)).sum()
        total = total + function(tensor[:, 3:], y).sum() + (tensor**2).sum()
        total.backward()
        gradients.append(tensor.grad)
    np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-12)


@EACH
@pytest.mark.parametrize("is_result", [True, False])
def test_in_place_updates(name, is_result, rng):
    """Of the result or the argument, before the backward pass."""
    ours, theirs = PAIRS[name]
    x, y = logits(rng, (4, 3)), labels_for(rng, (4, 3))
    gradients = []
    for function in (ours, theirs):
        leaf = mg.tensor(x)
        tensor = +leaf
        result = function(tensor, y)
        target = result if is_result else tensor
        target *= 3.0
        ((result**2).sum() + (tensor**3).sum()).backward()
        gradients.append(leaf.grad)
    np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-12)


@EACH
def test_in_place_updates_of_float16(name, rng):
    """Gradients of 16-bit tensors are computed in the backward pass, from the scores of the forward pass."""
    ours, theirs = PAIRS[name]
    x, y = logits(rng, (4, 3), np.float16), labels_for(rng, (4, 3))
    gradients = []
    for function, dtype in ((ours, np.float16), (theirs, np.float64)):
        leaf = mg.tensor(x.astype(dtype))  # a tensor has the gradient of its last value, so that of another is read
        tensor = +leaf
        result = function(tensor, y)
        tensor[0] = 1.0
        tensor += tensor
        assert result.creator.variables[0].dtype == dtype
        (3.0 * result.sum() + tensor.sum()).backward()
        gradients.append(leaf.grad)
    np.testing.assert_allclose(*gradients, rtol=2e-3, atol=6e-3)


@pytest.mark.parametrize("updated", [0, 1, 2])
def test_in_place_updates_of_a_layer(updated, rng):
    """Gradients of one loss a sample are computed in the backward pass as well."""
    arrays, y = [rng.normal(size=shape) for shape in ((6, 3), (5, 3), (5,))], labels_for(rng, (6, 5))

    def composed(hidden, weight, bias):
        return fce.cross_entropy(mg.matmul(hidden, weight.T) + bias, y, reduction="none")

    def fused(hidden, weight, bias):
        return fce.linear_cross_entropy(hidden, weight, y, bias, reduction="none")

    gradients = []
    for function in (composed, fused):
        leaves = [mg.tensor(array) for array in arrays]
        tensors = [+leaf for leaf in leaves]
        result = function(*tensors)
        tensors[updated] *= 2.0
        ((result**2).sum() + sum((tensor**2).sum() for tensor in tensors)).backward()
        gradients.append([leaf.grad for leaf in leaves])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@EACH
def test_gradients_are_of_their_own(name, rng):
    """No later call writes a gradient again.

    Seen to fail: with an array that is kept for the next call.
    """
    ours, _ = PAIRS[name]
    y = labels_for(rng, (4, 3))
    first, second = mg.tensor(logits(rng, (4, 3))), mg.tensor(logits(rng, (4, 3)))
    ours(first, y).sum().backward()
    before = first.grad.copy()
    ours(second, y).sum().backward()
    second.grad[...] = 7.0
    np.testing.assert_array_equal(first.grad, before)


def test_asked_twice():
    """An operation that is asked for its gradient again computes it again."""
    x = mg.tensor([[1.0, 2.0, 3.0]])
    operation = fce.softmax_crossentropy(x, [0]).creator
    one, two = np.array(1.0), np.array(2.0)
    first, again, twice = (operation.backward_var(grad, 0) for grad in (one, one, two))
    assert first is not again
    np.testing.assert_allclose(again, first, rtol=1e-15)
    np.testing.assert_allclose(twice, 2 * first, rtol=1e-15)


def test_labels_as_tensors(rng):
    x, y = logits(rng, (4, 3)), labels_for(rng, (4, 3))
    for labels in (mg.tensor(y), y.tolist(), y.astype(np.uint8), y[::-1].copy()[::-1]):
        assert_same_bits(fce.softmax_crossentropy(x, labels).data, fce.softmax_crossentropy(x, y).data)
    assert_same_bits(
        fce.cross_entropy(x, mg.tensor(y), sample_weight=mg.tensor([1.0, 2.0, 0.0, 1.0])).data,
        np.asarray(fastce.cross_entropy(x, y, sample_weight=[1.0, 2.0, 0.0, 1.0])),
    )


@pytest.mark.parametrize("function", [fce.softmax_crossentropy, fce.softmax_focal_loss])
@pytest.mark.parametrize(
    ("shape", "labels", "error"),
    [
        ((2, 3), [0, -1], IndexError),
        ((2, 3), [0, -100], IndexError),
        ((2, 3), [0, 3], IndexError),
        ((2, 3), [0.0, 1.0], TypeError),
        ((2, 3), [True, False], TypeError),
        ((2, 3), [0], ValueError),
        ((2, 3), [[1, 0, 0], [0, 1, 0]], ValueError),
        ((6,), [0], ValueError),
        ((1, 2, 3), [0], ValueError),
        ((), [0], ValueError),
    ],
)
def test_refused_labels(function, shape, labels, error):
    with pytest.raises(error):
        function(mg.tensor(np.zeros(shape)), labels)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"gamma": -1.0}, ValueError), ({"gamma": "2"}, ValueError), ({"alpha": [1.0, 2.0]}, TypeError)],
)
def test_refused_focal_options(options, error):
    with pytest.raises(error):
        fce.softmax_focal_loss(np.zeros((2, 3)), [0, 1], **options)


# --- fastce's losses ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy"])
def test_has_every_option(name):
    """Seen to fail: with an option left out."""
    ours, theirs = (dict(inspect.signature(getattr(module, name)).parameters) for module in (fce, fastce))
    assert set(ours) - {"x", "constant"} == set(theirs) - {"logits"}
    for option in set(theirs) - {"logits", "max_bytes"}:
        assert ours[option].default == theirs[option].default, option


@EACH_OPTION
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_cross_entropy(options, kind, rng):
    x = logits(rng, (6, 5))
    target = labels_for(rng, x.shape) if kind == "labels" else soft_for(rng, x.shape)
    if "where" in options and kind == "labels":
        target[target == 2] = 1
    if kind == "labels":
        target[3] = -100
    elif "where" in options:
        target[:, 2] = 0.0
    upstream = rng.normal(size=6 if options.get("reduction") == "none" else ())
    loss, gradient = pulled(fce.cross_entropy, x, target, upstream=upstream, **options)
    expected = fastce.cross_entropy_and_grad(x, target, grad_output=upstream, **options)
    assert_same_bits(loss, np.asarray(expected.loss))
    np.testing.assert_allclose(gradient, expected.grad, rtol=1e-13, atol=1e-16)


def test_cross_entropy_of_images(rng):
    x, y = logits(rng, (2, 3, 4, 5)), labels_for(rng, (2, 3, 4, 5), 1)
    upstream = rng.normal(size=y.shape)
    _, gradient = pulled(fce.cross_entropy, x, y, axis=1, reduction="none", upstream=upstream)
    expected = fastce.cross_entropy_and_grad(x, y, axis=1, reduction="none", grad_output=upstream).grad
    np.testing.assert_allclose(gradient, expected, rtol=1e-13, atol=1e-16)


def test_left_out_samples_stay_so(rng):
    """A sample whose upstream gradient is 0 has gradient 0, whatever its logits."""
    x = logits(rng, (3, 4))
    x[1] = np.nan
    _, gradient = pulled(fce.cross_entropy, x, [0, 1, 2], reduction="none", upstream=np.array([1.0, 0.0, 2.0]))
    assert not gradient[1].any() and np.isfinite(gradient).all()


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_linear_cross_entropy(has_bias, reduction, dtype, rng):
    arrays = [rng.normal(size=shape).astype(dtype) for shape in ((6, 3), (5, 3), (5,))][: 2 + has_bias]
    y = labels_for(rng, (6, 5))
    upstream = rng.normal(size=6 if reduction == "none" else ())
    tensors = [mg.tensor(array) for array in arrays]
    loss = fce.linear_cross_entropy(*tensors[:2], y, *tensors[2:], reduction=reduction, label_smoothing=0.1)
    (loss * upstream).sum().backward()
    bias = arrays[2] if has_bias else None
    options = {"bias": bias, "reduction": reduction, "label_smoothing": 0.1}
    expected = fastce.linear_cross_entropy_and_grad(*arrays[:2], y, grad_output=upstream, **options)
    assert_same_bits(loss.data, np.asarray(expected.loss))
    for tensor, gradient in zip(tensors, expected[1:], strict=False):
        assert tensor.grad.dtype == dtype
        assert_within(tensor.grad, gradient, 8, scale=np.maximum(np.abs(gradient), 0.1))


def test_linear_cross_entropy_of_constants(rng):
    hidden, weight = rng.normal(size=(4, 3)), mg.tensor(rng.normal(size=(5, 3)))
    y = labels_for(rng, (4, 5))
    fce.linear_cross_entropy(hidden, weight, y, max_bytes=1 << 20).backward()
    expected = fastce.linear_cross_entropy_and_grad(hidden, weight.data, y).d_weight
    np.testing.assert_allclose(weight.grad, expected, rtol=1e-13)
    assert fce.linear_cross_entropy(hidden, weight.data, y).constant


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axis", [0, -1, (0, 2), None], ids=str)
def test_logsumexp(axis, keepdims, rng):
    x = logits(rng, (3, 4, 2))
    expected = fastce.logsumexp(x, axis, keepdims=keepdims)
    upstream = rng.normal(size=np.shape(expected))
    result, gradient = pulled(fce.logsumexp, x, axis, keepdims, upstream=upstream)
    assert_same_bits(result, np.asarray(expected))
    numeric = numeric_gradient(lambda values: (fastce.logsumexp(values, axis, keepdims=keepdims) * upstream).sum(), x)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8)


def test_logsumexp_of_a_scalar():
    result, gradient = pulled(fce.logsumexp, np.array(2.0))
    assert result == 2.0 and gradient == 1.0
