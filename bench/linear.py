"""``python -m bench.linear``: the last layer and its loss, fastce beside torch and plain NumPy.

Every contender has a process of its own; they take turns, round by round, each after an untimed call of its own. The
yardsticks are the bare matrix products: one forward, three for loss and gradients, into arrays that are there already.
Memory is how far a call lifts the process's resident memory (Linux), results included unless they go to given arrays.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench.__main__ import available_cores, positive
from bench.memory import RESET, extra_bytes
from bench.tables import BEST, FAINT, Cell, Table, duration, three_digits
from bench.worker import rest, thread_environment

LOSS, GRADS = "loss", "loss+gradients"
PRODUCTS = "bare products"
SHAPES = ((2048, 512, 32000),)
SMOKE = ((256, 32, 2000),)
Calls = dict[str, Callable[[], Any]]
Shape = tuple[int, int, int]


class Inputs:
    """The same numbers for all contenders."""

    def __init__(self, shape: Shape) -> None:
        n, d, v = shape
        rng = np.random.default_rng(7)
        self.hidden = rng.standard_normal((n, d), dtype=np.float32)
        self.weight = rng.standard_normal((v, d), dtype=np.float32) * np.float32(d**-0.5)
        self.target = rng.integers(0, v, n)


def fastce_new(x: Inputs) -> Calls:
    """Bind fastce, results in new arrays."""
    import fastce

    arrays = x.hidden, x.weight, x.target
    return {
        LOSS: lambda: fastce.linear_cross_entropy(*arrays),
        GRADS: lambda: fastce.linear_cross_entropy_and_grad(*arrays)[:3],
    }


def fastce_out(x: Inputs) -> Calls:
    """Bind fastce, gradients in given arrays."""
    import fastce

    arrays = x.hidden, x.weight, x.target
    out = {"d_hidden_out": np.zeros_like(x.hidden), "d_weight_out": np.zeros_like(x.weight)}
    return {GRADS: lambda: fastce.linear_cross_entropy_and_grad(*arrays, **out)[:3]}


def bare_products(x: Inputs) -> Calls:
    """Bind the products alone, which give no loss."""
    logits = np.zeros((len(x.hidden), len(x.weight)), np.float32)
    d_hidden, d_weight = np.zeros_like(x.hidden), np.zeros_like(x.weight)

    def three() -> None:
        np.matmul(x.hidden, x.weight.T, out=logits)
        np.matmul(logits, x.weight, out=d_hidden)
        np.matmul(logits.T, x.hidden, out=d_weight)

    return {LOSS: lambda: np.matmul(x.hidden, x.weight.T, out=logits) is None, GRADS: three}


def textbook(x: Inputs) -> Calls:
    """Bind the formulas as NumPy code usually spells them."""
    rows, n = np.arange(len(x.hidden)), len(x.hidden)

    def probs() -> tuple[Any, np.ndarray]:
        logits = x.hidden @ x.weight.T
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = exponentials / exponentials.sum(axis=1, keepdims=True)
        return -np.log(p[rows, x.target]).mean(), p

    def grads() -> tuple[Any, ...]:
        loss, p = probs()
        p[rows, x.target] -= 1
        p /= n
        return loss, p @ x.weight, p.T @ x.hidden

    return {LOSS: lambda: probs()[0], GRADS: grads}


def _torch(x: Inputs, function: Callable[..., Any]) -> Calls:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    hidden, weight, target = map(torch.from_numpy, (x.hidden, x.weight, x.target))
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()

    def grads() -> tuple[Any, ...]:
        loss = function(*leaves, target)
        loss.backward()
        found = (loss.item(), *(leaf.grad.numpy() for leaf in leaves))
        for leaf in leaves:
            leaf.grad = None
        return found

    return {LOSS: lambda: function(hidden, weight, target).item(), GRADS: grads}


def torch_eager(x: Inputs) -> Calls:
    """Bind the two layers one after the other."""
    import torch.nn.functional as F

    return _torch(x, lambda h, w, y: F.cross_entropy(F.linear(h, w), y))


def torch_linear(x: Inputs) -> Calls:
    """Bind PyTorch's function without its chunks."""
    import torch.nn.functional as F

    return _torch(x, lambda h, w, y: F.linear_cross_entropy(h, w, y))


def torch_chunked(x: Inputs) -> Calls:
    """Bind PyTorch's function with the chunks it chooses."""
    import torch
    import torch.nn.functional as F

    options = torch.nn.LinearCrossEntropyOptions()
    return _torch(x, lambda h, w, y: F.linear_cross_entropy(h, w, y, options=options))


def torch_1024(x: Inputs) -> Calls:
    """Bind PyTorch's function with chunks of 1024 rows."""
    import torch
    import torch.nn.functional as F

    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=1024, chunking_method=None)
    return _torch(x, lambda h, w, y: F.linear_cross_entropy(h, w, y, options=options))


CONTENDERS: dict[str, Callable[[Inputs], Calls]] = {
    "fastce, given arrays": fastce_out,
    "fastce": fastce_new,
    "textbook NumPy": textbook,
    "torch linear + cross_entropy": torch_eager,
    "torch linear_cross_entropy": torch_linear,
    "torch, its chunks": torch_chunked,
    "torch, chunks of 1024": torch_1024,
    PRODUCTS: bare_products,
}


