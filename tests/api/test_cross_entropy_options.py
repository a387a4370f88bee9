"""Every option of cross_entropy in any combination, against the oracle; and z-loss, cap, mask and others alone."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

import fastce
from tests.helpers import SIZES, assert_same_bits, assert_within, computed, labels_for, logits, name_of, soft_for
from tests.oracle import reference
from tests.oracle.compare import assert_matches_oracle
from tests.oracle.layouts import LAYOUTS

SHAPES = [((7, 5), -1), ((40, 10), -1), ((9, 70), -1), ((3, 1100), -1), ((4, 20, 3), 1), ((12, 33), 0), ((6,), 0)]
NUMBERS = {
    "z_loss": [0.1, 1e-4],
    "logit_scale": [0.7, -1.5],
    "softcap": [4.0, 0.5],
    "normalizer": [3.5],
    "label_smoothing": [0.1, 0.5, 1.0],
    "ignore_index": [-100, 1, 1000],
}
ARRAYS = ["where", "weight", "sample_weight"]
IN_TORCH = {"z_loss", "logit_scale", "softcap", "label_smoothing", "ignore_index", "weight", "reduction", "axis"}
CASES = {
    "case": st.sampled_from(SHAPES),
    "dtype": st.sampled_from(SIZES),
    "layout": st.sampled_from(sorted(LAYOUTS)),
    "numbers": st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in NUMBERS.items()}),
    "arrays": st.sets(st.sampled_from(ARRAYS)),
    "reduction": st.sampled_from(["mean", "sum", "none"]),
    "grad_output": st.sampled_from([None, -1.7, "each"]),
    "soft": st.booleans(),
    "seed": st.integers(0, 2**16),
}


def arrays_for(rng, shape, axis, names):
    """The options that are arrays; some classes and samples weigh nothing."""
    made = {
        "where": rng.random(shape) > 0.3,
        "weight": rng.integers(0, 5, shape[axis]) / 4,
        "sample_weight": rng.integers(0, 5, np.delete(shape, axis)) / 4,
    }
    return {name: made[name] for name in names}


def check(x, target, *, grad_output=None, layout="C order", **options):
    given = LAYOUTS[layout](x)
    loss, grad = assert_matches_oracle("cross_entropy_and_grad", given, target, grad_output=grad_output, **options)
    np.testing.assert_array_equal(np.asarray(given, np.float64), np.asarray(x, np.float64), "logits were modified")
    if given.flags.writeable:
        in_place = fastce.cross_entropy_and_grad(given, target, grad_output=grad_output, out=given, **options).grad
        assert in_place is given
        np.testing.assert_array_equal(in_place, grad)
    return loss, grad


def check_torch(x, target, loss, grad, *, axis, reduction, grad_output, eps=60, **options):
    """Compare with torch, which has some options and is told the others' formulas, in the dtype computed in."""
    leaf = torch.from_numpy(x.astype(computed(x.dtype))).requires_grad_()
    bent = leaf * options.pop("logit_scale", 1.0)
    cap, z = options.pop("softcap", None), options.pop("z_loss", 0.0)
    bent = (bent if cap is None else cap * torch.tanh(bent / cap)).movedim(axis, min(1, x.ndim - 1))
    soft = target.dtype.kind == "f"
    target = torch.from_numpy(np.moveaxis(target, axis, min(1, x.ndim - 1)).copy() if soft else target)
    weight = options.pop("weight", None)
    weight = None if weight is None else torch.from_numpy(weight).to(leaf.dtype)
    ignored = options.pop("ignore_index", -100)
    if not soft:
        options["ignore_index"] = ignored  # torch refuses it with class probabilities
    theirs = torch.nn.functional.cross_entropy(bent, target, weight=weight, reduction=reduction, **options)
    if z:
        terms = z * torch.logsumexp(bent, min(1, x.ndim - 1)) ** 2
        count = torch.tensor(terms.numel())
        if not soft:
            kept = target != ignored
            terms = terms * kept
            count = (kept if weight is None else weight[torch.where(kept, target, 0)] * kept).sum()
        theirs = theirs + {"none": terms, "sum": terms.sum(), "mean": terms.sum() / count}[reduction]
    upstream = torch.as_tensor(1.0 if grad_output is None else grad_output, dtype=leaf.dtype).expand(theirs.shape)
    theirs.backward(upstream)
    expected, theirs = leaf.grad.numpy(), theirs.detach().numpy()
    assert_within(loss, theirs, eps, scale=np.maximum(np.abs(theirs), 1.0), message="torch's loss")
    size = max(float(np.nan_to_num(np.abs(expected)).max(initial=0)), 1e-30)
    assert_within(grad, expected, 4 if x.dtype.itemsize == 2 else eps, scale=size, message="torch's gradient")


