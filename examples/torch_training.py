"""Train a small network on handwritten digits in PyTorch, with PyTorch's loss and with fastce's.

The network (64 pixels, 64 hidden units, 10 digits), its initial weights and the order of the batches are the same both
times. Only one import differs. The table shows that the network learns the same, and the times of a step (the whole
forward and backward pass, and the update) and of the loss in it, with its backward pass.

    python examples/torch_training.py           40 epochs
    python examples/torch_training.py --quick   5 epochs
"""

import argparse
from time import perf_counter
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import CrossEntropyLoss as TorchsLoss
from torch.utils.data import DataLoader, TensorDataset, random_split

from fastce.interop.torch import CrossEntropyLoss as FastcesLoss

HIDDEN, CLASSES, BATCH = 64, 10, 256
SMOOTHING = 0.05


class Run(NamedTuple):
    """What one training run showed: median seconds of a step and of the loss, last loss, test accuracy."""

    step: float
    in_loss: float
    last_loss: float
    accuracy: float


def load():
    """Split scikit-learn's 1797 images into a training set and a fifth for the test."""
    images, labels = load_digits(return_X_y=True)
    digits = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))
    return random_split(digits, (0.8, 0.2))


def train(criterion, epochs):
    """Train with this loss and measure."""
    torch.manual_seed(0)  # the same split, weights and batches whatever the loss
    train_set, test_set = load()
    network = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2, momentum=0.9)
    # The first call compiles the kernels or reads them from disk: no part of a training step.
    criterion(torch.zeros(BATCH, CLASSES, requires_grad=True), torch.zeros(BATCH, dtype=torch.long)).backward()

    steps, in_loss = [], []
    for _ in range(epochs):
        for images, labels in DataLoader(train_set, BATCH, shuffle=True, drop_last=True):
            began = perf_counter()
            optimizer.zero_grad()
            loss = criterion(network(images), labels)
            loss.backward()
            optimizer.step()
            steps.append(perf_counter() - began)

            logits = network(images).detach().requires_grad_()
            began = perf_counter()
            criterion(logits, labels).backward()
            in_loss.append(perf_counter() - began)

    images, labels = next(iter(DataLoader(test_set, len(test_set))))
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).double().mean()
    medians = (torch.tensor(times).median().item() for times in (steps, in_loss))
    return Run(*medians, loss.item(), accuracy.item())


def main():
    """Train with both losses and print the results."""
    parser = argparse.ArgumentParser(description="Train a PyTorch network with two losses.")
    parser.add_argument("--quick", action="store_true", help="5 epochs instead of 40")
    epochs = 5 if parser.parse_args().quick else 40

    torch.set_num_threads(1)  # the matrices are too small for threads
    losses = {"torch.nn": TorchsLoss, "fastce.interop.torch": FastcesLoss}
    runs = {name: train(loss(label_smoothing=SMOOTHING), epochs) for name, loss in losses.items()}
    table = Table(title=f"{epochs} epochs, batches of {BATCH}, float32")
    table.add_column("loss from", no_wrap=True)
    for heading in ("a step (µs)", "the loss (µs)", "last loss", "accuracy"):
        table.add_column(heading, justify="right")
    for name, run in runs.items():
        times = f"{run.step * 1e6:.0f}", f"{run.in_loss * 1e6:.0f}"
        table.add_row(name, *times, f"{run.last_loss:.5f}", f"{run.accuracy:.2%}")
    Console().print(table)

    if len({round(run.accuracy, 2) for run in runs.values()}) > 1:
        raise SystemExit("the two losses trained networks of different accuracy")


if __name__ == "__main__":
    main()
