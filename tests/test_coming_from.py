"""The calls that ``docs/coming-from.md`` shows: theirs and ours are run, and give the same.

PyTorch, SciPy and scikit-learn run themselves. For the others stand the formulas that they document.
"""

import ast
import math
import re

import numpy as np
import pytest
import torch
from scipy import special
from sklearn import metrics
from sklearn._loss import HalfMultinomialLoss

import fastce
from tests.helpers import ROOT

TEXT = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
N, C = 12, 5


def table():
    """(library, their call, our call) of every row; what is not the first code of a cell is a remark."""
    library = None
    for line in TEXT.splitlines():
        cells = re.match(r"\| (.*?) ?\| `(.*?)` \| `(.*?)`.* \|$", line)
        if cells:
            library = cells[1] or library
            yield library, cells[2], cells[3]


ROWS = list(table())


def arrays():
    """The values of the names in the table."""
    rng = np.random.default_rng(11)
    y = np.append(np.arange(C), rng.integers(0, C, N - C))
    mask = rng.random((N, C)) > 0.3
    mask[np.arange(N), y] = True
    images = {"X": rng.normal(size=(2, C, 3, 4)), "Y": rng.integers(0, C, (2, 3, 4))}
    rows = {"x": rng.normal(size=(N, C)), "v": rng.normal(size=(N, C)), "y": y, "m": mask}
    probabilities = {name: rng.dirichlet(np.ones(C), N) for name in "pt"}
    last = {"h": rng.normal(size=(N, 7)), "W": rng.normal(size=(C, 7))}
    weights = {"w": rng.random(C) + 0.5, "u": rng.random(N) + 0.5}
    teacher = {"k": rng.normal(size=(N, 9)), "V": rng.normal(size=(C, 9))}
    return {**rows, **images, **probabilities, **last, **weights, **teacher}


NUMBERS = {"e": 0.1, "i": 1, "T": 2.5, "z": 0.01, "c": 3.0, "a": 0.3, "g": 2.0, "C": C, "np": np, "math": math}


