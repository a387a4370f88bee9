"""evaluate: means over batches, and over arrays too large for memory."""

import sys

import numpy as np
import pytest

from fastce import Evaluation, evaluate, score
from fastce.api import evaluate as evaluate_module
from tests.helpers import DTYPES, labels_for, logits, name_of, peak_memory

NAMES = ("count", "loss", "perplexity", "accuracy", "top_k_accuracy", "entropy")


def data(rng, shape=(300, 12), axis=-1, dtype=np.float64):
    x, target = logits(rng, shape, dtype), labels_for(rng, shape, axis)
    target.flat[::7] = -100
    return x, target


def expected_of(x, target, axis=-1, top_k=1):
    """The means of the samples' results, from the definitions."""
    result = score(x, target, axis=axis)
    kept = target != -100
    loss = -result.log_prob[kept].astype(np.float64).mean()
    ranks = result.rank[kept]
    entropy = result.entropy[kept].astype(np.float64).mean()
    return Evaluation(int(kept.sum()), loss, np.exp(loss), (ranks == 0).mean(), (ranks < top_k).mean(), entropy)


def assert_close(actual, expected):
    assert type(actual) is Evaluation
    assert actual.count == expected.count
    for name in NAMES[1:]:
        assert type(getattr(actual, name)) is float, name
        assert getattr(actual, name) == pytest.approx(getattr(expected, name), rel=1e-12, nan_ok=True), name


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_batches(dtype, rng):
    x, target = data(rng, dtype=dtype)
    for cuts in ([100, 200], [1, 2, 299], []):
        batches = list(zip(np.split(x, cuts), np.split(target, cuts), strict=True))
        for given in (batches, iter(batches), (batch for batch in batches), tuple(batches)):
            assert_close(evaluate(given, top_k=3), expected_of(x, target, top_k=3))


def test_known_answer():
    batches = [([[0.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]], [2, -100]), ([[0.0, 0.0, 0.0, 0.0]], [0])]
    result = evaluate(batches, top_k=3)
    assert (result.count, result.accuracy, result.top_k_accuracy) == (2, 0.5, 1.0)
    assert result.perplexity == pytest.approx(4)
    assert result.loss == result.entropy == pytest.approx(np.log(4))


@pytest.mark.parametrize(
    ("shape", "axis"), [((300, 12), -1), ((12, 300), 0), ((7, 12, 30), 1), ((12, 9, 4), 0), ((12,), 0)]
)
@pytest.mark.parametrize("elements", [1, 100, 1000, 1 << 22])
def test_one_pair_of_arrays(elements, shape, axis, rng, monkeypatch):
    monkeypatch.setattr(evaluate_module, "BLOCK_ELEMENTS", elements)
    x, target = data(rng, shape, axis)
    target.flat[0] = 0
    target = np.asarray(target)
    assert_close(evaluate((x, target), axis=axis, top_k=2), expected_of(x, target, axis, top_k=2))


