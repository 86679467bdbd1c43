"""Going into the background: the process that was started ends when, and only when, the one it left behind is ready.

Whoever started us learns from a `Report` how it went: on the terminal, or through a pipe to the process that waits.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import NoReturn, Protocol

from vdsmlite import pidfile

_LOST = "vdsmlite: it ended in the background before it was ready; its log may say why"


class Report(Protocol):
    """Where the outcome of the start goes."""

    def ready(self, line: str) -> None:
        """Started; `line` goes to standard output."""

    def failed(self, line: str, code: int) -> int:
        """Not started; `line` goes to standard error. Gives back the exit code."""


class Terminal:
    """Reports of a process in the foreground."""

    def ready(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more, which is no reason not to serve
            print(line, flush=True)

    def failed(self, line: str, code: int) -> int:
        print(line, file=sys.stderr, flush=True)
        return code


class Pipe:
    """Reports of a process in the background: the first one reaches the process that waits, the pipe is closed then.

    Args:
        fd: the end to write to.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def ready(self, line: str) -> None:
        self._send(0, line)

    def failed(self, line: str, code: int) -> int:
        self._send(code, line)
        return code

    def _send(self, code: int, line: str) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        with contextlib.suppress(OSError):
            os.write(fd, bytes([code]) + line.encode("utf-8", "backslashreplace"))
        os.close(fd)


def enter(stack: contextlib.ExitStack, pid_path: Path | None) -> Report:
    """Go on in the background; the process that called stays behind, waits for the report, and exits with it.

    To be called before any thread is started.

    Args:
        stack: what is to be undone at the end of the process in the background is put here.
        pid_path: pid file, or None.

    Raises:
        Taken: in the background: another process has the pid file.
        OSError: in the background: the pid file cannot be made.
        DaemonError: the process could not be detached.
    """
    import daemon  # python-daemon; not needed in the foreground

    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(writer)
        _wait(child, reader)
    os.close(reader)
    report = Pipe(writer)
    umask = os.umask(0o022)
    # The pid file is entered here, not by the context: the context would do so before anybody could report a failure.
    context = daemon.DaemonContext(detach_process=True, umask=umask, files_preserve=[writer])
    try:
        stack.enter_context(context)
        if pid_path is not None:
            stack.enter_context(pidfile.held(pid_path))
    except (pidfile.Taken, OSError) as error:
        raise SystemExit(report.failed(f"vdsmlite: {error}", 1)) from error
    return report


def _wait(child: int, reader: int) -> NoReturn:
    os.waitpid(child, 0)  # it only detaches another one
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    code, line = (said[0], said[1:].decode("utf-8", "replace")) if said else (1, _LOST)
    print(line, file=sys.stderr if code else sys.stdout, flush=True)
    # Not through SystemExit: what the callers would undo belongs to the process in the background.
    os._exit(code)
