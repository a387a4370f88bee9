"""A network in MyGrad (extra: mygrad)
===================================

A small network learns handwritten digits in MyGrad, with MyGrad's loss and with fastce's. One import differs. The
network learns the same, in less time.

Install ``pip install ".[mygrad]" matplotlib scikit-learn``.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import mygrad as mg
import numpy as np
from mygrad.nnet import softmax_crossentropy as mygrads_loss
from sklearn.datasets import load_digits

from fastce.interop.mygrad import softmax_crossentropy as fastces_loss

HIDDEN, CLASSES, BATCH, EPOCHS, RATE = 64, 10, 256, 20, 0.2

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
test_images, test_labels, images, labels = images[:361], labels[:361], images[361:], labels[361:]

# %%
# The same weights and batches whatever the loss.


def train(softmax_crossentropy):
    """Train by gradient descent; return the losses, the median seconds of a step, and the test accuracy."""
    rng = np.random.default_rng(0)
    w1 = mg.tensor(rng.normal(0, np.sqrt(2 / 64), (64, HIDDEN)).astype(np.float32))
    w2 = mg.tensor(rng.normal(0, np.sqrt(2 / HIDDEN), (HIDDEN, CLASSES)).astype(np.float32))
    losses, times = [], []
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            batch = order[first : first + BATCH]
            began = perf_counter()
            scores = mg.maximum(images[batch] @ w1, 0) @ w2
            loss = softmax_crossentropy(scores, labels[batch])
            loss.backward()
            for weights in (w1, w2):
                weights.data -= RATE * weights.grad
            times.append(perf_counter() - began)
            losses.append(loss.item())
    with mg.no_autodiff:
        scores = mg.maximum(test_images @ w1, 0) @ w2
    return losses, np.median(times), np.mean(scores.data.argmax(axis=1) == test_labels)


runs = {"mygrad.nnet": train(mygrads_loss), "fastce.interop.mygrad": train(fastces_loss)}
print(f"{'loss from':22} {'a step':>9} {'last loss':>10} {'accuracy':>9}")
for name, (losses, seconds, accuracy) in runs.items():
    print(f"{name:22} {seconds * 1e6:6.0f} µs {losses[-1]:10.5f} {accuracy:9.2%}")

# %%
# The curves lie on each other.

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for (name, (losses, _, _)), width in zip(runs.items(), (5, 1.5), strict=True):
    axes.plot(losses, label=name, linewidth=width)
axes.set(xlabel="step", ylabel="loss")
axes.grid(alpha=0.3)
axes.legend()
plt.show()

np.testing.assert_allclose(*(losses for losses, _, _ in runs.values()), rtol=1e-3)
