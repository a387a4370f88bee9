"""Runs all modules, one after the other: ``python -m tools.speed --write``."""

import subprocess
import sys
from pathlib import Path

NAMES = ("mygrad", "autograd", "torch", "boosting", "sklearn", "dask", "mpi", "shards", "divergences", "options")


def main() -> int:
    """Run each in a process of its own, with the same arguments; return how many failed."""
    root = Path(__file__).parents[2]
    commands = [[sys.executable, "-m", f"tools.speed.{name}", *sys.argv[1:]] for name in NAMES]
    return sum(subprocess.run(command, cwd=root, check=False).returncode != 0 for command in commands)


if __name__ == "__main__":
    sys.exit(main())
