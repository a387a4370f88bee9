"""No scratch of the size of the logits, ever; with ``out`` not even a result."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest

import fastce
from tests.functions import CALLS, FUNCTIONS
from tests.helpers import in_new_process, peak_memory
from tests.oracle.layouts import LAYOUTS

ROWS, CLASSES = 8_192, 512


class Inputs:
    """Arguments that are made before anything is measured; results may go to the same arrays again and again."""

    def __init__(self, x, axis):
        self.x, self.axis = x, axis
        self.out, self.soft = np.empty_like(x), np.empty_like(x)
        self.soft[...] = 1 / CLASSES
        self.p = self.g = self.b = self.v = self.teacher = self.share = self.soft_of_probs = self.soft
        self.labels = np.zeros(ROWS, int)
        self.ignoring = np.where(np.arange(ROWS) % 3 == 0, -100, self.labels)
        self.weight, self.sample_weight = np.ones(CLASSES), np.ones(ROWS)
        self.element_weight, self.pos_weight = np.full((1, 1), 2, np.float32), np.ones(1, np.float32)
        self.g_samples, self.lse = np.full(ROWS, 0.5, np.float32), fastce.logsumexp(x, axis)
        self.mask = np.arange(CLASSES) > 3 if axis else (np.arange(CLASSES) > 3)[:, None]


MEASURED = (
    *("softmax", "log_softmax", "logsumexp", "softmax where", "logsumexp b"),
    *("softmax_vjp", "log_softmax_vjp", "logsumexp_vjp"),
    *("cross_entropy", "cross_entropy ignoring", "cross_entropy soft", "cross_entropy weighted"),
    *("cross_entropy bent", "cross_entropy where", "forward", "backward", "CrossEntropyLoss"),
    *("from_probs", "from_probs soft", "binary", "binary options", "binary smoothed", "binary from_probs"),
    *("sigmoid_focal", "kl", "kl reverse", "jensen_shannon", "focal", "focal soft options"),
    *("score", "evaluate", "grad_and_hessian", "hvp"),
)
# other options, where there is a kernel for them already
OPTIONS = {
    "logsumexp b": {"return_sign": True},
    "cross_entropy weighted": {"reduction": "none"},
    "cross_entropy where": {"weight": None, "label_smoothing": 0.0},
    "CrossEntropyLoss": {"z_loss": 0.0},
    "score": {"top_k": 5},
}


def check(x, axis, names=MEASURED):
    inputs = Inputs(x, axis)
    for name in names:
        call = CALLS[name]
        outs = {argument: inputs.out for argument, like in call.function.outs.items() if like != "samples"}
        if "hessian_out" in outs:
            outs["hessian_out"] = inputs.soft
        used, _ = peak_memory(partial(call.on, inputs, **outs, **OPTIONS.get(name, {})))
        # 64 bytes a sample and six buffers of a block; one copy would be 16 MB (8 in half precision)
        assert used < 64 * ROWS + 6_500_000, f"{name}: {used} bytes"


def test_all_functions_are_measured():
    """But for linear layers, of which ``test_linear_memory`` measures what they promise."""
    measured = {CALLS[name].name for name in MEASURED}
    missing = {name for name in FUNCTIONS if not {name, f"{name}_and_grad"} & measured}
    assert missing == {"linear_cross_entropy", "linear_cross_entropy_and_grad"}


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every other class", "unaligned"])
def test_python_allocates_no_scratch(layout):
    """Seen to fail: with a copy of the logits in the divergence."""
    check(LAYOUTS[layout](np.zeros((ROWS, CLASSES), np.float32)), -1)


def test_class_axis_in_front():
    check(np.zeros((CLASSES, ROWS), np.float32), 0)


def test_half_precision():
    """The other 16-bit float takes the same way, and calls not made here that of one made."""

    names = ("softmax", "cross_entropy ignoring", "cross_entropy soft", "from_probs")
    check(np.zeros((ROWS, CLASSES), np.float16), -1, names)


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
