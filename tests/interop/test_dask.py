"""fastce.interop.dask: the results of fastce on chunked arrays, lazily, on every scheduler."""

import functools
import io

import dask
import dask.array as da
import ml_dtypes
import numba
import numpy as np
import psutil
import pytest
from dask.diagnostics import ProgressBar

import fastce
from fastce import shards
from fastce.interop import dask as fd
from tests.helpers import assert_same_bits, assert_within, in_new_process, labels_for, peak_memory, soft_for

RNG = np.random.default_rng(4)
N, C = 60, 90
X = RNG.normal(size=(N, C), scale=3).astype(np.float32)
X[5, 7:9] = 80  # two maxima, which chunks of 8 part
Y = np.append([-100, 7, 8], RNG.integers(0, C, N - 3))
ONE_HOT = np.eye(C, dtype=int)[Y % C]
SOFT = soft_for(RNG, (N, C)).astype(np.float32)
WEIGHT, U = (RNG.random(C) + 0.5).astype(np.float32), (RNG.random(N) + 0.5).astype(np.float32)
WHOLE, PARTED = pytest.param((16, C), id="whole"), pytest.param((25, 8), id="parted")
CHUNKS = pytest.mark.parametrize("chunks", [WHOLE, PARTED])
# none of the options or all of them, as each combination has kernels of its own, which take time to compile
ALL = {"weight": WEIGHT, "sample_weight": U, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 20.0}
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum", "grad_output": 0.5},
    "normalizer": {"normalizer": 77.0, "logit_scale": 0.5},
    "all": ALL,
    "all, none": {**ALL, "reduction": "none", "grad_output": U},
    "all, samples left out": {**ALL, "sample_weight": np.where(U < 1, 0, U)},
}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="sync"):
        yield


def assert_as_fastce(lazy, expected, is_whole, scale=None):
    """The same bits if all classes are in a chunk, else within 2 eps; and the dtype that was announced."""
    (found,) = dask.compute(lazy)
    assert lazy.dtype == found.dtype and lazy.shape == np.shape(found) == np.shape(expected)
    if is_whole:
        assert_same_bits(found, expected)
    else:
        assert_within(found, np.asarray(expected), 2, scale=scale)


# --- results ------------------------------------------------------------------------------------


@CHUNKS
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_softmax(name, chunks):
    """Seen to fail: with statistics that lacked the last chunk."""
    x, is_whole = da.from_array(X, chunks=chunks), chunks[1] == C
    expected = getattr(fastce, name)(X)
    assert_as_fastce(getattr(fd, name)(x), expected, is_whole)
    assert_as_fastce(getattr(fd, name)(x, split_every=3), expected, is_whole)
    assert_as_fastce(getattr(fd, name)(x.T, 0), expected.T, is_whole)


@CHUNKS
def test_logsumexp_keeps_dimensions(chunks):
    lse = fd.logsumexp(da.from_array(X, chunks=chunks), keepdims=True)
    assert_as_fastce(lse, fastce.logsumexp(X, keepdims=True), chunks[1] == C)


