"""Models the vocab-parallel loss on up to 1,024 ranks: ``python -m tools.scale``; ``--write`` fills in docs/scale.md.

Bytes are exact: a test counts them. The time of an exchange is steps · latency + bytes / bandwidth + merging.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tools.marks import replaced

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"

RANKS = (2, 4, 16, 64, 256, 1024)
CLASSES = (50_257, 131_072, 1_000_000, 10_000_000)
SAMPLES = 4096  # of the tables
FEATURES = 1024  # of the last layer, in the tables

# --- bytes, as fastce.interop.mpi sends them ------------------------------------

RECORD_BYTES = 64  # of a rank: eight integers
NUMBER_BYTES = 8  # float64
ROWS = 4  # of the statistics with class indices; 7 with class weights or smoothing, 5 with probabilities
LOGIT_BYTES = 4  # float32
MAX_BYTES = 256_000_000  # of a chunk of logits: the default of the linear layer

# --- seconds, measured on one thread of a Xeon with AVX-512 by the runs of docs/scale.md ---

KERNEL_BYTES = 12  # of memory a float32 logit: read for the statistics, read and written for the gradient
FUSED_BYTES = 8  # of fastce.cross_entropy_and_grad, which reads the logits once
MERGE = 13e-9  # s a sample and part, of 8 to 128 parts
OPERATOR = 20e-6  # s a step of an Allreduce: MPI calls Python, which calls a kernel
MERGE_PAIR = 14e-9  # s a sample and step beside
CALL = 0.3e-3  # s a call, beside kernels and exchanges: checks, checksums, Python

# --- Dask: nominal figures, but for the number of tasks ---------------------------

DASK_TASKS = 3  # a chunk, of a loss with classes in several chunks: a test counts them
DASK_TASK = 0.5e-3  # s of the scheduler a task; Dask's documentation says 0.2 to 1 ms
DASK_THREADS = 8  # of a worker
DISK = 3e9  # bytes/s of a worker's own disk, or of its share of a common one


class Setting(NamedTuple):
    """A kind of machine and network: the first as measured, the others by nominal figures of hardware."""

    name: str
    memory: float  # bytes/s that the kernels of a rank read and write
    products: float  # flop/s of a rank, float32
    latency: float  # s a step of an exchange
    bandwidth: float  # bytes/s that reach a rank


SETTINGS = (
    Setting("a rank a core, one machine", 14e9, 110e9, 3e-6, 5e9),
    Setting("a rank a server, 200 Gb/s InfiniBand", 200e9, 2e12, 3e-6, 25e9),
    Setting("a rank a desktop, 10 Gb/s Ethernet", 40e9, 0.5e12, 40e-6, 1.25e9),
)
ONE_MACHINE = 64  # the most ranks of the first setting


class Exchange(NamedTuple):
    """A collective exchange, as a rank sees it."""

    sent: int  # bytes that it hands to MPI
    received: float  # bytes that come from other ranks
    steps: int  # messages one after another
    merging: float  # s
    memory: int  # bytes of buffers, those of MPI and of merging included

    def seconds(self, setting: Setting) -> float:
        """Return the time of the exchange and of merging."""
        return self.steps * setting.latency + self.received / setting.bandwidth + self.merging


def doublings(ranks: int) -> int:
    """Return how often a group doubles until it has all ranks."""
    return math.ceil(math.log2(ranks))


def statistics_bytes(samples: int, rows: int = ROWS) -> int:
    """Return the size of the statistics of a shard, with a status."""
    return NUMBER_BYTES * (rows * samples + 1)


def record(ranks: int) -> Exchange:
    """Model the first exchange: widths, checksums and status."""
    return Exchange(RECORD_BYTES, RECORD_BYTES * (ranks - 1), doublings(ranks), 0.0, RECORD_BYTES * (ranks + 1))


def gathered(ranks: int, samples: int, rows: int = ROWS) -> Exchange:
    """Model the Allgather of all statistics, which each rank merges: up to 64 ranks."""
    size = statistics_bytes(samples, rows)
    return Exchange(size, size * (ranks - 1), doublings(ranks), MERGE * ranks * samples, size * (2 * ranks + 2))


def reduced(ranks: int, samples: int, rows: int = ROWS) -> Exchange:
    """Model the Allreduce that merges on the way, by recursive doubling: beyond 64 ranks, powers of two."""
    size, steps = statistics_bytes(samples, rows), doublings(ranks)
    return Exchange(size, size * steps, steps, steps * (OPERATOR + MERGE_PAIR * samples), 6 * size)


def dealt(ranks: int, samples: int, rows: int = ROWS) -> Exchange:
    """Model what fastce does not do: an Alltoall of samples, of which each rank merges some, and an Allgather."""
    size = statistics_bytes(samples, rows)
    received = 2 * size * (ranks - 1) / ranks
    return Exchange(2 * size, received, 2 * doublings(ranks), MERGE * samples, 3 * size)


def summed(ranks: int, numbers: int, itemsize: int = LOGIT_BYTES) -> Exchange:
    """Model the Allreduce that adds up long arrays: each rank adds one part, then all parts are gathered."""
    size = numbers * itemsize
    return Exchange(size, 2 * size * (ranks - 1) / ranks, 2 * doublings(ranks), 0.0, 2 * size)


WAYS = {"Allgather": gathered, "Allreduce": reduced, "dealt": dealt}


def chosen(ranks: int, samples: int, rows: int = ROWS) -> Exchange:
    """Model the exchange of statistics that fastce uses."""
    return (gathered if ranks <= 64 else reduced)(ranks, samples, rows)


# --- time ------------------------------------------------------------------------


def kernels(setting: Setting, ranks: int, samples: int, classes: int) -> float:
    """Return the seconds of a rank's kernels: statistics and gradient of its logits."""
    return KERNEL_BYTES * samples * classes / ranks / setting.memory


