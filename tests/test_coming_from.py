"""The calls that ``docs/coming-from.md`` shows: theirs and ours are run, and give the same.

The libraries run themselves: Keras on PyTorch, which is there anyhow, or on what ``KERAS_BACKEND`` names. For
torchvision, optax, Liger and Megatron, which want more than a test should install, stand the formulas that they
document.
"""

import ast
import functools
import math
import os
import re
import sys
import tempfile
from typing import NamedTuple

import autograd
import autograd.scipy.special
import dask.array as da
import mygrad
import mygrad.nnet
import numpy as np
import pytest
import torch
from scipy import special
from sklearn import metrics
from sklearn._loss import HalfMultinomialLoss
from sklearn.linear_model import LogisticRegression

import fastce
import fastce.interop.boosting
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
    q = np.float32(np.where(probabilities["p"] < 0.1, 0, 1.1 * probabilities["p"].clip(max=0.9)))
    q[0] = np.eye(C)[y[0]]  # certain and right
    q[1] = np.eye(C)[y[1] - 1]  # certain and wrong
    return {**rows, **images, **probabilities, **last, **weights, **teacher, "q": q}


NUMBERS = {"e": 0.1, "i": 1, "T": 2.5, "S": 1024.0, "z": 0.01, "c": 3.0, "a": 0.3, "g": 2.0, "C": C}
NAMES = np.array(["ant", "bee", "cat", "dog", "eel"])
COMMON = {**NUMBERS, "np": np, "math": math}


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


class Torchvision:
    """A loss for each element, unless reduced."""

    def sigmoid_focal_loss(x, t, alpha=0.25, gamma=2, reduction="none"):
        loss = sigmoid_focal(x, t, alpha, gamma)
        return mean(loss) if reduction == "mean" else loss


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

    class Output(NamedTuple):
        loss: float
        z_loss: float

    def LigerFusedLinearCrossEntropyLoss(lse_square_scale=0.0, reduction="mean", return_z_loss=False):
        def call(weight, hidden, y):
            x = hidden @ weight.T
            z_losses = lse_square_scale * special.logsumexp(x, -1) ** 2
            losses = -at(logs(x), y) + z_losses
            if reduction == "none":
                return losses
            return Liger.Output(mean(losses), mean(z_losses)) if return_z_loss else mean(losses)

        return call


def vocab_parallel_cross_entropy(x, y, label_smoothing=0.0):
    """Megatron's, on one rank: a loss for each sample; smoothing goes to all classes but the label's."""
    smoothing = label_smoothing * x.shape[-1] / (x.shape[-1] - 1)
    return -(1.0 - smoothing) * at(logs(x), y) - smoothing * logs(x).mean(-1)


def public(namespace):
    return {name: value for name, value in vars(namespace).items() if not name.startswith("_")}


# --- the libraries themselves -------------------------------------------------------------------


@functools.cache
def keras_losses():
    """Keras's losses, most of which are float32; it writes a file of settings as it is imported."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", home)
        patch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
        from keras import losses
    return public(losses)


def mygrad_losses():
    return {**public(mygrad.nnet.losses), "logsoftmax": mygrad.nnet.activations.logsoftmax}


def boosting(library):
    """The names in rows of XGBoost or LightGBM; of their own data, enough to split."""
    if sys.platform == "darwin":
        pytest.skip("XGBoost and LightGBM need OpenMP, which macOS lacks")
    rng = np.random.default_rng(12)
    a = rng.normal(size=(300, C + 1))
    b = (a[:, :C] + rng.normal(size=(300, C)) + np.arange(C) / 3).argmax(1)
    adapter = public(fastce.interop.boosting)
    names = {**adapter, "A": a, "b": b, "B": rng.dirichlet(np.ones(C), 300), "f": adapter["class_priors"](b, C)}
    few = {"n_estimators": 10, "n_jobs": 1}
    if library == "XGBoost":
        import xgboost

        return {
            **names,
            "DMatrix": xgboost.DMatrix,
            "d": xgboost.DMatrix(a, b),
            "train": lambda params, d, obj=None: xgboost.train({**params, "nthread": 1}, d, 10, obj=obj),
            "XGBClassifier": functools.partial(xgboost.XGBClassifier, **few),
        }
    import lightgbm

    return {
        **names,
        "Dataset": lightgbm.Dataset,
        "train": lambda params, d: lightgbm.train({**params, "num_threads": 1, "verbose": -1}, d, 10),
        "LGBMClassifier": functools.partial(lightgbm.LGBMClassifier, **few, verbose=-1),
    }


def given(library):
    """The names in both columns of a library's rows."""
    if library in ("XGBoost", "LightGBM"):
        return {**COMMON, **boosting(library)}
    own = {
        "scikit-learn": lambda: {"names": NAMES, "n": NAMES[arrays()["y"]]},
        "PyTorch": lambda: {"tensor": torch.tensor},
        "MyGrad": lambda: {"tensor": mygrad.tensor},
        "Dask": lambda: {"N": N, "da": da, "L": da.from_array(arrays()["x"], chunks=(5, 2))},
        "autograd": lambda: {"N": N, "value_and_grad": autograd.value_and_grad},
    }.get(library, dict)()
    return {**COMMON, **arrays(), **own}


