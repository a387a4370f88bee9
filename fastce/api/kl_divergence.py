"""Kullback-Leibler divergence between the softmaxes of two arrays of logits: distillation."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.api.cross_entropy import LossAndGrad
from fastce.core.layout import Array, cast_to, dtypes_of, without_axis
from fastce.core.out import result_like
from fastce.core.reduction import Reduction, as_upstream, check_reduction, mean, reduce_losses
from fastce.core.staging import row_blocks
from fastce.core.validation import as_number, as_real, as_weights, normalize_axis


def kl_divergence(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Any:
    r"""Compute the Kullback-Leibler divergence of one softmax from another, both given by logits.

    With the temperature :math:`T`, sample weights u,
    :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i / T)` and
    :math:`q_i = \operatorname{softmax}(\mathrm{target\_logits}_i / T)`,

    .. math:: \ell_i = u_i \sum_j q_{ij} \left(\log q_{ij} - \log p_{ij}\right)

    This is the loss of knowledge distillation [1]_ with the student's logits first and the
    teacher's second, without the factor :math:`T^2` that is often put before it.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target_logits : array_like, shape of ``logits``
        The logits of the target. A class with -inf there has target 0 and adds nothing.
    axis : int, default -1
        The axis of the classes.
    temperature : float, default 1.0
        Divisor T of both arrays of logits, greater than 0.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the number of
        samples, which PyTorch calls "batchmean", or by the sum of the sample weights.

    Returns
    -------
    scalar, or ndarray in the shape of ``logits`` without the class axis for "none"
        float64 for float64 and integer logits, else float32. Never negative. Samples with
        NaN, +inf or nothing but -inf in either array give NaN; ``logits`` of -inf where the
        target is not 0 give inf. "mean" of nothing is NaN.

    Raises
    ------
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.
    numpy.exceptions.AxisError
        If ``logits`` has no such axis.

    See Also
    --------
    kl_divergence_and_grad : the gradient as well, in the same pass.
    cross_entropy : from targets that are probabilities.

    Notes
    -----
    With :math:`t = \log p - \log q` the loss is summed as :math:`\sum_j q_j (e^{t_j} - 1 - t_j)`,
    in which no term is negative. So nothing cancels if p and q are nearly equal, and a small
    divergence keeps its digits; equal logits give exactly 0. ``target_logits`` are rounded to the
    dtype in which ``logits`` are computed.

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network",
       arXiv:1503.02531 (2015).

    Examples
    --------
    >>> import fastce
    >>> student, teacher = [[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]
    >>> round(float(fastce.kl_divergence(student, teacher)), 6)
    1.150421
    >>> round(float(fastce.kl_divergence(student, teacher, temperature=4.0)), 6)
    0.082477
    """
    call = _DivergenceCall().bind(
        logits, target_logits, axis=axis, temperature=temperature, sample_weight=sample_weight, reduction=reduction
    )
    return call.solve(None, None)


def kl_divergence_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad:
    r"""Compute the divergence and its gradient with respect to ``logits`` in one pass.

    In the notation of `kl_divergence`, with the denominator D of the reduction (the number of
    samples or the sum of their weights for "mean", else 1) and the upstream gradient g,

    .. math:: \frac{\partial}{\partial \mathrm{logits}_{ij}} = \frac{g_i u_i}{D\, T} \left(p_{ij} - q_{ij}\right)

    Parameters
    ----------
    logits, target_logits, axis, temperature, sample_weight, reduction
        As in `kl_divergence`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `kl_divergence`, the gradient in the
        shape and dtype of ``logits`` (float64 for integers). Its error is a few units in the
        last place of q; equal logits give exactly 0.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `kl_divergence`, before anything is written.

    See Also
    --------
    kl_divergence, cross_entropy_and_grad

    Notes
    -----
    There is no gradient with respect to ``target_logits``. With ``temperature**2`` as ``grad_output``
    the gradient is of about the same size at every temperature.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> loss, grad = fastce.kl_divergence_and_grad([[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]])
    >>> grad.round(4)
    array([[-0.5752,  0.    ,  0.5752]])

    Nearly equal logits in single precision, where log q - log p would be rounding errors:

    >>> x = np.array([0.0, 1.0, 2.0], np.float32)
    >>> round(float(fastce.kl_divergence(x + np.float32([0, 0, 2**-12]), x)) * 1e9, 3)
    6.637
    """
    call = _DivergenceCall().bind(
        logits, target_logits, axis=axis, temperature=temperature, sample_weight=sample_weight, reduction=reduction
    )
    names = "logits", "target_logits", "sample_weight"
    grad = result_like(call.logits, out, names, call.inputs)
    return LossAndGrad(call.solve(grad, grad_output), grad)


class _DivergenceCall:
    """The checked arguments of one divergence, and its computation."""

    def bind(
        self,
        logits: npt.ArrayLike,
        target_logits: npt.ArrayLike,
        *,
        axis: int,
        temperature: float,
        sample_weight: npt.ArrayLike | None,
        reduction: str,
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
        self.sample_weight: Array | None = None
        self.denominator = float(math.prod(shape))
        if sample_weight is not None:
            sample_weight = as_real(sample_weight, "sample_weight")
            weights = as_weights(sample_weight, shape, "sample_weight", "one per sample").reshape(-1)
            self.sample_weight, self.denominator = cast_to(weights, self.dtype), dispatch.total(weights)
        self.inputs = logits, target, sample_weight
        return self

    def solve(self, grad: Array | None, grad_output: npt.ArrayLike | None) -> Any:
        """Return the reduced loss; write the gradient if an array for it is given."""
        scale, upstream = as_upstream(grad_output, self.reduction, self.shape, self.dtype)
        weights = self.sample_weight
        if self.reduction == "mean":
            scale *= mean(1.0, self.denominator)
        if weights is not None:
            with np.errstate(all="ignore"):
                upstream = weights if upstream is None else upstream * weights
        loss = np.zeros(math.prod(self.shape), self.dtype)
        if self.logits.size:
            for block in row_blocks(self.axis, self.dtype, (self.logits, self.target), grad):
                part = slice(block.start, block.stop)
                x, target = block.inputs
                factors = None if upstream is None else upstream[part]
                dispatch.run_kl(x, target, self.beta, factors, scale, loss[part], block.out)
        if weights is not None:
            with np.errstate(all="ignore"):
                loss *= weights
        return reduce_losses(loss, self.shape, self.reduction, self.denominator)


def _inverse(temperature: float, dtype: np.dtype[Any]) -> float:
    """Return 1 / temperature, or raise ValueError where that is no positive number of this dtype."""
    value = as_number(temperature, "temperature")
    info = np.finfo(dtype)
    if not float(info.tiny) <= value <= 1.0 / float(info.tiny):
        raise ValueError(f"temperature must be greater than 0 and finite in {dtype}, got {temperature!r}")
    return 1.0 / value
