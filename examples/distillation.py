"""Distillation
============

A large network has seen 1,000 labelled digits. A small one has labels of 60 of them, and the large one's logits for
all. ``kl_divergence_and_grad`` compares both networks' distributions, softened by a temperature.

Install ``pip install . matplotlib scikit-learn``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import fastce

CLASSES, TEMPERATURE, RATE = 10, 3.0, 0.5

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype(np.float32)
x, y, test_x, test_y = images[:1000], labels[:1000], images[1000:], labels[1000:]

# %%
# Both networks have one hidden layer. Their loss is a function of the logits.


def train(hidden_units, x, loss_and_grad, steps=300):
    """Train a network by gradient descent; return a function from images to logits, and accuracies on the way."""
    rng = np.random.default_rng(0)
    w1 = rng.normal(0, 0.2, (64, hidden_units)).astype(np.float32)
    w2 = rng.normal(0, 0.2, (hidden_units, CLASSES)).astype(np.float32)

    def logits_of(images):
        return np.maximum(images @ w1, 0) @ w2

    accuracies = []
    for step in range(steps):
        hidden = np.maximum(x @ w1, 0)
        _, d_logits = loss_and_grad(hidden @ w2)
        d_hidden = d_logits @ w2.T * (hidden > 0)
        w2 -= RATE * (hidden.T @ d_logits)
        w1 -= RATE * (x.T @ d_hidden)
        if step % 20 == 19:
            accuracies.append(fastce.evaluate(logits_of(test_x), test_y).accuracy)
    return logits_of, accuracies


# %%
# The teacher learns from labels. So does the first student, of 60 images.

teacher, taught = train(128, x, lambda logits: fastce.cross_entropy_and_grad(logits, y))
_, alone = train(12, x[:60], lambda logits: fastce.cross_entropy_and_grad(logits, y[:60]))

# %%
# The second student learns from the teacher's logits of all images, labelled or not. The gradient shrinks with the
# square of the temperature, so ``grad_output`` multiplies it by that.

teacher_logits = teacher(x)


def divergence(logits):
    """Return the divergence from the teacher, and its gradient."""
    options = {"temperature": TEMPERATURE, "grad_output": TEMPERATURE**2}
    return fastce.kl_divergence_and_grad(logits, teacher_logits, **options)


student, distilled = train(12, x, divergence)

for name, accuracies in (("teacher", taught), ("student on 60 labels", alone), ("distilled student", distilled)):
    print(f"{name:21} {accuracies[-1]:.1%} of {len(test_y)} test images")
nats = fastce.kl_divergence(student(test_x), teacher(test_x))
print(f"the student's predictions are {nats:.3f} nats from the teacher's")

# %%
# The distilled student comes close to a teacher ten times its size.

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
steps = np.arange(20, 301, 20)
for name, accuracies in {"teacher": taught, "distilled student": distilled, "student on 60 labels": alone}.items():
    axes.plot(steps, accuracies, label=name)
axes.set(xlabel="step", ylabel="accuracy on test images", ylim=(0.4, 1))
axes.grid(alpha=0.3)
axes.legend()
plt.show()
