"""What the fuzzer passes instead of an ndarray, and memory that is not NumPy's."""

import array
import ctypes
import functools
import importlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

LONG = 3000  # more elements than this take too long as Python's numbers
# dtypes that lists of Python's numbers have, and the codes of those that array.array holds
EXACT = (np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_))
CODES = {np.dtype(code): code for code in "dfbBhHiIqQ"}


@functools.cache
def _torch() -> Any:
    """Torch, or None: then arrays stand in for its tensors."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        return None


class OnlyArray:
    """An object that turns into its array once, and into something else from then on."""

    def __init__(self, array: np.ndarray) -> None:
        self.array: np.ndarray | None = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        found, self.array = self.array, None
        return np.full(7, "asked again") if found is None else found


class OnlyInterface:
    """An object that is nothing but a place in memory."""

    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self.kept = array


class Stubborn(np.ndarray):
    """A subclass whose methods are of no use."""

    def __array_ufunc__(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("a ufunc of an argument's own was used")

    def __array_function__(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("a function of an argument's own was used")

    def astype(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("a method of an argument's own was used")

    sum = reshape = max = any = all = astype


def _nested(x: np.ndarray) -> Any:
    if not x.size or (not x.ndim and x.dtype not in EXACT):
        return x
    return x.tolist() if x.dtype in EXACT and x.size <= LONG else list(x) if x.ndim else x


def _tuple(x: np.ndarray) -> Any:
    found = _nested(x)
    return tuple(found) if isinstance(found, list) else found


def _array_array(x: np.ndarray) -> Any:
    if x.ndim == 1 and x.dtype in CODES:
        return array.array(CODES[x.dtype], x.tobytes())
    return memoryview(x)


def _read_only(x: np.ndarray) -> np.ndarray:
    view = x.view()
    view.flags.writeable = False
    return view


def _interface(x: np.ndarray) -> Any:
    if x.dtype.kind == "V":  # the interface has no name for bfloat16
        return OnlyArray(x)
    return OnlyInterface(x)


def _tensor(x: np.ndarray) -> Any:
    return _torch().from_numpy(x) if _torch() and x.flags.writeable else x


OBJECTS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "list": _nested,
    "tuple": _tuple,
    "memoryview": memoryview,
    "array.array": _array_array,
    "ctypes array": np.ctypeslib.as_ctypes,
    "__array__": OnlyArray,
    "__array_interface__": _interface,
    "subclass": lambda x: x.view(Stubborn),
    "memmap": lambda x: x.view(np.memmap),
    "read-only": _read_only,
    "tensor": _tensor,
}
KINDS = (*OBJECTS, "any")


def as_object(kind: str, x: Any, rng: np.random.Generator) -> Any:
    """Return an array as an object of this kind, over the same memory if it can be; itself where there is none."""
    if kind == "any":
        kind = str(rng.choice(list(OBJECTS)))
    if not isinstance(x, np.ndarray):
        return _scalar(x, rng) if kind != "array" else x
    try:
        return OBJECTS[kind](x)
    except (TypeError, ValueError, NotImplementedError, BufferError):  # of this dtype, or with these strides
        return x


def _scalar(x: Any, rng: np.random.Generator) -> Any:
    """Return an option's number in another form."""
    if type(x) is float:
        return (x, np.float64(x), np.array(x))[rng.integers(3)]
    if type(x) is int:
        forms = (x, np.int64(x), np.array(x), *((np.int8(x),) if -128 <= x < 128 else ()), *((True,) if x == 1 else ()))
        return forms[rng.integers(len(forms))]
    return x


# --- memory ---------------------------------------------------------------------


def _mapped(memory: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, np.uint8, "w+", shape=memory.shape)
    mapped[:] = memory
    return mapped


def _in_ctypes(memory: np.ndarray) -> np.ndarray:
    return np.frombuffer((ctypes.c_uint8 * memory.size).from_buffer_copy(memory), np.uint8)


def _in_torch(memory: np.ndarray) -> np.ndarray:
    return _torch().from_numpy(memory).clone().numpy() if _torch() else memory


BACKINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NumPy": lambda memory: memory,
    "bytearray": lambda memory: np.frombuffer(bytearray(memory), np.uint8),
    "ctypes": _in_ctypes,
    "memory map": _mapped,
    "tensor": _in_torch,
}
