"""What calls cost, printed as JSON; ``test_speed_guard`` runs this in processes of their own.

``main("shares")`` runs on any machine: times as shares of plain NumPy's, and which twins run.

``main("counts")`` reads no clock, so that no other load matters. x86-64 Linux only.

- Instructions. With the processor's trap flag up, SIGTRAP comes after every instruction; its handler counts
  those that lie in compiled code, or in libm, whose scalar functions no kernel should call.
- Visits to memory. The pages of the arrays are locked, all but the latest 24, as if those lay in a cache of
  96 KB; SIGSEGV comes, and is counted, whenever a call comes to a page anew.
"""

import ctypes
import gc
import json
import mmap
import signal
import time

import numba
import numpy as np
from numba import carray, types
from numba.extending import intrinsic

import fastce
from fastce.kernels.codegen.jit import Kernel
from tests.entries import entries

SECONDS = 0.8  # of timing a shape
TIMED = {
    "32x10": ((32, 10), -1),
    "16384x10": ((16384, 10), -1),
    "1024x1000": ((1024, 1000), -1),
    "32x32000": ((32, 32000), -1),
    "4x100x64x64": ((4, 100, 64, 64), 1),
}
# A few blocks of samples stand for many: a step takes ten microseconds. In the names here, "rows" are short rows, of up
# to 64 values, and "long rows" are longer ones.
STEPPED = {
    "tiles": ((32, 10), -1),
    "rows": ((3, 1000), -1),
    "long rows": ((1, 2000), -1),
    "columns": ((1, 20, 128), 1),
}
VISITED = {
    "tiles": ((16384, 10), -1),
    "rows": ((256, 1000), -1),
    "long rows": ((4, 131072), -1),
    "columns": ((1, 100, 64, 64), 1),
}


def problem(shape, axis):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 3).astype(np.float32)
    axis %= x.ndim
    return x, rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])


def plain(x, target, axis, grad):
    """Cross-entropy and gradient as NumPy's users write it."""
    labels = np.expand_dims(target, axis)
    np.subtract(x, x.max(axis, keepdims=True), out=grad)
    at_labels = np.take_along_axis(grad, labels, axis)
    np.exp(grad, out=grad)
    total = grad.sum(axis, keepdims=True)
    loss = (np.log(total) - at_labels).mean()
    grad /= total
    np.put_along_axis(grad, labels, np.take_along_axis(grad, labels, axis) - 1, axis)
    grad /= target.size
    return loss


def shares():
    """The least time of loss and gradient over the least time of NumPy, taken in turns on one thread."""
    result = {}
    for name, (shape, axis) in TIMED.items():
        x, target = problem(shape, axis)
        grad = np.empty_like(x)
        calls = [
            lambda x=x, t=target, axis=axis, grad=grad: fastce.cross_entropy_and_grad(x, t, axis=axis, out=grad),
            lambda x=x, t=target, axis=axis, grad=grad: plain(x, t, axis, grad),
        ]
        for call in calls:
            call()
        least = [float("inf")] * 2
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            for i, call in enumerate(calls):
                start = time.perf_counter()
                call()
                least[i] = min(least[i], time.perf_counter() - start)
        result[name] = least[0] / least[1]
    return {"shares": result, "twins": twins()}


entry = Kernel.entry


def twins():
    """The twins that loss and gradient run where two threads are to be had: True for the parallel one."""
    seen = []

    def noted(kernel, parallel, args):
        if kernel.__name__.startswith("hard"):
            seen.append((kernel.__name__, parallel))
        return entry(kernel, False, args)

    numba.set_num_threads(2)
    with entries(noted):
        for shape, axis in TIMED.values():
            x, target = problem(shape, axis)
            fastce.cross_entropy_and_grad(x, target, axis=axis)
    return dict(zip(TIMED, seen, strict=True))


# --- counting ----------------------------------------------------------------------------

PAGE = mmap.PAGESIZE
WINDOW = 24  # unlocked pages; fewer than a chunk of a long row has
RIP, FLAGS, TRAP = 21, 22, 0x100  # in words of ucontext_t; the flag
ADDRESS = 2  # si_addr, in words of siginfo_t
SA_SIGINFO = 4

ON, INSIDE, RANGES, FIRST = range(4)
steps = np.zeros(400, np.int64)
BASE, PAGES, NEXT, OPEN = range(4)
window = np.zeros(OPEN + WINDOW, np.int64)
faults = np.zeros(1 << 13, np.int64)
# handlers see no objects, only addresses
AT_STEPS, AT_WINDOW, AT_FAULTS = steps.ctypes.data, window.ctypes.data, faults.ctypes.data
SIZE_STEPS, SIZE_WINDOW, SIZE_FAULTS = steps.size, window.size, faults.size


@intrinsic
def at(context, address):
    def build(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), build


