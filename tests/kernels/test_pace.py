"""Threads are used where they save time, and given up where they lose it."""

import os

import numpy as np
import pytest

import fastce
from fastce.kernels.codegen import threads as module
from tests.helpers import in_new_process

SIZE = 1 << 20


class Machine:
    """A clock, and a kernel that moves it: by ``single`` seconds alone, by ``together(now)`` with two threads."""

    def __init__(self, monkeypatch, single, together):
        self.now, self.count, self.alone, self.calls = 0.0, 2, 0, 0
        self.single, self.together = single, together
        self.x = np.empty((SIZE // 64, 64), np.float32)
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(module, "_paces", {})
        monkeypatch.setattr(module.threads, "count", lambda: self.count)
        monkeypatch.setattr(module.threads, "set_count", lambda count: setattr(self, "count", count))

    def kernel(self):
        self.calls += 1
        self.alone += self.count == 1
        self.now += self.single if self.count == 1 else self.together(self.now)

    def run(self, seconds):
        """Call the kernel for so long; return the mean time of a call and the share of calls by one thread."""
        start, self.calls, self.alone = self.now, 0, 0
        while self.now - start < seconds:
            module.run(self.kernel, (), self.x)
            assert self.count == 2
        return (self.now - start) / self.calls, self.alone / self.calls


@pytest.mark.parametrize("stall", [0.002, 0.008, 0.05])
@pytest.mark.parametrize("single", [28e-6, 343e-6, 1e-3, 5e-3])
def test_stalls(monkeypatch, single, stall):
    """Broken once by never overdrawing: the mean is then the stall."""
    machine = Machine(monkeypatch, single, lambda now: single / 2 + stall)
    machine.run(0.5)
    mean, _ = machine.run(3.0)
    assert mean < 1.1 * single


@pytest.mark.parametrize("single", [28e-6, 343e-6, 5e-3, 0.1])
def test_a_lasting_small_loss(monkeypatch, single):
    """As of threads that have to be woken up for each call: none is suspicious, and all together cost too much."""
    machine = Machine(monkeypatch, single, lambda now: 1.3 * single)
    machine.run(200 * single)
    machine.run(0.5)
    mean, _ = machine.run(max(1.0, 300 * single))
    assert mean < 1.04 * single


@pytest.mark.parametrize("share", [0.5, 0.9, 0.03])
def test_quiet(monkeypatch, share):
    """Threads that pay are used, but for the measuring of one thread."""
    machine = Machine(monkeypatch, 1e-3, lambda now: share * 1e-3)
    mean, _ = machine.run(3.0)
    assert mean < 1.02 * share * 1e-3


def test_single_calls_use_threads(monkeypatch):
    machine = Machine(monkeypatch, 1e-3, lambda now: 0.5e-3)
    _, alone = machine.run(0.02)
    assert not alone


def test_rare_hiccups_are_no_reason(monkeypatch):
    """Forty times as fast with threads, and every 100 ms a stall of 4 ms: threads pay all the same."""
    hiccups = iter(np.arange(0.1, 100, 0.1))
    following = next(hiccups)

    def together(now):
        nonlocal following
        if now < following:
            return 25e-6
        following = next(hiccups)
        return 4e-3

    machine = Machine(monkeypatch, 1e-3, together)
    _, alone = machine.run(5.0)
    assert alone < 0.01


def test_threads_come_back(monkeypatch):
    busy = True
    machine = Machine(monkeypatch, 500e-6, lambda now: 8e-3 if busy else 250e-6)
    machine.run(2.0)
    busy = False
    machine.run(1.0)
    _, alone = machine.run(1.0)
    assert alone < 0.02


def test_what_was_saved_is_not_lost(monkeypatch):
    """After hours of quiet, stalls are noticed as soon as after seconds."""
    busy = False
    machine = Machine(monkeypatch, 500e-6, lambda now: 8e-3 if busy else 250e-6)
    machine.run(60.0)
    busy = True
    mean, _ = machine.run(1.5)
    assert mean < 1.1 * 500e-6


def test_threads_that_have_to_be_woken_up(monkeypatch):
    """The first call after some by one thread costs more, and those that follow less."""
    last = [0.0]

    def together(now):
        is_asleep, last[0] = now - last[0] > 1e-3, now
        return 100e-6 if is_asleep else 14e-6

    machine = Machine(monkeypatch, 25e-6, together)
    machine.run(0.1)
    next(iter(module._paces.values())).saved = -5e-3
    machine.run(1.0)
    _, alone = machine.run(1.0)
    assert alone < 0.02


def test_a_stopped_process(monkeypatch):
    """An hour in a debugger, or stopped by a signal, is no hour's stall."""
    stop = [3600.0]
    machine = Machine(monkeypatch, 1e-3, lambda now: stop.pop() if now > 1.0 and stop else 0.5e-3)
    machine.run(2.0)
    machine.run(MOST := 1.1 * module.MAX_LOSS / module.TRIAL_SHARE)
    assert MOST < 4.0
    _, alone = machine.run(1.0)
    assert alone < 0.02


def test_a_disturbed_measurement(monkeypatch):
    """One thread may be disturbed just when it is measured."""
    machine = Machine(monkeypatch, 8e-3, lambda now: 8e-3)
    machine.run(1.0)
    machine.single = 100e-6
    machine.run(1.0)
    mean, _ = machine.run(1.0)
    assert mean < 110e-6


def test_a_disturbed_first_measurement(monkeypatch):
    """As by a thread that still spins on the core."""
    machine = Machine(monkeypatch, 4.2e-3, lambda now: 4.1e-3)
    for _ in range(3):
        module.run(machine.kernel, (), machine.x)
    assert machine.alone == 1
    machine.single = 0.7e-3
    mean, _ = machine.run(1.5)
    assert mean < 0.75e-3


def test_kinds_of_calls_are_apart(monkeypatch):
    machine = Machine(monkeypatch, 1e-3, lambda now: 8e-3)
    machine.run(1.0)
    assert module.given_up() == (1, 1)
    module.run(machine.kernel, (), machine.x, out_is_new=True)
    module.run(machine.kernel, (), machine.x[: SIZE // 256])
    assert module.given_up() == (1, 3)


def test_the_number_of_threads_is_restored(monkeypatch):
    machine = Machine(monkeypatch, 1e-3, lambda now: 8e-3)

    def fail():
        machine.kernel()
        raise KeyboardInterrupt

    for _ in range(100):
        with pytest.raises(KeyboardInterrupt):
            module.threads.run_single(fail, ())
        assert machine.count == 2


def test_show_config_tells(monkeypatch, capsys):
    machine = Machine(monkeypatch, 1e-3, lambda now: 8e-3)
    fastce.show_config()
    assert "one thread was faster" not in capsys.readouterr().out
    machine.run(1.0)
    fastce.show_config()
    assert "for 1 of 1 kinds of calls not in use, as one thread was faster" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system confines no process to a core")
def test_confined_to_one_core():
    """After threads have started, as a container's quota or a neighbour does it. Without an account: 200 times."""
    in_new_process(
        """
import os, time
import numba, numpy as np
import fastce

x = np.random.default_rng(0).standard_normal((64, 1000), np.float32)
y, out = np.arange(64), np.empty_like(x)
fastce.cross_entropy_and_grad(x, y, out=out)
for thread in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})

def mean(seconds):
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        fastce.cross_entropy_and_grad(x, y, out=out)
        count += 1
    return (time.perf_counter() - start) / count

mean(0.5)
both = mean(1.0)
numba.set_num_threads(1)
fastce.cross_entropy_and_grad(x, y, out=out)
alone = mean(0.5)
assert both < 3 * alone, (both, alone)  # beside other tests; see the benchmark for the bar
""",
        NUMBA_NUM_THREADS="2",
    )
