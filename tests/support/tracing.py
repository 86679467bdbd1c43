"""Which files a process and its children name to the kernel, by strace, and which they get.

A call counts by the path that it names and, where it opens something, by what the kernel opened: a planted link leads
elsewhere than its name says.
"""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

PROGRAM = "strace"

_LINE = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. )?(?P<call>\w+)(?P<rest>.*)", re.DOTALL)
_PATHS = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<base>[^>]*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"')
_OPENED = re.compile(r" = \d+<(?P<path>/.*)>$")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-f]{2})|(.))")
_PLAIN = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}
_ONE_NAME = frozenset({"symlink", "symlinkat"})
"""Calls whose first text is not looked up."""


def missing() -> bool:
    """Whether this machine cannot trace."""
    return shutil.which(PROGRAM) is None


def command(log: Path) -> tuple[str, ...]:
    """What to put in front of a command; the process that is started is the command itself, not strace."""
    return (PROGRAM, "-D", "-f", "-y", "-s", "4096", "-e", "trace=%file", "-o", str(log))


@dataclasses.dataclass(frozen=True)
class Touch:
    """One path of one call.

    Attributes:
        call: name of the system call.
        path: absolute, without ``..``, as text.
        opened: it is what the kernel opened, not what was asked for.
    """

    call: str
    path: str
    opened: bool = False


def touches(lines: Iterable[str]) -> Iterator[Touch]:
    """Read a trace. Arguments of programs are no paths, so of `execve` only the program counts."""
    for line in lines:
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found is None or line.split(" ", 1)[1].lstrip().startswith(("+++", "---")):
            continue
        call, rest = found["call"], found["rest"]
        names = list(_PATHS.finditer(rest))
        if call in ("execve", "readlink", "readlinkat"):
            names = names[:1]
        elif call in _ONE_NAME:
            names = names[1:]
        for name in names:
            path = os.path.join(_text(name["base"] or "/"), _text(name["path"]))
            yield Touch(call, os.path.normpath(path))
        if opened := _OPENED.search(rest):
            yield Touch(call, _text(opened["path"]).removesuffix(" (deleted)"), opened=True)


def programs(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Arguments of every program that was started."""
    for line in lines:
        if " execve(" in line and " = 0" in line:
            listed = line.partition(", [")[2].rpartition("], 0x")[0]
            yield tuple(_text(each["path"]) for each in _PATHS.finditer(listed))


def _text(escaped: str) -> str:
    def plain(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 8))
        return chr(int(match[2], 16)) if match[2] else _PLAIN.get(match[3], match[3])

    return _ESCAPE.sub(plain, escaped).encode("latin-1", "replace").decode(errors="surrogateescape")
