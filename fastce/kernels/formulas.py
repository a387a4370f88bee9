"""The formulas that several regimes share: losses, gradients and second derivatives of one sample, a lane each.

The arguments are SIMD values, or scalars that are broadcast. These names mean the same in every formula:

- m, ``row_max``: the maximum of the sample's logits x.
- r, ``sum_exp_rest``: the sum of exp(x - m) over all classes but one that attains the maximum. The sum of all
  exponentials is 1 + r, and lse = m + log(1 + r).
- w, ``class_weight``; e, label smoothing, over C classes. ``smoothing`` is None or (1 - e, e / C, e / C * sum(w)).
- t: the targets after smoothing and weights; a, ``target_sum``: the sum of t.
- z, ``z_loss``: the factor of lse^2, or None.
- b, ``pull``: a + 2 z lse, the derivative of the loss with respect to the lse; a where z is None.
- s, ``grad_scale``: what the sample's gradient is multiplied by.

An argument that may be None drops its term when the kernel is compiled. Logits may hold any value: without a finite
maximum, and with NaN, r is NaN and so is the result. An error is a number of roundings, each half an ulp of its
result at most, beside the errors of `exp`, `log1p` and `tanh`; where it is not stated, terms of both signs may cancel.
"""

from typing import Any, NamedTuple

from fastce.kernels.codegen.jit import inline
from fastce.kernels.simd.vecmath import exp, log1p, tanh
from fastce.kernels.simd.vector import full_like, where


@inline
def logsumexp(row_max, sum_exp_rest):
    """Return the log-sum-exp.

    Formula: m + log(1 + r).
    Valid: all m and r. Nothing but -inf gives -inf; +inf gives +inf, even where it hides a NaN.
    """
    return where(row_max - row_max == 0.0, row_max + log1p(sum_exp_rest), row_max)


@inline
def times_weight(value, weight):
    """Return a value times its weight.

    Formula: w v; 0 where w = 0, even if v is infinite or NaN.
    Error: 1 rounding.
    """
    return where(weight == 0.0, full_like(value, 0.0), weight * value)


@inline
def z_term(row_max, log_sum, z_loss):
    """Return the z-loss.

    Formula: z lse^2, with ``log_sum`` = log(1 + r); 0 where z is None.
    Valid: all m and r.
    """
    if z_loss is None:
        return full_like(row_max, 0.0)
    lse = row_max + log_sum
    return lse * lse * z_loss


@inline
def z_slope(row_max, sum_exp_rest, z_loss):
    """Return the derivative of the z-loss with respect to the lse.

    Formula: 2 z lse; 0 where z is None.
    Valid: all m and r.
    """
    if z_loss is None:
        return full_like(row_max, 0.0)
    return (row_max + log1p(sum_exp_rest)) * (z_loss + z_loss)


# --- class indices as targets ----------------------------------------------------


class Sample(NamedTuple):
    """What the loss and the gradient of a sample with the label y depend on."""

    row_max: Any  # m
    sum_exp_rest: Any  # r
    at_label: Any  # x_y
    label_weight: Any  # w_y


@inline
def index_loss(sample, sum_below_max, smoothing, z_loss):
    """Return the loss.

    Formula: a lse - sum_j t_j x_j + z lse^2, formed as
    (1 - e) w_y ((m - x_y) + log(1 + r)) + (e / C) (sum(w) log(1 + r) + sum_j w_j (m - x_j)) + z lse^2;
    ``sum_below_max`` is the last sum, and is not read where ``smoothing`` is None.
    Error: 3 roundings without smoothing and z, however confident the sample: all terms have one sign.
    Valid: all logits and weights. A weight of 0 leaves out its term, even if m - x_y is infinite.
    """
    log_sum = log1p(sample.sum_exp_rest)
    loss = times_weight((sample.row_max - sample.at_label) + log_sum, sample.label_weight)
    if smoothing is not None:
        keep, uniform_mass, uniform_total = smoothing
        loss = loss * keep + (log_sum * uniform_total + sum_below_max * uniform_mass)
    return loss + z_term(sample.row_max, log_sum, z_loss)


@inline
def index_gradient(sample, smoothing, z_loss):
    """Return (factor of the exponentials exp(x - m), gradient at the label y).

    Formula: (b / (1 + r), b p_y - t_y). Where p_y and t_y / b both exceed 1/2, the second is formed as
    (b - t_y) - b r / (1 + r), to avoid cancellation.
    Valid: all logits and weights.
    """
    row_max, sum_exp_rest, at_label, label_weight = sample
    pull = target_at_label = label_weight
    pull_elsewhere = full_like(row_max, 0.0)  # b - t_y
    if smoothing is not None:
        keep, uniform_mass, uniform_total = smoothing
        pull = label_weight * keep + uniform_total
        target_at_label = label_weight * (keep + uniform_mass)
        pull_elsewhere = full_like(row_max, uniform_total) - label_weight * uniform_mass
    slope = z_slope(row_max, sum_exp_rest, z_loss)
    pull = pull + slope
    pull_elsewhere = pull_elsewhere + slope
    factor = pull / (sum_exp_rest + 1.0)
    is_close = (at_label == row_max) & (sum_exp_rest < 1.0) & (target_at_label + target_at_label > pull)
    close = pull_elsewhere - factor * sum_exp_rest
    return factor, where(is_close, close, exp(at_label - row_max) * factor - target_at_label)


