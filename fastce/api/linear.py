"""Cross-entropy of a linear layer's output, without the output: the layer and its loss in one."""

from typing import Any, NamedTuple

import numpy.typing as npt

from fastce.core.layout import Array
from fastce.core.validation import Reduction
from fastce.linear.arguments import LinearLossCall

MAX_BYTES = 256_000_000  # measured: half takes up to 5 % longer, twice saves as much


class LinearCrossEntropy(NamedTuple):
    """A loss and its gradients with respect to the arguments of the last layer.

    Attributes
    ----------
    loss : scalar or ndarray
        As `linear_cross_entropy` returns it.
    d_hidden, d_weight : ndarray
        In the shape of ``hidden`` and of ``weight``.
    d_bias : ndarray or None
        In the shape of ``bias``; None where there is none.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> loss, *gradients = fastce.linear_cross_entropy_and_grad(np.eye(2), np.eye(2), [0, 1], bias=[0.0, 0.0])
    >>> [gradient.shape for gradient in gradients]
    [(2, 2), (2, 2), (2,)]
    """

    loss: Any
    d_hidden: Array
    d_weight: Array
    d_bias: Array | None


def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    bias: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    r"""Compute the cross-entropy of a linear layer's output without holding that output.

    With hidden states :math:`h`, weights :math:`W`, biases :math:`b`, cap :math:`c`, class
    weights :math:`w` and label smoothing :math:`\varepsilon` over V classes,

    .. math::
        x_{ij} = c \tanh\!\left(\frac{h_i \cdot W_j + b_j}{c}\right), \qquad
        t_{ij} = w_j \left((1 - \varepsilon)\, [j = y_i] + \frac{\varepsilon}{V}\right), \\
        \ell_i = \sum_j t_{ij} \left(\operatorname{lse}(x_i) - x_{ij}\right)
            + z \operatorname{lse}(x_i)^2

    without the cap where ``softcap`` is None.

    Parameters
    ----------
    hidden : array_like, shape (..., D)
        What goes into the layer, one row a sample.
    weight : array_like, shape (V, D)
        The layer's weights, one row a class. A layer stored as (D, V) is given as its ``.T``.
    target : array_like, shape (...)
        Class indices of any integer dtype, in the shape of ``hidden`` without its last axis; or,
        of shape (..., V), one-hot integers or booleans.
    bias : array_like, shape (V,), optional
        The layer's biases.
    class_weight : array_like, shape (V,), optional
        One weight per class.
    ignore_index : int, default -100
        Rows with this class index count for nothing; they are left out of all products.
    label_smoothing : float, default 0.0
        From 0 to 1: how much of each target is spread evenly over all classes.
    z_loss : float, default 0.0
        The factor z, which class weights do not scale.
    softcap : float, optional
        The cap c.
    reduction : {"mean", "sum", "none"}, default "mean"
        For "mean", the sum is divided by the sum of the class weights of the kept samples.
    normalizer : float, optional
        What "mean" divides by instead. Nothing but ignored samples then gives 0, not NaN.
    max_bytes : int, default 256,000,000
        How much memory a chunk of logits may take. See the notes.

    Returns
    -------
    scalar, or ndarray in the shape of ``target`` for "none"
        float64 where any of ``hidden``, ``weight`` and ``bias`` is float64 or integer, else float32.

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
    cross_entropy : from logits that are there already.

    Notes
    -----
    Rows are taken in chunks: a product gives a chunk of logits, the kernel of `cross_entropy`
    reduces it. As many rows make a chunk as ``max_bytes`` allows. Every chunk reads all
    weights, and adds to all their gradients, so that chunks of few rows take longer: where
    fewer than 64 rows (256 without gradients) of all classes fit, chunks of more rows are cut
    into tiles of some classes instead, and with gradients their logits are computed twice.
    The memory is at most ``max_bytes`` of logits, or 64 rows of 256 classes, and a few blocks
    of 4 MiB.

    float16 and bfloat16 (of ml_dtypes) are computed in float32, a block of weights at a time,
    as are arrays that BLAS does not take (strided, of another byte order) in their own dtype.

    The products are those of NumPy's BLAS, whose last bits may depend on the number of its
    threads and on the size of a chunk. From logits to losses, and to the gradient with respect to
    the logits, the bits are the same for any number of threads.

    ``torch.nn.functional.linear_cross_entropy`` [1]_ is the same without ``z_loss``,
    ``softcap`` and ``normalizer``.

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
    """
    options = class_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, normalizer, max_bytes
    return LinearLossCall(hidden, weight, target, bias, *options).solve(None, None)