@CHUNKS
@pytest.mark.parametrize("kind", ["labels", "lazy labels", "one-hot", "soft"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cross_entropy(options, kind, chunks):
    """Seen to fail: with a gradient that had no denominator."""
    x, is_whole = da.from_array(X, chunks=chunks), chunks[1] == C
    plain = {"labels": Y, "lazy labels": Y, "one-hot": ONE_HOT, "soft": SOFT}[kind]
    target = {"lazy labels": da.from_array(Y, chunks=17), "soft": da.from_array(SOFT, chunks=chunks)}.get(kind, plain)
    if kind == "one-hot" and not is_whole:
        pytest.skip("it is refused")
    expected = fastce.cross_entropy_and_grad(X, plain, **options)
    loss, grad = fd.cross_entropy_and_grad(x, target, **options)
    assert_as_fastce(loss, expected.loss, is_whole)
    scale = (1 + (kind == "soft")) * np.abs(expected.grad).max(axis=1, keepdims=True)  # it is a difference
    assert_as_fastce(grad, expected.grad, is_whole, scale)
    assert grad.chunks == x.chunks
    alone = {name: value for name, value in options.items() if name != "grad_output"}
    assert_as_fastce(fd.cross_entropy(x, target, **alone), expected.loss, is_whole)


def test_options_as_dask_arrays():
    x = da.from_array(X, chunks=(25, 8))
    lazy = {name: da.from_array(ALL[name], chunks=11) for name in ("weight", "sample_weight")}
    upstream = da.from_array(np.float32(2.0))
    grad = fd.cross_entropy_and_grad(x, Y, grad_output=upstream, **ALL | lazy).grad
    expected = fastce.cross_entropy_and_grad(X, Y, grad_output=2.0, **ALL).grad
    assert_as_fastce(grad, expected, False, np.abs(expected).max(axis=1, keepdims=True))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("pieces", [1, 2])
def test_chunks_of_rows_have_the_bits_of_the_whole(pieces):
    """Seen to fail: with a chunk whose statistics were those of one part."""
    logits, target = RNG.normal(size=(8, 100_000)), RNG.integers(0, 100_000, 8)
    x = da.from_array(logits, chunks=(3, pieces * shards.chunk_length(100_000)))
    assert x.numblocks[1] == 4 // pieces
    loss, grad = dask.compute(*fd.cross_entropy_and_grad(x, target, reduction="none"))
    expected = fastce.cross_entropy_and_grad(logits, target, reduction="none")
    assert_same_bits(loss, expected.loss)
    assert_same_bits(grad, expected.grad)
    assert_same_bits(fd.softmax(x).compute(), fastce.softmax(logits))


def test_a_confident_row_keeps_its_digits():
    logits = np.zeros((1, 50_257))
    logits[0, 3] = 60.0
    loss = fd.cross_entropy(da.from_array(logits, chunks=(1, 10_000)), [3]).compute()
    assert_within(loss, fastce.cross_entropy(logits, [3]), 7, np.float64)


@pytest.mark.parametrize("classes", [12, 4], ids=["whole", "parted"])
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float64, np.int32, np.bool_])
def test_dtypes_of_images(dtype, classes):
    images = RNG.normal(size=(2, 12, 3, 4), scale=3).astype(dtype)
    target = labels_for(RNG, images.shape, axis=1)
    x = da.from_array(images, chunks=(1, classes, 3, 2))
    loss, grad = fd.cross_entropy_and_grad(x, target, axis=1)
    expected = fastce.cross_entropy_and_grad(images, target, axis=1)
    for lazy, whole in ((loss, expected.loss), (grad, expected.grad), (fd.softmax(x, 1), fastce.softmax(images, 1))):
        (found,) = dask.compute(lazy)
        assert lazy.dtype == found.dtype == whole.dtype
        eps = 2 * float(ml_dtypes.finfo(whole.dtype).eps)
        np.testing.assert_allclose(found.astype(np.float64), whole.astype(np.float64), rtol=eps, atol=eps / 24)


@pytest.mark.parametrize("chunks", [C, 8])
def test_one_sample(chunks):
    x = da.from_array(X[5], chunks=chunks)
    loss, grad = fd.cross_entropy_and_grad(x, 7)
    expected = fastce.cross_entropy_and_grad(X[5], 7)
    assert_as_fastce(loss, expected.loss, chunks == C)
    assert_as_fastce(grad, expected.grad, chunks == C)
    assert_as_fastce(fd.logsumexp(x), fastce.logsumexp(X[5]), chunks == C)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_empty(shape):
    logits, target = np.zeros(shape), np.full(shape[0], -100)
    for x in (da.from_array(logits, chunks=-1), da.from_array(logits, chunks=(2, 3))):
        assert_same_bits(fd.logsumexp(x).compute(), fastce.logsumexp(logits))
        assert fd.softmax(x).compute().shape == shape
        loss, grad = dask.compute(*fd.cross_entropy_and_grad(x, target))
        assert np.isnan(loss) and grad.shape == shape


