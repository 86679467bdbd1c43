"""Files that hold the number of the process that has them, and are locked as long as it lives.

The lock counts, the number is for people and scripts: what a dead process left is taken over without a word.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from storage import files


class Taken(Exception):
    """Another process has the file."""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Have a file during a block; it is removed at the end.

    Raises:
        Taken: another process has it; the text says which.
        OSError: it cannot be made, or it is something else than a file of this kind. Nothing is changed.
    """
    try:
        fd = files.claim(path, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        with contextlib.suppress(OSError):
            raise Taken(f"process {files.read(path, 64).decode('ascii', 'replace').strip()} has {path}") from error
        raise Taken(f"another process has {path}") from error
    try:
        yield
    finally:
        files.unclaim(path, fd)
