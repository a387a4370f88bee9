"""Writes the tables of docs/options.md from the signatures: ``python -m tools.options``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import fastce
from tools.marks import replaced

PAGE = Path(__file__).parents[1] / "docs" / "options.md"

# The columns of each table; a function that returns the gradient as well shares the column of its loss.
TABLES = {
    "losses": (
        "cross_entropy",
        "cross_entropy_from_probs",
        "focal_loss",
        "linear_cross_entropy",
        "kl_divergence",
        "jensen_shannon",
    ),
    "derivatives": ("cross_entropy_grad_and_hessian", "cross_entropy_hvp", "score", "evaluate"),
    "elements": ("binary_cross_entropy_with_logits", "binary_cross_entropy_from_probs", "sigmoid_focal_loss"),
    "softmax": ("logsumexp", "softmax", "log_softmax", "logsumexp_vjp", "softmax_vjp", "log_softmax_vjp"),
}
# Calls without a column: with the call that has the same options, but for those named.
SAME = {
    "cross_entropy_forward": ("cross_entropy", set()),
    "cross_entropy_backward": ("cross_entropy_and_grad", set()),
    "CrossEntropyLoss": ("cross_entropy_and_grad", set()),
    "EvaluationSums": ("evaluate", {"progress"}),
}
WITHOUT_OPTIONS = {"show_config", "warmup"}


class Thing(NamedTuple):
    """A thing that has other names in some functions."""

    meaning: str
    name: str
    others: dict[str, tuple[str, ...]]  # by name, the functions that use it
    reason: str


VJPS = ("logsumexp_vjp", "softmax_vjp", "log_softmax_vjp")
THINGS = (
    Thing("one weight per class", "weight", {"class_weight": ("linear_cross_entropy",)}, "`weight` is the layer's"),
    Thing(
        "one weight per class",
        "weight",
        {"alpha": ("focal_loss",)},
        "the focal loss's own word; a number is a factor of all classes",
    ),
    Thing(
        "the factor of the logits",
        "logit_scale",
        {"temperature": ("kl_divergence", "jensen_shannon")},
        "one over the factor: distillation's own word, and it divides both arrays",
    ),
    Thing(
        "where to write the gradient",
        "out",
        {name: ("linear_cross_entropy",) for name in ("d_hidden_out", "d_weight_out", "d_bias_out")},
        "there are three gradients",
    ),
    Thing(
        "the logits",
        "logits",
        {"x": ("logsumexp", "softmax", "log_softmax", "logsumexp_vjp")},
        "SciPy's word: any numbers, logits or not",
    ),
    Thing("the upstream gradient", "grad_output", {"g": VJPS}, "an array that is always needed, not an option"),
    Thing(
        "class probabilities",
        "probs",
        {"p": ("softmax_vjp",)},
        "the result of `softmax`, as `logp` and `lse` are results of the others",
    ),
)


def options(call: str) -> dict[str, Any]:
    """Return the defaults of a call's options, of a class those of its methods too; without one, the class `empty`."""
    public = getattr(fastce, call)
    methods = [f for name, f in vars(public).items() if name[0] != "_" and inspect.isfunction(f)]
    parameters = [p for f in (public, *methods) for p in inspect.signature(f).parameters.values()]
    return {
        p.name: p.default
        for p in parameters
        if (p.kind is p.KEYWORD_ONLY or p.default is not p.empty) and p.name != "target"  # an array, not an option
    }


def family(column: str) -> dict[str, tuple[Any, bool]]:
    """Return the default of each option of a column, and whether the function with the gradient alone has it."""
    plain, with_gradient = options(column), f"{column}_and_grad"
    both = {**plain, **(options(with_gradient) if hasattr(fastce, with_gradient) else {})}
    return {name: (default, name not in plain) for name, default in both.items()}


def row_of(column: str, option: str) -> str:
    """Return the name of the row of an option."""
    return next((thing.name for thing in THINGS if column in thing.others.get(option, ())), option)


def table(columns: tuple[str, ...]) -> str:
    """Return a table in Markdown: a row an option, a column a function."""
    cells: dict[str, dict[str, list[str]]] = {}
    last = set()  # rows of the functions with the gradient alone
    for column in columns:
        for option, (default, gradient) in family(column).items():
            row = row_of(column, option)
            last |= {row} if gradient else set()
            text = _text(default, "" if option == row else f"{option}=") + " ∂" * gradient
            cells.setdefault(row, {}).setdefault(column, []).append(text)
    rows = sorted(cells, key=lambda row: row in last)
    lines = [_line("", *(f"`{column}`" for column in columns)), _line(*[":--"] * (1 + len(columns)))]
    lines += [_line(f"`{row}`", *(", ".join(cells[row].get(column, [])) for column in columns)) for row in rows]
    return "\n".join(lines)


def _line(*cells: str) -> str:
    return "|".join(["", *(f" {cell} " if cell else " " for cell in cells), ""])


def _text(default: Any, name: str) -> str:
    """Return the default as Python writes it, after the option's name if there is one."""
    if default is inspect.Parameter.empty:
        return f"`{name.rstrip('=')}`, needed" if name else "needed"
    shown = f"{default:_}" if type(default) is int else f'"{default}"' if isinstance(default, str) else repr(default)
    return f"`{name}{shown}`"


def names() -> str:
    """Return the table of things with several names, in Markdown."""
    lines = [_line("thing", "name", "other name", "in", "because"), _line(*[":--"] * 5)]
    for thing in THINGS:
        others = ", ".join(f"`{name}`" for name in thing.others)
        functions = ", ".join(f"`{name}`" for name in dict.fromkeys(f for fs in thing.others.values() for f in fs))
        lines.append(_line(thing.meaning, f"`{thing.name}`", others, functions, thing.reason))
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the page with its tables as the signatures have them."""
    for name, columns in TABLES.items():
        page = replaced(page, f"\n{table(columns)}\n", name)
    return replaced(page, f"\n{names()}\n", "names")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
