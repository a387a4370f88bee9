"""The progress display, redrawn only while nothing is timed; in a log, a line a shape."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Display(Progress):
    """Use as a context manager; ``done`` counts the cases of earlier plans, ``total`` those of all, if known."""

    def __init__(self, console: Console, total: int | None = None) -> None:
        columns = TextColumn("{task.description:<40}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()
        super().__init__(*columns, console=console, auto_refresh=False)
        self.bar, self.total, self.done, self.last = self.add_task("starting", total=total), total, 0, ""

    def tell(self, item: Any, number: int, of: int) -> None:
        """Show the case that begins."""
        completed, total = self.done + number, self.total or of
        terminal = self.console.is_terminal
        self.update(self.bar, description=str(item), completed=completed, total=total, refresh=terminal)
        group = str(item).split(" ", 1)[-1]
        if not terminal and group != self.last and number < of:
            self.console.print(f"[{completed}/{total}] {group}")
        self.last = group
