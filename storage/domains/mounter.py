"""Runs ``mount`` and ``umount``: the only module that does, without a shell, within a time limit.

A program that hangs in the kernel, on a server that does not answer, is left behind when the limit is over; what it
may still bring about later is the caller's to look for in the table of mounts.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from storage import errors
from storage.qemu import child

_LIMITS = {"stdout": 1 << 16, "stderr": 1 << 12}
_MESSAGE_LIMIT = 300
_BUSY = re.compile(r"\bbusy\b", re.IGNORECASE)


class Busy(errors.MountError):
    """Something still uses the mount."""


class Mounter:
    """Mounts and unmounts.

    Args:
        seconds: most time for one run.
        mount, umount: names or paths of the programs.
    """

    def __init__(self, seconds: float = 60.0, mount: str = "mount", umount: str = "umount") -> None:
        self._seconds = seconds
        self._mount = mount
        self._umount = umount

    def mount(self, source: str, place: Path, kind: str, options: Sequence[str]) -> None:
        """Mount.

        Args:
            source: device or remote directory.
            place: an existing directory.
            kind: type of the file system; empty: ``mount`` finds out.
            options: in this order.

        Raises:
            MountError: it did not work; the reason is what the program said.
        """
        command = [self._mount, *(("-t", kind) if kind else ()), "-o", ",".join(options), "--", source, str(place)]
        self._run(command, source)

    def unmount(self, source: str, place: Path, *, force: bool = False) -> None:
        """Unmount.

        Args:
            source: for messages.
            place: where it is mounted.
            force: of a server that does not answer: give up what is under way, and detach at once even if in use.

        Raises:
            Busy: it is in use, and `force` is false.
            MountError: it did not work for another reason.
        """
        self._run([self._umount, *(("-f", "-l") if force else ()), "--", str(place)], source)

    def _run(self, command: Sequence[str], source: str) -> None:
        try:
            result = child.run(command, child.Limits(seconds=self._seconds, **_LIMITS))
        except OSError as error:
            raise errors.MountError(path=repr(source), reason=f"{command[0]}: {error.strerror}") from error
        if result.killed:
            raise errors.MountError(path=repr(source), reason=f"{os.path.basename(command[0])}: {result.killed}")
        if result.code:
            said = _one_line(result.stderr)
            kind = Busy if _BUSY.search(said) and command[0] == self._umount else errors.MountError
            raise kind(path=repr(source), reason=said or f"{os.path.basename(command[0])} ended with {result.code}")


def _one_line(said: bytes) -> str:
    """What a program said, without its line that points to the kernel's log."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    text = " ".join(line for line in lines if line and "dmesg" not in line)
    return "".join(char if char.isprintable() else "?" for char in text)[:_MESSAGE_LIMIT]
