"""fastce.interop.autograd: autograd's own checks of derivatives, and the values of fastce."""

import inspect
import warnings

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import elementwise_grad, grad, hessian, jacobian, make_hvp, make_vjp, value_and_grad
from autograd.scipy.special import logsumexp as their_logsumexp
from autograd.test_util import check_grads

import fastce
import fastce.interop.autograd as fce
from tests.helpers import assert_same_bits, labels_for, logits, soft_for

N, C = 4, 5
WEIGHT = np.array([0.5, 1.0, 2.0, 0.0, 1.5])
SAMPLE_WEIGHT = np.array([0.5, 2.0, 0.0, 1.0])
WHERE = np.array([True, True, False, True, True])
CROSS_ENTROPY = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "class weights": {"weight": WEIGHT},
    "sample weights": {"sample_weight": SAMPLE_WEIGHT},
    "smoothing and weights": {"label_smoothing": 0.2, "weight": WEIGHT, "sample_weight": SAMPLE_WEIGHT},
    "z": {"z_loss": 0.1, "sample_weight": SAMPLE_WEIGHT},
    "scale and cap": {"logit_scale": 0.7, "softcap": 3.0, "reduction": "none"},
    "normalizer": {"normalizer": 7.0},
    "normalizer 0": {"normalizer": 0.0, "sample_weight": np.zeros(N)},
    "where": {"where": WHERE, "label_smoothing": 0.1},
    "nothing ignored": {"ignore_index": None},
}
FOCAL = {
    "plain": {"gamma": 2.0},
    "none": {"gamma": 0.5, "alpha": 0.3, "reduction": "none"},
    "class weights": {"gamma": 1.5, "alpha": WEIGHT, "label_smoothing": 0.1},
    "gamma 0": {"gamma": 0.0, "sample_weight": SAMPLE_WEIGHT},
}
KL = {
    "plain": {},
    "reverse": {"reverse": True},
    "temperature": {"temperature": 2.0, "reduction": "none"},
    "reverse, weighted": {"reverse": True, "temperature": 0.5, "sample_weight": SAMPLE_WEIGHT},
}
LINEAR = {"plain": {}, "none": {"reduction": "none", "label_smoothing": 0.1}, "weights": {"class_weight": WEIGHT}}
SOFTMAX = {"last": {}, "first": {"axis": 0}, "both": {"axis": (0, 1)}, "all": {"axis": None}, "where": {"where": WHERE}}


def target_for(kind, rng, options=()):
    """Return labels, one of them ignored, or class probabilities; none at a class that ``where`` leaves out."""
    if kind == "probabilities":
        target = soft_for(rng, (N, C))
        if "where" in options:
            target[:, 2] = 0.0
        return target
    target = labels_for(rng, (N, C))
    target[target == 2] = 1
    if "ignore_index" not in options:
        target[0] = -100
    return target if kind == "labels" else np.eye(C, dtype=int)[target.clip(0)]


def losses():
    """Yield (name, our function of logits, fastce's), for targets and options of each kind."""
    rng = np.random.default_rng(5)
    for kind in ("labels", "one-hot", "probabilities"):
        for name, options in CROSS_ENTROPY.items():
            given = target_for(kind, rng, options), options
            yield f"cross_entropy, {kind}, {name}", *bound(fce.cross_entropy, fastce.cross_entropy, *given)
        for name, options in FOCAL.items():
            given = target_for(kind, rng), options
            yield f"focal_loss, {kind}, {name}", *bound(fce.focal_loss, fastce.focal_loss, *given)
    teacher = logits(rng, (N, C))
    for name, options in KL.items():
        yield f"kl_divergence, {name}", *bound(fce.kl_divergence, fastce.kl_divergence, teacher, options)
    for name, options in SOFTMAX.items():
        for function in ("softmax", "log_softmax", "logsumexp"):
            if not (function == "log_softmax" and name == "where"):  # infinite, which no differences take
                pair = getattr(fce, function), getattr(fastce, function)
                yield f"{function}, {name}", *(lambda x, f=f, o=options: f(x, **o) for f in pair)
    for name, options in {"b": {"b": WEIGHT}, "keepdims": {"keepdims": True, "axis": 0}}.items():
        yield f"logsumexp, {name}", *(lambda x, f=f, o=options: f(x, **o) for f in (fce.logsumexp, fastce.logsumexp))


def bound(ours, theirs, target, options):
    return tuple(lambda x, f=f: f(x, target, **options) for f in (ours, theirs))


LOSSES = list(losses())
EACH = pytest.mark.parametrize(("ours", "theirs"), [loss[1:] for loss in LOSSES], ids=[loss[0] for loss in LOSSES])


# --- autograd's own checks ----------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("modes", [["rev"], ["fwd"], ["fwd", "rev"]], ids="-".join)
def test_check_grads(ours, theirs, modes, rng):
    check_grads(ours, modes=modes, order=2)(logits(rng, (N, C), spread=1.0))


