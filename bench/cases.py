"""What is timed: operations, shapes, dtypes, layouts, and the plan of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOSS, LOSS_GRAD, SOFTMAX, LOG_SOFTMAX, LSE = "loss", "loss+grad", "softmax", "log_softmax", "logsumexp"
OPS = (LOSS, LOSS_GRAD, SOFTMAX, LOG_SOFTMAX, LSE)
SOFTMAX_VJP, LOG_SOFTMAX_VJP, LSE_VJP = "softmax_vjp", "log_softmax_vjp", "logsumexp_vjp"
VJPS = (SOFTMAX_VJP, LOG_SOFTMAX_VJP, LSE_VJP)
INPLACE = "in-place"  # loss and gradient, the gradient over the logits
SCALE = "scale"  # not a contest: the memory limit of working in place, measured at the largest shape

BATCHES = (1, 32, 256, 1024, 4096, 16384, 65536)
CLASSES = (10, 1000, 50257)
MAX_ELEMENTS = 67_000_000
TRAINING_BATCHES = (32, 256)

READING, COPYING, ADDING, SCALING = "reading", "copying", "adding", "scaling in place"
PATTERNS = {  # the memory traffic that an operation cannot do without
    **dict.fromkeys((LOSS, LSE), READING),
    **dict.fromkeys((LOSS_GRAD, SOFTMAX, LOG_SOFTMAX, LSE_VJP, INPLACE), COPYING),
    **dict.fromkeys((SOFTMAX_VJP, LOG_SOFTMAX_VJP), ADDING),
    SCALE: SCALING,
}
ARRAYS = {READING: 1, COPYING: 2, ADDING: 3, SCALING: 2}  # read or written

# Where the elements of a case lie: classes last; in Fortran order; (batch / 4096, classes, 64, 64), as of images.
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
    """One operation on logits of one shape and dtype."""

    op: str
    batch: int
    classes: int
    dtype: str
    layout: str = ROWS

    def __str__(self) -> str:
        """Name the case, in the display and in what the processes tell each other."""
        layout = "" if self.layout == ROWS else f" {self.layout}"
        return f"{self.op} {self.batch}×{self.classes} {self.dtype}{layout}"

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.batch * self.classes

    @property
    def nbytes(self) -> int:
        """Bytes of the logits."""
        return self.elements * dtype_of(self.dtype).itemsize

    @property
    def traffic(self) -> int:
        """The fewest bytes the operation can move."""
        return self.nbytes * ARRAYS[PATTERNS[self.op]]


@dataclass(frozen=True)
class Training:
    """A network trained with one batch size; takes its place in the list of cases."""

    batch: int
    epochs: int

    def __str__(self) -> str:
        """Name the case."""
        return f"training, batch {self.batch}"


@dataclass(frozen=True)
class Plan:
    """Everything a run is decided by; the runner and every contender's process work from the same one."""

    contenders: tuple[str, ...]
    threads: int
    ops: tuple[str, ...] = OPS
    batches: tuple[int, ...] = BATCHES
    classes: tuple[int, ...] = CLASSES
    dtypes: tuple[str, ...] = ("float32",)
    max_elements: int = MAX_ELEMENTS
    seconds: float = 165.0
    rounds: tuple[int, int] = (3, 15)  # at least, at most; each case as many as the seconds allow
    epochs: int = 40
    training: tuple[int, ...] = TRAINING_BATCHES
    smoke: bool = False
    chosen: tuple[Case, ...] = ()  # these cases instead of all operations × batches × classes × dtypes
    complete: bool = False  # leave no case out for want of time

    def shapes(self) -> list[tuple[int, int]]:
        """(batch, classes) within the size limit, small to large, so that a slow machine drops the largest."""
        pairs = [(n, c) for n in self.batches for c in self.classes if n * c <= self.max_elements]
        return sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[1]))

    def cases(self) -> list[Case]:
        """Return all speed cases in the order they are played."""
        if self.chosen:
            return list(self.chosen)
        shapes = self.shapes()
        cases = [Case(op, n, c, dtype) for dtype in self.dtypes for n, c in shapes for op in self.ops]
        scale = [Case(SCALE, *shapes[-1], self.dtypes[0])] if shapes else []
        return scale + cases

    def trainings(self) -> list[Training]:
        """Return the training runs, played after the speed cases."""
        return [Training(batch, self.epochs) for batch in self.training]
