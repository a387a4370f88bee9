"""ONNX Runtime: models of one operator, which read and write arrays of NumPy in place.

``InferenceSession.run`` takes NumPy's arrays as they are, too, but copies its results.
"""

import os
from typing import Any

import numpy as np
import onnxruntime as ort

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs

# numbers of the format
IR_VERSION, OPSET = 8, 13
ELEMENTS = {"float32": 1, "float64": 11}
INT, INTS = 2, 7


def _field(number: int, *values: int | bytes) -> bytes:
    """Encode a field of a protobuf message: integers, or bytes, which may be a message again."""
    result = b""
    for value in values:
        if isinstance(value, int):
            result += _varint(number << 3) + _varint(value)
        else:
            result += _varint(number << 3 | 2) + _varint(len(value)) + value
    return result


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _array(name: bytes, array: np.ndarray) -> bytes:
    """Encode a ValueInfoProto."""
    shape = b"".join(_field(1, _field(1, size)) for size in array.shape)
    tensor = _field(1, ELEMENTS[array.dtype.name]) + _field(2, shape)
    return _field(1, name) + _field(2, _field(1, tensor))


def model(operator: str, x: np.ndarray, out: np.ndarray, attributes: dict[str, int | list[int]]) -> bytes:
    """Encode a ModelProto that applies an operator to ``x``, without the package onnx."""
    node = _field(1, b"x") + _field(2, b"y") + _field(4, operator.encode())
    for name, value in attributes.items():
        encoded = _field(3, value) + _field(20, INT) if isinstance(value, int) else _field(8, *value) + _field(20, INTS)
        node += _field(5, _field(1, name.encode()) + encoded)
    graph = _field(1, node) + _field(2, b"graph") + _field(11, _array(b"x", x)) + _field(12, _array(b"y", out))
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, OPSET))


def bound(operator: str, x: np.ndarray, out: np.ndarray, **attributes: int | list[int]) -> Call:
    """Return a call that applies an operator to ``x`` and writes to ``out``."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", 0))  # it reads no variable itself; 0: all
    session = ort.InferenceSession(model(operator, x, out, attributes), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, x.dtype, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, out.dtype, out.shape, out.ctypes.data)

    def call() -> np.ndarray:
        session.run_with_iobinding(binding)
        return out

    return call


def _elementwise(operator: str) -> Any:
    return lambda i: bound(operator, i.logits, i.out, axis=1)


def _logsumexp(i: Inputs) -> Call:
    return bound("ReduceLogSumExp", i.logits, i.out_rows, axes=[1], keepdims=0)


CALLS: Calls = {
    Op.SOFTMAX: _elementwise("Softmax"),
    Op.LOG_SOFTMAX: _elementwise("LogSoftmax"),
    Op.LSE: _logsumexp,
}
