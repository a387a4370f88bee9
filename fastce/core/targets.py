"""Targets: class indices, one-hot integers read as class indices, and class probabilities."""

import math
from typing import NamedTuple, TypeGuard

import numpy as np

from fastce.core.layout import Array, axes_last, without_axis
from fastce.core.staging import index_blocks
from fastce.core.validation import IGNORE_NONE, INT64_MAX, as_real, beyond_64_bits, shown

BLOCK_ELEMENTS = 1 << 15  # elements of a one-hot target that are copied at a time, unless one sample has more

INT64 = np.dtype(np.int64)


class Target(NamedTuple):
    """A target whose shape and dtype have been checked."""

    values: Array  # class indices in the shape of the samples, or class probabilities
    labels: Array | None  # the class indices, contiguous int64, one a sample; None for class probabilities


def read_target(target: Array, logits: Array, axis: int, input_name: str = "logits") -> Target:
    """Return a target as class indices or class probabilities, or raise; ``input_name`` is the logits' in messages."""
    check_target(target, logits, axis, input_name)
    if target.ndim < logits.ndim:
        return Target(target, as_labels(target))
    if target.dtype.kind not in "iub":
        return Target(target, None)
    labels = one_hot_labels(target, axis)
    return Target(labels.reshape(without_axis(logits.shape, axis)), labels)


def check_target(target: Array, logits: Array, axis: int, input_name: str = "logits") -> None:
    """Raise unless the shape and dtype of a target are right for class indices or for one value a class."""
    expected = without_axis(logits.shape, axis)
    if target.shape == expected and (target.dtype.kind in "iu" or target.size == 0):
        return
    if target.shape == expected:
        raise_huge_label(target, logits.shape[axis])
    as_real(target, "target")
    if target.shape == expected:
        raise TypeError(f"class indices must be integers, got dtype {target.dtype}; use target.astype(int)")
    if target.shape != logits.shape:
        raise ValueError(_shape_message(target.shape, logits.shape, axis, input_name))


def _shape_message(got: tuple[int, ...], shape: tuple[int, ...], axis: int, input_name: str) -> str:
    """Return the message for a target of a wrong shape, with advice if another shape would fit."""
    expected = without_axis(shape, axis)
    message = (
        f"target has shape {got}, expected {expected} for class indices or {shape} for one-hot targets and class "
        f"probabilities: {input_name} have shape {shape}, with the classes along axis {axis}"
    )
    for other in range(len(shape)):
        if other != axis and got == without_axis(shape, other):
            return f"{message}; with axis={other} it would fit"
        if other != axis and got == (*expected[:other], shape[axis], *expected[other:]):
            return f"{message}; np.moveaxis(target, {other}, {axis}) would fit"
    return message + shape_hint(got, expected, axis)


def shape_hint(got: tuple[int, ...], expected: tuple[int, ...], axis: int) -> str:
    """Return the end of a message that says how class indices of a wrong shape would fit, or an empty string."""
    if got == (*expected[:axis], 1, *expected[axis:]):
        return f"; a column of class indices must lose its axis: np.squeeze(target, axis={axis}) would fit"
    if len(got) > 1 and got == expected[::-1]:
        return "; np.transpose(target) would fit"
    sizes, wanted = ([n for n in shape if n != 1] for shape in (got, expected))
    is_flat = 1 in (len(got), len(expected)) and math.prod(got) == math.prod(expected)
    return f"; np.reshape(target, {expected}) would fit" if sizes == wanted or is_flat else ""


# --- class indices --------------------------------------------------------------


def is_kernel_labels(target: object) -> TypeGuard[Array]:
    """Tell, for small calls, whether ``target`` holds class indices in the form that kernels take."""
    return (
        type(target) is np.ndarray
        and target.dtype is INT64
        and target.ndim == 1
        and (flags := target.flags).c_contiguous
        and flags.aligned
    )


