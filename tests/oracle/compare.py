"""Comparison of results with the oracle's."""

import numpy as np

from tests.functions import FUNCTIONS
from tests.helpers import assert_within, computed, finfo, tuple_of

HALF_AN_ULP = 0.51  # eps of a result narrower than the computation: one rounding to nearest, in some doubt


def assert_matches_oracle(name, *arguments, eps=None, **options):
    """Call a public function, compare each of its results with the oracle's, and return them.

    ``name`` is its row in ``tests.functions``. The oracle takes the same arguments, in extended precision, and gives
    each result's value and size. The size is the sum of the magnitudes of the terms that the result is made of, each
    logit among them with its distance from the greatest: exp turns an error relative to that distance into one
    relative to the exponential. So errors that no arithmetic of this precision avoids are a few eps of the size,
    whatever cancels in the value.

    An error may be ``eps`` machine epsilons of the size, in the precision of the computation: that of float32 for
    16-bit floats, which are then rounded once. By default that is the function's own number in the table, at most
    two and a half times the greatest error that the tests have met. Integers and booleans have to be the same, NaN
    and infinities where the oracle has them.
    """
    function = FUNCTIONS[name]
    results = function.call(*arguments, **options)
    x = np.asarray(arguments[0])
    dtype = np.dtype(np.float64) if x.dtype.kind in "biu" else x.dtype.newbyteorder("=")
    dtypes = {"l": computed(dtype), "x": dtype, "i": np.dtype(np.int64), "?": np.dtype(bool)}
    given = {key: value for key, value in options.items() if key != "out"}
    with np.errstate(all="ignore"):
        expected = function.oracle(*map(np.array, arguments), **given)
    found = zip(function.results, tuple_of(results), expected, strict=False)
    for i, (letter, actual, (value, size)) in enumerate(found):
        message = f"{name} of {x.shape} {x.dtype} with {', '.join(options) or 'no options'}, result {i}:"
        compare(np.asarray(actual), value, size, dtypes[letter], function.eps if eps is None else eps, message)
    return results


def compare(actual, value, size, dtype, eps, message="", inner=None):
    """Compare one result with its value, of this size; ``inner`` is the dtype of the computation."""
    assert actual.dtype.newbyteorder("=") == dtype, f"{message} dtype {actual.dtype}, not {dtype}"
    value = np.asarray(value)
    if dtype.kind in "ib":
        np.testing.assert_array_equal(actual, value, message)
        return
    info = finfo(dtype)
    inner = finfo(computed(dtype) if inner is None else inner)
    with np.errstate(all="ignore"):
        size = np.broadcast_to(np.asarray(np.abs(size), np.float64), value.shape)
        size = np.nan_to_num(size, posinf=np.inf) + float(inner.tiny) / float(inner.eps)  # all below that may be 0
        allowed = size * eps * float(inner.eps)
        if float(info.eps) > float(inner.eps):
            allowed = allowed + HALF_AN_ULP * float(info.eps) * np.nan_to_num(np.abs(value.astype(np.float64)))
    value = np.where(allowed == np.inf, np.asarray(actual, value.dtype), value)  # nothing left to compare
    scale = np.where(allowed == np.inf, 0, allowed) / float(info.eps)
    assert_within(actual, value, 1, scale=scale, message=message)
