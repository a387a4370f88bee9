"""The command ``fastce``: its subcommands, the spellings of shapes, errors, exit codes and output."""

import io
import json
import os
import re
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import fastce
from fastce.command import evaluate, timing
from fastce.command.arguments import OPS, make_parser
from fastce.command.main import CLOSED_PIPE, INTERRUPTED, main
from fastce.command.shapes import parse_shape
from fastce.command.terminal import shows_progress
from tests.helpers import ROOT

COMMAND = [sys.executable, "-m", "fastce"]


@pytest.fixture
def files(tmp_path, monkeypatch, rng):
    """Logits and labels in the current folder, ``x.npy`` and ``y.npy``; returns a function that saves more."""
    monkeypatch.chdir(tmp_path)

    def save(**arrays):
        for name, array in arrays.items():
            np.save(f"{name}.npy", array)

    save(x=rng.normal(size=(50, 10)).astype(np.float32), y=rng.integers(0, 10, 50))
    return save


def fails(capsys, arguments, code, message):
    """Assert that the command fails with this code, and one line that ends with this message."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert not out
    assert message in err
    assert err.startswith("fastce") and err.count("\n") == 1, err


def as_json(capsys, *arguments):
    """Return what the command prints as JSON, in the strict sense."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


# --- the command as a whole -----------------------------------------------------


def test_version_and_help(capsys):
    for arguments, start in (
        (["--version"], f"fastce {fastce.__version__}\n"),
        ([], "usage: fastce"),
        (["--help"], "usage: fastce"),
        *(([name, "--help"], f"usage: fastce {name}") for name in ("config", "warmup", "evaluate", "time")),
    ):
        assert main(arguments) == 0
        assert capsys.readouterr().out.startswith(start)


def test_narrow_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert main(["evaluate", "--help"]) == 0
    assert "--top-k" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["65536x10"], "invalid choice: '65536x10'"),
        (["evaluate", "x.npy"], "required: LABELS (see fastce evaluate --help)"),
        (["config", "5xten"], "not a shape: '5xten'; write it as 65536x10 or 65536,10 (see fastce config --help)"),
        (["config", "5x10", "--axis", "7"], "axis 7 is out of bounds"),
        (["config", "5x10", "--dtype", "complex64"], "logits must hold real numbers"),
        (["config", "5x10", "--dtype", "float31"], "float31"),
        (["config", "5x10", "--d", "float32"], "--d"),
        (["warmup", "--dtypes", "complex64"], "complex64"),
        (["warmup", "--classes", "0"], "classes must be at least 1, got 0"),
        (["warmup", "--classes", "ten"], "argument --classes: must be integers such as 1,5, got 'ten'"),
        (["time", "0x10"], "nothing to time in the shape (0, 10)"),
        (["time", "5x10", "--axis", "-3"], "--axis -3 is no axis of (5, 10)"),
        (["time", "5x10", "--op", "soft"], "invalid choice: 'soft'"),
        (["time", "5x10", "--dtype", "int32"], "invalid choice: 'int32'"),
        (["time", "5x10", "--seconds", "nan"], "must be a number of seconds above 0, got 'nan'"),
        (["evaluate", "x.npy", "y.npy", "--top-k", "0"], "top_k must be at least 1, got 0"),
        (["evaluate", "x.npy", "y.npy", "--top-k", ","], "argument --top-k: must be integers such as 1,5, got ','"),
        (["evaluate", "x.npy", "y.npy", "--label-smoothing", "2"], "label_smoothing must be from 0 to 1"),
        (["evaluate", "x.npy", "y.npy", "--ignore-index", "1.5"], "must be an integer or none, got '1.5'"),
    ],
    ids=str,
)
def test_wrong_arguments(capsys, arguments, message):
    fails(capsys, arguments, 2, message)


def run_into(output):
    """Return the exit code and the errors of the command, whose output is buffered and goes to this file."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    arguments = [*COMMAND, "config"]
    run = subprocess.run(arguments, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    return run.returncode, run.stderr


def test_closed_pipe():
    """Seen to fail: where the output is not dropped, as the interpreter then complains and returns 120."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        assert run_into(closed) == (CLOSED_PIPE, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_full_disk():
    with open("/dev/full", "w") as full:
        assert run_into(full) == (1, "fastce: error: No space left on device\n")


