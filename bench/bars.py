"""The bars a full run has to pass, each judged in every case it speaks of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.cases import FORTRAN, IMAGES, INPLACE, LOG_SOFTMAX, LOSS, LOSS_GRAD, LSE, ROWS, SOFTMAX, VJPS, Case
from bench.contenders import LIMIT, REFERENCE
from bench.results import Row, by_case
from bench.tables import BEST, Cell, Table, shape, three_digits

Rows = dict[str, Row]
Value = Callable[[Rows], float | None]
PUBLIC = ("torch", "torch-compile", "jax")
FUSED = ("torch", "torch-out", "torch-compile", "jax")
LARGE, LONG, TILES, SMALL = (1024, 50257), (1, 1000003), (65536, 10), (32, 10)
HALVES = ("float16", "bfloat16")


@dataclass
class Verdict:
    """A bar with the figures of all cases it applies to."""

    text: str
    bound: float
    at_least: bool
    found: list[tuple[str, float]]

    def passes(self, value: float) -> bool:
        """Tell whether a figure is within the bound."""
        return value >= self.bound if self.at_least else value <= self.bound

    @property
    def passed(self) -> bool:
        """Tell whether all figures are."""
        return all(self.passes(value) for _, value in self.found)

    @property
    def worst(self) -> tuple[str, float]:
        """Return the case nearest to failing, or failing most."""
        return (min if self.at_least else max)(self.found, key=lambda pair: pair[1])

    def line(self) -> str:
        """Return the verdict in a line."""
        if not self.found:
            return f"not measured: {self.text}"
        count = sum(self.passes(value) for _, value in self.found)
        where, value = self.worst
        word = "pass" if self.passed else "FAIL"
        return f"{word}: {self.text}: {count} of {len(self.found)}; worst {three_digits(value)} ({where})"


def times(*names: str) -> Value:
    """Tell how many times as long as fastce the fastest of the named takes."""

    def value(rows: Rows) -> float | None:
        ratios = [rows[name]["ratio"] for name in names if name in rows and "ratio" in rows[name]]
        return min(ratios, default=None)

    return value


def share_of(*names: str) -> Value:
    """Give fastce's time as a multiple of that of the fastest of the named."""

    def value(rows: Rows) -> float | None:
        ratio = times(*names)(rows)
        return 1 / ratio if ratio else None

    return value


def _microseconds(rows: Rows) -> float | None:
    return next((1e6 * rows[name]["median"] for name in REFERENCE if name in rows), None)


def verdicts(run: dict[str, Any]) -> list[Verdict]:
    """Judge every bar."""

    def bar(text: str, bound: float, value: Value, where: Callable[[Case], bool], section: str = "speed") -> Verdict:
        pairs = [(f"{c.op} {shape(c)} {c.dtype}", value(rows)) for c, rows in by_case(run[section]) if where(c)]
        found = [(name, figure) for name, figure in pairs if figure is not None]
        return Verdict(text, bound, "≥" in text, found)

    return [bar(*arguments) for arguments in _bars()]


def _bars() -> Iterator[tuple[Any, ...]]:
    plain = _is(dtypes=("float32", "float64"))
    others = _is((LOSS, SOFTMAX, LOG_SOFTMAX, LSE), dtypes=("float32", "float64"))
    yield "loss+grad ≥ 2 × the best of torch, torch.compile, JAX", 2, times(*FUSED), lambda c: plain(c) and _grad(c)
    yield "other operations ≥ 1.2 × the best of torch, torch.compile, JAX", 1.2, times(*FUSED), others
    passes = _is(VJPS, dtypes=("float32", "float64"))
    yield "backward passes ≥ 1.2 × the best of torch, torch.compile, JAX", 1.2, times(*PUBLIC), passes
    yield "loss+grad at 65,536 × 10 ≥ 25 × torch eager", 25, times("torch"), _is((LOSS_GRAD,), TILES)
    yield "loss+grad at 1,024 × 50,257 ≥ 12 × torch eager", 12, times("torch"), _is((LOSS_GRAD,), LARGE)
    limit = share_of(LIMIT)
    yield "loss, logsumexp at 1,024 × 50,257 ≤ 1.25 × reading", 1.25, limit, _is((LOSS, LSE), LARGE)
    writing = (LOSS_GRAD, SOFTMAX, LOG_SOFTMAX)
    yield "array results at 1,024 × 50,257 ≤ 1.3 × copying", 1.3, limit, _is(writing, LARGE)
    yield "loss+grad in place at 1,024 × 50,257 ≤ 1.05 × copying", 1.05, limit, _is((INPLACE,), LARGE)
    yield "1 × 1,000,003 on two threads ≥ 1.6 × as fast as on one", 1.6, _on_two, _is(None, LONG), "threads"
    half = _is(None, LARGE, HALVES)
    yield "16-bit at 1,024 × 50,257 ≤ 0.8 of the time of float32", 0.8, share_of("fastce-float32"), half
    layouts = _is(None, None, ("float32",), (FORTRAN, IMAGES))
    yield "classes not last ≤ 1.5 × the time of classes last", 1.5, share_of("fastce-rows"), layouts
    yield "loss+grad at 32 × 10 ≤ 8 µs", 8, _microseconds, _is((LOSS_GRAD,), SMALL)


def _on_two(rows: Rows) -> float | None:
    """Return the gain of a second thread, wherever more than two ran too."""
    one, two = rows.get("fastce-out@1"), rows.get("fastce-out@2") or rows.get("fastce-out")
    return one["median"] / two["median"] if one and two else None


def _grad(case: Case) -> bool:
    return case.op == LOSS_GRAD


def _is(
    ops: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
    dtypes: tuple[str, ...] = ("float32",),
    layouts: tuple[str, ...] = (ROWS,),
) -> Callable[[Case], bool]:
    def where(case: Case) -> bool:
        fits = case.dtype in dtypes and case.layout in layouts and size in (None, (case.batch, case.classes))
        return fits and (ops is None or case.op in ops)

    return where


def table(found: list[Verdict]) -> Table:
    """Show the verdicts, the worst case of each with it."""
    result = Table("Bars", ["", "", "cases passed", "worst", "where"])
    for verdict in found:
        if not verdict.found:
            result.rows.append([Cell(verdict.text), Cell("not measured"), Cell("–"), Cell("–"), Cell("–")])
            continue
        where, value = verdict.worst
        count = sum(verdict.passes(figure) for _, figure in verdict.found)
        word = Cell("pass", BEST) if verdict.passed else Cell("FAIL", "bold red")
        cells = [Cell(f"{count} of {len(verdict.found)}"), Cell(three_digits(value)), Cell(where)]
        result.rows.append([Cell(verdict.text), word, *cells])
    result.note = "Ratios of medians within one run, the contenders taking turns."
    return result
