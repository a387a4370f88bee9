"""A network in PyTorch (extra: torch)
===================================

A small network learns handwritten digits in PyTorch, with PyTorch's loss and with fastce's, which runs on the CPU. One
import differs. The network learns the same.

Install ``pip install ".[torch]" scikit-learn``.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import CrossEntropyLoss as TorchsLoss

from fastce.interop.torch import CrossEntropyLoss as FastcesLoss

HIDDEN, CLASSES, BATCH, EPOCHS = 64, 10, 256, 20

images, labels = (torch.tensor(values) for values in load_digits(return_X_y=True))
images = images.float() / 16
test_images, test_labels, images, labels = images[:361], labels[:361], images[361:], labels[361:]

# %%
# The criterion takes the options of PyTorch's, such as label smoothing, and gives its gradient to autograd.


def train(criterion):
    """Train with this loss; return its last value and the accuracy on the test images."""
    torch.manual_seed(0)  # the same weights and batches whatever the loss
    network = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss = criterion(network(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (network(test_images).argmax(1) == test_labels).double().mean()
    return loss.item(), accuracy.item()


# %%
# Both criteria are made with the same options.

torch.set_num_threads(1)  # the matrices are too small for threads
results = []
for name, criterion in {"torch.nn": TorchsLoss, "fastce.interop.torch": FastcesLoss}.items():
    results.append(train(criterion(label_smoothing=0.05)))
    print(f"{name:21} last loss {results[-1][0]:.4f}, test accuracy {results[-1][1]:.1%}")
assert abs(results[0][0] - results[1][0]) < 1e-3

# %%
# The output of ``python examples/torch_training.py``::
#
#     torch.nn              last loss 0.4059, test accuracy 95.3%
#     fastce.interop.torch  last loss 0.4059, test accuracy 95.3%
