"""The fuzzer's targets: class indices, one-hot integers, class probabilities, and what is none of them."""

from typing import Any, NamedTuple

import numpy as np

INTEGERS = (np.int64, np.bool_, np.int8, np.uint64, np.dtype(">i4"))


class Problem(NamedTuple):
    """What a target has to fit."""

    shape: tuple[int, ...]  # of what has a value a class
    class_axis: Any
    samples: tuple[int, ...]
    classes: int
    ignored: int


class Target(NamedTuple):
    """A target and what a function makes of it."""

    values: np.ndarray
    labels: np.ndarray | None = None  # that it names, None for other targets
    is_refused: bool = False  # whatever the labels are


def target_of(kind: str, problem: Problem, rng: np.random.Generator) -> Target:
    """Make a target that is no class probabilities."""
    classes, samples = problem.classes, problem.samples
    labels = rng.integers(0, max(classes, 1), samples)
    somewhere = rng.random(samples) < 0.4
    made = {
        "labels": lambda: labels,
        "int8": lambda: (labels % 128).astype(np.int8),
        "uint64": lambda: labels.astype(np.uint64),
        "big-endian": lambda: labels.astype(">i4"),
        "ignored": lambda: np.where(somewhere, problem.ignored, labels),
        "all ignored": lambda: np.full(samples, problem.ignored),
        "too large": lambda: labels + max(classes, 1),
        "negative": lambda: -1 - labels,
        "floats": lambda: labels + 0.5,
        "short": lambda: np.zeros((*samples, 2, 2), int),
        "one-hot integers": lambda: labels,
        "not one-hot": lambda: labels,
    }[kind]()
    if kind in ("one-hot integers", "not one-hot"):
        is_named = bool(problem.shape) and (classes > 0 or not labels.size)
        values = _one_hot(labels, problem)
        if kind == "one-hot integers":
            return Target(values, labels, not is_named)
        return Target(_spoilt(values, problem), labels, not is_named or bool(labels.size))
    if kind in ("floats", "short"):
        return Target(made, is_refused=bool(made.size or kind == "short"))
    return Target(made, made)


def soft_target(kind: str, problem: Problem, rng: np.random.Generator) -> np.ndarray:
    """Class probabilities of this kind, in float64."""
    labels = rng.integers(0, max(problem.classes, 1), problem.samples)
    shape = problem.shape or (1,)
    if kind == "soft":
        return rng.random(shape) / max(problem.classes, 1)
    return _one_hot(labels, problem).astype(float) if problem.shape else np.zeros(shape)


def _one_hot(labels: np.ndarray, problem: Problem) -> np.ndarray:
    """The one-hot form of class indices, its dtype such as the first of them decides."""
    if not problem.shape:
        return labels
    places = np.moveaxis(np.arange(problem.classes).reshape((-1,) + (1,) * labels.ndim), 0, problem.class_axis)
    dtype = INTEGERS[int(labels.sum()) % len(INTEGERS)]
    return (np.expand_dims(labels, problem.class_axis) == places).astype(dtype)


def _spoilt(values: np.ndarray, problem: Problem) -> np.ndarray:
    """One-hot integers but for one sample: without a 1, with two of them, with a 2."""
    if not values.size or not problem.shape:
        return values
    values = values.copy()
    rows = np.moveaxis(values, problem.class_axis, -1)
    row = np.unravel_index(values.size // problem.classes // 2, rows.shape[:-1])
    sample = rows[row]
    spoil = int(np.argmax(sample)) % 3
    if spoil == 0 or (spoil == 1 and problem.classes == 1) or values.dtype == bool:
        sample[:] = 0
    elif spoil == 1:
        sample[:2] = 1
    else:
        sample[np.argmax(sample)] = 2
    return values
