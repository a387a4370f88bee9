"""Python threads and forked children: right results, never a crash."""

import os
import platform
import sys

import numba
import pytest

from tests.helpers import in_new_process, name_of

PROBLEM = """
import os, sys, threading, warnings
import numba
import numpy as np
import fastce

rng = np.random.default_rng(0)
x = rng.normal(size=(5000, 20)).astype(np.float32)  # enough for the parallel kernels
target = rng.integers(0, 20, 5000)
weight = rng.normal(size=(40, 20)).astype(np.float32)

def results():
    loss, grad = fastce.cross_entropy_and_grad(x, target)
    soft = fastce.cross_entropy_and_grad(x, np.full_like(x, 0.05))
    last = fastce.linear_cross_entropy_and_grad(x, weight, target)[:3]
    family = [fastce.softmax(x), fastce.logsumexp(x), fastce.log_softmax(x, 0), fastce.softmax_vjp(x, x)]
    others = [*fastce.kl_divergence_and_grad(x, x[::-1]), *fastce.focal_loss_and_grad(x, target, gamma=2.0)]
    return [loss, grad, *soft, *last, *family, *others, *fastce.score(x, target)]

def same(a, b):
    return all(np.array_equal(one, two) for one, two in zip(a, b, strict=True))
"""

FOREIGN = """
@numba.njit(parallel=True)
def foreign(values):
    total = 0.0
    for i in numba.prange(values.size):
        total += np.sqrt(values[i])
    return total

def disturb(stop):
    values = np.ones(100_000)
    while not stop.is_set():
        assert foreign(values) == values.size

stop = threading.Event()
disturbers = [threading.Thread(target=disturb, args=(stop,), daemon=True) for _ in range(DISTURBERS)]
for disturber in disturbers:
    disturber.start()
"""

THREADS = """
expected = results()
failures = []

def work():
    for _ in range(8):
        if not same(results(), expected):
            failures.append(threading.get_ident())

threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures
print(numba.threading_layer())
"""

FORK = """
expected = results()
for generation in range(2):  # a child, and a child of the child
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads
        child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        sys.exit(os.waitstatus_to_exitcode(status))
    assert same(results(), expected)
os._exit(7)
"""

POOL = """
import multiprocessing

def work(_):
    return results()

expected = results()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(same(found, expected) for found in pool.map(work, range(6)))
assert same(results(), expected)  # the parent goes on, with threads
sys.exit(7)
"""

WORKER = """
import multiprocessing

def work(orders, done):
    for _ in iter(orders.get, None):
        done.put(results())

expected = results()
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    context = multiprocessing.get_context("fork")
    orders, done = context.SimpleQueue(), context.SimpleQueue()
    workers = [context.Process(target=work, args=(orders, done), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
for _ in range(12):
    orders.put(1)
for _ in range(12):  # as a training loop does while workers prepare the next batches
    assert same(results(), expected)
    assert same(done.get(), expected)
for _ in workers:
    orders.put(None)
for worker in workers:
    worker.join()
    assert worker.exitcode == 0
sys.exit(7)
"""

FORK_FIRST = """
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    child = os.fork()
if not child:
    os._exit(7 if same(results(), results()) else 1)
_, status = os.waitpid(child, 0)
results()
sys.exit(os.waitstatus_to_exitcode(status))
"""

FOREIGN_THREADS = f"""
numba.get_num_threads()  # starts them, as another library's first kernel does
{FORK_FIRST}
"""


# omp and workqueue come with Numba; tbb has wheels for few machines, and Numba 0.62.0 was built without it
HAS_TBB = sys.platform == "linux" and platform.machine() == "x86_64" and numba.__version__ != "0.62.0"
LAYERS = ["omp", "workqueue", *(["tbb"] if HAS_TBB else [])]
FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def run(code, layer, status=0, disturbers=0):
    """What the code prints under a threading layer, with threads of another library's kernels."""
    # pip puts tbb's libraries where the loader does not look
    libraries = os.pathsep.join(filter(None, [os.path.join(sys.prefix, "lib"), os.environ.get("LD_LIBRARY_PATH")]))
    foreign = f"DISTURBERS = {disturbers}\n{FOREIGN}" if disturbers else ""
    environment = {"NUMBA_THREADING_LAYER": layer, "LD_LIBRARY_PATH": libraries}
    return in_new_process(PROBLEM + foreign + code, status, **environment).strip()


@pytest.mark.parametrize("layer", LAYERS)
def test_python_threads(layer):
    """Six at once, under every layer; workqueue ends the process when two of them enter parallel kernels.

    Seen to fail: with one array of losses for all threads, wrong results; with the parallel kernel always, under
    workqueue, an abort.
    """
    assert run(THREADS, layer) == layer


