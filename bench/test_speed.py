"""The timed tests, run by :mod:`bench.worker` in each contender's process; not part of the test suite."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from itertools import repeat

import numpy as np
from threadpoolctl import threadpool_limits

from bench.cases import LOSS_GRAD
from bench.inputs import Inputs, check, inputs_of
from bench.training import DigitsNetwork


def call_repeatedly(call, times):
    # Each result is dropped at once, as in a loop that overwrites it: giving memory back is part of the cost.
    for _ in repeat(None, times):
        call()


def seconds_per_call(call, at_least=0.004):
    """Call until ``at_least`` seconds have passed, once at least; return the seconds a call took."""
    start, calls = time.perf_counter(), 0
    while True:
        call()
        calls += 1
        elapsed = time.perf_counter() - start
        if elapsed >= at_least:
            return elapsed / calls


def prepared(case, contender, largest, turns):
    """Return the case's call, its result held to the oracle; an optional library that cannot do it declines."""
    inputs = inputs_of(case, largest)
    try:
        call = contender.call(case.op, inputs)
        if call is not None:
            result = call()
            if contender.checked:
                check(case.op, inputs, result, contender.to_numpy)
    except Exception as error:
        if not contender.needs:
            raise
        turns.decline(f"cannot: {in_short(error)}")
    if call is None:
        turns.decline("has no such function")
    return call


def in_short(error):
    """Name an error in a line, without the machine's paths."""
    lines = str(error).strip().splitlines() or [""]
    return re.sub(r"(/[^\s:'\"]+)+/", "", f"{type(error).__name__}: {lines[0]}")[:160]


def test_speed(case, contender, largest, turns, benchmark):
    call = prepared(case, contender, largest, turns)

    def warm_up():
        seconds_per_call(call)

    rounds, loops = turns.agree(lambda: seconds_per_call(call))
    benchmark.extra_info.update(asdict(case), loops=loops)
    benchmark.pedantic(call_repeatedly, (call, loops), setup=lambda: turns.take(warm_up), rounds=rounds)
    turns.done()


def test_training(training, contender, turns, benchmark):
    if contender.step is None:
        turns.decline("is not part of the training loop")
    # These matrix products are too small for threads, and a BLAS pool that spins beside torch's or Numba's on the
    # same cores slows every step several times over.
    threadpool_limits(1, user_api="blas")
    network = DigitsNetwork(contender.step(), training.batch)
    images, labels = (part[: training.batch] for part in network.train)
    logits = network.forward(images)[1]
    result = network.loss_and_grad(logits.copy(), labels)
    check(LOSS_GRAD, Inputs(logits, labels, np.empty(0)), result)

    turns.agree(lambda: seconds_per_call(network.warm))
    benchmark.pedantic(network.epoch, setup=lambda: turns.take(network.warm), rounds=training.epochs)
    benchmark.extra_info.update(
        asdict(training),
        steps=network.steps,
        loss_seconds=float(np.median(network.loss_seconds)),
        accuracy=network.accuracy(),
    )
    turns.done()
