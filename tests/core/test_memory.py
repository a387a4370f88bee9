"""No scratch of the size of the logits, ever; with ``out`` not even a result."""

import inspect
import itertools
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastce
from tests.helpers import in_new_process, peak_memory
from tests.oracle.layouts import LAYOUTS

ROWS, CLASSES = 8_192, 512


def calls(x, target, soft, out, axis):
    """Calls with ``out``, where there is one; it may be reused, each overwrites all of it."""
    options = {"weight": np.ones(CLASSES), "sample_weight": np.ones(ROWS), "label_smoothing": 0.1, "reduction": "none"}
    binary = fastce.binary_cross_entropy_with_logits_and_grad
    return {
        "softmax": lambda: fastce.softmax(x, axis, out=out),
        "log_softmax": lambda: fastce.log_softmax(x, axis, out=out),
        "logsumexp": lambda: fastce.logsumexp(x, axis),
        "cross_entropy": lambda: fastce.cross_entropy(x, target, axis=axis),
        "cross_entropy_and_grad": lambda: fastce.cross_entropy_and_grad(x, target, axis=axis, out=out),
        "options": lambda: fastce.cross_entropy_and_grad(x, target, axis=axis, out=out, **options),
        "soft targets": lambda: fastce.cross_entropy_and_grad(x, soft, axis=axis, out=out),
        "from_probs": lambda: fastce.cross_entropy_from_probs_and_grad(soft, target, axis=axis, out=out),
        "from_probs, soft": lambda: fastce.cross_entropy_from_probs_and_grad(soft, soft, axis=axis, out=out),
        "binary": lambda: binary(x, soft, out=out),
        "binary, weighted": lambda: binary(x, soft, weight=np.float32(2), pos_weight=np.ones(1, np.float32), out=out),
    }


def more_calls(x, target, soft, out, axis):
    """Those of the other functions, and what blocks of rows are bent or masked for."""
    each, lse = np.full(ROWS, 0.5, np.float32), fastce.logsumexp(x, axis)
    labels = {"axis": axis}
    bent = {**labels, "logit_scale": 0.5, "softcap": 5.0, "z_loss": 0.1}
    mask = np.arange(CLASSES) > 3 if axis else (np.arange(CLASSES) > 3)[:, None]
    criterion = fastce.CrossEntropyLoss(axis=axis)
    diagonal = fastce.cross_entropy_grad_and_hessian
    return {
        "softmax, mask": lambda: fastce.softmax(x, axis, where=mask, out=out),
        "logsumexp, weights": lambda: fastce.logsumexp(x, axis, b=soft, return_sign=True),
        "softmax_vjp": lambda: fastce.softmax_vjp(soft, x, axis, out=out),
        "log_softmax_vjp": lambda: fastce.log_softmax_vjp(soft, x, axis, out=out),
        "logsumexp_vjp": lambda: fastce.logsumexp_vjp(each, x, lse, axis, out=out),
        "scale and cap": lambda: fastce.cross_entropy_and_grad(x, target, out=out, **bent),
        "mask": lambda: fastce.cross_entropy_and_grad(x, target, where=mask, out=out, **labels),
        "CrossEntropyLoss": lambda: (criterion(x, target), criterion.backward(out=out)),
        "kl_divergence": lambda: fastce.kl_divergence_and_grad(x, soft, out=out, **labels),
        "focal_loss": lambda: fastce.focal_loss_and_grad(x, target, gamma=2.0, out=out, **labels),
        "score": lambda: fastce.score(x, target, top_k=5, **labels),
        "evaluate": lambda: fastce.evaluate((x, target), **labels),
        "grad_and_hessian": lambda: diagonal(x, target, out=out, hessian_out=soft, **labels),
        "hvp": lambda: fastce.cross_entropy_hvp(x, target, soft, out=out, **labels),
    }


def check(x, axis, *groups):
    target = np.zeros(ROWS, int)
    soft = np.empty_like(x)
    soft[...] = 1 / CLASSES
    out = np.empty_like(x)
    for name, call in [pair for group in groups for pair in group(x, target, soft, out, axis).items()]:
        used, _ = peak_memory(call)
        # 64 bytes a sample and six buffers of a block; one copy would be 16 MB (8 in half precision)
        assert used < 64 * ROWS + 6_500_000, f"{name}: {used} bytes"


