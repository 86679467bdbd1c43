"""The other end of an upload or download: a server of HTTP, reached by URL.

Only ``http`` and ``https``, whose certificates are checked against the system's authorities. Redirects are not
followed: a server must not send this host where the caller did not. Headers are passed on and never logged: they hold
tokens.
"""

import contextlib
import http.client
import io
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from rpc import stream
from storage import errors, ids

METHOD = "http"
CONNECT_SECONDS = 10.0

Pause = Callable[[], None]

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_TARGET = re.compile(r"[\x21-\x7e]*")
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "host", "accept-encoding", "expect", "range"})


class Place:
    """A URL and headers, checked.

    Args:
        arguments: ``method``, ``url`` and maybe ``headers`` of a call.
        image: whose content it is about, for messages.

    Raises:
        InvalidParameterException: they cannot be used.
    """

    def __init__(self, arguments: Mapping[str, Any], image: ids.ImageId) -> None:
        if (method := arguments.get("method")) != METHOD:
            raise _bad(f"method {method!a:.40} is not {METHOD}")
        url = str(arguments.get("url", ""))
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise _bad(f"the URL cannot be read: {error}") from None
        if parts.scheme not in _PORTS or not parts.hostname or not _TARGET.fullmatch(url):
            raise _bad("the URL must be http or https, with a host, without blanks and characters beyond ASCII")
        if parts.username is not None:
            raise _bad("credentials belong into the headers, not into the URL")
        self.image = image
        self.host, self.port = parts.hostname, port or _PORTS[parts.scheme]
        self.secure = parts.scheme == "https"
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.headers = {"Host": parts.netloc, "Accept-Encoding": "identity", **_headers(arguments.get("headers"))}

    def has(self, name: str) -> bool:
        """Whether the caller gave a header, by its name in small letters."""
        return name in {given.lower() for given in self.headers}

    def failed(self, reason: object) -> errors.StorageError:
        """What is raised when the other end does not do its part."""
        text = str(reason).encode("ascii", "backslashreplace").decode()
        return errors.CopyImageError(image=self.image, reason=f"{self.host}:{self.port}: {text:.200}")


def _headers(given: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in (given if isinstance(given, Mapping) else {}).items():
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise _bad(f"header {name!a:.40} cannot be passed on")
        if not _VALUE.fullmatch(str(value)):
            raise _bad(f"the value of header {name} holds characters that no header can hold")
        found[name] = str(value)
    return found


def _bad(reason: str) -> errors.StorageError:
    return errors.InvalidParameterException(name="methodArgs", reason=reason)


class _Pipe(io.RawIOBase):
    """What `http.client` takes for a socket. Its reads and writes can be ended, and keep to the time of a piece."""

    def __init__(self, sock: socket.socket, seconds: float) -> None:
        super().__init__()
        self._socket = sock
        self._seconds = seconds
        self._wire = stream.Wire(sock, seconds)
        self._pause: Pause = lambda: None
        self._deadline = 0.0

    def begin_piece(self, pause: Pause) -> None:
        """From here on, until it is called again, a time limit counts, and `pause` is called."""
        self._pause = pause
        self._deadline = time.monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._wire.receive(memoryview(buffer), self._check)

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self)

    def sendall(self, data: bytes) -> None:
        self._wire.send(data, self._check)

    def send_file(self, fd: int, offset: int, count: int) -> None:
        self._wire.send_file(fd, offset, count, self._check)

    def close(self) -> None:
        """Nothing: `http.client` closes what it takes for a socket as soon as it has the head of the last answer."""

    def hang_up(self) -> None:
        """End the connection."""
        self._socket.close()

    def _check(self) -> None:
        self._pause()
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"a piece took more than {self._seconds:g} s")


class _End:
    """One request over a connection of its own.

    Args:
        place: where to.
        seconds: for each piece, in either direction.
    """

    def __init__(self, place: Place, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._pipe: _Pipe | None = None
        self._connection = http.client.HTTPConnection(place.host, place.port)

    def ask(self, method: str, headers: Mapping[str, str], pause: Pause) -> None:
        """Connect, and send the head of the request.

        Raises:
            CopyImageError: the server cannot be reached.
        """
        with self._explained():
            self._connection.sock = self._pipe = _Pipe(self._connect(), self._seconds)
            self._pipe.begin_piece(pause)
            self._connection.putrequest(method, self._place.target, skip_host=True, skip_accept_encoding=True)
            for name, value in {**headers, **self._place.headers, "Connection": "close"}.items():
                self._connection.putheader(name, value)
            self._connection.endheaders()

    def _connect(self) -> socket.socket:
        place = self._place
        plain = socket.create_connection((place.host, place.port), min(CONNECT_SECONDS, self._seconds))
        if not place.secure:
            return plain
        try:
            return ssl.create_default_context().wrap_socket(plain, server_hostname=place.host)
        except BaseException:
            plain.close()
            raise

    def answer(self, pause: Pause) -> http.client.HTTPResponse:
        """Wait for the head of the answer.

        Raises:
            CopyImageError: there is none.
        """
        with self._explained():
            self.pipe(pause)
            return self._connection.getresponse()

    def pipe(self, pause: Pause) -> _Pipe:
        """The connection, for the next piece."""
        if self._pipe is None:
            raise ConnectionError("there is no connection")
        self._pipe.begin_piece(pause)
        return self._pipe

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise self._place.failed(reason) from error

    def close(self) -> None:
        """End the connection."""
        if self._pipe is not None:
            self._pipe.hang_up()


class Source(_End):
    """What a GET is answered with."""

    def begin(self, task_id: ids.TaskId, pause: Pause) -> int:
        """Connect, and learn the length.

        Raises:
            CopyImageError: the server cannot be reached, or does not have it.
            GeneralException: it does not say how much it has.
        """
        self.ask("GET", {}, pause)
        self._response = found = self.answer(pause)
        if found.status != HTTPStatus.OK:
            raise self._place.failed(f"GET was answered with {found.status} {found.reason}")
        if found.getheader("content-encoding", "identity").lower() != "identity":
            raise self._place.failed("the answer has a Content-Encoding")
        if found.length is None:
            raise errors.GeneralException(reason=f"{self._place.host} does not say how long its answer is")
        return found.length

    def fill(self, buffer: memoryview, pause: Pause) -> None:
        """Raises CopyImageError when the server does not send it."""
        with self._explained():
            self.pipe(pause)
            while buffer:
                count = self._response.readinto(buffer)
                if not count:
                    raise ConnectionError("the answer ended early")
                buffer = buffer[count:]


class Sink(_End):
    """A PUT."""

    def begin(self, task_id: ids.TaskId, length: int, pause: Pause) -> None:
        """Connect. Raises CopyImageError when the server cannot be reached."""
        kind = {} if self._place.has("content-type") else {"Content-Type": "application/octet-stream"}
        self.ask("PUT", {"Content-Length": str(length), **kind}, pause)

    def send(self, fd: int, offset: int, count: int, pause: Pause) -> None:
        """Raises CopyImageError when the server does not take it."""
        with self._explained():
            self.pipe(pause).send_file(fd, offset, count)

    def end(self, pause: Pause) -> None:
        """Raises CopyImageError when the server does not say that it has all."""
        found = self.answer(pause)
        if not HTTPStatus.OK <= found.status < HTTPStatus.MULTIPLE_CHOICES:
            raise self._place.failed(f"PUT was answered with {found.status} {found.reason}")