def test_chunks_of_nothing():
    x = da.from_array(X, chunks=((20, 0, 40), (8, 0, 82)))
    assert_as_fastce(fd.cross_entropy(x, Y), fastce.cross_entropy(X, Y), False)


@CHUNKS
@pytest.mark.parametrize("kind", ["labels", "one-hot", "soft"])
def test_a_mean_of_all_samples(kind, chunks):
    """Without an ignored label. Seen to fail: with a mean whose weights had no dimensions."""
    if kind == "one-hot" and chunks[1] != C:
        pytest.skip("it is refused")
    target = {"labels": Y % C, "one-hot": ONE_HOT, "soft": SOFT}[kind]
    x, is_whole = da.from_array(X, chunks=chunks), chunks[1] == C
    loss, grad = fd.cross_entropy_and_grad(x, target, ignore_index=None)
    expected = fastce.cross_entropy_and_grad(X, target, ignore_index=None)
    assert_as_fastce(loss, expected.loss, is_whole)
    assert_as_fastce(grad, expected.grad, is_whole, 2 * np.abs(expected.grad).max(axis=1, keepdims=True))


@CHUNKS
@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_big_endian_logits(dtype, chunks):
    """Results have the machine's byte order. Seen to fail: with the dtype of the logits as that of results."""
    logits, is_whole = X.astype(dtype), chunks[1] == C
    x = da.from_array(logits, chunks=chunks)
    expected = fastce.cross_entropy_and_grad(logits, Y.astype(">i4"))
    for lazy, whole in zip(fd.cross_entropy_and_grad(x, Y.astype(">i4")), expected, strict=True):
        (found,) = dask.compute(lazy)
        assert lazy.dtype == found.dtype == whole.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_allclose(found, whole, rtol=0 if is_whole else 1e-6, atol=0 if is_whole else 1e-9)
    assert fd.softmax(x).dtype == fd.logsumexp(x).dtype == fd.softmax(x).compute().dtype


@pytest.mark.parametrize("chunks", [((3,), (0, 1)), ((3,), (1, 0, 0)), ((1, 2), (0, 1))])
def test_logsumexp_keeps_dimensions_of_chunks_of_nothing(chunks):
    """Seen to fail: with ``dask.array.expand_dims``."""
    logits = X[:3, :1]
    lse = fd.logsumexp(da.from_array(logits, chunks=chunks), 0, keepdims=True)
    assert_as_fastce(lse, fastce.logsumexp(logits, 0, keepdims=True), len(chunks[0]) == 1)


@CHUNKS
@pytest.mark.parametrize("target", [Y, SOFT], ids=["labels", "soft"])
def test_a_normalizer_of_0(target, chunks):
    """The gradient alone raises too. Seen to fail: with a gradient that was divided by 1."""
    x = da.from_array(X, chunks=chunks)
    message = f"got 0.0 for {N - 1 if target is Y else N} of them"
    for result in fd.cross_entropy_and_grad(x, target, normalizer=0.0):
        with pytest.raises(ValueError, match=message):
            result.compute()
    loss, grad = dask.compute(*fd.cross_entropy_and_grad(x, target, normalizer=0.0, sample_weight=np.zeros(N)))
    assert loss == 0.0 and not grad.any()
    one_class = da.from_array(X[:, :1], chunks=(16, 1))
    with pytest.raises(ValueError, match=f"got 0.0 for {N} of them"):
        fd.cross_entropy(one_class, np.zeros(N, int), normalizer=0.0).compute()


def test_reads():
    """Each chunk is read once for all that is computed together. Seen to fail: with a clone of the logits a call."""
    reads = []

    def make(shape):
        reads.append(shape)
        return np.zeros(shape, np.float32)

    for chunks in ((20, C), (20, 30)):
        reads.clear()
        x = source(make, (N, C), chunks)
        dask.compute(every_function(x, Y))
        assert len(reads) == x.npartitions