@pytest.mark.parametrize("options", LINEAR.values(), ids=LINEAR)
@pytest.mark.parametrize("modes", [["rev"], ["fwd", "rev"]], ids="-".join)
def test_check_grads_of_the_last_layer(options, modes, rng):
    arrays = [rng.normal(size=shape) for shape in ((N, 3), (C, 3), (C,))]
    target = target_for("labels", rng)

    def loss(hidden, weight, bias):
        return fce.linear_cross_entropy(hidden, weight, target, bias=bias, **options)

    check_grads(loss, argnum=(0, 1, 2), modes=modes, order=2)(*arrays)
    check_grads(lambda weight: fce.linear_cross_entropy(arrays[0], weight, target), modes=modes, order=2)(arrays[1])


@pytest.mark.parametrize("name", ["plain", "none", "z"])
def test_third_order(name, rng):
    x, target = logits(rng, (N, C), spread=1.0), target_for("labels", rng)
    check_grads(lambda x: fce.cross_entropy(x, target, **CROSS_ENTROPY[name]), modes=["fwd", "rev"], order=3)(x)


def test_a_hessian_product_computes_one_gradient(rng, monkeypatch):
    """Seen to fail: with a gradient that is computed again for its derivative."""
    calls = []

    def counted(*args, **options):
        calls.append(options)
        return with_gradient(*args, **options)

    with_gradient = fastce.cross_entropy_and_grad
    monkeypatch.setattr(fastce, "cross_entropy_and_grad", counted)
    x, v, target = logits(rng, (N, C)), rng.normal(size=(N, C)), labels_for(rng, (N, C))
    product, gradient = make_hvp(lambda x: fce.cross_entropy(x, target))(x)
    assert len(calls) == 1
    np.testing.assert_allclose(gradient, with_gradient(x, target).grad, rtol=1e-14)
    for _ in range(2):
        np.testing.assert_allclose(product(v), fastce.cross_entropy_hvp(x, target, v), rtol=1e-14)


def test_inside_other_functions(rng):
    target = target_for("labels", rng)
    check_grads(lambda x: anp.tanh(fce.cross_entropy(anp.sin(x), target)) ** 2, order=2)(logits(rng, (N, C)))


# --- values -------------------------------------------------------------------------------------


@EACH
def test_values(ours, theirs, rng):
    """With nothing to differentiate, and in a trace, the values are those of fastce."""
    x = logits(rng, (N, C))
    expected = np.asarray(theirs(x))
    assert_same_bits(np.asarray(ours(x)), expected)
    np.testing.assert_allclose(make_vjp(ours)(x)[1], expected, rtol=1e-14)


@pytest.mark.parametrize("options", CROSS_ENTROPY.values(), ids=CROSS_ENTROPY)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_gradient_is_the_kernels(options, dtype, rng):
    x, target = logits(rng, (N, C), dtype), target_for("labels", rng, options)
    upstream = rng.normal(size=N if options.get("reduction") == "none" else ()).astype(dtype)
    pull, loss = make_vjp(lambda x: fce.cross_entropy(x, target, **options))(x)
    expected = fastce.cross_entropy_and_grad(x, target, grad_output=upstream, **options)
    assert_same_bits(np.asarray(loss), np.asarray(expected.loss))
    for _ in range(2):  # the second time it is computed again
        gradient = pull(upstream)
        assert gradient.dtype == dtype
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(gradient, expected.grad, rtol=20 * eps, atol=eps / 10)


def test_layouts(rng):
    """Views and read-only arrays have the derivatives of their values."""
    x, target, v = logits(rng, (N, C)), labels_for(rng, (N, C)), rng.normal(size=(N, C))
    locked = x.copy()
    locked.flags.writeable = False
    product, gradient = make_hvp(lambda x: fce.cross_entropy(x, target))(x)
    for view in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1].copy()[::-1], locked):
        of_view, same = make_hvp(lambda x: fce.cross_entropy(x, target))(view)
        np.testing.assert_allclose(same, gradient, rtol=1e-14)
        np.testing.assert_allclose(of_view(v), product(v), rtol=1e-13, atol=1e-17)


def test_second_derivatives_keep_float32(rng):
    x, target = logits(rng, (N, C), np.float32), target_for("labels", rng)
    for options in ({}, {"z_loss": 0.1, "label_smoothing": 0.1, "sample_weight": SAMPLE_WEIGHT}):
        slope = grad(lambda x, options=options: anp.sum(grad(fce.cross_entropy)(x, target, **options) ** 2))(x)
        assert slope.dtype == np.float32


def test_hessian(rng):
    x, target = logits(rng, (N, C)), labels_for(rng, (N, C))

    def formula(x):
        return -anp.mean((x - their_logsumexp(x, axis=1, keepdims=True))[anp.arange(N), target])

    ours = hessian(lambda x: fce.cross_entropy(x, target))(x)
    np.testing.assert_allclose(ours, hessian(formula)(x), rtol=1e-12, atol=1e-16)


