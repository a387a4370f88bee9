"""A case of the fuzzer many times, while another thread writes to one of its arguments.

The results may be anything. What is held: errors are documented ones, memory around the arrays stays as it was, and
the process lives.
"""

import threading
import time
from typing import Any

import numba
import numpy as np

from tests.fuzz.arrays import Guarded
from tests.fuzz.calls import Call

WRITTEN = 30_000_000  # bytes in all, some 10 ms
SECONDS = 0.05  # at most, where the writer gets no core


@numba.njit(nogil=True)
def _write(memory, images, rounds):
    """Copy one image after the other into the memory."""
    for i in range(rounds):
        image = images[i % len(images)]
        for k in range(len(memory)):
            memory[k] = image[k]


class Race:
    """A call beside a writer."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.problem: str | None = None
        names = [name for name, guard in call.guarded.items() if not guard.outs and guard.array.size]
        self.rng = np.random.default_rng(call.case["seed"])
        self.victim = call.guarded[names[self.rng.integers(len(names))]] if names else None

    def run(self, documented: tuple[type[Exception], ...]) -> int:
        """Return how many calls there were while the writer wrote."""
        victim = self.victim
        if victim is None:
            return 0
        images = np.stack([self._image(victim, values) for values in _strange_values(victim.array, self.rng)])
        inside = victim.memory.view(np.ndarray)[victim.inside]
        _write(inside, images, 0)  # compiled before two threads do so
        writer = threading.Thread(target=_write, args=(inside, images, WRITTEN // (inside.size + 64)))
        calls, end = 0, time.monotonic() + SECONDS
        writer.start()
        try:
            while self.problem is None and (not calls or (writer.is_alive() and time.monotonic() < end)):
                calls += 1
                self._call(documented)
        finally:
            writer.join()
        self._look_around(victim)
        return calls

    def _call(self, documented: tuple[type[Exception], ...]) -> None:
        try:
            self.call.run()
        except documented:
            pass
        except Exception as error:
            self.problem = f"beside a writer: undocumented {type(error).__name__}: {error}"

    def _look_around(self, victim: Guarded) -> None:
        victim.memory[victim.inside] = victim.before[victim.inside]
        for name, guard in self.call.guarded.items():
            if self.problem is None and not guard.is_untouched_around():
                self.problem = f"beside a writer: memory around {name} written to"

    def _image(self, victim: Guarded, values: Any) -> np.ndarray:
        """What the memory of the victim holds when its elements have these values."""
        memory = victim.before.copy()
        victim.same_in(memory, victim.array)[...] = values
        return memory[victim.inside]


def _strange_values(array: np.ndarray, rng: np.random.Generator) -> list[Any]:
    """What the elements of an array become, in turn, the first time what they are."""
    if array.dtype.kind == "b":
        return [array, True, False, rng.random(array.shape) < 0.5]
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        most, top = int(array.max()), int(info.max)
        pool = [v for v in (0, 1, -1, most + 1, 2 * most + 7, 1 << 20, 1 << 40, top, info.min) if info.min <= v <= top]
        return [array, *pool, rng.choice(np.array(pool, array.dtype), array.shape)]
    pool = np.array([0.0, 1.0, -1.0, 1e4, -1e4, np.nan, np.inf, -np.inf, 1e-7]).astype(array.dtype)
    return [array, *pool, rng.choice(pool, array.shape)]
