"""Options that would give NaN, or another loss than was meant, are refused by name."""

import ml_dtypes
import numpy as np
import pytest

import fastce

X, Y = np.array([[1, 2, 3], [2, 1, 0]], np.float32), np.array([0, 2])
EYE = np.eye(3, dtype=np.float32)

OUT_OF_RANGE = [
    ("softcap", 1e39),
    ("softcap", 1e-46),
    ("softcap", 1e-40),
    ("logit_scale", 1e39),
    ("logit_scale", 1e-46),
    ("z_loss", 1e39),
    ("z_loss", 1e-46),
    ("normalizer", 1e39),
    ("normalizer", 1e-46),
    ("weight", [1.0, 1.0, 1e39]),
    ("weight", [1.0, 1e-46, 1.0]),
    ("sample_weight", [1.0, 1e39]),
    ("sample_weight", [1e-46, 1.0]),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_range_of_float32(name, value):
    """The message names the option, its value and the dtype; float64 holds all of these values."""
    number = max(value, key=lambda v: abs(np.log(v))) if isinstance(value, list) else value
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        with pytest.raises(ValueError, match=f"{name}.*float32.*{number!r}".replace("+", r"\+")):
            fastce.cross_entropy(X.astype(dtype), Y, **{name: value})
    fastce.cross_entropy(X.astype(float), Y, **{name: value})


def test_range_elsewhere():
    """The sisters of cross-entropy refuse the same."""
    for name, value in (("class_weight", [1.0, 1.0, 1e39]), *OUT_OF_RANGE):
        if name == "weight":  # of the layer
            continue
        with pytest.raises(ValueError, match=name):
            fastce.linear_cross_entropy(X, EYE, Y, **{name: value})
    with pytest.raises(ValueError, match="alpha"):
        fastce.focal_loss(X, Y, gamma=2.0, alpha=[1.0, 1.0, 1e39])
    with pytest.raises(ValueError, match="hessian_scale"):
        fastce.cross_entropy_grad_and_hessian(X, Y, hessian_scale=1e39)
    with pytest.raises(ValueError, match="b must"):
        fastce.logsumexp(X, b=1e39)
    with pytest.raises(ValueError, match="weight"):
        fastce.cross_entropy_hvp(X, Y, X, weight=[1.0, 1.0, 1e39])


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("value", [1e39, 1e-46])
def test_range_of_broadcast_weights_of_elements(name, value):
    """In all shapes that broadcast, and wherever they are; 0, infinity and NaN stay what they are."""
    x, t = np.full((300, 200), 0.5, np.float32), np.full((300, 200), 0.5)
    every, last, row = np.ones(x.shape), np.ones(x.shape), np.ones(200)
    every[217, 3] = last.T[199, 299] = row[5] = value
    every[0, 0], every[1, 1] = 0.0, np.inf
    calls = (
        fastce.binary_cross_entropy_with_logits,
        fastce.binary_cross_entropy_with_logits_and_grad,
        fastce.binary_cross_entropy_from_probs,
        fastce.binary_cross_entropy_from_probs_and_grad,
    )
    for call in calls:
        for weights, index in ((every, "[217, 3]"), (last, "[299, 199]"), (row, "[5]"), (value, "")):
            for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
                with pytest.raises(ValueError) as found:
                    call(x.astype(dtype), t, **{name: weights})
                assert f"{name}{index} must be 0 or within the range of float32" in str(found.value)
            call(x.astype(float), t, **{name: weights})
        call(x, t, **{name: [0.0] * 199 + [np.inf]})


def test_subnormal_weights_are_taken():
    """A weight that float32 holds, if with fewer digits, is no error, and nor is 0."""
    assert fastce.cross_entropy(X, Y, sample_weight=[1e-40, 0.0], reduction="sum") > 0.0


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_normalizer_belongs_to_means(reduction):
    """It used to be ignored, which made a loss too large by that factor."""
    options = {"reduction": reduction, "normalizer": 2.0}
    for call in (
        lambda: fastce.cross_entropy(X, Y, **options),
        lambda: fastce.cross_entropy_and_grad(X, Y, **options),
        lambda: fastce.CrossEntropyLoss(reduction=reduction)(X, Y, normalizer=2.0),
        lambda: fastce.linear_cross_entropy(X, EYE, Y, **options),
    ):
        with pytest.raises(ValueError, match="normalizer must be None"):
            call()


def test_normalizer_of_0():
    """It is allowed where nothing counts, and gives 0."""
    ignored = np.array([-100, -100])
    for options in ({}, {"sample_weight": [0.0, 0.0]}):
        target = Y if options else ignored
        loss, grad = fastce.cross_entropy_and_grad(X, target, normalizer=0.0, **options)
        assert loss == 0.0
        assert not grad.any()
    found = fastce.linear_cross_entropy_and_grad(X, EYE, ignored, normalizer=0.0)
    assert found.loss == 0.0
    assert not found.d_hidden.any()
    assert not found.d_weight.any()
    criterion = fastce.CrossEntropyLoss()
    assert criterion(X, ignored, normalizer=0.0) == 0.0
    assert not criterion.backward().any()
    out = np.full_like(X, 7.0)
    with pytest.raises(ValueError, match="normalizer must be positive"):
        fastce.cross_entropy_and_grad(X, Y, normalizer=0.0, out=out)
    assert (out == 7.0).all()
    with pytest.raises(ValueError, match="normalizer must be positive"):
        fastce.linear_cross_entropy(X, EYE, Y, normalizer=0.0)


P = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])

