"""TensorFlow: its own kernels, in graphs where there are several, and the same functions compiled by XLA."""

import os
from typing import Any

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs, calls

# TensorFlow has threads of its own, but imports scikit-learn, whose OpenMP would bind all of them to one core.
os.environ.pop("OMP_PROC_BIND", None)
import tensorflow as tf

FORWARD = {  # functions of one argument: a traced partial takes 0.2 ms more to bind its options
    Op.SOFTMAX: lambda x: tf.nn.softmax(x, axis=1),
    Op.LOG_SOFTMAX: lambda x: tf.nn.log_softmax(x, axis=1),
    Op.LSE: lambda x: tf.reduce_logsumexp(x, axis=1),
}


def cross_entropy(logits: Any, target: Any) -> Any:
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits))


def loss_and_grad(logits: Any, target: Any) -> tuple[Any, Any]:
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(logits, target)
    return loss, tape.gradient(loss, logits)


def _vjp(op: str, function: Any) -> Any:
    """Run the backward graph alone, which TensorFlow makes and compiles like the function's own."""

    def make(i: Inputs) -> Call:
        x, upstream = tf.constant(i.logits), tf.constant(i.arguments(op)[0])
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            result = function(x)
        return lambda: tape.gradient(result, x, upstream)

    return make


def _table(jit_compile: bool) -> Calls:
    """Return the calls of functions that are traced once for each shape, with or without XLA."""
    functions = {Op.LOSS: cross_entropy, Op.LOSS_GRAD: loss_and_grad, **FORWARD}
    options = {"autograph": False, "jit_compile": jit_compile}  # no Python control flow to convert
    traced = {op: tf.function(function, **options) for op, function in functions.items()}
    backward = {Op.SOFTMAX_VJP: Op.SOFTMAX, Op.LOG_SOFTMAX_VJP: Op.LOG_SOFTMAX, Op.LSE_VJP: Op.LSE}
    return {
        **calls(traced, tf.constant),
        **{op: _vjp(op, traced[forward]) for op, forward in backward.items()},
    }


ONE_KERNEL = {op: FORWARD[op] for op in (Op.SOFTMAX, Op.LOG_SOFTMAX)}  # faster without a graph around it
GRAPH = _table(jit_compile=False) | calls(ONE_KERNEL, tf.constant)
XLA = _table(jit_compile=True)
