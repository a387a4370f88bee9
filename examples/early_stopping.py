"""Early stopping on the training criterion
========================================

A network trains on a weighted, smoothed loss. To see when it starts to overfit, the held-out samples are measured by
the same loss: ``evaluate`` takes the options of the criterion, and batches of any size. The result does not depend on
how the samples are split, so a change of the batch size never moves the epoch at which training stops.

Install ``pip install . matplotlib scikit-learn``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastce

HIDDEN, CLASSES, BATCH, RATE, PATIENCE = 64, 10, 32, 0.1, 10

# %%
# A few images to learn from, of which every tenth has a wrong label, and many to validate on. Rare digits weigh more.

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
train_x, train_y, held_x, held_y = images[:480], labels[:480].copy(), images[480:], labels[480:]
train_y[::10] = (train_y[::10] + 1) % CLASSES

counts = np.bincount(train_y, minlength=CLASSES)
options = {"weight": len(train_y) / (CLASSES * counts), "label_smoothing": 0.05}
criterion = fastce.CrossEntropyLoss(**options)

# %%
# The network: one hidden layer, updated in place.

rng = np.random.default_rng(0)
w1 = rng.normal(0, 0.2, (64, HIDDEN)).astype(np.float32)
w2 = rng.normal(0, 0.2, (HIDDEN, CLASSES)).astype(np.float32)


def step(x, target):
    """Take one step of gradient descent; return the loss before it."""
    hidden = np.maximum(x @ w1, 0)
    loss = criterion(hidden @ w2, target)
    d_logits = criterion.backward()
    d_hidden = d_logits @ w2.T * (hidden > 0)
    w2[:] -= RATE * (hidden.T @ d_logits)
    w1[:] -= RATE * (x.T @ d_hidden)
    return loss


def held_out(size):
    """Return the criterion on the held-out samples, in batches of this size."""
    parts = (slice(first, first + size) for first in range(0, len(held_y), size))
    batches = ((np.maximum(held_x[part] @ w1, 0) @ w2, held_y[part]) for part in parts)
    return fastce.evaluate(batches, **options)


# %%
# Training stops when the held-out loss has not improved for ten epochs. The best weights are kept.

training, validation, best_epoch = [], [], 0
for epoch in range(100):
    order = rng.permutation(len(train_y)).reshape(-1, BATCH)
    training.append(np.mean([step(train_x[batch], train_y[batch]) for batch in order]))
    validation.append(held_out(256).loss)
    if validation[epoch] <= validation[best_epoch]:
        best_epoch, best_weights = epoch, (w1.copy(), w2.copy())
    elif epoch - best_epoch == PATIENCE:
        break

w1, w2 = best_weights
print(f"stopped after {len(validation)} epochs, the best was epoch {best_epoch + 1}")
for size in (100, 1000):
    result = held_out(size)
    print(f"batches of {size:4}: loss {result.loss:.6f}, accuracy {result.accuracy:.2%}")

# %%
# The training loss goes on falling when the held-out loss has stopped.

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
epochs = np.arange(1, len(validation) + 1)
axes.plot(epochs, training, label="training")
axes.plot(epochs, validation, label="held out")
axes.plot(best_epoch + 1, validation[best_epoch], "oC1", label="best weights")
axes.set(xlabel="epoch", ylabel="criterion", yscale="log")
axes.grid(alpha=0.3)
axes.legend()
plt.show()
