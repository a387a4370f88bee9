"""``fastce warmup``: compile ahead of the first call."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable

import fastce
from fastce.command.arguments import usage_errors
from fastce.command.terminal import shows_progress


def run(options: argparse.Namespace) -> None:
    """Compile or load the kernels, and tell how long it took."""
    pairs: Iterable[tuple[str, int]] = list(itertools.product(options.dtypes, options.classes))
    if shows_progress(options.progress):
        from rich.console import Console
        from rich.progress import track

        pairs = track(pairs, "warmup", console=Console(stderr=True))
    start = time.perf_counter()
    for dtype, count in pairs:
        with usage_errors():
            fastce.warmup(dtype, classes=count)
    print(f"ready after {time.perf_counter() - start:.1f} s")
