"""The bars a full run has to pass, each judged in every case it speaks of."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from bench.cases import LARGE_LAYER, MAIN_LAYER, Op
from bench.contenders import LIMIT, REFERENCE
from bench.data import CASE, Run, shape_text
from bench.tables import Table, three_digits

PUBLIC = ["torch", "torch-compile", "jax"]
FUSED = ["torch", "torch-out", "torch-compile", "jax"]
TORCH_LAYERS = ["torch", "torch-linear", "torch-chunked", "torch-1024"]
# conditions on the columns of a case
ROWS, PLAIN = "layout == 'rows'", "dtype in ('float32', 'float64') and layout == 'rows'"
FLOAT32 = "dtype == 'float32' and layout == 'rows'"
LARGE, TILES = "batch == 1024 and classes == 50257", "batch == 65536 and classes == 10"
GRAD, VJPS = "op == 'loss+grad'", "op in ('softmax_vjp', 'log_softmax_vjp', 'logsumexp_vjp')"


@dataclass
class Verdict:
    """A bar with the figures of all cases it applies to."""

    text: str
    bound: float
    figures: pd.Series  # by case

    @property
    def passes(self) -> pd.Series:
        """Tell which figures are within the bound."""
        return self.figures >= self.bound if "≥" in self.text else self.figures <= self.bound

    def row(self) -> list[str]:
        """Return the verdict and the case nearest to failing, or failing most."""
        if self.figures.empty:
            return [self.text, "not measured", "–", "–", "–"]
        worst = self.figures.idxmin() if "≥" in self.text else self.figures.idxmax()
        word = "**pass**" if self.passes.all() else "FAIL"
        count = f"{self.passes.sum()} of {len(self.figures)}"
        where = pd.Series(dict(zip(CASE, worst, strict=True)))
        place = f"{where.op} {shape_text(where)} {where['dtype']}"
        return [self.text, word, count, three_digits(self.figures[worst]), place]


def verdicts(run: Run) -> list[Verdict]:
    """Judge every bar."""
    return [Verdict(text, bound, figures) for text, bound, figures in (*_speed_bars(run), *_layer_bars(run))]


def _speed_bars(run: Run) -> Iterator[tuple[str, float, pd.Series]]:
    """Yield each bar's text and bound, and its figures."""
    threads = run.facts["threads"]
    ratios = _wide(run.section("speed"), "ratio")

    def rivals(names: list[str], where: str) -> pd.Series:
        return _fastest(ratios, names, where)

    def share(name: str, where: str) -> pd.Series:
        return 1 / _fastest(ratios, [name], where)

    others = f"{PLAIN} and op in ('loss', 'softmax', 'log_softmax', 'logsumexp')"
    writing = f"{FLOAT32} and {LARGE} and op in ('loss+grad', 'softmax', 'log_softmax')"
    reading = f"{FLOAT32} and {LARGE} and op in ('loss', 'logsumexp')"
    yield "loss+grad ≥ 2 × the best of torch, torch.compile, JAX", 2, rivals(FUSED, f"{PLAIN} and {GRAD}")
    yield "other operations ≥ 1.2 × the best of torch, torch.compile, JAX", 1.2, rivals(FUSED, others)
    yield "backward passes ≥ 1.2 × the best of torch, torch.compile, JAX", 1.2, rivals(PUBLIC, f"{PLAIN} and {VJPS}")
    tiles, large = (rivals(["torch"], f"{FLOAT32} and {GRAD} and {size}") for size in (TILES, LARGE))
    yield "loss+grad at 65,536 × 10 ≥ 25 × torch eager", 25, tiles
    yield "loss+grad at 1,024 × 50,257 ≥ 12 × torch eager", 12, large
    yield "loss, logsumexp at 1,024 × 50,257 ≤ 1.25 × reading", 1.25, share(LIMIT, reading)
    yield "array results at 1,024 × 50,257 ≤ 1.3 × copying", 1.3, share(LIMIT, writing)
    in_place = share(LIMIT, f"{FLOAT32} and {LARGE} and op == 'in-place'")
    yield "loss+grad in place at 1,024 × 50,257 ≤ 1.05 × copying", 1.05, in_place
    of_long = run.section("threads").query("batch == 1 and classes == 1000003 and contender == 'fastce-out'")
    by_threads = of_long.pivot(index=CASE, columns="threads", values="median").reindex(columns=[*{1, 2, threads}])
    two = by_threads[2].fillna(by_threads[threads])
    yield "1 × 1,000,003 on two threads ≥ 1.6 × as fast as on one", 1.6, (by_threads[1] / two).dropna()
    half = share("fastce-float32", f"{ROWS} and {LARGE} and dtype in ('float16', 'bfloat16')")
    yield "16-bit at 1,024 × 50,257 ≤ 0.8 of the time of float32", 0.8, half
    layouts = share("fastce-rows", "dtype == 'float32' and layout != 'rows'")
    yield "classes not last ≤ 1.5 × the time of classes last", 1.5, layouts
    small = _ours(run.section("speed")).query(f"{FLOAT32} and {GRAD} and batch == 32 and classes == 10")
    yield "loss+grad at 32 × 10 ≤ 8 µs", 8, 1e6 * small["median"]


