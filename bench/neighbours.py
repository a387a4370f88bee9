"""Conditions that leave no room for threads: busy processes beside, and a quota of one core."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")
LIMITS_1 = {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"}  # of control groups, version 1
LIMITS_2 = {"cpu.max": "100000 100000"}  # version 2


def cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _spin(started: Any) -> None:
    """Keep a core busy until the parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    started.wait()
    parent = multiprocessing.parent_process()
    while parent.is_alive():
        for _ in range(1_000_000):
            pass


@contextmanager
def busy_neighbours() -> Iterator[None]:
    """Keep one process a core busy; they end with the block, and with this process."""
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(len(cores()) + 1)
    processes = [context.Process(target=_spin, args=(started,), daemon=True) for _ in cores()]
    try:
        for process in processes:
            process.start()
        started.wait(60)
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def quota_of_one_core() -> Iterator[Path | None]:
    """Make a control group that may use one core's time, where the system allows it; yield its list of processes."""
    places = ((CGROUP / "cpu", LIMITS_1), (CGROUP / "cpu,cpuacct", LIMITS_1), (CGROUP, LIMITS_2))
    groups = (_group(folder / f"bench-{os.getpid()}", limits) for folder, limits in places)
    group = next(filter(None, groups), None)
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
