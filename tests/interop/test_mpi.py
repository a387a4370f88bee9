"""``fastce.interop.mpi`` under a real ``mpirun``, in one process, and with a communicator that is no MPI's."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

import fastce
from tests import ENVIRONMENT
from tests.helpers import ROOT

if sys.platform != "linux":
    pytest.skip("MPI is installed on Linux alone", allow_module_level=True)

from mpi4py import MPI

from fastce.interop import mpi, mpi_ranks

MPIRUN = shutil.which("mpirun", path=Path(sys.executable).parent) or shutil.which("mpirun")
SECONDS = 300  # with kernels to compile; 20 without
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


class Run:
    """A run of ``mpirun`` that leaves no process behind."""

    def __init__(self, ranks, *arguments):
        command = [MPIRUN, "-n", str(ranks), sys.executable, *arguments]
        environment = {key: value for key, value in ENVIRONMENT.items() if not key.startswith(("PMI", "MPI", "HYDRA"))}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, **ONE_THREAD},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def family(self):
        """The processes of the run."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def __exit__(self, *_):
        if self.process.poll() is None:
            left = self.family()
            for process in left:
                process.kill()
            psutil.wait_procs(left, 10)
        self.process.stdout.close()

    def output(self, seconds):
        return self.process.communicate(timeout=seconds)[0]


@pytest.fixture(scope="module", params=[2, 3, 4], ids=lambda ranks: f"{ranks} ranks")
def found(request):
    """What a run found, and its number of ranks."""
    with Run(request.param, "-m", "tests.interop.mpi_cases", "both") as run:
        output = run.output(SECONDS)
        assert run.process.returncode == 0, output
    answer = next(line for line in output.splitlines() if line.startswith("JSON"))
    return {**json.loads(answer.removeprefix("JSON")), "ranks": request.param}


def test_results(found):
    """Within 2 eps of one process, or 4 for probabilities, relative to the greatest of the sample; the same everywhere.

    Seen to fail: with shards that all start with the first class.
    """
    cases = {
        **found["results"]["cases"],
        **{f"{k}, reduced": v for k, v in found["results"]["merged on the way"].items()},
    }
    assert len(cases) == 21
    for name, errors in cases.items():
        assert errors["same"], name
        assert errors["loss"] <= 2.0, (name, errors)
        assert errors["grad"] <= (4.0 if "probabilities" in name else 2.0), (name, errors)


def test_a_confident_row(found):
    """Its loss is a sum of numbers that 1 + x would lose."""
    confident = found["results"]["confident"]
    assert 7.2e-22 < confident["value"] < 7.4e-22
    assert confident["loss"] <= 1.0
    assert confident["grad"] <= 2.0


def test_linear(found):
    """Loss and log-sum-exps as one process has them; the z-loss has the squares of the latter, gradients are sums in
    another order. All ranks have d_hidden.

    Seen to fail: with ``d_hidden`` of the classes of each rank alone, and with log-sum-exps of samples that a class
    weight of 0 leaves out.
    """
    assert len(found["results"]["linear"]) == 8
    for name, errors in found["results"]["linear"].items():
        assert errors.pop("same"), name
        for field, error in errors.items():
            assert error <= {"loss": 2.0, "lse": 2.0, "z_loss": 4.0}.get(field, 8.0), (name, field, error)


def test_normalizers(found):
    normalizers = found["results"]["normalizers"]
    assert normalizers["same"] and normalizers["counted"]
    assert normalizers["loss"] < 1e-15 and normalizers["weighted"] < 1e-13


OWN = {  # errors of the last rank, which others only hear of
    "wrong weights": ["ValueError", "weight must have shape (3,), one per class of the shard, got (4,)"],
    "on the way": ["ValueError", "weight must have shape (3,), one per class of the shard, got (4,)"],
    "axis": ["AxisError", "logits_shard: axis 7 is out of bounds for array of dimension 2"],
    "start": ["ValueError", "start must be at least 0, and the last class fit 64 bits, got -1"],
    "masked": ["TypeError", "logits must not be a masked array: fill it or drop what is masked"],
    "linear, start": ["ValueError", f"start must be at least 0, and the last class fit 64 bits, got {2**63}"],
    "linear, masked": ["TypeError", "hidden must not be a masked array: fill it or drop what is masked"],
    "linear, room": [
        "MemoryError",
        "Unable to allocate 128. TiB for an array with shape (17592186044416, 2) and data type float32",
    ],
    "linear": ["ValueError", "weight_shard must have shape (C, D) for hidden of shape (..., D), got (3, 2) and (5, 1)"],
    "linear, wrong weights": ["ValueError", "class_weight must have shape (3,), one per class, got (4,)"],
    "linear, last gradient": ["MemoryError", "no room"],
    "linear, first gradient": ["MemoryError", "no room"],
    "normalizer, weights": ["ValueError", "sample_weight must have shape (5,), one per sample, got (4,)"],
    "normalizer": ["TypeError", "class indices must be integers, got dtype float64; use target.astype(int)"],
    "normalizer, masked": ["TypeError", "target must not be a masked array: fill it or drop what is masked"],
    "normalizer, weight": [
        "TypeError",
        "weight must hold real numbers (float16, bfloat16, float32, float64, integers or booleans), "
        "got dtype complex128",
    ],
}