@inline
def smoothing_term(grad_scale, smoothing):
    """Return the part of label smoothing in the gradient of every class, before class weights.

    Formula: s e / C, which is subtracted; without smoothing s, which is not used.
    Error: 1 rounding.
    """
    if smoothing is None:
        return grad_scale
    return grad_scale * smoothing[1]


# --- class probabilities as targets ----------------------------------------------


@inline
def smoothed_target(target, smoothing):
    """Return a target probability after label smoothing, before class weights.

    Formula: (1 - e) target + e / C; target where ``smoothing`` is None.
    Error: 2 roundings.
    Valid: all targets.
    """
    if smoothing is not None:
        target = target * smoothing[0] + smoothing[1]
    return target


@inline
def target_term(target_prob, below_max):
    """Return one class's part of the loss.

    Formula: t (m - x), with ``below_max`` = m - x; 0 where t = 0, even if m - x is infinite.
    Error: 1 rounding.
    """
    return times_weight(below_max, target_prob)


@inline
def prob_loss(row_max, sum_exp_rest, target_sum, dot, z_loss):
    """Return the loss.

    Formula: a lse - sum_j t_j x_j + z lse^2, formed as a log(1 + r) + sum_j t_j (m - x_j) + z lse^2;
    ``dot`` is the last sum.
    Error: 2 roundings without z, for targets that are not negative: all terms have one sign.
    Valid: all logits and targets.
    """
    log_sum = log1p(sum_exp_rest)
    return target_sum * log_sum + dot + z_term(row_max, log_sum, z_loss)


@inline
def prob_gradient_factor(pull, sum_exp_rest, grad_scale):
    """Return the factor of the exponentials exp(x - m) in the gradient.

    Formula: s b / (1 + r).
    Error: 3 roundings.
    """
    return pull * grad_scale / (sum_exp_rest + 1.0)


@inline
def prob_gradient(exp_x, target_prob, factor, sum_exp_rest, pull, grad_scale):
    """Return the gradient of one class from ``exp_x`` = exp(x - m), t and `prob_gradient_factor`.

    Formula: s (b p - t). Where p and t / b both exceed 1/2, it is formed as s (b - t) - s b r / (1 + r), to avoid
    cancellation: exact where a one-hot target and a confident prediction agree.
    Valid: all logits and targets.
    """
    is_close = (exp_x == 1.0) & (sum_exp_rest < 1.0) & (target_prob + target_prob > pull)
    return where(
        is_close,
        (pull - target_prob) * grad_scale - factor * sum_exp_rest,
        exp_x * factor - target_prob * grad_scale,
    )


# --- softmax backward, second derivatives, and the transform of logits -----------


@inline
def softmax_vjp(y, g, dot, static_probs):
    """Return the vector-Jacobian product of softmax y, or of log-softmax y where ``static_probs`` is None.

    Formula: y (g - dot) with ``dot`` = sum_j y_j g_j, or g - exp(y) dot with ``dot`` = sum_j g_j.
    Valid: all y and g.
    """
    if static_probs is None:
        return g - exp(y) * dot
    return y * (g - dot)


@inline
def hessian_diagonal(exp_x, sum_exp_rest, factor, grad_scale):
    """Return the diagonal of the Hessian, from ``exp_x`` = exp(x - m) and ``factor`` = 1 / (1 + r).

    Formula: s p (1 - p), with 1 - p formed as ((1 - exp(x - m)) + r) / (1 + r). This loses nothing: either
    exp(x - m) is the greatest class's 1, or r is at least exp(x - m).
    Error: 6 roundings beside that of ``factor``, which counts twice.
    Valid: all logits.
    """
    return (exp_x * factor) * (((1.0 - exp_x) + sum_exp_rest) * factor) * grad_scale


@inline
def hessian_vector_product(exp_x, factor, v, mean, grad_scale):
    """Return the Hessian times a vector v, from ``exp_x`` = exp(x - m) and ``factor`` = 1 / (1 + r).

    Formula: s p (v - mean), with ``mean`` = sum_j p_j v_j; v and the mean are measured from v at the greatest class,
    so that the part which all classes of a confident sample share never has to cancel.
    Valid: all logits and v.
    """
    return (exp_x * factor) * (v - mean) * grad_scale


@inline
def transform_logits(x, scale, cap):
    """Return (transformed logit, its derivative with respect to x) of logit scale k and softcap c.

    Formula: (c tanh(k x / c), k (1 - tanh(k x / c)^2)); (k x, k) where ``cap`` is None.
    Error: the logit has 3 roundings, two of them in the argument of tanh; 1 without a cap. The derivative has
    1 rounding, beside the effect of those two on the slope of tanh; none without a cap.
    Valid: all x.
    """
    if cap is None:
        return x * scale, full_like(x, scale)
    transformed, slope = tanh(x * (scale / cap))
    return transformed * cap, slope * scale
