"""Threads for kernels that run between matrix products.

Numba's threads spin for some milliseconds after a kernel, in the hope of another one, and BLAS's
threads, whose turn it is then, do not get the cores. Python's own threads sleep at once.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from fastce._arrays import Array
from fastce.kernels.threads import PARALLEL_ELEMENTS

PARTS_A_THREAD = 4  # so that one thread that comes late does not hold up all


def parts(count: int, step: int) -> Iterator[slice]:
    """Cut ``count`` into slices of ``step``."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


class Workers:
    """As many threads as Numba may use, each of which runs kernels by itself. A context manager."""

    def __init__(self) -> None:
        self.count = numba.get_num_threads()
        self.pool = ThreadPoolExecutor(self.count, initializer=_settle_in)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()

    def run(self, work: Callable[[slice], None], x: Array) -> None:
        """Call ``work`` for slices that make up the rows of ``x``, in no order; at once if that is not worth it."""
        most = min(PARTS_A_THREAD * self.count, x.size // PARALLEL_ELEMENTS)
        if self.count == 1 or most < 2 or len(x) < self.count:
            work(slice(0, len(x)))
        else:
            for _ in self.pool.map(work, parts(len(x), -(-len(x) // most))):
                pass  # errors come out here


def _settle_in() -> None:
    """Make settings that Numba and NumPy keep for each thread: run serial twins, do not warn."""
    numba.set_num_threads(1)
    np.seterr(all="ignore")
