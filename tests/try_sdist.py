"""Try a source distribution, ``make try-sdist``: it holds what is tracked, and tests run from it.

The arguments are the archive and a folder to unpack it into.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

# those that read files beside the package; the others have to be importable
TESTS = ["tests/test_coming_from.py", "tests/test_differences.py", "tests/test_package.py"]

archive, folder = map(Path, sys.argv[1:])
with tarfile.open(archive) as sources:
    sources.extractall(folder, filter="data")
(root,) = (path for path in folder.iterdir() if path.is_dir())
found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
tracked = set(subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines())
assert found == tracked | {"PKG-INFO"}, found ^ tracked
environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-p", "no:cacheprovider"]
for arguments in (["--collect-only", "-qq", "--ignore=tests/site"], TESTS):
    subprocess.run([*pytest, *arguments], cwd=root, env=environment, check=True)
print("the source distribution works:", archive.name)
