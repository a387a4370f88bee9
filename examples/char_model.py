"""Train a small language model, character by character, on the docstrings of Python's library.

Embeddings of the last characters go through one hidden layer; the last layer scores the next
character. All is NumPy but the last layer and its loss, which are one call: it gives the loss and
the gradients of hidden layer, weights and biases, and the logits are never all in memory. Then
the same model is trained by the textbook's loss, from the same start on the same batches: the two
curves are one, and the table says what each took.

    python examples/char_model.py                  a minute in all
    python examples/char_model.py --seconds 10
    python examples/char_model.py --steps 500 --plot curve.png
    python examples/char_model.py --quick          40 steps
"""

import argparse
import importlib
import inspect
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

import fastce

MODULES = (
    "argparse ast asyncio base64 bisect calendar cmd codecs collections configparser contextlib copy csv "
    "datetime decimal difflib doctest email enum fractions functools glob gzip heapq html inspect io ipaddress "
    "itertools json linecache locale logging math numbers optparse os pathlib pickle pprint random re sched shelve "
    "shlex shutil socket statistics string struct subprocess tempfile textwrap threading timeit tokenize traceback "
    "unittest urllib.parse uuid warnings weakref zipfile"
)
CONTEXT, EMBEDDING, HIDDEN, BATCH = 12, 16, 256, 512
RATE, BETAS = 3e-3, (0.9, 0.99)


def library_text():
    """Join the docstrings of Python's modules, classes and functions, ASCII only, each once."""
    found = dict.fromkeys([])
    for name in MODULES.split():
        module = importlib.import_module(name)
        members = [value for key, value in sorted(vars(module).items()) if not key.startswith("_")]
        for thing in (module, *members):
            if inspect.ismodule(thing) and thing is not module:
                continue
            doc = inspect.getdoc(thing) or ""
            if len(doc) > 80 and doc.isascii():
                found[doc] = None
    return "\n\n".join(found)


def textbook(hidden, weight, target, bias):
    """Return the loss and the gradients of hidden layer, weights and biases as NumPy code usually spells them."""
    n = len(target)
    logits = hidden @ weight.T + bias
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.log(probs[np.arange(n), target]).mean()
    probs[np.arange(n), target] -= 1
    probs /= n
    return loss, probs @ weight, probs.T @ hidden, probs.sum(axis=0)


def fused(hidden, weight, target, bias):
    """Return the same from one call."""
    return fastce.linear_cross_entropy_and_grad(hidden, weight, target, bias=bias)


class Model:
    """Embeddings, one hidden layer and the last layer, trained by Adam."""

    def __init__(self, characters, loss_and_grad):
        rng = np.random.default_rng(0)  # the same start whatever the loss
        inputs = CONTEXT * EMBEDDING

        def normal(*shape, scale):
            return (rng.normal(size=shape) * scale).astype(np.float32)

        self.parameters = {
            "embedding": normal(characters, EMBEDDING, scale=1.0),
            "w1": normal(inputs, HIDDEN, scale=inputs**-0.5),
            "b1": np.zeros(HIDDEN, np.float32),
            "w2": normal(characters, HIDDEN, scale=0.1 * HIDDEN**-0.5),
            "b2": np.zeros(characters, np.float32),
        }
        self.moments = {name: (np.zeros_like(p), np.zeros_like(p)) for name, p in self.parameters.items()}
        self.loss_and_grad = loss_and_grad
        self.steps = 0
        self.loss_seconds = 0.0

    def hidden(self, context):
        """Return the embedded characters and the hidden layer."""
        p = self.parameters
        embedded = p["embedding"][context].reshape(len(context), -1)
        return embedded, np.tanh(embedded @ p["w1"] + p["b1"])

    def step(self, context, target):
        """Take one step and return the loss before it."""
        p = self.parameters
        embedded, hidden = self.hidden(context)
        before = perf_counter()
        loss, d_hidden, d_w2, d_b2 = self.loss_and_grad(hidden, p["w2"], target, p["b2"])
        self.loss_seconds += perf_counter() - before
        d_hidden = d_hidden * (1 - hidden * hidden)
        d_embedding = np.zeros_like(p["embedding"])
        np.add.at(d_embedding, context.reshape(-1), (d_hidden @ p["w1"].T).reshape(-1, EMBEDDING))
        gradients = {
            "embedding": d_embedding,
            "w1": embedded.T @ d_hidden,
            "b1": d_hidden.sum(axis=0),
            "w2": d_w2,
            "b2": d_b2,
        }
        self._adam(gradients)
        return float(loss)

    def _adam(self, gradients):
        self.steps += 1
        corrections = [1 - beta**self.steps for beta in BETAS]
        for name, gradient in gradients.items():
            mean, square = self.moments[name]
            mean += (1 - BETAS[0]) * (gradient - mean)
            square += (1 - BETAS[1]) * (gradient * gradient - square)
            self.parameters[name] -= RATE / corrections[0] * mean / (np.sqrt(square / corrections[1]) + 1e-8)

    def sample(self, start, length, rng):
        """Return character numbers that go on from ``start``, drawn from the model's probabilities."""
        found = list(start)
        for _ in range(length):
            hidden = self.hidden(np.array(found[-CONTEXT:])[None])[1]
            probs = fastce.softmax(hidden[0] @ self.parameters["w2"].T + self.parameters["b2"])
            found.append(int(np.searchsorted(np.cumsum(probs), rng.random() * 0.9999)))
        return found[len(start) :]


