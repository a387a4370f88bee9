"""One divergence of two softmaxes: checked arguments, blocks of rows, reduction."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import Array, dtypes_of, without_axis
from fastce.core.reduction import FloatArray, Scalar, as_upstream, check_reduction, mean, reduce_losses
from fastce.core.staging import row_blocks
from fastce.core.validation import as_number, as_real, as_weights, as_weights_of, normalize_axis


class DivergenceCall:
    """The checked arguments of one divergence of p = softmax(logits / T) and q = softmax(target_logits / T).

    ``target_share`` says which: 0 for KL(q || p), 1 for KL(p || q), and between them the Jensen-Shannon divergence
    with this share of q in the mixture.
    """

    def bind(
        self,
        logits: npt.ArrayLike,
        target_logits: npt.ArrayLike,
        *,
        axis: int,
        temperature: float,
        reduction: str,
        target_share: float,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Check the arguments and keep them; return the call. A method for the reason given at `LossCall.bind`."""
        self.logits = logits = as_real(logits, "logits")
        self.target = target = as_real(target_logits, "target_logits")
        self.axis = axis = normalize_axis(axis, logits.ndim, "logits")
        if target.shape != logits.shape:
            raise ValueError(f"target_logits must have the shape of logits, {logits.shape}, got {target.shape}")
        check_reduction(reduction)
        self.reduction = reduction
        self.dtype = dtypes_of(logits).compute
        self.shape = shape = without_axis(logits.shape, axis)
        self.beta = _inverse(temperature, self.dtype)
        if target_share:
            target_share = _share(target_share, self.dtype)
        self.target_share = target_share
        self.sample_weight: Array | None = None
        self.denominator = float(math.prod(shape))
        if sample_weight is not None:
            sample_weight = as_real(sample_weight, "sample_weight")
            weights = as_weights(sample_weight, shape, "sample_weight", "one per sample")
            self.denominator = dispatch.total(weights.reshape(-1))
            weights = as_weights_of(weights, shape, "sample_weight", "one per sample", self.dtype)
            self.sample_weight = weights.reshape(-1)
        self.inputs = logits, target, sample_weight
        return self

    def solve(self, grad: Array | None, grad_output: npt.ArrayLike | None) -> Scalar | FloatArray:
        """Return the reduced loss; write the gradient if an array for it is given."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        weights = self.sample_weight
        if self.reduction == "mean":
            scale *= mean(1.0, self.denominator)
        if weights is not None:
            with np.errstate(all="ignore"):
                upstream = weights if upstream is None else np.where(weights == 0.0, weights, upstream * weights)
        loss = np.zeros(math.prod(self.shape), self.dtype)
        if self.logits.size:
            for block in row_blocks(self.axis, self.dtype, (self.logits, self.target), grad):
                part = slice(block.start, block.stop)
                factors = None if upstream is None else upstream[part]
                arguments = factors, scale, loss[part], block.out
                x, target = block.inputs
                if self.target_share == 0.0:
                    dispatch.run_kl(x, target, self.beta, *arguments)
                else:
                    dispatch.run_jensen_shannon(self.target_share, x, target, self.beta, *arguments)
        if weights is not None:
            with np.errstate(all="ignore"):
                loss *= weights
            loss[weights == 0.0] = 0.0
        return reduce_losses(loss, self.shape, self.reduction, self.denominator)


def _inverse(temperature: float, dtype: np.dtype[Any]) -> float:
    """Return 1 / temperature, or raise ValueError where that is no positive number of this dtype."""
    value = as_number(temperature, "temperature")
    if 1e-30 < value < 1e30:  # in the range of every dtype
        return 1.0 / value
    tiny = float(np.finfo(dtype).tiny)
    if not tiny <= value <= 1.0 / tiny:
        raise ValueError(f"temperature must be from {tiny:.3g} to {1.0 / tiny:.3g} in {dtype}, got {temperature!r}")
    return 1.0 / value


def _share(beta: float, dtype: np.dtype[Any]) -> float:
    """Return the share of a mixture, or raise ValueError where that is no positive number of this dtype, at most 1."""
    tiny = float(np.finfo(dtype).tiny)
    if not tiny <= beta <= 1.0:
        raise ValueError(f"beta must be 0, or from {tiny:.3g}, the least number of {dtype}, to 1, got {beta!r}")
    return beta
