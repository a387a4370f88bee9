"""Each operation of the SIMD value type, in a kernel of its own, against NumPy."""

import numba
import numpy as np
import pytest

from fastce.kernels.codegen.jit import inline
from fastce.kernels.rows import tiles
from fastce.kernels.rows.tiles import MAX_CLASSES
from fastce.kernels.simd import value as simd
from fastce.kernels.simd.memory import (
    gather,
    load,
    load_between,
    load_labels,
    load_n,
    load_one,
    narrow_labels,
    offset,
    prefetch_write,
    row,
    scratch,
    step_of,
    store,
    store_n,
    store_one,
)
from fastce.kernels.simd.transpose import load_group, max_rows, store_group, store_square, sum_rows
from fastce.kernels.simd.vector import (
    any_lane,
    bits,
    count_true,
    first_lanes,
    fma,
    full_like,
    get_lane,
    increment_where,
    lane_index,
    lanes,
    maximum,
    narrow,
    polynomial,
    reduce_add,
    reduce_max,
    set_lane,
    to_float,
    where,
    widen,
)

pytestmark = [
    pytest.mark.usefixtures("uncounted"),
    pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"]),
]
INTEGER = {np.float32: np.int32, np.float64: np.int64}


def width(dtype):
    return simd.BYTES // np.dtype(dtype).itemsize


def lanewise(operation):
    """A kernel that runs ``operation`` once on all lanes."""
    operation = inline(operation)

    @numba.njit
    def run(x, y, out):
        store(row(out, 0), 0, operation(load(row(x, 0), 0), load(row(y, 0), 0)))

    return run


def pairs(dtype):
    """Every ordinary, special and extreme value against every other, a vector at a time."""
    info = np.finfo(dtype)
    one = [0.0, -0.0, 1.0, -1.5, np.inf, -np.inf, np.nan, info.tiny, -info.max, 2.75, -3.0, 1e-3, 7.0, info.eps, 9, 5]
    x, y = (a.astype(dtype).reshape(-1, width(dtype)) for a in np.meshgrid(np.array(one), np.array(one)))
    return x, y


def assert_same_bits(actual, expected):
    """Equal, the sign of zero and NaN's place included."""
    np.testing.assert_array_equal(actual, expected)
    signed = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(actual)[signed], np.signbit(expected)[signed])


OPERATIONS = {
    "add": (lambda a, b: a + b, np.add),
    "subtract": (lambda a, b: a - b, np.subtract),
    "multiply": (lambda a, b: a * b, np.multiply),
    "divide": (lambda a, b: a / b, np.divide),
    "negative": (lambda a, b: -a, lambda x, y: -x),
    "scalar right": (lambda a, b: a - 2.0, lambda x, y: x - x.dtype.type(2)),
    "scalar left": (lambda a, b: 3 / b, lambda x, y: x.dtype.type(3) / y),
    "less": (lambda a, b: where(a < b, full_like(a, 1.0), full_like(a, 0.0)), lambda x, y: (x < y) * x.dtype.type(1)),
    "less or equal": (
        lambda a, b: where(a <= b, full_like(a, 1), full_like(a, 0)),
        lambda x, y: (x <= y) * x.dtype.type(1),
    ),
    "greater": (
        lambda a, b: where(a > b, full_like(a, 1.0), full_like(a, 0.0)),
        lambda x, y: (x > y) * x.dtype.type(1),
    ),
    "greater or equal": (
        lambda a, b: where(a >= b, full_like(a, 1), full_like(a, 0)),
        lambda x, y: (x >= y) * x.dtype.type(1),
    ),
    "equal": (
        lambda a, b: where(a == b, full_like(a, 1.0), full_like(a, 0.0)),
        lambda x, y: (x == y) * x.dtype.type(1),
    ),
    "not equal": (
        lambda a, b: where(a != b, full_like(a, 1.0), full_like(a, 0.0)),
        lambda x, y: (x != y) * x.dtype.type(1),
    ),
    "and": (lambda a, b: where((a > 0.0) & (b > 0.0), a, b), lambda x, y: np.where((x > 0) & (y > 0), x, y)),
    "or": (lambda a, b: where((a > 0.0) | (b > 0.0), a, b), lambda x, y: np.where((x > 0) | (y > 0), x, y)),
    "invert": (lambda a, b: where(~(a > b), a, b), lambda x, y: np.where(~(x > y), x, y)),
    "where": (lambda a, b: where(a < b, a, b), lambda x, y: np.where(x < y, x, y)),
    "where, scalar": (lambda a, b: where(a < b, 2.5, b), lambda x, y: np.where(x < y, x.dtype.type(2.5), y)),
    "maximum": (lambda a, b: maximum(a, b), lambda x, y: np.where(x > y, x, y)),
    "maximum, scalar": (lambda a, b: maximum(1.0, b), lambda x, y: np.where(1 > y, x.dtype.type(1), y)),
    "full_like": (lambda a, b: full_like(a, -2.5), lambda x, y: np.full_like(x, -2.5)),
    "lane index": (
        lambda a, b: narrow(to_float(lane_index(a)), a),
        lambda x, y: np.arange(x.size, dtype=x.dtype),
    ),
    "bits": (lambda a, b: bits(bits(a)), lambda x, y: x),
    "set lane": (lambda a, b: set_lane(a, 3, 42.0), lambda x, y: np.where(np.arange(x.size) == 3, x.dtype.type(42), x)),
    "get lane": (lambda a, b: full_like(a, get_lane(b, 5)), lambda x, y: np.full_like(x, y[5])),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_lanewise(name, dtype):
    operation, expected = OPERATIONS[name]
    run = lanewise(operation)
    for x, y in zip(*pairs(dtype), strict=True):
        out = np.empty_like(x)
        run(x, y, out)
        with np.errstate(all="ignore"):
            assert_same_bits(out, expected(x, y).astype(dtype))


def test_integers(dtype):
    @numba.njit
    def run(x, y, out):
        a, b = load(row(x, 0), 0), load(row(y, 0), 0)
        store(row(out, 0), 0, a + b)
        store(row(out, 1), 0, a - b)
        store(row(out, 2), 0, a & b)
        store(row(out, 3), 0, a | 5)
        store(row(out, 4), 0, a << 3)
        store(row(out, 5), 0, a >> 2)
        store(row(out, 6), 0, where(a > b, a, b))

    integer = INTEGER[dtype]
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-(2**20), 2**20, width(dtype)).astype(integer) for _ in range(2))
    out = np.empty((7, x.size), integer)
    run(x, y, out)
    expected = [x + y, x - y, x & y, x | 5, x << 3, x >> 2, np.maximum(x, y)]
    np.testing.assert_array_equal(out, expected)


