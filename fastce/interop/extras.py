"""The error of an adapter whose library is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str, library: str) -> Iterator[None]:
    """Import ``library`` for the adapter and the extra of this name.

    Raises
    ------
    ImportError
        If the library is missing. Errors of a library that is there pass unchanged.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        message = f'fastce.interop.{name} needs {library}: pip install "fastce[{name}]"'
        raise ImportError(message, name=library) from None
