"""Compiling ahead of the first call."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fastce.api.cross_entropy import cross_entropy, cross_entropy_and_grad
from fastce.api.softmax import log_softmax, logsumexp, softmax
from fastce.core.validation import as_dtype, as_integers
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS


def warmup(
    dtypes: npt.DTypeLike | Iterable[npt.DTypeLike] = ("float32", "float64"),
    *,
    classes: int | Iterable[int] = (10, 1000),
) -> None:
    """Compile the kernels of common calls, or load them from the disk cache.

    The first call of a function with a new combination of dtype, memory layout and options compiles
    a kernel. This takes some seconds; the kernel is then cached on disk. Call `warmup` before you
    time calls, answer requests or fork. With the defaults and an empty cache it takes half a
    minute.

    Parameters
    ----------
    dtypes : dtype or iterable of dtypes, default ("float32", "float64")
        The dtypes of the logits.
    classes : int or iterable of int, default (10, 1000)
        Numbers of classes, at least 1. Up to 32 classes have other kernels than more classes.

    Raises
    ------
    TypeError
        If fastce does not compute with one of the dtypes, or a number of classes is no integer.
    ValueError
        If a number of classes is below 1.

    Notes
    -----
    The common calls are `logsumexp`, `softmax`, `log_softmax`, `cross_entropy` and
    `cross_entropy_and_grad`, with class indices, the classes along the last axis and no options,
    for small and for large batches.

    Examples
    --------
    >>> import fastce
    >>> fastce.warmup("float64", classes=10)
    """
    dtypes = [dtypes] if isinstance(dtypes, str | type | np.dtype) else list(dtypes)  # type: ignore[arg-type]
    counts = as_integers(classes, "classes", 1)
    for dtype in map(as_dtype, dtypes):
        for count in counts:
            for rows in (1, PARALLEL_ELEMENTS // count + 1):
                logits = np.zeros((rows, count), dtype)
                target = np.zeros(rows, np.int64)
                cross_entropy(logits, target)
                cross_entropy_and_grad(logits, target)
                logsumexp(logits)
                softmax(logits)
                log_softmax(logits)
