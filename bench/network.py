"""The training loop: a two-layer NumPy network on scikit-learn's digits with a contender's loss."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

LossAndGrad = Callable[[np.ndarray, np.ndarray], tuple[Any, np.ndarray]]
HIDDEN, HELD_OUT, RATE, MOMENTUM, EPOCHS = 128, 360, 0.05, 0.9, 40


class DigitsNetwork:
    """64 pixels -> 128 ReLU -> 10 classes, SGD with momentum; the same weights and batches for every contender."""

    def __init__(self, loss_and_grad: LossAndGrad, batch: int) -> None:
        from sklearn.datasets import load_digits  # takes a second, which most processes need not spend

        rng = np.random.default_rng(7)
        images, labels = load_digits(return_X_y=True)
        order = rng.permutation(len(labels))
        images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
        self.test, self.train = (images[:HELD_OUT], labels[:HELD_OUT]), (images[HELD_OUT:], labels[HELD_OUT:])
        sizes = [(64, HIDDEN), (HIDDEN, 10)]
        weights = [rng.standard_normal(s, dtype=np.float32) * np.float32((2 / s[0]) ** 0.5) for s in sizes]
        self.parameters = [*weights, *(np.zeros(s[1], np.float32) for s in sizes)]
        self.velocity = [np.zeros_like(p) for p in self.parameters]
        self.loss_and_grad, self.batch, self.rng = loss_and_grad, batch, rng
        self.batches = self._batches()
        self.loss_seconds: list[float] = []  # of each step

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches for ever, a new order an epoch; what is left of an epoch is dropped."""
        images, labels = self.train
        while True:
            order = self.rng.permutation(len(labels))
            for i in range(0, len(order) - self.batch + 1, self.batch):
                rows = order[i : i + self.batch]
                yield images[rows], labels[rows]

    def forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden layer and the logits."""
        w1, w2, b1, b2 = self.parameters
        hidden = np.maximum(images @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def step(self) -> None:
        """Take one step of gradient descent."""
        images, labels = next(self.batches)
        hidden, logits = self.forward(images)
        start = time.perf_counter()
        _, d_logits = self.loss_and_grad(logits, labels)
        self.loss_seconds.append(time.perf_counter() - start)
        d_hidden = d_logits @ self.parameters[1].T
        d_hidden[hidden == 0] = 0
        gradients = images.T @ d_hidden, hidden.T @ d_logits, d_hidden.sum(axis=0), d_logits.sum(axis=0)
        for p, v, g in zip(self.parameters, self.velocity, gradients, strict=True):
            v *= MOMENTUM
            v -= RATE * g
            p += v

    def figures(self) -> dict[str, float]:
        """Return the seconds in the loss a step, and the accuracy of a new network after some epochs."""
        fresh = DigitsNetwork(self.loss_and_grad, self.batch)
        for _ in range(EPOCHS * (len(fresh.train[1]) // self.batch)):
            fresh.step()
        images, labels = fresh.test
        accuracy = float((fresh.forward(images)[1].argmax(axis=1) == labels).mean())
        return {"loss_seconds": float(np.median(self.loss_seconds)), "accuracy": accuracy}