INTERRUPTED_LATER = """
import os, signal, sys, threading
from fastce.command import timing
from fastce.command.main import main

def interrupted(calls, seconds):
    for call in calls.values():  # compilers and imports of other libraries may lose the signal
        call()
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    return measure(calls, seconds)

measure, timing.measure = timing.measure, interrupted
sys.exit(main(["time", "300x300", "--seconds", "600", "--op", "logsumexp"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches a whole console there")
def test_interrupt():
    run = subprocess.run([sys.executable, "-c", INTERRUPTED_LATER], capture_output=True, text=True, timeout=120)
    assert run.returncode == INTERRUPTED
    assert not run.stdout and "Traceback" not in run.stderr


def test_interrupted_in_the_middle(capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastce, "show_config", interrupt)
    assert main(["config"]) == INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_closed_streams(capsys, files, monkeypatch):
    """A process may start without them. What belongs to the standard error never goes to the output."""
    files(x=fastce.softmax(np.load("x.npy")))
    monkeypatch.setattr(sys, "stderr", None)
    assert as_json(capsys, "evaluate", "x.npy", "y.npy")["samples"] == 50
    assert main(["evaluate", "none.npy", "y.npy"]) == 1
    assert not capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["config"]) == 0


def test_defects_are_not_hidden(monkeypatch):
    def fail(*_):
        raise AssertionError("a defect")

    monkeypatch.setattr(fastce, "show_config", fail)
    with pytest.raises(AssertionError, match="a defect"):
        main(["config"])


# --- shapes and config ----------------------------------------------------------


SPELLINGS = ["64x1000", "64X1000", "64×1000", "64*1000", "64,1000", "64 1000", " 64 x 1000 ", "64 ,1000", "64\n1000"]
SPELLINGS += ["64x1_000", "64, 1000,", "(64, 1000)", "(64,1000,)", "((64, 1000))", "[64,1000]", "[64 1000]"]
SPELLINGS += ["torch.Size([64, 1000])"]


@pytest.mark.parametrize("text", SPELLINGS)
def test_spellings_of_a_shape(text):
    assert parse_shape(text) == (64, 1000)


def test_other_shapes():
    assert [parse_shape(text) for text in ("10", "(10,)", "0x10", "2,3,4,5")] == [(10,), (10,), (0, 10), (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, "not a shape")
            for text in ("", "()", "x", "64x", "x64", "64xx1000", "64,,1000", "(64, 1000", "6.5x10")
        ),
        *((text, "not a shape") for text in ("1e3x4", "-3x4", "64-1000", "_64x2", "6__4x2", "64,1000,,", "64;1000")),
        ("65,536x10", "different separators"),
        ("64x 1000 10", "different separators"),
        ("1,000", "write a thousand as 1000 or 1_000"),
        ("9" * 5000, "a size of 5000 digits"),
    ],
    ids=lambda text: text[:20],
)
def test_no_shapes(text, message):
    with pytest.raises(ValueError, match=message):
        parse_shape(text)


def test_config(capsys):
    for arguments in (["config", "65536x10"], ["config", "65536", "10"], ["config", "5,40,7", "--axis", "1"]):
        assert main([*arguments, "--dtype", "bfloat16"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("fastce ") and "bfloat16" in out
    assert main(["config"]) == 0
    assert "logits" not in capsys.readouterr().out


def test_warmup(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(fastce, "warmup", lambda dtype, classes: calls.append((dtype, classes)))
    for arguments, expected in (
        ([], [("float32", 10), ("float32", 1000), ("float64", 10), ("float64", 1000)]),
        (["--dtypes", "float32", "float16", "--classes", "7"], [("float32", 7), ("float16", 7)]),
    ):
        assert main(["warmup", *arguments]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("ready after ") and not err
        assert calls == expected
        calls.clear()
    assert main(["warmup", "--progress"]) == 0
    assert "warmup" in capsys.readouterr().err


# --- evaluate -------------------------------------------------------------------


def test_evaluate_prints_what_the_function_returns(capsys, files):
    expected = fastce.evaluate(np.load("x.npy"), np.load("y.npy"), top_k=(1, 5))
    shown = as_json(capsys, "evaluate", "x.npy", "y.npy", "--top-k", "1,5")
    assert shown == {"shape": [50, 10], "dtype": "float32", "samples": 50, "top_k": [1, 5], **expected.asdict()}
    assert main(["evaluate", "--top-k", "5", "x.npy", "y.npy"]) == 0
    lines = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert [name.strip() for name in lines] == [
        *("logits", "samples", "loss", "perplexity", "accuracy", "top-5 accuracy", "entropy")
    ]
    assert f"{expected.loss:.6g} nats" in lines.values()


def test_page(capsys, tmp_path, monkeypatch):
    """The page of the command: its first block runs, and its command prints what the page shows."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "command.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    [program] = [text for kind, text in blocks if kind == "python"]
    [session] = [text for kind, text in blocks if kind == "console"]
    exec(program, {})
    command, output = session.removeprefix("$ fastce ").split("\n", 1)
    assert main(command.split()) == 0
    assert capsys.readouterr().out == output
    [more] = [text for kind, text in blocks if not kind]
    for line in more.splitlines():
        make_parser({name: print for name in ("config", "warmup", "evaluate", "time")}).parse_args(line.split()[1:])


