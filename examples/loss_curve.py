"""The loss and its gradient
=========================

Two-class logits (z, 0) whose first class is true give it the probability p = 1 / (1 + exp(-z)). The loss is -ln p. Its
gradient is p - 1 for the true class and 1 - p for the other.

Install ``pip install . matplotlib``.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastce

# %%
# One call gives the loss and the gradient of every point. ``reduction="none"`` keeps them apart.

logits = np.zeros((401, 2))
logits[:, 0] = np.linspace(-6, 6, len(logits))
target = np.zeros(len(logits), dtype=np.intp)

loss, grad = fastce.cross_entropy_and_grad(logits, target, reduction="none")
probability = fastce.softmax(logits)[:, 0]

for index in (0, 200, 400):
    print(f"p = {probability[index]:.4f}   loss = {loss[index]:.4f}   gradient = {grad[index, 0]:+.4f}")

# %%
# A wrong prediction costs the more the surer it is, without limit. The gradient has a limit: it never exceeds 1.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
left.plot(probability, loss)
left.plot(0.5, np.log(2), "oC0")
left.annotate("undecided: ln 2", (0.5, np.log(2)), (8, 8), textcoords="offset points")
left.set(title="Cross-entropy", ylabel="loss (nats)", ylim=(0, 6))
right.plot(probability, grad[:, 0], label="true class: p − 1")
right.plot(probability, grad[:, 1], label="other class: 1 − p")
right.set(title="Gradient of the logits", ylabel="gradient", ylim=(-1.05, 1.05))
right.legend()
for axes in (left, right):
    axes.set(xlabel="predicted probability p of the true class", xlim=(0, 1))
    axes.grid(alpha=0.3)
plt.show()
