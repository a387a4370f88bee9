"""The float64 oracle that every result is compared with before it is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.cases import LAYER, Op
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
        return
    op = Op.LOSS_GRAD if op == Op.INPLACE else op
    loss, array = {Op.LOSS: lambda r: (r, None), Op.LOSS_GRAD: lambda r: r}.get(op, lambda r: (None, r))(result)
    if loss is not None:
        want = _expected_loss(inputs)
        _require(op, abs(float(loss) - want), 100 * _epsilon(inputs.logits.dtype) * (1 + abs(want)))
    if array is not None:
        _check_array(op, inputs, to_numpy(array))


def _check_array(op: str, inputs: Inputs, array: np.ndarray) -> None:
    shape = inputs.target.shape if op == Op.LSE else inputs.logits.shape
    if array.shape != shape or array.dtype != inputs.logits.dtype:
        raise ArithmeticError(f"{op}: {array.dtype}{array.shape} instead of {inputs.logits.dtype}{shape}")
    rows_of_result = array.reshape(-1) if op == Op.LSE else inputs.flat(array)
    scale = {Op.LOSS_GRAD: 1 / inputs.target.size, Op.SOFTMAX: 0.0, Op.LSE_VJP: 0.0}.get(op, 1.0)
    smallest = _smallest(inputs.logits.dtype)  # below it digits get lost
    for rows in row_blocks(inputs.flat(inputs.logits)):
        if op in (Op.SOFTMAX_VJP, Op.LOG_SOFTMAX_VJP):
            want, scale = _expected_vjp(op, inputs, rows)
        else:
            want = _expected_rows(op, inputs, rows)
        tolerance = 100 * _epsilon(inputs.logits.dtype) * (scale + smallest + np.abs(want))
        _require(op, np.abs(rows_of_result[rows] - want), tolerance)


def _expected_rows(op: str, inputs: Inputs, rows: slice) -> np.ndarray:
    """Return some rows of the array an operation returns."""
    x, lse = inputs.flat(inputs.logits)[rows].astype(np.float64), inputs.lse[rows]
    if op == Op.LSE:
        return lse
    x -= lse[:, None]
    if op == Op.LOG_SOFTMAX:
        return x
    p = np.exp(x, out=x)
    if op == Op.LOSS_GRAD:
        p[np.arange(len(p)), inputs.target.reshape(-1)[rows]] -= 1
    if op in (Op.LSE_VJP, Op.LOSS_GRAD):
        p /= inputs.target.size
    return p


def _expected_vjp(op: str, inputs: Inputs, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Return some rows of a gradient that is a difference, and the sum of the magnitudes of its terms."""
    g = inputs.flat(inputs.logits)[rows].astype(np.float64)
    p = np.exp(g - inputs.lse[rows, None])
    if op == Op.SOFTMAX_VJP:
        dot, size = (np.sum(p * a, axis=1, keepdims=True) for a in (g, abs(g)))
        return p * (g - dot), p * (abs(g) + size)
    total, size = (np.sum(a, axis=1, keepdims=True) for a in (g, abs(g)))
    return g - p * total, abs(g) + p * size


def _expected_loss(inputs: Inputs) -> float:
    target = inputs.target.reshape(-1)
    logit_at_label = inputs.flat(inputs.logits)[np.arange(len(target)), target].astype(np.float64)
    return float((inputs.lse - logit_at_label).mean())


def _check_layer(op: str, inputs: LayerInputs, result: Any) -> None:
    """Check the loss, and each gradient times a vector of random signs, which no mistake leaves as it was.

    So the oracle needs one large matrix product instead of three, a block of rows at a time.
    """
    loss, *gradients = result if isinstance(result, tuple) else (result,)
    hidden, weight, target = inputs.arrays
    signs = np.random.default_rng(1).choice((-1.0, 1.0), hidden.shape[1])
    hidden_signs, weight_signs = hidden @ signs, weight @ signs
    total, d_hidden = 0.0, np.empty((2, len(hidden)))
    d_weight = np.zeros((2, len(weight)))
    for rows in row_blocks(np.broadcast_to(0, (len(hidden), len(weight))), 1 << 24):
        x = (hidden[rows] @ weight.T).astype(np.float64)
        at_label = np.arange(len(x)), target[rows]
        logit_at_label = x[at_label]
        row_max = x.max(axis=1, keepdims=True)
        p = np.exp(x - row_max, out=x)
        row_sum = p.sum(axis=1, keepdims=True)
        p /= row_sum
        total += float((np.log(row_sum) + row_max)[:, 0].sum() - logit_at_label.sum())
        p[at_label] -= 1
        for g, sums in ((p, 0), (np.abs(p), 1)):  # the value, and a bound of its terms
            d_hidden[sums, rows] = g @ (abs(weight_signs) if sums else weight_signs)
            d_weight[sums] += (abs(hidden_signs[rows]) if sums else hidden_signs[rows]) @ g
    want = total / len(hidden)
    _require(op, abs(float(loss) - want), 1e-4 * (1 + abs(want)))
    for gradient, (value, size) in zip(gradients, (d_hidden, d_weight) if op == Op.LAYER_GRADS else (), strict=True):
        error = np.abs(np.asarray(gradient) @ signs - value / len(hidden))
        _require(op, error, 1e-3 * (size / len(hidden) + 1e-6))


def _epsilon(dtype: np.dtype) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def _smallest(dtype: np.dtype) -> float:
    """Return the smallest normal number, that of float32 for bfloat16 too."""
    return float(np.finfo(np.float32 if dtype.name == "bfloat16" else dtype).tiny)


def _require(op: str, error: Any, tolerance: Any) -> None:
    if not np.all(error <= tolerance):  # a NaN fails too
        raise ArithmeticError(f"{op}: error up to {np.max(error / tolerance):.3g} times what is allowed")