def work(name: str, shape: Shape, link: Connection) -> None:
    """Be a contender's process: answer ``(what, operation)`` until there is no more."""
    inputs = Inputs(shape)
    calls = CONTENDERS[name](inputs)
    link.send(sorted(calls))
    for what, op in iter(link.recv, None):
        call = calls[op]
        if what == "memory":
            answer: Any = extra_bytes(call) if RESET.exists() else None
        elif what == "check":
            found = call()
            values = found if isinstance(found, tuple) else (found,)
            answer = [float(np.abs(np.asarray(v, np.float64)).sum()) for v in values if name != PRODUCTS]
        else:
            call()
            start = time.perf_counter()
            found = call()
            answer = time.perf_counter() - start
            del found
        rest()
        link.send(answer)


class Process:
    """The parent's end of a contender."""

    def __init__(self, name: str, shape: Shape) -> None:
        context = multiprocessing.get_context("spawn")
        self.link, other = context.Pipe()
        self.process = context.Process(target=work, args=(name, shape, other), daemon=True)
        self.process.start()
        other.close()
        self.ops = self.link.recv()

    def ask(self, what: str, op: str) -> Any:
        """Return the answer of the contender."""
        self.link.send((what, op))
        return self.link.recv()

    def end(self) -> None:
        """Let the process end."""
        self.link.send(None)
        self.process.join(10)


def measure(shape: Shape, names: list[str], rounds: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Return seconds a round, bytes and checksums, by operation and contender."""
    processes = {name: Process(name, shape) for name in names}
    found: dict[str, dict[str, dict[str, Any]]] = {op: {} for op in (LOSS, GRADS)}
    try:
        for op, rows in found.items():
            players = {name: p for name, p in processes.items() if op in p.ops}
            for name, p in players.items():
                rows[name] = {"check": p.ask("check", op), "bytes": p.ask("memory", op), "seconds": []}
            for _ in range(rounds):
                for name, p in players.items():
                    rows[name]["seconds"].append(p.ask("time", op))
            agree(op, rows)
    finally:
        for p in processes.values():
            p.end()
    return found


def agree(op: str, rows: dict[str, dict[str, Any]]) -> None:
    """Raise unless all contenders computed the same."""
    checks = {name: row["check"] for name, row in rows.items() if name != PRODUCTS}
    first = next(iter(checks.values()), [])
    for name, check in checks.items():
        if not np.allclose(check, first, rtol=1e-3):
            raise RuntimeError(f"{name} computes another {op}: {check}, not {first}")


def tables(shape: Shape, found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[Table]:
    """Yield a table an operation."""
    n, d, v = shape
    for op, rows in found.items():
        bare = statistics.median(rows[PRODUCTS]["seconds"])
        best = min(statistics.median(r["seconds"]) for name, r in rows.items() if name != PRODUCTS)
        table = Table(f"{op}, {n:,} × {d:,} × {v:,}, float32", ["contender", "median", "least", "× products", "memory"])
        for name, row in rows.items():
            median = statistics.median(row["seconds"])
            mark = FAINT if name == PRODUCTS else BEST if median == best else ""
            memory = "–" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.0f} MB"
            texts = duration(median), duration(min(row["seconds"])), three_digits(median / bare), memory
            table.rows.append([Cell(name, mark), *(Cell(text, mark) for text in texts)])
        yield table


def draw(shape: Shape, found: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Draw time and memory of every contender as bars."""
    from bench.plots import plt, write_figure

    figure, axes = plt.subplots(2, 2, figsize=(11, 6), layout="constrained")
    for (op, rows), (left, right) in zip(found.items(), axes, strict=True):
        names = list(rows)
        colors = ["#D55E00" if n.startswith("fastce") else "#999999" if n == PRODUCTS else "#CC79A7" for n in names]
        left.barh(names, [statistics.median(rows[n]["seconds"]) for n in names], color=colors)
        left.axvline(statistics.median(rows[PRODUCTS]["seconds"]), color="#999999", linestyle="--", linewidth=1)
        left.set_xlabel(f"{op}: seconds")
        right.barh(names, [(rows[n]["bytes"] or 0) / 1e6 for n in names], color=colors)
        right.set_xlabel("MB beyond the arguments")
        right.set_yticks([])
        for ax in (left, right):
            ax.invert_yaxis()
    figure.suptitle("The last layer and its loss, {:,} × {:,} × {:,}, float32".format(*shape), fontweight="bold")
    write_figure(figure, path)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__.splitlines()[0])
    names = [name for name in CONTENDERS if name != PRODUCTS]
    parser.add_argument(
        "--shape", type=positive, nargs=3, action="append", metavar=("N", "D", "V"), help="(2048 512 32000); repeatable"
    )
    parser.add_argument("--contenders", choices=names, nargs="+", metavar="X", default=names, help=f"of {names}")
    parser.add_argument("--rounds", type=positive, default=7, help="timed calls of each (7)")
    parser.add_argument("--threads", type=positive, default=available_cores(), help="of every contender (all cores)")
    parser.add_argument("--smoke", action="store_true", help="a tiny shape, two rounds")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "out", help="folder of the output (bench/out)"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    shapes = SMOKE if options.smoke else tuple(map(tuple, options.shape)) if options.shape else SHAPES
    os.environ |= thread_environment(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    results = []
    for shape in shapes:
        found = measure(shape, [*options.contenders, PRODUCTS], 2 if options.smoke else options.rounds)
        for table in tables(shape, found):
            console.print(table.rich())
        draw(shape, found, options.out / f"linear-{'x'.join(map(str, shape))}.svg")
        results.append({"shape": shape, "threads": options.threads, "results": found})
    (options.out / "linear.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    console.print(f"Plots and figures in {options.out}")


if __name__ == "__main__":
    main()
