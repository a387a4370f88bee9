"""Helpers of several test files: dtypes, shapes, processes, and comparison in eps."""

import ast
import doctest
import itertools
import math
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fastce.kernels.codegen.threads import PARALLEL_ELEMENTS
from tests import ENVIRONMENT
from tests.oracle import reference

ROOT = Path(__file__).parent.parent
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WIDE = [np.dtype(np.float32), np.dtype(np.float64)]
HALF = [np.dtype(np.float16), BFLOAT16]
DTYPES = HALF + WIDE
SIZES = [HALF[0], *WIDE]  # bfloat16 differs from float16 in loads and stores alone

# Narrow classes go through tiles (16 rows, 8 of float64), rows of up to 1,024 classes (512 of float64)
# several at a time, longer ones one by one in blocks of so many; each size here stands beside such an edge.
ROWS = [1, 7, 8, 9, 15, 16, 17, 33]
NARROW = list(range(1, 41))
WIDE_CLASSES = [47, 48, 49, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 1535, 1536, 1537, 2047, 2048, 2049, 2600]
# enough elements for the parallel kernels
PARALLEL = [(5003, 10), (1501, 33), (50, 1031), (1, 70001)]


def name_of(value):
    """A readable id for pytest."""
    if isinstance(value, tuple):
        return "x".join(map(str, value)) or "scalar"
    return value.name if isinstance(value, np.dtype) else None


def imports(path):
    """Yield (line, module) for each import of a file, also where a name imported from a package is a module of it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the whole name of the module"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                place = ROOT / name.replace(".", "/")
                yield node.lineno, name if place.is_dir() or place.with_suffix(".py").exists() else node.module
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def python_blocks(page):
    """The Python code of a page in Markdown, a text a block."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def run_blocks(page):
    """Run a page's Python code in one namespace, as a reader would type it; outputs behind prompts are compared."""
    namespace = {}
    for block in python_blocks(page):
        if ">>> " in block:
            parsed = doctest.DocTestParser().get_doctest(block, namespace, page.name, str(page), 0)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
            with np.printoptions(legacy=False):
                runner.run(parsed, clear_globs=False)
            assert runner.summarize().failed == 0
            namespace.update(parsed.globs)
        else:
            exec(compile(block, str(page), "exec"), namespace)


def in_parallel(shape):
    """Whether logits of this shape are enough for the parallel kernels."""
    return math.prod(shape) >= PARALLEL_ELEMENTS


def large_batch(classes, parallel=True):
    """How many rows a large batch has, which the kernels take in parallel or, by choice, not."""
    return 50_000 // classes + 40 if parallel else min(60, (PARALLEL_ELEMENTS - 1) // classes)


def shapes_and_dtypes(shapes):
    """A grid; the parallel kernels, made of the source of the others, in float32 alone."""
    grid = itertools.product(shapes, SIZES)
    kept = [(shape, dtype) for shape, dtype in grid if dtype == np.float32 or not in_parallel(shape)]
    return pytest.mark.parametrize(("shape", "dtype"), kept, ids=name_of)


def in_new_process(code, status=0, **environment):
    """What ``code`` prints, run by a fresh interpreter in which warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


THREADS = """
import numba
from {module} import digest

for threads in (5, 1, 2):
    numba.set_num_threads(threads)
    print(threads, digest())
    assert numba.get_num_threads() == threads  # the caller's, as it was
