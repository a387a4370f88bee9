"""The last layer and its loss in one: results where they are wanted, and what is refused."""

import copy
import pickle
import re

import numpy as np
import pytest

from fastce import CrossEntropyLoss, linear_cross_entropy, linear_cross_entropy_and_grad
from tests.helpers import HALF, finfo, name_of
from tests.linear.problem import CHUNKED, REGIMES, D, N, assert_close, enter, in_dtype, make_problem
from tests.oracle.layouts import LAYOUTS


@pytest.fixture
def case(rng):
    return make_problem(rng)


@pytest.fixture(params=REGIMES)
def regime(request, monkeypatch):
    return enter(request.param, monkeypatch)


# --- results where they are wanted ---------------------------------------------------


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every other row", "classes reversed", "unaligned"])
@pytest.mark.parametrize("dtype", [*HALF, np.dtype(np.float32)], ids=name_of)
def test_out_and_accumulate(case, dtype, layout, regime):
    hidden, weight, bias, target = in_dtype(case, dtype)
    expected = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **regime)
    arrange = LAYOUTS[layout]
    outs = [arrange(np.full_like(x, 2)) for x in (hidden, weight, bias)]
    given = dict(zip(("d_hidden_out", "d_weight_out", "d_bias_out"), outs, strict=True))
    found = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **given, **regime)
    assert all(ours is out for ours, out in zip(found[1:], outs, strict=True))
    eps = float(finfo(dtype).eps)
    assert_close(found, expected, 16 * eps if dtype == np.float32 else eps)
    linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **given, accumulate=True, **regime)
    doubled = [expected.loss, *(2 * x.astype(np.float64) for x in expected[1:])]
    assert_close((expected.loss, *outs), doubled, 16 * eps if dtype == np.float32 else 1.5 * eps)


def test_sums_of_16_bit_gradients_are_rounded_once():
    """Sums of thirds, a chunk's 42.67 more each time: as float16 they would drift where the spacing is 1."""
    n = 6000
    hidden, weight = np.ones((n, 1), np.float16), np.zeros((3, 1), np.float16)
    target = np.zeros(n, int)
    found = linear_cross_entropy_and_grad(hidden, weight, target, reduction="sum", **CHUNKED)
    np.testing.assert_array_equal(found.d_weight, [[-4000], [2000], [2000]])


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("dtype", HALF, ids=name_of)
def test_float32_out_of_16_bit_arrays(case, dtype, accumulate, regime):
    """What is written is the sums, without a rounding to 16 bits, of which mean gradients would underflow."""
    hidden, weight, bias, target = in_dtype(case, dtype)
    wide = linear_cross_entropy_and_grad(
        *(x.astype(np.float32) for x in (hidden, weight)), target, bias=bias.astype(np.float32), grad_output=1e-6,
        **regime,
    )  # fmt: skip
    outs = [np.full(x.shape, 2**-20, np.float32) for x in (hidden, weight, bias)]
    given = dict(zip(("d_hidden_out", "d_weight_out", "d_bias_out"), outs, strict=True))
    found = linear_cross_entropy_and_grad(
        hidden, weight, target, bias=bias, grad_output=1e-6, **given, accumulate=accumulate, **regime
    )
    assert all(ours is out for ours, out in zip(found[1:], outs, strict=True))
    before = 2**-20 if accumulate else 0
    assert_close(found, [wide.loss, *(x + np.float32(before) for x in wide[1:])], 4e-6)
    assert np.max(np.abs(found.d_weight - before)) < 1e-6


def test_float32_out_beside_float64(case, regime):
    """The sums are float64 where one array is; a float32 array takes the gradient of one of 16 bits alone."""
    hidden, weight, _, target = case
    half = hidden.astype(np.float16)
    out = np.ones(hidden.shape, np.float32)
    found = linear_cross_entropy_and_grad(half, weight, target, d_hidden_out=out, **regime)
    expected = linear_cross_entropy_and_grad(half.astype(float), weight, target, **regime)
    np.testing.assert_array_equal(found.d_hidden, expected.d_hidden.astype(np.float32))
    with pytest.raises(ValueError, match=r"d_weight_out must have shape .* and dtype float64, got"):
        linear_cross_entropy_and_grad(half, weight, target, d_weight_out=weight.astype(np.float32))


def test_result(case):
    """A tuple of four, with by-products that pickles and copies keep."""
    hidden, weight, bias, target = case
    result = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, z_loss=0.1)
    assert isinstance(result, tuple)
    assert result._fields == ("loss", "d_hidden", "d_weight", "d_bias")
    assert repr(result).startswith("LinearCrossEntropy(loss=")
    for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        assert type(again) is type(result)
        np.testing.assert_array_equal(again.lse, result.lse)
        assert again.z_loss == result.z_loss