def test_evaluate_options(capsys, files, rng):
    weight, sample_weight = rng.random(10), rng.random((4, 7))
    x, y = rng.normal(size=(4, 10, 7)), rng.integers(0, 10, (4, 7))
    files(x=x, y=y, w=weight, s=sample_weight)
    expected = fastce.evaluate(
        x, y, axis=1, weight=weight, sample_weight=sample_weight, ignore_index=3, label_smoothing=0.1, top_k=(2,)
    )
    options = ["--axis", "1", "--weight", "w.npy", "--sample-weight", "s.npy", "--ignore-index", "3", "--top-k", "2"]
    options += ["--label-smoothing", "0.1"]
    shown = as_json(capsys, "evaluate", "x.npy", "y.npy", *options)
    assert {name: shown[name] for name in expected._fields} == expected.asdict()
    p = np.asarray(fastce.softmax(x, axis=1))
    files(x=p)
    of_probs = as_json(capsys, "evaluate", "x.npy", "y.npy", *options, "--probs")
    assert of_probs["loss"] == pytest.approx(expected.loss, rel=1e-12)
    assert of_probs["count"] == expected.count


@pytest.mark.parametrize("kind", ["F", ">f4", "float16", "bfloat16", "int8 labels", "one-hot", "1-D", "1-D probs"])
def test_evaluate_arrays_of_all_kinds(capsys, files, kind):
    x, y = np.load("x.npy"), np.load("y.npy")
    options = []
    if kind == "F":
        x = np.asfortranarray(x)
    elif kind == "int8 labels":
        y = y.astype(np.int8)
    elif kind == "one-hot":
        y = np.eye(10, dtype=bool)[y]
    elif kind.startswith("1-D"):
        x, y = x[0], y[0]
        if kind.endswith("probs"):
            x, options = np.asarray(fastce.softmax(x)), ["--probs"]
    else:
        x = x.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    files(x=x, y=y)
    expected = fastce.evaluate(np.log(x) if options else x, y)
    assert as_json(capsys, "evaluate", "x.npy", "y.npy", *options)["loss"] == pytest.approx(expected.loss, rel=1e-6)


