"""Gradients that are computed along with a loss, before a backward pass asks for them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Gradients:
    """A loss, and its gradients for the backward pass.

    Loss and gradients come from one pass over the arrays, and are multiplied with the upstream gradient later. Where
    that would give other numbers, the gradients are left to the backward pass: for 16-bit arrays, whose gradients could
    underflow; and for several arrays and one loss a sample, as gradients of weights are sums over samples.

    Parameters
    ----------
    loss, loss_and_gradients : callable
        A function of fastce, and the same with gradients.
    arrays : mapping
        The arguments that have gradients, in the order of the gradients.
    options : mapping
        All other arguments.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        loss_and_gradients: Callable[..., tuple[Any, ...]],
        arrays: Mapping[str, Array],
        options: Mapping[str, Any],
    ) -> None:
        self._loss_and_gradients, self._arguments = loss_and_gradients, {**arrays, **options}
        self._upstream: object = None  # by which the gradients are multiplied, if at all
        self._gradients: dict[int, Array] = {}
        self._axis = options.get("axis", -1)
        is_one_a_sample = options.get("reduction") == "none" and len(arrays) > 1
        if is_one_a_sample or any(array.dtype.itemsize == 2 for array in arrays.values()):
            self.loss = loss(**self._arguments)
        else:
            self.loss = self._compute()

    def _compute(self, **options: Any) -> Any:
        loss, *gradients = self._loss_and_gradients(**self._arguments, **options)
        self._gradients = dict(enumerate(gradients))
        return loss

    def take(self, index: int, upstream: npt.ArrayLike) -> Array:
        """Return the gradient of an array, times the upstream gradient: an array that nobody else holds."""
        is_multiplied = self._upstream is not None
        if index not in self._gradients or (is_multiplied and self._upstream is not upstream):
            self._compute(grad_output=upstream)
            self._upstream = upstream
        gradient = self._gradients.pop(index)
        if self._upstream is None:
            self._multiply(gradient, upstream)
        return gradient

    def _multiply(self, gradient: Array, upstream: npt.ArrayLike) -> None:
        """Multiply a gradient with one number, or one a sample; 0 leaves out NaN and infinity."""
        factor = np.asarray(upstream, gradient.dtype)
        if factor.ndim:
            factor = factor[..., np.newaxis] if self._axis == -1 else np.expand_dims(factor, self._axis)
        elif factor == 1.0:
            return
        with np.errstate(all="ignore"):
            np.multiply(gradient, factor, out=gradient)
        if not factor.all():
            np.copyto(gradient, 0, where=factor == 0.0)