@pytest.mark.parametrize("grad_output", [1.0, 0.0])
def test_by_products_are_those_of_the_object(case, grad_output, regime):
    """With an upstream gradient of 0 as well, where no gradient is computed."""
    hidden, weight, bias, target = case
    options = {"z_loss": 0.1, "logit_scale": 0.5, "reduction": "sum"}
    found = linear_cross_entropy_and_grad(
        hidden, weight, target, bias=bias, grad_output=grad_output, **options, **regime
    )
    criterion = CrossEntropyLoss(**options)
    criterion(hidden @ weight.T + bias, target)
    np.testing.assert_allclose(found.lse, criterion.lse, rtol=1e-13)
    np.testing.assert_allclose(found.z_loss, criterion.parts.z_loss, rtol=1e-13)
    shaped = linear_cross_entropy_and_grad(hidden.reshape(3, -1, D), weight, target.reshape(3, -1), **regime)
    assert shaped.lse.shape == (3, N // 3)


def test_halves_of_a_batch_add_up(case):
    hidden, weight, bias, target = case
    count = np.sum(target != -100)
    whole = linear_cross_entropy_and_grad(hidden, weight, target, bias=bias)
    d_weight, d_bias, loss = np.zeros_like(weight), np.zeros_like(bias), 0.0
    for part in (slice(0, 100), slice(100, N)):
        loss += linear_cross_entropy_and_grad(
            hidden[part], weight, target[part], bias=bias, normalizer=count,
            d_weight_out=d_weight, d_bias_out=d_bias, accumulate=True,
        ).loss  # fmt: skip
    assert_close((loss, None, d_weight, d_bias), whole, 1e-13)


@pytest.mark.parametrize("accumulate", [False, True])
def test_d_hidden_in_place(case, accumulate, regime):
    hidden, weight, _, target = case
    expected = linear_cross_entropy_and_grad(hidden, weight, target)
    out = hidden.copy()
    found = linear_cross_entropy_and_grad(out, weight, target, d_hidden_out=out, accumulate=accumulate, **regime)
    assert found.d_hidden is out
    np.testing.assert_allclose(out, expected.d_hidden + (hidden if accumulate else 0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.d_weight, expected.d_weight, rtol=0, atol=1e-14)


def test_inputs_are_left_alone(case, regime):
    arrays = in_dtype(case, np.float32)
    copies = [x.copy() for x in arrays]
    for x in arrays:
        x.flags.writeable = False
    hidden, weight, bias, target = arrays
    options = {"softcap": 3.0, "z_loss": 0.1, "logit_scale": 0.5, "sample_weight": np.linspace(0, 1, N)}
    linear_cross_entropy_and_grad(hidden, weight, target, bias=bias, **options, **regime)
    for x, before in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(x, before)


# --- what is refused ----------------------------------------------------------------

H, W, T = np.ones((2, 3)), np.ones((4, 3)), np.zeros(2, int)
MEMORY = np.ones(100)
REFUSED = [
    (dict(hidden=1.0), ValueError, "hidden must have at least one dimension, the features; got a scalar"),
    (
        dict(weight=np.ones((3, 4))),
        ValueError,
        "weight has shape (3, 4), expected (V, 3): hidden has shape (2, 3), with the features along its last axis; "
        "weight.T would fit",
    ),
    (dict(weight=np.ones(3)), ValueError, "weight has shape (3,), expected (V, 3)"),
    (dict(hidden=H * 1j), TypeError, "hidden must hold real numbers"),
    (dict(weight=W.astype(str)), TypeError, "weight must hold real numbers"),
    (dict(target=[0, 1, 2]), ValueError, "target has shape (3,), expected (2,), a class index for each row of hidden"),
    (dict(target=[[0, 1]]), ValueError, "np.reshape(target, (2,)) would fit"),
    (dict(target=[0.0, 1.0]), TypeError, "class indices must be integers, got dtype float64; use target.astype(int)"),
    (dict(target=[0, 4]), IndexError, "target[1] is 4, expected a class index from 0 to 3 or ignore_index -100"),
    (dict(target=[-1, 0], normalizer=2.0), IndexError, "target[0] is -1"),
    (dict(bias=np.ones(3)), ValueError, "bias must have shape (4,), one per class, got (3,)"),
    (dict(class_weight=np.ones(3)), ValueError, "class_weight must have shape (4,), one per class, got (3,)"),
    (dict(sample_weight=np.ones(3)), ValueError, "sample_weight must have shape (2,), one per sample, got (3,)"),
    (dict(sample_weight=["a", "b"]), TypeError, "sample_weight must hold real numbers"),
    (dict(sample_weight=[1.0, 0.0], target=[0, 4]), IndexError, "target[1] is 4, expected a class index from 0 to 3"),
    (dict(sample_weight=[1.0, 0.0], normalizer=0), ValueError, "got 0.0 for 1 of them"),
    (dict(logit_scale=np.inf), ValueError, "logit_scale must be finite, got inf"),
    (dict(logit_scale="a"), TypeError, "logit_scale must be a real number, got 'a'"),
    (dict(label_smoothing=1.5), ValueError, "label_smoothing must be from 0 to 1, got 1.5"),
    (dict(z_loss="a"), TypeError, "z_loss must be a real number, got 'a'"),
    (dict(softcap=0), ValueError, "softcap must be positive and finite, got 0"),
    (dict(softcap=np.nan), ValueError, "softcap must be positive and finite, got nan"),
    (dict(reduction="max"), ValueError, "reduction must be 'mean', 'sum' or 'none', got 'max'"),
    (dict(normalizer=0), ValueError, "normalizer must be positive where samples count, got 0.0"),
    (dict(normalizer=[2]), ValueError, "normalizer must be a scalar here, got an array of shape (1,)"),
    (dict(max_bytes=0), ValueError, "max_bytes must be at least 1, got 0"),
    (dict(max_bytes=1e6), TypeError, "max_bytes must be an integer, got 1000000.0"),
    (dict(ignore_index=0.5), TypeError, "ignore_index must be an integer, got 0.5"),
    (dict(target=np.ma.array([0, 1])), TypeError, "target must not be a masked array"),
]
REFUSED_OUT = [
    (dict(grad_output=[1.0, 1.0]), ValueError, "grad_output must be a scalar here"),
    (dict(grad_output=np.ones(3), reduction="none"), ValueError, "grad_output must have shape (2,), the loss's"),
    (dict(d_hidden_out=[1.0]), TypeError, "d_hidden_out must be a NumPy array, got list"),
    (dict(d_weight_out=np.ones((3, 4))), ValueError, "d_weight_out must have shape (4, 3) and dtype float64"),
    (dict(d_weight_out=np.ones((4, 3), np.float32)), ValueError, "d_weight_out must have shape (4, 3) and dtype"),
    (dict(d_bias_out=np.ones(4)), ValueError, "d_bias_out has no gradient to take, as there is no bias"),
    (dict(d_weight_out=W), ValueError, "d_weight_out must not overlap weight"),
    (dict(weight=MEMORY[:12].reshape(4, 3), d_hidden_out=MEMORY[6:12].reshape(2, 3)), ValueError,
     "d_hidden_out must not overlap weight"),
    (dict(hidden=MEMORY[:6].reshape(2, 3), d_hidden_out=MEMORY[3:9].reshape(2, 3)), ValueError,
     "d_hidden_out must not overlap hidden, unless it is the very same array"),
    (dict(sample_weight=MEMORY[4:6], d_weight_out=MEMORY[:12].reshape(4, 3)), ValueError,
     "d_weight_out must not overlap sample_weight"),
    (dict(d_hidden_out=MEMORY[:6].reshape(2, 3), d_weight_out=MEMORY[:12].reshape(4, 3)), ValueError,
     "d_weight_out must not overlap d_hidden_out"),
    (dict(bias=MEMORY[:4], d_bias_out=MEMORY[:4]), ValueError, "d_bias_out must not overlap bias"),
    (dict(d_weight_out=np.broadcast_to(1.0, (4, 3))), ValueError, "d_weight_out must be writable"),
]  # fmt: skip


@pytest.mark.parametrize("options, error, message", REFUSED + REFUSED_OUT, ids=lambda v: v if type(v) is str else "")
def test_refused(options, error, message):
    arguments = {"hidden": H, "weight": W, "target": T, **options}
    arrays = [arguments.pop(name) for name in ("hidden", "weight", "target")]
    with pytest.raises(error, match=re.escape(message)):
        linear_cross_entropy_and_grad(*arrays, **arguments)
    if not options.keys() & {"grad_output", "d_hidden_out", "d_weight_out", "d_bias_out"}:
        with pytest.raises(error, match=re.escape(message)):
            linear_cross_entropy(*arrays, **arguments)


def test_nothing_is_written_before_an_error():
    outs = {"d_hidden_out": np.full((2, 3), 7.0), "d_weight_out": np.full((4, 3), 7.0), "d_bias_out": np.full(4, 7.0)}
    with pytest.raises(IndexError, match=re.escape("target[1] is 9")):
        linear_cross_entropy_and_grad(H, W, [0, 9], bias=np.ones(4), **outs)
    assert all(np.all(x == 7) for x in outs.values())
