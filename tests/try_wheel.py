"""Try the installed wheel: run by an environment's Python with nothing but the wheel in it, ``make try-wheel``."""

import importlib.metadata
import subprocess
import sysconfig
from pathlib import Path

import numpy as np

import fastce

assert Path(fastce.__file__).parent.parent.name == "site-packages", fastce.__file__
assert (Path(fastce.__file__).parent / "py.typed").exists()
installed = {distribution.metadata["Name"].lower() for distribution in importlib.metadata.distributions()}
pulled_in = installed - {"pip", "setuptools", "wheel"}
assert pulled_in == {"fastce", "numpy", "numba", "llvmlite"}, pulled_in  # llvmlite is a part of Numba
loss, grad = fastce.cross_entropy_and_grad(np.array([[2.0, 1.0, 0.1]]), [0])
assert abs(loss - 0.4170300162778335) < 1e-15, loss
assert abs(grad.sum()) < 1e-15, grad
command = Path(sysconfig.get_path("scripts")) / "fastce"
for arguments in (["--version"], ["config", "64x1000"], ["time", "64x1000", "--seconds", "0.1"]):
    shown = subprocess.run([command, *arguments], capture_output=True, text=True, check=True).stdout
    assert "fastce" in shown, shown
print("the wheel works:", ", ".join(sorted(pulled_in)))
