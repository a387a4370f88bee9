"""The training loop: a two-layer NumPy network on scikit-learn's digits, the loss given from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[[np.ndarray, np.ndarray], tuple[Any, np.ndarray]]

HIDDEN, HELD_OUT, RATE, MOMENTUM = 128, 360, 0.05, 0.9


class DigitsNetwork:
    """64 pixels -> 128 ReLU -> 10 classes, SGD with momentum; every contender starts from the same weights."""

    def __init__(self, loss_and_grad: Step, batch: int) -> None:
        from sklearn.datasets import load_digits  # a second to import, which only some contenders need

        rng = np.random.default_rng(7)
        images, labels = load_digits(return_X_y=True)
        order = rng.permutation(len(labels))
        images, labels = (images[order] / 16).astype(np.float32), labels[order].astype(np.int64)
        self.test = images[:HELD_OUT], labels[:HELD_OUT]
        self.train = images[HELD_OUT:], labels[HELD_OUT:]
        sizes = [(64, HIDDEN), (HIDDEN, 10)]
        weights = [rng.standard_normal(s, dtype=np.float32) * np.float32((2 / s[0]) ** 0.5) for s in sizes]
        self.parameters = [*weights, *(np.zeros(s[1], np.float32) for s in sizes)]
        self.velocity = [np.zeros_like(p) for p in self.parameters]
        self.loss_and_grad, self.batch, self.rng = loss_and_grad, batch, rng
        self.steps = len(self.train[1]) // batch
        self.loss_seconds: list[float] = []  # a step, one entry an epoch

    def forward(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the hidden layer and the logits."""
        w1, w2, b1, b2 = self.parameters
        hidden = np.maximum(images @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Take one step of gradient descent; return the seconds spent in the loss and its gradient."""
        hidden, logits = self.forward(images)
        start = time.perf_counter()
        _, d_logits = self.loss_and_grad(logits, labels)
        seconds = time.perf_counter() - start
        d_hidden = d_logits @ self.parameters[1].T
        d_hidden[hidden == 0] = 0
        gradients = images.T @ d_hidden, hidden.T @ d_logits, d_hidden.sum(axis=0), d_logits.sum(axis=0)
        for p, v, g in zip(self.parameters, self.velocity, gradients, strict=True):
            v *= MOMENTUM
            v -= RATE * g
            p += v
        return seconds

    def epoch(self) -> None:
        """Train on all images once, in an order that is the same for every contender."""
        images, labels = self.train
        order = self.rng.permutation(len(labels))
        seconds = 0.0
        for i in range(0, self.steps * self.batch, self.batch):  # a last, smaller batch is left out
            rows = order[i : i + self.batch]
            seconds += self.step(images[rows], labels[rows])
        self.loss_seconds.append(seconds / self.steps)

    def warm_up(self) -> None:
        """Wake caches and threads without learning anything."""
        images, labels = (part[: self.batch] for part in self.train)
        self.loss_and_grad(self.forward(images)[1], labels)

    def figures(self) -> dict[str, float]:
        """Return the seconds of the loss a step, and the share of held-out images recognised."""
        images, labels = self.test
        accuracy = float((self.forward(images)[1].argmax(axis=1) == labels).mean())
        return {"calls": self.steps, "loss_seconds": float(np.median(self.loss_seconds)), "accuracy": accuracy}
