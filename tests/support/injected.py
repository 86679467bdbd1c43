"""What a running process asks of the kernel, and its end in the middle of that, by strace.

Only calls that change files are looked at. strace counts the calls of each thread by itself, so "before the n-th" means
the first thread that comes so far.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "strace"
NAMES = ("rename", "unlink", "rmdir", "mkdir", "linkat", "symlink", "pwrite64", "ftruncate", "write", "fsync", "fchmod")
"""Calls of the program that change files, or make changes durable, and that a process may die before."""

_TRACED = (
    *NAMES,
    "openat",
    "link",
    "symlinkat",
    "unlinkat",
    "renameat",
    "renameat2",
    "mkdirat",
    "fdatasync",
    "fallocate",
)
_LINE = re.compile(r"(?P<pid>\d+) +(?P<call>\w+)\((?P<rest>.*)\) += (?P<result>-?\d+)")
_FD = re.compile(r"^\d+<(?P<path>/[^>]*)>")
_TEXT = re.compile(r'"(?P<path>[^"]*)"')
_SECONDS = 20.0
_PATIENCE = 3.0


def reason() -> str:
    """Why nothing can be traced here; empty when it can."""
    if shutil.which(PROGRAM) is None:
        return f"needs {PROGRAM}"
    with subprocess.Popen(["sleep", "30"]) as victim:
        try:
            done = subprocess.run(
                ["timeout", "-s", "INT", "0.3", PROGRAM, "-p", str(victim.pid)],
                capture_output=True,
                text=True,
                timeout=20,
            )
        finally:
            victim.kill()
    return "" if "ttached" in done.stderr else f"may not trace: {done.stderr.strip()[:80]}"


@contextlib.contextmanager
def attached(pid: int, log: Path, inject: str = "") -> Iterator[None]:
    """Trace a process and all its threads and children while the block runs.

    Args:
        inject: strace's word for what is to happen, such as ``rename:signal=KILL:when=3``.
    """
    command = [PROGRAM, "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(_TRACED)}", "-p", str(pid)]
    if inject:
        command += ["-e", f"inject={inject}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        try:
            _wait_attached(pid)
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            try:
                tracer.wait(_PATIENCE)
            except subprocess.TimeoutExpired:  # it may miss the end of a process of many threads, and wait for ever
                tracer.kill()


def _wait_attached(pid: int) -> None:
    deadline = time.monotonic() + _SECONDS
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError):
            while "TracerPid:\t0" in Path(f"/proc/{pid}/task/{thread}/status").read_text():
                assert time.monotonic() < deadline, "nobody traces it"
                time.sleep(0.002)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call that succeeded.

    Attributes:
        pid: thread.
        name: of the system call; ``create`` for an open that may make a file.
        paths: what it names, links on the way followed.
    """

    pid: int
    name: str
    paths: tuple[str, ...]


def calls(log: Path, root: Path) -> list[Call]:
    """Calls of a trace on what is below a directory, in their order."""
    found = []
    waiting: dict[str, str] = {}
    base = os.path.realpath(root) + os.sep
    for line in log.read_text(errors="replace").splitlines():
        pid = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            waiting[pid] = line.removesuffix(" <unfinished ...>")
            continue
        if "resumed>" in line and pid in waiting:
            line = waiting.pop(pid) + line.partition("resumed>")[2]
        if (match := _LINE.match(line)) is None or int(match["result"]) < 0:
            continue
        name, rest = match["call"], match["rest"]
        if name == "openat" and "O_CREAT" not in rest:
            continue
        fd = _FD.match(rest)
        paths = [fd["path"]] if fd else [_real(each["path"]) for each in _TEXT.finditer(rest)]
        if name.startswith("symlink"):
            paths = paths[-1:]
        if paths and all(each.startswith(base) for each in paths):
            found.append(Call(int(pid), "create" if name == "openat" else name, tuple(paths)))
    return found


def _real(path: str) -> str:
    return f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"


def disorder(found: list[Call]) -> list[str]:
    """What was renamed before it was on disk, or renamed without its directory being flushed afterwards."""
    wrong = []
    for at, call in enumerate(found):
        if not call.name.startswith("rename"):
            continue
        source, target = call.paths
        for earlier, each in enumerate(found[:at]):
            mine = each.paths[0] == source or each.paths[0].startswith(f"{source}/")
            if mine and each.name in ("write", "pwrite64", "ftruncate", "create"):
                later = found[earlier:at]
                if not any(one.name in ("fsync", "fdatasync") and one.paths == each.paths for one in later):
                    wrong.append(f"{each.paths[0]} is renamed, and {each.name} was not flushed")
        directory = (os.path.dirname(target),)
        if not any(one.name == "fsync" and one.paths == directory for one in found[at:]):
            wrong.append(f"{target} is a new name, and its directory is not flushed")
    return wrong


def changed(found: list[Call]) -> set[str]:
    """Paths of all files and names that were changed."""
    return {path for call in found if call.name not in ("fsync", "fdatasync") for path in call.paths}
