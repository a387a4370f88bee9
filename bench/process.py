"""The parent's handle of a contender's processes."""

import multiprocessing
import os
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import numpy as np

from bench.cases import AVX2, Plan
from bench.contenders import entrant
from bench.worker import Skip, serve

POLICIES = ("OMP_", "GOMP_", "KMP_", "NUMBA_NUM", "NUMBA_THREADING")  # variables about threads
TIMEOUT = 300.0  # seconds for one answer; the first one includes compiling

# How to keep libraries to code for AVX2 on a processor that has AVX-512.
AVX2_CODE = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "",
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch, and the vectors of torch.compile
    "TORCHINDUCTOR_CPP_MARCH": "haswell",  # its C++ compiler, which would use AVX-512 by itself
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
AVX2_OF_XLA = " --xla_cpu_max_isa=AVX2"


class WorkerDied(Exception):
    """A contender's process has ended, or does not answer."""


class Failed(Exception):
    """A contender failed to carry out a request."""


class Process:
    """A contender's new process, or as many as the plan says; use it as a context manager, which ends them."""

    def __init__(self, name: str, plan: Plan, logs: Path) -> None:
        self.entrant, self.name = entrant(name), name
        self.threads = self.entrant.threads or plan.threads
        self.log = logs / f"{name.replace('/', '-').replace(':', '-')}.log"
        self.members: list[tuple[Connection, BaseProcess]] = []
        context = multiprocessing.get_context("spawn")
        for _ in range(plan.crowd):
            link, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, self.entrant, self.threads, plan.largest, self.log))
            # libraries read the environment while they are imported
            with patch.dict(os.environ, _environment(self.threads, plan), clear=True):
                process.start()
            theirs.close()  # so that the pipe breaks when the process dies
            self.members.append((link, process))
            if plan.group:
                Path(plan.group).write_text(str(process.pid))

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes, even those that hang."""
        for _, process in self.members:
            process.kill()
            process.join()

    def ask(self, request: str, *arguments: Any) -> Any:
        """Have a method of the worker called; return the result."""
        self.send(request, *arguments)
        return self.answers()[0]

    def send(self, request: str, *arguments: Any) -> None:
        """Have a method of the worker called in all processes, without waiting for it."""
        for link, process in self.members:
            try:
                link.send((request, arguments))
            except OSError as error:
                raise WorkerDied(self._exit_report(process)) from error

    def answers(self) -> list[Any]:
        """Return the results of the request that was sent."""
        return [self._answer(link, process) for link, process in self.members]

    def _answer(self, link: Connection, process: BaseProcess) -> Any:
        if not wait([link, process.sentinel], TIMEOUT):
            process.kill()
            raise WorkerDied(f"no answer within {TIMEOUT:.0f} s")
        with suppress(EOFError, OSError):
            if link.poll():
                outcome, value = link.recv()
                if outcome == "done":
                    return value
                raise Skip(value) if outcome == "skip" else Failed(value)
        raise WorkerDied(self._exit_report(process))

    def _exit_report(self, process: BaseProcess) -> str:
        """Say how the process ended, with the last lines of its log."""
        process.join(5)
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"the process ended with status {process.exitcode}: {' / '.join(text.strip().splitlines()[-3:])}"


def _environment(threads: int, plan: Plan) -> dict[str, str]:
    """Return the environment variables, which give every contender's process the same threads.

    OpenMP's threads are bound to cores: unbound, Linux can leave both threads of a small team on one core, where each
    call then waits out whole time slices. Spans measure what most programs get, which neither bind threads nor set
    policies for them.
    """
    limited = plan.vectors == AVX2
    inherited = {key: value for key, value in os.environ.items() if not (plan.span and key.startswith(POLICIES))}
    pools = ("OMP", "OPENBLAS", "MKL", "NUMBA", "VECLIB_MAXIMUM")
    return {
        **inherited,
        **{f"{pool}_NUM_THREADS": str(threads) for pool in pools},
        **({} if plan.span else {"OMP_PROC_BIND": "true"}),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # in the process itself, leaving none behind that could spin
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "NPROC": str(threads),  # XLA's pool
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
        "PJRT_NPROC": str(threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}{AVX2_OF_XLA * limited}",
        **(AVX2_CODE | _avx2_of_numpy() if limited else {}),
    }


def _avx2_of_numpy() -> dict[str, str]:
    """Return the variable that has NumPy leave out its code for AVX-512; it warns of names that it does not know."""
    used = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    beyond = [name for name in used if name == "X86_V4" or name.startswith("AVX512")]
    return {"NPY_DISABLE_CPU_FEATURES": " ".join(beyond)} if beyond else {}
