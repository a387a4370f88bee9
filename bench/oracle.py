"""The float64 oracle that every result is compared with before it is timed."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import LAYER, Op
from bench.formulas import log_softmax_vjp, loss_and_grad, softmax, softmax_vjp
from bench.inputs import Inputs, LayerInputs, row_blocks


def check(op: str, inputs: Any, result: Any, to_numpy: Callable[[Any], np.ndarray] = np.asarray) -> None:
    """Compare a contender's result with the oracle.

    Raises
    ------
    ArithmeticError
        With the operation and the largest error, in units of the tolerance.
    """
    if op in LAYER:
        _check_layer(op, inputs, result)
    elif op == Op.LOSS:
        _check_loss(inputs, result)
    elif op in (Op.LOSS_GRAD, Op.INPLACE):
        loss, gradient = result
        _check_loss(inputs, loss)
        _check_array(Op.LOSS_GRAD, inputs, to_numpy(gradient))
    else:
        _check_array(op, inputs, to_numpy(result))


def _check_loss(inputs: Inputs, loss: Any) -> None:
    target = inputs.target.reshape(-1)
    logit_at_label = inputs.flat(inputs.logits)[np.arange(len(target)), target].astype(np.float64)
    want = float((inputs.lse - logit_at_label).mean())
    _require(Op.LOSS, abs(float(loss) - want), 100 * _epsilon(inputs.logits.dtype) * (1 + abs(want)))


def _check_array(op: str, inputs: Inputs, array: np.ndarray) -> None:
    logits = inputs.logits
    shape = inputs.target.shape if op == Op.LSE else logits.shape
    if array.shape != shape or array.dtype != logits.dtype:
        raise ArithmeticError(f"{op}: {array.dtype}{array.shape} instead of {logits.dtype}{shape}")
    rows_of_result = array.reshape(-1) if op == Op.LSE else inputs.flat(array)
    # below the smallest normal number, that of float32 for bfloat16, digits get lost
    smallest = float(np.finfo(np.float32 if logits.dtype.name == "bfloat16" else logits.dtype).tiny)
    for rows in row_blocks(inputs.flat(logits)):
        want, size = _expected(op, inputs, rows)
        tolerance = 100 * _epsilon(logits.dtype) * (size + smallest + np.abs(want))
        _require(op, np.abs(rows_of_result[rows] - want), tolerance)


def _expected(op: str, inputs: Inputs, rows: slice) -> tuple[np.ndarray, Any]:
    """Return some rows of the array an operation returns, and the size of its terms, whose rounding it inherits."""
    x, lse = inputs.flat(inputs.logits)[rows].astype(np.float64), inputs.lse[rows]
    count, p = inputs.target.size, np.exp(x - lse[:, None])
    if op == Op.LSE:
        return lse, 1.0
    if op == Op.LOG_SOFTMAX:
        return x - lse[:, None], 1.0
    if op == Op.SOFTMAX:
        return p, 0.0
    if op == Op.LSE_VJP:
        return p / count, 0.0
    if op == Op.LOSS_GRAD:
        p[np.arange(len(p)), inputs.target.reshape(-1)[rows]] -= 1
        return p / count, 1 / count
    # backward passes, whose upstream gradient is x
    if op == Op.SOFTMAX_VJP:
        return softmax_vjp(x, p), p * (abs(x) + (p * abs(x)).sum(axis=1, keepdims=True))
    return log_softmax_vjp(x, x - lse[:, None]), abs(x) + p * abs(x).sum(axis=1, keepdims=True)


def _check_layer(op: str, inputs: LayerInputs, result: Any) -> None:
    """Check the loss, and the product of each gradient with a vector of random signs.

    A wrong gradient changes that product, and the oracle needs one large matrix product instead of three.
    """
    loss, *gradients = result if isinstance(result, tuple) else (result,)
    hidden, weight, target = inputs
    signs = np.random.default_rng(1).choice((-1.0, 1.0), hidden.shape[1])
    hidden_signs, weight_signs = hidden @ signs, weight @ signs
    want, d_hidden, d_weight = 0.0, np.empty((2, len(hidden))), np.zeros((2, len(weight)))  # values, and their size
    for rows in row_blocks(np.broadcast_to(0, (len(hidden), len(weight))), 1 << 22):
        x = (hidden[rows] @ weight.T).astype(np.float64)
        mean_loss, d_logits = loss_and_grad(softmax, x, target[rows])
        share = len(x) / len(hidden)
        want += share * mean_loss
        d_logits *= share
        d_hidden[:, rows] = d_logits @ weight_signs, abs(d_logits) @ abs(weight_signs)
        d_weight += hidden_signs[rows] @ d_logits, abs(hidden_signs[rows]) @ abs(d_logits)
    _require(op, abs(float(loss) - want), 1e-4 * (1 + abs(want)))
    if op == Op.LAYER_GRADS:
        for gradient, (value, size) in zip(gradients, (d_hidden, d_weight), strict=True):
            _require(op, np.abs(np.asarray(gradient) @ signs - value), 1e-3 * (size + 1e-6 / len(hidden)))


def _epsilon(dtype: np.dtype) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def _require(op: str, error: Any, tolerance: Any) -> None:
    if not np.all(error <= tolerance):  # a NaN fails too
        raise ArithmeticError(f"{op}: error up to {np.max(error / tolerance):.3g} times what is allowed")
