"""Changes of the content of large files; everything else that changes files is in `files`."""

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

_FLUSH_STEP = 16 * 1024 * 1024
"""Bytes."""


class Writer(contextlib.AbstractContextManager["Writer"]):
    """Replaces the content of an existing regular file, piece by piece; nothing is durable before `sync`.

    The storage is kept busy from early on: what was written is flushed while more of it comes. So the last flush is
    short, however large the file, and little is held back in memory.

    Args:
        path: the file; a symbolic link is refused with ELOOP.

    Raises:
        OSError: it cannot be opened; EINVAL when it is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self._unflushed = 0
        self._behind: threading.Thread | None = None
        self._failure: OSError | None = None

    def __exit__(self, *_: object) -> None:
        if self._behind is not None:
            self._behind.join()
        os.close(self._fd)

    def resize(self, size: int) -> None:
        """Cut the file, or let it grow by a hole. Give all blocks back with 0."""
        os.ftruncate(self._fd, size)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of it at a place.

        Raises:
            OSError: ENOSPC, EFBIG, EIO...; a part of this or of earlier pieces may have been written.
        """
        while data:
            written = os.pwrite(self._fd, data, offset)
            offset += written
            self._unflushed += written
            data = data[written:]
        if self._unflushed >= _FLUSH_STEP and not (self._behind and self._behind.is_alive()):
            self._check()
            self._unflushed = 0
            self._behind = threading.Thread(target=self._flush, name="flush", daemon=True)
            self._behind.start()

    def sync(self) -> None:
        """Make all of it durable. Raises OSError, also for what failed to be flushed before."""
        if self._behind is not None:
            self._behind.join()
        self._check()
        os.fsync(self._fd)

    def _flush(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._failure = error

    def _check(self) -> None:
        """The system tells of a failure once only, so the next flush would hide it."""
        if self._failure is not None:
            raise self._failure
