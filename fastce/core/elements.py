"""The core of the losses of elements: checked arguments, the loop over blocks, the reduction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import Array, dtypes_of
from fastce.core.out import result_like
from fastce.core.reduction import FloatArray, Scalar, as_loss, check_reduction, mean
from fastce.core.staging import staged
from fastce.core.validation import as_array, as_number, as_real, check_weights


class ElementCall:
    """The checked arguments of one loss of elements, and its computation.

    A loss is a subclass, whose `_run` calls its kernel.
    """

    input_name = "logits"  # of the first argument, in messages
    ignored: float | None = None  # the target of elements that are left out

    def bind(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        weight: npt.ArrayLike | None = None,
        pos_weight: npt.ArrayLike | None = None,
        reduction: str = "mean",
        grad_output: npt.ArrayLike | None = None,
    ) -> Self:
        """Check the arguments and keep them; return the call. A method for the reason given at `LossCall.bind`."""
        check_reduction(reduction)
        self.reduction = reduction
        self.logits = as_real(logits, self.input_name)
        self.target = as_real(target, "target")
        if self.target.shape != self.logits.shape:
            raise ValueError(
                f"target must have the shape of {self.input_name}, {self.logits.shape}, got {self.target.shape}"
            )
        self.inputs = {self.input_name: self.logits, "target": self.target}  # arrays that ``out`` must not overlap
        self.dtype = dtypes_of(self.logits).compute
        self.weight = self._broadcast_weight(weight, "weight")
        self.pos_weight = self._broadcast_weight(pos_weight, "pos_weight")
        self.denominator = self._count() if reduction == "mean" else 1.0
        self.scale = mean(1.0, self.denominator)
        self.upstream: Array | None = None
        if grad_output is not None:
            values = as_array(grad_output, "grad_output")
            if reduction == "none" and values.ndim:
                self.upstream = self._broadcast(values, "grad_output")
            else:
                factor = as_number(values if values.ndim else values.item(), "grad_output")
                self.scale = self.scale * factor if factor else 0.0
        return self

    def _run(
        self, start: int, inputs: list[Array | None], sums: bool, loss: Array | None, grad: Array | None
    ) -> Array | None:
        """Compute a block of elements, the first of them at ``start``; return sums of its losses if those are wanted.

        ``inputs`` are flat: logits, target, weight, pos_weight, upstream gradient.
        """
        raise NotImplementedError

    def _count(self) -> float:
        """Return the number of elements that are not ignored."""
        if self.ignored is None or not self.logits.size:
            return float(self.logits.size)
        blocks = self._flat_blocks([self.target], None)
        return sum(dispatch.count_kept(target, self.ignored) for _, (target,), _ in blocks if target is not None)

    def _broadcast_weight(self, values: npt.ArrayLike | None, name: str) -> Array | None:
        """Return weights in the shape of the logits, all of them in the range of the dtype computed in."""
        array = self._broadcast(values, name)
        if array is not None:
            check_weights(self.inputs[name], name, self.dtype)
        return array

    def _broadcast(self, values: npt.ArrayLike | None, name: str) -> Array | None:
        """Return an option as an array in the shape of the logits, and add it to the inputs."""
        if values is None:
            return None
        self.inputs[name] = array = as_real(values, name)
        try:
            return np.broadcast_to(array, self.logits.shape)
        except ValueError:
            raise ValueError(
                f"{name} must broadcast to the shape of {self.input_name}, {self.logits.shape}, got {array.shape}"
            ) from None

    def grad_array(self, out: object) -> Array:
        """Return ``out`` if the gradient can be written there, or a new array for None."""
        return result_like(self.logits, out, tuple(self.inputs), tuple(self.inputs.values()))

    def solve(self, grad: Array | None) -> Scalar | FloatArray:
        """Return the reduced loss; write the gradient if an array for it is given."""
        loss = np.empty(self.logits.shape, self.dtype) if self.reduction == "none" else None
        sums = self._fill(True, loss, grad)
        if loss is not None:
            return loss[()]
        return as_loss(mean(_total(sums), self.denominator), self.dtype)

    def _fill(self, sums: bool, loss: Array | None, grad: Array | None) -> list[Array]:
        """Write losses and gradient where arrays for them are given; return sums of losses if those are wanted."""
        written = grad if self.scale else None  # a scale of 0 leaves out all elements
        found: list[Array] = []
        arrays = [self.logits, self.target, self.weight, self.pos_weight, self.upstream]
        if self.logits.size:
            for part, inputs, flat_grad in self._flat_blocks(arrays, written):
                flat_loss = None if loss is None else loss.reshape(-1)[part]
                of_block = self._run(part.start, inputs, sums, flat_loss, flat_grad)
                if of_block is not None:
                    found.append(of_block)
        if grad is not None and written is None:
            grad.fill(0)
        return found

    def _flat_blocks(
        self, arrays: list[Array | None], grad: Array | None
    ) -> Iterator[tuple[slice, list[Array | None], Array | None]]:
        """Yield (slice of the elements, arrays, gradient), all arrays flat and in the dtype of the computation."""
        given = [x for x in arrays if x is not None]
        if all(_is_flat_ready(x, self.dtype) for x in given) and (grad is None or _is_flat_ready(grad, self.dtype)):
            flat_arrays = [None if x is None else x.reshape(-1) for x in arrays]
            yield slice(0, given[0].size), flat_arrays, None if grad is None else grad.reshape(-1)
            return
        given = [np.atleast_1d(x) for x in given]
        grad = None if grad is None else grad.reshape(given[0].shape) if grad.ndim == 0 else grad
        width = given[0].shape[-1]
        for block in staged(-1, self.dtype, given, grad):
            flat = iter([x.reshape(-1) for x in block.inputs])
            flat_arrays = [None if x is None else next(flat) for x in arrays]
            out = None if block.out is None else block.out.reshape(-1)
            yield slice(block.start * width, block.stop * width), flat_arrays, out


def _total(sums: list[Array]) -> float:
    """Return the sum of the sums of all blocks."""
    if len(sums) == 1 and sums[0].size == 1:  # a tenth of a small loss
        return float(sums[0][0])
    return dispatch.total(np.concatenate(sums)) if sums else 0.0


def _is_flat_ready(x: Array, dtype: np.dtype[Any]) -> bool:
    """Tell whether kernels take this array as it is, once it is flat."""
    return bool(x.dtype == dtype and x.flags.c_contiguous and x.flags.aligned)
