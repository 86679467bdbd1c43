"""What is mounted on this host: the kernel's own table, read without touching any of the mounts.

Looking at a mount itself (`stat`, `os.path.ismount`) may hang when its server is gone; this table never does.
Format: proc(5), ``/proc/<pid>/mountinfo``.
"""

import dataclasses
import os
import re
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclasses.dataclass(frozen=True)
class Mounted:
    """One mount.

    Attributes:
        place: where.
        source: what, as the kernel shows it: a device's path may be another one than was asked for.
        type: of the file system.
        device: its number, as in ``st_dev``.
    """

    place: str
    source: str
    type: str
    device: int


def parse(text: str) -> list[Mounted]:
    """Read a table; of mounts on one place the topmost comes last. Lines of another shape are left out."""
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 2:
            continue
        major, _, minor = fields[2].partition(":")
        device = os.makedev(int(major), int(minor))
        found.append(Mounted(_plain(fields[4]), _plain(rest[1]), rest[0], device))
    return found


def read() -> list[Mounted]:
    """The table as it is now.

    Raises:
        OSError: there is no ``/proc``.
    """
    return parse(_TABLE.read_text(encoding="utf-8", errors="surrogateescape"))


def at(place: Path) -> Mounted | None:
    """What is mounted on a place (the topmost), or None.

    Raises:
        OSError: there is no ``/proc``.
    """
    wanted = resolved(place)
    return next((each for each in reversed(read()) if each.place == wanted), None)


def resolved(place: Path) -> str:
    """The place as the table names it: links on the way are followed, the last name is not touched."""
    return os.path.join(os.path.realpath(place.parent), place.name)


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
