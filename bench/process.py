"""The parent's handle of a contender's processes."""

import multiprocessing
import os
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from bench.worker import Skip, serve

TIMEOUT = 300.0  # seconds for one answer; the first one includes compiling


class WorkerDied(Exception):
    """A contender's process has ended, or does not answer."""


class Failed(Exception):
    """A contender failed to carry out a request."""


class Process:
    """A contender's new process, or several that act at once; use it as a context manager, which ends them."""

    def __init__(self, name: str, count: int, environment: dict[str, str], log: Path, **settings: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.log = name, log
        self.members: list[tuple[Connection, BaseProcess]] = []
        for _ in range(count):
            link, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, name), kwargs={"log": log, **settings})
            with patch.dict(os.environ, environment, clear=True):  # libraries read it while they are imported
                process.start()
            theirs.close()  # so that the pipe breaks when the process dies
            self.members.append((link, process))

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes, even those that hang."""
        for _, process in self.members:
            process.kill()
            process.join()

    def ask(self, request: str, *arguments: Any) -> Any:
        """Have a method of the worker called; return the result."""
        self.send(request, *arguments)
        return self.answers()[0]

    def send(self, request: str, *arguments: Any) -> None:
        """Have a method of the worker called in all processes, without waiting for it."""
        for link, process in self.members:
            try:
                link.send((request, arguments))
            except OSError as error:
                raise WorkerDied(self._exit_report(process)) from error

    def answers(self) -> list[Any]:
        """Return the results of the request that was sent."""
        return [self._answer(link, process) for link, process in self.members]

    def _answer(self, link: Connection, process: BaseProcess) -> Any:
        if not wait([link, process.sentinel], TIMEOUT):
            process.kill()
            raise WorkerDied(f"no answer within {TIMEOUT:.0f} s")
        with suppress(EOFError, OSError):
            if link.poll():
                outcome, value = link.recv()
                if outcome == "done":
                    return value
                raise Skip(value) if outcome == "skip" else Failed(value)
        raise WorkerDied(self._exit_report(process))

    def _exit_report(self, process: BaseProcess) -> str:
        """Say how the process ended, with the last lines of its log."""
        process.join(5)
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"the process ended with status {process.exitcode}: {' / '.join(text.strip().splitlines()[-3:])}"
