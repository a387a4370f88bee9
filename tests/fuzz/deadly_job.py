"""A case of which the process dies, for ``test_fuzz``: a module of its own, as processes start with few imports."""

import os
import signal
from collections import Counter

from tests.fuzz.jobs import Case, Outcome

DEADLY = 20


def examine(case: Case) -> Outcome:
    """End the process at one of the cases."""
    if case["number"] == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(Counter(), None, repr(case))


def cases(seed: int):
    """Yield cases without end."""
    while True:
        yield {"number": seed}
        seed += 1
