"""A factor of 0 leaves out what it multiplies, whatever NaN or infinity that holds."""

import numpy as np
import pytest

import fastce
from tests.functions import CALLS
from tests.inputs import FewInputs

SHAPES = [((9, 5), -1), ((9, 40), -1), ((7, 1500), -1), ((3, 7, 20), 1), ((2, 70000), -1)]  # one a regime
BAD = [np.nan, np.inf, -np.inf]


class _Problem:
    """Logits, targets and factors of which every other sample is 0; ``bad`` spoils these samples."""

    def __init__(self, shape, axis, bad, dtype=np.float32):
        rng = np.random.default_rng(0)
        self.axis, self.classes = axis, shape[axis]
        self.samples = tuple(np.delete(shape, axis))
        count = int(np.prod(self.samples))
        self.is_out = np.arange(count) % 2 == 0
        rows = rng.normal(size=(count, self.classes))
        probs = rng.dirichlet(np.ones(self.classes), count)
        self.x, self.probs = self.array(rows).astype(dtype), self.array(probs).astype(dtype)
        rows[self.is_out], probs[self.is_out] = bad, np.nan
        self.bad_x, self.bad_probs = self.array(rows).astype(dtype), self.array(probs).astype(dtype)
        self.labels = rng.integers(0, self.classes, self.samples)
        self.factors = np.where(self.is_out, 0.0, rng.uniform(0.5, 2.0, count)).reshape(self.samples)

    def array(self, rows):
        """Rows in the layout of the logits."""
        return np.ascontiguousarray(np.moveaxis(rows.reshape(*self.samples, self.classes), -1, self.axis))

    def out_rows(self, grad):
        """The rows of a gradient whose factor is 0."""
        return np.moveaxis(grad, self.axis, -1).reshape(-1, self.classes)[self.is_out]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("is_soft", [False, True])
def test_sample_weight(shape, axis, bad, is_soft):
    """Loss and gradient are those of finite logits, to the bit, and the gradient is 0."""
    p = _Problem(shape, axis, bad)
    target, bad_target = (p.probs, p.bad_probs) if is_soft else (p.labels, p.labels)
    options = {"axis": axis, "sample_weight": p.factors}
    fine = fastce.cross_entropy_and_grad(p.x, target, **options)
    spoiled = fastce.cross_entropy_and_grad(p.bad_x, bad_target, **options)
    assert fine.loss == spoiled.loss
    np.testing.assert_array_equal(fine.grad, spoiled.grad)
    assert not p.out_rows(spoiled.grad).any()


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("is_soft", [False, True])
def test_grad_output(shape, axis, is_soft):
    """So does an upstream gradient of 0, of a sample or of all."""
    p = _Problem(shape, axis, np.nan)
    target, bad_target = (p.probs, p.bad_probs) if is_soft else (p.labels, p.labels)
    options = {"axis": axis, "reduction": "none", "grad_output": p.factors}
    fine = fastce.cross_entropy_and_grad(p.x, target, **options)
    spoiled = fastce.cross_entropy_and_grad(p.bad_x, bad_target, **options)
    np.testing.assert_array_equal(fine.grad, spoiled.grad)
    assert not fastce.cross_entropy_and_grad(p.bad_x, bad_target, axis=axis, grad_output=0.0).grad.any()


@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_class_weight_at_the_label(shape, axis):
    """A label whose class has weight 0 leaves out its sample; a mean over such samples alone has gradient 0."""
    p = _Problem(shape, axis, np.nan)
    weight = np.ones(p.classes)
    weight[-1] = 0.0
    labels = np.where(p.is_out.reshape(p.samples), p.classes - 1, np.minimum(p.labels, p.classes - 2))
    fine = fastce.cross_entropy_and_grad(p.x, labels, axis=axis, weight=weight)
    spoiled = fastce.cross_entropy_and_grad(p.bad_x, labels, axis=axis, weight=weight)
    assert fine.loss == spoiled.loss
    np.testing.assert_array_equal(fine.grad, spoiled.grad)
    nothing = fastce.cross_entropy_and_grad(p.bad_x, np.full_like(labels, p.classes - 1), axis=axis, weight=weight)
    assert np.isnan(nothing.loss)
    assert not nothing.grad.any()


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"z_loss": 0.1}])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_class_weight_at_minus_infinity(shape, axis, option):
    """A class of weight 0 adds no 0 times infinity to smoothing and to the loss at the label."""
    p = _Problem(shape, axis, np.nan)
    weight = np.ones(p.classes)
    weight[-1] = 0.0
    rows = np.moveaxis(p.x, axis, -1).reshape(-1, p.classes).copy()
    rows[:, -1] = -np.inf
    found = fastce.cross_entropy_and_grad(
        p.array(rows), np.full_like(p.labels, p.classes - 1), axis=axis, weight=weight, reduction="sum", **option
    )
    assert np.isfinite(found.loss)
    assert np.isfinite(found.grad).all()


def _spoiled():
    x = np.array([[np.nan, np.inf, 1.0], [1.0, 2.0, 3.0]])
    return x, np.array([0, 2]), {"sample_weight": [0.0, 1.0]}


def test_focal_loss():
    """The same in focal loss, by sample weight, alpha and upstream gradient."""
    x, y, options = _spoiled()
    for more in (options, {"alpha": [0.0, 1.0, 1.0]}):
        loss, grad = fastce.focal_loss_and_grad(x, y, gamma=2.0, **more)
        assert loss == fastce.focal_loss(x[1:], y[1:], gamma=2.0)
        assert not grad[0].any()
    _, grad = fastce.focal_loss_and_grad(x, y, gamma=2.0, reduction="none", grad_output=[0.0, 1.0])
    assert not grad[0].any()