def test_bits_and_to_float(dtype):
    @numba.njit
    def run(x, as_bits, as_floats):
        store(row(as_bits, 0), 0, bits(load(row(x, 0), 0)))
        store(row(as_floats, 0), 0, to_float(load(row(as_bits, 0), 0)))

    x = pairs(dtype)[0].reshape(-1)[: width(dtype)].copy()
    as_bits, as_floats = np.empty(x.size, INTEGER[dtype]), np.empty_like(x)
    run(x, as_bits, as_floats)
    np.testing.assert_array_equal(as_bits, x.view(INTEGER[dtype]))
    np.testing.assert_array_equal(as_floats, as_bits.astype(dtype))


def test_fma_rounds_once(dtype):
    run = lanewise(lambda a, b: fma(a, b, -1.0))
    eps = np.finfo(dtype).eps
    x = np.full(width(dtype), 1 + eps, dtype)
    y = np.full(width(dtype), 1 - eps, dtype)
    out = np.empty_like(x)
    run(x, y, out)
    # two roundings would give 0
    np.testing.assert_array_equal(out, np.full_like(x, -eps * eps))


def test_polynomial_is_horner_from_the_highest_power(dtype):
    run = lanewise(lambda a, b: polynomial(a, (2.0, -3.0, 0.5, 7.0)))
    x = np.arange(width(dtype)).astype(dtype)
    out = np.empty_like(x)
    run(x, x, out)
    np.testing.assert_array_equal(out, np.polyval([2.0, -3.0, 0.5, 7.0], x).astype(dtype))


def test_widen_and_narrow(dtype):
    @numba.njit
    def run(x, wide, out):
        value = widen(load(row(x, 0), 0))
        for k in range(lanes(x)):
            wide[k] = get_lane(value, k)
        store(row(out, 0), 0, narrow(value * 3.000000001, x))

    x = pairs(dtype)[0].reshape(-1)[: width(dtype)].copy()
    wide, out = np.empty(x.size, np.float64), np.empty_like(x)
    run(x, wide, out)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(wide, x.astype(np.float64))
        np.testing.assert_array_equal(out, (wide * 3.000000001).astype(dtype))


@numba.njit
def _reduce(x, out):
    value = load(row(x, 0), 0)
    out[0] = reduce_add(value)
    out[1] = reduce_max(value)
    out[2] = 1.0 if any_lane(value > 1000.0) else 0.0


