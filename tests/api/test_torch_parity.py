"""Losses and gradients beside torch's, over combinations of options."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fastce
from tests.helpers import WIDE, labels_for, logits, name_of, soft_for

REDUCTIONS = ["mean", "sum", "none"]
SHAPES = [(6,), (1, 1), (9, 6), (5, 40), (4, 5, 7), (2, 33, 3, 4)]  # the class axis is the second, or the only one
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 4e-15}


def class_axis(shape):
    return 0 if len(shape) == 1 else 1


def with_gradient(function, x, *args, **options):
    """torch's (loss, gradient of the sum of the losses)."""
    x = torch.from_numpy(x.copy()).requires_grad_()
    loss = function(x, *args, **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def tensor(value):
    return None if value is None else torch.from_numpy(np.asarray(value))


def options_of(dtype, weight):
    """(weight, label smoothing): all combinations in float64, none in float32."""
    return itertools.product((None, weight), (0.0, 0.3, 1.0)) if dtype == np.float64 else [(None, 0.0)]


def assert_pair(actual, expected, dtype, message):
    for ours, theirs, what in zip(actual, expected, ("loss", "gradient"), strict=False):
        assert np.shape(ours) == theirs.shape
        assert ours.dtype == theirs.dtype
        scale = max(1.0, float(np.max(np.abs(theirs), initial=0)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE[dtype] * scale, err_msg=f"{what}, {message}")


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_labels(shape, reduction, dtype, rng):
    axis = class_axis(shape)
    classes = shape[axis]
    x, target = logits(rng, shape, dtype), labels_for(rng, shape, axis)
    weight = (rng.random(classes) + 0.1).astype(dtype)
    some = np.where(rng.random(target.shape) < 0.3, -100, target)
    for chosen, (w, smoothing), ignore in itertools.product((target, some), options_of(dtype, weight), (-100, 0)):
        if ignore == 0 and chosen is some:
            continue  # -100 is then out of range
        if reduction == "mean" and np.all(chosen == ignore):
            continue  # NaN: tested with the special values
        options = {"ignore_index": ignore, "label_smoothing": smoothing, "reduction": reduction}
        expected = with_gradient(F.cross_entropy, x, tensor(chosen), weight=tensor(w), **options)
        if w is not None and smoothing:  # neutral, for a kernel that other tests have
            options["sample_weight"] = np.ones(target.shape)
        actual = fastce.cross_entropy_and_grad(x, chosen, axis=axis, weight=w, **options)
        message = f"{options}, weight {w is not None}"
        assert_pair(actual, expected, dtype, message)
        assert_pair([fastce.cross_entropy(x, chosen, axis=axis, weight=w, **options)], expected[:1], dtype, message)


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_soft_targets(shape, reduction, dtype, rng):
    axis = class_axis(shape)
    x, target = logits(rng, shape, dtype), soft_for(rng, shape, axis, dtype)
    weight = (rng.random(shape[axis]) + 0.1).astype(dtype)
    for w, smoothing in options_of(dtype, weight):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        expected = with_gradient(F.cross_entropy, x, tensor(target), weight=tensor(w), **options)
        actual = fastce.cross_entropy_and_grad(x, target, axis=axis, weight=w, **options)
        assert_pair(actual, expected, dtype, f"{options}, weight {w is not None}")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary(reduction, rng):
    x, target = logits(rng, (7, 5)), rng.random((7, 5))
    for w, p in itertools.product((None, rng.random((7, 1)), rng.random(5)), (None, rng.random(5) * 4)):
        function = F.binary_cross_entropy_with_logits
        options = {"reduction": reduction}
        expected = with_gradient(function, x, tensor(target), weight=tensor(w), pos_weight=tensor(p), **options)
        actual = fastce.binary_cross_entropy_with_logits_and_grad(x, target, weight=w, pos_weight=p, **options)
        assert_pair(actual, expected, x.dtype, f"weight {np.shape(w)}, pos_weight {np.shape(p)}")


@pytest.mark.parametrize("dtype", WIDE, ids=name_of)
@pytest.mark.parametrize("shape", [(9, 6), (5, 40), (3, 4, 7)], ids=name_of)
def test_softmax_family(shape, dtype, rng):
    x = logits(rng, shape, dtype)
    for axis in range(len(shape)):
        for ours, theirs in [
            (fastce.logsumexp, torch.logsumexp),
            (fastce.softmax, torch.softmax),
            (fastce.log_softmax, torch.log_softmax),
        ]:
            expected = theirs(torch.from_numpy(x), axis).numpy()
            np.testing.assert_allclose(ours(x, axis), expected, rtol=0, atol=TOLERANCE[dtype] * 8)


def test_from_probabilities_as_nll(rng):
    probs = rng.dirichlet(np.ones(6), 9)
    target, weight = labels_for(rng, probs.shape), rng.random(6) + 0.1
    target[2] = -100
    for reduction, w in itertools.product(REDUCTIONS, (None, weight)):
        expected = with_gradient(
            lambda p, *args, **options: F.nll_loss(torch.log(p), *args, **options),
            probs,
            tensor(target),
            weight=tensor(w),
            reduction=reduction,
        )
        actual = fastce.cross_entropy_from_probs_and_grad(probs, target, weight=w, reduction=reduction)
        assert_pair(actual, expected, probs.dtype, f"{reduction}, weight {w is not None}")


def test_label_smoothing_where_torch_goes_wrong():
    """torch takes label_smoothing below 0 or NaN silently for 0; fastce refuses it."""
    for value in (-0.1, float("nan"), 1.5):
        with pytest.raises(ValueError, match="label_smoothing"):
            fastce.cross_entropy(np.zeros((1, 2)), [0], label_smoothing=value)


def test_ignored_rows_where_torch_leaks_nan():
    x = np.array([[np.nan, 1], [1, 2]])
    target = np.array([-100, 1])
    _, theirs = with_gradient(F.cross_entropy, x, tensor(target))
    ours = fastce.cross_entropy_and_grad(x, target).grad
    np.testing.assert_array_equal(ours[0], [0, 0])
    np.testing.assert_allclose(ours[1], theirs[1])
