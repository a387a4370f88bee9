"""Ends of messages about arrays that hold no real numbers: what their user probably meant to write."""

from collections.abc import Iterator, Mapping, Set
from numbers import Integral
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LABELS = "target"


def dtype_hint(values: object, array: Array, name: str) -> str:
    """Return the end of a message for ``array``, made of ``values``, which belong to the argument ``name``."""
    if array.dtype.kind == "O" and not array.ndim:
        values = array.item()
    if values is None:
        return "; it is None"
    if isinstance(values, Mapping):
        order = "samples" if name in (LABELS, "sample_weight") else "classes"
        return f"; it is a dict: give a list of its values in the order of the {order}"
    if isinstance(values, Set | Iterator):
        advice = "a list, as sets have no order" if isinstance(values, Set) else f"list({name})"
        return f"; it is a {type(values).__name__}: give {advice}"
    if array.dtype.kind in "US":
        return _text_hint(array, name)
    return _object_hint(array, name) if array.dtype.kind == "O" else ""


def _text_hint(array: Array, name: str) -> str:
    """Return the end of a message for strings."""
    if not array.ndim:
        return "; it is a string: give the numbers themselves"
    kind = "int" if name == LABELS else "float"
    try:
        array.astype(kind)
    except ValueError:
        if name == LABELS:
            return "; for names of classes, np.unique(target, return_inverse=True)[1] numbers them in sorted order"
        return "; it holds strings: give the numbers themselves"
    return f"; its strings are numbers: np.asarray({name}).astype({kind}) would fit"


def _object_hint(array: Array, name: str) -> str:
    """Return the end of a message for objects."""
    values = array.reshape(-1).tolist()
    if array.ndim and all(isinstance(value, str) for value in values):  # as a column of pandas holds them
        return _text_hint(array.astype(str), name)
    is_integer = True
    for position, value in enumerate(values):
        index = np.unravel_index(position, array.shape)
        place = f"{name}[{', '.join(map(str, index))}]" if index else name
        if value is None:
            return f"; {place} is None: drop what is missing, or fill it"
        if not hasattr(value, "__float__"):
            return f"; {place} is of the type {type(value).__name__}"
        is_integer = is_integer and isinstance(value, Integral)
    kind = "int" if is_integer and name == LABELS else "float"
    return f"; its objects are numbers: np.asarray({name}).astype({kind}) would fit"
