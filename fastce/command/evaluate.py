"""``fastce evaluate``: losses and accuracies of saved logits."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

import fastce
from fastce.command.arguments import usage_errors
from fastce.command.terminal import shows_progress, tell

Array = npt.NDArray[Any]

LONG = 1 << 28  # bytes of logits, from which on a progress bar is shown
BLOCK = 1 << 22  # probabilities that are read at a time
LOOKED_AT = 64  # samples, to tell logits from probabilities
NEAR_1 = 0.01  # sums of class probabilities differ by less: halves are rounded


def run(options: argparse.Namespace) -> None:
    """Evaluate the files and print the result."""
    top_k = options.top_k
    settings = {"ignore_index": options.ignore_index, "label_smoothing": options.label_smoothing, "top_k": top_k}
    with usage_errors():
        fastce.EvaluationSums(axis=options.axis, **settings)  # checks them
    logits, labels = load(options.logits, of_logits=True), load(options.labels)
    weight = load(options.weight) if options.weight else None
    sample_weight = load(options.sample_weight) if options.sample_weight else None
    if labels.ndim > logits.ndim:
        raise ValueError(
            f"{options.labels} has shape {labels.shape}, more dimensions than the logits with {logits.shape}; "
            "the order is LOGITS LABELS"
        )
    settings |= {"weight": weight, "progress": shows_progress(options.progress, logits.nbytes >= LONG)}
    if options.probs:
        blocks = _LogProbs(logits, labels, sample_weight, options.axis)
        try:
            result = fastce.evaluate(blocks, **settings)
        except (IndexError, TypeError, ValueError) as error:
            error.__notes__ = [f"in the block that starts at index {blocks.start}, where the message counts from"]
            raise
    else:
        result = fastce.evaluate(logits, labels, axis=options.axis, sample_weight=sample_weight, **settings)
        if _look_like_probabilities(logits, options.axis):
            tell("fastce evaluate: note: all rows are from 0 to 1 with sums of 1; for probabilities, add --probs")
    samples = logits.size // max(logits.shape[options.axis], 1)
    if options.json:
        print(json.dumps(_as_json(result, logits, samples, top_k), allow_nan=False))
    else:
        print("\n".join(_lines(result, logits, samples, top_k)))


def load(path: str, of_logits: bool = False) -> Array:
    """Return the array of a .npy file as a memory map; raise OSError or ValueError with the file's name."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: no regular file, which a memory map needs; save the array with numpy.save")
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic[:4] == b"PK\x03\x04":
            raise ValueError("an archive; save each of its arrays with numpy.save")
        if magic != b"\x93NUMPY":
            raise ValueError("no .npy file; save the array with numpy.save")
        array = _memory_map(path)
        return _as_bfloat16(array) if of_logits and array.dtype == np.dtype("V2") else array
    except OSError as error:
        raise OSError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _memory_map(path: str) -> Array:
    """Return a memory map, or raise ValueError."""
    try:
        return np.lib.format.open_memmap(path, "r")
    except OSError:
        raise
    except Exception as error:  # of a broken header, NumPy's parsers raise what they like
        if "Python objects" in str(error):
            raise ValueError("holds Python objects, which are never unpickled; save an array of numbers") from None
        raise ValueError(f"damaged or cut short: {error}") from None


def _as_bfloat16(array: Array) -> Array:
    """Return a view of what numpy.save writes of bfloat16: two bytes without a meaning."""
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError("seems to hold bfloat16, which needs ml_dtypes: pip install ml_dtypes") from None
    return cast(Array, array.view(ml_dtypes.bfloat16))


