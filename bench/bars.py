"""The bars a full run has to pass, each judged in every case it applies to."""

from collections.abc import Iterator, Sequence

import pandas as pd

from bench.cases import AVX512, LARGE_LAYER, MAIN_LAYER, Op
from bench.contenders import LIMIT, PEERS, PEERS_TEXT
from bench.data import CASE, Run, shape_text
from bench.tables import Table, fastest_rivals, ours, three_digits, with_in_place

TORCH_LAYERS = ["torch", "torch-linear", "torch-chunked", "torch-1024"]
# conditions on the columns of a case
ROWS, PLAIN = "layout == 'rows'", "dtype in ('float32', 'float64') and layout == 'rows'"
FLOAT32, FLOAT64 = (f"dtype == '{dtype}' and layout == 'rows'" for dtype in ("float32", "float64"))
LARGE, TILES = "batch == 1024 and classes == 50257", "batch == 65536 and classes == 10"
LARGE32 = f"{FLOAT32} and {LARGE}"
GRAD, INPLACE = "op == 'loss+grad'", "op == 'in-place'"
VJPS = "op in ('softmax_vjp', 'log_softmax_vjp', 'logsumexp_vjp')"
FORWARD = "op in ('loss', 'softmax', 'log_softmax', 'logsumexp')"
READING, WRITING = "op in ('loss', 'logsumexp')", "op in ('loss+grad', 'softmax', 'log_softmax')"
# Text, bound, contenders and cases. The figure is the time of the fastest of these contenders divided by fastce's
# where the text says ≥, and fastce's divided by theirs where it says ≤.
RATIOS = (
    (
        f"backward passes ≥ 1.2 × the best of {PEERS_TEXT}",
        *(1.2, ["torch", "torch-compile", "jax"], f"{PLAIN} and {VJPS}"),  # whose kernels have a public name
    ),
    ("loss+grad at 65,536 × 10 ≥ 25 × torch eager", 25, ["torch"], f"{FLOAT32} and {GRAD} and {TILES}"),
    ("loss+grad at 1,024 × 50,257 ≥ 12 × torch eager", 12, ["torch"], f"{LARGE32} and {GRAD}"),
    ("loss, logsumexp at 1,024 × 50,257 ≤ 1.25 × reading", 1.25, [LIMIT], f"{LARGE32} and {READING}"),
    ("array results at 1,024 × 50,257 ≤ 1.3 × copying", 1.3, [LIMIT], f"{LARGE32} and {WRITING}"),
    ("loss+grad in place at 1,024 × 50,257 ≤ 1.05 × copying", 1.05, [LIMIT], f"{LARGE32} and {INPLACE}"),
    (
        "16-bit at 1,024 × 50,257 ≤ 0.8 of the time of float32",
        *(0.8, ["fastce-float32"], f"{ROWS} and {LARGE} and dtype in ('float16', 'bfloat16')"),
    ),
    (
        "classes not last ≤ 1.5 × the time of classes last",
        *(1.5, ["fastce-rows"], "dtype == 'float32' and layout != 'rows'"),
    ),
)
NOTE = (
    "Ratios of medians within one run, the contenders taking turns. In place, fastce is compared with the others' "
    "loss+grad, as they have no such operation."
)
Bar = tuple[str, float, pd.Series]  # text, bound, the figure of each case


def vectors_bars(run: Run) -> Iterator[Bar]:
    """Yield the bars on each kind of code; in place, the others' loss+grad is the measure."""
    for vectors, section in run.kinds.items():
        ratios = _wide(with_in_place(run.section(section)), "ratio")
        bound = 2 if vectors == AVX512 else 1.8
        for name, least, op in (
            ("loss+grad", bound, GRAD),
            ("loss+grad in place", bound, INPLACE),
            ("other operations", 1.2, FORWARD),
        ):
            text = f"{vectors}: {name} ≥ {least} × the best of {PEERS_TEXT}"
            yield text, least, _fastest(ratios, PEERS, f"{PLAIN} and {op}")
        if vectors == AVX512:
            figures = 1 / _fastest(ratios, [LIMIT], f"{FLOAT64} and ({WRITING} or {INPLACE})")
            yield f"{vectors}: array results, float64, ≤ 1.3 × copying", 1.3, figures


def speed_bars(run: Run) -> Iterator[Bar]:
    """Yield the bars on operations on logits."""
    frame = run.section("speed")
    ratios = _wide(frame, "ratio")
    for text, bound, names, where in RATIOS:
        figures = _fastest(ratios, names, where)
        yield text, bound, figures if "≥" in text else 1 / figures
    of_long = run.section("threads").query("batch == 1 and classes == 1000003 and contender == 'fastce-out'")
    threads = run.facts["threads"]
    by_threads = of_long.pivot(index=CASE, columns="threads", values="median").reindex(columns=[*{1, 2, threads}])
    two = by_threads[2].fillna(by_threads[threads])
    yield "1 × 1,000,003 on two threads ≥ 1.6 × as fast as on one", 1.6, (by_threads[1] / two).dropna()
    yield from small_bars(run)


