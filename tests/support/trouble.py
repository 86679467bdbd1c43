"""Faults of other kinds than `faults` has: ends of the process only where they make a difference, and errors that stay.

A flush and a change of permissions leave nothing else behind, when the process ends before them, than when it ends
before the next change. Leaving those points out halves their number and loses none of the states.
"""

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from tests.support import faults

_SAME_AS_NEXT = ("fsync", "fdatasync", "fchmod")
GROWING = ("open", "mkdir", "link", "symlink", "write", "pwrite", "posix_fallocate", "rename")
"""What a file system without space refuses."""

KINDS = ("EIO", "EIO for ever", "ENOSPC", "ENOSPC for ever", "EINTR", "short", "short for ever")


class Ends(faults.Faults):
    """The process ends at the `at`-th change that matters."""

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        if name not in _SAME_AS_NEXT:
            return super()._counted(name, real)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.fired:
                raise self.failure
            return real(*args, **kwargs) if name == "fchmod" else None

        return call


def ends(limit: int = 3000) -> Iterator[Ends]:
    """As `faults.crash_points`."""
    for at in range(limit):
        fault = Ends(at)
        yield fault
        if not fault.fired:
            return
    raise AssertionError(f"no run survived within {limit} crash points")


class Trouble(faults.Faults):
    """Something goes wrong at the `at`-th change, once or from then on; the process lives.

    Args:
        at: number of changes that happen before it.
        kind: one of `KINDS`. A full file system refuses only what takes space. A short write takes half of the data.
    """

    def __init__(self, at: int, kind: str) -> None:
        self.kind = kind
        word = kind.split(" ", maxsplit=1)[0]
        number = getattr(errno, word, errno.EIO)
        super().__init__(at, OSError(number, os.strerror(number)))
        self.stays = kind.endswith("for ever")
        self._short = word == "short"
        self.names = GROWING if word == "ENOSPC" else ("write", "pwrite") if self._short else (*faults.MUTATING, "open")

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            if name not in self.names:
                return None if name == "fsync" else real(*args, **kwargs)
            due = self.done >= (self.at or 0) and (self.stays or not self.fired)
            self.done += 1
            if not due:
                return None if name == "fsync" else real(*args, **kwargs)
            self.fired = True
            if name in ("write", "pwrite"):
                data = bytes(args[1])
                written = real(args[0], data[: (len(data) + 1) // 2], *args[2:])
                if self._short:
                    return written
            raise self.failure

        return call


def troubles(kind: str, limit: int = 3000) -> Iterator[Trouble]:
    """Trouble at the changes 0, 1, 2 ... until a run meets none."""
    for at in range(limit):
        fault = Trouble(at, kind)
        yield fault
        if not fault.fired:
            return
    raise AssertionError(f"no run survived within {limit} points")
