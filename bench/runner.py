"""Starts a process a contender and gives them the turn, one after the other, round by round."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from bench.cases import Case, Plan, Training
from bench.contenders import split
from bench.worker import play, thread_environment

WARM_UP, ROUND, REST = 0.004, 0.002, 0.006  # seconds, the last what threads need to come to rest, on average
PATIENCE = 180.0  # seconds for one answer; the first one includes compiling
SLOWEST_CALL = 5.0


class Lost(Exception):
    """A contender's process is gone, or has stopped answering."""


@dataclass
class Player:
    """The runner's end of a contender's process."""

    name: str
    process: Any
    link: Any
    log: Path

    def say(self, word: str, value: Any = None) -> None:
        """Send a word to the contender."""
        try:
            self.link.send((word, value))
        except OSError as error:
            raise Lost(self.epitaph()) from error

    def hear(self) -> tuple[str, Any]:
        """Wait for the contender's next word, but not for ever."""
        if not wait([self.link, self.process.sentinel], PATIENCE):
            self.process.kill()
            raise Lost(f"no answer within {PATIENCE:.0f} s")
        try:
            if self.link.poll():
                return self.link.recv()
        except (EOFError, OSError):
            pass
        raise Lost(self.epitaph())

    def epitaph(self) -> str:
        """Say how the process ended, with the last lines of its log."""
        self.process.join(5)
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return f"the process ended with status {self.process.exitcode}: {' / '.join(lines[-3:])}"


@dataclass
class Notes:
    """What did not give a figure, and why."""

    skipped: list[dict[str, str]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def skip(self, case: Any, name: str, reason: str) -> None:
        """Note that a contender takes no part in a case."""
        self.skipped.append({"case": str(case), "contender": name, "reason": reason})

    def fail(self, case: Any, name: str, reason: str) -> None:
        """Note what makes the whole run a failure."""
        self.failures.append({"case": str(case), "contender": name, "reason": reason})


class Runner:
    """One run of a plan: use as a context manager, then call :meth:`run`."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder, self.notes = plan, folder, Notes()
        self.players: list[Player] = []
        self.started: float | None = None

    def __enter__(self) -> Runner:
        """Start all processes."""
        context = multiprocessing.get_context("spawn")
        for name in self.plan.contenders:
            os.environ.update(thread_environment(split(name)[1] or self.plan.threads))
            raw, log = self.folder / f"{name}.json", self.folder / f"{name}.log"
            raw.unlink(missing_ok=True)
            ours, theirs = context.Pipe()
            process = context.Process(target=play, args=(name, self.plan, theirs, str(raw), str(log)))
            process.start()
            theirs.close()  # so that the pipe breaks when the process dies
            self.players.append(Player(name, process, ours, log))
        return self

    def __exit__(self, *error: object) -> None:
        """Wait until they have written their results."""
        for player in self.players:
            player.process.join(0 if error[0] else 30)
            if player.process.is_alive():
                player.process.kill()
                player.process.join()

    def run(self, tell: Callable[[Any, int, int], None]) -> Notes:
        """Play every case; ``tell(case, number, of)`` is called between the cases, when nothing is being timed."""
        cases = self.plan.cases()
        items = [*cases, *self.plan.trainings()]
        for number, item in enumerate(items):
            tell(item, number, len(items))
            reason = self.too_much(item)
            if reason:
                self.notes.skip(item, "all", reason)
                self.each(item, self.players, lambda p, reason=reason: p.say("skip", reason))
                continue
            self.play(item, cases[number:])
        tell("writing", len(items), len(items))
        self.each("end", list(self.players), lambda p: p.say("end"))
        return self.notes

    def too_much(self, item: Case | Training) -> str | None:
        """Say why a case must be left out, if it must."""
        if isinstance(item, Training):
            return None
        if self.seconds_left() < 0 and not self.plan.complete:
            return "out of time"
        # All prepare at once, and need about this much for results and temporaries.
        if 4 * len(self.players) * item.nbytes > psutil.virtual_memory().available:
            return "out of memory"
        return None

    def seconds_left(self) -> float:
        """Seconds until no further speed case is begun; the clock starts when the first one is prepared."""
        return self.plan.seconds - (time.monotonic() - self.started if self.started else 0.0)

    def play(self, item: Case | Training, cases_left: list[Case]) -> None:
        """Prepare a case, measure it once, agree on the rounds, play them in turn."""
        ready = self.prepare(item)
        self.started = self.started or time.monotonic()
        times: dict[str, float] = {}

        def measure(player: Player) -> None:
            player.say("measure")
            times[player.name] = self.answer(item, player, "time")

        ready = self.each(item, ready, measure)
        for player in [p for p in ready if times[p.name] > SLOWEST_CALL]:
            self.notes.skip(item, player.name, f"{times[player.name]:.1f} s a call")
            player.say("skip", "too slow")
            ready.remove(player)
        if isinstance(item, Training):
            rounds = item.epochs
        else:
            seconds = self.seconds_left() * weight(item) / sum(map(weight, cases_left))
            rounds = min(
                max(int(max(seconds, 0) / (_cost(times, ready) or 1)), self.plan.rounds[0]), self.plan.rounds[1]
            )
        ready = self.each(item, ready, lambda p: p.say("terms", (rounds, loops_for(times[p.name]))))

        def turn(player: Player) -> None:
            player.say("turn")
            self.answer(item, player, "done")

        for _ in range(rounds):
            ready = self.each(item, ready[1:] + ready[:1], turn)

    def prepare(self, item: Case | Training) -> list[Player]:
        """All prepare at once: data, compilation, the oracle's check. Return those that play."""
        ready = []
        started = self.each(item, list(self.players), lambda p: p.say("prepare", str(item)))
        for player in started:
            if self.each(item, [player], lambda p: self.answer(item, p, "ready")):
                ready.append(player)
        return ready

    def answer(self, item: Case | Training, player: Player, word: str) -> Any:
        """Return the value of the word awaited; note any other and take the contender out."""
        said, value = player.hear()
        if said == "skip":
            self.notes.skip(item, player.name, value)
            raise _Out
        if said == "failed":
            self.notes.fail(item, player.name, value)
            raise _Out
        if said != word:
            raise Lost(f"said {said!r} instead of {word!r}")
        return value

    def each(self, item: Any, players: list[Player], act: Callable[[Player], Any]) -> list[Player]:
        """Let each player act in order; return those still in this case."""
        staying = []
        for player in players:
            try:
                act(player)
                staying.append(player)
            except _Out:
                pass
            except Lost as error:
                self.notes.fail(item, player.name, str(error))
                self.players.remove(player)
        return staying


class _Out(Exception):
    """A contender takes no part in this case."""


def weight(case: Case) -> float:
    return 6e6 + case.elements  # the calls of small cases are short, not their rounds


def loops_for(seconds: float) -> int:
    return max(1, min(10_000, math.ceil(ROUND / seconds)))


def _cost(times: dict[str, float], players: list[Player]) -> float:
    """Return the seconds of a round of all players, warming up and coming to rest included."""
    return sum(max(WARM_UP, t) + loops_for(t) * t + REST for t in (times[p.name] for p in players))
