"""Digests of the results of all public functions in portable mode, which every processor has to come to.

    FASTCE_PORTABLE=1 python -m tests.bits.digest [--write] [--only EXPRESSION]

compares them with ``digest.txt`` and lists those that differ, or writes that file. Logits, targets and weights
are made by integer arithmetic, and rounded once. All NaN count as one: their signs are the processor's.
"""

import argparse
import hashlib
import math
import re
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

import fastce
from fastce.kernels.codegen.target import PORTABLE
from tests.functions import CALLS, DIGESTED, SHARD_CALLS

COMMITTED = Path(__file__).with_suffix(".txt")
DTYPES = {
    "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32), "float64": np.dtype(np.float64),
}  # fmt: skip
# The shape and the class axis. In these names, "rows" are long rows of one chunk; "long rows" have several chunks.
REGIMES = {
    "tiles of 3": ((37, 3), -1),
    "tiles": ((37, 10), -1),
    "short rows": ((21, 45), -1),
    "rows": ((5, 2600), -1),
    "long rows": ((9, 40_001), -1),
    "split": ((1, 70_001), -1),
    "columns": ((2, 37, 19), 1),
    "staged": ((23, 45), -1),  # big-endian
}

# inputs like the logits: the seed of each, and its greatest number
LIKE_LOGITS = {
    "b": (12, 2.0),
    "g": (13, 2.0),
    "soft_of_probs": (14, 1.0),
    "share": (15, 1.0),
    "teacher": (18, 9.0),
    "v": (19, 2.0),
}


def _integers(count, seed):
    """Integers from 0 to 2**24 that follow no pattern."""
    x = np.arange(count, dtype=np.uint64) + np.uint64(seed << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(40)).astype(np.int64)


class Inputs:
    """The arguments of all functions, for one regime and dtype."""

    def __init__(self, regime, dtype):
        shape, self.axis = REGIMES[regime]
        self.shape, self.dtype, self.classes = shape, DTYPES[dtype], shape[self.axis]
        self.is_staged = regime == "staged"
        self.samples = tuple(n for i, n in enumerate(shape) if i != self.axis % len(shape))
        self.x = self.array(1, 16.0) - self.array(2, 8.0)
        self.x = self.stage(self.x.astype(self.dtype))
        self.labels = _integers(math.prod(self.samples), 3).reshape(self.samples) % self.classes

    def array(self, seed, greatest, shape=None):
        """Numbers from 0 to ``greatest`` in float64."""
        shape = self.shape if shape is None else shape
        return _integers(math.prod(shape), seed).reshape(shape) * (greatest / 2.0**24)

    def stage(self, x):
        return x.astype(x.dtype.newbyteorder(">")) if self.is_staged and x.dtype != DTYPES["bfloat16"] else x

    def like_logits(self, seed, greatest):
        return self.stage(self.array(seed, greatest).astype(self.dtype))

    @property
    def soft(self):
        return self.like_logits(4, 2.0 / self.classes)

    p = soft

    @property
    def weight(self):
        return self.array(5, 2.0, (self.classes,))

    @property
    def sample_weight(self):
        return self.array(6, 2.0, self.samples)

    @property
    def g_samples(self):
        return self.sample_weight.astype(self.dtype)

    @property
    def ignoring(self):
        return np.where(_integers(self.labels.size, 7).reshape(self.samples) % 4 == 0, -100, self.labels)

    @property
    def mask(self):
        return self.array(8, 1.0) < 0.9

    @property
    def lse(self):
        return fastce.logsumexp(self.x, self.axis)

    @property
    def element_weight(self):
        return self.array(16, 2.0)

    @property
    def pos_weight(self):
        return self.array(17, 2.0)

    def __getattr__(self, name):
        if name not in LIKE_LOGITS:
            raise AttributeError(name)
        return self.like_logits(*LIKE_LOGITS[name])

    # of the last layer, whose products are exact: the order in which a BLAS adds them plays no part

    @property
    def hidden(self):
        return (_integers(37 * 8, 9).reshape(37, 8) % 16 - 8).astype(self.dtype)

    @property
    def layer_weight(self):
        return ((_integers(300 * 8, 10).reshape(300, 8) % 16 - 8) * 0.125).astype(self.dtype)

    @property
    def layer_labels(self):
        return _integers(37, 11) % 300


ONE_REGIME = ("linear",)
# options of 16-bit floats, which are float32 in registers
OPTIONS_OF_HALVES = ("cross_entropy options", "cross_entropy bent", "cross_entropy soft", "cross_entropy ignoring")


def _digest(results):
    found = hashlib.sha256()
    for result in results:
        array = np.array(result)  # a copy
        array = array.astype(array.dtype.newbyteorder("="))
        if array.dtype.kind not in "biu":
            array[array != array] = np.nan
        if array.dtype.itemsize == 2:
            array[array != array] = np.array(np.nan, array.dtype)
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def names():
    """All combinations of a call, a regime and a dtype; of 16-bit floats those without most options."""
    for dtype, kind in DTYPES.items():
        for call in DIGESTED:
            if kind.itemsize == 2 and " " in call and call not in OPTIONS_OF_HALVES:
                continue
            for regime in REGIMES:
                if call not in ONE_REGIME or regime == "tiles":
                    yield f"{call} | {regime} | {dtype}"


def digest(name):
    """The digest of the results of one combination."""
    call, regime, dtype = name.split(" | ")
    results = (CALLS | SHARD_CALLS)[call].on(Inputs(regime, dtype))
    return _digest(results[:4] if call == "evaluate" else results)


def committed():
    """The digests of the file, by name."""
    return dict(line.rsplit(" | ", 1) for line in COMMITTED.read_text().splitlines())


def compare(expression):
    """Print which of the combinations with the expression in their names differ from the file; return whether none."""
    chosen = [name for name in names() if re.search(expression, name)]
    assert chosen, f"no name has {expression!r} in it"
    expected, differing = committed(), 0
    for name in chosen:
        found = digest(name)
        if found != expected.get(name):
            differing += 1
            print(f"{name}: {found}, not {expected.get(name)}", flush=True)
    print(f"{len(chosen)} combinations, {differing} of them differ")
    return not differing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the file instead of comparing with it")
    parser.add_argument("--only", default="", metavar="EXPRESSION", help="names with this regular expression in them")
    arguments = parser.parse_args()
    if not PORTABLE:
        sys.exit("set FASTCE_PORTABLE=1: other modes have other bits on some processors")
    if arguments.write:
        COMMITTED.write_text("".join(f"{name} | {digest(name)}\n" for name in names()))
        return
    sys.exit(0 if compare(arguments.only) else 1)


if __name__ == "__main__":
    main()
