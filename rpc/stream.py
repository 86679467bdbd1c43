"""Requests and answers that are too long to be held in memory: they pass by, piece by piece, at the slower end's pace.

A piece has a time limit, the whole has none. Before each read and write, and several times a second while one waits,
`pause` is called, so that whoever runs the transfer can end it by raising; what it raises passes through.
"""

import abc
import contextlib
import functools
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from rpc import http

Pause = Callable[[], None]

_POLL_SECONDS = 0.2
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wire:
    """A connected socket, plain or TLS.

    Args:
        sock: nobody else may read from it or write to it meanwhile.
        seconds: for each piece.
        pending: takes bytes that were received before: at most so many, none when there are none left.

    Raises:
        TimeoutError: (every method) a piece took too long.
        OSError: (every method) the connection broke.
    """

    def __init__(self, sock: socket.socket, seconds: float, pending: Callable[[int], bytes] | None = None) -> None:
        self._socket = sock
        self._seconds = seconds
        self._pending = pending or (lambda limit: b"")

    def receive(self, buffer: memoryview, pause: Pause) -> int:
        """Read what is there, at least a byte; 0 at the end of the stream."""
        return self._some(buffer, pause, self._deadline())

    def fill(self, buffer: memoryview, pause: Pause) -> int:
        """Read one piece, as large as the buffer; less only where the stream ends."""
        deadline = self._deadline()
        filled = 0
        while filled < len(buffer):
            count = self._some(buffer[filled:], pause, deadline)
            if not count:
                break
            filled += count
        return filled

    def send(self, data: bytes | memoryview, pause: Pause) -> None:
        """Write one piece."""
        left = memoryview(data)
        deadline = self._deadline()
        while left:
            left = left[self._retry(functools.partial(self._socket.send, left), pause, deadline) :]

    def send_file(self, fd: int, offset: int, count: int, pause: Pause) -> None:
        """Write one piece of a file, which the kernel carries over where there is no TLS.

        Raises:
            EOFError: the file ends before.
        """
        if isinstance(self._socket, ssl.SSLSocket):
            data = os.pread(fd, count, offset)
            if len(data) < count:
                raise EOFError
            self.send(data, pause)
            return
        deadline = self._deadline()
        self._socket.settimeout(0)
        while count:
            sent = self._send_file_now(fd, offset, count, pause, deadline)
            if not sent:
                raise EOFError
            offset += sent
            count -= sent

    def _send_file_now(self, fd: int, offset: int, count: int, pause: Pause, deadline: float) -> int:
        while True:
            pause()
            try:
                return os.sendfile(self._socket.fileno(), fd, offset, count)
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                poll.poll(self._slice(deadline) * 1000)

    def _some(self, buffer: memoryview, pause: Pause, deadline: float) -> int:
        ready = self._pending(len(buffer))
        if ready:
            buffer[: len(ready)] = ready
            return len(ready)
        return self._retry(functools.partial(self._socket.recv_into, buffer), pause, deadline)

    def _retry(self, action: Callable[[], int], pause: Pause, deadline: float) -> int:
        while True:
            pause()
            self._socket.settimeout(self._slice(deadline))
            with contextlib.suppress(TimeoutError):
                return action()

    def _deadline(self) -> float:
        return time.monotonic() + self._seconds

    def _slice(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"a piece took more than {self._seconds:g} s")
        return min(left, _POLL_SECONDS)


class Exchange:
    """One request whose head is here and whose body is not, and its answer. The connection ends with it.

    Attributes:
        head: of the request.
        client: address of the peer, for logs.
        answered: whether an answer has begun.

    Args:
        sock: the connection.
        reader: what was read of it, and maybe more than the head.
        answer_seconds: for taking an answer that is no stream.
    """

    def __init__(
        self, head: http.Head, client: str, sock: socket.socket, reader: http.Reader, answer_seconds: float
    ) -> None:
        self.head = head
        self.client = client
        self.answered = False
        self._socket = sock
        self._reader = reader
        self._answer_seconds = answer_seconds

    def body(self, seconds: float) -> Wire:
        """The body, to be read; the peer is told to send it, if it waits for that.

        Args:
            seconds: for each piece.
        """
        if "expect" in self.head.headers:
            self._socket.settimeout(self._answer_seconds)
            self._socket.sendall(_CONTINUE)
        return Wire(self._socket, seconds, self._reader.take)

    def respond(self, response: http.Response) -> None:
        """Send an answer as a whole."""
        self.answered = True
        self._socket.settimeout(self._answer_seconds)
        self._socket.sendall(http.encode(response, keep_alive=False))

    def begin(self, status: HTTPStatus, headers: Mapping[str, str], length: int, seconds: float) -> Wire:
        """Send the head of an answer; the body is to be written then.

        Args:
            length: bytes of the body.
            seconds: for each piece.
        """
        self.answered = True
        self._socket.settimeout(self._answer_seconds)
        self._socket.sendall(http.encode_head(status, headers, length))
        return Wire(self._socket, seconds)


class Handler(abc.ABC):
    """Answers requests that stream. A handler of any other kind gets the whole body."""

    @abc.abstractmethod
    def answer(self, exchange: Exchange) -> None:
        """Read the request's body, if wanted, and answer.

        Raises:
            Exception: a bug, for the log; the peer is told that there was one, if no answer has begun.
        """
