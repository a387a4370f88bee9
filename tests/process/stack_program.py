"""What calls need of a thread's stack, for ``test_stacks``, which runs this in processes of their own."""

import ctypes
import json
import threading
from functools import partial

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

import fastce
from fastce.kernels.codegen.jit import Kernel
from tests.helpers import BFLOAT16, CASES, suited
from tests.speed.speed_guard_program import entries

# tiles, short rows, rows, rows in chunks, split, columns; as few elements as there are of each
SHAPES = [((17, 10), -1), ((3, 1000), -1), ((3, 1500), -1), ((2, 33_000), -1), ((1, 66_000), -1), ((1, 40, 1100), 1)]
PAINT, NEAR, DEEP = 0xA5, 1 << 14, 1 << 19


def calls(shape, axis, dtype):
    """Every function, by name."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(dtype)
    labels = rng.integers(0, shape[axis], x.take(0, axis).shape)
    found = {name: partial(case.run, suited(name, x), axis) for name, case in CASES.items()}
    found["score"] = lambda: fastce.score(x, labels, axis=axis)
    found["focal"] = lambda: fastce.focal_loss_and_grad(x, labels, gamma=2.0, axis=axis)
    found["hessian"] = lambda: fastce.cross_entropy_grad_and_hessian(x, labels, axis=axis)
    found["hvp"] = lambda: fastce.cross_entropy_hvp(x, labels, x, axis=axis)
    found["kl"] = lambda: fastce.kl_divergence_and_grad(x, x, axis=axis)
    found["softmax_vjp"] = lambda: fastce.softmax_vjp(x, x, axis)
    found["log_softmax_vjp"] = lambda: fastce.log_softmax_vjp(x, x, axis)
    found["logsumexp_vjp"] = lambda: fastce.logsumexp_vjp(labels * 0.5, x, fastce.logsumexp(x, axis), axis)
    if axis == -1 and x.size < 40_000:
        found["linear"] = lambda: fastce.linear_cross_entropy_and_grad(x[:, :8], x[:1, :8].repeat(40, 0), labels % 40)
    return found


def every_call():
    """All functions in all regimes, with the dtypes that other tests compile for; what they keep is alike in all."""
    for shape, axis in SHAPES:
        yield from calls(shape, axis, np.float32).values()
        x = np.random.default_rng(0).normal(size=shape)
        for dtype in (np.float16, np.float64) if len(shape) == 3 or shape[1] > 1024 else (np.float16,):
            yield from (partial(case.run, suited(name, x.astype(dtype)), axis) for name, case in CASES.items())
    x = np.random.default_rng(0).normal(size=(3, 1500))
    yield partial(CASES["cross_entropy_and_grad"].run, x.astype(BFLOAT16), -1)


# --- how much of it a kernel writes to ---------------------------------------------------


@intrinsic
def _here(context):
    def build(context, builder, signature, args):
        return builder.ptrtoint(cgutils.alloca_once(builder, ir.IntType(8)), ir.IntType(64))

    return types.int64(), build


@numba.njit
def stack_pointer():
    return _here()


def used(call):
    """How many bytes of the stack below the caller a call writes to, ``NEAR`` at least."""
    pointer = stack_pointer()
    start = pointer - DEEP
    ctypes.memset(start, PAINT, DEEP - NEAR)
    call()
    painted = np.frombuffer((ctypes.c_uint8 * (DEEP - NEAR)).from_address(start), np.uint8)
    return DEEP - int(np.argmax(painted != PAINT)) if (painted != PAINT).any() else NEAR


def measure():
    """The greatest use of each kernel, by name; what compiles is not looked at."""
    most = {}
    entry = Kernel.entry

    def measured(kernel, parallel, args):
        run = entry(kernel, False, args)

        def noted(*args):
            results = []
            size = used(lambda: results.append(run(*args)))
            most[kernel.__name__] = max(size, most.get(kernel.__name__, 0))
            return results[0]

        return noted

    stack_pointer()
    with entries(measured):
        for call in every_call():
            call()
    return most


# --- threads of little stack -------------------------------------------------------------


def call_all():
    """Make all calls by the serial twins, and some in Numba's threads."""
    numba.set_num_threads(1)
    for call in every_call():
        call()
    numba.set_num_threads(2)
    x = np.random.default_rng(0).normal(size=(64, 1500))
    fastce.softmax(x.astype(np.float16))
    for call in calls((37, 1031), -1, np.float32).values():
        call()


def in_little(size):
    """Make all calls in a thread with a stack of ``size`` bytes, once they are compiled, which takes more."""
    call_all()
    threading.stack_size(size)
    thread = threading.Thread(target=call_all)
    thread.start()
    thread.join()
    print("done")


def print_measured():
    """Print what `measure` finds, in a thread of much stack."""
    threading.stack_size(1 << 24)
    thread = threading.Thread(target=lambda: print(json.dumps(measure())))
    thread.start()
    thread.join()
