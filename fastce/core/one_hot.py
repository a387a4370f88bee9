"""One-hot targets: read as the class indices that they stand for."""

import math

import numpy as np

from fastce.core.layout import Array, axes_last
from fastce.core.staging import boxes

BLOCK_ELEMENTS = 1 << 15  # that are copied at a time, or one sample where that is longer


def one_hot_labels(target: Array, axis: int) -> Array:
    """Return the class index of each sample, contiguous int64, or raise ValueError for one that is not one-hot.

    ``target`` holds integers or booleans, with the classes along ``axis``.
    """
    rows = axes_last(target, axis)
    lead, classes = rows.shape[:-1], rows.shape[-1]
    labels = np.empty(math.prod(lead), np.int64)
    if not labels.size:
        return labels
    for start, stop, index in boxes(lead, max(BLOCK_ELEMENTS // max(classes, 1), 1)):
        # a copy, so that what is checked is what is used, whoever writes to the target meanwhile
        block = np.array(rows[index], order="C").reshape(stop - start, classes)
        places = np.flatnonzero(block != 0)  # of booleans: several times as fast as of integers
        found = places - np.arange(0, block.size, classes) if len(places) == len(block) else places[:0]
        is_in_place = len(found) > 0 and found.min() >= 0 and found.max() < classes
        if not is_in_place or not np.all(block.reshape(-1)[places] == 1):
            _raise_not_one_hot(block, start, lead, axis)
        labels[start:stop] = found
    return labels


def _raise_not_one_hot(block: Array, start: int, lead: tuple[int, ...], axis: int) -> None:
    """Raise ValueError for the first sample of a block that is not one-hot."""
    others = np.count_nonzero(block, axis=1) != 1
    row = int(np.argmax(others | ~np.any(block == 1, axis=1)))
    values = block[row].tolist()
    index = [str(int(i)) for i in np.unravel_index(start + row, lead)]
    index.insert(axis % (len(lead) + 1), ":")
    name = f"target[{', '.join(index)}]" if lead else "target"
    raise ValueError(
        "an integer target with one value a class must be one-hot, a single 1 a sample and 0 elsewhere; "
        f"{name} is not: its sum is {sum(values)}, its number of non-zero values {np.count_nonzero(block[row])}. "
        "Give class probabilities as floats, and several labels a sample to binary_cross_entropy_with_logits"
    )
