"""The benchmark's vocabulary: operations, cases (an operation on a shape, dtype and layout), plans of cases."""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np


class Op(StrEnum):
    """The operations that are timed."""

    LOSS = "loss"
    LOSS_GRAD = "loss+grad"
    SOFTMAX = "softmax"
    LOG_SOFTMAX = "log_softmax"
    LSE = "logsumexp"
    SOFTMAX_VJP = "softmax_vjp"
    LOG_SOFTMAX_VJP = "log_softmax_vjp"
    LSE_VJP = "logsumexp_vjp"
    LAYER_LOSS = "layer-loss"  # from hidden states and weights
    LAYER_GRADS = "layer-loss+gradients"
    INPLACE = "in-place"  # loss and gradient; the gradient overwrites the logits
    SCALE = "scale"  # measures the memory limit of working in place, at the largest shape; no contender has it
    TRAINING = "training"  # a step of a small network


OPS = (Op.LOSS, Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE)
VJPS = (Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP, Op.LSE_VJP)
LAYER = (Op.LAYER_LOSS, Op.LAYER_GRADS)
MAIN_LAYER, LARGE_LAYER = (2048, 512, 32000), (8192, 256, 65536)  # tokens, features, classes

READING, COPYING, ADDING, SCALING = "reading", "copying", "adding", "scaling in place"
PATTERNS = {  # the memory traffic that an operation cannot avoid
    **dict.fromkeys((Op.LOSS, Op.LSE), READING),
    **dict.fromkeys((Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE_VJP, Op.INPLACE), COPYING),
    **dict.fromkeys((Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP), ADDING),
    Op.SCALE: SCALING,
}
ARRAYS = {READING: 1, COPYING: 2, ADDING: 3, SCALING: 2}  # arrays read or written

AVX512, AVX2 = "AVX-512", "AVX2"  # kinds of code, named by their vectors

# Memory order: C order with the classes last; Fortran order; images, (batch / 4096, classes, 64, 64).
ROWS, FORTRAN, IMAGES = "rows", "fortran", "images"
PIXELS = (64, 64)


def dtype_of(name: str) -> np.dtype:
    """Return the dtype of a name; NumPy alone does not know bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@dataclass(frozen=True)
class Case:
    """One operation on inputs of one shape and dtype; ``features`` is the width of the last layer, else 0."""

    op: str  # an Op, or a name in a table of calls elsewhere
    batch: int
    classes: int
    dtype: str = "float32"
    layout: str = ROWS
    features: int = 0

    def __str__(self) -> str:
        """Name the case in the progress display and in notes."""
        sizes = (self.batch, *([self.features] if self.features else []), self.classes)
        layout = "" if self.layout == ROWS else f" {self.layout}"
        return f"{self.op} {'×'.join(map(str, sizes))} {self.dtype}{layout}"

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.batch * self.classes

    @property
    def nbytes(self) -> int:
        """Bytes of the logits."""
        return self.elements * dtype_of(self.dtype).itemsize

    @property
    def weight(self) -> float:
        """The case's share of a plan's seconds. The constant is for small cases, whose rounds are not shorter."""
        return 6e6 + self.elements * max(1, self.features)


@dataclass(frozen=True)
class Plan:
    """A stage of a run: new processes, one a contender, take turns in these cases."""

    name: str
    section: str  # of the records
    contenders: tuple[str, ...]
    cases: tuple[Case, ...]
    threads: int = 1  # of each contender that does not name its own
    seconds: float = 0.0  # for all cases together
    rounds: tuple[int, int] = (3, 15)  # the least and the most a case; the seconds decide
    complete: bool = False  # leave no case out when the seconds are over
    memory: bool = False  # measure the peak memory of a call, too
    slowest: float = 5.0  # seconds; a contender whose call takes longer skips the case
    span: float = 0.0  # a round is then so many seconds of single calls, and the least rounds are taken
    busy: bool = False  # with a span: keep a process a core busy meanwhile
    confined: bool = False  # with a span: bind all threads of a process to one core
    crowd: int = 1  # processes a contender, all measured at once
    group: str = ""  # the file of a control group that takes the processes
    vectors: str = ""  # AVX2: keep the libraries to code for AVX2; else they use all that the processor has

    @property
    def largest(self) -> int:
        """The most logits of a case; inputs of all cases are made from as many random numbers."""
        return max((case.elements for case in self.cases if case.op not in (*LAYER, Op.TRAINING)), default=0)

    def key(self, same: str) -> str:
        """Return a digest of the plan, without its seconds, and of ``same``; stored results need the same key."""
        return hashlib.sha256(f"{same} {replace(self, seconds=0)}".encode()).hexdigest()[:16]


def grid(ops: tuple[Op, ...], shapes: list[tuple[int, int]], dtype: str = "float32", layout: str = ROWS) -> list[Case]:
    """Return a case for each operation on each shape of logits."""
    return [Case(op, n, c, dtype, layout) for n, c in shapes for op in ops]