def test_errors_end_a_call_on_all_ranks(found):
    """No rank is left in an exchange: each has its own error, or hears of another's.

    Seen to fail: with an error that is raised before the exchange, so that those of other calls meet, and with a start
    that does not fit the record, gradients of weights that do not fit memory, and masks that are dropped.
    """
    errors, ranks = dict(found["errors"]), found["ranks"]
    assert errors.pop("after") == [None] * ranks
    for name, own in OWN.items():
        *others, last = errors.pop(name)
        assert last == own, name
        for kind, text in others:
            assert kind == "RuntimeError"
            assert text.endswith("raised an error, which ends this call on every rank")
            assert text.startswith((f"rank {ranks - 1} ", "another rank "))
    label = f"target[2] is {3 * ranks}, expected a class index from 0 to {3 * ranks - 1} or ignore_index -100"
    parts = ", ".join(["0 to 3"] * ranks)
    same = f"every rank must have the same {{}}, but ranks 0 and {ranks - 1} differ"
    of_all = {
        "a bad label": ["IndexError", label],
        "a bad label, linear": ["IndexError", label],
        "shape": ["ValueError", f"{same.format('number of samples')}: 5 and 4"],
        "target": ["ValueError", same.format("target")],
        "dtype": ["ValueError", same.format("dtype")],
        "option": ["ValueError", same.format("function and options")],
        "function": ["ValueError", same.format("function and options")],
        "upstream gradient": ["ValueError", same.format("function and options")],
        "intercommunicator": [
            "TypeError",
            "comm must be an intracommunicator, got an intercommunicator: see its Merge",
        ],
        "weights": ["ValueError", same.format("kind of target, and class weights or none")],
        "overlap": ["ValueError", f"start must put the classes of all ranks one behind another from 0 on, got {parts}"],
        "linear, upstream gradient": ["ValueError", "grad_output must be a scalar here, got an array of shape (2,)"],
        "wrong option": ["ValueError", "softcap must be positive and finite, got -1.0"],
    }
    for name, error in of_all.items():
        assert errors.pop(name) == [error] * ranks, name
    assert not errors


def test_a_rank_that_ends_ends_the_run():
    """Outside of all calls, ``python -m mpi4py`` ends the other ranks."""
    with Run(2, "-m", "mpi4py", "-m", "tests.interop.mpi_cases", "uncaught") as run:
        output = run.output(60)
        assert run.process.returncode != 0
        assert "this rank ends" in output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_a_killed_run_leaves_no_process(how):
    with Run(2, "-m", "tests.interop.mpi_cases", "sleeping") as run:
        for _ in range(2):
            assert run.process.stdout.readline() == "ready\n"
        family = run.family()
        assert len(family) >= 3
        run.process.send_signal(how)
        run.process.wait(20)
        _, alive = psutil.wait_procs(family, 20)
        for process in alive:
            process.kill()
        assert not alive


# --- one process --------------------------------------------------------------------------------


def test_one_process():
    """Without ``mpirun`` there is one rank, with the bits of fastce."""
    rng = np.random.default_rng(0)
    x, target = rng.normal(size=(9, 7)).astype(np.float32), rng.integers(0, 7, 9)
    loss, grad = mpi.vocab_parallel_cross_entropy_and_grad(x, target)
    expected = fastce.cross_entropy_and_grad(x, target)
    assert loss == expected.loss
    np.testing.assert_allclose(grad, expected.grad, rtol=3e-7)
    into = x.copy()
    assert mpi.vocab_parallel_cross_entropy_and_grad(into, target, out=into).grad is into
    np.testing.assert_array_equal(into, grad)


class Threads:
    """A communicator of threads, with the four names that the adapter uses."""

    class Shared:
        def __init__(self, size):
            self.barrier = threading.Barrier(size, timeout=60)
            self.slots = [None] * size

    def __init__(self, shared, rank, size):
        self.shared, self.rank, self.size = shared, rank, size

    def _all(self, value):
        self.shared.slots[self.rank] = value
        self.shared.barrier.wait()
        values = list(self.shared.slots)
        self.shared.barrier.wait()
        return values

    def Allgather(self, sent, received):
        received[...] = self._all(sent.copy())

    def Allreduce(self, sent, received, op):
        if op == MPI.SUM:
            received[...] = sum(self._all(sent.copy()))
            return
        parts = self._all(sent[0].copy())
        received[0][...] = parts[-1]
        for part in reversed(parts[:-1]):
            mpi_ranks.merge_blocks(part, received[0])


@pytest.mark.parametrize("gathered", [True, False], ids=["gathered", "reduced"])
def test_another_communicator(gathered, monkeypatch):
    """``size``, ``rank``, ``Allgather`` and ``Allreduce`` are enough."""
    monkeypatch.setattr(mpi_ranks, "GATHER_RANKS", 64 if gathered else 0)
    rng = np.random.default_rng(0)
    h, w, y = rng.normal(size=(8, 5)), rng.normal(size=(13, 5)), rng.integers(0, 13, 8)
    ranks, found = 5, {}
    shared = Threads.Shared(ranks)

    def work(rank):
        mine = slice(13 * rank // ranks, 13 * (rank + 1) // ranks)
        comm = Threads(shared, rank, ranks)
        found[rank] = mpi.vocab_parallel_linear_cross_entropy_and_grad(h, w[mine], y, comm=comm)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = fastce.linear_cross_entropy_and_grad(h, w, y)
    np.testing.assert_allclose(found[0].loss, expected.loss, rtol=1e-14)
    np.testing.assert_allclose(found[3].d_hidden, expected.d_hidden, rtol=1e-12, atol=1e-15)
    d_weight = np.concatenate([found[rank].d_weight for rank in range(ranks)])
    np.testing.assert_allclose(d_weight, expected.d_weight, rtol=1e-12, atol=1e-15)
