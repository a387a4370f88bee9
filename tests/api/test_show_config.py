"""What show_config tells."""

import numpy as np
import pytest

import fastce
from tests.helpers import in_new_process


def told(capsys, *args):
    fastce.show_config(*args)
    return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if not line.startswith("t"))


def test_machine(capsys):
    lines = told(capsys)
    assert lines["fastce"] == fastce.__version__
    assert lines["numpy"] == np.__version__
    assert set(lines) >= {"numba", "python", "processor", "vectors", "kernel"}


@pytest.mark.parametrize(
    ("shape", "dtype", "axis", "regime", "run"),
    [
        ((32, 10), "float32", -1, "tiles: at most 32 classes; 16 rows", "serial: 320 elements"),
        ((32, 10), "float64", -1, "tiles: at most 32 classes; 8 rows", "serial"),
        ((4096, 1000), "float32", -1, "short rows: 33 to 1024 classes; up to 16 rows", "parallel"),
        ((4096, 1000), "float64", -1, "rows: more than 512 classes", "parallel"),
        ((1, 1_000_000), "float32", -1, "split: fewer than 4 rows a thread", "parallel"),
        ((16, 100, 64, 64), "float16", 1, "columns: the class axis is not last", "parallel"),
        (10, "int32", 0, "tiles", "serial"),
    ],
    ids=str,
)
def test_regime(capsys, shape, dtype, axis, regime, run):
    lines = told(capsys, shape, dtype, axis)
    assert lines["regime"].startswith(regime)
    assert lines["run"].startswith(run) or fastce.kernels.codegen.threads.threads.count() == 1
    assert ("converted" in lines["arranged"]) == (dtype == "int32")


def test_wrong_arguments():
    with pytest.raises(TypeError, match="logits must hold real numbers"):
        fastce.show_config((3, 4), "complex64")
    for shape in ("65536x10", (3.5, 4), 2.0, object()):
        with pytest.raises(TypeError, match="shape must be an integer or several"):
            fastce.show_config(shape)
    with pytest.raises(ValueError, match="shape must be at least 0, got -4"):
        fastce.show_config((3, -4))
    with pytest.raises(np.exceptions.AxisError):
        fastce.show_config((3, 4), axis=2)


def test_asking_compiles_nothing_and_starts_no_thread():
    in_new_process("""
import numba
from numba.core import event
import fastce

with event.install_recorder("numba:compile") as compiled:
    fastce.show_config((65536, 1000))
assert not compiled.buffer
try:
    numba.threading_layer()
except ValueError:
    pass  # none was started
else:
    raise AssertionError("threads were started")
""")
