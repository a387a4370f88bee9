"""Digits in NumPy, with two losses
================================

A network of one hidden layer learns handwritten digits in plain NumPy. It is trained twice, from the same weights on
the same batches. First with the textbook's loss, spelled out in NumPy, then with the one call that replaces it. The
network learns the same, in less time.

Install ``pip install . matplotlib scikit-learn``. Run ``python examples/train_digits.py --quick`` for 10 epochs.
"""

import sys
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastce

EPOCHS = 10 if "--quick" in sys.argv else 50
HIDDEN, CLASSES, BATCH, RATE = 64, 10, 128, 0.2

# %%
# Each loss takes logits and labels. It returns the mean loss and the gradient of the logits.


def textbook(logits, target):
    """Return the mean cross-entropy and its gradient, as NumPy code usually spells them."""
    n = len(target)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = exponentials / exponentials.sum(axis=1, keepdims=True)
    loss = -np.log(probs[np.arange(n), target]).mean()
    probs[np.arange(n), target] -= 1
    return loss, probs / n


def fused(logits, target):
    """Return the same from fastce. The gradient overwrites the logits, which nothing else needs."""
    return fastce.cross_entropy_and_grad(logits, target, out=logits)


# %%
# The data are 1,797 images of 8 × 8 pixels, a fifth of which are kept for the test.

images, labels = load_digits(return_X_y=True)
order = np.random.default_rng(1).permutation(len(images))
images, labels = (images[order] / 16).astype(np.float32), labels[order]
split = len(images) // 5
test_images, test_labels, images, labels = images[:split], labels[:split], images[split:], labels[split:]


def train(loss_and_grad):
    """Train by gradient descent; return the test logits, the last loss, and medians of a step and the loss in it."""
    rng = np.random.default_rng(0)
    w1 = rng.normal(0, np.sqrt(2 / 64), (64, HIDDEN)).astype(np.float32)
    w2 = rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)).astype(np.float32)
    b1, b2 = np.zeros(HIDDEN, np.float32), np.zeros(CLASSES, np.float32)
    loss_and_grad(np.zeros((BATCH, CLASSES), np.float32), labels[:BATCH])  # compiles, or loads compiled kernels
    steps, in_loss = [], []
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            x, target = images[batch], labels[batch]
            began = perf_counter()
            hidden = np.maximum(x @ w1 + b1, 0)
            logits = hidden @ w2 + b2
            before = perf_counter()
            loss, d_logits = loss_and_grad(logits, target)
            after = perf_counter()
            d_hidden = d_logits @ w2.T * (hidden > 0)
            w2 -= RATE * (hidden.T @ d_logits)
            b2 -= RATE * d_logits.sum(axis=0)
            w1 -= RATE * (x.T @ d_hidden)
            b1 -= RATE * d_hidden.sum(axis=0)
            steps.append(perf_counter() - began)
            in_loss.append(after - before)
    return np.maximum(test_images @ w1 + b1, 0) @ w2 + b2, loss, np.median(steps), np.median(in_loss)


print(f"{EPOCHS} epochs, batches of {BATCH}    a step   in the loss   last loss   test accuracy")
accuracies = {}
for name, loss_and_grad in {"textbook NumPy": textbook, "fastce": fused}.items():
    logits, loss, step, in_loss = train(loss_and_grad)
    accuracies[name] = fastce.evaluate(logits, test_labels).accuracy
    print(f"{name:26} {step * 1e6:6.0f} µs {in_loss * 1e6:10.0f} µs {loss:11.5f} {accuracies[name]:15.2%}")

assert len(set(accuracies.values())) == 1, "the two losses trained networks of different accuracy"

# %%
# ``score`` gives the log-probability of each label. The lowest ones show which digits the network finds hardest.

scores = fastce.score(logits, test_labels)
figure, panels = plt.subplots(2, 4, figsize=(8, 4), layout="constrained")
for axes, index in zip(panels.flat, np.argsort(scores.log_prob), strict=False):
    axes.imshow(test_images[index].reshape(8, 8), cmap="gray")
    axes.set_title(f"{test_labels[index]}, read as {scores.argmax[index]}")
    axes.axis("off")
plt.show()
