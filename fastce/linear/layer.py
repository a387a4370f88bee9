"""The products of the last layer, for some rows and some classes at a time.

With rows H of the hidden layer, weights W and the gradient G with respect to the logits:

    logits = H W^T + b        d_hidden = G W        d_weight += G^T H        d_bias += 1^T G

All products are NumPy's, that is its BLAS's. What BLAS does not take (16-bit floats, strides,
other byte orders, mixed dtypes) is brought to the dtype of the computation a block at a time.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from fastce.core.layout import Array
from fastce.core.workers import parts

BLOCK_BYTES = 1 << 22  # of weights: stays in the cache between a product and what becomes of it
MIN_BLOCK = 64  # classes

Rows = slice | Array  # of all rows, in C order


# --- arrays that BLAS may or may not take --------------------------------------


def is_ready(x: Array, dtype: np.dtype[Any]) -> bool:
    """Tell whether BLAS takes this matrix as it is, in either order."""
    return _is_c_ready(x, dtype) or _is_c_ready(x.T, dtype)


def _is_c_ready(x: Array, dtype: np.dtype[Any]) -> bool:
    rows, size = x.strides[0], dtype.itemsize
    if x.dtype != dtype or not x.flags.aligned:
        return False
    return x.flags.c_contiguous or (x.strides[1] == size and rows % size == 0 and rows >= size * x.shape[1])


def put(goal: Array, index: Any, values: Array, add: bool) -> None:
    """Write values, or add them, rounded once to the goal's dtype; ``values`` is used up."""
    if add and goal.dtype == values.dtype:
        goal[index] += values
        return
    if add:
        values += goal[index]
    goal[index] = values


class RowView:
    """An array (..., D) as rows, without a copy of the whole."""

    def __init__(self, array: Array) -> None:
        if array.ndim == 1:
            array = array[None]
        self.lead: tuple[int, ...] | None = None
        if array.ndim > 2 and array.flags.c_contiguous:
            array = array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
        elif array.ndim > 2:
            self.lead = array.shape[:-1]
        self.array = array

    def index(self, rows: Rows) -> Any:
        """Return what the rows are found by in ``array``."""
        if self.lead is None:
            return rows
        flat = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.unravel_index(flat, self.lead)


# --- forward and backward ------------------------------------------------------


