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
from tests.entries import entries
from tests.functions import CALLS, FAMILIES, OTHERS, SHARD_CALLS
from tests.helpers import BFLOAT16

# tiles, short rows, rows, rows in chunks, split, columns; as few elements as there are of each
SHAPES = [((17, 10), -1), ((3, 1000), -1), ((3, 1500), -1), ((2, 33_000), -1), ((1, 66_000), -1), ((1, 40, 1100), 1)]
PAINT, NEAR, DEEP = 0xA5, 1 << 14, 1 << 19


def calls(shape, axis, dtype):
    """Every function, by name."""
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    found = {name: partial(CALLS[name].on_rows, CALLS[name].suited(x), axis) for name in FAMILIES + OTHERS}
    found |= {name: partial(call.on_rows, x, axis) for name, call in SHARD_CALLS.items()}
    if axis == -1 and x.size < 40_000:
        found["linear"] = lambda: fastce.linear_cross_entropy_and_grad(
            x[:, :8], x[:1, :8].repeat(40, 0), np.arange(len(x)) % 40
        )
    return found


def every_call():
    """All functions in all regimes, with the dtypes that other tests compile for; what they keep is alike in all."""
    for shape, axis in SHAPES:
        yield from calls(shape, axis, np.float32).values()
        x = np.random.default_rng(0).normal(size=shape)
        for dtype in (np.float16, np.float64) if len(shape) == 3 or shape[1] > 1024 else (np.float16,):
            for name in FAMILIES:
                yield partial(CALLS[name].on_rows, CALLS[name].suited(x.astype(dtype)), axis)
    x = np.random.default_rng(0).normal(size=(3, 1500))
    yield partial(CALLS["cross_entropy none"].on_rows, x.astype(BFLOAT16))


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
