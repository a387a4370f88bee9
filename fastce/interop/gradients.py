"""Gradients that are computed along with a loss, before a backward pass asks for them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Gradients:
    """A loss, and its gradients for the backward pass.

    Loss and gradients come from one pass over the arrays, where `come_with_the_loss` allows it, and are multiplied with
    the upstream gradient later. Threads may share them.

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
        self._axis = options.get("axis", -1)
        gradients: list[Array] = []
        if come_with_the_loss(arrays, options):
            self.loss, *gradients = loss_and_gradients(**self._arguments)
        else:
            self.loss = loss(**self._arguments)
        # an upstream gradient, and the gradients that are multiplied with it; they are multiplied with none at first
        self._kept: tuple[npt.ArrayLike | None, dict[int, Array]] = None, dict(enumerate(gradients))

    def take(self, index: int, upstream: npt.ArrayLike) -> Array:
        """Return the gradient of an array, times the upstream gradient: an array that nobody else holds."""
        factor, gradients = self._kept  # in one step, as is each pop: threads may share a graph
        if (factor is None or factor is upstream) and (gradient := gradients.pop(index, None)) is not None:
            return multiplied(gradient, upstream, self._axis) if factor is None else gradient
        gradients = dict(enumerate(self._loss_and_gradients(**self._arguments, grad_output=upstream)[1:]))
        gradient = gradients.pop(index)
        self._kept = upstream, gradients
        return gradient


def come_with_the_loss(arrays: Mapping[str, Array], options: Mapping[str, Any]) -> bool:
    """Tell whether gradients that are multiplied with the upstream gradient later are as exact as others.

    They are not for 16-bit arrays, whose gradients could underflow; and for several arrays and one loss a sample, as
    gradients of weights are sums over samples.
    """
    is_one_a_sample = options.get("reduction") == "none" and len(arrays) > 1
    return not is_one_a_sample and all(array.dtype.itemsize > 2 for array in arrays.values())


def multiplied(gradient: Array, upstream: npt.ArrayLike, axis: int) -> Array:
    """Return a gradient, multiplied in place with one number, or one a sample; 0 leaves out NaN and infinity."""
    factor = np.asarray(upstream, gradient.dtype)
    if factor.ndim:
        factor = factor[..., np.newaxis] if axis == -1 else np.expand_dims(factor, axis)
    elif factor == 1.0:
        return gradient
    with np.errstate(all="ignore"):
        np.multiply(gradient, factor, out=gradient)
    if not factor.all():
        np.copyto(gradient, 0, where=factor == 0.0)
    return gradient
