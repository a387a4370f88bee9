"""A contender's process: pytest with pytest-benchmark, playing when the runner gives it the turn.

The talk over the pipe, contender's words on the right::

    prepare                 ready | skip REASON | failed MESSAGE
    measure                 time SECONDS
    terms (ROUNDS, LOOPS)
    turn                    done          once a round
    end                                   when all have played
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from bench.cases import Case, Plan, Training
from bench.contenders import Contender, contender, split

TESTS = Path(__file__).with_name("test_speed.py")


@dataclass
class Turns:
    """The contender's end of the pipe."""

    link: Connection
    playing: bool = field(default=False)

    def expect(self, word: str) -> Any:
        """Wait for a word of the runner; leave the case if it says so."""
        said, value = self.link.recv()
        if said == "skip":
            pytest.skip(value)
        if said != word:
            raise RuntimeError(f"the runner said {said!r} instead of {word!r}")
        return value

    def begin(self, case: str) -> None:
        """Wait until the runner opens this case."""
        self.playing = False
        runners = self.expect("prepare")
        if runners != case:
            raise RuntimeError(f"at {case!r} while the runner is at {runners!r}")

    def decline(self, reason: str) -> NoReturn:
        """Take no part in the case."""
        self.link.send(("skip", reason))
        pytest.skip(reason)

    def agree(self, measure: Callable[[], float]) -> tuple[int, int]:
        """Report how long a call takes, measured alone on the machine; return the rounds and the loops a round."""
        self._say("ready")
        self.expect("measure")
        self._say("time", measure())
        return self.expect("terms")

    def take(self, warm_up: Callable[[], None]) -> None:
        """Wait for the turn, then warm up untimed: caches, threads, clock rate."""
        if self.playing:
            self.done()
        self.expect("turn")
        self.playing = True
        warm_up()

    def done(self) -> None:
        """End the turn."""
        self._say("done")

    def _say(self, word: str, value: Any = None) -> None:
        rest()
        self.link.send((word, value))


def rest(longest: float = 0.05) -> None:
    """Wait until no other thread of this process runs.

    OpenMP's threads spin for some milliseconds after their work (8 ms measured), and would take a core from the
    contender whose turn it is next.
    """
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        time.sleep(longest / 4)
        return
    main, end = str(os.getpid()), time.monotonic() + longest
    while time.monotonic() < end:
        states = [_state(task) for task in tasks.iterdir() if task.name != main]
        if "R" not in states:
            return
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:  # the thread has just ended
        return ""


class Worker:
    """The pytest plugin that tells the tests who plays, and what."""

    def __init__(self, name: str, plan: Plan, link: Connection) -> None:
        self.name, self.plan, self.link = name, plan, link

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of every case."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.plan.cases(), ids=str)
        if "training" in metafunc.fixturenames:
            metafunc.parametrize("training", self.plan.trainings(), ids=str)

    @pytest.fixture
    def contender(self) -> Contender:
        """Return who plays in this process."""
        return contender(self.name)

    @pytest.fixture
    def largest(self) -> int:
        """Count the logits of the largest case, which the data is made for."""
        return max(case.elements for case in self.plan.cases())

    @pytest.fixture
    def turns(self, request: pytest.FixtureRequest) -> Turns:
        """Give the pipe to the runner, once it has opened the case."""
        turns = Turns(self.link)
        item: Case | Training = request.node.callspec.params.get("case") or request.node.callspec.params["training"]
        turns.begin(str(item))
        return turns

    def pytest_exception_interact(self, call: pytest.CallInfo[Any]) -> None:
        """Tell the runner of a test that failed."""
        error = call.excinfo.value
        self.link.send(("failed", f"{type(error).__name__}: {error}"[:1000]))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Come to an end with all others: it takes a core while some may still play."""
        with suppress(EOFError, OSError):  # the runner is gone
            self.link.recv()

    @pytest.hookimpl(tryfirst=True)
    def pytest_benchmark_generate_machine_info(self) -> dict[str, Any]:
        """Replace what pytest-benchmark would ask the machine (a second in every process) by the thread counts."""
        pools = {Path(p["filepath"]).name.split("-")[0]: p["num_threads"] for p in threadpool_info()}
        facts: dict[str, Any] = {"pools": pools}
        if "numba" in sys.modules:
            import numba

            facts["numba threads"] = numba.get_num_threads()
            try:
                facts["numba threading layer"] = numba.threading_layer()
            except ValueError:  # nothing ran in parallel
                pass
        if "torch" in sys.modules:
            facts["torch threads"] = sys.modules["torch"].get_num_threads()
        return facts


def thread_environment(threads: int) -> dict[str, str]:
    """Environment of every contender's process.

    OpenMP's threads are bound to cores: unbound, Linux can leave both threads of a small team on one core, where each
    call then waits out whole time slices.
    """
    pools = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM")
    jax = {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "NPROC": str(threads),  # XLA's pool
        "PJRT_NPROC": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}",
    }
    compiler = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # in the process itself, leaving none behind that could spin
    return {**{f"{pool}_NUM_THREADS": str(threads) for pool in pools}, "OMP_PROC_BIND": "true", **jax, **compiler}


def play(name: str, plan: Plan, link: Connection, raw: str, log: str) -> None:
    """Run all cases of one contender; what pytest prints goes to the log."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    base, own = split(name)
    threads = own or plan.threads
    if base.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    options = ["-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider"]
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others cost time, and may change the order
    timing = ["-p", "pytest_benchmark.plugin", "--benchmark-disable-gc", f"--benchmark-json={raw}", "-q"]
    with threadpool_limits(threads):
        sys.exit(pytest.main([str(TESTS), *options, *timing], plugins=[Worker(name, plan, link)]))
