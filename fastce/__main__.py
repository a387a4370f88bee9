"""``python -m fastce``: print the configuration and, for a shape, its regime."""

import argparse

from fastce.api.config import show_config


def main() -> None:
    """Print the configuration and, for a shape on the command line, its regime."""
    parser = argparse.ArgumentParser(prog="python -m fastce", description="Show what fastce runs on.")
    parser.add_argument("shape", nargs="?", help="for example 65536x10")
    parser.add_argument("--dtype", default="float32", help="of the logits (default: float32)")
    parser.add_argument("--axis", type=int, default=-1, help="the class axis (default: the last)")
    options = parser.parse_args()
    try:
        shape = tuple(int(size) for size in options.shape.split("x")) if options.shape else None
    except ValueError:
        parser.error(f"shape must be sizes with x between them, such as 65536x10, got {options.shape!r}")
    try:
        show_config(shape, options.dtype, options.axis)
    except (ImportError, TypeError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