def on_step(number, info, context):
    registers = carray(context, (FLAGS + 1,), np.int64)
    state = carray(at(AT_STEPS), (SIZE_STEPS,), np.int64)
    if not state[ON]:
        registers[FLAGS] &= ~TRAP
        return
    registers[FLAGS] |= TRAP
    for i in range(state[RANGES]):
        if state[FIRST + 2 * i] <= registers[RIP] < state[FIRST + 2 * i + 1]:
            state[INSIDE] += 1


def visit_handler(mprotect, abort):
    both = mmap.PROT_READ | mmap.PROT_WRITE

    def on_fault(number, info, context):
        state = carray(at(AT_WINDOW), (SIZE_WINDOW,), np.int64)
        counts = carray(at(AT_FAULTS), (SIZE_FAULTS,), np.int64)
        page = (carray(info, (ADDRESS + 1,), np.int64)[ADDRESS] - state[BASE]) // PAGE
        if page < 0 or page >= state[PAGES]:
            abort()  # a real fault
        counts[page] += 1
        mprotect(state[BASE] + page * PAGE, PAGE, both)
        oldest = state[OPEN + state[NEXT]]
        if oldest >= 0:
            mprotect(state[BASE] + oldest * PAGE, PAGE, 0)
        state[OPEN + state[NEXT]] = page
        state[NEXT] = (state[NEXT] + 1) % WINDOW

    return on_fault


class Action(ctypes.Structure):
    """``struct sigaction``."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Counter:
    def __init__(self):
        libc = ctypes.CDLL(None)
        self.mprotect = libc.mprotect
        self.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        libc.abort.argtypes, libc.abort.restype = [], None
        compiled = numba.cfunc(types.void(types.int32, types.voidptr, types.voidptr))
        handlers = {
            signal.SIGTRAP: compiled(on_step),
            signal.SIGSEGV: compiled(visit_handler(self.mprotect, libc.abort)),
        }
        for number, handler in handlers.items():
            assert libc.sigaction(number, ctypes.byref(Action(handler.address, flags=SA_SIGINFO)), None) == 0
        self.handlers = handlers

    def step(self, call):
        """The instructions of a call in compiled code."""
        with open("/proc/self/maps") as maps:
            fields = [line.split(maxsplit=5) for line in maps]
        code = [f[0] for f in fields if "x" in f[1] and (len(f) == 5 or "/libm.so" in f[5] or "/libm-" in f[5])]
        ends = [int(end, 16) for span in code for end in span.split("-")]
        steps[:FIRST] = 0, 0, len(code)
        steps[FIRST : FIRST + len(ends)] = ends
        steps[ON] = 1
        signal.raise_signal(signal.SIGTRAP)
        call()
        steps[ON] = 0
        return int(steps[INSIDE])

    def step_kernels(self, call, parallel=False):
        """The instructions of all kernels that a call runs; of the driver alone, if in its parallel twin."""
        inside = 0

        def stepped(kernel, twin, args):
            if parallel and not kernel.__name__.startswith("hard"):
                return entry(kernel, twin, args)
            run = entry(kernel, parallel, args)

            def counted(*args):
                nonlocal inside
                results = []
                inside += self.step(lambda: results.append(run(*args)))
                return results[0]

            return counted

        with entries(stepped):
            call()
        return inside

    def visit(self, call, start, pages):
        """How often a call comes to one of these pages."""
        call()
        window[:OPEN] = start, pages, 0
        window[OPEN:] = -1
        faults[:] = 0
        self.mprotect(start, pages * PAGE, 0)
        call()
        self.mprotect(start, pages * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
        return int(faults[:pages].sum())


def calls(x, target, axis, grad):
    """What is counted, by name."""
    return {
        "both": lambda: fastce.cross_entropy_and_grad(x, target, axis=axis, out=grad),
        "forward": lambda: fastce.logsumexp(x, axis),
    }


def counts():
    counter = Counter()
    gc.disable()
    instructions, visits = {}, {}
    for name, (shape, axis) in STEPPED.items():
        x, target = problem(shape, axis)
        for what, call in calls(x, target, axis, np.empty_like(x)).items():
            instructions[f"{name}, {what}"] = counter.step_kernels(call) / x.size
            if what == "both":
                parallel = counter.step_kernels(call, parallel=True) / x.size
                # other layers compute in a thread of their own, which nobody steps through
                if numba.threading_layer() == "omp":
                    instructions[f"{name}, parallel"] = parallel
    for name, (shape, axis) in VISITED.items():
        values, target = problem(shape, axis)
        pages = -(-values.nbytes // PAGE)
        room = mmap.mmap(-1, 2 * pages * PAGE)
        x, grad = (np.frombuffer(room, np.float32, values.size, i * pages * PAGE).reshape(shape) for i in range(2))
        x[...] = values
        for what, call in calls(x, target, axis, grad).items():
            visits[f"{name}, {what}"] = counter.visit(call, x.ctypes.data, 2 * pages) / pages
    return {"instructions": instructions, "visits": visits}


def main(what):
    numba.set_num_threads(1)
    print(json.dumps({"counts": counts, "shares": shares}[what]()))
