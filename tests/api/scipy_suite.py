"""A pytest plugin that runs SciPy's own tests of the softmax family on fastce: ``pytest -p tests.api.scipy_suite``."""

from functools import partial
from unittest.mock import Mock

import scipy.special

import fastce

logsumexp = Mock(side_effect=partial(fastce.logsumexp, axis=None))  # SciPy's default
softmax = Mock(side_effect=partial(fastce.softmax, axis=None))
log_softmax = Mock(side_effect=partial(fastce.log_softmax, axis=None))

ADAPTED = {"logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax}
COMPLEX = ("complex", "imaginary", "wrap_radians")  # in the names of tests; the last is of the angle of a sum


def is_complex(item):
    """Whether a test is about complex numbers, which fastce refuses, by its name or a parameter."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return any(word in item.name for word in COMPLEX) or any(isinstance(value, complex) for value in parameters)


def pytest_collection_modifyitems(config, items):
    config.hook.pytest_deselected(items=[item for item in items if is_complex(item)])
    items[:] = [item for item in items if not is_complex(item)]
    for module in {scipy.special, *(item.module for item in items)}:
        vars(module).update(ADAPTED)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"calls: {', '.join(f'{name} {f.call_count}' for name, f in ADAPTED.items())}")
