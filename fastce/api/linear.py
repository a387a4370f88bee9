"""Cross-entropy of a linear layer's output, without the whole output in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Unpack, overload

import numpy.typing as npt

from fastce.core.layout import Array
from fastce.core.reduction import FloatArray, Loss, Reduced, Reduction, Scalar
from fastce.linear.arguments import ByProducts, LinearLossCall

if TYPE_CHECKING:
    from fastce.api.options import LinearGradOptions, LinearOptions

MAX_BYTES = 256_000_000  # measured: half of it takes up to 5 % longer, twice as much up to 5 % less time


class _LossAndGrads(NamedTuple, Generic[Loss]):
    """The fields of `LinearCrossEntropy`."""

    loss: Loss
    d_hidden: Array
    d_weight: Array
    d_bias: Array | None


class LinearCrossEntropy(_LossAndGrads[Loss]):
    """A loss and its gradients with respect to the arguments of the last layer.

    Attributes
    ----------
    loss : scalar or ndarray
        The result of `linear_cross_entropy`.
    d_hidden, d_weight : ndarray
        In the shapes of ``hidden`` and ``weight``.
    d_bias : ndarray or None
        In the shape of ``bias``; None without a bias.
    lse : ndarray, shape of ``target``
        The log-sum-exp of every sample, of scaled and capped logits, in the dtype of the loss. It is NaN
        for samples that are ignored or left out by a weight of 0, and for samples without a softmax:
        with NaN or +inf, or nothing but -inf.
    z_loss : scalar or ndarray
        The part of the squared log-sum-exp in the loss, reduced as the loss.

    Notes
    -----
    As a tuple, it has the first four attributes alone. ``lse`` and ``z_loss`` need no further
    product: they are computed when they are read, from two numbers kept for each sample.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> loss, *gradients = fastce.linear_cross_entropy_and_grad(np.eye(2), np.eye(2), [0, 1], bias=[0.0, 0.0])
    >>> [gradient.shape for gradient in gradients]
    [(2, 2), (2, 2), (2,)]
    >>> result = fastce.linear_cross_entropy_and_grad(np.eye(2), np.eye(2), [0, 1], z_loss=0.01)
    >>> result.lse.round(4), result.z_loss.round(4)
    (array([1.3133, 1.3133]), np.float64(0.0172))
    """

    _by_products: ByProducts

    @property
    def lse(self) -> FloatArray:
        """The log-sum-exp of every sample."""
        return self._by_products.lse()

    @property
    def z_loss(self) -> Loss:
        """The part of the squared log-sum-exp in the loss."""
        return self._by_products.z_part()  # type: ignore[no-any-return]


@overload
def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[LinearOptions],
) -> Scalar: ...
@overload
def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[LinearOptions],
) -> FloatArray: ...
@overload
def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduction,
    **options: Unpack[LinearOptions],
) -> Scalar | FloatArray: ...
def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    bias: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    max_bytes: int = MAX_BYTES,
) -> Scalar | FloatArray:
    r"""Compute the cross-entropy of a linear layer's output, without the whole output in memory.

    With hidden states :math:`h`, weights :math:`W`, biases :math:`b`, ``logit_scale`` :math:`s`,
    ``softcap`` :math:`c`, class weights :math:`w`, sample weights :math:`u`, label smoothing
    :math:`\varepsilon` over V classes and ``z_loss`` z,

    .. math::
        x_{ij} = c \tanh\!\left(\frac{s\, (h_i \cdot W_j + b_j)}{c}\right), \qquad
        t_{ij} = w_j \left((1 - \varepsilon)\, [j = y_i] + \frac{\varepsilon}{V}\right), \\
        \ell_i = u_i \left(\sum_j t_{ij} \left(\operatorname{lse}(x_i) - x_{ij}\right)
            + z \operatorname{lse}(x_i)^2\right)

    without the cap if ``softcap`` is None.

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        The inputs of the layer, one row a sample.
    weight : array_like, shape (V, D)
        The weights of the layer, one row a class. Pass the ``.T`` of weights stored as (D, V).
    target : array_like, shape of ``hidden`` without its last axis
        Class indices of any integer dtype. Or an array of shape (..., V): one-hot integers or
        booleans.
    bias : array_like, shape (V,), optional
        The biases of the layer.
    class_weight : array_like, shape (V,), optional
        One weight per class.
    sample_weight : array_like, shape of ``hidden`` without its last axis, optional
        One weight per sample. A sample of weight 0 is left out, whatever NaN or infinity it holds.
    ignore_index : int or None, default -100
        Samples with this class index are ignored: they add nothing to the result. None ignores
        none.
    label_smoothing : float, default 0.0
        From 0 to 1: the part of each target that is spread evenly over all classes.
    z_loss : float, default 0.0
        Factor z of the squared log-sum-exp in the loss, which keeps logits from drifting.
        Class weights do not scale it.
    logit_scale : float, default 1.0
        Factor of the logits, applied before ``softcap``: one over a temperature.
    softcap : float, optional
        Smooth cap c: each logit x becomes c tanh(x / c).
    reduction : {"mean", "sum", "none"}, default "mean"
        "none" gives one loss a sample, "sum" their sum. "mean" divides the sum by the total weight
        of the samples that are not ignored: class weight at the label times sample weight.
    normalizer : float, optional
        Divisor for "mean" instead of the sum of weights, for batches that are parts of a larger
        one. The mean of nothing is then 0. The divisor may be 0 where no sample counts. With
        another reduction it is refused.
    max_bytes : int, default 256,000,000
        Greatest size in bytes of a chunk of logits; see the notes.

    Returns
    -------
    scalar, or ndarray in the shape of ``target`` for "none"
        float64 if one of ``hidden``, ``weight`` and ``bias`` is float64 or integer, else float32. "mean"
        of nothing is NaN.

    Raises
    ------
    IndexError
        If a class index is outside 0 to V - 1 and not ``ignore_index``.
    TypeError
        If an argument has a wrong type or dtype.
    ValueError
        If an argument has a wrong shape or value.

    See Also
    --------
    linear_cross_entropy_and_grad : the gradients as well.
    cross_entropy : from logits.

    Notes
    -----
    The rows are computed in chunks: a matrix product gives a chunk of logits, and the kernel of
    `cross_entropy` reduces it [2]_. A chunk has as many rows as ``max_bytes`` allows. Every chunk reads
    all weights and adds to all their gradients, so chunks of few rows take longer. If fewer than 64 rows
    (256 without gradients) of all classes fit, chunks have more rows and are cut into tiles of classes.
    With gradients, their logits are then computed twice. The memory is at most ``max_bytes`` of logits,
    or 64 rows of 256 classes if that is more, and a few blocks of 4 MiB.

    float16 and bfloat16 (of ml_dtypes) are converted to float32, a block of weights at a time. Arrays
    that BLAS does not take (strided, of another byte order) are copied in the same way.

    NumPy's BLAS computes the products. Their last bits may depend on its number of threads and on the
    size of a chunk. From logits to losses, and to the gradient with respect to the logits, the bits are
    the same for any number of threads.

    ``torch.nn.functional.linear_cross_entropy`` [1]_ computes the same, without ``sample_weight``,
    ``z_loss``, ``logit_scale``, ``softcap`` and ``normalizer``. The logits of samples that are ignored or
    of weight 0 are not computed.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear_cross_entropy.html
    .. [2] E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", 2024.
           https://arxiv.org/abs/2411.09009

    Examples
    --------
    >>> import numpy as np, fastce
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> fastce.linear_cross_entropy(hidden, weight, [0, 1]).round(4)
    np.float64(0.8103)
    >>> fastce.cross_entropy(hidden @ weight.T, [0, 1]).round(4)
    np.float64(0.8103)

    Weights of tokens, and logits divided by a temperature of 2:

    >>> fastce.linear_cross_entropy(hidden, weight, [0, 1], sample_weight=[1.0, 0.5], logit_scale=0.5).round(4)
    np.float64(0.926)
    """
    call = LinearLossCall(
        hidden,
        weight,
        target,
        bias=bias,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        max_bytes=max_bytes,
    )
    return call.solve()


@overload
def linear_cross_entropy_and_grad(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduced = "mean",
    **options: Unpack[LinearGradOptions],
) -> LinearCrossEntropy[Scalar]: ...
@overload
def linear_cross_entropy_and_grad(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Literal["none"],
    **options: Unpack[LinearGradOptions],
) -> LinearCrossEntropy[FloatArray]: ...
@overload
def linear_cross_entropy_and_grad(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    reduction: Reduction,
    **options: Unpack[LinearGradOptions],
) -> LinearCrossEntropy[Scalar | FloatArray]: ...
def linear_cross_entropy_and_grad(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    bias: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    sample_weight: npt.ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    max_bytes: int = MAX_BYTES,
    grad_output: npt.ArrayLike | None = None,
    d_hidden_out: Array | None = None,
    d_weight_out: Array | None = None,
    d_bias_out: Array | None = None,
    accumulate: bool = False,
) -> LinearCrossEntropy[Scalar | FloatArray]:
    r"""Compute the cross-entropy of a linear layer's output and the gradients of its arguments.

    With x and t of `linear_cross_entropy`, :math:`p = \operatorname{softmax}(x_i)`,
    :math:`a_i = \sum_j t_{ij}`, the denominator D of the reduction (1 for "sum" and "none") and the
    upstream gradient g,

    .. math::
        G_{ij} = \frac{g_i u_i s}{D}
            \left(p_{ij} \left(a_i + 2 z \operatorname{lse}(x_i)\right) - t_{ij}\right)
            \left(1 - \frac{x_{ij}^2}{c^2}\right), \\
        \frac{\partial}{\partial h} = G W, \qquad
        \frac{\partial}{\partial W} = G^\top h, \qquad
        \frac{\partial}{\partial b} = \sum_i G_i

    without the last factor of G if ``softcap`` is None.

    Parameters
    ----------
    hidden, weight, target, bias, class_weight, sample_weight, ignore_index, label_smoothing
        As in `linear_cross_entropy`.
    z_loss, logit_scale, softcap, reduction, normalizer, max_bytes
        As in `linear_cross_entropy`.
    grad_output : scalar or array_like in the shape of the loss, optional
        Derivative of the final objective with respect to this loss, 1 by default.
    d_hidden_out, d_weight_out, d_bias_out : ndarray, optional
        Where to write the gradients, in the shapes of ``hidden``, ``weight`` and ``bias`` and in the
        dtypes of the results, or float32 where these have 16 bits. ``d_hidden_out`` may be
        ``hidden`` itself, which is then overwritten.
    accumulate : bool, default False
        Add the gradients to the values in these arrays, instead of overwriting them.

    Returns
    -------
    LinearCrossEntropy
        A named tuple ``(loss, d_hidden, d_weight, d_bias)``: the loss as from
        `linear_cross_entropy`, and the gradients in the shapes and dtypes of ``hidden``, ``weight``
        and ``bias`` (float64 for integers). ``d_bias`` is None without a bias. Samples that are
        ignored or of weight 0 have gradient 0. By-products are attributes: ``lse``, the log-sum-exp
        of every sample, and ``z_loss``, the part of the squared log-sum-exp in the loss.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `linear_cross_entropy`, and for an array that a gradient cannot be written to. Nothing has
        been written then.

    See Also
    --------
    linear_cross_entropy, cross_entropy_and_grad

    Notes
    -----
    The call takes the memory of `linear_cross_entropy`, the gradients, and two numbers a sample. If
    ``d_weight`` has a 16-bit dtype and there are several chunks, it is summed in a float32 array of
    its shape. A new array of many megabytes costs time: pass the arrays for the gradients in a
    training loop. If an embedding shares the weights, pass the array of its gradient as
    ``d_weight_out``, with ``accumulate``.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> result = fastce.linear_cross_entropy_and_grad(hidden, weight, [0, 1])
    >>> result.loss.round(4)
    np.float64(0.8103)
    >>> result.d_weight.round(4)
    array([[-0.2888,  0.0634],
           [ 0.0777, -0.5317],
           [ 0.2112,  0.4683]])
    >>> result.d_bias is None
    True
    """
    call = LinearLossCall(
        hidden,
        weight,
        target,
        bias=bias,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=logit_scale,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        max_bytes=max_bytes,
    )
    accumulate = bool(accumulate)
    gradients = call.gradient_arrays(d_hidden_out, d_weight_out, d_bias_out, accumulate=accumulate)
    result = LinearCrossEntropy(call.solve(grad_output, gradients, accumulate=accumulate), *gradients)
    result._by_products = call.by_products
    return result