def test_a_mean_of_nothing():
    x, target = da.from_array(X, chunks=(16, 8)), np.full(N, -100)
    loss, grad = dask.compute(*fd.cross_entropy_and_grad(x, target))
    assert np.isnan(loss) and not grad.any()
    loss, grad = dask.compute(*fd.cross_entropy_and_grad(x, target, normalizer=0.0))
    assert loss == 0.0 and not grad.any()
    with pytest.raises(ValueError, match="normalizer must be positive where samples count"):
        fd.cross_entropy(x, Y, normalizer=0.0).compute()


# --- evaluate -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"top_k": (1, 5), "weight": WEIGHT, "label_smoothing": 0.1}, {"top_k": 3, "sample_weight": U}],
    ids=["plain", "weighted", "top_k"],
)
def test_evaluate(options):
    """Exactly. Seen to fail: with sums that left out the last block."""
    for rows in (N, 7):
        result = fd.evaluate(da.from_array(X, chunks=(rows, C)), da.from_array(Y, chunks=13), split_every=2, **options)
        assert result.compute() == fastce.evaluate(X, Y, **options)


def test_evaluate_other_shapes():
    images = X.reshape(4, 15, C).transpose(0, 2, 1)
    target = Y.reshape(4, 15)
    result = fd.evaluate(da.from_array(images, chunks=(2, C, 4)), target, axis=1)
    assert result.compute() == fastce.evaluate(images, target, axis=1)
    assert fd.evaluate(da.from_array(X, chunks=(9, C)), ONE_HOT).compute() == fastce.evaluate(X, ONE_HOT)
    assert fd.evaluate(da.from_array(X[0], chunks=-1), 3).compute() == fastce.evaluate(X[0], 3)


# --- laziness, chunks, memory, threads ----------------------------------------------------------


def source(function, shape, chunks, dtype=np.float32):
    """Return an array whose blocks a function of their shape makes."""
    blocks = da.core.normalize_chunks(chunks, shape)

    def block(block_info=None):
        return function(block_info[None]["chunk-shape"])

    return da.map_blocks(block, chunks=blocks, dtype=dtype, meta=np.empty((0,) * len(shape), dtype))


def every_function(x, target):
    loss, grad = fd.cross_entropy_and_grad(x, target, **ALL)
    results = [loss, grad, fd.cross_entropy(x, target), fd.softmax(x), fd.log_softmax(x), fd.logsumexp(x)]
    return [*results, fd.evaluate(x, target)] if x.numblocks[-1] == 1 else results


@CHUNKS
def test_nothing_is_computed_while_the_graph_is_built(chunks):
    """Seen to fail: with a denominator that was computed."""

    def fail(shape):
        raise RuntimeError("a block was computed")

    x, target = source(fail, (N, C), chunks), source(fail, (N,), 9, np.int64)
    for result in every_function(x, target):
        with pytest.raises(RuntimeError, match="a block was computed"):
            result.compute()


@CHUNKS
def test_no_chunk_is_copied(chunks, monkeypatch):
    """fastce gets the arrays of the blocks themselves. Seen to fail: with ``concatenate=True``."""
    made, seen = [], []

    def make(shape):
        made.append(np.zeros(shape, np.float32))
        return made[-1]

    x = source(make, (N, C), chunks)
    for module, name in ((fastce, "cross_entropy"), (shards, "statistics"), (fastce, "logsumexp")):
        function = getattr(module, name)

        def record(logits, *args, function=function, **options):
            if logits.size:
                seen.append(any(np.shares_memory(logits, array) for array in made))
            return function(logits, *args, **options)

        monkeypatch.setattr(module, name, record)
    dask.compute(fd.cross_entropy(x, np.zeros(N, int)), fd.logsumexp(x))
    assert all(seen) and len(seen) >= len(made) == x.npartitions
    for result in every_function(x, da.zeros(N, dtype=int, chunks=chunks[0])):
        assert not any("rechunk" in str(key) for key in result.__dask_graph__())


def test_labels_are_read_before_logits():
    """The denominator of a mean is known before a block of logits is made."""
    events = []

    def log(event):
        def make(shape):
            events.append(event)
            return np.zeros(shape, np.int64 if event == "labels" else np.float32)

        return make

    x, target = source(log("logits"), (40, 5), (4, 5)), source(log("labels"), (40,), 4, np.int64)
    fd.cross_entropy_and_grad(x, target).grad.compute()
    assert events == ["labels"] * 10 + ["logits"] * 10


