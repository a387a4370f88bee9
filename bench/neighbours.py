"""Processes beside which, and in which, calls are measured: busy neighbours, callers, a quota of one core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.caller import ROOT

CALLER = Path(__file__).with_name("caller.py")
# The thread sees the end of the pipe, whatever became of the process that holds the other end.
BUSY = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
def leave():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=leave, daemon=True).start()
print(flush=True)
n = 0
while True:
    n = (n + 1) % 1000003
"""
PATIENCE = 180.0  # seconds for one answer; the first one includes compiling
POLICIES = ("OMP_", "GOMP_", "KMP_", "NUMBA_NUM", "NUMBA_THREADING")  # variables that would decide what is measured


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def busy_neighbours() -> Iterator[None]:
    """Keep one process a core busy; they end with the block, and with this process."""
    processes = []
    try:
        for _ in cores():
            command = [sys.executable, "-I", "-S", "-c", BUSY]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


class Caller:
    """The other end of a ``caller.py``; ``folder`` is where its fastce is."""

    def __init__(self, name: str, threads: dict[str, str], folder: Path | str = ROOT) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(POLICIES)}
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(CALLER), name],
            env=kept | threads | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, *words: Any) -> None:
        """Tell the process what to do."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return the answer to what was said; wait for it, but not for ever."""
        assert self.process.stdout
        watch = threading.Timer(PATIENCE, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, *words: Any) -> Any:
        """Say it, and wait for the answer."""
        self.say(*words)
        return self.hear()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.communicate()


def together(callers: list[Caller], *words: Any) -> list[Any]:
    """Let all do the same at once; return their answers."""
    for caller in callers:
        caller.say(*words)
    return [caller.hear() for caller in callers]


@contextmanager
def quota_of_one_core() -> Iterator[Path | None]:
    """Make a control group that may use one core's time, where the system lets us; yield its list of processes."""
    group = None
    for place, limits in (
        ("cpu", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}),  # version 1
        ("cpu,cpuacct", {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}),
        ("", {"cpu.max": "100000 100000"}),  # version 2
    ):
        group = _group(Path("/sys/fs/cgroup") / place / f"bench-{os.getpid()}", limits)
        if group:
            break
    try:
        yield group and group / "cgroup.procs"
    finally:
        if group:
            group.rmdir()


def _group(group: Path, limits: dict[str, str]) -> Path | None:
    try:
        group.mkdir()
        for name, value in limits.items():
            with open(group / name, "r+") as file:  # an ordinary folder has no such file
                file.write(value)
    except OSError:
        with suppress(OSError):
            group.rmdir()
        return None
    return group
