"""The gradients that come along with a loss, in several threads."""

from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np

from fastce.interop.gradients import Gradients


class SlowIndex(int):
    """An index that lets other threads run before each look into a dictionary."""

    def __hash__(self):
        sleep(0.02)
        return hash(int(self))


def test_threads_take_gradients_of_their_own():
    """Seen to fail: with gradients that are looked for and taken in two steps."""

    def loss_and_gradient(x, grad_output=1.0):
        return (x**2).sum(), 2 * x * grad_output

    call = Gradients(lambda x: (x**2).sum(), loss_and_gradient, {"x": np.ones(3)}, {})
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda upstream: call.take(SlowIndex(0), upstream), (1.0, 5.0))
    np.testing.assert_array_equal(first, 2.0)
    np.testing.assert_array_equal(second, 10.0)
