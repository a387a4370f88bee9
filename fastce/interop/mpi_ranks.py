"""Exchanges between the ranks of one call, none of which waits for a rank that has failed.

A call has a first exchange of a few integers a rank, the *record*: how many classes, and whether all ranks have the
same samples and options. All others carry a status along. So an error of one rank, before or between exchanges, ends
the call on all ranks: there with its own error, elsewhere with a RuntimeError that names the rank.
"""

from __future__ import annotations

import math
import operator
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

import fastce
from fastce.interop.extras import extra

with extra("mpi", "mpi4py"):
    from mpi4py import MPI

Array = np.ndarray[Any, Any]
Result = TypeVar("Result")

INT64_MAX = np.iinfo(np.int64).max
GATHER_RANKS = 64  # up to so many, each rank receives the statistics of all; beyond, they are merged on the way


class Record(NamedTuple):
    """What a rank tells the others first, integers all."""

    width: int  # the number of classes in its shard
    start: int  # -1 if the widths of the ranks before tell
    samples: int
    rows: int  # of its statistics
    dtype: int
    target: int
    options: int


SAME = {  # fields that have to be the same on all ranks
    "samples": "number of samples",
    "rows": "kind of target, and class weights or none",
    "dtype": "dtype",
    "target": "target",
    "options": "function and options",
}


def fingerprint(*values: object) -> int:
    """Return a number for these values: names, numbers, and arrays that are the same on all ranks."""
    number = 0
    for value in values:
        if value is None or isinstance(value, str):
            content = str(value).encode()
        else:
            array = np.asarray(value)
            numbers = array.astype(np.int64 if array.dtype.kind in "iu" and array.ndim else np.float64, copy=False)
            content = str(array.shape).encode() + numbers.tobytes()
        number = zlib.crc32(content, number)
    return number


def check_samples(target: Array, dtype: np.dtype[Any], **options: Any) -> None:
    """Have fastce check what samples have, but for the range of labels, by a call without classes, which is cheap."""
    no_classes = np.empty((*target.shape, 0), dtype)
    labels = np.zeros_like(target) if target.dtype.kind in "iu" else target
    stats = fastce.shards.statistics(no_classes, labels, ignore_index=0)
    fastce.shards.cross_entropy_grad(no_classes, labels, stats, ignore_index=0, **options)


def first_class(start: int | None, width: int) -> int:
    """Return the ``start`` of a record, for a shard of so many classes; raise if it is no place of one."""
    if start is None:
        return -1
    first = operator.index(start)
    if not 0 <= first <= INT64_MAX - width:
        raise ValueError(f"start must be at least 0, and the last class fit 64 bits, got {first}")
    return first


