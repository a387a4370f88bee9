"""SciPy's own tests of logsumexp, softmax and log_softmax, real numbers, pass with fastce in the place of SciPy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import scipy.special

from tests.helpers import ROOT


def test_scipys_own_tests(tmp_path):
    folder = Path(scipy.special.__file__).parent / "tests"
    files = [folder / name for name in ("test_logsumexp.py", "test_log_softmax.py")]  # one file in newer SciPy
    assert files[0].exists(), "this build of SciPy comes without its tests"
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    options = ["-q", "-c", settings, "--rootdir", tmp_path, "-p", "tests.api.scipy_suite", "-p", "no:cacheprovider"]
    # only with NumPy arrays, and apart from the run that this is part of
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "SCIPY_ARRAY_API"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-W", "error::RuntimeWarning", *filter(Path.exists, files)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|xfailed)", done.stdout)}
    assert set(counts) == {"passed"}, done.stdout
    assert counts["passed"] >= 20  # of SciPy 1.13; 59 of SciPy 1.17
    calls = dict(re.findall(r"(\w+) (\d+)", re.search("calls: (.*)", done.stdout).group(1)))
    assert all(int(number) >= 5 for number in calls.values()), calls
