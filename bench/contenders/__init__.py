"""The contenders: a library each, or a way of using it.

Each module here has tables: operation -> function that makes a call from a case's inputs. The call does what a user's
line of code would do, and returns the result as the library gives it. A module is imported only in the process that
calls it.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from bench.inputs import Call, Calls


@dataclass(frozen=True)
class Contender:
    """A label for reports, and ``module:NAME`` of a table of calls in this folder, or ``package.module:NAME``."""

    label: str
    table: str
    needs: str = ""  # an optional package: without it, or where it fails, the contender is skipped
    yardstick: bool = False  # a limit, or fastce under other conditions: shown for comparison, never the fastest

    def call(self, op: str, inputs: Any) -> Call | None:
        """Return the call to time, None where the library has no such function."""
        module, name = self.table.split(":")
        table: Calls = getattr(import_module(module if "." in module else f"{__name__}.{module}"), name)
        return table[op](inputs) if op in table else None

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return an array of the library as one of NumPy."""
        module = import_module(f"{__name__}.{self.table.split(':')[0]}")
        return getattr(module, "to_numpy", np.asarray)(array)

    @property
    def missing(self) -> str:
        """Return the package that the contender needs and that is not installed, if any."""
        return self.needs if self.needs and find_spec(self.needs) is None else ""


LIMIT, PRODUCTS = "limit", "products"
REFERENCE = ("fastce-out", "fastce")  # the others are compared with the first that has the operation
ADAPTED = ("fastce-torch",)  # fastce in the graph of another library
CONTENDERS = {
    "fastce-out": Contender("fastce out=", "fastce:OUT"),
    "fastce": Contender("fastce", "fastce:NEW"),
    "numpy": Contender("NumPy textbook", "numpy:TEXTBOOK"),
    "numpy-stable": Contender("NumPy stable", "numpy:STABLE"),
    "scipy": Contender("SciPy", "scipy:CALLS"),
    "torch": Contender("torch eager", "torch:EAGER"),
    "torch-out": Contender("torch eager out=", "torch:OUT"),
    "torch-compile": Contender("torch.compile", "torch:COMPILED", needs="torch"),
    "torch-linear": Contender("torch linear_cross_entropy", "torch:LAYER", needs="torch"),
    "torch-chunked": Contender("torch, its chunks", "torch:LAYER_CHUNKED", needs="torch"),
    "torch-1024": Contender("torch, chunks of 1,024", "torch:LAYER_1024", needs="torch"),
    "jax": Contender("JAX jit", "jax:CALLS", needs="jax"),
    "tensorflow": Contender("TensorFlow", "tensorflow:GRAPH", needs="tensorflow"),
    "tensorflow-xla": Contender("TensorFlow XLA", "tensorflow:XLA", needs="tensorflow"),
    "onnxruntime": Contender("ONNX Runtime", "onnxruntime:CALLS", needs="onnxruntime"),
    "sklearn": Contender("scikit-learn loss", "sklearn:CALLS", needs="sklearn"),
    "mygrad": Contender("MyGrad", "mygrad:CALLS", needs="mygrad"),
    "autograd": Contender("autograd", "autograd:CALLS", needs="autograd"),
    "fastce-torch": Contender("fastce in torch", "interop:TORCH"),
    "fastce-rows": Contender("fastce, classes last", "fastce:ROWS", yardstick=True),
    "fastce-float32": Contender("fastce, float32", "fastce:FLOAT32", yardstick=True),
    LIMIT: Contender("memory limit", "limits:MEMORY", yardstick=True),
    PRODUCTS: Contender("bare products", "limits:PRODUCTS", yardstick=True),
}
STANDARD = ("fastce-out", "fastce", "numpy", "numpy-stable", "scipy", "torch")  # of ``make bench``
PEERS, PEERS_TEXT = ("torch", "torch-out", "torch-compile", "jax"), "torch, torch.compile, JAX"  # of bars
RIVALS = tuple(name for name, c in CONTENDERS.items() if name not in (*REFERENCE, *ADAPTED) and not c.yardstick)


def contender_of(name: str) -> Contender:
    """Return a contender; one that is a table elsewhere, ``package.module:NAME``, has no oracle."""
    return CONTENDERS[name] if name in CONTENDERS else Contender(name, name, yardstick=True)


class Entrant(NamedTuple):
    """A contender as plans name it: ``torch``, ``torch@1`` with one thread, ``fastce@1@FOLDER`` of another checkout."""

    contender: str
    threads: int | None  # None: as many as the plan says
    folder: str


def entrant(name: str) -> Entrant:
    contender, threads, folder = (*name.split("@", 2), "", "")[:3]
    return Entrant(contender, int(threads) if threads else None, folder)
