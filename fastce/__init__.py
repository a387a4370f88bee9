"""Fast, exact cross-entropy, softmax and log-sum-exp, with gradients, on NumPy arrays."""

import importlib
import os
import sys
import typing

__version__ = "0.1.0"

# Numba takes most of a second to import. A program imports everything at once, before it forks or starts to measure.
# The command imports the public names on first use, and so shows help and errors at once. ("-m": see `sys.argv`.)
_started_as = os.path.splitext(os.path.basename((getattr(sys, "argv", None) or [""])[0]))[0]

if typing.TYPE_CHECKING or _started_as not in ("fastce", "-m"):
    from fastce.public import *  # noqa: F403
    from fastce.public import __all__ as __all__
    from fastce.public import shards as shards
else:

    def __getattr__(name: str) -> typing.Any:
        """Return a public name, and import all when the first is used."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'fastce' has no attribute {name!r}")
        # While this import runs, the module lacks submodules that it asks for here: Python then imports them.
        value = getattr(importlib.import_module("fastce.public"), name)
        globals()[name] = value
        return value
