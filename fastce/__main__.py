"""``python -m fastce`` is the command ``fastce``."""

import sys

from fastce.command.main import main

if __name__ == "__main__":
    sys.exit(main())