def value_of(code, names):
    """The last expression's value, or what the last statement assigns."""
    *first, last = ast.parse(code).body
    names = dict(names)
    exec(compile(ast.Module(first, []), code, "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), code, "eval"), names)
    exec(compile(ast.Module([last], []), code, "exec"), names)
    return eval(ast.unparse(last.targets[0]), names)


# --- what the others document, in NumPy ---------------------------------------------------------


def mean(values):
    return np.mean(values)


def logs(x):
    e = x - x.max(-1, keepdims=True)
    return e - np.log(np.exp(e).sum(-1, keepdims=True))


def at(values, y):
    return values[np.arange(len(y)), y]


def soft(x, t):
    return -np.sum(np.where(t == 0, 0, t * logs(x)), -1)


def sigmoid_binary(x, t):
    return -t * special.log_expit(x) - (1 - t) * special.log_expit(-x)


def sigmoid_focal(x, t, alpha, gamma):
    p = special.expit(x)
    loss = sigmoid_binary(x, t) * (1 - (p * t + (1 - p) * (1 - t))) ** gamma
    return loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss


def divergence(log_p, log_t):
    return np.sum(np.exp(log_t) * (log_t - log_p), -1)


def focal(x, y, alpha, gamma):
    log_p = at(logs(x), y)
    return -alpha * (1 - np.exp(log_p)) ** gamma * log_p


class Torchvision:
    """A loss for each element, unless reduced."""

    def sigmoid_focal_loss(x, t, alpha=0.25, gamma=2, reduction="none"):
        loss = sigmoid_focal(x, t, alpha, gamma)
        return mean(loss) if reduction == "mean" else loss


class Keras:
    """Losses are means over the batch, of values times sample weights; kept ones, with an ignored class."""

    def SparseCategoricalCrossentropy(from_logits, ignore_class=None):
        def call(y, x, sample_weight=1.0):
            values = -at(logs(x), y) * sample_weight
            return mean(values[y != ignore_class])

        return call

    def CategoricalCrossentropy(from_logits=False, label_smoothing=0.0):
        def call(t, x):
            t = t * (1 - label_smoothing) + label_smoothing / t.shape[-1]
            return mean(soft(x, t) if from_logits else -np.sum(t * np.log(x), -1))

        return call

    def CategoricalFocalCrossentropy(alpha, gamma, from_logits, label_smoothing=0.0):
        def call(t, x):
            t = t * (1 - label_smoothing) + label_smoothing / t.shape[-1]
            return mean(np.sum(-alpha * t * (1 - np.exp(logs(x))) ** gamma * logs(x), -1))

        return call

    def BinaryCrossentropy(from_logits=False, label_smoothing=0.0):
        def call(t, x):
            t = t * (1 - label_smoothing) + label_smoothing / 2
            return mean(sigmoid_binary(x, t) if from_logits else -(t * np.log(x) + (1 - t) * np.log1p(-x)))

        return call

    def BinaryFocalCrossentropy(apply_class_balancing, alpha, gamma, from_logits):
        return lambda t, x: mean(sigmoid_focal(x, t, alpha, gamma))

    def KLDivergence():
        return lambda t, p: mean(divergence(np.log(p), np.log(t)))


class Optax:
    """A loss for each sample."""

    def softmax_cross_entropy_with_integer_labels(x, y, where=True):
        return -at(logs(np.where(where, x, -np.inf)), y)

    def smooth_labels(t, alpha):
        return t * (1 - alpha) + alpha / t.shape[-1]

    class losses:
        def kl_divergence(log_p, t):
            return divergence(log_p, np.log(t))

        kl_divergence_with_log_targets = divergence

    softmax_cross_entropy = soft
    sigmoid_binary_cross_entropy = sigmoid_binary
    sigmoid_focal_loss = sigmoid_focal


class Liger:
    """The mean of cross-entropies of capped logits, and of squares of their log-sum-exps; that of divergences."""

    def LigerJSD(beta):
        def call(log_q, log_p):
            if beta in (0.0, 1.0):
                return mean(divergence(log_q, log_p) if beta == 0.0 else divergence(log_p, log_q))
            log_m = np.log(beta * np.exp(log_p) + (1 - beta) * np.exp(log_q))
            return mean(beta * divergence(log_m, log_p) + (1 - beta) * divergence(log_m, log_q))

        return call

    def LigerFusedLinearJSD(jsd_beta, temperature):
        def call(student, student_weight, teacher, teacher_weight):
            rows = (student @ student_weight.T, teacher @ teacher_weight.T)
            return Liger.LigerJSD(jsd_beta)(*(logs(x / temperature) for x in rows))

        return call

    def LigerCrossEntropyLoss(lse_square_scale, label_smoothing, softcap):
        def call(x, y):
            x = softcap * np.tanh(x / softcap)
            t = np.eye(x.shape[-1])[y] * (1 - label_smoothing) + label_smoothing / x.shape[-1]
            return mean(soft(x, t) + lse_square_scale * special.logsumexp(x, -1) ** 2)

        return call

    def LigerFusedLinearCrossEntropyLoss():
        return lambda weight, hidden, y: mean(-at(logs(hidden @ weight.T), y))


class MyGrad:
    """The mean of cross-entropies, of weighted ones too; a focal loss for each sample."""

    class Tensor(np.ndarray):
        pass

    def softmax_crossentropy(x, y):
        loss = np.asarray(mean(-at(logs(np.asarray(x)), y))).view(MyGrad.Tensor)
        grad = (np.exp(logs(np.asarray(x))) - np.eye(x.shape[-1])[y]) / len(y)
        loss.backward = lambda: setattr(x, "grad", grad)
        return loss

    def softmax_focal_loss(x, y, alpha, gamma):
        return focal(x, y, alpha, gamma)

    def negative_log_likelihood(x, y, weights):
        return mean(-weights[y] * at(x, y))

    logsoftmax = logs


def boosting(x, y, scale):
    """The gradient and Hessian of the built-in objectives."""
    p = np.exp(logs(x))
    return p - np.eye(C)[y], scale * p * (1 - p)


def public(namespace):
    return {name: value for name, value in vars(namespace).items() if not name.startswith("_")}


def theirs(library, call):
    given = arrays()
    if library == "PyTorch":
        given = {name: torch.tensor(value) for name, value in given.items()}
        given["x"].requires_grad_()
        result = value_of(call, {"F": torch.nn.functional, "nn": torch.nn, "torch": torch, **NUMBERS, **given})
        return [part.detach().numpy() for part in result] if isinstance(result, tuple) else result.detach().numpy()
    if library in ("XGBoost", "LightGBM"):
        return boosting(given["x"], given["y"], {"multi:softprob": 2, "multiclass": C / (C - 1)}[call])
    if library == "MyGrad":
        given["x"] = given["x"].view(MyGrad.Tensor)
    if library == "scikit-learn":
        given["y"] = given["y"].astype(float)  # as its losses want labels
    names = {
        "SciPy": {"special": special},
        "scikit-learn": {"metrics": metrics, "HalfMultinomialLoss": HalfMultinomialLoss},
        "torchvision": public(Torchvision),
        "Keras": public(Keras),
        "optax": public(Optax),
        "Liger": public(Liger),
        "MyGrad": public(MyGrad),
    }[library]
    return value_of(call, {**names, **NUMBERS, **given})


@pytest.mark.parametrize(("library", "call", "here"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_row(library, call, here):
    ours = value_of(here, {**vars(fastce), **NUMBERS, **arrays()})
    expected = theirs(library, call)
    both = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
    for actual, wanted in both:
        assert np.shape(actual) == np.shape(wanted)
        np.testing.assert_allclose(actual, np.asarray(wanted), rtol=1e-12, atol=1e-15)


def test_every_row_is_run():
    assert len(ROWS) == len(re.findall(r"^\| .* \|$", TEXT, re.M)) - 1
    libraries = {
        "PyTorch",
        "torchvision",
        "Keras",
        "optax",
        "SciPy",
        "scikit-learn",
        "Liger",
        "MyGrad",
        "XGBoost",
        "LightGBM",
    }
    assert {library for library, _, _ in ROWS} == libraries


class Data:
    """What boosting libraries hand to an objective."""

    def __init__(self, label, weight):
        self.get_label = lambda: label.astype(np.float32)
        self.get_weight = lambda: weight


@pytest.mark.parametrize("weight", [None, [], "u"])
@pytest.mark.parametrize("scale", [2, C / (C - 1)])
def test_the_objective_shown(scale, weight):
    (code,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    names = {}
    exec(compile(code, "coming-from.md", "exec"), names)
    given = arrays()
    weight = np.float32(given["u"]) if weight == "u" else weight
    x = given["x"].astype(np.float32)
    result = names["softmax_objective"](scale)(x, Data(given["y"], weight))
    u = 1 if weight is None or not len(weight) else weight[:, np.newaxis]
    for actual, expected in zip(result, boosting(given["x"], given["y"], scale), strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, u * expected, rtol=2e-6)