@hypothesis.given(st.fixed_dictionaries(CASES))
@hypothesis.settings(max_examples=16)
def test_combinations(drawn):
    """Any options, dtype and layout: the oracle agrees, and so does torch where it can say the same."""
    (shape, axis), rng = drawn["case"], np.random.default_rng(drawn["seed"])
    x = logits(rng, shape, drawn["dtype"])
    options = {**drawn["numbers"], **arrays_for(rng, shape, axis, drawn["arrays"])}
    if drawn["soft"]:
        target = soft_for(rng, shape, axis, computed(x.dtype))
    else:
        target = np.asarray(labels_for(rng, shape, axis))
        if "where" in options and (rng.random() < 0.8 or len(drawn["arrays"]) > 1):
            # others cost +inf, and 0 times that would be NaN
            np.put_along_axis(options["where"], np.expand_dims(target, axis), True, axis)
        target = np.where(rng.random(target.shape) < 0.2, options.get("ignore_index", -100), target)
    reduction, grad_output, layout = drawn["reduction"], drawn["grad_output"], drawn["layout"]
    if grad_output == "each":
        grad_output = rng.normal(size=np.delete(shape, axis)) if reduction == "none" else 0.6
    options |= {"axis": axis, "reduction": reduction}
    if reduction != "mean":
        options.pop("normalizer", None)
    loss, grad = check(x, target, grad_output=grad_output, layout=layout, **options)
    if set(options) <= IN_TORCH:
        check_torch(x, target, loss, grad, grad_output=grad_output, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_layouts(layout, soft, rng):
    x = logits(rng, (7, 9))
    target = soft_for(rng, x.shape) if soft else labels_for(rng, x.shape)
    options = {"softcap": 3.0, "z_loss": 0.01, "where": np.arange(9) != 40, "logit_scale": -1.5}
    expected = fastce.cross_entropy_and_grad(x, target, **options)
    loss, grad = fastce.cross_entropy_and_grad(LAYOUTS[layout](x), target, **options)
    assert_within(loss, expected.loss, 8)
    assert_within(grad, expected.grad, 8, scale=0.2)


@pytest.mark.parametrize("shape", [(5003, 10), (1501, 40), (300, 1100), (2, 140_001)], ids=name_of)
def test_many(shape, rng):
    """Several blocks of rows, and the parallel kernels."""
    x, target = logits(rng, shape, np.float32), labels_for(rng, shape)
    where = np.ones(shape, bool)
    where[:, 3] = False
    target[target == 3] = 4
    options = {"softcap": 5.0, "z_loss": 0.05, "where": where, "reduction": "sum"}
    loss, _ = check(x, target, **options)
    assert_same_bits(fastce.cross_entropy(x, target, **options), loss)


def test_numeric_derivatives(rng):
    x, target = logits(rng, (3, 6)), labels_for(rng, (3, 6))
    options = {"softcap": 3.0, "z_loss": 0.2, "logit_scale": 1.3, "label_smoothing": 0.2, "weight": rng.random(6) + 0.5}
    grad = fastce.cross_entropy_and_grad(x, target, **options).grad
    step = 1e-5
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        slope = fastce.cross_entropy(up, target, **options) - fastce.cross_entropy(down, target, **options)
        assert abs(slope / (2 * step) - grad[i]) < 1e-8


def test_torch_with_the_options_written_out(rng):
    x, target = logits(rng, (20, 30)), labels_for(rng, (20, 30))
    leaf = torch.from_numpy(x.copy()).requires_grad_()
    capped = 4.0 * torch.tanh(leaf * 0.5 / 4.0)
    loss = torch.nn.functional.cross_entropy(capped, torch.from_numpy(target), label_smoothing=0.1)
    loss = loss + 0.3 * (torch.logsumexp(capped, 1) ** 2).mean()
    loss.backward()
    options = {"softcap": 4.0, "logit_scale": 0.5, "z_loss": 0.3, "label_smoothing": 0.1}
    ours = fastce.cross_entropy_and_grad(x, target, **options)
    assert abs(ours.loss - loss.item()) < 1e-13
    np.testing.assert_allclose(ours.grad, leaf.grad.numpy(), rtol=0, atol=1e-15)


def test_normalizer_of_parts_of_a_batch(rng):
    """Gradients of micro-batches add up to that of the batch."""
    x, target = logits(rng, (40, 12)), labels_for(rng, (40, 12))
    target[5] = -100
    whole = fastce.cross_entropy_and_grad(x, target)
    parts = [fastce.cross_entropy_and_grad(x[k : k + 10], target[k : k + 10], normalizer=39) for k in range(0, 40, 10)]
    assert_within(np.float64(sum(p.loss for p in parts)), whole.loss, 8)
    assert_within(np.concatenate([p.grad for p in parts]), whole.grad, 4)
    nothing = fastce.cross_entropy_and_grad(x, np.full(40, -100), normalizer=39)
    assert nothing.loss == 0
    assert not nothing.grad.any()


def test_masked_classes_are_as_if_they_were_not_there(rng):
    x, there = logits(rng, (6, 9)), np.array([1, 1, 0, 1, 0, 1, 1, 1, 0], bool)
    target = np.array([0, 1, 1, 4, 5, 2])  # among those that are there
    numbers = np.flatnonzero(there)
    weight = rng.random(9) + 0.5
    options = {"label_smoothing": 0.3, "z_loss": 0.1}
    expected = fastce.cross_entropy_and_grad(x[:, there], target, weight=weight[there], **options)
    x[:, ~there] = np.nan
    loss, grad = fastce.cross_entropy_and_grad(x, numbers[target], weight=weight, where=there, **options)
    assert_within(loss, expected.loss, 4)
    assert_within(grad[:, there], expected.grad, 16)
    assert not grad[:, ~there].any()


@pytest.mark.parametrize(
    "options", [{"softcap": 5.0}, {"logit_scale": 2.0}, {"where": [True, True, True, False]}], ids=str
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ignored_samples_are_not_looked_at(bad, options, rng):
    """Whatever acts on the logits first: their gradient is 0, and not -0."""
    x, target = logits(rng, (5, 4)), np.array([0, -100, 2, -100, 1])
    x[1], x[3, 2] = bad, bad
    loss, grad = fastce.cross_entropy_and_grad(x, target, **options)
    kept = target != -100
    expected = fastce.cross_entropy_and_grad(x[kept], target[kept], **options)
    assert loss == expected.loss
    np.testing.assert_array_equal(grad[kept], expected.grad)
    np.testing.assert_array_equal(grad[~kept], 0)
    assert not np.signbit(grad[~kept]).any()


def test_samples_without_a_class_are_ignored(rng):
    x, target = logits(rng, (4, 5)), labels_for(rng, (4, 5))
    where = np.ones((4, 5), bool)
    where[2] = False
    kept = [0, 1, 3]
    x[2] = np.nan
    for t in (target, soft_for(rng, x.shape)):
        expected = fastce.cross_entropy_and_grad(x[kept], t[kept])
        loss, grad = fastce.cross_entropy_and_grad(x, t, where=where)
        assert_within(loss, expected.loss, 4)
        assert_within(grad[kept], expected.grad, 8, scale=0.2)
        assert not grad[2].any()


def test_a_label_that_takes_no_part_costs_everything():
    loss, grad = fastce.cross_entropy_and_grad(np.zeros((1, 3)), [0], where=[False, True, True])
    assert loss == np.inf
    np.testing.assert_array_equal(grad, [[0, 0.5, 0.5]])


def test_no_effect_at_their_defaults(rng):
    x, target = logits(rng, (50, 40), np.float32), labels_for(rng, (50, 40))
    plain = fastce.cross_entropy_and_grad(x, target)
    defaults = {"z_loss": 0.0, "logit_scale": 1.0, "softcap": None, "normalizer": None, "where": None}
    same = fastce.cross_entropy_and_grad(x, target, **defaults)
    assert same.loss == plain.loss
    np.testing.assert_array_equal(same.grad, plain.grad)
    all_there = fastce.cross_entropy_and_grad(x, target, where=True)
    assert all_there.loss == plain.loss
    np.testing.assert_array_equal(all_there.grad, plain.grad)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"z_loss": "1"}, TypeError, "z_loss must be a real number, got '1'"),
        ({"logit_scale": math.nan}, ValueError, "logit_scale must be finite, got nan"),
        ({"softcap": 0.0}, ValueError, "softcap must be positive and finite, got 0.0"),
        ({"softcap": -1}, ValueError, "softcap must be positive and finite, got -1"),
        ({"normalizer": 0}, ValueError, "normalizer must be positive where samples count, got 0.0 for 2 of them"),
        ({"where": [1, 0, 1]}, TypeError, "where must be boolean, got dtype int64"),
        ({"where": [True, False]}, ValueError, r"where must broadcast to the shape \(2, 3\), got \(2,\)"),
    ],
    ids=str,
)
def test_errors(options, error, message):
    out = np.full((2, 3), 7.0)
    with pytest.raises(error, match=message):
        fastce.cross_entropy_and_grad(np.zeros((2, 3)), [0, 1], out=out, **options)
    assert (out == 7.0).all()
    with pytest.raises(error, match=message):
        batch = {name: value for name, value in options.items() if name in ("sample_weight", "where", "normalizer")}
        rest = {name: value for name, value in options.items() if name not in batch}
        fastce.CrossEntropyLoss(**rest)(np.zeros((2, 3)), [0, 1], **batch)
    with pytest.raises(error, match=message):
        fastce.cross_entropy_backward(np.zeros((2, 3)), [0, 1], np.zeros((2, 2)), out=out, **options)
    assert (out == 7.0).all()


def test_capped_tails_keep_their_digits():
    """The slope of the cap far out, where 1 - tanh² of a rounded tanh would be nothing."""
    x = np.array([[60.0, -55.0, 0.0]])
    grad = fastce.cross_entropy_and_grad(x, [1], softcap=4.0).grad
    assert_within(grad, reference.cross_entropy_grad(x, [1], softcap=4.0), 40)
    assert grad[0, 0] != 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_that_is_not_there_costs_all(smoothing):
    x, target = np.zeros((2, 4)), np.array([1, 2])
    where = np.array([[True, False, True, True], [True, True, True, False]])
    options = {"where": where, "label_smoothing": smoothing, "weight": [1.0, 2.0, 3.0, 4.0], "reduction": "none"}
    loss, grad = fastce.cross_entropy_and_grad(x, target, **options)
    assert loss[0] == np.inf
    assert np.isfinite(loss[1])
    assert not grad[~where].any()


def test_nothing_but_ignored_samples_with_a_mask():
    options = {"where": np.ones((2, 4), bool), "label_smoothing": 0.1}
    loss, grad = fastce.cross_entropy_and_grad(np.zeros((2, 4)), [-100, -100], **options)
    assert np.isnan(loss)
    assert not grad.any()
