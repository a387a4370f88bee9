"""Kullback-Leibler divergence between the softmaxes of two arrays of logits: distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack, overload

import numpy.typing as npt

from fastce.api.cross_entropy import LossAndGrad
from fastce.core.divergence import DivergenceCall
from fastce.core.layout import Array
from fastce.core.out import result_like
from fastce.core.reduction import FloatArray, Reduced, Reduction, Scalar
from fastce.core.validation import as_flag

if TYPE_CHECKING:
    from fastce.api.options import KlGradOptions, KlOptions


@overload
def kl_divergence(
    logits: npt.ArrayLike, target_logits: npt.ArrayLike, *, reduction: Reduced = "mean", **options: Unpack[KlOptions]
) -> Scalar: ...
@overload
def kl_divergence(
    logits: npt.ArrayLike, target_logits: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[KlOptions]
) -> FloatArray: ...
@overload
def kl_divergence(
    logits: npt.ArrayLike, target_logits: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[KlOptions]
) -> Scalar | FloatArray: ...
def kl_divergence(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reverse: bool = False,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> Scalar | FloatArray:
    r"""Compute the Kullback-Leibler divergence of one softmax from another, both given by logits.

    With the temperature :math:`T`, sample weights u,
    :math:`p_i = \operatorname{softmax}(\mathrm{logits}_i / T)` and
    :math:`q_i = \operatorname{softmax}(\mathrm{target\_logits}_i / T)`,

    .. math:: \ell_i = u_i \sum_j q_{ij} \left(\log q_{ij} - \log p_{ij}\right)

    and with ``reverse=True``

    .. math:: \ell_i = u_i \sum_j p_{ij} \left(\log p_{ij} - \log q_{ij}\right)

    The first is the loss of knowledge distillation [1]_, with the student's logits first and the teacher's
    second. It has no factor :math:`T^2`, which is often put before it. The second lets the student leave out
    answers that it cannot learn. It is preferred for small students of large teachers [2]_.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        Unnormalised log-probabilities; integers and booleans are taken as float64.
    target_logits : array_like, shape of ``logits``
        The logits of the target. A class with -inf there has target 0 and adds nothing; with
        ``reverse`` it makes the loss inf, unless ``logits`` are -inf there too.
    axis : int, default -1
        The axis of the classes.
    temperature : float, default 1.0
        Divisor T of both arrays of logits, greater than 0.
    reverse : bool, default False
        Whether p and q change places in the loss. The gradient is with respect to ``logits`` in
        either direction.
    sample_weight : array_like, shape of ``logits`` without the class axis, optional
        One weight per sample. A sample of weight 0 is left out, whatever NaN or infinity it holds.
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the number of
        samples, which PyTorch calls "batchmean", or by the sum of the sample weights.

    Returns
    -------
    scalar, or ndarray in the shape of ``logits`` without the class axis for "none"
        float64 for float64 and integer logits, else float32. Never negative. Samples with NaN, +inf
        or nothing but -inf in either array give NaN. ``logits`` of -inf where the target is not 0
        give inf, or add nothing with ``reverse``. "mean" of nothing is NaN.

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
    jensen_shannon : between the two directions, and finite for all finite logits.

    Notes
    -----
    With :math:`t = \log p - \log q` the loss is summed as :math:`\sum_j q_j (e^{t_j} - 1 - t_j)`,
    in which no term is negative. So nothing cancels if p and q are nearly equal, and a small
    divergence keeps its digits; equal logits give exactly 0. With ``reverse`` the sum is
    :math:`\sum_j p_j (e^{-t_j} - 1 + t_j)`, and its relative error is below 10 machine epsilons,
    however small it is. ``target_logits`` are rounded to the dtype in which ``logits`` are
    computed.

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the knowledge in a neural network",
       arXiv:1503.02531 (2015).
    .. [2] Y. Gu, L. Dong, F. Wei, M. Huang, "MiniLLM: Knowledge distillation of large language
       models", arXiv:2306.08543 (2023).

    Examples
    --------
    >>> import fastce
    >>> student, teacher = [[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]]
    >>> round(float(fastce.kl_divergence(student, teacher)), 6)
    1.150421
    >>> round(float(fastce.kl_divergence(student, teacher, temperature=4.0)), 6)
    0.082477
    >>> round(float(fastce.kl_divergence([[0.0, 0.0]], [[0.0, 3.0]], reverse=True)), 6)
    0.85544
    """
    call = DivergenceCall().bind(
        logits,
        target_logits,
        axis=axis,
        temperature=temperature,
        reduction=reduction,
        target_share=float(as_flag(reverse, "reverse")),
        sample_weight=sample_weight,
    )
    return call.solve(None, None)


@overload
def kl_divergence_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[KlGradOptions],
) -> LossAndGrad[Scalar]: ...
@overload
def kl_divergence_and_grad(
    logits: npt.ArrayLike, target_logits: npt.ArrayLike, *, reduction: Literal["none"], **options: Unpack[KlGradOptions]
) -> LossAndGrad[FloatArray]: ...
@overload
def kl_divergence_and_grad(
    logits: npt.ArrayLike, target_logits: npt.ArrayLike, *, reduction: Reduction, **options: Unpack[KlGradOptions]
) -> LossAndGrad[Scalar | FloatArray]: ...
def kl_divergence_and_grad(
    logits: npt.ArrayLike,
    target_logits: npt.ArrayLike,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    reverse: bool = False,
    sample_weight: npt.ArrayLike | None = None,
    reduction: Reduction = "mean",
    grad_output: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> LossAndGrad[Scalar | FloatArray]:
    r"""Compute the divergence and its gradient with respect to ``logits`` in one pass.

    In the notation of `kl_divergence`, with the denominator D of the reduction (the number of
    samples or the sum of their weights for "mean", else 1) and the upstream gradient g,

    .. math:: \frac{\partial}{\partial \mathrm{logits}_{ij}} = \frac{g_i u_i}{D\, T} \left(p_{ij} - q_{ij}\right)

    and with ``reverse=True`` and :math:`t = \log p - \log q`

    .. math:: \frac{\partial}{\partial \mathrm{logits}_{ij}} =
        \frac{g_i u_i}{D\, T} \, p_{ij} \left(t_{ij} - \sum_k p_{ik} t_{ik}\right)

    Parameters
    ----------
    logits, target_logits, axis, temperature, reverse, sample_weight, reduction
        As in `kl_divergence`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    out : ndarray, shape and dtype of the gradient, optional
        Where to write the gradient. It may be the first argument itself, which is then
        overwritten. It may be float32 where the gradient has 16 bits, so that small values do
        not underflow.

    Returns
    -------
    LossAndGrad
        A named tuple ``(loss, grad)``: the loss as from `kl_divergence`, the gradient in the shape
        and dtype of ``logits`` (float64 for integers). Its error is a few units in the last place
        of q, or with ``reverse`` of the terms p t. The error of p itself comes on top, and grows
        with ``|x - max(x)| / T``. Equal logits give exactly 0. With ``reverse``, samples whose loss
        is inf have gradient NaN.

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
    call = DivergenceCall().bind(
        logits,
        target_logits,
        axis=axis,
        temperature=temperature,
        reduction=reduction,
        target_share=float(as_flag(reverse, "reverse")),
        sample_weight=sample_weight,
    )
    names = "logits", "target_logits", "sample_weight"
    grad = result_like(call.logits, out, names, call.inputs)
    return LossAndGrad(call.solve(grad, grad_output), grad)
