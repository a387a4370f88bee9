"""The benchmark's two kinds of code: each library is kept to AVX2, and the report shows it beside AVX-512."""

import pytest

from bench import __main__ as command
from bench import bars, plans, process, report, runner, tables
from bench.cases import AVX2, AVX512, OPS, Case, Op, Plan
from bench.contenders import LIMIT, PEERS_TEXT, STANDARD
from bench.data import Results, finished, machine_facts
from tests.helpers import in_new_process

KEPT_TO_AVX2 = {
    "fastce": """
from fastce.kernels.codegen.target import has_avx512, machine
print(machine()[1], has_avx512())""",
    "numpy": """
import numpy
found = numpy.show_config(mode="dicts")["SIMD Extensions"]["found"]
print("haswell" if "X86_V3" in found or "AVX2" in found else found, "X86_V4" in found or "AVX512F" in found)""",
    "openblas": """
import numpy, threadpoolctl
kinds = {pool["architecture"] for pool in threadpoolctl.threadpool_info() if pool["internal_api"] == "openblas"}
print("haswell", bool(kinds - {"Haswell"}))""",
    "torch": """
import torch
print("haswell", torch.backends.cpu.get_cpu_capability() != "AVX2")""",
    "torch.compile": """
import torch._inductor.config as config
from torch._inductor.cpp_builder import CppTorchOptions
from torch._inductor.cpu_vec_isa import VecAVX2, get_isa_from_cpu_capability, supported_vec_isa_list
import os
chosen = get_isa_from_cpu_capability(os.environ["ATEN_CPU_CAPABILITY"], supported_vec_isa_list, None)
print(config.cpp.march, config.cpp.simdlen is not None or not isinstance(chosen, VecAVX2))""",
}


def limited(**changes):
    return process._environment(2, Plan("", "", (), (), vectors=AVX2, **changes))


needs_avx2 = pytest.mark.skipif(
    machine_facts(1)["vectors"] not in (AVX512, AVX2), reason="the processor has other vectors"
)


@needs_avx2
@pytest.mark.parametrize("library", KEPT_TO_AVX2)
def test_library_is_kept_to_avx2(library):
    """Warnings are errors: NumPy warns of features that it cannot leave out.

    Seen to fail: each without its own variable.
    """
    assert in_new_process(KEPT_TO_AVX2[library], **limited()) == "haswell False\n"


@needs_avx2
def test_xla_is_kept_to_avx2(tmp_path):
    """XLA ends a process whose flags it does not know; a dump of its settings has the vectors.

    Seen to fail: without the flag.
    """
    pytest.importorskip("jax", reason="of the group peers")
    environment = limited()
    environment["XLA_FLAGS"] += f" --xla_dump_to={tmp_path}"
    in_new_process("import jax; jax.jit(lambda x: x + 1)(1.0)", **environment)
    settings = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*.debug_options")]
    assert settings and all('xla_cpu_max_isa: "AVX2"' in text for text in settings)


def test_only_limited_plans_change_the_environment():
    """Seen to fail: with all plans limited."""
    free = process._environment(2, Plan("", "", (), ()))
    changed = {name for name, value in limited().items() if free.get(name) != value}
    assert changed - {"NPY_DISABLE_CPU_FEATURES"} == {*process.AVX2_CODE, "XLA_FLAGS"}
    assert not {name for name in free if name not in limited()}


def full_plans(vectors, *arguments):
    return plans.full(command.parse(["--full", *arguments]), vectors)


def cases_of(found, section):
    return {(case.op, case.batch, case.classes, case.dtype) for p in found if p.section == section for case in p.cases}


@pytest.mark.parametrize("arguments", [(), ("--smoke",)])
def test_avx2_repeats_the_speed_of_avx512(arguments):
    """With one kind of code nothing is measured twice."""
    both, one = full_plans(AVX512, *arguments), full_plans(AVX2, *arguments)
    again = cases_of(both, "avx2")
    assert again and again <= cases_of(both, "speed") == cases_of(one, "speed")
    assert {plan.vectors for plan in both if plan.section == "avx2"} == {AVX2}
    assert {plan.vectors for plan in both if plan.section != "avx2"} == {plan.vectors for plan in one} == {""}
    if not arguments:
        shapes = {case[1:] for case in again}
        assert shapes == {*plans.SHAPES}
        assert again == {(op, *shape) for op in (*OPS, Op.INPLACE) for shape in shapes}
    names = {plan.name for plan in both}
    assert len(names) == len(both)  # of the files of stored results


def test_small_calls_meet_the_contenders_of_the_ordinary_run():
    (calls,) = (plan for plan in full_plans(AVX512) if plan.section == "calls")
    assert calls.contenders == STANDARD
    assert {(case.batch, case.classes) for case in calls.cases} == {(1, 10), (1, 1000)}
    assert {case.op for case in calls.cases} == set(OPS)


