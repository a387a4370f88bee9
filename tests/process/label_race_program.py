"""Calls whose labels another thread changes meanwhile; ``test_label_races`` runs this in processes of their own.

Logits, probabilities, hidden states and results lie between pages that may not be touched, those before them filled
up with bytes that must stay: what reads or writes outside is killed, or seen.
"""

import ctypes
import mmap
import threading
import time
from functools import partial

import ml_dtypes
import numba
import numpy as np

import fastce

PAGE = mmap.PAGESIZE
GUARD = 64 * PAGE  # on both sides: more than an array further
CANARY = 0xC5
SECONDS = 0.08  # of calls of one kind
OTHER_DTYPES = ("and_grad", "all options", "score")  # their kernels read labels as those of float32 do
LEAST = 3  # of them get past the check, or nothing was tried

libc = ctypes.CDLL(None)
kept = []  # (memory, bytes that must stay)

REGIMES = {
    "tiles": (((200, 10), -1), [np.float32, np.float64]),
    "tiles in parallel": (((5003, 10), -1), [np.float32]),
    "short rows": (((40, 100), -1), [np.float32, np.float16]),
    "rows": (((8, 1500), -1), [np.float32, np.float16]),
    "rows in chunks": (((4, 33_000), -1), [np.float32, np.float16]),
    "split": (((1, 66_000), -1), [np.float32]),
    "columns": (((2, 40, 300), 1), [np.float32, ml_dtypes.bfloat16]),
    "staged": (((50, 40), -1), [np.dtype(">f4")]),
}


def guarded(values, at_end):
    """A copy with untouchable pages right behind its last element, or right before its first one."""
    pages = -(-values.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, pages + 2 * GUARD)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    every = np.frombuffer(memory, np.uint8)
    every[...] = CANARY
    room, start = pages - values.nbytes, GUARD
    stays = every[start + values.nbytes : start + pages]
    if at_end:
        start += room
        stays = every[GUARD:start]
    array = np.frombuffer(memory, np.uint8, values.nbytes, start).view(values.dtype).reshape(values.shape)
    array[...] = values
    for guard in (address, address + GUARD + pages):
        assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(GUARD), 0) == 0
    kept.append((memory, stays))
    return array


@numba.njit(nogil=True)
def disturb(labels, good, bad, stop):
    """Make some labels bad and good again, for times of all lengths up to some 20 microseconds."""
    state = np.uint64(1)
    places = np.zeros(4, np.int64)
    while stop[0] == 0:
        for are_bad in (True, False):
            for k in range(places.size):
                if are_bad:
                    state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                    places[k] = (state >> np.uint64(33)) % np.uint64(labels.size)
                    labels[places[k]] = bad[(state >> np.uint64(20)) % np.uint64(bad.size)]
                else:
                    labels[places[k]] = good[places[k]]
            for _ in range(1 << ((state >> np.uint64(40)) % np.uint64(15))):
                state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        stop[1] += state & np.uint64(1)


def hammer(name, call):
    """Call for some time; errors that name a label are expected, no others."""
    passed, end = 0, time.monotonic() + SECONDS
    while time.monotonic() < end or passed < LEAST:
        assert time.monotonic() < end + 5, f"{name}: no call got past the check"
        try:
            call()
            passed += 1
        except IndexError as error:
            assert "target" in str(error), f"{name}: {error}"