def test_memory_maps(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(evaluate_module, "BLOCK_ELEMENTS", 500)
    x, target = data(rng, dtype=np.float32)
    maps = []
    for name, array in (("x", x), ("target", target)):
        np.save(tmp_path / f"{name}.npy", array)
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert_close(evaluate(tuple(maps)), expected_of(x, target))


@pytest.mark.parametrize("axis", [0, 1])
def test_no_copy_of_the_logits(axis):
    """A block of rows and 64 bytes a sample at most, whatever the layout; evaluate needs less for each sample."""
    x, target = np.zeros((16_384, 16_384 // 16), np.float32), np.zeros(16_384, int)
    x = x if axis else x.reshape(1024, 16_384)
    for order in "CF":
        given = np.asarray(x, order=order)
        assert peak_memory(lambda: score(given, target, axis=axis))[0] < 64 * target.size + 1_500_000  # noqa: B023
        assert peak_memory(lambda: evaluate((given, target), axis=axis))[0] < 16 * target.size + 1_500_000  # noqa: B023


def test_batches_are_taken_one_at_a_time(rng):
    taken = []

    def batches():
        for number in range(3):
            taken.append(number)
            yield data(rng)
        raise RuntimeError("from the batches")

    with pytest.raises(RuntimeError, match="from the batches"):
        evaluate(batches())
    assert taken == [0, 1, 2]


def test_options_reach_the_score(rng):
    x = rng.normal(size=(4, 5))
    result = evaluate([(x, [0, 1, 1, 3])], ignore_index=1)
    assert result.count == 2
    assert evaluate([(x.T, [0, 1, 1, 3])], axis=0, ignore_index=1) == result


def test_nothing_gives_nan():
    for batches in ([], [(np.zeros((0, 3)), np.zeros(0, int))], [([[1.0, 2.0]], [-100])]):
        assert_close(evaluate(batches), Evaluation(0, *[np.nan] * 5))
    empty = np.zeros((0, 3)), np.zeros(0, int)
    assert_close(evaluate(empty), Evaluation(0, *[np.nan] * 5))


def test_infinite_loss():
    result = evaluate([([[0.0, -np.inf]], [1]), ([[0.0, 0.0]], [0])])
    assert (result.loss, result.perplexity, result.accuracy) == (np.inf, np.inf, 0.5)
    assert evaluate([([[0.0, -2000.0]], [1])]).perplexity == np.inf  # beyond the range of exp


def test_rows_with_nan_count_as_wrong():
    result = evaluate([([[np.nan, 0.0], [1.0, 0.0]], [0, 0])], top_k=7)
    assert np.isnan([result.loss, result.perplexity, result.entropy]).all()
    assert (result.accuracy, result.top_k_accuracy) == (0.5, 0.5)


def test_float64_sums():
    """float32 would stop at 2**24 ln 2 or lose digits long before."""
    x = np.zeros((1000, 2), np.float32)
    x[:, 1] = 1e-3
    result = evaluate([(x, np.zeros(1000, int))] * 50)
    each = float(score(x, np.zeros(1000, int)).log_prob[0])
    assert result.loss == pytest.approx(-each, rel=1e-14)


def test_progress(capsys, rng):
    batch = data(rng)
    expected = evaluate([batch, batch])
    for batches in ([batch, batch], iter([batch, batch])):
        assert evaluate(batches, progress=True) == expected
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "evaluate" in captured.err
    assert evaluate(batch) == evaluate(batch, progress=True)


def test_progress_without_rich(monkeypatch, rng):
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="progress=True needs rich, which is not installed: pip install rich"):
        evaluate([data(rng)], progress=True)
    assert evaluate([data(rng)]).count


def raised(kind, match, batches, **options):
    with pytest.raises(kind, match=match) as caught:
        evaluate(batches, **options)
    return getattr(caught.value, "__notes__", [])


def test_errors_tell_the_batch(rng, monkeypatch):
    good, bad = data(rng), (np.zeros((2, 3)), [0, 3])
    assert raised(IndexError, r"target\[1\] is 3", [good, bad]) == ["in batch 1, counted from 0"]
    assert raised(ValueError, "target has shape", [(good[0], [0])]) == ["in batch 0, counted from 0"]
    monkeypatch.setattr(evaluate_module, "BLOCK_ELEMENTS", 100)
    target = good[1].copy()
    target[90] = 12
    notes = raised(IndexError, r"target\[2\] is 12", (good[0], target))
    assert notes == ["in the block that starts at target[88], where the message counts from"]


def test_errors(rng):
    x, target = data(rng)
    raised(TypeError, r"batches must hold pairs, as in \[\(logits, target\)\], got int", [1])
    raised(TypeError, "batches must hold pairs", [(x, target, None, target)])
    raised(ValueError, r"target has shape \(301,\), expected \(300,\)", (x, np.append(target, 0)))
    raised(TypeError, "class probabilities", (x, x))
    raised(ValueError, "top_k must be at least 1", [], top_k=0)
    raised(TypeError, "axis must be an integer", [], axis=None)
    raised(np.exceptions.AxisError, "axis 2", (x, target), axis=2)


def test_shapes_are_checked_before_blocks_are_cut(rng, monkeypatch):
    """Slices of a target that is too long would all fit."""
    monkeypatch.setattr(evaluate_module, "BLOCK_ELEMENTS", 24)
    x, target = data(rng)
    raised(ValueError, r"target has shape \(301,\)", (x, np.append(target, 0)))