class _LogProbs:
    """Batches of logarithms of class probabilities, with their labels and weights: logits, as their softmax shows."""

    def __init__(self, probs: Array, labels: Array, sample_weight: Array | None, axis: int) -> None:
        if not np.can_cast(probs.dtype, np.float64, "same_kind"):
            raise TypeError(f"probabilities must be real numbers, got dtype {probs.dtype}")
        one_hot = labels.ndim == probs.ndim
        self._probs = np.moveaxis(probs, axis, -1)
        self._labels = np.moveaxis(labels, axis, -1) if one_hot else labels
        self._weights = sample_weight
        expected = self._probs.shape if one_hot else self._probs.shape[:-1]
        if self._labels.shape != expected:
            raise ValueError(f"labels have shape {labels.shape}, which does not fit probabilities of {probs.shape}")
        if sample_weight is not None and sample_weight.shape != self._probs.shape[:-1]:
            raise ValueError(f"sample_weight has shape {sample_weight.shape}, expected {self._probs.shape[:-1]}")
        if probs.ndim == 1:
            self._probs, self._labels = self._probs[None], self._labels[None]
            self._weights = None if sample_weight is None else sample_weight[None]
        self.start = 0  # of the last block that was taken
        self._step = max(BLOCK * len(self._probs) // max(probs.size, 1), 1)

    def __len__(self) -> int:
        return -(-len(self._probs) // self._step)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(self._probs), self._step):
            self.start = start
            part = slice(start, start + self._step)
            weights = () if self._weights is None else (self._weights[part],)
            yield _log(self._probs[part]), self._labels[part], *weights


def _log(probs: Array) -> Array:
    """Return the logarithm in float32 or float64; raise ValueError for what is no probability."""
    is_double = probs.dtype.itemsize > 4 or probs.dtype.kind in "biu"
    p: Array = probs.astype(np.float64 if is_double else np.float32)
    is_wrong = np.less(p, 0.0) | np.greater(p, 1.0 + NEAR_1)
    if is_wrong.any():
        raise ValueError(f"--probs takes class probabilities, which are from 0 to 1, got {p[is_wrong][0]:g}")
    sums = p.sum(-1)
    is_wrong = (np.abs(sums - 1.0) > NEAR_1) & (sums != 0.0)  # a row of zeros may be padding
    if is_wrong.any():
        raise ValueError(f"--probs takes class probabilities, which have sums of 1, got a sum of {sums[is_wrong][0]:g}")
    with np.errstate(divide="ignore"):
        np.log(p, out=p)
    return p


def _look_like_probabilities(logits: Array, axis: int) -> bool:
    """Tell whether the first samples are from 0 to 1 with sums of 1, as hardly any logits are."""
    rows = np.moveaxis(logits, axis, -1)
    rows = rows[(0,) * (rows.ndim - 2)][:LOOKED_AT] if rows.ndim > 1 else rows[None]
    if not rows.size or rows.shape[-1] < 2 or logits.dtype.kind in "biu":
        return False
    p = rows.astype(np.float64)
    return bool(((p >= 0.0) & (p <= 1.0)).all() and (np.abs(p.sum(-1) - 1.0) < NEAR_1).all())


def _as_json(result: Any, logits: Array, samples: int, top_k: tuple[int, ...]) -> dict[str, Any]:
    """Return the result for JSON, where NaN and infinity are None."""
    values = {
        "shape": list(logits.shape),
        "dtype": str(logits.dtype),
        "samples": samples,
        **result.asdict(),
        "top_k": list(top_k),
    }
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    """Return a value, None if it is a number that JSON does not have, or a list of such."""
    if isinstance(value, list):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(result: Any, logits: Array, samples: int, top_k: tuple[int, ...]) -> list[str]:
    """Return the result as lines of text."""
    left_out = samples - result.count
    named = [
        ("logits", f"{'x'.join(map(str, logits.shape))} {logits.dtype}"),
        ("samples", f"{result.count}" + (f", and {left_out} left out" if left_out else "")),
        ("loss", f"{result.loss:.6g} nats"),
        ("perplexity", f"{result.perplexity:.6g}"),
        ("accuracy", f"{100 * result.accuracy:.6g} %"),
        *((f"top-{k} accuracy", f"{100 * share:.6g} %") for k, share in zip(top_k, result.top_k_accuracy, strict=True)),
        ("entropy", f"{result.entropy:.6g} nats"),
    ]
    width = max(len(name) for name, _ in named) + 2
    return [f"{name:{width}}{value}" for name, value in named]