def test_all_functions_are_measured():
    """But for linear layers, of which ``test_linear`` measures what they promise."""
    measured = set(re.findall(r"fastce\.(\w+)", inspect.getsource(calls) + inspect.getsource(more_calls)))
    functions = {name for name in fastce.__all__ if name == "CrossEntropyLoss" or name[0].islower()}
    missing = {name for name in functions if not {name, f"{name}_and_grad"} & measured}
    assert missing == {"linear_cross_entropy", "linear_cross_entropy_and_grad", "show_config", "warmup"}


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every other class", "unaligned"])
def test_python_allocates_no_scratch(layout):
    """Seen to fail: with a copy of the logits in the divergence."""
    check(LAYOUTS[layout](np.zeros((ROWS, CLASSES), np.float32)), -1, calls, more_calls)


def test_class_axis_in_front():
    check(np.zeros((CLASSES, ROWS), np.float32), 0, calls, more_calls)


def test_half_precision():
    """The other 16-bit float takes the same way, and calls not made here that of one made."""

    def some(*args):
        made = calls(*args)
        return {name: made[name] for name in ("softmax", "cross_entropy_and_grad", "soft targets", "from_probs")}

    check(np.zeros((ROWS, CLASSES), np.float16), -1, some)


def test_room_for_losses_waits_for_the_next_call():
    x, target = np.zeros((65_536, 3), np.float32), np.zeros(65_536, int)
    for reduction in ("mean", "sum"):
        used, _ = peak_memory(lambda reduction=reduction: fastce.cross_entropy(x, target, reduction=reduction))
        assert used < 16_384, f"{used} bytes; the losses have {x.nbytes // 3}"
    used, _ = peak_memory(lambda: fastce.cross_entropy(x, target, reduction="none"))
    assert used >= x.nbytes // 3


def test_room_for_losses_is_no_result():
    """Results stay what they are, whatever is computed next, in more or less room, another dtype, another thread."""

    def losses(case):
        n, dtype, logit = case
        x, target = np.tile(np.array([0, logit], dtype), (n, 1)), np.zeros(n, int)
        return [fastce.cross_entropy(x, target, reduction=reduction) for reduction in ("none", "mean", "none")]

    cases = list(itertools.product([20_000, 9_000, 40_000], [np.float32, np.float64], range(8))) * 4
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(losses, cases))
    for (_, _, logit), found in zip(cases, results, strict=True):
        for values in found:
            np.testing.assert_allclose(values, np.log1p(np.exp(logit)), rtol=1e-6)


def test_this_test_sees_a_copy():
    x = np.zeros((ROWS, CLASSES), np.float32)
    assert peak_memory(lambda: fastce.softmax(x))[0] > x.nbytes
    assert peak_memory(x.copy)[0] > x.nbytes


RESIDENT = """
import resource, sys
import numpy as np
import fastce

def resident():  # the most so far, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def calls(rows, classes, axis):
    x = np.ones((rows, classes) if axis else (classes, rows), np.float32)
    target = np.zeros(rows, int)
    out = np.ones_like(x)
    soft = np.ones_like(x)
    before = resident()
    fastce.softmax(x, axis, out=out)
    fastce.softmax_vjp(soft, x, axis, out=out)
    fastce.cross_entropy_and_grad(x, target, axis=axis, out=out)
    fastce.cross_entropy_and_grad(x, soft, axis=axis, out=out)
    fastce.kl_divergence_and_grad(x, soft, axis=axis, out=out)
    fastce.cross_entropy_hvp(x, target, soft, axis=axis, out=out)
    fastce.score(x, target, axis=axis)
    fastce.cross_entropy_and_grad(x, target, axis=axis, out=x)
    return resident() - before, x.nbytes

for rows, classes, axis in [(20_000, 1000, 1), (2, 10_000_000, 1), (20_000, 1000, 0), (800_000, 25, 1)]:
    calls(50_000 // min(classes, 25_000), classes if classes < 25_000 else 25_000, axis)  # compile
    grown, size = calls(rows, classes, axis)
    print(rows, classes, axis, grown, size)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no getrusage")
def test_kernels_allocate_no_scratch():
    """What Python cannot see: the resident memory of a process that calls with ``out``."""
    for line in in_new_process(RESIDENT).splitlines():
        *case, grown, size = map(int, line.split())
        assert grown < size / 8 + 32 * case[0], f"{case}: {grown} bytes more for arrays of {size}"
