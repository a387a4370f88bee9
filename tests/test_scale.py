"""The page of scale: its tables are the model's."""

import numpy as np
import pytest

from tools import scale


def test_tables():
    """Seen to fail: with a latency that was changed."""
    page = scale.PAGE.read_text(encoding="utf-8")
    assert scale.written(page) == page, "run python -m tools.scale --write"


def test_rules_of_thumb():
    """The page's formulas are near the model."""
    core, server = scale.SETTINGS[:2]
    for classes, ranks in ((50_257, 58), (10_000_000, 812)):
        merging = scale.gathered(ranks, scale.SAMPLES).merging
        assert merging == pytest.approx(scale.kernels(core, ranks, scale.SAMPLES, classes), rel=0.02)
    assert scale.gathered(79, 4096).received == pytest.approx(4 * 4096 * 50_257 / 79, rel=0.05)
    products, _, d_hidden = scale.linear(server, 471, 4096, 50_257, 1024)
    assert products == pytest.approx(d_hidden, rel=0.05)


def test_fewest_ranks_of_an_allreduce():
    """From where on it is faster than an Allgather."""
    for samples, fewest in ((4096, 2), (512, 16), (64, 256)):
        faster = [
            ranks
            for ranks in (2**k for k in range(1, 11))
            if scale.reduced(ranks, samples).seconds(scale.SETTINGS[1])
            < scale.gathered(ranks, samples).seconds(scale.SETTINGS[1])
        ]
        assert min(faster) == fewest


def test_groups_with_fewest_bytes():
    """√(P V / N) ranks a group; seen to fail: with d_hidden of all samples in each group."""
    samples, classes, ranks = 65_536, 65_536 * 4, 64
    totals = {parts: sum(scale.groups(ranks, parts, samples, classes, 16)[:2]) for parts in (1, 2, 4, 8, 16, 32, 64)}
    assert min(totals, key=totals.get) == 16


def test_tasks_of_dask():
    """Seen to fail: with one task a chunk."""
    da, lazy = pytest.importorskip("dask.array"), pytest.importorskip("fastce.interop.dask")
    loss = lazy.cross_entropy(da.zeros((16 * 100, 4 * 50), chunks=(100, 50)), np.zeros(1600, np.int64))
    (optimized,) = pytest.importorskip("dask").optimize(loss)
    assert len(dict(optimized.__dask_graph__())) / (16 * 4) == pytest.approx(scale.DASK_TASKS, abs=1)
