"""The command ``fastce``: its subcommands, errors and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

import fastce
from fastce.command import evaluate, timing, warmup
from fastce.command.arguments import UsageError, make_parser, usage_errors
from fastce.command.terminal import tell

CLOSED_PIPE, INTERRUPTED = 141, 130  # as shells say it: 128 and the number of the signal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default those of the process, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a path may hold what the terminal's encoding lacks
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            code = _run(argv)
        except SystemExit as done:  # argparse: 0 for help and version, 2 for an error
            code = int(done.code or 0)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader has left, as head does
        _drop_output()
        return CLOSED_PIPE
    except OSError as error:  # a full disk
        _drop_output()
        _complain("fastce", error)
        return 1
    return code


def _run(argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the subcommand."""
    options = make_parser(RUNS).parse_args(argv)
    try:
        options.run(options)
    except UsageError as error:
        options.parser.error(str(error))
    except BrokenPipeError:
        raise
    except (EOFError, ImportError, IndexError, MemoryError, OSError, OverflowError, TypeError, ValueError) as error:
        _complain(options.parser.prog, error)
        return 1
    return 0


def _complain(prog: str, error: Exception) -> None:
    """Print an error and its notes in one line."""
    text = str(getattr(error, "strerror", None) or error) or "not enough memory"  # which may come without a text
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    tell(f"{prog}: error: {text}{notes}")


def _drop_output() -> None:
    """Send what is left of the output nowhere: the interpreter would complain when it flushes it at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _config(options: argparse.Namespace) -> None:
    with usage_errors():
        fastce.show_config(options.shape, options.dtype, options.axis)


RUNS = {"config": _config, "warmup": warmup.run, "evaluate": evaluate.run, "time": timing.run}
