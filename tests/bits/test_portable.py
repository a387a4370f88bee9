"""The same bits on every processor in portable mode, and processors without some instructions.

Numba compiles for the processor that ``NUMBA_CPU_NAME`` names.
"""

import ast
import platform
import subprocess
import sys

import llvmlite.binding
import numpy as np
import pytest

from fastce.kernels.ops import elementary
from tests import ENVIRONMENT
from tests.helpers import ROOT, in_new_process

X86 = platform.machine() in ("x86_64", "AMD64")
FEATURES = llvmlite.binding.get_host_cpu_features()
HERE = {}
HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # AVX2 with fused multiply-add
GENERIC = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}  # SSE2: neither that nor float16
# of the digests those whose kernels differ most; `make bits` has all
CHOSEN = (
    r"cross_entropy options \| (tiles|short rows|rows|columns|split) \| float32|softmax_vjp \| short rows \| float"
    r"|(from_probs soft|logsumexp b|focal options) \| staged \| float64|cross_entropy options \| tiles \| "
)


def run(*command, **environment):
    """The exit status of a Python program, and all that it printed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout


PROCESSORS = {"this one": HERE, **({"AVX2": HASWELL} if X86 and FEATURES.get("avx2") else {})}


@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_bits(processor):
    """Seen to fail with AVX-512: with its own exponentials, or its own choice of regimes for backward passes."""
    status, printed = run("-m", "tests.bits.digest", "--only", CHOSEN, FASTCE_PORTABLE="1", **processor)
    assert status == 0, printed


CACHED = """
import numpy as np
import fastce
print(fastce.softmax(np.linspace(-9, 9, 3000, dtype=np.float32)).tobytes().hex())
"""


def test_place_in_the_cache(tmp_path):
    """Each mode finds its own kernels, whichever was first. Seen to fail with AVX-512: with one name for both."""
    alone = in_new_process(CACHED, NUMBA_CACHE_DIR=str(tmp_path / "alone"), FASTCE_PORTABLE="1")
    shared = [in_new_process(CACHED, NUMBA_CACHE_DIR=str(tmp_path / "shared"), FASTCE_PORTABLE=mode) for mode in "010"]
    assert shared[1] == alone
    assert shared[2] == shared[0]


@pytest.mark.parametrize(("value", "shown"), [("", "those of"), ("0", "those of"), ("1", "portable")])
def test_show_config(value, shown):
    code = "import fastce; fastce.show_config()"
    lines = in_new_process(code, FASTCE_PORTABLE=value).splitlines()
    (bits,) = (line for line in lines if line.startswith("bits "))
    assert bits.split(maxsplit=1)[1].startswith(shown)


def test_no_elementary_functions_of_numpy():
    """Their last bits are the processor's: `fastce.core.elementary` has others.

    Adapters use their libraries'; the command takes logarithms of probabilities, and times NumPy's formulas.
    """
    names = {"exp", "expm1", "exp2", "log", "log1p", "log2", "logaddexp", "power", "tanh", "einsum", "dot", "inner"}
    for path in sorted((ROOT / "fastce").rglob("*.py")):
        if path.name in ("elementary.py", "vecmath.py") or path.parent.name in ("interop", "command"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                is_library = node.value.id in ("np", "math")
                assert not (is_library and node.attr in names), f"{path}:{node.lineno}: {node.value.id}.{node.attr}"


def test_float16_without_instructions():
    """All float16 numbers and the neighbourhood of each, to and from float32. Seen to fail: a segmentation fault."""
    status, printed = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/test_formats.py", **GENERIC)
    assert status == 0, printed


SAMPLES = {
    "exp": [(-104.0, 88.0), (-745.0, 709.0)],
    "expm1": [(-104.0, 88.0), (-745.0, 709.0)],
    "log": [(1e-3, 1e3)] * 2,
    "log1p": [(-0.99, 9.0)] * 2,
}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -1.0, -2.0, 1e-310, 3e-39, -1e-20, 1e-20]


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SAMPLES)
def test_elementary(name, dtype, rng):
    """Against NumPy in higher precision, as far as that goes: within 6 ulp in float32, 2 in float64."""
    low, high = SAMPLES[name][dtype == np.float64]
    x = np.concatenate([rng.uniform(low, high, 3000), rng.normal(size=500).clip(-0.99), SPECIAL])
    x = (np.abs(x) if name == "log" else x).astype(dtype)
    result = x.copy()
    getattr(elementary, name)(False, (result,))
    with np.errstate(all="ignore"):
        expected = getattr(np, name)(x.astype(np.longdouble))
        spacing = np.maximum(np.spacing(np.abs(expected).astype(dtype)), np.finfo(dtype).smallest_subnormal)
        error = np.abs(result - expected) / spacing
    is_number = np.isfinite(expected.astype(dtype))
    np.testing.assert_array_equal(result[~is_number], expected[~is_number].astype(dtype))
    assert error[is_number].max() <= (6 if dtype == np.float32 else 2.5)


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_powers_and_sums(dtype, rng):
    x = rng.random(3000).astype(dtype)
    for exponent in (0.5, 2.0, 3.7):
        result = x.copy()
        elementary.power(False, (result, exponent))
        expected = x.astype(np.longdouble) ** exponent
        allowed = (6 + exponent * np.abs(np.log(x))) * np.finfo(dtype).eps
        assert (np.abs(result - expected) <= allowed * expected).all()
    y, out = rng.normal(size=(4, 750)).astype(dtype), np.empty(4)
    elementary.dots(False, (x.reshape(4, 750), y, out))
    np.testing.assert_allclose(out, (x.reshape(4, 750).astype(float) * y).sum(axis=1), rtol=1e-13)
