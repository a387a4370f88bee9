"""Train a small network on handwritten digits in MyGrad, with MyGrad's loss and with fastce's.

The network (64 pixels, 64 hidden units, 10 digits), its initial weights and the order of the batches are the same both
times. Only one import differs. The table shows that the network learns the same, and the time of a step: the whole
forward and backward pass, and the update.

    python examples/mygrad_network.py           50 epochs
    python examples/mygrad_network.py --quick   5 epochs
"""

import argparse
from time import perf_counter
from typing import NamedTuple

import mygrad as mg
import numpy as np
from mygrad.nnet import softmax_crossentropy as mygrads_loss
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

from fastce.interop.mygrad import softmax_crossentropy as fastces_loss

HIDDEN, CLASSES, BATCH = 64, 10, 256
LEARNING_RATE = 0.2


class Run(NamedTuple):
    """What one training run showed: median seconds a step, last loss, test accuracy."""

    step: float
    last_loss: float
    accuracy: float


def load():
    """Shuffle scikit-learn's 1797 images and keep a fifth of them for the test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(1).permutation(len(images))
    images, labels = (images[order] / 16).astype(np.float32), labels[order]
    kept = len(images) // 5
    return images[kept:], labels[kept:], images[:kept], labels[:kept]


def initial_weights(rng, inputs):
    """Draw the two layers' weights, scaled by the number of their inputs; biases start at zero."""
    sizes = {"w1": (inputs, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES), "b2": (CLASSES,)}
    scale = {"w1": np.sqrt(2 / inputs), "w2": np.sqrt(2 / HIDDEN)}
    return {
        name: mg.tensor((rng.normal(size=size) * scale.get(name, 0)).astype(np.float32)) for name, size in sizes.items()
    }


def scores(weights, images):
    """Return the scores of ten digits for each image."""
    hidden = mg.maximum(images @ weights["w1"] + weights["b1"], 0)
    return hidden @ weights["w2"] + weights["b2"]


def train(softmax_crossentropy, epochs):
    """Train by gradient descent with this loss and measure."""
    train_images, train_labels, test_images, test_labels = load()
    rng = np.random.default_rng(0)  # the same weights and batches whatever the loss
    weights = initial_weights(rng, train_images.shape[1])
    # The first call compiles the kernels or reads them from disk: no part of a training step.
    softmax_crossentropy(mg.tensor(np.zeros((BATCH, CLASSES), np.float32)), np.zeros(BATCH, np.int64)).backward()

    times = []
    for _ in range(epochs):
        order = rng.permutation(len(train_images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            began = perf_counter()
            loss = softmax_crossentropy(scores(weights, train_images[batch]), train_labels[batch])
            loss.backward()
            for tensor in weights.values():
                tensor.data -= LEARNING_RATE * tensor.grad
            times.append(perf_counter() - began)

    with mg.no_autodiff:
        accuracy = np.mean(scores(weights, test_images).data.argmax(axis=1) == test_labels)
    return Run(float(np.median(times)), loss.item(), float(accuracy))


def main():
    """Train with both losses and print the results."""
    parser = argparse.ArgumentParser(description="Train a MyGrad network with two losses.")
    parser.add_argument("--quick", action="store_true", help="5 epochs instead of 50")
    epochs = 5 if parser.parse_args().quick else 50

    runs = {"mygrad.nnet": train(mygrads_loss, epochs), "fastce.interop.mygrad": train(fastces_loss, epochs)}
    table = Table(title=f"{epochs} epochs, batches of {BATCH}, float32")
    table.add_column("softmax_crossentropy from")
    for heading in ("a step (µs)", "last loss", "test accuracy"):
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        table.add_row(name, f"{run.step * 1e6:.0f}", f"{run.last_loss:.5f}", f"{run.accuracy:.2%}")
    Console().print(table)

    if len({round(run.accuracy, 2) for run in runs.values()}) > 1:
        raise SystemExit("the two losses trained networks of different accuracy")


if __name__ == "__main__":
    main()
