"""Programs for ``mpirun``: ``python -m tests.interop.mpi_cases NAME``. Rank 0 prints what they found, as JSON."""

import itertools
import json
import sys
import time

import ml_dtypes
import numba
import numpy as np
from mpi4py import MPI

import fastce
from fastce.interop import mpi, mpi_ranks
from tests.shards import part

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


def edges(classes, kind):
    """Where shards end: evenly, or with an empty one."""
    if kind == "empty":
        return [0, *[min(1, classes)] * (SIZE - 1), classes]
    return [classes * rank // SIZE for rank in range(SIZE + 1)]


def eps_of(actual, expected, size=None):
    """The greatest error in eps, 0 for the same values; relative to ``size`` or the values."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, (actual.dtype, expected.dtype)
    eps = float(ml_dtypes.finfo(expected.dtype).eps)
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    size = np.maximum(np.abs(expected), 0 if size is None else size)
    with np.errstate(all="ignore"):
        error = np.where(same, 0.0, np.abs(actual - expected) / size)
    return float(error.max(initial=0.0)) / eps


def same_everywhere(*values):
    """Whether these have the same bits on all ranks."""
    content = b"".join(np.asarray(value).tobytes() for value in values)
    return len(set(COMM.allgather(content))) == 1


def greatest(value):
    return COMM.allreduce(value, MPI.MAX)


# --- results ------------------------------------------------------------------------------------

FLOATS = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("bfloat16", "float32", "float64")}
# none of the options or all of them, as each combination has kernels of its own, which take time to compile
ALL = {"label_smoothing": 0.1, "z_loss": 0.01, "logit_scale": 0.75, "softcap": 9.0}
WEIGHTS = ("weight", "sample_weight")
# name: (shape, axis, dtype, where shards end, soft target, options, arrays among them)
CASES = {
    "512x50257": ((512, 50257), -1, "float32", "even", False, {}, ()),
    "256x131072": ((256, 131072), -1, "float32", "even", False, {}, ()),
    "plain": ((37, 101), -1, "float32", "even", False, {}, ()),
    "float64": ((37, 101), -1, "float64", "even", False, {}, ()),
    "empty": ((37, 101), -1, "float32", "empty", False, {}, ()),
    "two classes": ((9, 2), -1, "float32", "even", False, {}, ()),
    "no samples": ((0, 5), -1, "float32", "even", False, {"reduction": "none"}, ()),
    "all": ((37, 101), -1, "float32", "even", False, ALL, WEIGHTS),
    "all, empty": ((37, 101), -1, "float32", "empty", False, ALL, WEIGHTS),
    "all bfloat16": ((37, 101), -1, "bfloat16", "even", False, ALL, WEIGHTS),
    "sum": ((37, 101), -1, "float32", "even", False, {**ALL, "reduction": "sum", "ignore_index": 3}, WEIGHTS),
    "none": ((37, 101), -1, "float32", "even", False, {**ALL, "reduction": "none"}, (*WEIGHTS, "grad_output")),
    "normalizer": ((37, 101), -1, "float32", "even", False, {"normalizer": 1000.0, "ignore_index": None}, ()),
    "axis": ((3, 101, 7), 1, "float32", "even", False, {}, WEIGHTS),
    "probabilities": ((37, 101), -1, "float32", "even", True, ALL, WEIGHTS),
    "probabilities, none": ((3, 7, 101), -1, "float32", "even", True, {**ALL, "reduction": "none"}, WEIGHTS),
}


def inputs(name):
    shape, axis, dtype, _, is_soft, options, arrays = CASES[name]
    rng = np.random.default_rng(abs(sum(map(ord, name))))
    classes = shape[axis]
    samples = tuple(np.delete(shape, axis))
    x = (rng.standard_normal(shape, dtype=np.float32) * 3).astype(FLOATS[dtype])
    target = rng.integers(0, classes, samples)
    if is_soft:
        target = rng.random(shape).astype(np.float32)
    elif options.get("ignore_index", -100) is not None and target.size:
        target.flat[0] = options.get("ignore_index", -100)
    for array in arrays:
        options = {**options, array: rng.random(classes if array == "weight" else samples)}
    return x, target, options


def dealt(name):
    """Each rank's part of a case, and of the results of one process, which rank 0 computes."""
    if RANK:
        while not COMM.iprobe(source=0):
            time.sleep(0.002)  # a rank that waits in MPI keeps a core busy
        return COMM.recv(source=0)
    _, axis, _, kind, is_soft, _, _ = CASES[name]
    x, target, options = inputs(name)
    loss, grad = fastce.cross_entropy_and_grad(x, target, axis=axis, **options)
    size = np.abs(np.asarray(grad, np.float64)).max(axis, keepdims=True, initial=0)
    parts = []
    for start, stop in itertools.pairwise(edges(x.shape[axis], kind)):
        mine = {key: value[start:stop] if key == "weight" else value for key, value in options.items()}
        given = part(target, axis, start, stop) if is_soft else target
        parts.append((start, part(x, axis, start, stop), given, mine, loss, part(grad, axis, start, stop), size))
    for rank in range(1, SIZE):
        COMM.send(parts[rank], dest=rank)
    return parts[0]


def check(name):
    """Greatest errors, in eps, of loss and gradient against one process, and whether all ranks have the same bits."""
    axis = CASES[name][1]
    start, x, target, options, whole_loss, whole_grad, size = dealt(name)
    loss, grad = mpi.vocab_parallel_cross_entropy_and_grad(x, target, axis=axis, **options)
    options.pop("grad_output", None)
    alone = mpi.vocab_parallel_cross_entropy(x, target, axis=axis, start=start, **options)
    assert np.array_equal(alone, loss, equal_nan=True)
    return {
        "loss": eps_of(loss, whole_loss),
        "grad": greatest(eps_of(grad, whole_grad, size)),
        "same": same_everywhere(loss),
    }


def confident():
    """The loss of a row with the label's logit 60 and others of about 0, with its gradient at the label."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 50257), dtype=np.float32)
    x[:, 7] = 60
    ends = edges(50257, "even")
    loss, grad = mpi.vocab_parallel_cross_entropy_and_grad(x[:, ends[RANK] : ends[RANK + 1]], [7] * 4, reduction="none")
    expected = fastce.cross_entropy_and_grad(x, [7] * 4, reduction="none")
    at_label = eps_of(grad[:, 7], expected.grad[:, 7]) if RANK == 0 else 0.0
    return {"loss": eps_of(loss, expected.loss), "value": float(loss[0]), "grad": at_label}


VECTORS = ("bias", "class_weight", "sample_weight")
# name: (dtype of hidden, of the weights, options, arrays among them)
LINEAR = {
    "plain": ("float32", "float32", {}, ()),
    "chunks": ("float32", "float32", {"max_bytes": 3000}, ()),
    "all": ("float32", "float32", {**ALL, "max_bytes": 5000}, VECTORS),
    "none": ("float32", "float32", {**ALL, "reduction": "none"}, (*VECTORS, "grad_output")),
    "normalizer": ("float32", "float32", {**ALL, "normalizer": 7.0, "ignore_index": 3}, VECTORS),
    "mixed": ("float32", "float64", {}, ("bias",)),
    "bfloat16": ("bfloat16", "bfloat16", {"max_bytes": 4000}, ("bias",)),
    "empty": ("float32", "float32", ALL, ("bias", "class_weight")),
}


def check_linear(name):
    """Greatest differences to one process, as multiples of what is expected, and whether all have the same bits."""
    first, second, options, arrays = LINEAR[name]
    rng = np.random.default_rng(5)
    classes, samples = 101, (3, 13)
    hidden = rng.normal(size=(*samples, 17)).astype(FLOATS[first])
    weight = rng.normal(size=(classes, 17)).astype(FLOATS[second])
    target = rng.integers(0, classes, samples)
    target[1, 2] = options.get("ignore_index", -100)
    if "sample_weight" in arrays:
        hidden[2, 3] = np.nan  # left out by a weight of 0
    for array in arrays:
        drawn = rng.random(samples if array in ("sample_weight", "grad_output") else classes)
        if array == "sample_weight":
            drawn[2, 3] = 0
        elif array == "class_weight":
            drawn[::3] = 0  # which leave samples out, but for label smoothing and z-loss
        options = {**options, array: drawn.astype(weight.dtype) if array == "bias" else drawn}
    ends = edges(classes, "empty" if name == "empty" else "even")
    mine = {
        key: value[ends[RANK] : ends[RANK + 1]] if key in ("bias", "class_weight") else value
        for key, value in options.items()
    }
    expected = fastce.linear_cross_entropy_and_grad(hidden, weight, target, **options)
    result = mpi.vocab_parallel_linear_cross_entropy_and_grad(
        hidden, weight[ends[RANK] : ends[RANK + 1]], target, **mine
    )
    found = {"same": same_everywhere(result.loss, result.d_hidden, result.lse, result.z_loss)}
    for field in ("loss", "lse", "z_loss", "d_hidden", "d_weight", "d_bias"):
        actual, value = getattr(result, field), getattr(expected, field)
        if value is None:
            assert actual is None
            continue
        if field in ("d_weight", "d_bias"):
            value = value[ends[RANK] : ends[RANK + 1]]
        size = np.abs(np.asarray(getattr(expected, field), np.float64))
        found[field] = greatest(eps_of(actual, value, np.nanmax(size) if size.size else None))
    return found


def normalizers():
    """The denominators of means over the samples of all ranks, and the loss that they give."""
    rng = np.random.default_rng(3)
    x, target, weight = rng.normal(size=(40, 7)), rng.integers(0, 7, 40), rng.random(7)
    target[::9] = -100
    ends = edges(40, "even")
    mine = slice(ends[RANK], ends[RANK + 1])
    normalizer = mpi.global_normalizer(target[mine], weight=weight)
    loss = fastce.cross_entropy(x[mine], target[mine], weight=weight, normalizer=normalizer)
    whole = fastce.cross_entropy(x, target, weight=weight)
    counted = mpi.global_normalizer(target[mine]) == np.count_nonzero(target >= 0)
    weights = rng.random(40)
    sums = mpi.global_normalizer(target[mine], sample_weight=weights[mine])
    return {
        "loss": abs(COMM.allreduce(loss) - whole),
        "counted": counted,
        "weighted": abs(sums - weights[target >= 0].sum()),
        "same": same_everywhere(normalizer, sums),
    }


def results():
    found = {"cases": {name: check(name) for name in CASES}, "confident": confident()}
    found["linear"] = {name: check_linear(name) for name in LINEAR}
    found["normalizers"] = normalizers()
    mpi_ranks.GATHER_RANKS = 0  # the same by an Allreduce that merges on the way
    names = ["plain", "empty", "all", "probabilities", "no samples"]
    found["merged on the way"] = {name: check(name) for name in names}
    mpi_ranks.GATHER_RANKS = 64
    return found


# --- errors -------------------------------------------------------------------------------------


def error_of(call):
    """Class and text of the error of a call on each rank."""
    try:
        call()
    except Exception as error:
        return COMM.allgather([type(error).__name__, str(error)])
    return COMM.allgather(None)


def errors():
    """The error of each rank, for calls that are wrong on all ranks or on the last."""
    x, y = np.zeros((5, 3), np.float32), np.arange(5)
    is_last = RANK == SIZE - 1
    loss, both = mpi.vocab_parallel_cross_entropy, mpi.vocab_parallel_cross_entropy_and_grad
    linear = mpi.vocab_parallel_linear_cross_entropy_and_grad
    h, w = np.zeros((5, 2), np.float32), np.zeros((3, 2), np.float32)
    side = COMM.Split(is_last)
    between = side.Create_intercomm(0, COMM, 0 if is_last else SIZE - 1)
    calls = {
        "a bad label": lambda: both(x, np.array([0, 1, 3 * SIZE, 0, 0])),
        "a bad label, linear": lambda: linear(h, w, np.array([0, 1, 3 * SIZE, 0, 0])),
        "shape": lambda: loss(x[:4] if is_last else x, y),
        "target": lambda: loss(x, y[::-1].copy() if is_last else y),
        "dtype": lambda: loss(x.astype(np.float64) if is_last else x, y),
        "option": lambda: loss(x, y, z_loss=0.1 if is_last else 0.0),
        "upstream gradient": lambda: both(x, y, grad_output=2.0 if is_last else 1.0),
        "weights": lambda: loss(x, y, weight=np.ones(3) if is_last else None),
        "wrong weights": lambda: loss(x, y, weight=np.ones(4 if is_last else 3)),
        "axis": lambda: loss(x, y, axis=7 if is_last else 1),
        "overlap": lambda: loss(x, y, start=0),
        "start": lambda: loss(x, y, start=-1 if is_last else None),
        "masked": lambda: loss(np.ma.masked_array(x) if is_last else x, y),
        "wrong option": lambda: loss(x, y, softcap=-1.0),
        "linear": lambda: linear(h[:, :1] if is_last else h, w, y),
        "linear, start": lambda: linear(h, w, y, start=2**63 if is_last else None),
        "linear, masked": lambda: linear(np.ma.masked_array(h) if is_last else h, w, y),
        "linear, room": lambda: linear(h, np.broadcast_to(w[0], (2**44, 2)) if is_last else w, y),
        "linear, wrong weights": lambda: linear(h, w, y, class_weight=np.ones(4 if is_last else 3)),
        "linear, upstream gradient": lambda: linear(h, w, y, grad_output=np.ones(2)),
        "normalizer": lambda: mpi.global_normalizer(y + 0.5 if is_last else y),
        "normalizer, weights": lambda: mpi.global_normalizer(y, sample_weight=np.ones(4 if is_last else 5)),
        "normalizer, masked": lambda: mpi.global_normalizer(np.ma.masked_array(y) if is_last else y),
        "normalizer, weight": lambda: mpi.global_normalizer(y, weight=np.ones(5) * (1j if is_last else 1)),
        "intercommunicator": lambda: loss(x, y, comm=between),
        "function": lambda: both(x, y) if is_last else loss(x, y),
    }
    found = {name: error_of(call) for name, call in calls.items()}
    shards = fastce.shards
    failing = shards.cross_entropy_grad

    def fail(*args, **options):
        raise MemoryError("no room")

    if is_last:
        shards.cross_entropy_grad = fail
    found["linear, last gradient"] = error_of(lambda: linear(h, w, y))
    found["linear, first gradient"] = error_of(lambda: linear(h, w, y, max_bytes=30))
    shards.cross_entropy_grad = failing
    mpi_ranks.GATHER_RANKS = 0
    found["on the way"] = error_of(calls["wrong weights"])
    mpi_ranks.GATHER_RANKS = 64
    found["after"] = error_of(lambda: loss(x, y))  # no exchange is left over
    return found


def both():
    return {"results": results(), "errors": errors()}


# --- endings ------------------------------------------------------------------------------------


def uncaught():
    """One rank raises outside of all calls; the others wait in one."""
    if RANK == SIZE - 1:
        raise RuntimeError("this rank ends")
    mpi.vocab_parallel_cross_entropy(np.zeros((5, 3)), np.arange(5))


def sleeping():
    sys.stdout.write("ready\n")  # whole, where `print` may write the end of the line on its own, after another rank's
    sys.stdout.flush()
    time.sleep(300)


if __name__ == "__main__":
    numba.set_num_threads(1)
    answer = globals()[sys.argv[1]]()
    if RANK == 0:
        print("JSON" + json.dumps(answer, default=np.generic.item))
