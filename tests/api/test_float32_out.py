"""Results of 16 bits may be written to float32: gradients of means would underflow."""

import numpy as np
import pytest

import fastce
from tests.functions import CALLS
from tests.helpers import BFLOAT16
from tests.inputs import FewInputs

SHAPES = [((9, 5), -1), ((9, 40), -1), ((5, 1500), -1), ((3, 7, 20), 1), ((2, 70000), -1)]  # one a regime
GRADIENTS = {
    "cross_entropy": lambda x, y, **o: fastce.cross_entropy_and_grad(x, y, **o).grad,
    "focal_loss": lambda x, y, **o: fastce.focal_loss_and_grad(x, y, gamma=2.0, **o).grad,
    "softcap": lambda x, y, **o: fastce.cross_entropy_and_grad(x, y, softcap=5.0, **o).grad,
    "hessian": lambda x, y, **o: fastce.cross_entropy_grad_and_hessian(x, y, **o).grad,
    "hvp": lambda x, y, **o: fastce.cross_entropy_hvp(x, y, x, **o),
    "kl_divergence": lambda x, y, axis, **o: fastce.kl_divergence_and_grad(x, np.flip(x, axis), axis=axis, **o).grad,
    "binary": lambda x, y, axis, **o: fastce.binary_cross_entropy_with_logits_and_grad(x, np.eye(*x.shape), **o).grad,
    "softmax": lambda x, y, **o: fastce.softmax(x, **o),
    "log_softmax": lambda x, y, **o: fastce.log_softmax(x, **o),
    "softmax_vjp": lambda x, y, **o: fastce.softmax_vjp(x, x, **o),
}


# bfloat16 differs from float16 in loads and stores alone
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, np.float16) for name in GRADIENTS), ("cross_entropy", BFLOAT16), ("softmax", BFLOAT16)]
)
def test_equals_rounding_once(name, dtype):
    """Rounded to 16 bits, it is what a result of 16 bits holds; rows are those of float32 logits."""
    for shape, axis in SHAPES if name == "cross_entropy" else SHAPES[:1]:
        rng = np.random.default_rng(0)
        x = rng.normal(size=shape).astype(dtype)
        y = rng.integers(0, shape[axis], np.delete(shape, axis))
        narrow = GRADIENTS[name](x, y, axis=axis)
        out = np.full(shape, np.nan, np.float32)
        assert GRADIENTS[name](x, y, axis=axis, out=out) is out
        np.testing.assert_array_equal(out.astype(dtype), narrow)
        np.testing.assert_allclose(out, GRADIENTS[name](x.astype(np.float32), y, axis=axis), rtol=2e-6, atol=1e-12)
        strided = np.full((*shape, 2), np.nan, np.float32)[..., 0]
        GRADIENTS[name](np.asfortranarray(x), y, axis=axis, out=strided)
        np.testing.assert_allclose(strided, out, rtol=2e-6, atol=1e-12)


def test_soft_targets_and_probabilities():
    """So with class probabilities, in CrossEntropyLoss, and from probabilities."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5)).astype(np.float16)
    probs = rng.dirichlet(np.ones(5), 9).astype(np.float16)
    out = np.empty((9, 5), np.float32)
    narrow = fastce.cross_entropy_and_grad(x, probs).grad
    np.testing.assert_array_equal(fastce.cross_entropy_and_grad(x, probs, out=out).grad.astype(np.float16), narrow)
    criterion = fastce.CrossEntropyLoss()
    criterion(x, probs)
    np.testing.assert_array_equal(criterion.backward(out=out).astype(np.float16), criterion.backward())
    narrow = fastce.cross_entropy_from_probs_and_grad(probs, [0] * 9).grad
    fastce.cross_entropy_from_probs_and_grad(probs, [0] * 9, out=out)
    np.testing.assert_array_equal(out.astype(np.float16), narrow)


def test_hessian_out_and_the_last_layer():
    """Each result may have its own dtype."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 5)).astype(np.float16)
    found = fastce.cross_entropy_grad_and_hessian(x, [0] * 9)
    wide = np.empty((9, 5), np.float32)
    fastce.cross_entropy_grad_and_hessian(x, [0] * 9, hessian_out=wide)
    np.testing.assert_array_equal(wide.astype(np.float16), found.hessian)
    weight = rng.normal(size=(7, 5)).astype(np.float16)
    outs = {"d_hidden_out": np.empty((9, 5), np.float32), "d_weight_out": np.empty((7, 5), np.float32)}
    narrow = fastce.linear_cross_entropy_and_grad(x, weight, [0] * 9)
    found = fastce.linear_cross_entropy_and_grad(x, weight, [0] * 9, **outs)
    assert found.d_weight is outs["d_weight_out"]
    np.testing.assert_array_equal(found.d_weight.astype(np.float16), narrow.d_weight)
    np.testing.assert_array_equal(found.d_hidden.astype(np.float16), narrow.d_hidden)


@pytest.mark.parametrize("options", [{}, {"b": np.float16(2)}, {"b": [1.0, -0.5, 2.0, 1.0, 0.5], "return_sign": True}])
def test_logsumexp(options):
    """With factors of the exponentials as well, whose sign is in 16 bits."""
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float16)
    options = {name: np.asarray(v, np.float16) if name == "b" else v for name, v in options.items()}
    exact = {name: np.asarray(v, np.float32) if name == "b" else v for name, v in options.items()}
    out = np.empty(9, np.float32)
    found = fastce.logsumexp(x, out=out, **options)
    if options.get("return_sign"):
        assert found[1].dtype == np.float16
    want = fastce.logsumexp(x.astype(np.float32), **exact)
    np.testing.assert_allclose(out, want[0] if options.get("return_sign") else want, rtol=1e-6)


def test_no_underflow():
    """The mean over many rows of float16 has gradients below its range."""
    x, y = np.zeros((70_000, 10), np.float16), np.zeros(70_000, int)
    out = np.empty(x.shape, np.float32)
    grad = fastce.cross_entropy_and_grad(x, y, grad_output=1e-3, out=out).grad
    np.testing.assert_allclose(grad[:, 1], np.float32(1e-4 / 70_000), rtol=1e-6)


def test_other_dtypes_are_refused():
    """float32 logits take no float64, and float64 no float32."""
    for dtype, other in ((np.float32, np.float64), (np.float64, np.float32), (np.float16, np.float64)):
        with pytest.raises(ValueError, match="out must have shape"):
            fastce.cross_entropy_and_grad(np.zeros((2, 3), dtype), [0, 1], out=np.empty((2, 3), other))


@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.function.outs])
def test_every_function(name):
    """Each result that is written to ``out``, contiguous or strided."""
    call = CALLS[name]
    arrays = call.arrays(FewInputs(np.float16))
    narrow = call.run(arrays)
    of_16_bits = [a for a in narrow if a is not None and a.dtype == np.float16]
    for stride in (1, 2):
        outs = {
            name: np.full((*like.shape, stride), np.nan, np.float32)[..., 0]
            for name, like in zip(call.function.outs, of_16_bits, strict=False)
        }
        for a, b in zip(narrow, call.run(arrays, **outs), strict=True):
            if a is not None:
                np.testing.assert_array_equal(np.asarray(b).astype(a.dtype), a)
        for out in outs.values():
            assert not np.isnan(out).any()
