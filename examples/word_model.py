"""Train a small language model, word by word, on the documentation inside Python's library and NumPy.

Embeddings of the last words go through one hidden layer; the last layer scores each of some 36,000
words as the next one. All is NumPy but the last layer and its loss, which are one call: it gives
the loss and the gradients of hidden layer, weights and biases, and the scores are never all in
memory. The same model is trained by the textbook's loss for as long, from the same start on the
same batches: step for step the curves are one, but one of them gets further.

    python examples/word_model.py                  about a minute in all
    python examples/word_model.py --seconds 10
    python examples/word_model.py --steps 100 --plot curve.png
    python examples/word_model.py --quick          8 steps, on a part of the text
"""

import argparse
import re
import sysconfig
import tracemalloc
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

import numpy as np
from rich.console import Console
from rich.table import Table

import fastce

CONTEXT, EMBEDDING, HIDDEN, BATCH = 6, 48, 128, 512
RATE = 0.08
DOCSTRING = re.compile(r'^ *[rR]?"""(.*?)"""', re.DOTALL | re.MULTILINE)
WORD = re.compile(r"\w+|[^\w\s]|\n+")


def library_text():
    """Join the language reference, and the docstrings of the standard library and of NumPy, each once."""
    found = dict.fromkeys(topics.values())
    for folder in (Path(sysconfig.get_path("stdlib")), Path(np.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            if "site-packages" not in path.relative_to(folder).parts:
                found |= dict.fromkeys(DOCSTRING.findall(path.read_text(encoding="utf-8", errors="ignore")))
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
    """Embeddings, one hidden layer and the last layer, trained by Adagrad."""

    def __init__(self, frequencies, loss_and_grad):
        rng = np.random.default_rng(0)  # the same start whatever the loss
        words, inputs = len(frequencies), CONTEXT * EMBEDDING

        def normal(*shape, scale):
            return (rng.normal(size=shape) * scale).astype(np.float32)

        self.parameters = {
            "embedding": normal(words, EMBEDDING, scale=0.1),
            "w1": normal(inputs, HIDDEN, scale=inputs**-0.5),
            "b1": np.zeros(HIDDEN, np.float32),
            "w2": normal(words, HIDDEN, scale=0.1 * HIDDEN**-0.5),
            "b2": np.log(frequencies).astype(np.float32),  # it knows at the start how frequent words are
        }
        self.squares = {name: np.full_like(p, 1e-8) for name, p in self.parameters.items()}
        self.loss_and_grad = loss_and_grad
        self.loss_seconds = 0.0

    def hidden(self, context):
        """Return the embedded words and the hidden layer."""
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
        words, places = np.unique(context, return_inverse=True)
        d_embedding = np.zeros((len(words), EMBEDDING), np.float32)
        np.add.at(d_embedding, places.reshape(-1), (d_hidden @ p["w1"].T).reshape(-1, EMBEDDING))
        self._update("embedding", words, d_embedding)
        self._update("w1", ..., embedded.T @ d_hidden)
        self._update("b1", ..., d_hidden.sum(axis=0))
        self._update("w2", ..., d_w2)
        self._update("b2", ..., d_b2)
        return float(loss)

    def _update(self, name, index, gradient):
        """Take Adagrad's step in some rows of a parameter, or all."""
        squares = self.squares[name]
        squares[index] += gradient * gradient
        gradient *= RATE
        gradient /= np.sqrt(squares[index])
        self.parameters[name][index] -= gradient

    def sample(self, start, length, rng):
        """Return words that go on from ``start``, drawn from the model's probabilities, sharpened a little."""
        found = list(start)
        for _ in range(length):
            hidden = self.hidden(np.array(found[-CONTEXT:])[None])[1]
            scores = hidden[0] @ self.parameters["w2"].T + self.parameters["b2"]
            probs = fastce.softmax(scores / 0.8)
            found.append(int(np.searchsorted(np.cumsum(probs), rng.random() * 0.9999)))
        return found


def train(model, codes, seconds, steps):
    """Train on batches that depend on the step alone; return the losses, and the seconds at which they were there."""
    rng = np.random.default_rng(1)
    windows = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)
    losses, times = [], []
    began = perf_counter()
    while len(losses) < steps and (not times or times[-1] < seconds):
        batch = windows[rng.integers(0, len(windows), BATCH)]
        losses.append(model.step(batch[:, :-1], batch[:, -1]))
        times.append(perf_counter() - began)
    return np.array(losses), np.array(times)


def peak_memory(model, codes):
    """Return how many bytes one call of the model's loss takes at most, its results included."""
    hidden = np.zeros((BATCH, HIDDEN), np.float32)
    tracemalloc.start()
    model.loss_and_grad(hidden, model.parameters["w2"], codes[:BATCH], model.parameters["b2"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def plot(curves, path):
    """Draw the curves, smoothed, by steps and by seconds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    width = max(1, min(20, min(len(losses) for losses, _ in curves.values()) // 5))
    looks = ({"linewidth": 4, "alpha": 0.5}, {"linewidth": 1.5})
    for (name, (losses, times)), look in zip(curves.items(), looks, strict=True):
        smooth = np.convolve(losses, np.ones(width) / width, "valid")
        panels[0].plot(np.arange(width, len(losses) + 1), smooth, label=name, **look)
        panels[1].plot(times[width - 1 :], smooth, label=name, **look)
    panels[0].set(xlabel="steps: the same curve", ylabel=f"cross-entropy, mean of {width} steps")
    panels[1].set(xlabel="seconds")
    for axes in panels:
        axes.legend()
        axes.grid(alpha=0.3)
    figure.suptitle("Next word of Python's and NumPy's documentation")
    figure.savefig(path, dpi=120)


def main():
    """Train with both losses, show the curves, the times, the memory and a sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for both trainings (60)")
    parser.add_argument("--steps", type=int, help="of each training, however long they take")
    parser.add_argument("--quick", action="store_true", help="8 steps, on a part of the text")
    parser.add_argument("--plot", default="word_model.png", help="file of the loss curves (word_model.png)")
    options = parser.parse_args()
    steps = 8 if options.quick else options.steps
    limits = (options.seconds / 2, np.inf) if steps is None else (np.inf, steps)

    text = WORD.findall(library_text())[: 200_000 if options.quick else None]
    words = sorted(set(text))
    codes = np.fromiter(map({word: code for code, word in enumerate(words)}.get, text), np.int64)
    counts = np.bincount(codes)
    models = {
        "fastce": Model(counts / len(codes), fused),
        "textbook NumPy": Model(counts / len(codes), textbook),
    }
    # The first call compiles the kernel or reads it from disk: no part of a training step.
    memory = {name: peak_memory(model, codes) for name, model in models.items()}
    curves = {name: train(model, codes, *limits) for name, model in models.items()}

    table = Table(title=f"{len(codes):,} words of text, {len(words):,} different ones, {BATCH} a step, float32")
    table.add_column("last layer and loss")
    for heading in ("a step (ms)", "in them (ms)", "memory (MB)", "steps", "first loss", "mean of the last tenth"):
        table.add_column(heading, justify="right")
    for name, model in models.items():
        losses, times = curves[name]
        count = len(losses)
        spent = f"{times[-1] / count * 1e3:.0f}", f"{model.loss_seconds / count * 1e3:.0f}"
        tail = losses[-max(count // 10, 1) :].mean()
        table.add_row(name, *spent, f"{memory[name] / 1e6:.0f}", f"{count}", f"{losses[0]:.3f}", f"{tail:.3f}")
    console = Console()
    console.print(table)
    plot(curves, options.plot)
    found = models["fastce"].sample(codes[:CONTEXT], 120, np.random.default_rng(2))
    console.print("A sample:", markup=False, style="bold")
    sample = " ".join(words[code] for code in found)
    console.print(re.sub(r" ([.,;:)\]'])|([(\['`.]) | *(\n) *", r"\1\2\3", sample), markup=False, highlight=False)

    # the same arithmetic in another order: bits differ, and training magnifies that
    if not np.allclose(*(losses[:8] for losses, _ in curves.values()), rtol=1e-3):
        raise SystemExit("the two losses trained different models")


if __name__ == "__main__":
    main()