def calls(shape, axis, dtype, at_end):
    """The labels, and what is called with them, by name."""
    rng = np.random.default_rng(0)
    classes, samples = shape[axis], np.empty(shape, np.bool_).take(0, axis).shape
    lay = partial(guarded, at_end=at_end)
    x, out = lay(rng.normal(size=shape).astype(dtype)), lay(np.zeros(shape, dtype))
    probs, hessian = lay((rng.random(shape) * 0.9 + 0.1).astype(dtype)), lay(np.zeros(shape, dtype))
    labels = lay(rng.integers(0, classes, samples))
    all_options = {
        "weight": rng.random(classes) + 0.5,
        "sample_weight": rng.random(samples) + 0.5,
        "label_smoothing": 0.1,
        "ignore_index": 3,
    }
    weights = {"weight": all_options["weight"], "ignore_index": classes}
    criterion = fastce.CrossEntropyLoss(axis=axis)

    def forward_and_backward():
        criterion(x, labels)
        criterion.backward()

    smoothing = {"label_smoothing": 0.1, "classes": classes + 9, "ignore_index": 3}
    good = labels.copy()

    def in_shards(options, shared):
        """The statistics of a shard that has some labels, and the gradient of one that has had all."""
        fastce.shards.statistics(x, labels, axis=axis, start=3, **options)
        stats = fastce.shards.statistics(x, good, axis=axis, **options, **shared)
        fastce.shards.cross_entropy_grad(x, labels, stats, axis=axis, start=9, out=out, **options, **shared)

    found = {
        "cross_entropy": lambda: fastce.cross_entropy(x, labels, axis=axis),
        "and_grad": lambda: fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out),
        "all options": lambda: fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out, **all_options),
        "normalizer": lambda: fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out, normalizer=2.0),
        "softcap": lambda: fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out, softcap=9.0),
        "where": lambda: fastce.cross_entropy_and_grad(x, labels, axis=axis, out=out, where=True, **all_options),
        "loss": forward_and_backward,
        "focal": lambda: fastce.focal_loss_and_grad(x, labels, gamma=2.0, alpha=weights["weight"], axis=axis, out=out),
        "from_probs": lambda: fastce.cross_entropy_from_probs_and_grad(probs, labels, axis=axis, out=out, **weights),
        "smoothed_probs": lambda: fastce.cross_entropy_from_probs(probs, labels, axis=axis, **all_options),
        "score": lambda: fastce.score(x, labels, axis=axis),
        "evaluate": lambda: fastce.evaluate((x, labels), axis=axis),
        "hessian": lambda: fastce.cross_entropy_grad_and_hessian(x, labels, axis=axis, out=out, hessian_out=hessian),
        "shards": lambda: in_shards({}, {}),
        "shards, all options": lambda: in_shards({"weight": weights["weight"]}, smoothing),
        "hvp": lambda: fastce.cross_entropy_hvp(x, labels, probs, axis=axis, out=out, **weights),
    }
    if dtype.newbyteorder("=") != np.float32:
        found = {name: found[name] for name in OTHER_DTYPES}
    return labels, classes, found


def linear_calls(at_end):
    rng = np.random.default_rng(0)
    hidden, weight = (guarded(rng.normal(size=(n, 8)).astype(np.float32), at_end) for n in (300, 700))
    d_hidden, d_weight = (guarded(np.zeros((n, 8), np.float32), at_end) for n in (300, 700))
    labels = guarded(rng.integers(0, 700, 300), at_end)
    options = {
        "class_weight": rng.random(700) + 0.5,
        "label_smoothing": 0.1,
        "d_hidden_out": d_hidden,
        "d_weight_out": d_weight,
    }
    function = fastce.linear_cross_entropy_and_grad
    return (
        labels,
        700,
        {
            "linear": lambda: function(hidden, weight, labels, **options),
            "linear in tiles": lambda: function(hidden, weight, labels, max_bytes=1, **options),
        },
    )


def run(labels, classes, found):
    """Make all calls while their labels change."""
    for call in found.values():
        call()  # compiles
    size = labels.size * classes
    bad = np.array([2**62, 2**45, -1, -(2**45), 1 - 2**62, classes, classes + 1, size, size + 5, 0, classes - 1])
    flat, stop = labels.reshape(-1), np.zeros(2, np.int64)
    writer = threading.Thread(target=disturb, args=(flat, flat.copy(), bad, stop), daemon=True)
    writer.start()
    for name, call in found.items():
        hammer(name, call)
    stop[0] = 1
    writer.join()


def main(regime):
    disturb(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones(2, np.int64))
    with np.errstate(all="ignore"):
        for at_end in (True, False):
            if regime == "linear":
                run(*linear_calls(at_end))
                continue
            (shape, axis), dtypes = REGIMES[regime]
            run(*calls(shape, axis, np.dtype(dtypes[0 if at_end else -1]), at_end))
    assert all((stays == CANARY).all() for _, stays in kept), "wrote beside an array"
    print("done")