def small_bars(run: Run) -> Iterator[Bar]:
    """Yield the bars on small calls."""
    small = ours(run.section("speed")).set_index(CASE).query(f"{FLOAT32} and batch == 32 and classes == 10")
    for op, most in ((Op.LOSS_GRAD, 3), (Op.SOFTMAX, 1.2)):
        yield f"{op} at 32 × 10 ≤ {most} µs", most, 1e6 * small.query(f"op == '{op}'")["median"]
    rivals = fastest_rivals(run.section("calls")).set_index(CASE).ratio
    yield "1 × 10 and 1 × 1,000 ≥ 1 × the best of torch eager, NumPy, SciPy", 1, rivals


def adapter_bars(run: Run) -> Iterator[Bar]:
    """Yield the bars on fastce in the graph of torch, which take torch's own loss and backward pass as the measure."""
    times = _wide(run.section("speed"), "median").reindex(columns=["torch", "fastce-torch"])
    ratios = (times["torch"] / times["fastce-torch"]).dropna()
    for bound, batch, classes in ((1, 32, 10), (10, 65536, 10), (2, 1024, 1000), (4, 1024, 50257)):
        where = f"{FLOAT32} and {GRAD} and batch == {batch} and classes == {classes}"
        text = f"fastce in torch: loss+grad at {batch:,} × {classes:,} ≥ {bound} × torch eager"
        yield text, bound, ratios.to_frame("ratio").query(where).ratio


def layer_bars(run: Run) -> Iterator[Bar]:
    """Yield the bars on the last layer."""
    frame = run.section("layer")
    main, large = (f"batch == {n} and features == {d} and classes == {v}" for n, d, v in (MAIN_LAYER, LARGE_LAYER))
    main_name, large_name = (" × ".join(f"{size:,}" for size in shape) for shape in (MAIN_LAYER, LARGE_LAYER))
    mine = ours(frame).set_index(CASE)
    products = mine.query(main).ratio.dropna()
    grads, loss = (products[products.index.get_level_values("op") == op] for op in (Op.LAYER_GRADS, Op.LAYER_LOSS))
    yield f"last layer: loss and all gradients at {main_name} ≤ 1.15 × its three products", 1.15, grads
    yield f"last layer: loss at {main_name} ≤ 1.25 × its product", 1.25, loss
    gains = _fastest(_wide(frame, "median"), TORCH_LAYERS, "features > 0") / mine["median"]
    yield "last layer ≥ 1 × the best of torch's ways", 1, gains.dropna()
    extra = frame.query(f"{large} and contender == 'fastce'").set_index(CASE)["bytes"].dropna()
    tokens, features, classes = LARGE_LAYER
    beyond = (extra - 4 * features * (tokens + classes)) / 1e6
    yield f"last layer: memory at {large_name} ≤ 300 MB beyond the gradients", 300, beyond


def _wide(frame: pd.DataFrame, values: str) -> pd.DataFrame:
    """Return a row a case, a column a contender, in the order of the run."""
    order = pd.MultiIndex.from_frame(frame[CASE].drop_duplicates())
    return frame.pivot(index=CASE, columns="contender", values=values).reindex(order)


def _fastest(wide: pd.DataFrame, names: Sequence[str], where: str) -> pd.Series:
    """Return the smallest figure of the named contenders in each case that meets the condition."""
    return wide.query(where).reindex(columns=list(names)).min(axis=1).dropna()


def verdict(text: str, bound: float, figures: pd.Series) -> list[str]:
    """Return a bar's verdict, and the case nearest to failing, or failing most."""
    if figures.empty:
        return [text, "not measured", "–", "–", "–"]
    at_least = "≥" in text
    passed = figures >= bound if at_least else figures <= bound
    worst = figures.idxmin() if at_least else figures.idxmax()
    case = pd.Series(worst, index=CASE)
    place = f"{case.op} {shape_text(case)} {case['dtype']}"
    count = f"{passed.sum()} of {len(figures)}"
    return [text, "**pass**" if passed.all() else "**FAIL**", count, three_digits(figures[worst]), place]


def table(run: Run) -> Table:
    """Show the verdicts, each with its worst case."""
    rows = [verdict(*bar) for bar in (*vectors_bars(run), *speed_bars(run), *adapter_bars(run), *layer_bars(run))]
    frame = pd.DataFrame(rows, columns=["bar", "", "cases passed", "worst", "where"])
    return Table("Bars", frame, NOTE)
