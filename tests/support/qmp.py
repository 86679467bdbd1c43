"""A small synchronous client of QEMU's machine protocol (QMP).

Events arrive whenever QEMU likes, also between a command and its reply (a job's ``created`` comes before the reply of
the command that made it). So one reader sorts every line: replies go to the command that waits, events to a queue in
the order of their arrival. Every wait has a deadline; nothing here sleeps to be safe.

We listen and QEMU connects (``server=off``). The other way round has a race in qemu-storage-daemon 7.2: a client that
connects while the monitor is being set up is greeted twice, and the second greeting forgets what was negotiated.
"""

import collections
import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Refused(Exception):
    """QEMU answered a command with an error.

    Attributes:
        command: the command's name.
        kind: QEMU's error class, for example ``GenericError``.
        description: QEMU's own text.
    """

    def __init__(self, command: str, kind: str, description: str) -> None:
        super().__init__(f"{command}: {description} ({kind})")
        self.command = command
        self.kind = kind
        self.description = description


class Gone(ConnectionError):
    """The other side closed the connection: QEMU quit or was killed."""


def listen(path: Path) -> socket.socket:
    """A Unix socket for one QEMU to connect to; for `Monitor`, and to be closed by the caller."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    return listener


class Monitor:
    """A connection that has finished its greeting.

    Args:
        listener: the socket that QEMU was told to connect to; see `listen`.
        alive: tells whether QEMU still runs, so that a QEMU that failed to start is noticed at once.
        timeout: seconds to wait for QEMU's connection, and the usual limit of every later wait.

    Raises:
        Gone: QEMU ended before the greeting was through.
        TimeoutError: QEMU did not connect in time.
    """

    def __init__(
        self, listener: socket.socket, alive: Callable[[], bool] = lambda: True, timeout: float = 20.0
    ) -> None:
        self.timeout = timeout
        self.events: collections.deque[Event] = collections.deque()
        self._buffer = b""
        self._serial = 0
        self._socket = _accept(listener, alive, time.monotonic() + timeout)
        try:
            greeting = self._next_line(time.monotonic() + timeout)
            if "QMP" not in greeting:
                raise Gone(f"no QMP greeting but {greeting!r}")
            self.version: str = "{major}.{minor}.{micro}".format(**greeting["QMP"]["version"]["qemu"])
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Run one command and give back its ``return`` member.

        Raises:
            Refused: QEMU answered with an error.
            Gone: the connection ended.
            TimeoutError: no reply in time.
        """
        self.send(command, arguments)
        return self.reply(command, timeout)

    def send(self, command: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Send a command without waiting; `reply` takes its answer. For kills within microseconds of a command."""
        self._serial += 1
        message = {"execute": command, "arguments": dict(arguments or {}), "id": self._serial}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise Gone(str(error)) from error

    def reply(self, command: str, timeout: float | None = None) -> Any:
        """The answer to the command sent last; `command` is its name, for the error's text."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            message = self._next_line(deadline)
            if "event" in message:
                self.events.append(message)
            elif message.get("id", self._serial) != self._serial:
                continue
            elif "error" in message:
                raise Refused(command, message["error"]["class"], message["error"]["desc"])
            elif "return" in message:
                return message["return"]
            else:
                raise Gone(f"not an answer: {message!r}")

    def wait(self, name: str, timeout: float | None = None, **data: Any) -> Event:
        """Take the first event of that name whose data members have the given values.

        Earlier events of other kinds stay queued. Raises what `execute` raises.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        seen = 0
        while True:
            for index in range(seen, len(self.events)):
                if _matches(self.events[index], name, data):
                    event = self.events[index]
                    del self.events[index]
                    return event
            seen = len(self.events)
            message = self._next_line(deadline)
            if "event" in message:
                self.events.append(message)

    def close(self) -> None:
        self._socket.close()

    def _next_line(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("QEMU did not answer in time")
            self._socket.settimeout(remaining)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise TimeoutError("QEMU did not answer in time") from None
            except OSError as error:
                raise Gone(str(error)) from error
            if not data:
                raise Gone("QEMU closed its monitor")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        assert isinstance(message, dict)
        return message


def _matches(event: Event, name: str, data: Mapping[str, Any]) -> bool:
    return event["event"] == name and all(event.get("data", {}).get(key) == value for key, value in data.items())


def _accept(listener: socket.socket, alive: Callable[[], bool], deadline: float) -> socket.socket:
    listener.settimeout(0.05)
    while True:
        with contextlib.suppress(TimeoutError):
            return listener.accept()[0]
        if not alive():
            raise Gone("QEMU ended before it opened its monitor")
        if time.monotonic() > deadline:
            raise TimeoutError("QEMU did not open its monitor in time")