class Stored:
    """An array that is read a chunk at a time, as one on disk."""

    shape, ndim, dtype = (75_000, 1000), 2, np.dtype(np.float32)

    def __getitem__(self, key):
        return np.full([part.stop - part.start for part in key], 1, np.float32)


@pytest.mark.parametrize("classes", [1000, 250], ids=["whole", "parted"])
def test_memory_is_bounded_by_the_chunks_in_flight(classes):
    """300 MB in blocks of 4 MB, of which two are computed at a time. Seen to fail: with reads that were not fused."""
    x = da.from_array(Stored(), chunks=(1_000_000 // classes, classes))
    target = np.zeros(len(x), int)
    results = [fd.cross_entropy(x, target), fd.cross_entropy_and_grad(x, target).grad.max()]
    if classes == 1000:
        results.append(fd.evaluate(x, target))
    for result in results:
        peak, _ = peak_memory(functools.partial(result.compute, scheduler="threads", num_workers=2))
        assert peak < 60e6


def test_blocks_run_with_one_thread(monkeypatch, threads):
    """Seen to fail: with a block function that was not decorated."""
    threads(numba.config.NUMBA_NUM_THREADS)
    counts, softmax = [], fastce.softmax
    monkeypatch.setattr(fastce, "softmax", lambda *args: counts.append(numba.get_num_threads()) or softmax(*args))
    fd.softmax(da.from_array(X, chunks=(30, C))).compute()
    assert counts == [1, 1]
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


def test_progress_bar():
    out = io.StringIO()
    with ProgressBar(out=out):
        fd.evaluate(da.from_array(X, chunks=(9, C)), Y).compute()
    assert "100%" in out.getvalue()


# --- schedulers ---------------------------------------------------------------------------------


@CHUNKS
def test_equal_inputs_have_equal_keys(chunks):
    with dask.config.set({"tokenize.ensure-deterministic": True}):
        x = da.from_array(X, chunks=chunks)
        first, second = every_function(x, Y), every_function(da.from_array(X, chunks=chunks), Y)
        assert [a.__dask_keys__() for a in first] == [b.__dask_keys__() for b in second]
        assert fd.cross_entropy(x, Y).name != fd.cross_entropy(x, Y, z_loss=0.1).name


def test_threads():
    for chunks in ((5, C), (5, 8)):
        x = da.from_array(X, chunks=chunks)
        (one,) = dask.compute(every_function(x, Y)[:6], scheduler="sync")
        (two,) = dask.compute(every_function(x, Y)[:6], scheduler="threads", num_workers=4)
        assert all(map(np.array_equal, one, two))


PROCESSES = """
import dask, dask.array as da, numpy as np
import fastce
from fastce.interop import dask as fd

rng = np.random.default_rng(0)
X, y = rng.normal(size=(30, 40)), rng.integers(0, 40, 30)

def check(**options):
    for chunks in ((10, 40), (10, 15)):
        x = da.from_array(X, chunks=chunks)
        loss, grad = dask.compute(*fd.cross_entropy_and_grad(x, y), **options)
        expected = fastce.cross_entropy_and_grad(X, y)
        assert np.isclose(loss, expected.loss, rtol=1e-15)
        assert np.allclose(grad, expected.grad, rtol=1e-14, atol=1e-18)
    result = fd.evaluate(da.from_array(X, chunks=(10, 40)), y, top_k=5).compute(**options)
    assert result == fastce.evaluate(X, y, top_k=5)

if __name__ == "__main__":
    {run}
"""

CLUSTER = """
    from distributed import Client, LocalCluster
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        client.run(fastce.warmup, "float64", classes=40)
        check()
        try:
            fd.cross_entropy(da.from_array(X, chunks=(10, 40)), y + 20).compute()
        except IndexError as error:
            assert "class index" in str(error)
        else:
            raise AssertionError("no label was out of range")
"""


@pytest.mark.parametrize("run", ['check(scheduler="processes", num_workers=2)', CLUSTER], ids=["pool", "cluster"])
def test_processes(run, tmp_path):
    """In a process of its own, which ends in time and leaves none behind."""
    script = tmp_path / "run.py"
    script.write_text(PROCESSES.replace("{run}", run.strip()), encoding="utf-8")
    environment = {"FASTCE_TEST": str(script), "NUMBA_NUM_THREADS": "1"}  # warmup compiles no parallel kernels then
    in_new_process(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", **environment)
    assert not [
        process for process in psutil.process_iter() if environment_of(process).get("FASTCE_TEST") == str(script)
    ]


def environment_of(process):
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


# --- errors -------------------------------------------------------------------------------------

LAZY = da.from_array(X, chunks=(16, C))
PARTS = da.from_array(X, chunks=(16, 8))
UNKNOWN = LAZY[LAZY[:, 0] > 0]
LABELS = da.from_array(Y, chunks=16)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fd.softmax(X), TypeError, "x must be a dask array, got ndarray"),
        (lambda: fd.softmax(LAZY.astype(complex)), TypeError, "logits must"),
        (lambda: fd.softmax(LAZY, 2), np.exceptions.AxisError, "axis 2 is out of bounds"),
        (lambda: fd.logsumexp(LAZY, (0, 1)), TypeError, "axis must be"),
        (lambda: fd.cross_entropy(UNKNOWN, Y), ValueError, "logits must have chunks of known sizes"),
        (lambda: fd.cross_entropy(LAZY, LABELS[LABELS > 0]), ValueError, "target must have chunks of known sizes"),
        (lambda: fd.cross_entropy(LAZY, Y[1:]), ValueError, r"target must have the shape .* \(60,\), got \(59,\)"),
        (lambda: fd.cross_entropy(LAZY, SOFT[1:]), ValueError, r"target must have the shape of logits, .* \(59, 90\)"),
        (lambda: fd.cross_entropy(LAZY, U), TypeError, "class indices must be integers, got dtype float32"),
        (lambda: fd.cross_entropy(LAZY, da.from_array(SOFT, chunks=7)), ValueError, "target must have the chunks of"),
        (lambda: fd.cross_entropy(PARTS, ONE_HOT), TypeError, "target must be class indices"),
        (lambda: fd.cross_entropy(LAZY, np.ma.masked_equal(Y, 3)), TypeError, "target must not be a masked array"),
        (lambda: fd.evaluate(LAZY, Y, weight=np.ma.masked_less(WEIGHT, 1)), TypeError, "weight must not be a masked"),
        (lambda: fd.cross_entropy_and_grad(LAZY, Y, grad_output="a"), TypeError, "grad_output must be a real number"),
        (lambda: fd.cross_entropy(LAZY, Y, weight=U), ValueError, r"weight must have shape \(90,\)"),
        (lambda: fd.cross_entropy(LAZY, Y, sample_weight=WEIGHT), ValueError, "sample_weight must have the shape"),
        (lambda: fd.cross_entropy(LAZY, Y, reduction="max"), ValueError, "reduction must be"),
        (lambda: fd.cross_entropy(LAZY, Y, label_smoothing=2), ValueError, "label_smoothing must be"),
        (lambda: fd.cross_entropy_and_grad(LAZY, Y, grad_output=U), ValueError, "grad_output must be a scalar"),
        (lambda: fd.evaluate(PARTS, Y), ValueError, r"got 12 chunks along axis 1: write logits.rechunk\({1: -1}\)"),
        (lambda: fd.evaluate(LAZY, SOFT), TypeError, "target must be class indices or one-hot"),
        (lambda: fd.evaluate(LAZY, Y, top_k=0), ValueError, "top_k must be"),
        (lambda: fd.cross_entropy(LAZY, np.append(Y[1:], 90)).compute(), IndexError, "expected a class index"),
        (lambda: fd.cross_entropy(PARTS, np.append(Y[1:], 90)).compute(), IndexError, "expected a class index"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