class Layer:
    """The last layer. ``dtype`` is that of all arithmetic."""

    def __init__(self, hidden: Array, weight: Array, bias: Array | None, dtype: np.dtype[Any]) -> None:
        self.hidden = RowView(hidden)
        self.weight = weight
        self.dtype = dtype
        self.bias = None if bias is None else bias.astype(dtype)
        self.classes, self.features = weight.shape
        self.block = max(BLOCK_BYTES // max(self.features * dtype.itemsize, 1), MIN_BLOCK)
        self.staging = None if is_ready(weight, dtype) else self.scratch()

    def scratch(self) -> Array:
        """Return memory for a block of weights."""
        return np.empty((min(self.block, self.classes), self.features), self.dtype)

    def blocks(self, classes: slice) -> Iterator[slice]:
        """Cut the classes into blocks of weights; slices of all classes."""
        for part in parts(classes.stop - classes.start, self.block):
            yield slice(classes.start + part.start, classes.start + part.stop)

    def rows(self, rows: Rows) -> Array:
        """Return rows of the hidden layer as BLAS takes them."""
        found: Array = self.hidden.array[self.hidden.index(rows)]
        return found if is_ready(found, self.dtype) else found.astype(self.dtype, "C")

    def weights(self, classes: slice, whole: bool) -> Iterator[tuple[slice, Array]]:
        """Yield which classes, and their weights: in blocks, or all where ``whole`` and no copy is needed."""
        if self.staging is None:
            for part in [classes] if whole else self.blocks(classes):
                yield part, self.weight[part]
            return
        for part in self.blocks(classes):
            block = self.staging[: part.stop - part.start]
            np.copyto(block, self.weight[part], casting="unsafe")
            yield part, block

    def logits(self, h: Array, classes: slice, out: Array) -> None:
        """Write H W^T + b for some classes."""
        for part, w in self.weights(classes, self.bias is None):
            goal = out[:, part.start - classes.start : part.stop - classes.start]
            np.matmul(h, w.T, out=goal)
            if self.bias is not None:
                goal += self.bias[part]

    def back(self, g: Array, classes: slice) -> Array:
        """Return G W, the part of some classes."""
        total: Array | None = None
        for part, w in self.weights(classes, True):
            product = np.matmul(g[:, part.start - classes.start : part.stop - classes.start], w)
            total = product if total is None else np.add(total, product, out=total)
        return cast(Array, total)  # there are classes, or there would be no kept rows


class Backward:
    """Gathers the gradients of a layer's arguments from those of its logits, chunks of rows one after the other."""

    def __init__(
        self, layer: Layer, d_hidden: Array, d_weight: Array, d_bias: Array | None, accumulate: bool, chunks: int
    ) -> None:
        self.layer, self.accumulate = layer, accumulate
        self.d_hidden, self.d_weight, self.d_bias = RowView(d_hidden), d_weight, d_bias
        # sums of several chunks are rounded once
        narrow = chunks > 1 and d_weight.dtype != layer.dtype
        self.sum = np.empty(d_weight.shape, layer.dtype) if narrow else d_weight
        self.add = accumulate and not narrow
        self.bias_sum = None if d_bias is None else np.zeros(d_bias.shape)
        self.block = layer.scratch()
        self.hidden_sum: Array | None = None

    def take(self, h: Array, g: Array, classes: slice) -> None:
        """Add some classes of a chunk: its rows of the hidden layer and the gradient with respect to its logits."""
        self._add_weights(h, g, classes)
        if self.bias_sum is not None:
            self.bias_sum[classes] += np.matmul(np.ones(len(g), g.dtype), g)
        product = self.layer.back(g, classes)
        total = self.hidden_sum
        self.hidden_sum = product if total is None else np.add(total, product, out=total)

    def end_chunk(self, rows: Rows) -> None:
        """Write the gradient of rows whose classes have all been taken."""
        put(self.d_hidden.array, self.d_hidden.index(rows), cast(Array, self.hidden_sum), self.accumulate)
        self.hidden_sum = None
        self.add = True

    def _add_weights(self, h: Array, g: Array, classes: slice) -> None:
        """Add G^T H, or write it where nothing is there yet."""
        goal, dtype = self.sum, g.dtype
        turned = not _is_c_ready(goal, dtype) and _is_c_ready(goal.T, dtype)
        if not self.add and is_ready(goal, dtype):
            np.matmul(h.T, g, out=goal.T[:, classes]) if turned else np.matmul(g.T, h, out=goal[classes])
            return
        for part in self.layer.blocks(classes):
            block = self.block[: part.stop - part.start]
            some = g[:, part.start - classes.start : part.stop - classes.start]
            if turned:
                product = np.matmul(h.T, some, out=block.reshape(h.shape[1], len(block)))
                put(goal.T, (slice(None), part), product, self.add)
            else:
                put(goal, part, np.matmul(some.T, h, out=block), self.add)

    def finish(self, ignored: Array) -> None:
        """Write what is left: sums in another dtype, and zeros."""
        if not self.add:  # no chunk came
            self.sum[...] = 0
        if self.sum is not self.d_weight:
            for part in self.layer.blocks(slice(0, self.layer.classes)):
                put(self.d_weight, part, self.sum[part], self.accumulate)
        if self.d_bias is not None and self.bias_sum is not None:
            put(self.d_bias, ..., self.bias_sum, self.accumulate)
        if len(ignored) and not self.accumulate:
            self.d_hidden.array[self.d_hidden.index(ignored)] = 0
