"""Who has an image open, judged by qemu's own locks; and keeping qemu away from one for a moment.

qemu marks what it does with an image by shared OFD locks on single bytes: byte 100 + i says "I use permission i"
(0 consistent read, 1 write, 2 write unchanged, 3 resize; block/file-posix.c of qemu). Whoever writes holds byte 101,
whoever has the image open at all holds one of 100..103. The bytes from 200 on, what others must not do, are held by
readers too and say nothing about writers. Whoever holds them keeps every other qemu from opening the image, and that is
how a look and what rests on it become one: `reserved` takes them first and looks then, in the order of qemu itself.

Found locks prove use. Absent locks are evidence only: a program may run with ``locking=off``, a network file system may
be mounted without locks, and anyone may open the image right after the look.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")
_USES = range(100, 104)
_WRITES = 101
_DENIALS = range(200, 204)


@dataclasses.dataclass(frozen=True, slots=True)
class Holders:
    """What the locks say.

    Attributes:
        readers: somebody has the image open, for reading or writing.
        writer: somebody has it open for writing.
    """

    readers: bool
    writer: bool

    def __bool__(self) -> bool:
        return self.readers or self.writer


def holders(path: Path | str) -> Holders:
    """Ask who has an image open; changes nothing and blocks nobody.

    Args:
        path: a regular file or a block device; a symbolic link as last component is refused with ELOOP.

    Raises:
        OSError: the file cannot be opened, is of another kind (EINVAL), or its file system knows no such locks.
    """
    fd = _open(path)
    try:
        return _holders(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def reserved(path: Path | str) -> Iterator[Holders]:
    """Keep every qemu from opening an image during a block, and say who has it open already.

    Programs of qemu that we run ourselves are kept away as well. The lock is on the file, not on its name, which may
    be moved or removed within the block, and ends with the process at the latest.

    Yields:
        Who has it open. Somebody who is not qemu and locks it against all others counts as a reader.

    Raises:
        OSError: as `holders`.
    """
    fd = _open(path)
    try:
        try:
            _lock(fd, fcntl.F_RDLCK)
            found = _holders(fd)
        except (BlockingIOError, PermissionError):
            found = Holders(readers=True, writer=False)
        yield found
    finally:
        with contextlib.suppress(OSError):  # a child between fork and exec would keep what is only closed
            _lock(fd, fcntl.F_UNLCK)
        os.close(fd)


def _open(path: Path | str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(fd)
        raise OSError(errno.EINVAL, "neither a regular file nor a block device", str(path))
    return fd


def _holders(fd: int) -> Holders:
    if not _is_held(fd, _USES.start, len(_USES)):  # one question, where nobody has it open
        return Holders(readers=False, writer=False)
    held = [byte for byte in _USES if _is_held(fd, byte)]
    return Holders(readers=bool(held), writer=_WRITES in held)


def _lock(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, _DENIALS.start, len(_DENIALS), 0))


def _is_held(fd: int, byte: int, count: int = 1) -> bool:
    """Whether anyone locks any of these bytes. Only a write lock conflicts with qemu's, so that is asked about."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
