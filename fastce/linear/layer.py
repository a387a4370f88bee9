"""The matrix products of the last layer, for some rows and some classes at a time.

With rows H of the hidden layer, weights W and the gradient G with respect to the logits:

    logits = H W^T + b        d_hidden = G W        d_weight += G^T H        d_bias += 1^T G

NumPy's BLAS computes all products. Arrays that BLAS does not take (16-bit floats, strides, other byte orders, mixed
dtypes) are converted to the dtype of the computation, a block at a time.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from fastce.core.layout import Array
from fastce.core.workers import parts

BLOCK_BYTES = 1 << 22  # of weights: a block stays in the cache between its product and its use
MIN_BLOCK = 64  # classes

Rows = slice | Array  # indices of rows, counted in C order


class Gradients(NamedTuple):
    """Arrays for the gradients with respect to the arguments of a layer."""

    d_hidden: Array
    d_weight: Array
    d_bias: Array | None


# --- arrays for BLAS -----------------------------------------------------------


def is_ready(x: Array, dtype: np.dtype[Any]) -> bool:
    """Tell whether BLAS takes this matrix as it is, in C or Fortran order."""
    return _is_c_ready(x, dtype) or _is_c_ready(x.T, dtype)


def _is_c_ready(x: Array, dtype: np.dtype[Any]) -> bool:
    row_stride, size = x.strides[0], dtype.itemsize
    if x.dtype != dtype or not x.flags.aligned:
        return False
    return x.flags.c_contiguous or (x.strides[1] == size and row_stride % size == 0 and row_stride >= size * x.shape[1])


def write_at(out: Array, index: Any, values: Array, *, add: bool) -> None:
    """Write values to ``out[index]`` or add them to it, rounded once; ``values`` may be overwritten."""
    if add and out.dtype == values.dtype:
        out[index] += values
        return
    if add:
        values += out[index]
    out[index] = values


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
        """Return the index of the rows in ``array``."""
        if self.lead is None:
            return rows
        flat = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.unravel_index(flat, self.lead)


# --- forward and backward ------------------------------------------------------


class Layer:
    """The last layer; ``dtype`` is the one of all arithmetic."""

    def __init__(self, hidden: Array, weight: Array, bias: Array | None, dtype: np.dtype[Any]) -> None:
        self.hidden = RowView(hidden)
        self.weight = weight
        self.dtype = dtype
        self.bias = None if bias is None else bias.astype(dtype)
        self.classes, self.features = weight.shape
        self.block = max(BLOCK_BYTES // max(self.features * dtype.itemsize, 1), MIN_BLOCK)
        self.staging = None if is_ready(weight, dtype) else self.new_block()

    def new_block(self) -> Array:
        """Return an array for a block of weights."""
        return np.empty((min(self.block, self.classes), self.features), self.dtype)

    def blocks(self, classes: slice) -> Iterator[slice]:
        """Cut some classes into blocks of weights; the slices count all classes."""
        for part in parts(classes.stop - classes.start, self.block):
            yield slice(classes.start + part.start, classes.start + part.stop)

    def rows(self, rows: Rows) -> Array:
        """Return rows of the hidden layer in a form that BLAS takes."""
        hidden: Array = self.hidden.array[self.hidden.index(rows)]
        return hidden if is_ready(hidden, self.dtype) else hidden.astype(self.dtype, "C")

    def weights(self, classes: slice, *, in_blocks: bool) -> Iterator[tuple[slice, Array]]:
        """Yield (classes, weights) in a form that BLAS takes: all at once, or in blocks if asked for or copied."""
        if self.staging is None:
            for part in self.blocks(classes) if in_blocks else [classes]:
                yield part, self.weight[part]
            return
        for part in self.blocks(classes):
            block = self.staging[: part.stop - part.start]
            np.copyto(block, self.weight[part], casting="unsafe")
            yield part, block

    def logits(self, h: Array, classes: slice, out: Array) -> None:
        """Write H W^T + b for some classes."""
        # with a bias in blocks, whose logits are still in the cache when it is added
        for part, w in self.weights(classes, in_blocks=self.bias is not None):
            columns = out[:, part.start - classes.start : part.stop - classes.start]
            np.matmul(h, w.T, out=columns)
            if self.bias is not None:
                columns += self.bias[part]

    def back(self, g: Array, classes: slice) -> Array:
        """Return G W, summed over some classes."""
        total: Array | None = None
        for part, w in self.weights(classes, in_blocks=False):
            product = np.matmul(g[:, part.start - classes.start : part.stop - classes.start], w)
            total = product if total is None else np.add(total, product, out=total)
        return cast(Array, total)  # without classes, all rows are ignored and there is no chunk


class Backward:
    """Sums the gradients of a layer's arguments, given the gradient of its logits one chunk of rows after another."""

    def __init__(self, layer: Layer, gradients: Gradients, accumulate: bool, chunks: int) -> None:
        self.layer, self.accumulate = layer, accumulate
        self.d_hidden, self.d_weight, self.d_bias = RowView(gradients.d_hidden), gradients.d_weight, gradients.d_bias
        # a sum over several chunks is rounded once: it needs an array of its own if d_weight is narrower
        is_narrower = chunks > 1 and self.d_weight.dtype != layer.dtype
        self.weight_sum = np.empty(self.d_weight.shape, layer.dtype) if is_narrower else self.d_weight
        self.add = accumulate and not is_narrower  # False until weight_sum holds values to add to
        self.bias_sum = None if self.d_bias is None else np.zeros(self.d_bias.shape)
        self.block = layer.new_block()
        self.hidden_sum: Array | None = None  # of the chunk, over the classes taken so far

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
        hidden_sum = cast(Array, self.hidden_sum)
        write_at(self.d_hidden.array, self.d_hidden.index(rows), hidden_sum, add=self.accumulate)
        self.hidden_sum = None
        self.add = True

    def _add_weights(self, h: Array, g: Array, classes: slice) -> None:
        """Add G^T H to the sum, or write it there for the first chunk."""
        out, dtype = self.weight_sum, g.dtype
        is_transposed = not _is_c_ready(out, dtype) and _is_c_ready(out.T, dtype)
        if not self.add and is_ready(out, dtype):
            np.matmul(h.T, g, out=out.T[:, classes]) if is_transposed else np.matmul(g.T, h, out=out[classes])
            return
        for part in self.layer.blocks(classes):
            block = self.block[: part.stop - part.start]
            columns = g[:, part.start - classes.start : part.stop - classes.start]
            if is_transposed:
                product = np.matmul(h.T, columns, out=block.reshape(h.shape[1], len(block)))
                write_at(out.T, (slice(None), part), product, add=self.add)
            else:
                write_at(out, part, np.matmul(columns.T, h, out=block), add=self.add)

    def finish(self, ignored: Array) -> None:
        """Write the gradients whose sums are in other arrays, and zeros for ignored rows."""
        if not self.add:  # no chunk came
            self.weight_sum[...] = 0
        if self.weight_sum is not self.d_weight:
            for part in self.layer.blocks(slice(0, self.layer.classes)):
                write_at(self.d_weight, part, self.weight_sum[part], add=self.accumulate)
        if self.d_bias is not None and self.bias_sum is not None:
            write_at(self.d_bias, ..., self.bias_sum, add=self.accumulate)
        if len(ignored) and not self.accumulate:
            self.d_hidden.array[self.d_hidden.index(ignored)] = 0