def as_labels(target: Array) -> Array:
    """Return class indices as contiguous int64, one a sample."""
    if target.dtype == np.int64 and target.flags.c_contiguous:
        return target if target.ndim == 1 else target.reshape(-1)
    if target.dtype.kind == "u" and target.dtype.itemsize == 8:
        # larger labels would wrap around; the greatest int64 is out of range as well
        target = np.minimum(target, np.uint64(INT64_MAX))
    return np.ascontiguousarray(target, np.int64).reshape(-1)


def check_none_ignored(target: Array, labels: Array, classes: int) -> None:
    """Raise IndexError for a label `IGNORE_NONE`, which kernels would ignore."""
    if labels.size and labels.min() == IGNORE_NONE:  # the least int64: one pass, and no array of comparisons
        raise_label(target, int(labels.argmin()), classes, None)


def raise_label(target: Array, position: int, classes: int, ignore_index: int | None) -> None:
    """Raise IndexError for the label at this flat position; None and `IGNORE_NONE` ignore no label."""
    if ignore_index == IGNORE_NONE:
        ignore_index = None
    index = tuple(int(i) for i in np.unravel_index(position, target.shape))
    where = f"target[{', '.join(map(str, index))}]" if index else "target"
    expected = f"a class index from 0 to {classes - 1}" if classes else "no class index, as there are no classes"
    if ignore_index is not None:
        expected += f"{'' if classes else ','} or ignore_index {ignore_index}"
    value = int(target[index])
    if value == ignore_index or 0 <= value < classes:
        raise IndexError(f"{where} was not {expected}; it is {value} since another thread or process has changed it")
    raise IndexError(f"{where} is {shown(value)}, expected {expected}")


def raise_huge_label(target: Array, classes: int) -> None:
    """Raise IndexError for a label beyond 64 bits, which NumPy keeps as an object, if there is one."""
    if target.dtype.kind == "O" and (position := beyond_64_bits(target)) is not None:
        raise_label(target, position, classes, None)


# --- one-hot targets ------------------------------------------------------------


def one_hot_labels(target: Array, axis: int) -> Array:
    """Return the class index of each sample, contiguous int64, or raise ValueError for one that is not one-hot.

    ``target`` holds integers or booleans, with the classes along ``axis``.
    """
    rows = axes_last(target, axis)
    lead, classes = rows.shape[:-1], rows.shape[-1]
    labels = np.empty(math.prod(lead), np.int64)
    if not labels.size:
        return labels
    for start, stop, index in index_blocks(lead, max(BLOCK_ELEMENTS // max(classes, 1), 1)):
        # a copy: another thread may change the target between the check and the use
        block = np.array(rows[index], order="C").reshape(stop - start, classes)
        nonzero = np.flatnonzero(block != 0)  # of booleans: several times as fast as of integers
        columns = nonzero - np.arange(0, block.size, classes) if len(nonzero) == len(block) else nonzero[:0]
        has_one_a_row = len(columns) > 0 and columns.min() >= 0 and columns.max() < classes
        if not has_one_a_row or not np.all(block.reshape(-1)[nonzero] == 1):
            _raise_not_one_hot(block, start, lead, axis)
        labels[start:stop] = columns
    return labels


def _raise_not_one_hot(block: Array, start: int, lead: tuple[int, ...], axis: int) -> None:
    """Raise ValueError for the first sample of a block that is not one-hot."""
    is_wrong = (np.count_nonzero(block, axis=1) != 1) | ~np.any(block == 1, axis=1)
    row = int(np.argmax(is_wrong))
    values = block[row].tolist()
    index = [str(int(i)) for i in np.unravel_index(start + row, lead)]
    index.insert(axis % (len(lead) + 1), ":")
    name = f"target[{', '.join(index)}]" if lead else "target"
    raise ValueError(
        "an integer target with one value a class must be one-hot, a single 1 a sample and 0 elsewhere; "
        f"{name} is not: its sum is {sum(values)}, its number of non-zero values {np.count_nonzero(block[row])}. "
        "Give class probabilities as floats, and several labels a sample to binary_cross_entropy_with_logits"
    )