TAKE_IGNORE_INDEX = {
    "cross_entropy": fastce.cross_entropy,
    "cross_entropy_and_grad": fastce.cross_entropy_and_grad,
    "CrossEntropyLoss": lambda p, y, **options: fastce.CrossEntropyLoss(**options)(p, y),
    "cross_entropy_from_probs": fastce.cross_entropy_from_probs,
    "focal_loss": lambda p, y, **options: fastce.focal_loss(p, y, gamma=2.0, **options),
    "cross_entropy_hvp": lambda p, y, **options: fastce.cross_entropy_hvp(p, y, p, **options),
    "linear_cross_entropy": lambda p, y, **options: fastce.linear_cross_entropy(p, EYE, y, **options),
}


@pytest.mark.parametrize("name", TAKE_IGNORE_INDEX)
@pytest.mark.parametrize("label", [-100, -(2**63), 3])
def test_ignore_index_of_none(name, label):
    """None ignores no label, however unlikely."""
    TAKE_IGNORE_INDEX[name](P, Y, ignore_index=None)
    with pytest.raises(IndexError, match=r"target\[1\] is .* from 0 to 2$"):
        TAKE_IGNORE_INDEX[name](P, np.array([0, label]), ignore_index=None)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
@pytest.mark.parametrize("option", [{}, {"label_smoothing": 0.1}])
def test_probabilities_are_checked(value, option):
    """A probability that is read and is none is named, before anything is written."""
    probs = P.copy()
    probs[1, 2] = value
    out = np.full_like(P, 7.0)
    with pytest.raises(ValueError, match=r"probs\[1, 2\] is .*, expected a probability from 0 to 1"):
        fastce.cross_entropy_from_probs_and_grad(probs, Y, out=out, **option)
    with pytest.raises(ValueError, match=r"probs\[1, 2\] is"):
        fastce.cross_entropy_from_probs_and_grad(probs, P, out=out)
    assert (out == 7.0).all()
    fastce.cross_entropy_from_probs(probs, [0, 1])  # is not read
    fastce.cross_entropy_from_probs(probs, [0, -100], **option)


def test_probabilities_may_be_rounded():
    """Four times the epsilon of the dtype is to spare."""
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        eps = 2.0**-7 if dtype is ml_dtypes.bfloat16 else float(np.finfo(dtype).eps)
        fastce.cross_entropy_from_probs(np.array([[1.0 + 4 * eps, 0.0]]).astype(dtype), [0])
        with pytest.raises(ValueError, match="probability"):
            fastce.cross_entropy_from_probs(np.array([[1.0 + 8 * eps, 0.0]]).astype(dtype), [0])


def test_order_of_keras():
    """The order (target, probs) gave 637.56."""
    for one_hot in ([[0, 1, 0], [0, 0, 1]], np.eye(3)[[1, 2]], np.eye(3)[[1, 2]] == 1.0):
        with pytest.raises(ValueError, match="Keras has"):
            fastce.cross_entropy_from_probs(one_hot, P)
    with pytest.raises(ValueError, match="Keras has"):
        fastce.cross_entropy_from_probs([[0, 1, 0]], P[:1])
    with pytest.raises(ValueError, match="Keras has"):
        fastce.cross_entropy_from_probs(Y, P)
    fastce.cross_entropy_from_probs([[0.0, 1.0, 0.0]], P[:1])  # may be a prediction


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_range_of_weights_of_elements(name):
    """Seen to fail: 1e39 gave NaN or inf, and 1e-46 left an element out."""
    x, probs, last = np.array([[np.inf, 1.0]], np.float32), np.array([[1.0, 0.5]], np.float32), np.ones((70, 300))
    last[69, 298] = 1e39
    for function, values in (
        (fastce.binary_cross_entropy_with_logits, x),
        (fastce.binary_cross_entropy_with_logits_and_grad, x),
        (fastce.binary_cross_entropy_from_probs, probs),
        (fastce.binary_cross_entropy_from_probs_and_grad, probs),
    ):
        for given, element in ((1e39, name), ([1e-46, 1.0], rf"{name}\[0\]"), ([[1.0, -1e39]], rf"{name}\[0, 1\]")):
            with pytest.raises(ValueError, match=rf"^{element} must be 0 or within the range of float32, .* got"):
                function(values, [[1, 0]], **{name: given})
            function(values.astype(float), [[1, 0]], **{name: given})
        for given in (last, np.asfortranarray(last), last.astype(">f8")):
            with pytest.raises(ValueError, match=rf"{name}\[69, 298\]"):
                function(np.full((70, 300), 0.5, np.float16), np.ones((70, 300)), **{name: given})
        function(values, [[1, 0]], **{name: [0.0, 1e-40]})
        function(values[:0], np.ones((0, 2)), **{name: np.ones((0, 2))})


def test_strings_in_an_array_of_objects():
    """A column of pandas holds strings as objects. Seen to fail: the message had no advice."""
    for labels, advice in (
        (["cat", "dog"], r"np\.unique\(target, return_inverse=True\)"),
        (["0", "2"], r"astype\(int\)"),
    ):
        with pytest.raises(TypeError, match=f"dtype object.*{advice}"):
            fastce.cross_entropy(X, np.array(labels, object))
