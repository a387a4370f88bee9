"""The generalised Jensen-Shannon divergence between the softmaxes of two arrays of logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack, overload

import numpy.typing as npt

from fastce.api.cross_entropy import LossAndGrad
from fastce.core.divergence import DivergenceCall
from fastce.core.layout import Array
from fastce.core.out import result_like
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.core.validation import as_number

if TYPE_CHECKING:
    from fastce.api.options import JensenShannonGradOptions, JensenShannonOptions


@overload
def jensen_shannon(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[JensenShannonOptions],
) -> Scalar: ...
@overload
def jensen_shannon(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[JensenShannonOptions],
) -> FloatArray: ...
@overload
def jensen_shannon(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Reduction,
    **options: Unpack[JensenShannonOptions],
) -> Scalar | FloatArray: ...
def jensen_shannon(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    beta: float = 0.5,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
) -> Scalar | FloatArray:
    r"""Compute the generalised Jensen-Shannon divergence of two softmaxes, both given by logits.

    With the temperature :math:`T`, :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i / T)`,
    :math:`q_i = \operatorname{softmax}(\mathrm{target\_logits}_i / T)` and the mixture
    :math:`m = \beta q + (1 - \beta) p`,

    .. math:: \ell_i = \beta \sum_j q_{ij} \left(\log q_{ij} - \log m_{ij}\right)
        + (1 - \beta) \sum_j p_{ij} \left(\log p_{ij} - \log m_{ij}\right)

    This is a loss of knowledge distillation [1]_ with the student's logits first and the teacher's
    second. It is finite for all finite logits, and at most
    :math:`-\beta \log \beta - (1 - \beta) \log (1 - \beta)`. For ``beta=0.5`` it is symmetric, and
    the square of a metric [2]_.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target_logits : array_like, shape of ``logits``
        The logits of the target, which has the share ``beta`` of the mixture. In either array,
        -inf is a probability of 0.
    axis : int, default -1
        The axis of the classes.
    beta : float, default 0.5
        Share of the target in the mixture, from 0 to 1. As in Liger [3]_, 0 stands for
        `kl_divergence` and 1 for `kl_divergence` with ``reverse=True``. These are the limits of the
        divergence divided by ``beta * (1 - beta)``; the limit of the divergence itself is 0.
    temperature : float, default 1.0
        Divisor T of both arrays of logits, greater than 0.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the number of
        samples, which PyTorch calls "batchmean".

    Returns
    -------
    scalar, or ndarray in the shape of ``logits`` without the class axis for "none"
        float64 for float64 and integer logits, else float32. Never negative. Samples with
        NaN, +inf or nothing but -inf in either array give NaN. "mean" of nothing is NaN.

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
    jensen_shannon_and_grad : the gradient as well.
    kl_divergence : the limits of ``beta``.

    Notes
    -----
    The loss of a class is computed from :math:`t = \log p - \log q` or, where p is near q, from its
    series in t. So nothing cancels: the relative error is below 10 machine epsilons, however small
    the divergence and whatever ``beta`` is. Equal logits give exactly 0. ``target_logits`` are
    rounded to the dtype in which ``logits`` are computed.

    The loss takes two passes over a row's logits, the gradient four. All but the first usually read
    from a cache.

    References
    ----------
    .. [1] R. Agarwal et al., "On-policy distillation of language models: learning from
       self-generated mistakes", arXiv:2306.13649 (2023).
    .. [2] J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on
       Information Theory 37 (1991).
    .. [3] P.-L. Hsu et al., "Liger Kernel: efficient Triton kernels for LLM training",
       arXiv:2410.10989 (2024).

    Examples
    --------
    >>> import fastce
    >>> student, teacher = [[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]
    >>> round(float(fastce.jensen_shannon(student, teacher)), 6)
    0.247588
    >>> round(float(fastce.jensen_shannon(student, teacher, beta=0.1, temperature=4.0)), 6)
    0.007395
    """
    call = DivergenceCall().bind(
        logits,
        target_logits,
        axis=axis,
        temperature=temperature,
        reduction=reduction,
        target_share=as_number(beta, "beta"),
    )
    return call.solve(None, None)


@overload
def jensen_shannon_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[JensenShannonGradOptions],
) -> LossAndGrad[Scalar]: ...
@overload
def jensen_shannon_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[JensenShannonGradOptions],
) -> LossAndGrad[FloatArray]: ...
@overload
def jensen_shannon_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Reduction,
    **options: Unpack[JensenShannonGradOptions],
) -> LossAndGrad[Scalar | FloatArray]: ...
def jensen_shannon_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    beta: float = 0.5,
    temperature: float = 1.0,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the Jensen-Shannon divergence and its gradient with respect to ``logits``.

    In the notation of `jensen_shannon`, with :math:`G = \log p - \log m`, the denominator D of the
    reduction (the number of samples for "mean", else 1) and the upstream gradient g,

    .. math:: \frac{\partial}{\partial \mathrm{logits}_{ij}} =
        \frac{g_i (1 - \beta)}{D\, T} \, p_{ij} \left(G_{ij} - \sum_k p_{ik} G_{ik}\right)

    Parameters
    ----------
    logits, target_logits, axis, beta, temperature, reduction
        As in `jensen_shannon`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `jensen_shannon`, the gradient in the shape
        and dtype of ``logits`` (float64 for integers). Its error is a few units in the last place
        of the terms p G. The error of p itself comes on top, and grows with ``|x - max(x)| / T``.
        Equal logits give exactly 0.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `jensen_shannon`, before anything is written.

    See Also
    --------
    jensen_shannon, kl_divergence_and_grad

    Notes
    -----
    There is no gradient with respect to ``target_logits``. For ``beta`` 0 and 1 the gradient is
    that of `kl_divergence_and_grad`.

    Examples
    --------
    >>> import fastce
    >>> loss, grad = fastce.jensen_shannon_and_grad([[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]])
    >>> grad.round(4)
    array([[-0.0757, -0.0303,  0.106 ]])
    """
    call = DivergenceCall().bind(
        logits,
        target_logits,
        axis=axis,
        temperature=temperature,
        reduction=reduction,
        target_share=as_number(beta, "beta"),
    )
    grad = result_like(call.logits, out, ("logits", "target_logits"), call.inputs)
    return LossAndGrad(call.solve(grad, grad_output), grad)
