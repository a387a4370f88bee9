"""Losses and activations for MyGrad: operations on its tensors, computed by fastce.

`softmax_crossentropy`, `softmax`, `logsoftmax` and `softmax_focal_loss` take the place of the functions of these names
in ``mygrad.nnet``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import fastce
from fastce.interop.extras import extra
from fastce.interop.gradients import Array, Gradients

with extra("mygrad", "mygrad"):
    from mygrad import no_autodiff  # type: ignore[attr-defined]
    from mygrad.nnet import activations as _activations
    from mygrad.nnet import losses as _losses
    from mygrad.operation_base import Operation
    from mygrad.tensor_base import Tensor

__all__ = [
    "cross_entropy",
    "linear_cross_entropy",
    "logsoftmax",
    "logsumexp",
    "softmax",
    "softmax_crossentropy",
    "softmax_focal_loss",
]

# MyGrad's own, for arrays that fastce does not take; bound here, as users may put the ones below in their place
_own_softmax: Callable[..., Tensor] = _activations.softmax
_own_logsoftmax: Callable[..., Tensor] = _activations.logsoftmax
_own_crossentropy: Callable[..., Tensor] = _losses.softmax_crossentropy
_own_focal_loss: Callable[..., Tensor] = _losses.softmax_focal_loss
_apply: Callable[..., Tensor] = Tensor._op

# losses without and with their gradients
_CROSS_ENTROPY = fastce.cross_entropy, fastce.cross_entropy_and_grad
_FOCAL = fastce.focal_loss, fastce.focal_loss_and_grad
_LINEAR = fastce.linear_cross_entropy, fastce.linear_cross_entropy_and_grad

ArrayLike = npt.ArrayLike | Tensor
Losses = tuple[Callable[..., Any], Callable[..., Any]]
Axis = int | tuple[int, ...] | None
Reduction = Literal["mean", "sum", "none"]


def softmax_crossentropy(x: ArrayLike, y_true: ArrayLike, *, constant: bool | None = None) -> Tensor:
    r"""Compute the mean cross-entropy between scores and class indices.

    It takes the place of ``mygrad.nnet.losses.softmax_crossentropy``. For scores x and labels y,

    .. math:: L = -\frac{1}{N} \sum_i \log \operatorname{softmax}(x_i)_{y_i}

    Parameters
    ----------
    x : array_like or Tensor, shape (N, C)
        The scores of C classes for each of N samples.
    y_true : array_like or Tensor, shape (N,)
        Class indices of any integer dtype.
    constant : bool, optional
        If True, the result is a constant: nothing is propagated back.

    Returns
    -------
    Tensor, shape ()
        float64 for float64 and integer scores, else float32. NaN for N = 0.

    Raises
    ------
    IndexError
        If a label is outside 0 to C - 1. In MyGrad a negative label counts from the last class.
    TypeError
        If ``y_true`` holds no integers.
    ValueError
        If an argument has a wrong shape.

    Notes
    -----
    Loss and gradient come from one pass over the scores. For complex and long double scores, MyGrad's own function
    is called.

    Examples
    --------
    >>> import mygrad as mg
    >>> from fastce.interop.mygrad import softmax_crossentropy
    >>> x = mg.tensor([[2.0, 2.0, 2.0], [0.0, 0.0, 1e6]])
    >>> loss = softmax_crossentropy(x, [0, 2])
    >>> loss
    Tensor(0.54930614)
    >>> loss.backward()
    >>> x.grad.round(4)
    array([[-0.3333,  0.1667,  0.1667],
           [ 0.    ,  0.    ,  0.    ]])
    """
    if _is_foreign(x):
        return _own_crossentropy(x, y_true, constant=constant)
    options = {"target": _labels(x, y_true), "ignore_index": None}
    return _loss(_CROSS_ENTROPY, {"logits": x}, options, constant)


def softmax_focal_loss(
    scores: ArrayLike, targets: ArrayLike, *, alpha: float = 1, gamma: float = 0, constant: bool | None = None
) -> Tensor:
    r"""Compute the focal loss of every sample over the softmax of scores.

    It takes the place of ``mygrad.nnet.losses.softmax_focal_loss``. With :math:`p = \operatorname{softmax}(x_i)` and
    labels y,

    .. math:: \ell_i = -\alpha \left(1 - p_{y_i}\right)^\gamma \log p_{y_i}

    Parameters
    ----------
    scores : array_like or Tensor, shape (N, C)
        The scores x of C classes for each of N samples.
    targets : array_like or Tensor, shape (N,)
        Class indices of any integer dtype.
    alpha : float, default 1
        Factor of the loss.
    gamma : float, default 0
        At least 0. The greater it is, the less weight confident samples have.
    constant : bool, optional
        If True, the result is a constant: nothing is propagated back.

    Returns
    -------
    Tensor, shape (N,)
        float64 for float64 and integer scores, else float32.

    Raises
    ------
    IndexError
        If a label is outside 0 to C - 1. In MyGrad a negative label counts from the last class.
    TypeError
        If ``targets`` holds no integers, or ``alpha`` is no number.
    ValueError
        If an argument has a wrong shape, or ``gamma`` is no number or negative.

    Examples
    --------
    >>> from fastce.interop.mygrad import softmax_focal_loss
    >>> softmax_focal_loss([[1.0, 2.0, 3.0], [5.0, 0.0, 0.0]], [0, 0], gamma=2).data.round(6)
    array([1.993605e+00, 2.000000e-06])
    """
    if not isinstance(gamma, Real) or gamma < 0:
        raise ValueError(f"gamma must be a number of at least 0, got {gamma}")
    if _is_foreign(scores):
        return _own_focal_loss(scores, targets, alpha=alpha, gamma=gamma, constant=constant)
    factor = _in_range(float(alpha))
    options = {
        "target": _labels(scores, targets),
        "ignore_index": None,
        "gamma": _in_range(float(gamma)),
        "alpha": None if factor == 1.0 else factor,
        "reduction": "none",
    }
    return _loss(_FOCAL, {"logits": scores}, options, constant)


def cross_entropy(
    x: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    where: ArrayLike | None = None,
    constant: bool | None = None,
) -> Tensor:
    """Compute the cross-entropy between logits and class indices or probabilities: `fastce.cross_entropy`.

    Parameters
    ----------
    x : array_like or Tensor, shape (..., C, ...)
        The logits.
    target : array_like or Tensor
        Class indices, one-hot or not, or class probabilities, as in `fastce.cross_entropy`.
    axis, weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As in `fastce.cross_entropy`.
    reduction, normalizer, where
        As in `fastce.cross_entropy`.
    constant : bool, optional
        If True, the result is a constant: nothing is propagated back.

    Returns
    -------
    Tensor
        The loss: of shape (), or with ``reduction="none"`` in the shape of ``x`` without the class axis.

    Raises
    ------
    IndexError, TypeError, ValueError, numpy.exceptions.AxisError
        As `fastce.cross_entropy`.

    Notes
    -----
    The gradient goes to ``x`` alone. Targets and weights count as constants.

    Examples
    --------
    >>> import mygrad as mg
    >>> from fastce.interop.mygrad import cross_entropy
    >>> x = mg.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])
    >>> cross_entropy(x, [0, -100], label_smoothing=0.1).backward()
    >>> x.grad.round(4)
    array([[-0.8433,  0.2114,  0.6319],
           [ 0.    ,  0.    ,  0.    ]])
    """
    options = {
        "target": _data(target),
        "axis": axis,
        "weight": _data(weight),
        "sample_weight": _data(sample_weight),
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "logit_scale": logit_scale,
        "softcap": softcap,
        "reduction": reduction,
        "normalizer": normalizer,
        "where": _data(where),
    }
    return _loss(_CROSS_ENTROPY, {"logits": x}, options, constant)


def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    target: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    class_weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    reduction: Reduction = "mean",
    normalizer: float | None = None,
    max_bytes: int | None = None,
    constant: bool | None = None,
) -> Tensor:
    """Compute the cross-entropy of a linear layer's output, a chunk at a time: `fastce.linear_cross_entropy`.

    Parameters
    ----------
    hidden : array_like or Tensor, shape (..., D)
        The input of the layer.
    weight : array_like or Tensor, shape (V, D)
        The weights of the layer.
    target : array_like or Tensor, shape (...)
        Class indices, as in `fastce.linear_cross_entropy`.
    bias : array_like or Tensor, shape (V,), optional
        The biases of the layer.
    class_weight, sample_weight, ignore_index, label_smoothing, z_loss, logit_scale, softcap
        As in `fastce.linear_cross_entropy`.
    reduction, normalizer, max_bytes
        As in `fastce.linear_cross_entropy`; None for its default of ``max_bytes``.
    constant : bool, optional
        If True, the result is a constant: nothing is propagated back.

    Returns
    -------
    Tensor
        The loss: of shape (), or with ``reduction="none"`` in the shape of ``target``.

    Raises
    ------
    IndexError, TypeError, ValueError
        As `fastce.linear_cross_entropy`.

    Notes
    -----
    The gradients go to ``hidden``, ``weight`` and ``bias``.

    Examples
    --------
    >>> import mygrad as mg
    >>> from fastce.interop.mygrad import linear_cross_entropy
    >>> hidden, weight, bias = mg.tensor([[1.0, 0.0]]), mg.tensor([[1.0, 0.0], [0.0, 1.0]]), mg.zeros(2, float)
    >>> linear_cross_entropy(hidden, weight, [1], bias).backward()
    >>> bias.grad.round(4)
    array([ 0.7311, -0.7311])
    """
    options = {
        "target": _data(target),
        "class_weight": _data(class_weight),
        "sample_weight": _data(sample_weight),
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "logit_scale": logit_scale,
        "softcap": softcap,
        "reduction": reduction,
        "normalizer": normalizer,
    }
    if max_bytes is not None:
        options["max_bytes"] = max_bytes
    variables = {"hidden": hidden, "weight": weight}
    if bias is not None:
        variables["bias"] = bias
    return _loss(_LINEAR, variables, options, constant)


def softmax(x: ArrayLike, axis: Axis = -1, *, constant: bool | None = None) -> Tensor:
    r"""Compute the softmax; it takes the place of ``mygrad.nnet.activations.softmax``.

    .. math:: \operatorname{softmax}(x)_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x : array_like or Tensor
        The scores.
    axis : int, tuple of int or None, default -1
        The axes of the classes, all axes for None. A scalar has one class, whatever the axis.
    constant : bool, optional
        If True, the result is a constant: nothing is propagated back.

    Returns
    -------
    Tensor, shape of ``x``
        In the dtype of ``x`` (float64 for integers).

    Raises
    ------
    TypeError
        If ``x`` holds no numbers.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    Examples
    --------
    >>> from fastce.interop.mygrad import softmax
    >>> softmax([[1.0, 1.0], [3.0, 3.0]], axis=(0, 1)).data.round(4)
    array([[0.0596, 0.0596],
           [0.4404, 0.4404]])
    """
    if _is_foreign(x):
        return _own_softmax(x, axis, constant=constant)
    return _apply(_Softmax, x, op_args=(axis,), constant=constant)


def logsoftmax(x: ArrayLike, axis: Axis = -1, *, constant: bool | None = None) -> Tensor:
    r"""Compute the logarithm of the softmax; it takes the place of ``mygrad.nnet.activations.logsoftmax``.

    .. math:: \log \operatorname{softmax}(x)_j = x_j - \log \sum_k e^{x_k}

    Parameters
    ----------
    x, axis, constant
        As in `softmax`.

    Returns
    -------
    Tensor, shape of ``x``
        In the dtype of ``x`` (float64 for integers).

    Raises
    ------
    TypeError, numpy.exceptions.AxisError
        As `softmax`.

    Examples
    --------
    >>> from fastce.interop.mygrad import logsoftmax
    >>> logsoftmax([0.0, 0.0]).data.round(4)
    array([-0.6931, -0.6931])
    """
    if _is_foreign(x):
        return _own_logsoftmax(x, axis, constant=constant)
    return _apply(_LogSoftmax, x, op_args=(axis,), constant=constant)


def logsumexp(x: ArrayLike, axis: Axis = None, keepdims: bool = False, *, constant: bool | None = None) -> Tensor:
    r"""Compute the logarithm of the sum of exponentials, over all axes by default.

    .. math:: \operatorname{lse}(x) = \log \sum_j e^{x_j}

    Parameters
    ----------
    x : array_like or Tensor
        Real numbers.
    axis : int, tuple of int or None, default None
        The axes to sum over, all axes for None.
    keepdims : bool, default False
        Keep these axes, with length 1.
    constant : bool, optional
        If True, the result is a constant: nothing is propagated back.

    Returns
    -------
    Tensor
        In the dtype of ``x`` (float64 for integers).

    Raises
    ------
    TypeError
        If ``x`` holds no real numbers.
    ValueError
        If ``x`` is a scalar and ``axis`` is not None.
    numpy.exceptions.AxisError
        If ``x`` has no such axis.

    Examples
    --------
    >>> from fastce.interop.mygrad import logsumexp
    >>> logsumexp([[1000.0, 1000.0], [0.0, 0.0]], axis=1).data.round(4)
    array([1.0006931e+03, 6.9310000e-01])
    """
    return _apply(_LogSumExp, x, op_args=(axis, keepdims), constant=constant)


# --- operations ---------------------------------------------------------------------------------


class _Loss(Operation):
    """A loss of fastce; with its gradients, if they will be asked for."""

    def __call__(  # type: ignore[override]
        self,
        *variables: Tensor,
        names: tuple[str, ...],
        functions: Losses,
        options: Mapping[str, Any],
        is_constant: bool,
    ) -> Any:
        self.variables = variables
        arrays = {name: variable.data for name, variable in zip(names, variables, strict=True)}
        if is_constant or not no_autodiff.state or all(variable.constant for variable in variables):
            return functions[0](**arrays, **options)
        self.gradients = Gradients(*functions, arrays, options)
        return self.gradients.loss

    def backward_var(self, grad: Array, index: int, **_: Any) -> Array:
        return self.gradients.take(index, grad)


def _loss(
    functions: Losses,
    variables: Mapping[str, ArrayLike],
    options: Mapping[str, Any],
    constant: bool | None,
) -> Tensor:
    """Return a loss as a tensor, given fastce's functions without and with gradients."""
    settings = {"names": tuple(variables), "functions": functions, "options": options, "is_constant": constant is True}
    return _apply(_Loss, *variables.values(), op_kwargs=settings, constant=constant)


