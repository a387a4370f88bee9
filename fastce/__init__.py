"""Fast, exact cross-entropy, softmax and log-sum-exp, with gradients, on NumPy arrays."""

__version__ = "0.1.0"