def _layer_bars(run: Run) -> Iterator[tuple[str, float, pd.Series]]:
    frame = run.section("layer")
    main, large = (f"batch == {n} and features == {d} and classes == {v}" for n, d, v in (MAIN_LAYER, LARGE_LAYER))
    main_name, large_name = (" × ".join(f"{size:,}" for size in shape) for shape in (MAIN_LAYER, LARGE_LAYER))
    ours = _ours(frame)
    products = ours.ratio.dropna().to_frame().query(main).ratio
    grads, loss = (products[products.index.get_level_values("op") == op] for op in (Op.LAYER_GRADS, Op.LAYER_LOSS))
    yield f"last layer: loss and all gradients at {main_name} ≤ 1.15 × its three products", 1.15, grads
    yield f"last layer: loss at {main_name} ≤ 1.25 × its product", 1.25, loss
    gains = _fastest(_wide(frame, "median"), TORCH_LAYERS, "features > 0") / ours["median"]
    yield "last layer ≥ 1 × the best of torch's ways", 1, gains.dropna()
    extra = frame.query(f"{large} and contender == 'fastce'").set_index(CASE)["bytes"].dropna()
    tokens, features, classes = LARGE_LAYER
    beyond = (extra - 4 * features * (tokens + classes)) / 1e6
    yield f"last layer: memory at {large_name} ≤ 300 MB beyond the gradients", 300, beyond


def _wide(frame: pd.DataFrame, values: str) -> pd.DataFrame:
    """Return a row a case, a column a contender, in the order of the run."""
    order = pd.MultiIndex.from_frame(frame[CASE].drop_duplicates())
    return frame.pivot(index=CASE, columns="contender", values=values).reindex(order)


def _fastest(wide: pd.DataFrame, names: list[str], where: str) -> pd.Series:
    """Return the smallest figure of the named contenders in each case that meets the condition."""
    return wide.query(where).reindex(columns=names).min(axis=1).dropna()


def _ours(frame: pd.DataFrame) -> pd.DataFrame:
    """Return fastce's records, those with ``out=`` where there are."""
    ours = pd.concat([frame[frame.contender == name] for name in REFERENCE])
    return ours.drop_duplicates(CASE).set_index(CASE)


def table(run: Run) -> Table:
    """Show the verdicts, the worst case of each with it."""
    rows = [verdict.row() for verdict in verdicts(run)]
    frame = pd.DataFrame(rows, columns=["bar", "", "cases passed", "worst", "where"])
    return Table("Bars", frame, "Ratios of medians within one run, the contenders taking turns.")
