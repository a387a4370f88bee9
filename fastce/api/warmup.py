"""Compiling ahead of the first call."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fastce.api.cross_entropy import cross_entropy, cross_entropy_and_grad
from fastce.api.softmax import log_softmax, logsumexp, softmax
from fastce.core.layout import as_dtype, as_integers
from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS


def warmup(
    dtypes: npt.DTypeLike | Iterable[npt.DTypeLike] = ("float32", "float64"),
    *,
    classes: int | Iterable[int] = (10, 1000),
) -> None:
    """Compile, or load from the disk cache, what the usual calls need.

    The first call of a function with a new combination of dtype, memory layout and options
    compiles a kernel, which takes a second or two; the result is cached on disk. Call this
    before the clock matters: before timing, before answering requests, before forking. With
    the defaults and an empty cache it takes half a minute.

    Parameters
    ----------
    dtypes : dtype or iterable of dtypes, default ("float32", "float64")
        The dtypes of the logits.
    classes : int or iterable of int, default (10, 1000)
        Numbers of classes, at least 1: up to 32 and above are computed by different kernels.

    Raises
    ------
    TypeError
        If one of the dtypes is none that fastce computes with, or a number of classes no integer.
    ValueError
        If a number of classes is below 1.

    Notes
    -----
    It covers `logsumexp`, `softmax`, `log_softmax`, `cross_entropy` and
    `cross_entropy_and_grad` with class indices along the last axis and without options, for
    small and for large batches.

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