class _Softmax(Operation):
    function: Callable[..., Array] = staticmethod(fastce.softmax)
    vjp: Callable[..., Array] = staticmethod(fastce.softmax_vjp)

    def __call__(self, x: Tensor, axis: Axis) -> Array:  # type: ignore[override]
        self.variables = (x,)
        self.axis = axis
        self.result = self.function(x.data, axis)
        return self.result

    def backward_var(self, grad: Array, index: int, **_: Any) -> Array:
        return self.vjp(grad, self.result, self.axis)


class _LogSoftmax(_Softmax):
    function = staticmethod(fastce.log_softmax)
    vjp = staticmethod(fastce.log_softmax_vjp)


class _LogSumExp(Operation):
    def __call__(self, x: Tensor, axis: Axis, keepdims: bool) -> Any:  # type: ignore[override]
        self.variables = (x,)
        self.axis = axis
        self.result = fastce.logsumexp(x.data, axis, keepdims=keepdims)
        return self.result

    def backward_var(self, grad: Array, index: int, **_: Any) -> Array:
        return fastce.logsumexp_vjp(grad, self.variables[0].data, self.result, self.axis)


# --- arguments ----------------------------------------------------------------------------------


def _data(value: Any) -> Any:
    """Return the array of a tensor, and all else as it is."""
    return value.data if isinstance(value, Tensor) else value


def _is_foreign(x: ArrayLike) -> bool:
    """Tell whether an array is MyGrad's to compute with: complex, long double, of another byte order, or a scalar."""
    array = np.asarray(_data(x))
    dtype = array.dtype
    return dtype.kind == "c" or (dtype.kind == "f" and dtype.itemsize > 8) or not (dtype.isnative and array.ndim)


def _in_range(option: float) -> float:
    """Return an option, or 0 for one so small that fastce refuses it beside float32."""
    return option if abs(option) >= np.finfo(np.float32).tiny else 0.0


def _labels(x: ArrayLike, y_true: ArrayLike) -> Array:
    """Return class indices of scores (N, C), or raise as MyGrad does."""
    shape, labels = np.shape(_data(x)), np.asarray(_data(y_true))
    if len(shape) != 2:
        raise ValueError(f"the scores must have shape (N, C), got {shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"the labels must be integers, got dtype {labels.dtype}")
    if labels.shape != shape[:1]:
        raise ValueError(f"the labels must have shape {shape[:1]}, got {labels.shape}")
    return labels
