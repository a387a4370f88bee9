"""The configuration: versions, processor, threads, cache, and the regime of a shape."""

from __future__ import annotations

import math
import platform

import llvmlite.binding
import numba
import numpy as np
import numpy.typing as npt

from fastce import dispatch
from fastce.core.layout import dtypes_of
from fastce.core.validation import as_dtype, as_integers, as_real, normalize_axis
from fastce.kernels.codegen.jit import describe
from fastce.kernels.codegen.target import PORTABLE
from fastce.kernels.codegen.threads import given_up, started, threading_layer

_VECTORS = {"avx512f": "512 bits (AVX-512)", "avx2": "256 bits (AVX2)", "avx": "256 bits (AVX)", "sve": "SVE"}


def show_config(shape: int | tuple[int, ...] | None = None, dtype: npt.DTypeLike = np.float32, axis: int = -1) -> None:
    """Print versions, processor, threads, cache and, for a shape, how it is computed.

    Nothing is compiled and no thread is started.

    Parameters
    ----------
    shape : int or tuple of int, optional
        The shape of logits in C order.
    dtype : dtype, default float32
        The dtype of the logits.
    axis : int, default -1
        The axis of the classes.

    Raises
    ------
    TypeError
        If a size is no integer, or fastce does not compute with the dtype.
    ValueError
        If a size is below 0.
    numpy.exceptions.AxisError
        If there is no such axis.

    Examples
    --------
    >>> import fastce
    >>> fastce.show_config((65536, 10))  # doctest: +ELLIPSIS
    fastce ...
    """
    lines = _machine()
    if shape is not None:
        lines += _regime(as_integers(shape, "shape", 0), as_dtype(dtype), axis)
    width = max(len(name) for name, _ in lines) + 2
    print("\n".join(f"{name:{width}}{value}" for name, value in lines))


def _machine() -> list[tuple[str, str]]:
    """Return the (name, value) lines that do not depend on a shape."""
    from fastce import __version__

    return [
        ("fastce", __version__),
        ("numba", f"{numba.__version__}, LLVM {'.'.join(map(str, llvmlite.binding.llvm_version_info))}"),
        ("numpy", np.__version__),
        ("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("processor", numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()),
        ("vectors", _vectors()),
        ("bits", _bits()),
        ("threads", _threads()),
        ("threading layer", _layer()),
        *describe(),
    ]


def _vectors() -> str:
    """Return the widest vectors of the processor that kernels are compiled for."""
    configured = numba.config.CPU_FEATURES
    if configured:
        features = set(configured.split(","))
    else:
        features = {f"+{name}" for name, is_there in llvmlite.binding.get_host_cpu_features().items() if is_there}
    return next((text for name, text in _VECTORS.items() if f"+{name}" in features), "128 bits")


def _bits() -> str:
    if PORTABLE:
        return "portable: the same on every processor with fused multiply-add"
    return "those of this kind of processor; FASTCE_PORTABLE=1 before the import: the same on every one"


def _threads() -> str:
    most = numba.config.NUMBA_NUM_THREADS
    text = f"{started() or most}, of {most}; numba.set_num_threads changes them"
    without, kinds = given_up()
    if without:
        text += f"; for {without} of {kinds} kinds of calls not in use, as one thread was faster: are the cores busy?"
    return text


def _layer() -> str:
    return threading_layer() or f"none started yet; {numba.config.THREADING_LAYER} is asked for"


def _regime(shape: tuple[int, ...], dtype: np.dtype, axis: int) -> list[tuple[str, str]]:
    """Return the (name, value) lines of a shape."""
    sample = as_real(np.empty(0, dtype), "logits")
    axis = normalize_axis(axis, len(shape), "logits")
    inner = math.prod(shape[axis + 1 :])
    outer, classes = math.prod(shape[:axis]), shape[axis]
    arranged = (outer, classes) if inner == 1 else (outer, classes, inner)
    computed = dtypes_of(sample).compute
    regime, variant = dispatch.explain(arranged, computed.itemsize)
    staged = sample.dtype.kind in "biu" or not sample.dtype.isnative
    return [
        ("logits", f"{shape}, {dtype}, classes along axis {axis}; computed in {computed}"),
        ("arranged", f"{arranged}" + (", a block at a time: the dtype has to be converted" if staged else ", a view")),
        ("regime", regime),
        ("run", variant),
    ]
