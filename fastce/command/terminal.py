"""Standard error: lines on it, and whether long work shows a progress bar."""

from __future__ import annotations

import importlib.util
import sys


def tell(text: str) -> None:
    """Print a text in one line on standard error, if there is one: a parent process may have closed it."""
    if sys.stderr is not None:
        print(" ".join(text.split()), file=sys.stderr)


def shows_progress(choice: bool | None, is_long: bool = True) -> bool:
    """Return what was chosen; by default whether the work is long, standard error a terminal and rich installed.

    Raise ImportError if a bar was asked for and rich is not installed.
    """
    has_rich = importlib.util.find_spec("rich") is not None
    if choice and not has_rich:
        raise ImportError("--progress needs rich, which is not installed: pip install rich")
    if choice is not None:
        return choice
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return is_long and is_terminal and has_rich