"""


def assert_any_threads_agree(digest, *layers):
    """A module's ``digest`` is the same here and, under each threading layer, with more threads than cores.

    Those have processes of their own, as the number of threads is fixed when Numba starts. One
    after the other, each finds the kernels of those before, and those compiled here, where it is faster.
    """
    expected = digest()
    for layer in layers or ("default",):
        code = THREADS.format(module=digest.__module__)
        printed = in_new_process(code, NUMBA_NUM_THREADS="5", NUMBA_THREADING_LAYER=layer)
        found = dict(line.split() for line in printed.splitlines())
        assert found == dict.fromkeys("512", expected), (layer, found)


def peak_memory(call):
    """Return (most bytes that Python and NumPy had allocated at once in a second call, its result included; result)."""
    call()  # compiles, and fills buffers that are kept
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def finfo(dtype):
    return ml_dtypes.finfo(np.dtype(dtype).newbyteorder("="))


def computed(dtype):
    """The dtype of losses, and of all arithmetic, for logits of this one."""
    return np.dtype(np.float32 if finfo(dtype).bits <= 32 else np.float64)


def assert_within(actual, expected, eps, dtype=None, *, scale=None, message=""):
    """|actual − expected| ≤ ``eps`` machine epsilons × ``scale``, and the dtype and shape are right.

    ``scale`` is |expected| unless given; ``expected`` is rounded to the dtype first only
    where that makes it infinite. NaN equals NaN. Results below the smallest normal number
    may be 0.
    """
    expected = reference.real(expected) if not isinstance(expected, np.ndarray) else expected
    if dtype is not None:
        assert actual.dtype == dtype, f"{message} {actual.dtype}, not {dtype}"
    assert np.shape(actual) == np.shape(expected), f"{message} {np.shape(actual)}, not {np.shape(expected)}"
    info = finfo(actual.dtype)
    with np.errstate(all="ignore"):
        rounded = np.asarray(expected, np.float64).astype(actual.dtype).astype(np.float64)
    expected = np.where(np.isfinite(rounded), expected, rounded)
    actual = reference.real(actual)
    size = np.abs(expected) if scale is None else np.broadcast_to(np.abs(reference.real(scale)), expected.shape)
    with np.errstate(all="ignore"):
        error = np.abs(actual - expected)
        allowed = eps * float(info.eps) * size + float(info.tiny)
        fine = (actual == expected) | (np.isnan(actual) & np.isnan(expected)) | (error <= allowed)
    if not np.all(fine):
        worst = np.unravel_index(np.argmax(np.where(fine, -1.0, np.where(np.isnan(error), np.inf, error))), error.shape)
        raise AssertionError(
            f"{message} {np.sum(~fine)} of {fine.size} differ; at {tuple(map(int, worst))}: {actual[worst]!r}, "
            f"expected {expected[worst]!r}, off by {float(error[worst] / size[worst] / float(info.eps)):.4g} eps "
            f"({eps} allowed)"
        )


def assert_same_bits(actual, expected, message=""):
    """Equal to the last bit; all NaN count as one."""
    assert actual.dtype == expected.dtype
    if actual.dtype.newbyteorder("=") == BFLOAT16:  # whose NaN is not known to NumPy's comparison
        actual, expected = (x.astype(np.float32) for x in (actual, expected))
    np.testing.assert_array_equal(actual, expected, err_msg=message)
    number = ~np.isnan(np.asarray(expected, np.float64))
    np.testing.assert_array_equal(
        np.signbit(np.asarray(actual, np.float64))[number],
        np.signbit(np.asarray(expected, np.float64))[number],
        err_msg=message,
    )


def logits(rng, shape, dtype=np.float64, spread=3.0):
    """Normal logits, rounded to ``dtype``."""
    return (rng.normal(size=shape) * spread).astype(dtype)


def labels_for(rng, shape, axis=-1):
    """Labels for logits of this shape."""
    axis = axis % len(shape)
    return rng.integers(0, shape[axis], shape[:axis] + shape[axis + 1 :])


def soft_for(rng, shape, axis=-1, dtype=np.float64):
    """Class probabilities for logits of this shape, some of them 0."""
    raw = rng.random(shape) * (rng.random(shape) > 0.2)
    return (raw / np.maximum(raw.sum(axis, keepdims=True), 1e-3)).astype(dtype)


def tuple_of(result):
    return tuple(result) if isinstance(result, tuple) else (result,)
