"""The command's arguments."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from fastce import __version__
from fastce.command.shapes import parse_shape

OPS = ("cross_entropy_and_grad", "cross_entropy", "softmax", "log_softmax", "logsumexp")
DTYPES = ("float16", "bfloat16", "float32", "float64")


class UsageError(Exception):
    """An argument that is wrong whatever the data."""


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what is raised for wrong arguments into `UsageError`."""
    try:
        yield
    except (ImportError, TypeError, ValueError) as error:
        raise UsageError(str(error)) from None


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print the error and where to find help, and exit with 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)\n")


def make_parser(runs: Mapping[str, Callable[[argparse.Namespace], None]]) -> Parser:
    """Return the parser of the command; ``runs`` has what runs each subcommand, by its name."""
    parser = Parser(
        prog="fastce",
        description="Fast, exact cross-entropy, softmax and log-sum-exp on NumPy arrays.",
        epilog="exit codes: 0 done, 1 data that cannot be used, 2 wrong arguments, 130 Ctrl-C\n"
        "fastce COMMAND --help shows the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"fastce {__version__}")
    parser.set_defaults(run=lambda options: parser.print_help(), parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, add in _COMMANDS.items():
        summary, epilog = _TEXTS[name]
        description = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(name, help=summary, description=description, epilog=epilog)
        command.set_defaults(run=runs[name], parser=command)
        add(command)
    return parser


_TEXTS = {
    "config": (
        "show versions, processor, threads, cache, and how a shape is computed",
        "example: fastce config 65536x10",
    ),
    "warmup": (
        "compile the kernels of common calls, or load them from the disk cache",
        "example: fastce warmup --dtypes float32 --classes 10,1000",
    ),
    "evaluate": (
        "loss, perplexity, accuracy and entropy of saved logits, which may be larger than memory",
        "LOGITS and LABELS are .npy files, as numpy.save writes them. They are read a block at a time.\n"
        "example: fastce evaluate logits.npy labels.npy --top-k 1,5 --json",
    ),
    "time": (
        "time fastce beside NumPy, and torch where installed, on this machine",
        "example: fastce time 65536x10 --op softmax --dtype float16",
    ),
}


def _add_config(command: Parser) -> None:
    _add_shape(command, "*")
    command.add_argument("--dtype", default="float32", help="of the logits (default: float32)")
    _add_axis(command)


def _add_warmup(command: Parser) -> None:
    dtypes, classes = ["float32", "float64"], (10, 1000)
    several: dict[str, Any] = {"action": _Joined, "nargs": "+"}
    text = "of the logits (default: float32,float64)"
    command.add_argument("--dtypes", parse=_words, default=dtypes, metavar="DTYPE", help=text, **several)
    text = "numbers of classes (default: 10,1000)"
    command.add_argument("--classes", parse=_integers, default=classes, metavar="N", help=text, **several)
    _add_progress(command)


def _add_evaluate(command: Parser) -> None:
    command.add_argument("logits", metavar="LOGITS", help=".npy file; samples × classes, or more dimensions")
    command.add_argument("labels", metavar="LABELS", help=".npy file; class indices, or one-hot integers")
    command.add_argument("--probs", action="store_true", help="LOGITS holds class probabilities")
    text = "such as 1,5: accuracies within the top k"
    command.add_argument("--top-k", action=_Joined, parse=_integers, nargs=1, default=(), metavar="K", help=text)
    _add_axis(command)
    command.add_argument(
        "--ignore-index", type=_label_or_none, default=-100, metavar="I", help="label to leave out, or none (-100)"
    )
    command.add_argument("--label-smoothing", type=float, default=0.0, metavar="E", help="of the loss (default: 0)")
    command.add_argument("--weight", metavar="FILE", help=".npy file; one weight per class, of the loss")
    command.add_argument("--sample-weight", metavar="FILE", help=".npy file; one weight per sample, of all means")
    _add_progress(command)
    _add_json(command)


def _add_time(command: Parser) -> None:
    _add_shape(command, "+")
    command.add_argument("--dtype", choices=DTYPES, default="float32", help="of the logits (default: float32)")
    command.add_argument("--op", choices=OPS, default=OPS[0], help=f"the function (default: {OPS[0]})")
    _add_axis(command)
    command.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="of timing, compilation apart (default: 2)"
    )
    _add_json(command)


_COMMANDS = {"config": _add_config, "warmup": _add_warmup, "evaluate": _add_evaluate, "time": _add_time}


def _add_shape(command: Parser, count: str) -> None:
    text = 'of logits, such as 65536x10, 65536,10, "(65536, 10)" or 65536 10'
    command.add_argument("shape", action=_Joined, parse=parse_shape, nargs=count, metavar="SHAPE", help=text)


def _add_axis(command: Parser) -> None:
    command.add_argument("--axis", type=int, default=-1, help="the class axis (default: the last)")


def _add_json(command: Parser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_progress(command: Parser) -> None:
    command.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar, which needs rich (default: for long work on a terminal)",
    )


class _Joined(argparse.Action):
    """An argument that may be one word or several: they are parsed together."""

    def __init__(self, *, parse: Callable[[str], Any], **options: Any) -> None:
        super().__init__(**options)
        self._parse = parse

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        """Keep what the words mean, the default if there are none."""
        try:
            setattr(namespace, self.dest, self._parse(" ".join(values)) if values else self.default)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def _words(text: str) -> list[str]:
    """Return the words of a text, which commas or spaces separate."""
    return [word for word in re.split(r"[\s,]+", text) if word]


def _integers(text: str) -> tuple[int, ...]:
    """Return the integers of a text, or raise ValueError."""
    try:
        if words := _words(text):
            return tuple(int(word) for word in words)
        raise ValueError
    except ValueError:
        raise ValueError(f"must be integers such as 1,5, got {text!r}") from None


def _label_or_none(text: str) -> int | None:
    try:
        return None if text.lower() == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer or none, got {text!r}") from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return seconds
