"""``python -m bench.linear``: the last layer and its loss, fastce beside other libraries and its bare products.

Every contender has a process of its own; they take turns, round by round. The yardsticks are the bare matrix products:
one for the loss, three for loss and gradients, into arrays that are there already. Memory is how far a call lifts the
process's resident memory (Linux), results included unless they go to given arrays.

The full run (``python -m bench --full``) plays all of `contests`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from bench.linear_contenders import CONTENDERS, GRADS, LOSS, OPS, PRODUCTS, Calls, Inputs, Shape
from bench.memory import RESET, extra_bytes
from bench.runner import Notes
from bench.worker import rest, thread_environment

MAIN, LARGE = Shape(2048, 512, 32000), Shape(8192, 256, 65536)
TOKENS = tuple(Shape(n, 256, 32000) for n in (512, 1024, 2048, 4096, 8192))
CLASSES = tuple(Shape(1024, 256, v) for v in (4096, 8192, 16384, 32768, 65536, 131072))
SMOKE = {
    MAIN: Shape(64, 16, 500),
    LARGE: Shape(48, 8, 900),
    TOKENS[0]: Shape(16, 8, 300),
    CLASSES[0]: Shape(16, 8, 200),
}
GROWING = ("fastce-out", "numpy", "torch", "torch-chunked", "jax", PRODUCTS)
PATIENCE = 300.0  # seconds for one answer
LONG = 0.2  # seconds: such calls need no untimed one before them


@dataclass(frozen=True)
class Contest:
    """What is played on one shape, by whom, and how often: for about some seconds, within bounds."""

    shape: Shape
    ops: tuple[str, ...]
    contenders: tuple[str, ...]
    seconds: float
    rounds: tuple[int, int]

    def __str__(self) -> str:
        """Name the contest in the display."""
        return f"last layer {self.shape}"

    @property
    def name(self) -> str:
        """Name the contest's file."""
        return "linear-" + "x".join(map(str, self.shape))


def contests(smoke: bool) -> list[Contest]:
    """Return the contests of the full run: all contenders on the first two shapes, some on growing ones."""
    rounds = (2, 2) if smoke else (3, 11)
    found = [
        Contest(MAIN, OPS, tuple(CONTENDERS), 60, (2, 2) if smoke else (7, 11)),
        Contest(LARGE, (GRADS,), tuple(CONTENDERS), 0, (2, 2) if smoke else (3, 3)),
        *(Contest(shape, (GRADS,), GROWING, 10, rounds) for shape in (*TOKENS, *CLASSES)),
    ]
    if smoke:
        found = [Contest(SMOKE[c.shape], c.ops, c.contenders, 0, c.rounds) for c in found if c.shape in SMOKE]
    return found


def missing(name: str) -> str:
    """Return the package that a contender needs and that is not there, if any."""
    package = CONTENDERS[name].needs
    return package if package and find_spec(package) is None else ""


# --- a contender's process -----------------------------------------------------------------------


def work(name: str, link: Connection) -> None:
    """Answer ``(what, about)`` until there is no more: a shape to prepare, or something to do with an operation."""
    calls: Calls = {}
    for what, about in iter(link.recv, None):
        try:
            if what == "prepare":
                calls.clear()  # before there are new arrays
                calls |= CONTENDERS[name].bind(Inputs(about))
                link.send((what, list(calls)))
            else:
                answer = ANSWERS[what](calls[about])
                rest()
                link.send((what, answer))
        except Exception as error:
            link.send(("failed", f"{type(error).__name__}: {error}"[:1000]))


def _check(call: Callable[[], Any]) -> list[tuple[float, float]]:
    """Return the size of each result and a sum of its elements with signs that any mistake disturbs."""
    found = call()
    results = found if isinstance(found, tuple) else (found,)
    values = [np.asarray(result, np.float64).reshape(-1) for result in results if result is not None]
    signs = [np.random.default_rng(v.size).choice((-1.0, 1.0), v.size) for v in values]
    return [(float(np.abs(v).sum()), float(v @ s)) for v, s in zip(values, signs, strict=True)]


def _memory(call: Callable[[], Any]) -> int | None:
    return extra_bytes(call) if RESET.exists() else None


def _time(call: Callable[[], Any]) -> float:
    """Return the seconds of a call; of a short one after another, untimed, which wakes threads and fills caches."""
    seconds = _seconds(call)
    return seconds if seconds > LONG else _seconds(call)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - start
    del found  # giving back its memory is not timed
    return seconds


ANSWERS: dict[str, Callable[[Callable[[], Any]], Any]] = {"check": _check, "memory": _memory, "time": _time}


# --- the turns ---------------------------------------------------------------------------------


class Failed(Exception):
    """A contender cannot do what it was asked."""


