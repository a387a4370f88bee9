"""A process that calls one contender: ``python -P caller.py NAME``, a JSON list a line in, a JSON value a line out.

fastce is imported from where PYTHONPATH finds it, so that another version can be called too. ::

    ["prepare", SHAPES]         null                            makes the first calls, which start threads
    ["confine", CORES]          null                            puts every thread there is on these cores
    ["measure", SHAPE, SECONDS] {calls, seconds, median, p99}   calls for as long

The process ends when its input does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[], Any]
WARM_UP, REST = 0.004, 0.02  # seconds, the last what threads need to come to rest
ROOT = str(Path(__file__).parents[1])


def prepare(name: str, shapes: list[list[int]]) -> dict[tuple[int, ...], Call]:
    """Return the calls by shape, each made once and its result held to the oracle."""
    if name.startswith("fastce"):
        import fastce  # noqa: F401 - before the benchmark's own folder joins the path
    sys.path.insert(0, ROOT)
    from bench.cases import LOSS_GRAD, Case
    from bench.contenders import contender
    from bench.inputs import check, make_inputs

    player, calls = contender(name), {}
    for batch, classes in shapes:
        case = Case(LOSS_GRAD, batch, classes, "float32")
        inputs = make_inputs(batch, classes, case.dtype, case.layout, case.elements)
        call = player.call(case.op, inputs)
        assert call is not None
        check(case.op, inputs, call(), player.to_numpy)
        calls[batch, classes] = call
    return calls


def confine(cores: list[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)


def measure(call: Call, seconds: float) -> dict[str, float]:
    """Call for so many seconds; every moment of them counts."""
    import numpy as np

    repeat(call, WARM_UP)
    stamps = np.array(repeat(call, seconds))
    times = np.diff(stamps)
    time.sleep(REST)  # others take their turn next
    return {
        "calls": len(times),
        "seconds": stamps[-1] - stamps[0],
        "median": float(np.median(times)),
        "p99": float(np.quantile(times, 0.99)),
    }


def repeat(call: Call, seconds: float) -> list[float]:
    """Call once at least; return the time before the first call and after each."""
    stamps = [time.perf_counter()]
    end = stamps[0] + seconds
    while len(stamps) == 1 or stamps[-1] < end:
        call()
        stamps.append(time.perf_counter())
    return stamps


def main(name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks ends this process too
    calls: dict[tuple[int, ...], Call] = {}
    for line in sys.stdin:
        word, *arguments = json.loads(line)
        answer = None
        if word == "prepare":
            calls = prepare(name, *arguments)
        elif word == "confine":
            confine(*arguments)
        else:
            shape, seconds = arguments
            answer = measure(calls[tuple(shape)], seconds)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