@pytest.mark.parametrize("classes", [3, 40])
def test_second_derivatives(classes):
    """The same in the Hessian's diagonal and in its product with a vector."""
    x, y, options = _spoiled()
    x = np.concatenate([x, np.zeros((2, classes - 3))], axis=1)
    found = fastce.cross_entropy_grad_and_hessian(x, y, **options)
    assert not found.grad[0].any()
    assert not found.hessian[0].any()
    assert found.hessian[1].all()
    assert not fastce.cross_entropy_hvp(x, y, np.ones_like(x), **options)[0].any()
    probs = np.full_like(x, 1.0 / classes)
    probs[0] = np.nan
    assert not fastce.cross_entropy_hvp(x, probs, np.ones_like(x), **options)[0].any()


@pytest.mark.parametrize("max_bytes", [256_000_000, 1])
def test_linear_cross_entropy(max_bytes):
    """The same in the last layer, by any weight and upstream gradient: no NaN reaches the weights."""
    hidden = np.ones((2, 4))
    hidden[0] = np.nan
    weight = np.random.default_rng(0).normal(size=(600, 4))
    class_weight = np.ones(600)
    class_weight[0] = 0.0
    options = {"max_bytes": max_bytes, "reduction": "none"}
    for weights in ({"class_weight": class_weight}, {"sample_weight": [0.0, 1.0]}):
        found = fastce.linear_cross_entropy_and_grad(hidden, weight, [0, 2], **weights, **options)
        assert found.loss[0] == 0.0
        assert not found.d_hidden[0].any()
        assert np.isfinite(found.d_weight).all()
    for grad_output in ([0.0, 1.0], 0.0):
        found = fastce.linear_cross_entropy_and_grad(hidden, weight, [1, 2], grad_output=grad_output, **options)
        assert not found.d_hidden[0].any()
        assert np.isfinite(found.d_weight).all()


def test_from_probs():
    """The same in the loss from probabilities; probabilities that are left out are not checked."""
    p = np.array([[np.nan, 3.0, -1.0], [0.2, 0.3, 0.5]])
    soft = np.array([[np.nan, 0.0, 0.0], [0.0, 0.5, 0.5]])
    for target in ([0, 2], soft):
        loss, grad = fastce.cross_entropy_from_probs_and_grad(p, target, sample_weight=[0.0, 1.0], reduction="sum")
        assert loss == fastce.cross_entropy_from_probs(p[1:], np.asarray(target)[1:], reduction="sum")
        assert not grad[0].any()
    assert fastce.cross_entropy_from_probs(p, [0, 2], weight=[0.0, 1.0, 1.0]) == -np.log(0.5)


# --- every function --------------------------------------------------------------------

LIKE_LOGITS = {"x", "p", "soft", "soft_of_probs", "share", "teacher", "v", "hidden"}  # a row a sample
FACTORS = {"sample_weight", "upstream", "element_weight", "upstream_elements"}
WITH_FACTORS = {
    (name, argument): call.with_all_arrays()
    for name, call in CALLS.items()
    for argument, kind in call.with_all_arrays().inputs.items()
    # probabilities are checked for the loss, whatever its upstream gradient
    if kind in FACTORS and not (argument == "grad_output" and "p" in call.inputs.values())
}


def _without_by_products(call, results):
    """The loss and the gradients alone, not log-sum-exps and parts of the loss."""
    if call.name == "CrossEntropyLoss":
        return results[:2]
    return results[:1] + results[3:] if call.name == "linear_cross_entropy_and_grad" else results


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(("name", "argument"), WITH_FACTORS)
def test_every_factor(name, argument, bad):
    """The first sample's factor is 0: no loss and gradient depend on what else it holds."""
    call = WITH_FACTORS[name, argument]
    arrays = call.arrays(FewInputs(np.float64))
    arrays[argument][0] = 0.0
    expected = call.run(arrays)
    for other, kind in call.inputs.items():
        if kind in LIKE_LOGITS:
            arrays[other][0] = bad
    found = call.run(arrays)
    found, expected = _without_by_products(call, found), _without_by_products(call, expected)
    for a, e in zip(found[argument == "grad_output" :], expected[argument == "grad_output" :], strict=True):
        if e is not None:
            np.testing.assert_array_equal(a, e)
            assert np.isfinite(a).all()


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.function.takes("grad_output")])
def test_no_upstream_gradient(name):
    """A scalar 0 leaves out all samples."""
    call = CALLS[name]
    arrays = call.arrays(FewInputs(np.float64))
    for other, kind in call.inputs.items():
        if kind in ("x", "hidden"):
            arrays[other][0] = np.nan
    found = _without_by_products(call, call.run(arrays, grad_output=0.0))
    for grad in found[0 if call.name == "cross_entropy_hvp" else 1 :][: len(call.function.outs)]:
        assert grad is None or not grad.any()


def test_a_positive_weight_of_0():
    """It leaves out what is positive alone, a probability that is none too."""
    loss, grad = fastce.binary_cross_entropy_from_probs_and_grad(
        [0.5, np.nan], [1.0, 1.0], pos_weight=[1.0, 0.0], reduction="sum"
    )
    assert loss == np.log(2.0)
    assert grad.tolist() == [-2.0, 0.0]


def test_infinite_weights_leave_out_nothing():
    """The Hessian's product is NaN where the gradient is: infinity over infinity."""
    x, y, u = np.eye(3), [0, 1, 2], [np.inf, 1.0, 1.0]
    grad = fastce.cross_entropy_and_grad(x, y, sample_weight=u).grad
    product = fastce.cross_entropy_hvp(x, y, np.arange(9.0).reshape(3, 3), sample_weight=u)
    np.testing.assert_array_equal(np.isnan(product), np.isnan(grad))
    assert np.isnan(grad[0]).all()