class Player:
    """The parent's end of a contender."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.link, other = context.Pipe()
        self.process = context.Process(target=work, args=(name, other), daemon=True)
        self.process.start()
        other.close()

    def ask(self, what: str, about: Any) -> Any:
        """Return the answer of the contender."""
        try:
            self.link.send((what, about))
            if not wait([self.link, self.process.sentinel], PATIENCE):
                self.process.kill()
                raise Failed(f"no answer within {PATIENCE:.0f} s")
            said, value = self.link.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise Failed(f"the process ended with status {self.process.exitcode}") from None
        if said != what:
            raise Failed(value)
        return value

    def end(self) -> None:
        """Let the process end, and see that it does."""
        try:
            self.link.send(None)
        except OSError:
            pass
        self.process.join(10)
        self.process.kill()


class Runner:
    """Plays contests. Use as a context manager: processes start when first needed, and stay."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.players: dict[str, Player] = {}

    def __enter__(self) -> Runner:
        """Start nothing yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        for player in self.players.values():
            player.end()

    def play(self, contest: Contest) -> dict[str, Any]:
        """Play a contest; return its rows, and what was left out or failed."""
        os.environ.update(thread_environment(self.threads))
        notes = Notes()
        rows: list[dict[str, Any]] = []
        if 20 * contest.shape.tokens * contest.shape.classes > psutil.virtual_memory().available:
            notes.skip(contest, "all", "out of memory")  # five times the logits
        else:
            players = self._summon(contest, notes)
            ops = _each(players, notes, contest, lambda player: player.ask("prepare", contest.shape))
            for op in contest.ops:
                playing = [player for player in players if op in ops.get(player.name, ())]
                rows += Round(contest, op, notes).play(playing)
        return {"rows": rows, "skipped": notes.skipped, "failures": notes.failures}

    def _summon(self, contest: Contest, notes: Notes) -> list[Player]:
        """Return the players of a contest; start those that are not there, or no longer."""
        for name in contest.contenders:
            if missing(name):
                notes.skip(contest, name, f"{missing(name)} not installed")
            elif name not in self.players or not self.players[name].process.is_alive():
                self.players[name] = Player(name)
        return [self.players[name] for name in contest.contenders if name in self.players]


def _each(players: list[Player], notes: Notes, contest: Contest, act: Callable[[Player], Any]) -> dict[str, Any]:
    """Return what each player answers; note those that fail."""
    found = {}
    for player in players:
        try:
            found[player.name] = act(player)
        except Failed as error:
            notes.fail(contest, player.name, str(error))
    return found


class Round:
    """One operation of a contest."""

    def __init__(self, contest: Contest, op: str, notes: Notes) -> None:
        self.contest, self.op, self.notes = contest, op, notes

    def play(self, players: list[Player]) -> list[dict[str, Any]]:
        """Check the results, measure the memory, then time in turns; return a row of figures a player."""
        checks = self._ask("check", players)
        players = [player for player in players if player.name in checks and self._agrees(player.name, checks)]
        memory = self._ask("memory", players)
        players = [player for player in players if player.name in memory]
        seconds: dict[str, list[float]] = {player.name: [] for player in players}
        fewest, most = self.contest.rounds
        began, played = time.monotonic(), 0
        while played < fewest or (played < most and time.monotonic() - began < self.contest.seconds):
            answers = self._ask("time", players)
            players = [player for player in players if player.name in answers]
            for name, value in answers.items():
                seconds[name].append(value)
            played += 1
        return [self._row(player.name, seconds[player.name], memory[player.name]) for player in players]

    def _ask(self, what: str, players: list[Player]) -> dict[str, Any]:
        return _each(players, self.notes, self.contest, lambda player: player.ask(what, self.op))

    def _agrees(self, name: str, checks: dict[str, Any]) -> bool:
        """Tell whether a contender computed what NumPy did, or else the first; note it if not."""
        found, expected = np.array(checks[name]), np.array(checks.get("numpy", next(iter(checks.values()))))
        if name == PRODUCTS:
            return True
        # NaN is not below either
        if found.shape == expected.shape and np.all(np.abs(found - expected) <= 1e-3 * expected[:, :1]):
            return True
        self.notes.fail(self.contest, name, f"another {self.op} than expected: {found}, not {expected}")
        return False

    def _row(self, name: str, seconds: list[float], memory: int | None) -> dict[str, Any]:
        figures = {"rounds": len(seconds), "median": statistics.median(seconds), "min": min(seconds), "bytes": memory}
        return {"contender": name, "op": self.op, **self.contest.shape._asdict(), **figures}


# --- on its own -----------------------------------------------------------------------------------


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    from bench.__main__ import available_cores, positive

    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__.splitlines()[0])
    names = [name for name in CONTENDERS if name not in ("numpy", PRODUCTS)]
    parser.add_argument(
        "--shape", type=positive, nargs=3, action="append", metavar=("N", "D", "V"), help=f"({MAIN}); repeatable"
    )
    parser.add_argument("--contenders", choices=names, nargs="+", metavar="X", default=names, help=f"of {names}")
    parser.add_argument("--ops", choices=OPS, nargs="+", default=OPS, help=f"of {LOSS}, {GRADS}")
    parser.add_argument("--rounds", type=positive, default=7, help="timed calls of each (7)")
    parser.add_argument("--threads", type=positive, default=available_cores(), help="of every contender (all cores)")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, two rounds")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "out", help="folder of the output (bench/out)"
    )
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> Iterator[Contest]:
    """Yield the contests that the command line asks for."""
    if options.smoke:
        yield from contests(smoke=True)
        return
    players = (*options.contenders, "numpy", PRODUCTS)
    for sizes in options.shape or [MAIN]:
        yield Contest(Shape(*sizes), tuple(options.ops), players, 0, (options.rounds, options.rounds))


def main() -> int:
    from bench import linear_report, results

    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    rows, failures = [], []
    with Runner(options.threads) as runner:
        for contest in chosen(options):
            found = runner.play(contest)
            rows += found["rows"]
            failures += found["failures"]
            for table in linear_report.shape_tables(found["rows"]):
                console.print(table.rich())
            for note in [*found["skipped"], *found["failures"]]:
                console.print(f"{note['contender']}, {note['case']}: {note['reason']}", style="bold red")
    for verdict in linear_report.verdicts(rows):
        console.print(verdict.line())
    results.save({"threads": options.threads, "linear": rows}, options.out / "linear.json")
    linear_report.draw(rows, options.out, "svg")
    console.print(f"Written to {options.out}")
    return int(any(failure["contender"].startswith("fastce") for failure in failures))


if __name__ == "__main__":
    raise SystemExit(main())
