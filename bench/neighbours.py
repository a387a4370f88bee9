"""Where there is no room for threads: beside busy processes, and under a quota of one core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