def theirs(library, call):
    values = given(library)
    if library == "PyTorch":
        names = {"F": torch.nn.functional, "nn": torch.nn, "torch": torch}
        for name, value in arrays().items():
            values[name] = torch.tensor(value)
        for name in "xhW":
            values[name].requires_grad_()
    elif library == "MyGrad":
        names = mygrad_losses()
        values["x"] = mygrad.tensor(values["x"])
    else:
        names = {
            "SciPy": lambda: {"special": special},
            "scikit-learn": lambda: {
                "metrics": metrics,
                "HalfMultinomialLoss": HalfMultinomialLoss,
                "LogisticRegression": LogisticRegression,
            },
            "Keras": keras_losses,
            "torchvision": lambda: public(Torchvision),
            "optax": lambda: public(Optax),
            "Liger": lambda: public(Liger),
            "Megatron": lambda: {"vocab_parallel_cross_entropy": vocab_parallel_cross_entropy},
            "autograd": lambda: {"np": autograd.numpy, **public(autograd), **public(autograd.scipy.special)},
        }.get(library, dict)()
    return value_of(call, {**names, **values})


def plain(value):
    """An array of a scalar, or of a library's tensor."""
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


@pytest.mark.parametrize(("library", "call", "here"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_row(library, call, here):
    if library == "Megatron":
        pytest.importorskip("mpi4py")
    ours = value_of(here, {**vars(fastce), **given(library)})
    expected = theirs(library, call)
    both = zip(ours, expected, strict=True) if isinstance(ours, tuple) else [(ours, expected)]
    for actual, wanted in both:
        actual, wanted = plain(actual), plain(wanted)
        assert actual.shape == wanted.shape
        single = library == "Keras" or actual.dtype == np.float32  # Keras's means are float32 whatever comes
        rtol, atol = (1e-5, 1e-7) if single else (1e-12, 1e-15)
        np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=atol)


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
        "Megatron",
        "MyGrad",
        "autograd",
        "XGBoost",
        "LightGBM",
        "Dask",
    }
    assert {library for library, _, _ in ROWS} == libraries


# --- what the document says below the table -----------------------------------------------------


def test_keras_clips():
    """Losses are from 1e-7 to 16.1, and gradients of what is clipped are 0."""
    losses = plain(keras_losses()["sparse_categorical_crossentropy"](np.array([0, 1]), np.array([[1.0, 0.0]] * 2)))
    np.testing.assert_allclose(losses, [1e-7, -math.log(1e-7)], rtol=1e-6, atol=3e-8)
    ours = fastce.cross_entropy_from_probs([[1.0, 0.0]] * 2, [0, 1], reduction="none")
    np.testing.assert_allclose(ours, [0, 708.4], rtol=1e-4)
    assert fastce.binary_cross_entropy_from_probs([0.0], [1]) == np.inf


@pytest.mark.parametrize("target", ["y", "t"])
def test_the_order_of_keras(target):
    values = arrays()
    target = values["y"] if target == "y" else np.eye(C)[values["y"]]
    with pytest.raises(ValueError, match="Keras"):
        fastce.cross_entropy_from_probs(target, values["p"])


def test_a_scaled_loss_does_not_underflow():
    """A part of the gradient of a mean over 40,000 rows: 0 in float16, unless scaled, and right in float32."""
    x, y, mean_of = np.zeros((2, 1024), np.float16), np.zeros(2, int), {"normalizer": 40_000}
    assert not fastce.cross_entropy_and_grad(x, y, **mean_of).grad[:, 1:].any()
    expected = 1 / 1024 / 40_000
    scaled = fastce.cross_entropy_and_grad(x, y, **mean_of, grad_output=2.0**14).grad[:, 1:]
    np.testing.assert_allclose(scaled.astype(np.float32) / 2**14, expected, rtol=1e-3)
    wide = fastce.cross_entropy_and_grad(x, y, **mean_of, out=np.empty_like(x, np.float32)).grad[:, 1:]
    np.testing.assert_allclose(wide, expected, rtol=1e-6)
