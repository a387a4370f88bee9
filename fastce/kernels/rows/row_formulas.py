"""Formulas that ``write`` takes for contiguous rows: ``formula(j, n, ...)`` gives classes j to j + n of a row."""

from numba import types

from fastce.kernels import formulas
from fastce.kernels.codegen.jit import block, inline, inline_for
from fastce.kernels.rows.targets import of_row
from fastce.kernels.rows.write import write
from fastce.kernels.simd.memory import load_n, row
from fastce.kernels.simd.vecmath import exp
from fastce.kernels.simd.vector import full_like


def static_exp_source(exps, p, row_max):
    """Choose the input of the write pass at compile time: (exps, None), or (p, row_max) where ``exps`` is None."""


@inline_for(static_exp_source)
def _static_exp_source(exps, p, row_max):
    if isinstance(exps, types.NoneType):
        return lambda exps, p, row_max: (p, row_max)
    return lambda exps, p, row_max: (exps, None)


@inline
def gradient(j, n, p, row_max, factor, class_weight, smoothing_term):
    """Return the gradient of ``n`` classes for index targets: exp(x - maximum) * factor - w * smoothing term.

    It does not know the label. ``p`` and ``row_max`` are a `static_exp_source`; ``smoothing_term`` may be None.
    """
    value = load_n(p, j, n, 0.0)
    if row_max is not None:
        value = exp(value - row_max)
    value = value * factor
    if smoothing_term is not None:
        value = value - smoothing_term_of(class_weight, j, n, smoothing_term, value)
    return value


@block
def write_gradient(q, classes, streamed, p, row_max, factor, class_weight, smoothing_term):
    """Write `gradient` of all classes.

    This is a block of its own so that the constants of exp have registers.
    """
    write(q, classes, streamed, gradient, (p, row_max, factor, class_weight, smoothing_term))


@inline
def smoothing_term_of(class_weight, j, n, smoothing_term, like):
    """Return w * smoothing term of ``n`` classes."""
    if class_weight is None:
        return full_like(like, smoothing_term)
    return load_n(row(class_weight, j), 0, n, 0.0) * smoothing_term


@inline
def log_softmax(j, n, p, row_max, log_sum):
    """Return (x - maximum) - log_sum."""
    return (load_n(p, j, n, 0.0) - row_max) - log_sum


@inline
def zero(j, n, like):
    """Return 0."""
    return full_like(like, 0.0)


@inline
def prob_gradient(j, n, p, row_max, targets, sum_exp_rest, pull, grad_scale):
    """Return the gradient of ``n`` classes for probability targets; ``p`` and ``row_max`` are a `static_exp_source`."""
    target_prob = of_row(targets, j, n)
    exp_x = load_n(p, j, n, 0.0)
    if row_max is not None:
        exp_x = exp(exp_x - row_max)
    sum_exp_rest_, pull_, grad_scale_ = full_like(p, sum_exp_rest), full_like(p, pull), full_like(p, grad_scale)
    factor = formulas.prob_gradient_factor(pull_, sum_exp_rest_, grad_scale_)
    return formulas.prob_gradient(exp_x, target_prob, factor, sum_exp_rest_, pull_, grad_scale_)


@inline
def vjp(j, n, y, g, dot, static_probs):
    """Return `formulas.softmax_vjp` of ``n`` classes."""
    return formulas.softmax_vjp(load_n(y, j, n, 0.0), load_n(g, j, n, 0.0), dot, static_probs)