ALONE = """
x = np.random.default_rng(0).standard_normal((64, 1000), np.float32)
expected = fastce.softmax(x).tobytes()
for pace in kernel_threads._paces.values():
    pace.is_single, pace.saved = True, -1.0
assert fastce.softmax(x).tobytes() == expected
assert all(pace.seconds_each > 0.0 for pace in kernel_threads._paces.values())
assert numba.get_num_threads() == 2
print(numba.threading_layer())
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_a_parallel_kernel_run_by_one_thread(layer):
    """As it is while threads lose time: with the same bits, and the caller's number of threads afterwards."""
    assert run(f"from fastce.kernels.codegen import threads as kernel_threads\n{ALONE}", layer) == layer


@pytest.mark.parametrize("layer", LAYERS)
def test_python_threads_beside_another_librarys_kernels(layer):
    """Under workqueue it has to be one thread: two would end the process without fastce.

    Seen to fail: with the parallel kernel always, under workqueue, an abort.
    """
    disturbers = 1 if layer == "workqueue" else 2
    assert run(THREADS + "\nstop.set()\n", layer, disturbers=disturbers) == layer


@FORKS
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize(
    "code",
    [FORK, POOL, WORKER, FORK_FIRST, FOREIGN_THREADS],
    ids=["children", "pool", "worker", "fork first", "foreign threads"],
)
def test_forked_children(code, layer):
    """GNU OpenMP ends a child that was forked after its threads had started.

    Seen to fail: without the handler that runs after a fork, children die under omp, and pools and workers wait for
    them for ever. Under workqueue they get along without it, as Numba starts new threads there.
    """
    run(code, layer, status=7)


@pytest.mark.parametrize("shape", [(32, 10), (32, 100), (4, 2000), (100, 4, 8)], ids=name_of)
def test_small_calls_start_no_threads(shape):
    """A process that makes nothing but small calls may fork as it likes.

    Seen to fail: for (4, 2000), where the rows a thread takes at a time were settled by asking for the threads.
    """
    in_new_process(f"""
import numpy as np
import fastce
from fastce.kernels.codegen import threads

x = np.zeros({shape}, np.float32)
fastce.softmax(x, axis=1)
fastce.cross_entropy_and_grad(x, np.full_like(x, 0.1), axis=1)
assert threads.threading_layer() is None
""")


FORK_WHILE_COMPILING = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import numba, numpy as np
from numba.core import event
import fastce

def kept():
    return abs(fastce.binary_cross_entropy_with_logits(0.0, 1.0, reduction="none") - np.log(2)) < 1e-12

def child():
    signal.alarm(60)  # a child that hangs is a failure, not a wait
    is_right = kept() and numba.njit(lambda v: v + 1)(2) == 3
    os._exit(0 if is_right and abs(fastce.logsumexp(np.zeros((3, 5)))[0] - np.log(5)) < 1e-12 else 1)

def fork():
    pid = os.fork()
    if not pid:
        child()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status

def compile_all():
    x = np.zeros((4, 5), np.float32)
    fastce.softmax(x), fastce.cross_entropy_and_grad(x, np.zeros(4, int)), fastce.score(x, np.zeros(4, int))
"""

MANY_FORKS = """
thread = threading.Thread(target=compile_all)
thread.start()
while thread.is_alive():
    fork()
    time.sleep(0.05)
thread.join()
"""

IMPATIENT = """
from fastce.kernels.codegen import compiling

compiling.FORK_TIMEOUT = 0.01
inside, forked = threading.Event(), threading.Event()

class Listener(event.Listener):
    def on_start(self, event):
        if threading.current_thread() is not threading.main_thread() and not forked.is_set():
            inside.set()
            assert forked.wait(100)

    def on_end(self, event):
        return

with event.install_listener("numba:compile", Listener()):
    thread = threading.Thread(target=compile_all)
    thread.start()
    assert inside.wait(100)
    fork()
    forked.set()
    thread.join()
compile_all()
"""


@FORKS
@pytest.mark.parametrize("code", [MANY_FORKS, IMPATIENT], ids=["many", "impatient"])
def test_forks_while_another_thread_compiles(code, tmp_path):
    """The child has a compiler, whether the fork has waited for it, or not, as others' functions take minutes.

    Seen to fail: with locks that stay as they were in the parent: the child waits for ever.
    """
    in_new_process(f"{FORK_WHILE_COMPILING}\nassert kept()\n", NUMBA_CACHE_DIR=str(tmp_path))
    in_new_process(FORK_WHILE_COMPILING + code, NUMBA_CACHE_DIR=str(tmp_path))


@FORKS
def test_a_fork_in_the_midst_of_a_compilation(tmp_path):
    """On the thread that compiles: parent and child go on with it.

    Seen to fail: with a new lock for every child, which the compilation then gives back without having it.
    """
    code = """
class Listener(event.Listener):
    def on_start(self, event):
        return

    def on_end(self, event):
        global pid
        if pid is None:
            pid = os.fork()
            signal.alarm(0 if pid else 60)

pid = None
with event.install_listener("numba:compile", Listener()):
    compile_all()
if not pid:
    child()
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""
    in_new_process(FORK_WHILE_COMPILING + code, NUMBA_CACHE_DIR=str(tmp_path))