def test_confident_samples_keep_their_digits():
    exact = np.exp(-40.0)
    gradient = grad(fce.cross_entropy)(np.array([[40.0, 0.0]]), [0])
    np.testing.assert_allclose(gradient, [[-exact, exact]], rtol=1e-14)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0])
def test_confident_samples_have_second_derivatives(gamma):
    """Seen to fail: with powers of 1 − p, which is 0 there."""
    x = np.array([[800.0, 0.0], [40.0, 0.0]])
    product = grad(lambda x: anp.sum(grad(fce.focal_loss)(x, [0, 0], gamma=gamma) ** 2))(x)
    assert np.isfinite(product).all()


def test_samples_left_out_hold_anything(rng):
    x = logits(rng, (N, C))
    x[1:3] = np.nan
    target = np.array([1, -100, 0, 2])
    for options in ({}, {"z_loss": 0.1}):
        options = {"sample_weight": np.array([1.0, 1.0, 0.0, 1.0]), **options}
        first = grad(fce.cross_entropy)(x, target, **options)
        second = grad(lambda x, o=options: anp.sum(grad(fce.cross_entropy)(x, target, **o) ** 2))(x)
        for result in (first, second):
            assert np.isfinite(result).all() and not result[1:3].any()


def test_empty():
    x, target = np.empty((0, 3)), np.empty(0, int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, gradient = value_and_grad(fce.cross_entropy)(x, target)
    assert np.isnan(loss) and gradient.shape == (0, 3)


def test_images(rng):
    x, target = logits(rng, (2, 3, 2, 2)), labels_for(rng, (2, 3, 2, 2), 1)
    check_grads(lambda x: fce.cross_entropy(x, target, axis=1, reduction="none", label_smoothing=0.1), order=2)(x)
    check_grads(lambda x: fce.cross_entropy(x, target, axis=1, z_loss=0.1), order=2)(x)


def test_log_softmax_of_a_part(rng):
    x = logits(rng, (N, C))
    pull, value = make_vjp(lambda x: fce.log_softmax(x, where=WHERE))(x)
    assert_same_bits(value, fastce.log_softmax(x, where=WHERE))
    g = rng.normal(size=(N, C))
    np.testing.assert_allclose(pull(g)[:, WHERE], fastce.log_softmax_vjp(g[:, WHERE], value[:, WHERE]), rtol=1e-12)
    assert not pull(g)[:, ~WHERE].any()


def test_jacobian_and_elementwise(rng):
    x = logits(rng, (C,))
    p = fastce.softmax(x)
    np.testing.assert_allclose(jacobian(fce.softmax)(x), np.diag(p) - np.outer(p, p), rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(elementwise_grad(fce.logsumexp)(x), p, rtol=1e-12)


def test_gradients_are_of_their_own(rng):
    x, target = logits(rng, (N, C)), labels_for(rng, (N, C))
    pull, _ = make_vjp(lambda x: fce.cross_entropy(x, target))(x)
    first, second = pull(1.0), pull(1.0)
    before = second.copy()
    first[...] = 7.0
    np.testing.assert_array_equal(second, before)
    np.testing.assert_array_equal(pull(1.0), before)


def test_data_that_nothing_depends_on(rng):
    """The other array of the last layer may be any array-like."""
    weight, target = rng.normal(size=(C, 2)), labels_for(rng, (N, C))
    hidden = rng.normal(size=(N, 2))
    gradient = grad(fce.linear_cross_entropy, 1)(hidden.tolist(), weight, target)
    expected = fastce.linear_cross_entropy_and_grad(hidden, weight, target).d_weight
    np.testing.assert_allclose(gradient, expected, rtol=1e-13)


# --- signatures and errors ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "focal_loss", "kl_divergence", "linear_cross_entropy"])
def test_signatures(name):
    assert inspect.signature(getattr(fce, name)) == inspect.signature(getattr(fastce, name))


@pytest.mark.parametrize("argument", ["target_logits", "temperature"])
def test_no_other_derivatives(argument, rng):
    given = {"target_logits": logits(rng, (N, C)), "temperature": 2.0}
    with pytest.raises(NotImplementedError, match=argument):
        grad(lambda value: fce.kl_divergence(logits(rng, (N, C)), **{**given, argument: value}))(given[argument])


def test_errors_are_fastces(rng):
    x = logits(rng, (N, C))
    with pytest.raises(IndexError, match="from 0 to 4"):
        grad(fce.cross_entropy)(x, [0, 1, 2, 5])
    with pytest.raises(TypeError, match="no_such"):
        grad(fce.cross_entropy)(x, [0, 1, 2, 3], no_such=1)


def test_fastce_itself_takes_no_boxes(rng):
    """No derivative is registered for fastce's own functions."""
    with pytest.raises(TypeError, match="ArrayBox"):
        grad(fastce.cross_entropy)(logits(rng, (N, C)), [0, 1, 2, 3])
