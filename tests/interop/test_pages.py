"""The code in ``docs/interop/`` runs, and the two halves of each page give the same."""

import sys

import numpy as np
import pytest

from tests.helpers import ROOT, python_blocks

PAGES = sorted((ROOT / "docs" / "interop").glob("*.md"))


def test_every_adapter_has_a_page():
    assert {page.stem for page in PAGES} == {"autograd", "boosting", "dask", "mpi", "mygrad", "sklearn", "torch"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_before_and_after(page):
    """The first block is the program before, the second the same with fastce: they assign one result last."""
    if page.stem == "boosting" and sys.platform == "darwin":
        pytest.skip("XGBoost and LightGBM need OpenMP, which macOS lacks")
    if page.stem == "mpi":
        pytest.importorskip("mpi4py")
    before, after, *others = python_blocks(page)
    results = []
    for block in (before, after):
        names = {}
        exec(compile(block, page.name, "exec"), names)
        results.append(list(names.values())[-1])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-9)
    for block in others:
        exec(compile(block, page.name, "exec"), names)