class Ranks:
    """The ranks of one call: its exchanges, and the first error of this rank."""

    def __init__(self, comm: MPI.Intracomm | None) -> None:
        if isinstance(comm, MPI.Intercomm):
            raise TypeError("comm must be an intracommunicator, got an intercommunicator: see its Merge")
        self.comm: Any = MPI.COMM_WORLD if comm is None else comm
        self.error: Exception | None = None

    def attempt(self, function: Callable[[], Result]) -> Result | None:
        """Call the function, unless this rank has failed; keep its error until the next exchange."""
        if self.error is None:
            try:
                return function()
            except Exception as error:
                self.error = error
        return None

    def check(self, failed: str | None) -> None:
        """Raise the error of this rank, or one for another rank that failed."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if failed is not None:
            raise RuntimeError(f"{failed} raised an error, which ends this call on every rank")

    def gather(self, values: Array) -> Array:
        """Return the values of all ranks, in their order."""
        received = np.empty((self.comm.size, *values.shape), values.dtype)
        self.comm.Allgather(values, received)
        return received

    def total(self, compute: Callable[[], float]) -> float:
        """Return the sum of a number of each rank, which is computed by the function."""
        number = self.attempt(compute)
        received = self.gather(np.array([0.0, 0.0] if number is None else [1.0, number]))
        self.check(_first(received[:, 0] == 0.0))
        return float(np.sum(received[:, 1]))

    def agree(self, record: Record | None) -> Shares:
        """Exchange the records, None of a rank that failed, and check that they fit."""
        sent = np.zeros(1 + len(Record._fields), np.int64)
        if record is not None:
            sent[0], sent[1:] = 1, record
        received = self.gather(sent)
        self.check(_first(received[:, 0] == 0))
        table = Record(*received[:, 1:].T)
        for name, text in SAME.items():
            column = np.asarray(getattr(table, name))
            if rank := int(np.argmax(column != column[0])):
                values = f": {column[0]} and {column[rank]}" if name == "samples" else ""
                raise ValueError(f"every rank must have the same {text}, but ranks 0 and {rank} differ{values}")
        return Shares(np.asarray(table.width), np.asarray(table.start), self.comm.rank)

    def merge(self, write: Callable[[Array], object], shape: tuple[int, int], shares: Shares) -> Array:
        """Return the merged statistics of all ranks, in one exchange; ``write`` puts those of this rank in an array."""
        sent = np.zeros(math.prod(shape) + 1)
        part = sent[:-1].reshape(shape)
        self.attempt(lambda: write(part))
        if self.error is None:
            sent[-1] = shape[0]
        if self.comm.size <= GATHER_RANKS:
            received = self.gather(sent)
            self.check(_first(received[:, -1] == 0.0))
            return fastce.shards.merge([received[rank, :-1].reshape(shape) for rank in shares.order])
        block = MPI.DOUBLE.Create_contiguous(len(sent)).Commit()  # one element, so that MPI does not cut it
        try:
            merged = np.empty_like(sent)
            self.comm.Allreduce([sent, 1, block], [merged, 1, block], merge_operator())
        finally:
            block.Free()
        self.check(None if merged[-1] else "another rank")
        return merged[:-1].reshape(shape)

    def add(self, values: Array) -> None:
        """Replace flat values by their sums over all ranks; the last of them is for the status."""
        values[-1] = 1.0 if self.error is not None else 0.0
        if self.comm.size > 1:
            self.comm.Allreduce(values.copy(), values, MPI.SUM)
        self.check("another rank" if values[-1] else None)


class Shares:
    """Where the classes of all ranks are, by the number of classes and the ``start`` of each, -1 for none."""

    def __init__(self, widths: Array, starts: Array, rank: int) -> None:
        before = np.cumsum(widths) - widths
        starts = np.where(starts < 0, before, starts)
        self.order = np.lexsort((widths, starts))  # of two with one start, the first is empty
        ends = np.cumsum(widths[self.order])
        if not np.array_equal(starts[self.order], ends - widths[self.order]):
            given = ", ".join(f"{start} to {start + width}" for start, width in zip(starts, widths, strict=True))
            raise ValueError(f"start must put the classes of all ranks one behind another from 0 on, got {given}")
        self.start, self.classes = int(starts[rank]), int(ends[-1])
        self.stop = self.start + int(widths[rank])
        self.widest = int(widths.max())

    def arguments(self, weight: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Return what the statistics and the gradient of this rank's shard both take."""
        names = "ignore_index", "label_smoothing", "logit_scale", "softcap"
        return {"start": self.start, "classes": self.classes, "weight": weight} | {n: options[n] for n in names}


def _first(failed: Array) -> str | None:
    """Return the name of the first rank that failed."""
    return f"rank {int(np.argmax(failed))}" if failed.any() else None


@cache
def merge_operator() -> MPI.Op:
    """Return the operator of MPI that merges statistics; it depends on the order."""
    return MPI.Op.Create(merge_blocks, commute=False)


def merge_blocks(left: Any, right: Any, datatype: object = None) -> None:
    """Merge the statistics in front into those behind; each is followed by the number of rows, 0 after a failure."""
    first, second = np.frombuffer(left), np.frombuffer(right)
    if not first[-1] or not second[-1]:
        second[-1] = 0.0
        return
    rows = int(second[-1])
    try:
        merged = fastce.shards.merge([first[:-1].reshape(rows, -1), second[:-1].reshape(rows, -1)])
    except Exception:  # which must not leave a callback of MPI
        second[-1] = 0.0
    else:
        second[:-1] = merged.reshape(-1)
