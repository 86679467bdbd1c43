"""A qemu-img whose disk fails, for a daemon that is configured to use it.

The program is a wrapper: while a fault is set, the next call of the wanted command gets one of its images through
QEMU's ``blkdebug`` driver, whose rules let a request fail as soon as a given event was met. Every other call goes to
the real qemu-img as it is. What was run, and how it ended, is kept.
"""

import dataclasses
import errno
import json
import shutil
import sys
from pathlib import Path
from typing import Any

EVENTS = ("l2_update", "cluster_alloc", "refblock_alloc", "write_aio", "read_aio")
ERRORS = ("EIO", "ENOSPC")

_RULES = """[inject-error]
event = "{event}"
errno = "{number}"
once = "{once}"
immediately = "off"
"""

_PROGRAM = """#!{python} -IS
import json, os, subprocess, sys

PLACE, REAL, RULES = {place!r}, {real!r}, {rules!r}


def through(path):
    if path.startswith("json:"):
        node = json.loads(path[5:])
        node["file"] = dict(driver="blkdebug", config=RULES, image=node["file"])
        return "json:" + json.dumps(node)
    return "blkdebug:" + RULES + ":" + path


def name_beneath(image, name, kind):
    subprocess.run([REAL, "rebase", "-u", "-f", "qcow2", "-F", kind, "-b", name, "--", image], check=True)


def commit_onto_fault(arguments):
    # The base is opened by the name in the header above it, so that one has to lead through the driver meanwhile.
    at = arguments.index("-b")
    base, top = arguments[at + 1], arguments[-1]
    name_beneath(top, through(base), "qcow2")
    code = subprocess.call([REAL, *arguments[:at], *arguments[at + 2 :]])
    name_beneath(top, os.path.basename(base), "qcow2")
    return code


def run(arguments):
    try:
        with open(PLACE + "/fault") as stream:
            fault = json.load(stream)
    except FileNotFoundError:
        return False, subprocess.call([REAL, *arguments])
    if arguments[0] != fault["command"]:
        return False, subprocess.call([REAL, *arguments])
    os.unlink(PLACE + "/fault")
    if arguments[0] == "commit" and fault["side"] == "target":
        return True, commit_onto_fault(arguments)
    at = -2 if arguments[0] == "convert" and fault["side"] == "source" else -1
    arguments[at] = through(arguments[at])
    return True, subprocess.call([REAL, *arguments])


met, code = run(sys.argv[1:])
with open(PLACE + "/calls", "a") as stream:
    stream.write(json.dumps(dict(command=sys.argv[1], met=met, code=code)) + "\\n")
sys.exit(code)
"""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What fails.

    Attributes:
        event: of QEMU, after which requests fail; see `EVENTS`.
        error: name of the error.
        once: only one request fails, else all from then on.
    """

    event: str
    error: str
    once: bool

    def __str__(self) -> str:
        return f"{self.event} {self.error} {'once' if self.once else 'always'}"

    @property
    def side(self) -> str:
        """Of the two images of a command the one that has to fail: where data comes from, or where it goes."""
        return "source" if self.event == "read_aio" else "target"


FAULTS = [Fault(event, error, once) for event in EVENTS for error in ERRORS for once in (True, False)]


@dataclasses.dataclass(frozen=True)
class Call:
    """A call of the program.

    Attributes:
        command: of qemu-img.
        met: it got an image through the faulty driver.
        code: how it ended.
    """

    command: str
    met: bool
    code: int


class FaultyTool:
    """The program and its faults.

    Args:
        directory: an existing one of its own.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory
        self._rules = directory / "rules"
        self.program = directory / "faulty-qemu-img"
        values: dict[str, Any] = {"python": sys.executable, "place": str(directory), "rules": str(self._rules)}
        self.program.write_text(_PROGRAM.format(**values, real=shutil.which("qemu-img")))
        self.program.chmod(0o755)

    def set(self, command: str, fault: Fault) -> None:
        """Let the next call of a command meet a fault, and forget the calls made so far."""
        number = getattr(errno, fault.error)
        self._rules.write_text(_RULES.format(event=fault.event, number=number, once="on" if fault.once else "off"))
        (self._place / "calls").unlink(missing_ok=True)
        (self._place / "fault").write_text(json.dumps({"command": command, "side": fault.side}))

    def clear(self) -> None:
        """Let nothing fail any more."""
        (self._place / "fault").unlink(missing_ok=True)

    def calls(self) -> list[Call]:
        """What was run since a fault was set, in order."""
        path = self._place / "calls"
        return [Call(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