def exchanges(setting: Setting, ranks: int, samples: int) -> float:
    """Return the seconds of the exchanges of a loss and gradient."""
    return record(ranks).seconds(setting) + chosen(ranks, samples).seconds(setting)


def speedup(setting: Setting, ranks: int, samples: int, classes: int) -> float:
    """Return how many times as fast as one rank of fastce alone, whose kernel reads the logits once."""
    alone = FUSED_BYTES * samples * classes / setting.memory
    return alone / (CALL + kernels(setting, ranks, samples, classes) + exchanges(setting, ranks, samples))


def limit(setting: Setting, classes: int, way: Callable[[int, int], Exchange]) -> int:
    """Return the most ranks, a power of two, whose exchange takes less time than their kernels."""
    ranks = 1
    while way(2 * ranks, SAMPLES).seconds(setting) < kernels(setting, 2 * ranks, SAMPLES, classes):
        ranks *= 2
    return ranks


def linear(setting: Setting, ranks: int, samples: int, classes: int, features: int) -> tuple[float, float, float]:
    """Return the seconds of the linear layer's products, its statistics' exchanges, and the sum of d_hidden."""
    shard = math.ceil(classes / ranks)
    chunks = math.ceil(samples / max(MAX_BYTES // (shard * LOGIT_BYTES), 1))
    products = 6 * samples * shard * features / setting.products  # three products
    statistics = chunks * chosen(ranks, math.ceil(samples / chunks)).seconds(setting)
    return products, statistics, summed(ranks, samples * features + 1).seconds(setting)


def groups(ranks: int, parts: int, samples: int, classes: int, features: int) -> tuple[float, float, float]:
    """Return the bytes that a rank receives for d_hidden and d_weight, and those of its weights and their gradient.

    There are ``parts`` vocab-parallel ranks a group, and ``ranks / parts`` groups that share the samples.
    """
    shares = ranks // parts
    d_hidden = summed(parts, samples // shares * features + 1).received
    weights = math.ceil(classes / parts) * features
    return d_hidden, summed(shares, weights).received, 2 * LOGIT_BYTES * weights


def levels(servers: int, cores: int, samples: int) -> dict[str, float]:
    """Return the seconds of exchanging statistics between all cores of some servers, by several ways.

    The cores of a server share its network, unless one rank speaks for all.
    """
    inside, outside = SETTINGS[0], SETTINGS[1]
    shared = outside._replace(bandwidth=outside.bandwidth / cores)
    spread = Exchange(0, statistics_bytes(samples), doublings(cores), 0.0, 0).seconds(inside)
    across = reduced(servers, samples).seconds(outside)
    return {
        "Allgather of all ranks": gathered(servers * cores, samples).seconds(shared),
        "Allreduce of all ranks": reduced(cores, samples).seconds(inside) + reduced(servers, samples).seconds(shared),
        "dealt between all ranks": dealt(servers * cores, samples).seconds(shared),
        "dealt on a server, Allreduce across servers": dealt(cores, samples).seconds(inside) + across + spread,
        "one rank a server, threads on its cores": across,
    }


# --- Dask --------------------------------------------------------------------------


def dask_seconds(samples: int, classes: int, chunk: tuple[int, int], workers: int) -> dict[str, float]:
    """Return the seconds of a loss over logits on disks by what could bind, and of moving statistics."""
    chunks = math.ceil(samples / chunk[0]) * math.ceil(classes / chunk[1])
    size = LOGIT_BYTES * samples * classes
    statistics = NUMBER_BYTES * ROWS * chunk[0] * chunks
    return {
        "scheduler": DASK_TASKS * DASK_TASK * chunks,
        "disks": size / (DISK * workers),
        "kernels": size / (SETTINGS[0].memory * DASK_THREADS * workers),
        "statistics": statistics / (SETTINGS[2].bandwidth * workers),
    }


# --- tables ------------------------------------------------------------------------


def _table(head: list[str], lines: list[list[str]]) -> str:
    """Return a table in Markdown whose first column is text."""
    rows = [head, [":--", *["--:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number(value: float) -> str:
    """Return a number with two digits or more."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    return f"{_number(1e6 * seconds)} µs" if seconds < 1e-3 else f"{_number(1e3 * seconds)} ms"


def _size(count: float) -> str:
    unit, name = next(((unit, name) for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), (1e3, "kB"))
    return f"{_number(count / unit)} {name}" if count > 0 else "0"


def bytes_table() -> str:
    """Return bytes and steps by the number of ranks."""
    lines = []
    for ranks in RANKS:
        line = [f"{ranks:,}"]
        for way in WAYS.values():
            exchange = way(ranks, SAMPLES)
            line += [_number(exchange.received / SAMPLES), str(exchange.steps)]
        line += [_size(way(ranks, SAMPLES).memory) for way in (gathered, reduced)]
        lines.append(line)
    head = [text for name in WAYS for text in (name, "steps")]
    return _table(["ranks", *head, "memory, Allgather", "memory, Allreduce"], lines)


def time_table() -> str:
    """Return the speed and the share of exchanges, by setting, classes and ranks."""
    lines = []
    for setting in SETTINGS:
        lines.append([f"**{setting.name}**", *[""] * len(RANKS)])
        for classes in CLASSES:
            line = [f"{classes:,}"]
            for ranks in RANKS:
                if setting is SETTINGS[0] and ranks > ONE_MACHINE:
                    line.append("–")
                    continue
                share = exchanges(setting, ranks, SAMPLES)
                share /= CALL + share + kernels(setting, ranks, SAMPLES, classes)
                line.append(f"{_number(speedup(setting, ranks, SAMPLES, classes))} ({100 * share:.0f} %)")
            lines.append(line)
    return _table(["classes", *(f"{ranks:,} ranks" for ranks in RANKS)], lines)


def limit_table() -> str:
    """Return the ranks at which an exchange takes as long as kernels."""
    lines = [
        [f"{classes:,}", *(f"{limit(setting, classes, way):,}" for setting in SETTINGS[1:] for way in WAYS.values())]
        for classes in CLASSES
    ]
    names = ("InfiniBand", "Ethernet")
    return _table(["classes", *(f"{name}, {way}" for name in names for way in WAYS)], lines)


def linear_table() -> str:
    """Return the times of the linear layer."""
    setting, lines = SETTINGS[1], []
    for classes in CLASSES:
        line = [f"{classes:,}"]
        for ranks in RANKS:
            times = linear(setting, ranks, SAMPLES, classes, FEATURES)
            line.append(" + ".join(_number(1e3 * seconds) for seconds in times))
        lines.append(line)
    return _table(["classes", *(f"{ranks:,} ranks" for ranks in RANKS)], lines)


def groups_table() -> str:
    """Return what 64 ranks exchange for 65,536 samples, by the size of their vocab-parallel groups."""
    ranks, samples, lines = 64, 65_536, []
    for parts in (1, 4, 16, 64):
        line = [f"{parts} × {ranks // parts}"]
        for classes in CLASSES[::2]:
            d_hidden, d_weight, memory = groups(ranks, parts, samples, classes, FEATURES)
            line += [f"{_size(d_hidden)} + {_size(d_weight)}", _size(memory)]
        lines.append(line)
    head = [text for classes in CLASSES[::2] for text in (f"{classes:,} classes", "weights")]
    return _table(["vocab-parallel × data-parallel", *head], lines)


def levels_table() -> str:
    """Return the times of ways over 16 servers of 64 cores."""
    return _table(
        ["16 servers of 64 cores", "time"], [[way, _duration(time)] for way, time in levels(16, 64, SAMPLES).items()]
    )


def dask_table() -> str:
    """Return what binds a loss over 500 GB, by the size of chunks."""
    samples, classes, workers, lines = 1_000_000, 131_072, 16, []
    for chunk in ((64, 16_384), (1024, 16_384), (1024, 131_072), (8192, 131_072)):
        times = dask_seconds(samples, classes, chunk, workers)
        size = f"{chunk[0]:,} × {chunk[1]:,}, {_size(LOGIT_BYTES * chunk[0] * chunk[1])}"
        lines.append([size, *(f"{_number(seconds)} s" for seconds in times.values())])
    return _table(["chunk", "scheduler", "disks", "kernels", "statistics"], lines)


TABLES = {
    "bytes": bytes_table,
    "times": time_table,
    "limits": limit_table,
    "linear": linear_table,
    "groups": groups_table,
    "levels": levels_table,
    "dask": dask_table,
}


def written(page: str) -> str:
    """Return the page with its tables as the model has them."""
    for name, table in TABLES.items():
        page = replaced(page, f"\n{table()}\n", name)
    return page


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(prog="python -m tools.scale", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scale.md")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(*(f"{name}\n\n{table()}\n" for name, table in TABLES.items()), sep="\n")


if __name__ == "__main__":
    main()
