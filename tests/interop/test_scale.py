"""256 ranks, which are threads here: the bytes of ``tools.scale``, the bounds of docs/shards.md, one result for all."""

import sys
import threading
from typing import NamedTuple

import numba
import numpy as np
import pytest

import fastce
from tests.helpers import finfo
from tools import scale

if sys.platform != "linux":
    pytest.skip("MPI is installed on Linux alone", allow_module_level=True)

from mpi4py import MPI

from fastce.interop import mpi, mpi_ranks

RANKS = 256
SAMPLES, CLASSES, FEATURES = 16, 102_400, 8


class Count(NamedTuple):
    """What an exchange sent and received, in bytes, in so many steps; its buffers at one time."""

    sent: int
    received: int
    steps: int


class World:
    """Where threads leave their messages."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.slots = [None] * size


class Rank:
    """A communicator of threads that counts the bytes that come from other ranks.

    It exchanges as MPI libraries do: an Allgather doubles what a rank has; an Allreduce by an operator that does not
    commute doubles the group whose parts are merged; a sum of numbers is made of parts, one a rank.
    """

    def __init__(self, world, rank):
        self.world, self.rank, self.size, self.counts = world, rank, world.size, []

    def _step(self, message, *senders):
        """Show a message, and return those of some ranks with the bytes that came from others."""
        self.world.slots[self.rank] = message
        self.world.barrier.wait()
        taken = [self.world.slots[sender] for sender in senders]
        self.world.barrier.wait()
        come = sum(part.nbytes for sender, part in zip(senders, taken, strict=True) if sender != self.rank)
        return taken, come

    def Allgather(self, sent, received):
        size, come, steps = sent.nbytes, 0, 0
        first, width = self.rank, 1
        have = sent[np.newaxis].copy()
        while width < self.size:
            (theirs,), more = self._step(have, self.rank ^ width)
            have = np.concatenate([theirs, have] if self.rank & width else [have, theirs])
            first, width, come, steps = first & ~width, 2 * width, come + more, steps + 1
        received[...] = have
        self.counts.append(Count(size, come, steps))

    def Allreduce(self, sent, received, op):
        if op == MPI.SUM:
            self._sum(sent, received)
            return
        mine, into = sent[0].copy(), received[0]
        come, width = 0, 1
        steps = 0
        while width < self.size:
            (theirs,), more = self._step(mine, self.rank ^ width)
            left, right = (theirs, mine.copy()) if self.rank & width else (mine, theirs.copy())
            mpi_ranks.merge_blocks(left, right)
            mine, width, come, steps = right, 2 * width, come + more, steps + 1
        into[...] = mine
        self.counts.append(Count(sent[0].nbytes, come, steps))

    def _sum(self, sent, received):
        ends = [len(sent) * rank // self.size for rank in range(self.size + 1)]
        mine = slice(ends[self.rank], ends[self.rank + 1])
        parts, _ = self._step(sent.copy(), *range(self.size))
        total = np.sum([part[mine] for part in parts], axis=0, dtype=sent.dtype)
        sums, come = self._step(total, *range(self.size))
        received[...] = np.concatenate(sums)
        self.counts.append(Count(sent.nbytes, total.nbytes * (self.size - 1) + come, 0))


def everywhere(function, ranks=RANKS):
    """Call a function of a communicator on all ranks; return its results and the exchanges, by rank."""
    world, results, errors = World(ranks), [None] * ranks, []
    comms = [Rank(world, rank) for rank in range(ranks)]

    def work(comm):
        try:
            numba.set_num_threads(1)
            results[comm.rank] = function(comm)
        except BaseException as error:
            errors.append(error)
            world.barrier.abort()

    threads = [threading.Thread(target=work, args=(comm,), daemon=True) for comm in comms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return results, [comm.counts for comm in comms]


def assert_counts(counts, *exchanges):
    """All ranks had these exchanges, as the model has them; of a sum, in total."""
    assert {len(of_rank) for of_rank in counts} == {len(exchanges)}
    for of_ranks, exchange in zip(zip(*counts, strict=True), exchanges, strict=True):
        assert {count.sent for count in of_ranks} == {exchange.sent}
        received = {count.received for count in of_ranks}
        assert sum(count.received for count in of_ranks) == pytest.approx(len(counts) * exchange.received, rel=1e-12)
        if of_ranks[0].steps:  # not of a sum, whose parts may differ by a number
            assert received == {exchange.received}
            assert {count.steps for count in of_ranks} == {exchange.steps}


def shard(rank, ranks=RANKS, classes=CLASSES):
    return slice(classes * rank // ranks, classes * (rank + 1) // ranks)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("way", ["gathered", "reduced"])
def test_loss_and_gradient(way, dtype, rng, monkeypatch):
    """Within 2 eps of one process, or 2 + P for float64; confident rows too.

    Seen to fail: with ranks that merge their own statistics alone, and with a model of P messages instead of P - 1.
    """
    monkeypatch.setattr(mpi_ranks, "GATHER_RANKS", RANKS if way == "gathered" else 64)
    x = (3 * rng.standard_normal((SAMPLES, CLASSES))).astype(dtype)
    y = rng.integers(0, CLASSES, SAMPLES)
    x[0, y[0]] = 60
    y[1] = -100
    whole = fastce.cross_entropy_and_grad(x, y, reduction="none")

    def call(comm):
        mine = x[:, shard(comm.rank)]
        return mpi.vocab_parallel_cross_entropy_and_grad(mine, y, comm=comm, reduction="none")

    results, counts = everywhere(call)
    assert_counts(counts, scale.record(RANKS), getattr(scale, way)(RANKS, SAMPLES))
    assert scale.chosen(RANKS, SAMPLES) == scale.reduced(RANKS, SAMPLES)
    assert len({loss.tobytes() for loss, _ in results}) == 1
    eps = finfo(dtype).eps
    bound = (2 if dtype == np.float32 else 2 + RANKS) * eps
    np.testing.assert_allclose(results[0].loss, whole.loss, rtol=bound)
    assert 0 < results[0].loss[0] < 1e-18
    grad = np.concatenate([grad for _, grad in results], axis=1)
    size = np.maximum(np.abs(whole.grad), 0)
    at_labels = np.arange(SAMPLES)[y >= 0], y[y >= 0]
    size[at_labels] = 1  # a difference, whose terms are at most 1
    assert (np.abs(grad - whole.grad) <= bound * size).all()


@pytest.mark.usefixtures("one_thread")
def test_linear_layer(rng):
    """One exchange a chunk of rows, and one sum. Seen to fail: with a model that sums in half of the bytes."""
    h, w = rng.normal(size=(SAMPLES, FEATURES)), rng.normal(size=(2048, FEATURES))
    y = rng.integers(0, 2048, SAMPLES)
    whole = fastce.linear_cross_entropy_and_grad(h, w, y)

    def call(comm):
        mine, limit = w[shard(comm.rank, classes=2048)], 8 * 8 * SAMPLES // 2  # two chunks
        return mpi.vocab_parallel_linear_cross_entropy_and_grad(h, mine, y, comm=comm, max_bytes=limit)

    results, counts = everywhere(call)
    half = scale.reduced(RANKS, SAMPLES // 2)
    d_hidden = scale.summed(RANKS, SAMPLES * FEATURES + 1, 8)
    assert_counts(counts, scale.record(RANKS), half, half, d_hidden)
    assert len({result.d_hidden.tobytes() for result in results}) == 1
    assert len({result.loss.tobytes() for result in results}) == 1
    np.testing.assert_allclose(results[0].loss, whole.loss, rtol=(2 + RANKS) * finfo(np.float64).eps)
    np.testing.assert_allclose(results[9].d_hidden, whole.d_hidden, rtol=1e-11, atol=1e-14)
    d_weight = np.concatenate([result.d_weight for result in results])
    np.testing.assert_allclose(d_weight, whole.d_weight, rtol=1e-11, atol=1e-14)


@pytest.mark.usefixtures("one_thread")
def test_dealt_samples_have_the_bits_of_the_gathered(rng):
    """Each rank may merge some of the samples: they do not touch each other."""
    x, y = rng.normal(size=(SAMPLES, 2048)).astype(np.float32), rng.integers(0, 2048, SAMPLES)
    cuts = [shard(rank, classes=2048) for rank in range(RANKS)]
    parts = [fastce.shards.statistics(x[:, cut], y, start=cut.start) for cut in cuts]
    dealt = [fastce.shards.merge([part[:, i : i + 4] for part in parts]) for i in range(0, SAMPLES, 4)]
    np.testing.assert_array_equal(np.concatenate(dealt, axis=1), fastce.shards.merge(parts))
