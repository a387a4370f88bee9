"""Where the built site is."""

from pathlib import Path

SITE = Path(__file__).parent.parent.parent / "build" / "docs"
