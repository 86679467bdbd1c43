"""Runs one foreign program on untrusted input: bounded in time, processor, memory and output, and really killable.

No shell, a process group of its own, the C locale. The limits are set right after the program was started
(`prlimit`), because code between fork and exec is not safe in a process with threads; for some microseconds, while the
program is being loaded and has read nothing yet, it runs without them.

For the same reason it is ``setpriv`` of util-linux that ties a program's life to ours: a writer that outlives a killed
daemon would go on under the recovery of the next one.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import resource
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

_POLL_SECONDS = 0.1
# Without a bound on its arenas the C library takes 64 MiB of address space for each thread that allocates, and a
# program with a few dozen threads dies of its limit without having used any memory.
_ENVIRONMENT = {"LANG": "C", "LC_ALL": "C", "MALLOC_ARENA_MAX": "2"}
_DYING_SECONDS = 5.0
_CHUNK = 65536
_TEXT_LIMIT = 16384


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the program may use; None is no limit of ours.

    Attributes:
        seconds: wall time.
        cpu_seconds: processor time.
        memory: bytes of address space.
        stdout: bytes of output after which the program is killed.
        stderr: bytes of messages that are kept; the rest is dropped.
    """

    seconds: float | None = None
    cpu_seconds: int | None = None
    memory: int | None = None
    stdout: int = 64 << 20
    stderr: int = 64 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """How it ended.

    Attributes:
        code: exit code, or minus the number of the signal that ended it.
        killed: why we killed it, empty when we did not.
    """

    code: int
    stdout: bytes
    stderr: bytes
    killed: str = ""


def run(
    command: Sequence[str],
    limits: Limits,
    *,
    stop: threading.Event | None = None,
    on_output: Callable[[bytes], None] | None = None,
    text: bytes = b"",
    tied: bool = False,
) -> Result:
    """Run a program to its end.

    Args:
        command: program and arguments.
        stop: kill the program soon after this is set.
        on_output: called in this thread with each piece of stdout; when it raises, the program is killed.
        text: what the program reads; short enough for a pipe to hold, so that writing it never waits.
        tied: the program is killed when the calling thread ends for whatever reason, SIGKILL of our process included.

    Raises:
        OSError: the program, or for a tied one ``setpriv``, cannot be started.
        ValueError: the text is too long.
    """
    if len(text) > _TEXT_LIMIT:
        raise ValueError(f"more than {_TEXT_LIMIT} bytes of input")
    process = subprocess.Popen(
        _tied(command) if tied else command,
        stdin=subprocess.PIPE if text else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **_ENVIRONMENT},
        process_group=0,
    )
    watch = _Watch(process, limits, stop, on_output)
    try:
        _restrict(process.pid, limits)
        if process.stdin:
            with contextlib.suppress(BrokenPipeError), process.stdin as stream:
                stream.write(text)
        watch.until_end()
    finally:
        watch.close()
    code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Result(code, bytes(watch.stdout), bytes(watch.stderr), watch.killed)


def _tied(command: Sequence[str]) -> list[str]:
    return [_found("setpriv"), "--pdeathsig", "KILL", "--", _found(command[0]), *command[1:]]


@functools.cache
def _found(program: str) -> str:
    """Where a program is. Raises FileNotFoundError, as starting it would; that is not remembered."""
    path = shutil.which(program)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return path


def _restrict(pid: int, limits: Limits) -> None:
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_CPU: limits.cpu_seconds, resource.RLIMIT_AS: limits.memory}
    for kind, value in wanted.items():
        if value is None:
            continue
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            hard = resource.prlimit(pid, kind)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.prlimit(pid, kind, (bound, bound))


class _Watch:
    """Collects the output of one process and ends it when it goes too far."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        limits: Limits,
        stop: threading.Event | None,
        on_output: Callable[[bytes], None] | None,
    ) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.killed = ""
        self._process = process
        self._limits = limits
        self._stop = stop
        self._on_output = on_output
        self._deadline = None if limits.seconds is None else time.monotonic() + limits.seconds

    def until_end(self) -> None:
        """Return when the process has ended or has to be killed."""
        assert self._process.stdout and self._process.stderr
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ, self._take_stdout)
            selector.register(self._process.stderr, selectors.EVENT_READ, self._take_stderr)
            while selector.get_map() and not self._overdue():
                for key, _ in selector.select(self._patience()):
                    data = os.read(key.fd, _CHUNK)
                    if data:
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        while not self._overdue():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._patience())
                return

    def close(self) -> None:
        """Make sure that the process is gone.

        A process that hangs in the kernel, on storage that does not answer, cannot be killed: it is left behind.
        """
        process = self._process
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            try:
                process.wait(_DYING_SECONDS)
            except subprocess.TimeoutExpired:
                self.killed += ", and it does not even die: the storage hangs"
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()

    def _patience(self) -> float | None:
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if self._stop is None:
            return left
        return _POLL_SECONDS if left is None else min(left, _POLL_SECONDS)

    def _overdue(self) -> bool:
        """Whether to kill now; the reason is noted."""
        if self.killed:
            return True
        if self._stop is not None and self._stop.is_set():
            self.killed = "stopped"
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.killed = f"not finished within {self._limits.seconds:g} s"
        return bool(self.killed)

    def _take_stdout(self, data: bytes) -> None:
        self.stdout += data
        if len(self.stdout) > self._limits.stdout:
            self.killed = f"more than {self._limits.stdout} bytes of output"
        elif self._on_output:
            self._on_output(data)

    def _take_stderr(self, data: bytes) -> None:
        self.stderr += data[: max(0, self._limits.stderr - len(self.stderr))]
