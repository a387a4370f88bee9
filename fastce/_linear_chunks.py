"""The last layer and its loss, a chunk of rows at a time: there is never more than a chunk of logits.

With rows H of the chunk, weights W and the gradient G that takes the place of the chunk's logits:

    logits = H W^T + b        d_hidden = G W        d_weight += G^T H        d_bias += 1^T G

All products are NumPy's, that is its BLAS's. What BLAS does not take (16-bit floats, strides,
other byte orders, mixed dtypes) is brought to the dtype of the computation a block at a time.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from fastce._arrays import STAGED_ELEMENTS, Array
from fastce.kernels import launch

MIN_ROWS = 128  # fewer, and the products wait for the weights, all of which every chunk reads
BLOCK_BYTES = 1 << 22  # of weights: stays in the cache between a product and what becomes of it
MIN_BLOCK = 64  # classes

Rows = slice | Array  # of all rows, in C order


class Terms(NamedTuple):
    """What a logit's loss and gradient depend on beside label and logits."""

    ignore_index: int
    class_weight: Array | None  # in the dtype of the computation
    smoothing: tuple[float, float, float] | None
    z_loss: float
    softcap: float | None
    scale: float  # of the gradient


def loss_and_grad_in_place(
    logits: Array, labels: Array, terms: Terms, upstream: Array | None, loss: Array, with_grad: bool
) -> None:
    """Write the losses of contiguous rows of logits to ``loss``, and the gradient over the logits."""
    if terms.softcap is None:
        _run_hard(logits, labels, terms, upstream, loss, with_grad)
        return
    for part in parts(len(logits), max(STAGED_ELEMENTS // logits.shape[1], 1)):
        x, raw = logits[part], logits[part].copy()
        launch.run_bend(raw, 1.0, terms.softcap, x)
        _run_hard(x, labels[part], terms, None if upstream is None else upstream[part], loss[part], with_grad)
        if with_grad:
            launch.run_unbend(raw, 1.0, terms.softcap, x, x)


def _run_hard(logits: Array, labels: Array, terms: Terms, upstream: Array | None, loss: Array, with_grad: bool) -> None:
    """Run the fused kernel, whose arguments only this function knows."""
    weights = terms.class_weight, None, terms.smoothing, terms.z_loss or None, upstream
    grad = logits if with_grad else None
    launch.run_hard(logits, labels, terms.ignore_index, *weights, terms.scale, False, None, loss, grad)


# --- arrays that BLAS may or may not take --------------------------------------


def parts(count: int, step: int) -> Iterator[slice]:
    """Cut ``count`` into slices of ``step``."""
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


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

    def chunk_rows(self, count: int, max_bytes: int) -> int:
        """Return how many of ``count`` rows to take at a time, about the same in all chunks."""
        values = self.classes + 3 * self.features  # logits; hidden, its gradient and a part of that
        most: int = max(max_bytes // max(values * int(self.dtype.itemsize), 1), MIN_ROWS)
        chunks = max(-(-count // most), 1)
        return -(-count // chunks)

    def rows(self, rows: Rows) -> Array:
        """Return rows of the hidden layer as BLAS takes them."""
        found: Array = self.hidden.array[self.hidden.index(rows)]
        return found if is_ready(found, self.dtype) else found.astype(self.dtype, "C")

    def weights(self, whole: bool) -> Iterator[tuple[slice, Array]]:
        """Yield which classes, and their weights: in blocks, or all where ``whole`` and no copy is needed."""
        staging = self.staging
        for part in parts(self.classes, self.classes if whole and staging is None else self.block):
            if staging is None:
                yield part, self.weight[part]
            else:
                block = staging[: part.stop - part.start]
                np.copyto(block, self.weight[part], casting="unsafe")
                yield part, block

    def logits(self, h: Array, out: Array) -> None:
        """Write H W^T + b."""
        for part, w in self.weights(self.bias is None):
            goal = out[:, part]
            np.matmul(h, w.T, out=goal)
            if self.bias is not None:
                goal += self.bias[part]

    def back(self, g: Array) -> Array:
        """Return G W."""
        total: Array | None = None
        for part, w in self.weights(True):
            product = np.matmul(g[:, part], w)
            total = product if total is None else np.add(total, product, out=total)
        return cast(Array, total)  # there are classes, or there would be no kept rows


class Backward:
    """Gathers the gradients of a layer's arguments from those of its logits."""

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

    def take(self, rows: Rows, h: Array, g: Array) -> None:
        """Add a chunk: its rows of the hidden layer and the gradient with respect to its logits."""
        self._add_weights(h, g)
        self.add = True
        if self.bias_sum is not None:
            self.bias_sum += np.matmul(np.ones(len(g), g.dtype), g)
        put(self.d_hidden.array, self.d_hidden.index(rows), self.layer.back(g), self.accumulate)

    def _add_weights(self, h: Array, g: Array) -> None:
        """Add G^T H, or write it where nothing is there yet."""
        goal, dtype = self.sum, g.dtype
        turned = not _is_c_ready(goal, dtype) and _is_c_ready(goal.T, dtype)
        if not self.add and is_ready(goal, dtype):
            np.matmul(h.T, g, out=goal.T) if turned else np.matmul(g.T, h, out=goal)
            return
        for part in parts(self.layer.classes, self.layer.block):
            block = self.block[: part.stop - part.start]
            if turned:
                product = np.matmul(h.T, g[:, part], out=block.reshape(h.shape[1], len(block)))
                put(goal.T, (slice(None), part), product, self.add)
            else:
                put(goal, part, np.matmul(g[:, part].T, h, out=block), self.add)

    def finish(self, ignored: Array) -> None:
        """Write what is left: sums in another dtype, and zeros."""
        if not self.add:  # no chunk came
            self.sum[...] = 0
        if self.sum is not self.d_weight:
            for part in parts(self.layer.classes, self.layer.block):
                put(self.d_weight, part, self.sum[part], self.accumulate)
        if self.d_bias is not None and self.bias_sum is not None:
            put(self.d_bias, ..., self.bias_sum, self.accumulate)
        if len(ignored) and not self.accumulate:
            self.d_hidden.array[self.d_hidden.index(ignored)] = 0


def chunks_of(labels: Array, ignore_index: int, layer: Layer, max_bytes: int) -> tuple[list[Rows], Array]:
    """Return the kept rows in chunks, and the ignored rows."""
    ignored = np.flatnonzero(labels == ignore_index)
    kept = None if not len(ignored) else np.flatnonzero(labels != ignore_index)
    count = len(labels) - len(ignored)
    step = max(layer.chunk_rows(count, max_bytes), 1)
    return [part if kept is None else kept[part] for part in parts(count, step)], ignored


def run(
    layer: Layer,
    labels: Array,
    terms: Terms,
    upstream: Array | None,
    losses: Array,
    chunks: list[Rows],
    backward: Backward | None,
) -> None:
    """Write the losses of the rows in ``chunks``, and give their gradients to ``backward``."""
    if not chunks:
        return
    most = max(len(labels[rows]) for rows in chunks)
    buffer = np.empty((most, layer.classes), layer.dtype)
    for rows in chunks:
        chosen = labels[rows]
        logits = buffer[: len(chosen)]
        h = layer.rows(rows)
        layer.logits(h, logits)
        loss = np.empty(len(chosen), layer.dtype)
        some = None if upstream is None else upstream[rows]
        loss_and_grad_in_place(logits, chosen, terms, some, loss, backward is not None)
        losses[rows] = loss
        if backward is not None:
            backward.take(rows, h, logits)
