"""Gradients against differences of the losses themselves, in float64."""

import numpy as np
import pytest

import fastce
from tests.helpers import labels_for, logits, name_of, soft_for

SHAPES = pytest.mark.parametrize("shape", [(7, 3), (4, 32), (4, 33), (2, 600)], ids=name_of)
REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
STEP = 6e-6  # about the cube root of eps: truncation and rounding of central differences meet


def along(loss, x, direction, step=STEP):
    """The derivative of a loss at ``x`` in a direction, by central differences of fourth order."""
    near = loss(x + step * direction) - loss(x - step * direction)
    far = loss(x + 2 * step * direction) - loss(x - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def options_for(rng, shape, kind):
    samples = labels_for(rng, shape).shape
    weighted = {"weight": rng.random(shape[-1]) + 0.5, "sample_weight": rng.random(samples) + 0.5}
    return {"plain": {}, "smoothed": {"label_smoothing": 0.2}, "all": {**weighted, "label_smoothing": 0.2}}[kind]


def problem(rng, shape, kind, soft, reduction):
    """(logits, the scalar loss, its gradient): 'none' is weighed with ``grad_output``."""
    x = logits(rng, shape, spread=1.5)
    target = soft_for(rng, shape) if soft else labels_for(rng, shape)
    if not soft:
        target[1] = -100
    options = {**options_for(rng, shape, kind), "reduction": reduction}
    upstream = rng.normal(size=shape[0]) if reduction == "none" and kind != "smoothed" else 1.3

    def loss(x):
        return np.sum(fastce.cross_entropy(x, target, **options) * upstream)

    return x, loss, fastce.cross_entropy_and_grad(x, target, grad_output=upstream, **options).grad


@REDUCTIONS
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("kind", ["plain", "smoothed", "all"])
@SHAPES
def test_random_directions(shape, kind, soft, reduction, rng):
    x, loss, grad = problem(rng, shape, kind, soft, reduction)
    for _ in range(5):
        direction = rng.normal(size=shape)
        scale = np.sum(np.abs(grad * direction))
        assert abs(along(loss, x, direction) - np.sum(grad * direction)) < 1e-8 * max(scale, 1)


@REDUCTIONS
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 35)], ids=name_of)
def test_every_element(shape, soft, reduction, rng):
    x, loss, grad = problem(rng, shape, "all", soft, reduction)
    for i in np.ndindex(shape):
        direction = np.zeros(shape)
        direction[i] = 1
        assert abs(along(loss, x, direction) - grad[i]) < 1e-9


@pytest.mark.parametrize("axis", [0, 1])
def test_class_axis_in_front(axis, rng):
    shape = (5, 6, 7)
    x, target = logits(rng, shape), labels_for(rng, shape, axis)
    grad = fastce.cross_entropy_and_grad(x, target, axis=axis).grad
    direction = rng.normal(size=shape)
    slope = along(lambda x: fastce.cross_entropy(x, target, axis=axis), x, direction)
    assert abs(slope - np.sum(grad * direction)) < 1e-8


@REDUCTIONS
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_from_probs(soft, reduction, rng):
    probs = rng.dirichlet(np.ones(6), 5) * 0.9 + 0.1 / 6
    target = soft_for(rng, probs.shape) if soft else labels_for(rng, probs.shape)
    options = {"weight": rng.random(6) + 0.5, "label_smoothing": 0.2, "reduction": reduction}

    def loss(p):
        return np.sum(fastce.cross_entropy_from_probs(p, target, **options))

    grad = fastce.cross_entropy_from_probs_and_grad(probs, target, **options).grad
    for _ in range(5):
        direction = rng.normal(size=probs.shape) * probs
        assert abs(along(loss, probs, direction, 1e-4) - np.sum(grad * direction)) < 1e-8


@REDUCTIONS
def test_binary(reduction, rng):
    x, target = logits(rng, (5, 6)), rng.random((5, 6))
    options = {"weight": rng.random((5, 1)), "pos_weight": rng.random(6) * 3, "reduction": reduction}

    def loss(x):
        return np.sum(fastce.binary_cross_entropy_with_logits(x, target, **options))

    grad = fastce.binary_cross_entropy_with_logits_and_grad(x, target, **options).grad
    for _ in range(5):
        direction = rng.normal(size=x.shape)
        assert abs(along(loss, x, direction) - np.sum(grad * direction)) < 1e-8
