"""What the tests of the last layer share: a problem, options, regimes, and comparison."""

import numpy as np

N, D, V = 300, 17, 43
CHUNKED = {"max_bytes": 1}  # chunks of as few rows as there ever are
REGIMES = ("one chunk", "chunks", "tiles")
NAMES = ("loss", "d_hidden", "d_weight", "d_bias")
SAMPLE_WEIGHT = np.where(np.arange(N) % 5 == 2, 0.0, np.linspace(0.5, 2, N))  # a fifth of the samples left out
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "class weights": {"class_weight": np.linspace(0.25, 2, V)},
    "both": {"class_weight": np.linspace(0.25, 2, V), "label_smoothing": 0.3},
    "z-loss": {"z_loss": 0.01},
    "softcap": {"softcap": 2.0},
    "logit scale": {"logit_scale": -1.5},
    "scale and cap": {"logit_scale": 0.5, "softcap": 2.0},
    "sample weights": {"sample_weight": SAMPLE_WEIGHT},
    "all weights": {"sample_weight": SAMPLE_WEIGHT, "class_weight": np.linspace(0.25, 2, V), "label_smoothing": 0.3},
    "weighted z-loss": {"sample_weight": SAMPLE_WEIGHT, "z_loss": 0.02, "logit_scale": 0.7, "softcap": 3.0},
    "all": {"class_weight": np.linspace(0.25, 2, V), "label_smoothing": 0.1, "z_loss": 0.02, "softcap": 3.0},
    "normalizer": {"normalizer": 77.0},
    "ignored class": {"ignore_index": 3},
}


def make_problem(rng):
    """(hidden, weight, bias, target): more rows than a chunk has, a third of them ignored."""
    target = np.where(rng.random(N) < 0.3, -100, rng.integers(0, V, N))
    return rng.normal(size=(N, D)), rng.normal(size=(V, D)) / 3, rng.normal(size=V), target


def in_dtype(problem, dtype):
    return *(x.astype(dtype) for x in problem[:3]), problem[3]


def enter(regime, monkeypatch):
    """The options that lead to a regime: all rows at once, chunks of rows, or chunks in tiles of a few classes."""
    if regime == "tiles":
        monkeypatch.setattr("fastce.linear.chunks.MIN_TILE", (16, 10))
    return {} if regime == "one chunk" else CHUNKED


def assert_close(actual, expected, rtol, message=""):
    """Within ``rtol`` of the greatest element."""
    for name, ours, theirs in zip(NAMES, actual, expected, strict=True):
        if ours is None:
            continue
        assert np.shape(ours) == np.shape(theirs), f"{message} {name}"
        wide, theirs = np.asarray(ours).astype(np.float64), np.asarray(theirs).astype(np.float64)
        scale = np.max(np.abs(theirs), initial=1e-300)
        np.testing.assert_allclose(wide, theirs, rtol=0, atol=rtol * scale, err_msg=f"{message} {name}")
