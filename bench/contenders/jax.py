"""JAX: XLA compiles; it returns before the work is done, so each call waits for it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bench.cases import Op
from bench.inputs import Call, Calls, Inputs, LayerInputs

FORWARD = {
    Op.SOFTMAX: partial(jax.nn.softmax, axis=1),
    Op.LOG_SOFTMAX: partial(jax.nn.log_softmax, axis=1),
    Op.LSE: partial(jax.nn.logsumexp, axis=1),
}


def cross_entropy(logits: Any, target: Any) -> Any:
    """Return the mean loss, written as optax writes it: 2.5 times as fast as log_softmax."""
    logit_at_label = jnp.take_along_axis(logits, jnp.expand_dims(target, 1), axis=1).squeeze(1)
    return (FORWARD[Op.LSE](logits) - logit_at_label).mean()


def layer_loss(hidden: Any, weight: Any, target: Any) -> Any:
    return cross_entropy(hidden @ weight.T, target)


def waiting(function: Any, *arguments: Any) -> Call:
    """Compile; return a call that waits for the result."""
    compiled = jax.jit(function)
    arrays = tuple(jax.tree.map(jnp.asarray, arguments))
    return lambda: jax.block_until_ready(compiled(*arrays))


def _compiled(op: str, function: Any) -> Any:
    return lambda i: waiting(function, *i.arguments(op))


def _vjp(op: str, forward: str) -> Any:
    """Compile the second half of ``jax.vjp``."""

    def make(i: Inputs) -> Call:
        _, pull_back = jax.vjp(FORWARD[forward], jnp.asarray(i.logits))
        return waiting(lambda pull_back, g: pull_back(g)[0], pull_back, i.arguments(op)[0])

    return make


def _layer_grads(i: LayerInputs) -> Call:
    both = waiting(jax.value_and_grad(layer_loss, (0, 1)), *i)

    def call() -> tuple[Any, ...]:
        loss, gradients = both()
        return loss, *gradients

    return call


CALLS: Calls = {
    Op.LOSS: _compiled(Op.LOSS, cross_entropy),
    Op.LOSS_GRAD: _compiled(Op.LOSS_GRAD, jax.value_and_grad(cross_entropy)),
    **{op: _compiled(op, function) for op, function in FORWARD.items()},
    Op.SOFTMAX_VJP: _vjp(Op.SOFTMAX_VJP, Op.SOFTMAX),
    Op.LOG_SOFTMAX_VJP: _vjp(Op.LOG_SOFTMAX_VJP, Op.LOG_SOFTMAX),
    Op.LSE_VJP: _vjp(Op.LSE_VJP, Op.LSE),
    Op.LAYER_LOSS: _compiled(Op.LAYER_LOSS, layer_loss),
    Op.LAYER_GRADS: _layer_grads,
}
