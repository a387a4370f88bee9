"""Inputs of all functions: objects with an attribute for each kind of argument; see ``tests.functions``."""

import numpy as np

import fastce
from tests.helpers import computed


def _values(x):
    return np.asarray(x).astype(np.float64)


class RowInputs:
    """Targets and weights that depend on each row's values alone.

    So a row can be compared with itself in another batch, layout or place. Only operations that round alike in every
    layout are used.
    """

    def __init__(self, x, axis=-1):
        self.x, self.axis = x, axis
        self.classes = np.shape(x)[axis] if np.ndim(x) else 1

    @property
    def dtype(self):
        """The dtype of losses."""
        dtype = np.asarray(self.x).dtype
        return np.float64 if dtype.kind in "biu" else computed(dtype)

    @property
    def p(self):
        """The first argument of functions of probabilities, which tests make probabilities."""
        return self.x

    @property
    def labels(self):
        return np.argsort(_values(self.x), axis=self.axis, kind="stable").take(self.classes // 2, self.axis)

    @property
    def ignoring(self):
        labels = self.labels
        return np.where(labels % 4 == 3, -100, labels)

    @property
    def share(self):
        size = np.abs(_values(self.x))
        return (size / (1 + size)).astype(self.dtype)

    @property
    def soft(self):
        size = np.abs(_values(self.x))
        return (size / (1 + size) * (2 / self.classes)).astype(self.dtype)

    @property
    def weight(self):
        return np.linspace(0.5, 2, self.classes)

    @property
    def sample_weight(self):
        return 1 + np.abs(_values(self.x).take(0, self.axis)) % 1

    @property
    def g(self):
        return np.flip(self.x, self.axis).copy()

    teacher = v = g

    @property
    def b(self):
        return np.abs(self.g)

    @property
    def g_samples(self):
        return self.x.take(0, self.axis)

    @property
    def lse(self):
        return fastce.logsumexp(self.x, self.axis)

    @property
    def mask(self):
        return self.x > -4


SAMPLES, CLASSES, FEATURES = 6, 5, 3


class FewInputs:
    """A few positive numbers for each argument, logits and their like in ``dtype``; made anew whenever asked for."""

    axis = -1

    def __init__(self, dtype):
        self.dtype = dtype

    def _numbers(self, *shape, dtype=None):
        rng = np.random.default_rng(len(shape))
        return (rng.random(shape) + 0.1).astype(self.dtype if dtype is None else dtype)

    @property
    def x(self):
        return self._numbers(SAMPLES, CLASSES)

    @property
    def p(self):
        return (self._numbers(SAMPLES, CLASSES, dtype=np.float64) / 2.0).astype(self.dtype)

    @property
    def g(self):
        return self._numbers(SAMPLES, CLASSES, dtype=np.float64)

    b = soft = soft_of_probs = share = element_weight = v = upstream_elements = g

    @property
    def teacher(self):
        return np.flip(self.g, -1).copy()

    @property
    def labels(self):
        return np.arange(SAMPLES) % CLASSES

    layer_labels = labels

    @property
    def ignoring(self):
        return np.where(self.labels == 3, -100, self.labels)

    @property
    def one_hot(self):
        return np.eye(CLASSES, dtype=int)[self.labels]

    @property
    def weight(self):
        return self._numbers(CLASSES, dtype=np.float64)

    pos_weight = layer_class_weight = weight

    @property
    def sample_weight(self):
        return self._numbers(SAMPLES, dtype=np.float64)

    g_samples = upstream = sample_weight

    @property
    def lse(self):
        return self._numbers(SAMPLES)

    @property
    def mask(self):
        return np.arange(SAMPLES * CLASSES).reshape(SAMPLES, CLASSES) % 7 != 5

    @property
    def hidden(self):
        return self._numbers(SAMPLES, FEATURES)

    @property
    def layer_weight(self):
        return self._numbers(CLASSES, FEATURES)

    @property
    def bias(self):
        return self._numbers(CLASSES)
