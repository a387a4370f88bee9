"""What ``tools.speed.mpi`` starts on each rank: ``mpirun -n 2 python -m mpi4py -m tools.speed.mpi_ranks``.

A rank has one thread. Rank 0 prints all figures as JSON: seconds, but for speeds.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from mpi4py import MPI

import fastce
from fastce import shards
from fastce.interop import mpi, mpi_ranks
from tools.speed.turns import QUICK_TURN, TURN, TURNS, quartile, turns

WORLD = MPI.COMM_WORLD
LOGITS, QUICK_LOGITS = ((512, 50257), (256, 131072)), ((8, 1000),)
LAYERS, QUICK_LAYERS = ((512, 128, 50257), (512, 1024, 50257)), ((8, 4, 1000),)
MERGED, QUICK_MERGED = ((512, 500, 4096, 4104), (4, 64, 128)), ((16,), (4,))  # samples, parts
QUICK = "--quick" in sys.argv
Call = Callable[[], Any]


def idle() -> None:
    """Let the other ranks sleep, instead of spinning in MPI, until rank 0 comes here."""
    if WORLD.rank == 0:
        for rank in range(1, WORLD.size):
            WORLD.send(None, rank)
        return
    while not WORLD.iprobe(0):
        time.sleep(0.0005)
    WORLD.recv(source=0)


def alone(call: Call) -> float:
    """Return the seconds of a call on rank 0, 0 on the others."""
    seconds = turns({"": call}, QUICK)[""] if WORLD.rank == 0 else 0.0
    idle()
    return seconds


def taken(call: Call, everywhere: bool, count: int = 1) -> float:
    """Return the seconds of a call, over so many of them, that all ranks make at once or rank 0 alone."""
    if everywhere:
        WORLD.Barrier()
    start = time.perf_counter()
    for _ in range(count if everywhere or WORLD.rank == 0 else 0):
        call()
        if everywhere:
            WORLD.Barrier()
    seconds = (time.perf_counter() - start) / count
    if not everywhere:
        idle()
    return seconds


def contest(calls: dict[str, tuple[Call, bool]]) -> dict[str, float]:
    """Return the seconds of calls that take turns, each made by all ranks or by one, as the flag tells."""
    counts, found = {}, {name: [] for name in calls}
    for name, call in calls.items():
        taken(*call)  # compiles
        counts[name] = WORLD.bcast(max(1, math.ceil((QUICK_TURN if QUICK else TURN) / taken(*call))))
    for _ in range(1 if QUICK else TURNS):
        for name, call in calls.items():
            found[name].append(taken(*call, counts[name]))
    return {name: quartile(values) for name, values in found.items()}


def exchange(samples: int) -> Call:
    """Return the two exchanges of a loss, alone."""
    pairs = [(np.zeros(8, np.int64), 8), (np.zeros(4 * samples + 1), 4 * samples + 1)]
    sent = [(array, np.empty((WORLD.size, width), array.dtype)) for array, width in pairs]
    return lambda: [WORLD.Allgather(*arrays) for arrays in sent]


def share(classes: int) -> slice:
    """Return the classes of this rank."""
    return slice(classes * WORLD.rank // WORLD.size, classes * (WORLD.rank + 1) // WORLD.size)


def of_logits(samples: int, classes: int) -> dict[str, float]:
    """Time the loss and gradient of logits."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((samples, classes), dtype=np.float32), rng.integers(0, classes, samples)
    mine = np.ascontiguousarray(x[:, share(classes)])
    whole_out, out = np.empty_like(x), np.empty_like(mine)
    parallel = mpi.vocab_parallel_cross_entropy_and_grad
    return contest(
        {
            "fastce": (lambda: fastce.cross_entropy_and_grad(x, y, out=whole_out), False),
            "one": (lambda: parallel(x, y, comm=MPI.COMM_SELF, out=whole_out), False),
            "all": (lambda: parallel(mine, y, comm=WORLD, out=out), True),
            "exchange": (exchange(samples), True),
        }
    )


