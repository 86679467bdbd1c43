"""Storage that hangs: a file system (FUSE) whose server never answers, mounted over a directory. Needs root.

Whoever looks into it waits in a system call until the block ends: as with a file server that is gone.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_DEVICE = "/dev/fuse"
_DETACH = 2  # MNT_DETACH of <sys/mount.h>

_libc = ctypes.CDLL(None, use_errno=True)


def possible() -> bool:
    """Whether this machine can do it."""
    return os.geteuid() == 0 and os.access(_DEVICE, os.R_OK | os.W_OK)


@contextlib.contextmanager
def over(directory: Path) -> Iterator[None]:
    """Hide a directory under storage that hangs, while the block runs.

    Raises:
        OSError: it could not be mounted.
    """
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other"
        _check(_libc.mount(b"hung", os.fsencode(directory), b"fuse", 0, options.encode()))
        try:
            yield
        finally:
            _check(_libc.umount2(os.fsencode(directory), _DETACH))
    finally:
        os.close(fd)  # every call that waits fails now


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
