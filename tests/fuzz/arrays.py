"""The arrays that the fuzzer passes: values of every kind in guarded memory."""

from typing import Any

import numpy as np

from tests.fuzz.objects import BACKINGS
from tests.helpers import BFLOAT16, finfo
from tests.oracle.layouts import LAYOUTS

GUARD = 256  # bytes before and behind every array
VALUES = ("normal", "zero", "equal", "wide", "huge", "tiny", "-inf", "nothing but -inf", "inf", "nan", "any")


class Guarded:
    """An array in the layout asked for, with zones around it that nobody may touch.

    ``backing`` says whose memory it is, ``room`` how many bytes there are behind it for another array to begin in it.
    """

    def __init__(self, values: np.ndarray, layout: str = "C order", backing: str = "NumPy", room: int = 0) -> None:
        if not values.size or not values.ndim or (layout == "unaligned" and values.itemsize == 1):
            layout = "C order"
        view = LAYOUTS[layout](values)
        root = view
        while isinstance(root.base, np.ndarray):
            root = root.base
        self.offset = GUARD + view.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        inside = np.frombuffer(root.tobytes("A"), np.uint8)
        zone = np.full(GUARD, 0xA5, np.uint8)
        self.memory = BACKINGS[backing](np.concatenate([zone, inside, zone[:1].repeat(room), zone]))
        self.inside = slice(GUARD, GUARD + inside.size)
        self.array = np.ndarray(view.shape, view.dtype, self.memory, self.offset, view.strides)
        self.before = np.array(self.memory)
        self.array.flags.writeable = view.flags.writeable
        self.outs: list[np.ndarray] = []  # arrays in this memory that a call may write to

    def put(self, where: np.ndarray, values: np.ndarray) -> None:
        """Have other values somewhere from the start."""
        for memory in (self.memory, self.before):
            self.same_in(memory.view(np.ndarray), self.array)[where] = values[where]

    def is_untouched(self) -> bool:
        """Whether all is as it was, zones and gaps included."""
        return bool(np.array_equal(self.memory, self.before))

    def is_untouched_around(self) -> bool:
        """Whether all but the elements of what a call may write to is as it was."""
        now = np.array(self.memory)
        for out in self.outs:
            self.same_in(now, out)[...] = self.same_in(self.before, out)
        return bool(np.array_equal(now, self.before))

    def laid_over(self, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> np.ndarray:
        """An array in C order that begins so many bytes behind the first guard zone."""
        return np.ndarray(shape, dtype, self.memory, GUARD + offset)

    def shifted(self) -> np.ndarray:
        """An array that overlaps this one, which is in C order, all but its first element."""
        return np.ndarray(self.array.shape, self.array.dtype, self.memory, self.offset + self.array.itemsize)

    def same_in(self, memory: np.ndarray, array: np.ndarray) -> np.ndarray:
        """The elements of an array of this memory in another memory of that size."""
        offset = array.__array_interface__["data"][0] - self.memory.__array_interface__["data"][0]
        return np.ndarray(array.shape, array.dtype, memory, offset, array.strides)


def dtype_of(name: str) -> np.dtype[Any]:
    """A dtype by its name."""
    return BFLOAT16 if name == "bfloat16" else np.dtype(name)


def values_of(kind: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator) -> np.ndarray:
    """Logits of one kind."""
    x = rng.normal(size=shape) * 3
    if dtype.kind in "iub":
        return (x if dtype.kind == "i" else np.abs(x)).astype(dtype)
    if dtype.kind not in "fV" and dtype != BFLOAT16:
        return np.zeros(shape, dtype)
    info = finfo(dtype)
    somewhere = rng.random(shape) < 0.3
    large = float(info.max) * (1e-6 if float(info.max) > 1e5 else 0.01)  # whose sums are finite
    made = {
        "normal": lambda: x,
        "zero": lambda: x * 0,
        "equal": lambda: np.full(shape, 2.5),
        "wide": lambda: x * 100,
        "huge": lambda: x * large,
        "tiny": lambda: x * float(info.tiny),
        "-inf": lambda: np.where(somewhere, -np.inf, x),
        "nothing but -inf": lambda: np.full(shape, -np.inf),
        "inf": lambda: np.where(somewhere, np.inf, x),
        "nan": lambda: np.where(somewhere, np.nan, x),
        "any": lambda: rng.choice([-np.inf, np.inf, np.nan, 0.0, -0.0, 1.0, 30.0, large], shape),
    }[kind]()
    with np.errstate(all="ignore"):
        return np.asarray(made).astype(dtype)