def of_layer(samples: int, features: int, classes: int) -> dict[str, float]:
    """Time the loss and all gradients of the last layer."""
    rng = np.random.default_rng(0)
    h, w = (rng.standard_normal((count, features), dtype=np.float32) for count in (samples, classes))
    w *= np.float32(3 / features**0.5)
    y, mine = rng.integers(0, classes, samples), np.ascontiguousarray(w[share(classes)])
    parallel = mpi.vocab_parallel_linear_cross_entropy_and_grad
    both, sums = exchange(samples), (np.zeros_like(h), np.empty_like(h))
    return contest(
        {
            "fastce": (lambda: fastce.linear_cross_entropy_and_grad(h, w, y), False),
            "one": (lambda: parallel(h, w, y, comm=MPI.COMM_SELF), False),
            "all": (lambda: parallel(h, mine, y, comm=WORLD), True),
            "exchange": (lambda: (both(), WORLD.Allreduce(*sums)), True),
        }
    )


def merging() -> dict[str, float]:
    """Time merging, a sample and part, by samples and parts."""
    samples, parts = QUICK_MERGED if QUICK else MERGED
    found = {}
    for n in samples:
        x, y = np.random.default_rng(0).standard_normal((n, 8), dtype=np.float32), np.zeros(n, np.int64)
        for p in parts:
            stats = [shards.statistics(x, y, start=8 * i) for i in range(p)]
            found[f"{n} {p}"] = alone(lambda stats=stats: shards.merge(stats)) / n / p
    return found


def operator(samples: int) -> float:
    """Time a step of the operator of an Allreduce."""
    x, y = np.random.default_rng(0).standard_normal((samples, 8), dtype=np.float32), np.zeros(samples, np.int64)
    left, fresh = (np.append(shards.statistics(x, y, start=start).ravel(), 4.0) for start in (0, 8))
    right = fresh.copy()

    def step() -> None:
        right[:] = fresh
        mpi_ranks.merge_blocks(left, right)

    return alone(step)


def products() -> float:
    """Return flop/s of a matrix product."""
    n, d, v = (8, 8, 8) if QUICK else (512, 1024, 4096)
    h, w = (np.random.default_rng(0).standard_normal((count, d), dtype=np.float32) for count in (n, v))
    return 2 * n * d * v / max(alone(lambda: h @ w.T), 1e-9)


def bandwidth(samples: int, classes: int) -> float:
    """Return bytes/s of the statistics and the gradient, which read the logits twice and write once."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((samples, classes), dtype=np.float32), rng.integers(0, classes, samples)
    out, stats = np.empty_like(x), shards.statistics(x, y)
    seconds = alone(lambda: (shards.statistics(x, y), shards.cross_entropy_grad(x, y, stats, out=out)))
    return 12 * samples * classes / max(seconds, 1e-9)


def network() -> dict[str, float]:
    """Time Allgathers of so many bytes a rank."""
    found = {}
    for size in (64, 16392, 1 << 20):
        sent, received = np.zeros(size, np.uint8), np.empty((WORLD.size, size), np.uint8)
        call = partial(WORLD.Allgather, sent, received)
        found[str(size)] = contest({"": (call, True)})[""]
    return found


def main() -> None:
    """Measure all; rank 0 prints."""
    numba.set_num_threads(1)
    small = np.zeros((1, 8), np.float32)
    logits, layers = (QUICK_LOGITS, QUICK_LAYERS) if QUICK else (LOGITS, LAYERS)
    found = {
        "library": " ".join(MPI.Get_library_version().splitlines()[0].replace("Version:", "").split()),
        "logits": {"×".join(map(str, shape)): of_logits(*shape) for shape in logits},
        "layers": {"×".join(map(str, shape)): of_layer(*shape) for shape in layers},
        "bandwidth": [bandwidth(*shape) for shape in logits],
        "products": products(),
        "merging": merging(),
        "operator": {n: operator(n) for n in ((16,) if QUICK else (512, 4096))},
        "call": alone(lambda: mpi.vocab_parallel_cross_entropy_and_grad(small, [0], comm=MPI.COMM_SELF)),
        "network": network(),
    }
    if WORLD.rank == 0:
        print("JSON" + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
