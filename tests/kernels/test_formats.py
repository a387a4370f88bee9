"""16-bit floats on their way to and from float32: as NumPy converts them, bit for bit."""

import ml_dtypes
import numba
import numpy as np
import pytest

from fastce.kernels.simd.memory import fence, load, load_one, row, store, store_n, store_one, stream

LANES = 16
pytestmark = [
    pytest.mark.usefixtures("uncounted"),
    pytest.mark.parametrize(
        ("half", "bits"), [(np.float16, np.uint16), (ml_dtypes.bfloat16, np.int16)], ids=["float16", "bfloat16"]
    ),
]


@numba.njit
def _store(x, out):
    for i in range(0, out.size, LANES):
        store(row(out, i), 0, load(row(x, i), 0))


@numba.njit
def _store_n(x, out):
    for i in range(0, out.size, LANES - 1):
        store_n(row(out, i), 0, min(LANES - 1, out.size - i), load(row(x, i), 0))


@numba.njit
def _store_one(x, out):
    for i in range(out.size):
        store_one(row(out, 0), i, load_one(row(x, 0), i))


@numba.njit
def _stream(x, out):
    for i in range(0, out.size, 2 * LANES):
        p = row(x, i)
        stream(row(out, i), 0, load(p, 0), load(p, LANES))
    fence()


def _near_every_half():
    """Every sign, exponent and leading digits, with what follows them at, next to and far from a tie."""
    leading = np.arange(1 << 19, dtype=np.uint32) << 13
    return np.concatenate([leading | low for low in (0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF)]).view(np.float32)


@pytest.mark.parametrize("write", [_store, _store_n, _store_one, _stream])
def test_rounding(half, bits, write):
    """Subnormal results and values that machines take for 0 among them; NaN stays NaN.

    Seen to fail: without what rounds subnormal numbers by their bits.
    """
    x = np.random.default_rng(0).permutation(_near_every_half())
    memory = np.zeros(x.size + 32, bits)  # with room to begin where a cache line does
    out = memory[-memory.ctypes.data % 64 // 2 :][: x.size]
    write(np.append(x, np.zeros(LANES, np.float32)), out)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = x.astype(half)
    is_nan = np.isnan(x)
    assert np.isnan(out.view(half)[is_nan].astype(np.float32)).all()
    np.testing.assert_array_equal(out[~is_nan], expected.view(bits)[~is_nan])


@pytest.mark.parametrize("write", [_store, _store_one])
def test_widening(write, half, bits):
    x = np.arange(1 << 16, dtype=np.uint16)
    out = np.empty(x.size, np.float32)
    write(x.view(bits), out)
    with np.errstate(invalid="ignore"):  # of signaling NaN
        expected = x.view(half).astype(np.float32)
    np.testing.assert_array_equal(out, expected)
