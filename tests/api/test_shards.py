"""fastce.shards: statistics of some of the classes, merging them, and results from them, against whole arrays."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastce
from fastce import shards
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS
from tests.helpers import (
    BFLOAT16,
    DTYPES,
    HALF,
    SIZES,
    assert_same_bits,
    assert_within,
    computed,
    finfo,
    labels_for,
    logits,
    name_of,
    peak_memory,
    soft_for,
)
from tests.oracle import oracles
from tests.oracle.compare import compare
from tests.oracle.layouts import LAYOUTS
from tests.shards import cross_entropy_and_grad, cuts, log_softmax, logsumexp, part, softmax, thirds

# a shape of each regime, and the class axis
SHAPES = {
    "tiles": ((37, 10), -1),
    "short rows": ((21, 45), -1),
    "rows": ((5, 2600), -1),
    "long rows": ((3, 40_001), -1),
    "columns": ((2, 37, 19), 1),
}
ALL = {"label_smoothing": 0.1, "z_loss": 0.01, "logit_scale": 0.75, "softcap": 9.0}
# by name: whether the target is class probabilities, options, and arrays among them
KINDS = {
    "labels": (False, {}, ()),
    "weights": (False, {}, ("weight", "sample_weight")),
    "smoothed": (False, {"label_smoothing": 0.1}, ()),
    "all": (False, ALL, ("weight", "sample_weight")),
    "probabilities": (True, {}, ()),
    "probabilities, all": (True, ALL, ("weight", "sample_weight")),
}
FLOAT32 = np.dtype(np.float32)
FEW_AND_MANY = ("tiles", "rows")  # classes; where kernels take seconds to compile, these stand for all regimes
REGIMES_AND_DTYPES = pytest.mark.parametrize(
    ("regime", "dtype"),
    [(regime, dtype) for regime in SHAPES for dtype in SIZES if dtype == FLOAT32 or regime in FEW_AND_MANY],
    ids=name_of,
)


def is_tried(regime, kind, dtype):
    """Options take the same code in all dtypes, which differ in loads and stores, and much of it in all regimes."""
    if dtype != FLOAT32:
        return kind == "all" and regime in FEW_AND_MANY
    return regime in FEW_AND_MANY or "all" in kind


CASES = pytest.mark.parametrize(
    ("regime", "kind", "dtype"),
    [case for case in itertools.product(SHAPES, KINDS, DTYPES) if is_tried(*case)],
    ids=name_of,
)


def stops_of(classes, count):
    """Where so many shards end: evenly, unevenly, and with empty ones."""
    if count < 7:
        return tuple(classes * k // count for k in range(1, count))
    return 1, 1, classes // 2, classes // 2 + 3, classes - 1, classes


def case(rng, shape, axis, kind, dtype):
    """Logits, target and options."""
    is_soft, options, arrays = KINDS[kind]
    samples = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
    given = {name: rng.random(shape[axis] if name == "weight" else samples) for name in arrays}
    x = logits(rng, shape, dtype)
    if is_soft:
        return x, soft_for(rng, shape, axis, dtype=computed(dtype)), {**options, **given}
    target = labels_for(rng, shape, axis)
    target.flat[0] = -100
    return x, target, {**options, **given}


def bound(dtype, count):
    """How far a result of so many shards may be from that of the whole, in eps: see docs/shards.md."""
    return 2 if computed(dtype) == np.float32 else 2 + count


def assert_near(actual, value, size, dtype, eps, message):
    compare(np.asarray(actual), np.asarray(value, np.longdouble), size, dtype, eps, message)


# --- values ---------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
@CASES
def test_loss_and_gradient(regime, kind, dtype, rng):
    """As exact as the whole, and within the bound of it.

    Seen to fail: with sums below the maximum that are not raised to a higher one, with a gradient at a label of another
    shard, and with a class weight of the first shard for all labels.
    """
    shape, axis = SHAPES[regime]
    x, target, options = case(rng, shape, axis, kind, dtype)
    for count, reduction in itertools.product((1, 2, 3, 7), ("none", "mean")):
        given = {"axis": axis, "reduction": reduction, **options}
        found = cross_entropy_and_grad(x, target, stops=stops_of(shape[axis], count), **given)
        whole = fastce.cross_entropy_and_grad(x, target, **given)
        expected = oracles.cross_entropy_and_grad(x, target, **given)
        for result, near, (value, size), kind_of in zip(found, whole, expected, (computed(dtype), dtype), strict=True):
            message = f"{count} shards, {reduction}:"
            assert_near(result, value, size, kind_of, 4, message)
            if kind_of not in HALF:  # where each of them is rounded on its own
                assert_near(result, near, size, kind_of, bound(dtype, count), message)


@pytest.mark.usefixtures("one_thread")
@REGIMES_AND_DTYPES
def test_softmax_family(regime, dtype, rng):
    """Seen to fail: with a softmax from the rounded log-sum-exp, by 20 eps."""
    shape, axis = SHAPES[regime]
    x = logits(rng, shape, dtype) + dtype.type(80)
    for name, call, eps in (("softmax", softmax, 2.5), ("log_softmax", log_softmax, 2.5), ("logsumexp", logsumexp, 2)):
        ((value, size),) = getattr(oracles, name)(x, axis)
        whole = getattr(fastce, name)(x, axis)
        for count in (1, 3, 7):
            found = call(x, axis, stops=stops_of(shape[axis], count))
            assert_near(found, value, size, dtype, eps, name)
            if dtype not in HALF:
                assert_near(found, whole, size, dtype, bound(dtype, count), name)


@hypothesis.given(
    data=st.data(), classes=st.integers(1, 60), dtype=st.sampled_from([np.float32, np.float64]), count=st.integers(1, 7)
)
def test_any_cuts_and_groups(data, classes, dtype, count):
    """Shards of any length, empty ones too, merged in any groups of neighbours."""
    stops = sorted(data.draw(st.lists(st.integers(0, classes), min_size=count - 1, max_size=count - 1)))
    rng = np.random.default_rng(classes)
    x, target = logits(rng, (9, classes), dtype), labels_for(rng, (9, classes))
    x[0], x[1] = 0.0, np.round(x[1])
    parts = [shards.statistics(x[:, a:b], target, start=a) for a, b in cuts(classes, stops)]
    while len(parts) > 1:
        first = data.draw(st.integers(0, len(parts) - 2))
        last = data.draw(st.integers(first + 2, len(parts)))
        parts[first:last] = [shards.merge(parts[first:last])]
    losses = shards.cross_entropy(parts[0], target, dtype=dtype, reduction="none")
    value, size = oracles.cross_entropy(x, target, reduction="none")[0]
    assert_near(losses, value, size, np.dtype(dtype), 4, "loss")
    assert_near(losses, fastce.cross_entropy(x, target, reduction="none"), size, np.dtype(dtype), 2 + count, "whole")


def test_confident_rows_keep_their_digits(rng):
    """A logit of 60 among 50,257, in four shards. Seen to fail: with the sum of all exponentials, which rounds to 1."""
    x, target = rng.normal(size=(1, 50_257)).astype(np.float32), [30_000]
    x[0, 30_000] = 60
    rest = np.exp(np.delete(x, 30_000, 1).astype(np.longdouble) - 60).sum()
    assert 7e-22 < rest < 7.5e-22
    edges = cuts(50_257, stops_of(50_257, 4))
    stats = shards.merge([shards.statistics(x[:, a:b], target, start=a) for a, b in edges])
    assert_within(shards.cross_entropy(stats, target, dtype=np.float32), rest, 2)
    start, stop = edges[2]
    assert_within(shards.cross_entropy_grad(x[:, start:stop], target, stats, start=start)[0, 30_000 - start], -rest, 2)
    assert_within(shards.log_softmax(x[:, start:stop], stats)[0, 30_000 - start], -rest, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_gradient_at_the_greatest_logit(dtype, rng):
    """-r / (1 + r), to the last digits, although r comes from other shards."""
    x = (-np.abs(logits(rng, (50, 30))) - rng.random((50, 1)) * 60).astype(dtype)
    x[:, 4] = 0.0
    stats = shards.merge([shards.statistics(x[:, a:b], np.full(50, 4), start=a) for a, b in cuts(30, (7, 20))])
    grad = shards.cross_entropy_grad(x[:, :7], np.full(50, 4), stats, reduction="sum")[:, 4]
    rest = np.exp(np.delete(x, 4, 1).astype(np.longdouble)).sum(1)
    assert_within(grad, -rest / (1 + rest), 4)


def test_normalizer_and_upstream_gradient(rng):
    x, target, options = case(rng, (37, 10), -1, "weights", np.float32)
    for given in ({"normalizer": 3.0}, {"grad_output": -2.0}, {"grad_output": 0.0, "reduction": "sum"}):
        found = cross_entropy_and_grad(x, target, **given, **options)
        whole = fastce.cross_entropy_and_grad(x, target, **given, **options)
        assert_within(found[0], whole.loss, 2)
        assert_within(found[1], whole.grad, 4, scale=0.1)
    upstream = rng.normal(size=37)
    upstream[3] = 0.0
    x[3] = np.nan
    found = cross_entropy_and_grad(x, target, reduction="none", grad_output=upstream)[1]
    assert_within(
        found, fastce.cross_entropy_and_grad(x, target, reduction="none", grad_output=upstream).grad, 4, scale=9
    )


# --- bits -----------------------------------------------------------------------


def chunks(classes):
    return range(shards.chunk_length(classes), classes, shards.chunk_length(classes))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("kind", "dtype"), [*(("labels", dtype) for dtype in SIZES), ("weights", FLOAT32)], ids=name_of
)
@pytest.mark.parametrize(("rows", "classes"), [(2, 40_001), (2, 140_001), (20, 70_001)], ids=str)
def test_chunks_have_the_bits_of_the_whole(rows, classes, dtype, kind, rng):
    """Ties within chunks and across them included; of 16-bit floats, the whole rounds some exponentials twice.

    Seen to fail: with shards that end elsewhere, and with `num_at_max` merged into the sum.
    """
    x, target, options = case(rng, (rows, classes), -1, kind, dtype)
    x[1] = np.minimum(np.round(x[1].astype(np.float32)), 4)
    given = {**options, "z_loss": 0.01 if options else 0.0}
    stops = tuple(chunks(classes))
    for reduction in ("none", "mean"):
        loss, grad = cross_entropy_and_grad(x, target, stops=stops, reduction=reduction, **given)
        whole = fastce.cross_entropy_and_grad(x, target, reduction=reduction, **given)
        assert_same_bits(np.asarray(loss), np.asarray(whole.loss))
        if dtype not in HALF or classes >= 65_536:
            assert_same_bits(grad, whole.grad)
    assert_same_bits(logsumexp(x, stops=stops), fastce.logsumexp(x))
    assert_same_bits(log_softmax(x, stops=stops), fastce.log_softmax(x))
    if dtype not in HALF or classes >= 65_536:
        assert_same_bits(softmax(x, stops=stops), fastce.softmax(x))


@pytest.mark.usefixtures("one_thread")
def test_a_last_chunk_of_few_classes(rng):
    """It is summed as a chunk, not as a tile. Seen to fail: with tiles."""
    classes = 952_325
    assert classes % shards.chunk_length(classes) == 5
    x = logits(rng, (2, classes), np.float32, spread=0.1)
    x[:, -5:] += 12.0
    assert_same_bits(logsumexp(x, stops=tuple(chunks(classes))), fastce.logsumexp(x))
    x = logits(rng, (40, 5), np.float32)
    as_chunk = shards.statistics(x, start=classes - 5, classes=classes)
    assert (as_chunk != shards.statistics(x, start=classes - 5)).any()


@pytest.mark.usefixtures("one_thread")
@REGIMES_AND_DTYPES
def test_one_shard_has_the_bits_of_the_whole(regime, dtype, rng):
    """Rows with NaN and infinities too. Seen to fail: with the sum of a chunk, whose maximum is not known before."""
    shape, axis = ((60, 2600), -1) if regime == "rows" else SHAPES[regime]
    x, target = logits(rng, shape, dtype), labels_for(rng, shape, axis)
    rows = np.moveaxis(x, axis, -1)
    rows[0], rows[-1, ..., 3], rows[-2, ..., 4] = -np.inf, np.nan, np.inf
    loss, grad = cross_entropy_and_grad(x, target, stops=(), axis=axis, reduction="none")
    whole = fastce.cross_entropy_and_grad(x, target, axis=axis, reduction="none")
    assert_same_bits(loss, whole.loss)
    assert_same_bits(logsumexp(x, axis, stops=()), fastce.logsumexp(x, axis))
    if not (dtype in HALF and regime == "long rows"):  # some exponentials of the whole are rounded twice
        assert_same_bits(grad, whole.grad)
        assert_same_bits(softmax(x, axis, stops=()), fastce.softmax(x, axis))


def test_chunk_length():
    assert [shards.chunk_length(n) for n in (0, 1, 32_768, 32_769, 131_072)] == [0, 1, 32_768, 17_408, 32_768]
    with pytest.raises(TypeError, match="classes must be an integer"):
        shards.chunk_length(1.0)
    with pytest.raises(ValueError, match="classes must be at least 0, got -1"):
        shards.chunk_length(-1)


def test_the_statistics_of_no_classes_change_nothing(rng):
    x, target, _ = case(rng, (37, 10), -1, "all", np.float32)
    for given, more in ((None, {}), (target, {}), (target, {"label_smoothing": 0.1, "classes": 10}), ("soft", {})):
        given = soft_for(rng, x.shape, dtype=np.float32) if isinstance(given, str) else given
        stats = shards.statistics(x, given, **more)
        for start in (0, 10):
            no_target = given[:, :0] if given is not None and given.ndim == 2 else given
            empty = shards.statistics(x[:, :0], no_target, start=start, **more)
            assert_same_bits(shards.merge([stats, empty] if start else [empty, stats]), stats)


@pytest.mark.parametrize(("shape", "axis"), [((36_000, 10), -1), ((60, 2700), -1), ((3, 2700, 19), 1)], ids=str)
def test_any_number_of_threads(shape, axis, threads, rng):
    """Each shard is large enough for several. Seen to fail: with tiles whose maxima depend on the thread."""
    x, target = logits(rng, shape, np.float32), labels_for(rng, shape, axis)
    assert part(x, axis, *cuts(shape[axis], thirds(x, axis))[0]).size >= PARALLEL_ELEMENTS
    threads(2)
    expected = cross_entropy_and_grad(x, target, axis=axis)
    threads(1)
    for a, e in zip(cross_entropy_and_grad(x, target, axis=axis), expected, strict=True):
        assert_same_bits(np.asarray(a), np.asarray(e))


# --- special values ---------------------------------------------------------------


def special_rows(shape, axis, dtype):
    """Rows with ties, infinities and NaN, within one shard and in several."""
    x = np.moveaxis(np.zeros(shape, dtype), axis, -1)
    classes = x.shape[-1]
    edits = [
        {},  # ties everywhere
        {0: 5, -1: 5},  # in the first and the last shard
        dict.fromkeys(range(classes), -np.inf),
        {0: -np.inf, -1: -np.inf, classes // 2: 3},
        {**dict.fromkeys(range(classes), -np.inf), -1: 1},
        {1: np.inf},
        {1: np.inf, -1: np.inf},
        {1: np.nan},
        {1: np.inf, 2: np.nan},
        {1: np.inf, -1: np.nan},
        {1: np.nan, -1: np.inf},
        {**dict.fromkeys(range(classes), -np.inf), -1: np.nan},
        dict.fromkeys(range(classes), np.nan),
    ]
    count = math.prod(x.shape[:-1])
    rows = np.zeros((max(count, len(edits)), classes), dtype)
    for row, edit in zip(rows, edits, strict=False):
        for place, value in edit.items():
            row[place] = value
    return np.moveaxis(rows[:count].reshape(x.shape), -1, axis), min(count, len(edits))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("shape", "axis"), [((37, 10), -1), ((21, 45), -1), ((13, 2600), -1), ((2, 37, 19), 1), ((13, 40_001), -1)], ids=str
)
def test_special_values(shape, axis, rng):
    """NaN and infinities are where the whole has them, for labels in each shard and at each special logit.

    Seen to fail: with a +inf that hides a NaN of another shard.
    """
    x, seen = special_rows(shape, axis, np.float32)
    assert seen == 13
    classes = shape[axis]
    few = classes < 10_000
    for count in (1, 2, 7) if few else (7,):
        stops = stops_of(classes, count)
        for name, call in (("softmax", softmax), ("log_softmax", log_softmax), ("logsumexp", logsumexp)):
            assert_within(call(x, axis, stops=stops), getattr(fastce, name)(x, axis), 2, message=name)
        samples = tuple(n for i, n in enumerate(shape) if i != axis % len(shape))
        for label in (0, 1, classes // 2, classes - 1) if few else (1, classes - 1):
            for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1, "weight": np.arange(classes) % 2.0}):
                given = {"axis": axis, "reduction": "none", **options}
                found = cross_entropy_and_grad(x, np.full(samples, label), stops=stops, **given)
                whole = fastce.cross_entropy_and_grad(x, np.full(samples, label), **given)
                for a, e in zip(found, whole, strict=True):
                    assert_within(a, e, 3, scale=np.maximum(np.abs(np.nan_to_num(e)), 1), message=f"{label} {options}")
        target = np.moveaxis(soft_for(rng, np.moveaxis(x, axis, -1).shape, dtype=np.float32), -1, axis)
        found = cross_entropy_and_grad(x, target, stops=stops, axis=axis, reduction="none")
        whole = fastce.cross_entropy_and_grad(x, target, axis=axis, reduction="none")
        for a, e in zip(found, whole, strict=True):
            assert_within(a, e, 3, scale=np.maximum(np.abs(np.nan_to_num(e)), 1), message="soft")


@pytest.mark.parametrize("kind", ["ignored", "sample_weight", "weight", "smoothed weight", "soft weight"])
@pytest.mark.parametrize(("shape", "axis"), [((6, 10), -1), ((6, 2600), -1)], ids=str)
def test_a_factor_of_0_leaves_out(shape, axis, kind, rng):
    """Exact zeros, whatever the logits. Seen to fail: with a product of 0 and NaN."""
    x, target = logits(rng, shape, np.float32), labels_for(rng, shape, axis)
    part(np.moveaxis(x, axis, -1), 0, 2, 3)[...] = np.nan
    weight, options = np.ones(shape[axis]), {"axis": axis}
    if kind == "ignored":
        target[2] = -100
    elif kind == "sample_weight":
        options["sample_weight"] = np.arange(6) != 2
    elif kind == "weight":
        target[2], target[3] = 1, 2
        weight[1] = 0
    elif kind == "smoothed weight":
        weight[:], options["label_smoothing"] = 0, 0.1
    else:
        target = soft_for(rng, shape, axis, dtype=np.float32)
        np.moveaxis(target, axis, -1)[2] = np.arange(shape[axis]) == 1
        weight[1] = 0
    if "weight" in kind.split()[-1:]:
        options["weight"] = weight
    for count in (1, 3):
        stops = stops_of(shape[axis], count)
        losses, grad = cross_entropy_and_grad(x, target, stops=stops, reduction="none", **options)
        assert losses[2] == 0 and not np.moveaxis(grad, axis, -1)[2].any()
        if kind != "smoothed weight":
            found = cross_entropy_and_grad(x, target, stops=stops, **options)
            for a, e in zip(found, fastce.cross_entropy_and_grad(x, target, **options), strict=True):
                assert_within(a, e, 2, scale=9)


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (2, 0, 3)], ids=str)
def test_empty_batches(shape):
    x, target = np.zeros(shape, np.float32), np.zeros(shape[:-1], int)
    for given in (target, x):
        loss, grad = cross_entropy_and_grad(x, given, reduction="none")
        assert loss.shape == shape[:-1] and loss.dtype == np.float32 and grad.shape == shape
        assert cross_entropy_and_grad(x, given, reduction="sum")[0] == 0
        assert np.isnan(cross_entropy_and_grad(x, given)[0])
    assert logsumexp(x).shape == shape[:-1]


def test_no_classes_at_all():
    x = np.zeros((3, 0))
    np.testing.assert_array_equal(logsumexp(x), np.full(3, -np.inf))
    assert softmax(x).shape == (3, 0)
    assert cross_entropy_and_grad(x, np.full(3, -100), reduction="sum")[0] == 0
    with pytest.raises(IndexError, match=r"target\[0\] is 0"):
        shards.cross_entropy(shards.statistics(x, [0, 0, 0]), [0, 0, 0])


# --- arguments ------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, rng):
    arrange = LAYOUTS[layout]
    x, target, options = case(rng, (20, 6), -1, "weights", np.float32)
    soft = soft_for(rng, x.shape, dtype=np.float32)
    for given in (target, soft):
        expected = cross_entropy_and_grad(x, given, **options)
        for a, e in zip(cross_entropy_and_grad(arrange(x), arrange(given), **options), expected, strict=True):
            assert_within(a, e, 2, scale=1)
    stats = shards.statistics(x[:, :4])
    assert_same_bits(shards.statistics(arrange(x[:, :4].copy())), stats)
    assert_same_bits(shards.merge([arrange(stats), stats]), shards.merge([stats, stats]))
    assert_same_bits(shards.merge(np.stack([stats, stats])), shards.merge([stats, stats]))
    assert_same_bits(shards.logsumexp(arrange(stats)), shards.logsumexp(stats))
    for out in (np.empty_like(stats), arrange(np.zeros_like(stats))):
        out.flags.writeable = True
        assert shards.statistics(x[:, :4], out=out) is out
        np.testing.assert_array_equal(out, stats)


@pytest.mark.parametrize("dtype", [*HALF, np.dtype(np.float64)], ids=name_of)
def test_out(dtype, rng):
    x, target = logits(rng, (20, 6), dtype), labels_for(rng, (20, 6))
    stats = shards.statistics(x, target)
    results = (
        lambda x, out: shards.softmax(x, stats, out=out),
        lambda x, out: shards.log_softmax(x, stats, out=out),
        lambda x, out: shards.cross_entropy_grad(x, target, stats, reduction="sum", out=out),
    )
    for call in results:
        expected = call(x, None)
        out = np.empty_like(x)
        assert call(x, out) is out
        assert_same_bits(out, expected)
        copy = x.copy()
        assert call(copy, copy) is copy
        assert_same_bits(copy, expected)
        if dtype in HALF:
            wide = np.empty(x.shape, np.float32)
            half_an_ulp = np.abs(expected.astype(np.float32)) * (
                0.51 * float(finfo(dtype).eps) / float(finfo(np.float32).eps)
            )
            assert_within(call(x, wide), expected.astype(np.float32), 1, scale=half_an_ulp + 1)
        with pytest.raises(ValueError, match="out must have shape"):
            call(x, np.empty((20, 5), dtype))


def test_result_dtypes(rng):
    x = logits(rng, (20, 6), np.float16)
    stats = shards.statistics(x, labels_for(rng, (20, 6)))
    assert stats.dtype == np.float64 and stats.shape == (4, 20)
    assert shards.logsumexp(stats).dtype == np.float64
    for dtype in (*DTYPES, "bfloat16"):
        assert shards.logsumexp(stats, dtype).dtype == (BFLOAT16 if isinstance(dtype, str) else dtype)
    with pytest.raises(TypeError, match="dtype must be one of real numbers, as logits have, got complex128"):
        shards.logsumexp(stats, complex)
    integers = shards.statistics(np.arange(6).reshape(2, 3))
    np.testing.assert_allclose(shards.logsumexp(integers), fastce.logsumexp(np.arange(6).reshape(2, 3)))


def test_numbers_a_sample(rng):
    x, soft = logits(rng, (4, 3)), soft_for(rng, (4, 3))
    options = [{}, {"weight": np.ones(3)}, {"label_smoothing": 0.1, "classes": 5}]
    assert len(shards.statistics(x)) == 3
    assert [len(shards.statistics(x, [0, 1, 2, 4], **given)) for given in options] == [4, 7, 7]
    assert [len(shards.statistics(x, soft, **given)) for given in options] == [5, 5, 5]


def test_a_label_outside_all_shards(rng):
    """Seen to fail: with a NaN at the label that counts as no label."""
    x = logits(rng, (3, 4))
    x[1, 2] = np.nan
    target = np.array([3, 2, 8])
    stats = shards.merge([shards.statistics(x, target, start=start) for start in (0, 4)])
    grad = np.ones((3, 4))
    for call in (
        lambda target: shards.cross_entropy(stats, target),
        lambda target: shards.cross_entropy_grad(x, target, stats, out=grad),
    ):
        with pytest.raises(IndexError, match=r"target\[2\] is 8, expected a class index of one of the shards or ig"):
            call(target)
    with pytest.raises(IndexError, match=r"one of the shards$"):
        shards.cross_entropy(stats, target, ignore_index=None)
    assert (grad == 1).all()
    with pytest.raises(IndexError, match=r"target\[2\] is 8, expected a class index from 0 to 7"):
        shards.statistics(x, target, classes=8)
    shards.statistics(x, target, classes=8, ignore_index=8)
    with pytest.raises(IndexError, match=r"target\[0\] is -9223372036854775808"):
        shards.statistics(x, [-(2**63), 0, 0], classes=8, ignore_index=None)
    with pytest.raises(ValueError, match="the label of sample 0 in 2 of them: start is"):
        shards.merge([shards.statistics(x, target), shards.statistics(x, target)])


def statistics(**options):
    return lambda x, target, stats: shards.statistics(x, target, **options)


def loss(**options):
    return lambda x, target, stats: shards.cross_entropy(stats, target, **options)


# by name: an error, its message, and a call with logits of shape (4, 3), their labels and their statistics
ERRORS = {
    "one-hot": (TypeError, "a shard of a one-hot", lambda x, t, s: shards.statistics(x, np.zeros((4, 3), int))),
    "target": (ValueError, r"target has shape \(3,\)", lambda x, t, s: shards.statistics(x, t[:3])),
    "start": (ValueError, "start must be at least 0, .* got -1", statistics(start=-1)),
    "no index": (TypeError, "start must be an integer", statistics(start=0.5)),
    "classes": (ValueError, "classes must be at least 5, .* got 4", statistics(start=2, classes=4)),
    "smoothing without classes": (ValueError, "label_smoothing needs classes", statistics(label_smoothing=0.1)),
    "no target": (ValueError, "belong to a target", lambda x, t, s: shards.statistics(x, weight=[1, 1, 1])),
    "weight": (ValueError, r"weight must have shape \(3,\), one per class of the shard", statistics(weight=[1])),
    "out": (ValueError, r"out must have shape \(4, 4\) and dtype float64", statistics(out=np.empty((3, 4)))),
    "no parts": (ValueError, "at least one shard", lambda x, t, s: shards.merge([])),
    "shapes of parts": (ValueError, r"one shape, got \(4, 4\), \(3, 4\)", lambda x, t, s: shards.merge([s, s[:3]])),
    "dtype of stats": (TypeError, "stats must have dtype float64", lambda x, t, s: shards.logsumexp(np.float32(s))),
    "shape of stats": (ValueError, r"stats must have shape \(S, N\)", lambda x, t, s: shards.logsumexp(s[:2])),
    "samples": (ValueError, r"stats must have shape \(S, 4\)", lambda x, t, s: shards.softmax(x, s[:, :3])),
    "labels": (ValueError, "for each of the 4 samples", lambda x, t, s: shards.cross_entropy(s, t[:3])),
    "float labels": (TypeError, "must be integers, got", lambda x, t, s: shards.cross_entropy(s, t * 1.0)),
    "no labels": (ValueError, "of class probabilities, got those of", lambda x, t, s: shards.cross_entropy(s)),
    "stats of logits": (ValueError, "of logits without a target", lambda x, t, s: shards.cross_entropy(s[:3], t)),
    "another weight": (
        ValueError,
        "with weight or label_smoothing, got",
        lambda x, t, s: shards.cross_entropy_grad(x, t, s, weight=[1, 1, 1]),
    ),
    "another smoothing": (ValueError, "label_smoothing must be that", loss(label_smoothing=0.1)),
    "smoothing alone": (
        ValueError,
        "label_smoothing must be that",
        lambda x, t, s: shards.cross_entropy(shards.statistics(x, t, label_smoothing=0.1, classes=3), t),
    ),
    "reduction": (ValueError, "reduction must be", loss(reduction="max")),
    "normalizer": (ValueError, "normalizer must be None", loss(reduction="sum", normalizer=1.0)),
    "normalizer of 0": (ValueError, "where samples count, got 0.0 for 4", loss(normalizer=0)),
    "sample_weight": (ValueError, "sample_weight must have shape", loss(sample_weight=[1])),
    "z_loss": (ValueError, "z_loss must be", loss(dtype=np.float32, z_loss=1e-50)),
    "overlap": (ValueError, "must not overlap logits", lambda x, t, s: shards.softmax(x[:, :2], s[:3], out=x[:, 1:])),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_mistakes(mistake):
    kind, message, call = ERRORS[mistake]
    x, target = np.zeros((4, 3)), np.array([0, 1, 2, 0])
    with pytest.raises(kind, match=message):
        call(x, target, shards.statistics(x, target))


@pytest.mark.usefixtures("one_thread")
def test_no_copy_of_the_logits(rng):
    """Memory for a call with ``out``: some numbers a sample."""
    x, target = logits(rng, (2000, 1000), np.float32), labels_for(rng, (2000, 1000))
    stats, out = shards.statistics(x, target), np.empty_like(x)
    for call in (
        lambda: shards.statistics(x, target),
        lambda: shards.softmax(x, stats, out=out),
        lambda: shards.log_softmax(x, stats, out=out),
        lambda: shards.cross_entropy_grad(x, target, stats, softcap=5.0, out=out),
    ):
        peak, _ = peak_memory(call)
        assert peak < 2_500_000  # x has 8,000,000 bytes


def test_inputs_are_not_modified(rng):
    x, target, options = case(rng, (20, 6), -1, "all", np.float32)
    arrays = [x, target, options["weight"], options["sample_weight"]]
    copies = [a.copy() for a in arrays]
    cross_entropy_and_grad(x, target, **options)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
