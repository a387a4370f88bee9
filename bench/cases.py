"""What is timed: operations, shapes, dtypes, layouts, and the plan of a run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Op(StrEnum):
    """The operations."""

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
    INPLACE = "in-place"  # loss and gradient, the gradient over the logits
    SCALE = "scale"  # no contest: the memory limit of working in place, measured at the largest shape
    TRAINING = "training"  # a network; a round is an epoch


OPS = (Op.LOSS, Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE)
VJPS = (Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP, Op.LSE_VJP)
LAYER = (Op.LAYER_LOSS, Op.LAYER_GRADS)
MAIN_LAYER, LARGE_LAYER = (2048, 512, 32000), (8192, 256, 65536)  # tokens, features, classes

READING, COPYING, ADDING, SCALING = "reading", "copying", "adding", "scaling in place"
PATTERNS = {  # the memory traffic that an operation cannot do without
    **dict.fromkeys((Op.LOSS, Op.LSE), READING),
    **dict.fromkeys((Op.LOSS_GRAD, Op.SOFTMAX, Op.LOG_SOFTMAX, Op.LSE_VJP, Op.INPLACE), COPYING),
    **dict.fromkeys((Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP), ADDING),
    Op.SCALE: SCALING,
}
ARRAYS = {READING: 1, COPYING: 2, ADDING: 3, SCALING: 2}  # read or written

# Memory order: classes last; Fortran order; (batch / 4096, classes, 64, 64), as of images.
ROWS, FORTRAN, IMAGES = "rows", "fortran", "images"
PIXELS = (64, 64)


def dtype_of(name: str) -> np.dtype:
    """Return the dtype of a name, bfloat16 among them."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


@dataclass(frozen=True)
class Case:
    """One operation on inputs of one shape and dtype; ``features`` is the width of the last layer, if there is one."""

    op: Op
    batch: int
    classes: int
    dtype: str = "float32"
    layout: str = ROWS
    features: int = 0

    def __str__(self) -> str:
        """Name the case, in the display and in what the processes tell each other."""
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
        """The case's share of a plan's seconds; small cases have short calls, but no shorter rounds."""
        return 6e6 + self.elements * max(1, self.features)


@dataclass(frozen=True)
class Plan:
    """What a run does. The runner and every contender's process work from the same one."""

    contenders: tuple[str, ...]
    cases: tuple[Case, ...]  # those of the training last
    threads: int
    seconds: float
    rounds: tuple[int, int] = (3, 15)  # at least, at most; each case as many as the seconds allow
    epochs: int = 40
    complete: bool = False  # leave no case out for want of time
    memory: bool = False  # measure the peak memory of a call, too
    slowest: float = 5.0  # seconds; a contender whose call takes longer is left out of the case

    @property
    def largest(self) -> int:
        """The elements that inputs are made for."""
        return max((case.elements for case in self.cases if case.op not in (*LAYER, Op.TRAINING)), default=0)


def grid(ops: tuple[Op, ...], shapes: list[tuple[int, int]], dtype: str = "float32", layout: str = ROWS) -> list[Case]:
    """Return a case for each operation on each shape of logits."""
    return [Case(op, n, c, dtype, layout) for n, c in shapes for op in ops]
