"""Properties that hold for all inputs, on examples that Hypothesis makes."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import fastce

EPS = np.finfo(np.float64).eps
FINITE = st.floats(-200, 200, allow_subnormal=False)
SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 45))
LOGITS = hnp.arrays(np.float64, SHAPES, elements=FINITE)
SMOOTHING = st.sampled_from([0.0, 0.1, 1.0])


@st.composite
def problems(draw):
    """(logits, labels, soft targets, class weights)."""
    x = draw(LOGITS)
    rows, classes = x.shape
    labels = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    soft = draw(hnp.arrays(np.float64, x.shape, elements=st.floats(0, 1, allow_subnormal=False)))
    weight = draw(hnp.arrays(np.float64, classes, elements=st.floats(0.01, 10)))
    return x, labels, soft, weight


def near(actual, expected, eps, scale=1.0):
    assert np.all(np.abs(actual - expected) <= eps * EPS * np.maximum(np.abs(expected), scale))


@given(LOGITS)
def test_softmax_is_a_distribution(x):
    p = fastce.softmax(x)
    assert np.all((p >= 0) & (p <= 1))
    near(p.sum(-1), 1, 20)


@given(LOGITS)
def test_softmax_keeps_the_order(x):
    order = np.argsort(x, axis=-1, kind="stable")
    assert np.all(np.diff(np.take_along_axis(fastce.softmax(x), order, -1)) >= 0)
    assert np.all(np.diff(np.take_along_axis(fastce.log_softmax(x), order, -1)) >= 0)


@given(LOGITS)
def test_the_family_agrees_with_itself(x):
    lse = fastce.logsumexp(x, keepdims=True)
    logs = fastce.log_softmax(x)
    near(logs, x - lse, 4, 400)
    near(fastce.softmax(x), np.exp(logs), 450, 1e-300)
    assert np.all(lse >= x.max(-1, keepdims=True))
    assert np.all(lse <= x.max(-1, keepdims=True) + np.log(x.shape[1]) + 1e-13)


@given(LOGITS, st.integers(-(2**20), 2**20))
def test_shift_invariance(x, shift):
    """Exact where the shift is: on a grid on which x + shift does not round."""
    x = np.round(x * 2**20) / 2**20
    np.testing.assert_array_equal(fastce.softmax(x + shift), fastce.softmax(x))
    np.testing.assert_array_equal(fastce.log_softmax(x + shift), fastce.log_softmax(x))
    labels = np.zeros(len(x), int)
    np.testing.assert_array_equal(
        fastce.cross_entropy(x + shift, labels, reduction="none"), fastce.cross_entropy(x, labels, reduction="none")
    )
    near(fastce.logsumexp(x + shift), fastce.logsumexp(x) + shift, 4, abs(shift) + 200)


@given(problems(), SMOOTHING)
def test_rows_of_the_gradient_sum_to_zero(problem, smoothing):
    x, labels, soft, weight = problem
    for target in (labels, soft):
        for more in ({}, {"weight": weight, "sample_weight": np.ones(len(x))}):
            options = {"label_smoothing": smoothing, "reduction": "sum", **more}
            grad = fastce.cross_entropy_and_grad(x, target, **options).grad
            # the terms of either sign sum to at most the largest weight times the sum of the target
            near(grad.sum(-1), 0, 60, 10 * max(1.0, soft.sum(-1).max()))


@given(problems())
def test_signs_of_the_gradient(problem):
    x, labels, _, weight = problem
    grad = fastce.cross_entropy_and_grad(x, labels, weight=weight).grad
    at_label = np.take_along_axis(grad, labels[:, None], -1)
    assert np.all(at_label <= 0)
    np.put_along_axis(grad, labels[:, None], 0, -1)
    assert np.all(grad >= 0)


@given(problems(), st.randoms(use_true_random=False))
def test_permutation_of_the_classes(problem, random):
    x, labels, soft, weight = problem
    order = list(range(x.shape[1]))
    random.shuffle(order)
    place = np.argsort(order)
    near(fastce.softmax(x[:, order]), fastce.softmax(x)[:, order], 30, 0)
    for target, moved in ((labels, place[labels]), (soft, soft[:, order])):
        options = {"sample_weight": np.ones(len(x)), "label_smoothing": 0.1, "reduction": "none"}
        one = fastce.cross_entropy_and_grad(x, target, weight=weight, **options)
        two = fastce.cross_entropy_and_grad(x[:, order], moved, weight=weight[order], **options)
        scale = 10 * (1 + soft.sum(-1))
        near(two.loss, one.loss, 60, scale * 400)
        near(two.grad, one.grad[:, order], 60, scale[:, None])


@given(problems(), st.randoms(use_true_random=False))
def test_permutation_of_the_samples(problem, random):
    x, labels, _, weight = problem
    order = list(range(len(x)))
    random.shuffle(order)
    one = fastce.cross_entropy_and_grad(x, labels, weight=weight, reduction="none")
    two = fastce.cross_entropy_and_grad(x[order], labels[order], weight=weight, reduction="none")
    np.testing.assert_array_equal(two.loss, one.loss[order])
    np.testing.assert_array_equal(two.grad, one.grad[order])


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=FINITE))
def test_two_classes_are_logistic(x):
    labels = np.arange(len(x)) % 2
    margin = x[:, 1] - x[:, 0]
    loss, grad = fastce.cross_entropy_and_grad(x, labels, reduction="none")
    binary = fastce.binary_cross_entropy_with_logits_and_grad(margin, labels, reduction="none")
    near(loss, binary.loss, 10, 0)
    near(grad[:, 1], binary.grad, 10, 0)
    near(grad[:, 0], -binary.grad, 10, 0)


@given(problems())
def test_losses(problem):
    x, labels, _, weight = problem
    losses = fastce.cross_entropy(x, labels, weight=weight, reduction="none")
    assert np.all(losses >= 0)
    near(fastce.cross_entropy(x, labels, weight=weight, reduction="sum"), losses.sum(), 30, 0)
    near(fastce.cross_entropy(x, labels, weight=weight), losses.sum() / weight[labels].sum(), 40, 0)
    logs = fastce.log_softmax(x)
    near(losses, -weight[labels] * logs[np.arange(len(x)), labels], 8, 0)


@given(problems(), SMOOTHING)
def test_linear_in_the_target(problem, smoothing):
    x, _, soft, weight = problem
    other = np.roll(soft, 1, axis=-1)
    options = {"weight": weight, "label_smoothing": 0.0, "reduction": "none"}
    parts = [fastce.cross_entropy(x, t, **options) for t in (soft, other, soft * smoothing + other * 2)]
    near(parts[2], parts[0] * smoothing + parts[1] * 2, 100, (soft.sum(-1) + 1) * 4000)


@given(LOGITS)
def test_entropy_is_the_least_cross_entropy(x):
    """Against its own softmax as target the gradient vanishes, and any other prediction costs more."""
    p = fastce.softmax(x)
    loss, grad = fastce.cross_entropy_and_grad(x, p, reduction="none")
    near(grad, 0, 30)
    assert np.all(fastce.cross_entropy(x * 0.5, p, reduction="none") >= loss - 1e-12)


@given(problems(), st.integers(1, 19))
def test_ignoring_is_leaving_out(problem, step):
    x, labels, _, weight = problem
    kept = np.arange(len(x)) % step == 0
    target = np.where(kept, labels, -100)
    for reduction in ("mean", "sum"):
        one = fastce.cross_entropy_and_grad(x, target, weight=weight, reduction=reduction)
        two = fastce.cross_entropy_and_grad(x[kept], labels[kept], weight=weight, reduction=reduction)
        near(one.loss, two.loss, 4, 0)
        np.testing.assert_array_equal(one.grad[kept], two.grad)
        assert not one.grad[~kept].any()


@given(problems())
def test_sample_weights_are_repetitions(problem):
    x, labels, _, _ = problem
    times = labels % 3 + 1
    again = np.repeat(np.arange(len(x)), times)
    near(fastce.cross_entropy(x, labels, sample_weight=times), fastce.cross_entropy(x[again], labels[again]), 20, 0)
