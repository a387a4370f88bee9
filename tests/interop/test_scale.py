"""256 ranks, which are threads here: the bytes of ``tools.scale``, the bounds of docs/shards.md, one result for all."""

import sys
import threading
from typing import NamedTuple

import numba
import numpy as np
import pytest

import fastce
from fastce import shards
from tests.helpers import finfo
from tools import scale

if sys.platform != "linux":
    pytest.skip("MPI is installed on Linux alone", allow_module_level=True)

from mpi4py import MPI

from fastce.interop import mpi, mpi_ranks

RANKS = 256
SAMPLES, CLASSES = 8, 409_600
LAYER, FEATURES = 409_600 // 4, 8  # classes and features of the last layer


class Count(NamedTuple):
    """What an exchange sent and received, in bytes, in so many steps."""

    sent: int
    received: int
    steps: int  # 0 of a sum


class World:
    """Where threads leave their messages: in a list for each step, which is not used again."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.steps = {}


class Rank:
    """A communicator of threads that counts the bytes that come from other ranks.

    It exchanges as MPI libraries do: an Allgather doubles what a rank has; an Allreduce by an operator that does not
    commute doubles the group whose parts are merged; a sum of numbers is made of parts, one a rank.
    """

    def __init__(self, world, rank):
        self.world, self.rank, self.size = world, rank, world.size
        self.step, self.counts = 0, []

    def _exchange(self, message, *senders):
        """Show a message, and return those of some ranks with the bytes that came from others."""
        slots = self.world.steps.setdefault(self.step, [None] * self.size)
        slots[self.rank] = message
        self.step += 1
        self.world.barrier.wait()
        taken = [slots[sender] for sender in senders]
        return taken, sum(part.nbytes for part in taken) - (message.nbytes if self.rank in senders else 0)

    def Allgather(self, sent, received):
        received[self.rank] = sent
        first, come, steps, width = self.rank, 0, 0, 1
        while width < self.size:
            (theirs,), more = self._exchange(received[first : first + width], self.rank ^ width)
            other = first ^ width
            received[other : other + width] = theirs
            first, width, come, steps = min(first, other), 2 * width, come + more, steps + 1
        self.counts.append(Count(sent.nbytes, come, steps))

    def Allreduce(self, sent, received, op):
        if op == MPI.SUM:
            self._sum(sent, received)
            return
        mine, come, steps, width = sent[0].copy(), 0, 0, 1
        while width < self.size:
            (theirs,), more = self._exchange(mine, self.rank ^ width)
            left, right = (theirs, mine.copy()) if self.rank & width else (mine, theirs.copy())
            mpi_ranks.merge_blocks(left, right)
            mine, width, come, steps = right, 2 * width, come + more, steps + 1
        received[0][...] = mine
        self.counts.append(Count(sent[0].nbytes, come, steps))

    def _sum(self, sent, received):
        ends = [len(sent) * rank // self.size for rank in range(self.size + 1)]
        mine = slice(ends[self.rank], ends[self.rank + 1])
        parts, _ = self._exchange(sent.copy(), *range(self.size))
        total = np.sum([part[mine] for part in parts], axis=0, dtype=sent.dtype)
        sums, come = self._exchange(total, *range(self.size))
        received[...] = np.concatenate(sums)
        self.counts.append(Count(sent.nbytes, total.nbytes * (self.size - 1) + come, 0))


def everywhere(function):
    """Call a function of a communicator on all ranks; return its results and the exchanges, by rank."""
    world, results, errors = World(RANKS), [None] * RANKS, []
    comms = [Rank(world, rank) for rank in range(RANKS)]

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


def shard(rank, classes=CLASSES):
    return slice(classes * rank // RANKS, classes * (rank + 1) // RANKS)


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

    cuts = [shard(rank) for rank in range(RANKS)]
    parts = [shards.statistics(x[:, cut], y, start=cut.start, classes=CLASSES) for cut in cuts]
    stats = shards.merge(parts)  # without threads, each of which would load the kernels
    first = shards.cross_entropy_grad(x[:, cuts[0]], y, stats, classes=CLASSES, reduction="none")

    def call(comm):
        return mpi.vocab_parallel_cross_entropy_and_grad(x[:, cuts[comm.rank]], y, comm=comm, reduction="none")

    results, counts = everywhere(call)
    assert_counts(counts, scale.record(RANKS), getattr(scale, way)(RANKS, SAMPLES))
    assert scale.chosen(RANKS, SAMPLES) == scale.reduced(RANKS, SAMPLES)
    assert len({loss.tobytes() for loss, _ in results}) == 1
    eps = finfo(dtype).eps
    bound = (2 if dtype == np.float32 else 2 + RANKS) * eps
    np.testing.assert_allclose(results[0].loss, whole.loss, rtol=bound)
    assert 0 < results[0].loss[0] < 1e-18
    grad = np.concatenate([grad for _, grad in results], axis=1)
    if way == "gathered":
        np.testing.assert_array_equal(results[0].grad, first)
    size = np.abs(whole.grad)
    size[np.arange(SAMPLES)[y >= 0], y[y >= 0]] = 1  # a difference, whose terms are at most 1
    assert (np.abs(grad - whole.grad) <= bound * size).all()


@pytest.mark.usefixtures("one_thread")
def test_linear_layer(rng):
    """One exchange a chunk of rows, and one sum. Seen to fail: with a model that sums in half of the bytes."""
    h, w = (rng.standard_normal((count, FEATURES), np.float32) for count in (SAMPLES, LAYER))
    y = rng.integers(0, LAYER, SAMPLES)
    whole = fastce.linear_cross_entropy_and_grad(h, w, y)

    def call(comm, labels=y):
        mine, two_chunks = w[shard(comm.rank, LAYER)], LAYER // RANKS * h.itemsize * SAMPLES // 2
        return mpi.vocab_parallel_linear_cross_entropy_and_grad(h, mine, labels, comm=comm, max_bytes=two_chunks)

    call(Rank(World(1), 0), y % shard(0, LAYER).stop)
    results, counts = everywhere(call)
    half = scale.reduced(RANKS, SAMPLES // 2)
    assert_counts(counts, scale.record(RANKS), half, half, scale.summed(RANKS, SAMPLES * FEATURES + 1))
    assert len({result.loss.tobytes() + result.d_hidden.tobytes() for result in results}) == 1
    np.testing.assert_allclose(results[0].loss, whole.loss, rtol=2 * finfo(np.float32).eps)
    d_weight = np.concatenate([result.d_weight for result in results])
    for found, expected in ((results[9].d_hidden, whole.d_hidden), (d_weight, whole.d_weight)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.usefixtures("one_thread")
def test_dealt_samples_have_the_bits_of_the_gathered(rng):
    """Each rank may merge some of the samples: they do not touch each other."""
    x, y = rng.standard_normal((SAMPLES, 2048), np.float32), rng.integers(0, 2048, SAMPLES)
    cuts = [shard(rank, 2048) for rank in range(RANKS)]
    parts = [shards.statistics(x[:, cut], y, start=cut.start) for cut in cuts]
    dealt = [shards.merge([part[:, i : i + 4] for part in parts]) for i in range(0, SAMPLES, 4)]
    np.testing.assert_array_equal(np.concatenate(dealt, axis=1), shards.merge(parts))
