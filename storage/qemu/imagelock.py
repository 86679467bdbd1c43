"""Who has an image open, judged by qemu's own locks, without taking one.

qemu marks what it does with an image by shared OFD locks on single bytes: byte 100 + i says "I use permission i"
(0 consistent read, 1 write, 2 write unchanged, 3 resize; block/file-posix.c of qemu). Whoever writes holds byte 101,
whoever has the image open at all holds one of 100..103. The bytes from 200 on, what others must not do, are held by
readers too and say nothing about writers.

Found locks prove use. Absent locks are evidence only: a program may run with ``locking=off``, a network file system may
be mounted without locks, and anyone may open the image right after the look.
"""

import dataclasses
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

_FLOCK = struct.Struct("hhqqi4x")
_USES = range(100, 104)
_WRITES = 101


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
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise OSError(errno.EINVAL, "neither a regular file nor a block device", str(path))
        if not _is_held(fd, _USES.start, len(_USES)):  # one question, where nobody has it open
            return Holders(readers=False, writer=False)
        held = [byte for byte in _USES if _is_held(fd, byte)]
    finally:
        os.close(fd)
    return Holders(readers=bool(held), writer=_WRITES in held)


def _is_held(fd: int, byte: int, count: int = 1) -> bool:
    """Whether anyone locks any of these bytes. Only a write lock conflicts with qemu's, so that is asked about."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