def test_ordinary_run_with_avx2(capsys):
    """Seen to fail: with plans that keep their vectors, with the facts of the processor, without the refusal."""
    options = command.parse(["--vectors", "avx2"])
    assert {plan.vectors for plan in plans.standard(options)} == {AVX2}
    assert {plan.vectors for plan in plans.standard(command.parse([]))} == {""}
    assert machine_facts(1, (), options.vectors)["vectors"] == AVX2
    with pytest.raises(SystemExit):
        command.parse(["--vectors", "avx2", "--full"])
    with pytest.raises(SystemExit):
        command.parse(["--vectors", "avx2", "--contenders", "fastce", "onnxruntime"])
    assert "ONNX Runtime has no setting" in capsys.readouterr().err


def test_stored_results_are_of_one_kind_of_code(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(runner, "run_plan", lambda plan, logs, show: ran.append(plan.vectors) or Results())
    for vectors in ("", AVX2, AVX2):
        plan = Plan("one", "speed", ("fastce",), (Case(Op.LOSS, 2, 3),), vectors=vectors)
        runner.run_all([plan], tmp_path, "code", lambda case: None)
    assert ran == ["", AVX2]


def made_run(vectors, seconds, full=True):
    """Return a run of one shape: seconds by section, operation and contender."""
    case = {"batch": 64, "features": 0, "classes": 10, "dtype": "float64", "layout": "rows", "threads": 2}
    records = [
        {"section": section, "op": str(op), "contender": name, **case, "median": value, "min": value}
        for section, op, name, value in seconds
    ]
    facts = {"vectors": vectors, "threads": 2, "full": full, "cpu": "A processor", "cache_bytes": 1}
    return finished(Results(records), facts)


TIMES = [
    ("speed", Op.LOSS_GRAD, "fastce-out", 1.0),
    ("speed", Op.LOSS_GRAD, "fastce", 1.5),
    ("speed", Op.LOSS_GRAD, "jax", 3.0),
    ("speed", Op.LOSS_GRAD, "torch", 4.0),
    ("speed", Op.LOSS_GRAD, "numpy", 0.5),
    ("speed", Op.LOSS_GRAD, LIMIT, 0.8),
    ("speed", Op.INPLACE, "fastce-out", 1.25),
    ("speed", Op.INPLACE, LIMIT, 0.8),
    ("avx2", Op.LOSS_GRAD, "fastce-out", 2.0),
    ("avx2", Op.LOSS_GRAD, "torch", 3.5),
    ("avx2", Op.LOSS_GRAD, "jax", 4.0),
    ("avx2", Op.INPLACE, "fastce-out", 4.0),
    ("avx2", Op.LOSS, "fastce", 1.0),
    ("avx2", Op.LOSS, "torch", 1.3),
]


def figures(run):
    return {text: (bound, list(values)) for text, bound, values in bars.vectors_bars(run)}


def test_bars_of_both_kinds():
    """In place, the measure is the others' loss+grad; NumPy is no measure."""
    best = f"the best of {PEERS_TEXT}"
    assert figures(made_run(AVX512, TIMES)) == {
        f"AVX-512: loss+grad ≥ 2 × {best}": (2, [3.0]),
        f"AVX-512: loss+grad in place ≥ 2 × {best}": (2, [2.4]),
        f"AVX-512: other operations ≥ 1.2 × {best}": (1.2, []),
        "AVX-512: array results, float64, ≤ 1.3 × copying": (1.3, pytest.approx([1.25, 1.5625])),
        f"AVX2: loss+grad ≥ 1.8 × {best}": (1.8, [1.75]),
        f"AVX2: loss+grad in place ≥ 1.8 × {best}": (1.8, [0.875]),
        f"AVX2: other operations ≥ 1.2 × {best}": (1.2, [1.3]),
    }
    one_kind = made_run(AVX2, [record for record in TIMES if record[0] == "speed"])
    assert {text.split(":")[0] for text in figures(one_kind)} == {AVX2}
    assert f"AVX2: loss+grad ≥ 1.8 × {best}" in figures(one_kind)


def test_bars_of_small_calls():
    seconds = [("calls", Op.SOFTMAX, "fastce-out", 1.0), ("calls", Op.SOFTMAX, "numpy", 0.9)]
    ((_, bound, values),) = [bar for bar in bars.small_bars(made_run(AVX512, seconds)) if "1 × 10" in bar[0]]
    assert bound == 1 and list(values) == [0.9]


def test_both_kinds_stand_side_by_side():
    table = tables.vectors_table(made_run(AVX512, TIMES)).frame
    assert list(table.columns) == [tables.SHAPE, Op.LOSS_GRAD, "loss+grad in place"]
    assert table.to_numpy().tolist() == [
        ["64 × 10 float64, AVX-512", "1.00 s (3.00)", "1.25 s (2.40)"],
        ["64 × 10 float64, AVX2", "2.00 s (1.75)", "4.00 s (**0.88**)"],
    ]
    assert tables.vectors_table(made_run(AVX2, [r for r in TIMES if r[0] == "speed"])).frame.empty


def test_headline_names_both_kinds():
    assert "With AVX2 code" in report.headline(made_run(AVX512, TIMES))
    only = [record for record in TIMES if record[0] == "speed"]
    assert "With AVX2 code" not in report.headline(made_run(AVX512, only))