def train(model, codes, seconds=None, steps=None):
    """Train for some seconds or steps on batches that depend on the step alone; return losses and seconds."""
    rng = np.random.default_rng(1)
    windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)
    losses = []
    began = perf_counter()
    while len(losses) < steps if steps is not None else perf_counter() - began < seconds:
        batch = windows[rng.integers(0, len(windows), BATCH)]
        losses.append(model.step(batch[:, :-1], batch[:, -1]))
    return np.array(losses), perf_counter() - began


def plot(curves, path):
    """Draw the curves, smoothed, one upon the other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    width = max(1, min(50, len(next(iter(curves.values()))) // 10))
    for (name, losses), style in zip(curves.items(), ("-", "--"), strict=True):
        axes.plot(np.convolve(losses, np.ones(width) / width, "valid"), style, label=name)
    axes.set(
        xlabel="step", ylabel=f"cross-entropy, mean of {width} steps", title="Next character of Python's docstrings"
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    """Train with both losses, show the curve, the times and a sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for both trainings (60)")
    parser.add_argument("--steps", type=int, help="of each training, however long they take")
    parser.add_argument("--quick", action="store_true", help="40 steps")
    parser.add_argument("--plot", default="char_model.png", help="file of the loss curve (char_model.png)")
    options = parser.parse_args()
    steps = 40 if options.quick else options.steps

    text = library_text()
    alphabet = sorted(set(text))
    codes = np.searchsorted(alphabet, list(text))
    rng = np.random.default_rng(2)

    models = {"fastce": Model(len(alphabet), fused), "textbook NumPy": Model(len(alphabet), textbook)}
    # The first call compiles the kernel or reads it from disk: no part of a training step.
    fused(np.zeros((BATCH, HIDDEN), np.float32), models["fastce"].parameters["w2"], codes[:BATCH],
          models["fastce"].parameters["b2"])  # fmt: skip
    curves, times = {}, {}
    for name, model in models.items():
        curves[name], times[name] = train(model, codes, options.seconds / 2, steps)
        steps = len(curves[name])  # the second takes as many

    table = Table(title=f"{steps} steps, {len(text):,} characters, {len(alphabet)} different ones, float32")
    table.add_column("last layer and loss")
    for heading in ("a step (ms)", "in them (ms)", "first loss", "mean of the last tenth"):
        table.add_column(heading, justify="right")
    for name, model in models.items():
        losses = curves[name]
        tail = losses[-max(steps // 10, 1) :].mean()
        spent = f"{times[name] / steps * 1e3:.2f}", f"{model.loss_seconds / steps * 1e3:.2f}"
        table.add_row(name, *spent, f"{losses[0]:.4f}", f"{tail:.4f}")
    console = Console()
    console.print(table)
    plot(curves, options.plot)
    start = codes[:CONTEXT]
    sample = models["fastce"].sample(start, 300, rng)
    console.print("A sample:", markup=False, style="bold")
    console.print("".join(alphabet[i] for i in (*start, *sample)), markup=False, highlight=False)

    # the same arithmetic in another order: bits differ, and training magnifies that
    if not np.allclose(*(losses[:20] for losses in curves.values()), rtol=1e-3):
        raise SystemExit("the two losses trained different models")


if __name__ == "__main__":
    main()