def test_reductions(dtype):
    rng = np.random.default_rng(1)
    out = np.empty(3, dtype)
    for lane in range(width(dtype)):
        x = rng.normal(size=width(dtype)).astype(dtype)
        _reduce(x, out)
        tree = x.copy()
        while tree.size > 1:  # the order is part of the contract: upper half onto lower
            tree = tree[: tree.size // 2] + tree[tree.size // 2 :]
        assert out[0] == tree[0]
        assert out[1] == x.max()
        assert out[2] == 0
        x[lane] = 2000
        _reduce(x, out)
        assert out[1] == 2000
        assert out[2] == 1
        x[lane] = np.nan
        _reduce(x, out)
        assert np.isnan(out[0])
        assert out[2] == 0


def test_tails_touch_their_lanes_only(dtype):
    @numba.njit
    def run(x, n, out):
        p, q = row(x, 0), row(out, 0)
        store_n(offset(q, 2), 1, n, load_n(offset(p, 1), 1, n, -7.0))

    @numba.njit
    def all_lanes(x, n, out):
        store(row(out, 0), 0, load_n(row(x, 0), 2, n, -7.0))

    x = np.arange(100, 140).astype(dtype)
    for n in range(width(dtype) + 3):
        used = min(n, width(dtype))
        out = np.full(40, -1, dtype)
        expected = out.copy()
        expected[3 : 3 + used] = x[2 : 2 + used]
        run(x, n, out)
        np.testing.assert_array_equal(out, expected)
        loaded = np.empty(width(dtype), dtype)
        all_lanes(x, n, loaded)
        np.testing.assert_array_equal(loaded, np.where(np.arange(loaded.size) < n, x[2 : 2 + loaded.size], -7))


def test_lanes_between_two(dtype):
    @numba.njit
    def run(x, start, stop, out):
        store(row(out, 0), 0, load_between(row(x, 0), 2, start, stop, -7.0))

    x, lane = np.arange(100, 140).astype(dtype), np.arange(width(dtype))
    out = np.empty(width(dtype), dtype)
    for start in range(-2, width(dtype) + 2):
        for stop in range(width(dtype) + 3):
            run(x, start, stop, out)
            np.testing.assert_array_equal(out, np.where((lane >= start) & (lane < stop), x[2 + lane], -7))


def test_single_elements(dtype):
    @numba.njit
    def run(x, k, out):
        value = load_one(row(x, 0), k)
        store_one(row(out, 0), k + 1, value)
        return value

    x = np.arange(100, 140).astype(dtype)
    out = np.full(40, -1, dtype)
    assert run(x, 17, out) == 117
    np.testing.assert_array_equal(out, np.where(np.arange(40) == 18, 117, -1))


def test_first_lanes(dtype):
    @numba.njit
    def run(x, n, out):
        value = load(row(x, 0), 0)
        store(row(out, 0), 0, where(first_lanes(value, n), value, -1.0))

    x = np.arange(100, 140).astype(dtype)
    for n in range(width(dtype) + 3):
        out = np.empty(width(dtype), dtype)
        run(x, n, out)
        np.testing.assert_array_equal(out, np.where(np.arange(out.size) < n, x[: out.size], -1))


def test_row_follows_the_first_stride(dtype):
    @numba.njit
    def run(x, i, out):
        store(row(out, 0), 0, load(row(x, i), 0))

    x = np.arange(6 * 40).reshape(6, 40).astype(dtype)
    for view in (x, x[::2], x[::-1], x[:, 3:]):
        for i in range(len(view)):
            out = np.empty(width(dtype), dtype)
            run(view, i, out)
            np.testing.assert_array_equal(out, view[i, : out.size])


def test_labels(dtype):
    @numba.njit
    def run(labels, n, x, out):
        loaded = load_labels(offset(row(labels, 0), 1), n, -9, x)
        store(row(out, 0), 0, narrow_labels(loaded, x))

    labels = np.arange(-3, 30)
    x = np.empty(0, dtype)
    for n in range(width(dtype) + 1):
        out = np.empty(width(dtype), INTEGER[dtype])
        run(labels, n, x, out)
        np.testing.assert_array_equal(out, np.where(np.arange(out.size) < n, labels[1 : 1 + out.size], -9))


def test_gather(dtype):
    @numba.njit
    def run(x, labels, out):
        indices = load_labels(row(labels, 0), lanes(x), 0, x)
        store(row(out, 0), 0, gather(row(x, 0), indices))

    x = np.random.default_rng(2).normal(size=100).astype(dtype)
    labels = np.random.default_rng(3).integers(0, 100, width(dtype))
    out = np.empty(width(dtype), dtype)
    run(x, labels, out)
    np.testing.assert_array_equal(out, x[labels])


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_groups(classes, dtype):
    @numba.njit
    def turn(x, tile, back):
        values = scratch(x, 4)
        load_group(row(x, 0), step_of(x, 0), classes, values)
        for c in range(classes):
            store(row(tile, c), 0, load(values, c * lanes(x)))
        store_group(row(back, 0), step_of(back, 0), classes, values)

    lanes_ = width(dtype)
    source = np.arange(40.0 * 40).reshape(40, 40).astype(dtype)
    for x in (source[:lanes_, :classes], source[: 2 * lanes_ : 2, 3 : 3 + classes]):
        tile = np.full((classes, lanes_), -1, dtype)
        back = np.full((lanes_ + 1, classes + 1), -1, dtype)
        turn(x, tile, back)
        np.testing.assert_array_equal(tile, x.T)
        expected = np.full_like(back, -1)
        expected[:lanes_, :classes] = x
        np.testing.assert_array_equal(back, expected)


def test_squares(dtype):
    """Whether or not this machine has masks in hardware."""

    @numba.njit
    def put(tile, classes, back):
        square = scratch(tile, 16)
        for c in range(lanes(tile)):
            store(square, c * lanes(tile), load(row(tile, c), 0))
        store_square(row(back, 0), step_of(back, 0), classes, square)

    lanes_ = width(dtype)
    tile = np.arange(lanes_**2).reshape(lanes_, lanes_).astype(dtype)
    for classes in range(1, lanes_ + 1):
        back = np.full((lanes_ + 1, lanes_ + 1), -1, dtype)
        put(tile, classes, back)
        expected = np.full_like(back, -1)
        expected[:lanes_, :classes] = tile.T[:, :classes]
        np.testing.assert_array_equal(back, expected)


def test_tiles(dtype):
    """There and back; nothing else is written to, and lanes without a row repeat the last one."""

    @numba.njit
    def turn(x, n, tile, back):
        values = scratch(x, MAX_CLASSES)
        tiles.load_tile(x, 1, n, values)
        for c in range(x.shape[1]):
            store(row(tile, c), 0, load(values, c * lanes(x)))
        tiles.store_tile(back, 1, n, values)

    lanes_ = width(dtype)
    source = np.arange(40.0 * 40).reshape(40, 40).astype(dtype)
    for classes in range(1, MAX_CLASSES + 1):
        for x in (source[: lanes_ + 2, :classes], source[: 2 * lanes_ + 4 : 2, 3 : 3 + classes]):
            for n in range(1, lanes_ + 1):
                tile = np.full((classes, lanes_), -1, dtype)
                room = np.full((lanes_ + 2, classes + 2), -1, dtype)
                turn(x, n, tile, room[:, 1:-1])
                np.testing.assert_array_equal(tile, x[1 + np.minimum(np.arange(lanes_), n - 1)].T)
                expected = np.full_like(room, -1)
                expected[1 : 1 + n, 1:-1] = x[1 : 1 + n]
                np.testing.assert_array_equal(room, expected)


def test_reductions_of_rows(dtype):
    """Bit for bit what the reduction of a single value gives."""

    @numba.njit
    def run(x, sums, tops, single):
        square = scratch(x, 16)
        for r in range(lanes(x)):
            value = load(row(x, r), 0)
            store(square, r * lanes(x), value)
            single[r] = reduce_add(value)
        store(row(sums, 0), 0, sum_rows(square))
        store(row(tops, 0), 0, max_rows(square))

    x = np.random.default_rng(4).normal(size=(width(dtype), width(dtype))).astype(dtype)
    x[1] = -np.inf
    sums, tops, single = (np.empty(width(dtype), dtype) for _ in range(3))
    run(x, sums, tops, single)
    np.testing.assert_array_equal(sums, single)
    np.testing.assert_array_equal(tops, x.max(1))


def test_count_true(dtype):
    @numba.njit
    def run(x, bound):
        return count_true(load(row(x, 0), 0) < bound)

    x = np.random.default_rng(5).permutation(width(dtype)).astype(dtype)
    for bound in range(width(dtype) + 1):
        assert run(x, bound) == bound


def test_add_true(dtype):
    @numba.njit
    def run(x, bound):
        below = load(row(x, 0), 0) < bound
        return reduce_add(increment_where(increment_where(bits(full_like(x, 0.0)), below), below))

    x = np.random.default_rng(5).permutation(width(dtype)).astype(dtype)
    for bound in range(width(dtype) + 1):
        assert run(x, bound) == 2 * bound


def test_announced_memory_stays_as_it_is(dtype):
    @numba.njit
    def run(x):
        for k in range(x.size):
            prefetch_write(row(x, 0), k)

    x = np.arange(100).astype(dtype)
    run(x)
    np.testing.assert_array_equal(x, np.arange(100))
