"""Train a small network on handwritten digits in NumPy, with two losses.

The network (64 pixels, 64 hidden units, 10 digits), its initial weights, the order of the
batches and the update are the same both times. Only the loss differs: first the
textbook's, spelled out in NumPy, then the one call that replaces it. The network learns
the same; the table says how much of a training step the loss takes.

    python examples/train_digits.py           50 epochs
    python examples/train_digits.py --quick   10 epochs
"""

import argparse
from time import perf_counter
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import fastce

HIDDEN, CLASSES, BATCH = 64, 10, 128
LEARNING_RATE = 0.2


def textbook(logits, target):
    """Return the mean cross-entropy and its gradient, as NumPy code usually spells them."""
    n = len(target)
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probs = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.log(probs[np.arange(n), target]).mean()
    grad = probs.copy()
    grad[np.arange(n), target] -= 1
    grad /= n
    return loss, grad


def fused(logits, target):
    """Return the same from fastce. The gradient takes the place of the logits, which nothing needs any more."""
    return fastce.cross_entropy_and_grad(logits, target, out=logits)


class Digits(NamedTuple):
    """The data set: images as rows of pixels in [0, 1], and the digit on each."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


class Run(NamedTuple):
    """What one training run showed: median seconds a step and in its loss, last loss, test accuracy."""

    step: float
    in_loss: float
    last_loss: float
    accuracy: float


def load(rng):
    """Shuffle scikit-learn's 1797 images and keep a fifth of them for the test."""
    images, labels = load_digits(return_X_y=True)
    order = rng.permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    kept = len(images) // 5
    return Digits(images[kept:], labels[kept:], images[:kept], labels[:kept])


def initial_weights(rng, inputs):
    """Draw the two layers' weights, scaled by the number of their inputs; biases start at zero."""
    w1 = rng.normal(0, np.sqrt(2 / inputs), (inputs, HIDDEN)).astype(np.float32)
    w2 = rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)).astype(np.float32)
    return w1, np.zeros(HIDDEN, np.float32), w2, np.zeros(CLASSES, np.float32)


def train(digits, loss_and_grad, epochs):
    """Train by gradient descent and measure.

    Parameters
    ----------
    digits : Digits
        The data set.
    loss_and_grad : callable
        ``loss_and_grad(logits, target)`` gives the mean loss and its gradient; it may
        write over the logits.
    epochs : int
        How often to go through the training images.

    Returns
    -------
    Run
        Times, the last batch's loss and the accuracy on the test images.
    """
    rng = np.random.default_rng(0)  # the same weights and batches whatever the loss
    w1, b1, w2, b2 = initial_weights(rng, digits.train_images.shape[1])
    # The first call compiles the kernels or reads them from disk: no part of a training step.
    loss_and_grad(np.zeros((BATCH, CLASSES), np.float32), np.zeros(BATCH, np.int64))

    step_times, loss_times = [], []
    for _ in range(epochs):
        order = rng.permutation(len(digits.train_images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            began = perf_counter()

            x, target = digits.train_images[batch], digits.train_labels[batch]
            hidden = np.maximum(x @ w1 + b1, 0)
            logits = hidden @ w2 + b2

            before = perf_counter()
            loss, d_logits = loss_and_grad(logits, target)
            after = perf_counter()

            d_hidden = d_logits @ w2.T * (hidden > 0)
            w2 -= LEARNING_RATE * (hidden.T @ d_logits)
            b2 -= LEARNING_RATE * d_logits.sum(axis=0)
            w1 -= LEARNING_RATE * (x.T @ d_hidden)
            b1 -= LEARNING_RATE * d_hidden.sum(axis=0)

            step_times.append(perf_counter() - began)
            loss_times.append(after - before)

    scores = np.maximum(digits.test_images @ w1 + b1, 0) @ w2 + b2
    accuracy = np.mean(scores.argmax(axis=1) == digits.test_labels)
    return Run(float(np.median(step_times)), float(np.median(loss_times)), float(loss), float(accuracy))


def main():
    """Train with both losses and print what each took."""
    parser = argparse.ArgumentParser(description="Train on scikit-learn's digits with two losses.")
    parser.add_argument("--quick", action="store_true", help="10 epochs instead of 50")
    epochs = 10 if parser.parse_args().quick else 50

    digits = load(np.random.default_rng(1))
    runs = {"textbook NumPy": train(digits, textbook, epochs), "fastce": train(digits, fused, epochs)}

    table = Table(title=f"{epochs} epochs, batches of {BATCH}, float32")
    table.add_column("loss")
    for heading in ("a step (µs)", "in the loss (µs)", "last loss", "test accuracy"):
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        times = f"{run.step * 1e6:.0f}", f"{run.in_loss * 1e6:.1f}"
        table.add_row(name, *times, f"{run.last_loss:.5f}", f"{run.accuracy:.2%}")
    Console().print(table)

    if len({run.accuracy for run in runs.values()}) > 1:
        raise SystemExit("the two losses trained networks of different accuracy")


if __name__ == "__main__":
    main()