def linear_cross_entropy_and_grad(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    bias: npt.ArrayLike | None = None,
    class_weight: npt.ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    max_bytes: int = MAX_BYTES,
    grad_output: npt.ArrayLike | None = None,
    d_hidden_out: Array | None = None,
    d_weight_out: Array | None = None,
    d_bias_out: Array | None = None,
    accumulate: bool = False,
) -> LinearCrossEntropy:
    r"""Compute the cross-entropy of a linear layer's output and the gradients of its arguments.

    With x and t of `linear_cross_entropy`, :math:`p = \operatorname{softmax}(x_i)`,
    :math:`a_i = \sum_j t_{ij}`, the denominator D of the reduction (1 for "sum" and "none") and the
    upstream gradient g,

    .. math::
        G_{ij} = \frac{g_i}{D}
            \left(p_{ij} \left(a_i + 2 z \operatorname{lse}(x_i)\right) - t_{ij}\right)
            \left(1 - \frac{x_{ij}^2}{c^2}\right), \\
        \frac{\partial}{\partial h} = G W, \qquad
        \frac{\partial}{\partial W} = G^\top h, \qquad
        \frac{\partial}{\partial b} = \sum_i G_i

    without the last factor of G where ``softcap`` is None.

    Parameters
    ----------
    hidden, weight, target, bias, class_weight, ignore_index, label_smoothing
        As in `linear_cross_entropy`.
    z_loss, softcap, reduction, normalizer, max_bytes
        As in `linear_cross_entropy`.
    grad_output : scalar or array_like in the shape of the loss, optional
        The gradient of whatever the loss goes into with respect to the loss, 1 by default.
    d_hidden_out, d_weight_out, d_bias_out : ndarray, optional
        Where to write the gradients, in the shape of ``hidden``, ``weight`` and ``bias`` and in
        the dtype of the result. ``d_hidden_out`` may be ``hidden`` itself, which is then
        overwritten. In a training loop they save the time that fresh memory costs.
    accumulate : bool, default False
        Whether to add to what is in the given arrays instead of writing over it.

    Returns
    -------
    LinearCrossEntropy
        A named tuple ``(loss, d_hidden, d_weight, d_bias)``: the loss as from
        `linear_cross_entropy`, the gradients in the shapes and dtypes of ``hidden``, ``weight``
        and ``bias`` (float64 for integers); ``d_bias`` is None where there is no bias. Ignored
        samples have gradient 0.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `linear_cross_entropy`, and for arrays that cannot take a gradient, before anything is written.

    See Also
    --------
    linear_cross_entropy, cross_entropy_and_grad

    Notes
    -----
    Beside the gradients, the memory is that of `linear_cross_entropy`. ``d_weight`` of 16-bit
    floats is summed in float32, which takes an array more, of the shape of ``weight``, unless
    there is but one chunk. Where weights are shared with an embedding, its gradients
    can be summed in one array: give it as ``d_weight_out``, with ``accumulate``.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> hidden = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> weight = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> found = fastce.linear_cross_entropy_and_grad(hidden, weight, [0, 1])
    >>> found.loss.round(4)
    np.float64(0.8103)
    >>> found.d_weight.round(4)
    array([[-0.2888,  0.0634],
           [ 0.0777, -0.5317],
           [ 0.2112,  0.4683]])
    >>> found.d_bias is None
    True
    """
    options = class_weight, ignore_index, label_smoothing, z_loss, softcap, reduction, normalizer, max_bytes
    problem = LinearLossCall(hidden, weight, target, bias, *options)
    accumulate = bool(accumulate)
    gradients = problem.gradient_arrays(d_hidden_out, d_weight_out, d_bias_out, accumulate)
    loss = problem.solve(grad_output, gradients, accumulate)
    return LinearCrossEntropy(loss, *gradients)
