"""Processes of contenders, as seen from the process that gives them their turns."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Any

from bench.worker import Settings, Skip, serve

TIMEOUT = 300.0  # seconds for one answer; the first one includes compiling


class WorkerDied(Exception):
    """A contender's process has ended, or does not answer."""


class Failed(Exception):
    """A contender could not do what it was asked to."""


class Process:
    """A new process of a contender, a :class:`bench.worker.Worker`, and this end of its pipe."""

    def __init__(self, name: str, settings: Settings, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.log = name, settings.log
        self.link, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, settings))
        with _environment(environment):
            self.process.start()
        theirs.close()  # so that the pipe breaks when the process dies

    def ask(self, word: str, *arguments: Any) -> Any:
        """Have a method of the worker called; return the result."""
        self.say(word, *arguments)
        return self.answer()

    def say(self, word: str, *arguments: Any) -> None:
        """Have a method of the worker called, without waiting for it."""
        try:
            self.link.send((word, arguments))
        except OSError as error:
            raise WorkerDied(self.exit_report()) from error

    def answer(self) -> Any:
        """Wait for the result, but not for ever."""
        if not wait([self.link, self.process.sentinel], TIMEOUT):
            self.process.kill()
            raise WorkerDied(f"no answer within {TIMEOUT:.0f} s")
        with suppress(EOFError, OSError):
            if self.link.poll():
                outcome, value = self.link.recv()
                if outcome == "done":
                    return value
                raise Skip(value) if outcome == "skip" else Failed(value)
        raise WorkerDied(self.exit_report())

    def exit_report(self) -> str:
        """Say how the process ended, with the last lines of its log."""
        self.process.join(5)
        text = self.log.read_text(errors="replace") if self.log and self.log.exists() else ""
        return f"the process ended with status {self.process.exitcode}: {' / '.join(text.strip().splitlines()[-3:])}"

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Have these environment variables only, for a process that starts meanwhile."""
    saved = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(variables)
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)