def test_evaluate_without_ml_dtypes(capsys, files, monkeypatch):
    files(x=np.load("x.npy").astype(ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    fails(capsys, ["evaluate", "x.npy", "y.npy"], 1, "which needs ml_dtypes: pip install ml_dtypes")


def test_evaluate_blocks_of_probabilities(capsys, files, monkeypatch):
    p, y = np.asarray(fastce.softmax(np.load("x.npy"))), np.load("y.npy")
    files(p=p)
    whole = as_json(capsys, "evaluate", "p.npy", "y.npy", "--probs")
    monkeypatch.setattr(evaluate, "BLOCK", 70)
    assert as_json(capsys, "evaluate", "p.npy", "y.npy", "--probs") == whole
    y[23] = 10
    files(y=y)
    message = "target[2] is 10, expected a class index from 0 to 9 or ignore_index -100 (in the block that starts at "
    fails(capsys, ["evaluate", "p.npy", "y.npy", "--probs"], 1, f"{message}index 21, where the message counts from)")


def test_evaluate_leaves_out(capsys, files):
    y = np.load("y.npy")
    y[:7] = -100
    files(y=y)
    assert main(["evaluate", "x.npy", "y.npy"]) == 0
    assert "43, and 7 left out" in capsys.readouterr().out
    fails(capsys, ["evaluate", "x.npy", "y.npy", "--ignore-index", "none"], 1, "target[0] is -100")


def test_json_has_no_nan(capsys, files):
    files(x=np.full((2, 3), np.nan), y=[0, 1], empty=np.zeros((0, 3)), none=np.zeros(0, int))
    assert as_json(capsys, "evaluate", "x.npy", "y.npy")["loss"] is None
    shown = as_json(capsys, "evaluate", "empty.npy", "none.npy", "--top-k", "1")
    assert (shown["samples"], shown["loss"], shown["top_k_accuracy"]) == (0, None, [None])


def test_evaluate_tells_probabilities_from_logits(capsys, files):
    files(
        p=fastce.softmax(np.load("x.npy")), half=np.load("x.npy") / 9 + 0.5, hot=np.eye(10, dtype=int)[np.load("y.npy")]
    )
    for name, is_told in (("p", True), ("x", False), ("half", False), ("hot", False)):
        assert main(["evaluate", f"{name}.npy", "y.npy"]) == 0
        assert ("for probabilities, add --probs" in capsys.readouterr().err) == is_told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": [[0.5, -0.5]], "y": [0]}, "which are from 0 to 1, got -0.5"),
        ({"x": [[0.5, 0.25]], "y": [0]}, "which have sums of 1, got a sum of 0.75"),
        ({"x": np.ones((1, 1), complex), "y": [0]}, "probabilities must be real numbers, got dtype complex128"),
        ({"x": np.ones((1, 1), "m8[s]"), "y": [0]}, "probabilities must be real numbers"),
        ({"x": [[1.0, 0.0]], "y": [0, 1]}, "labels have shape (2,), which does not fit probabilities of (1, 2)"),
        ({"s": np.ones(3)}, "sample_weight has shape (3,), expected (50,)"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_probabilities(capsys, files, change, message):
    files(**{"x": fastce.softmax(np.load("x.npy")), "s": np.ones(len(change.get("y", [0] * 50))), **change})
    fails(capsys, ["evaluate", "x.npy", "y.npy", "--probs", "--sample-weight", "s.npy"], 1, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [9] * 49 + [10]}, "target[49] is 10, expected a class index from 0 to 9"),
        ({"y": [0] * 49}, "target has shape (49,), expected (50,)"),
        ({"y": [[0]] * 50}, "np.squeeze(target, axis=1) would fit"),
        ({"y": [0.0] * 50}, "class indices must be integers, got dtype float64"),
        ({"y": np.full((50, 10), 0.1)}, "got class probabilities"),
        ({"y": np.full(50, {})}, "y.npy: holds Python objects, which are never unpickled"),
        ({"x": np.zeros((50, 10), [("a", float)])}, "logits must hold real numbers"),
        ({"x": np.zeros(50), "y": [0]}, "target has shape (1,), expected ()"),
        ({"x": np.load}, "x.npy: holds Python objects"),
        ({"x": np.float32(1), "y": 0}, "at least one dimension"),
        ({"x": [0, 1], "y": np.zeros((50, 10))}, "the order is LOGITS LABELS"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_wrong_arrays(capsys, files, change, message):
    files(**change)
    fails(capsys, ["evaluate", "x.npy", "y.npy"], 1, message)


HEADER = b"\x93NUMPY\x01\x00"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no .npy file; save the array with numpy.save"),
        (b"1,2,3\n", "no .npy file"),
        (b"PK\x03\x04", "an archive; save each of its arrays with numpy.save"),
        (b"\x80\x04K\x01.", "no .npy file"),
        (HEADER, "damaged or cut short"),
        (HEADER + b"\xff\xff{", "damaged or cut short"),
        (HEADER + b"\x76\x00" + b"{" * 118, "damaged or cut short"),
    ],
    ids=str,
)
def test_damaged_files(capsys, files, tmp_path, data, message):
    (tmp_path / "x.npy").write_bytes(data)
    fails(capsys, ["evaluate", "x.npy", "y.npy"], 1, f"fastce evaluate: error: x.npy: {message}")


def test_files_that_are_no_arrays(capsys, files, tmp_path):
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    np.savez("z.npz", logits=[1], labels=[2])
    (tmp_path / "sub").mkdir()
    for path, message in (
        ("cut.npy", "cut.npy: damaged or cut short"),
        ("z.npz", "z.npz: an archive; save each of its arrays with numpy.save"),
        ("sub", "sub: no regular file"),
        (os.devnull, "no regular file"),
        ("none.npy", "none.npy: No such file or directory"),
        ("C:\\data\\x.npy", "x.npy: No such file or directory"),
    ):
        fails(capsys, ["evaluate", path, "y.npy"], 1, message)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf_8(capsys, files):
    os.rename("x.npy", b"\xff.npy")
    assert as_json(capsys, "evaluate", os.fsdecode(b"\xff.npy"), "y.npy")["samples"] == 50
    fails(capsys, ["evaluate", os.fsdecode(b"\xfe.npy"), "y.npy"], 1, "\\udcfe.npy: No such file")


def test_progress_bar(capsys, files):
    for option, is_shown in ((["--progress"], True), (["--no-progress"], False), ([], False)):
        assert main(["evaluate", "x.npy", "y.npy", *option]) == 0
        assert ("evaluate" in capsys.readouterr().err) == is_shown


def test_when_a_progress_bar_is_shown(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert not shows_progress(None)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert shows_progress(None)
    assert not shows_progress(None, is_long=False)
    assert not shows_progress(False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not shows_progress(None)
    assert not shows_progress(False)
    monkeypatch.setattr(sys, "stderr", None)
    assert not shows_progress(None)


@pytest.mark.parametrize("argv", [["evaluate", "x.npy", "y.npy"], ["warmup"]], ids=lambda argv: argv[0])
def test_progress_without_rich(argv, capsys, files, monkeypatch):
    """Seen to fail: with a warmup that imports rich itself."""
    for name in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    fails(capsys, [*argv, "--progress"], 1, "--progress needs rich, which is not installed: pip install rich")


def test_files_are_mapped(files):
    files(b=np.zeros((2, 3), ml_dtypes.bfloat16))
    assert isinstance(evaluate.load("x.npy"), np.memmap)
    assert isinstance(evaluate.load("b.npy", of_logits=True), np.memmap)


# --- time -----------------------------------------------------------------------


def test_time(capsys):
    shown = as_json(capsys, "time", "32x10", "--seconds", "0.01")
    assert {name: shown[name] for name in ("op", "shape", "dtype", "axis", "bytes")} == {
        **{"op": "cross_entropy_and_grad", "shape": [32, 10], "dtype": "float32", "axis": 1},
        "bytes": 2 * 32 * 10 * 4 + 32 * 8,
    }
    assert [row["name"] for row in shown["contenders"]] == ["fastce", "fastce, out=", "NumPy", "torch"]
    for row in shown["contenders"]:
        assert row["share_of_limit"] == pytest.approx(shown["copying_seconds"] / row["seconds"])
        assert row["times_fastce"] == pytest.approx(row["seconds"] / shown["contenders"][0]["seconds"])


def test_table_of_times(capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["time", "(32, 10)", "--op", "logsumexp", "--seconds", "0.01", "--dtype", "float64"]) == 0
    first, empty, head, *rows = capsys.readouterr().out.splitlines()
    assert (first, empty) == ("logsumexp, 32x10 float64", "")
    assert [name.strip() for name in head.split("  ")[-3:]] == ["ms", "of the limit", "times fastce"]
    assert [row.split("  ")[0] for row in rows[:3]] == ["fastce", "NumPy", "limit: copying"]
    assert len({len(row) for row in (head, *rows[:3])}) == 1


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), 0), ((5, 7), 1), ((7, 5), 0), ((2, 7, 3), 1), ((7, 2, 3), 0), ((2, 3, 7), 2)], ids=str
)
def test_contenders_compute_the_same(op, shape, axis):
    """Seen to fail: with a gradient that is not divided by the number of samples."""
    pytest.importorskip("torch")
    for dtype, rtol in (("float32", 1e-5), ("bfloat16", 5e-2)):
        results = {
            name: call() for name, call in timing.contenders(timing.make_problem(op, shape, dtype, axis)).items()
        }
        assert {"fastce", "NumPy", "torch"} <= set(results)
        for name, result in results.items():
            pairs = zip(result, results["fastce"], strict=True) if op == OPS[0] else [(result, results["fastce"])]
            for value, expected in pairs:
                if name == "torch":
                    value = value.detach().double().numpy()
                    if op == OPS[0] and value.ndim > 1:  # where the class axis is in torch
                        expected = np.moveaxis(expected, axis, -1 if axis == len(shape) - 1 else 1)
                value, expected = (np.asarray(array, np.float64).reshape(-1) for array in (value, expected))
                np.testing.assert_allclose(value, expected, rtol, rtol / 10)


def test_a_shape_too_large_for_the_machine(capsys):
    fails(capsys, ["time", "100_000_000x50257"], 1, "give fewer samples")


def test_time_without_ml_dtypes(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    fails(capsys, ["time", "5x10", "--dtype", "bfloat16"], 1, "pip install ml_dtypes")


def test_time_tells_of_a_busy_machine(capsys, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1e3, 1e3, 1e3), raising=False)
    assert main(["time", "5x10", "--seconds", "0.01", "--op", "softmax"]) == 0
    assert "the machine is busy, with a load of 1000.0" in capsys.readouterr().err
