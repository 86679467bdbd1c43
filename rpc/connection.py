"""One connection: handshake, then request after request, in a thread of its own."""

import contextlib
import dataclasses
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from rpc import http, stream

log = logging.getLogger(__name__)

Handler = Callable[[http.Request], http.Response] | stream.Handler
Routes = Mapping[str, Mapping[str, Handler]]

_CHUNK = 65536


@dataclasses.dataclass(frozen=True)
class Settings:
    """Limits of the server.

    Attributes:
        handshake_seconds: from the connection to the end of the TLS handshake.
        request_seconds: from the first byte of a request to its last, and again for taking the answer. The body of a
            stream has no such limit; each piece of it has one of its own.
        idle_seconds: from an answer to the first byte of the next request. A TLS connection costs as much as dozens of
            calls, so clients are meant to keep theirs.
        linger_seconds: after a refusal, for what the peer had sent before it could know.
        body_bytes: body of a request.
        connections: open connections, each with a thread; beyond them the answer is 503.
        handshakes: TLS handshakes that have begun and not ended.
        refusals: answers 503 that are under way, each with a thread that sees it arrive; beyond them the answer is
            sent and left to its luck, and over TLS the connection is closed without a word.
        poll_seconds: how often the accepting thread looks whether it should stop.
    """

    handshake_seconds: float = 5.0
    request_seconds: float = 10.0
    idle_seconds: float = 60.0
    linger_seconds: float = 1.0
    body_bytes: int = 1024 * 1024
    connections: int = 1000
    handshakes: int = 300
    refusals: int = 16
    poll_seconds: float = 0.25


class Host:
    """What all connections of a server share.

    Args:
        routes: path -> method -> what answers it.
        settings: limits.
        context: TLS context; None for plain HTTP.
        may_connect: decides on the certificate of a peer.
    """

    def __init__(
        self,
        routes: Routes,
        settings: Settings,
        context: ssl.SSLContext | None,
        may_connect: Callable[[Mapping[str, Any] | None], bool] | None,
    ) -> None:
        self.routes = routes
        self.settings = settings
        self.context = context
        self.may_connect = may_connect
        self.handshakes = threading.BoundedSemaphore(settings.handshakes)
        self.stopping = threading.Event()


class Connection:
    """An accepted connection.

    Args:
        host: the server's side.
        sock: the socket, plain, as accepted.
        client: address of the peer, for logs.
    """

    def __init__(self, host: Host, sock: socket.socket, client: str) -> None:
        self.client = client
        self._host = host
        self._settings = host.settings
        self._socket = sock
        self._reader = http.Reader(self._receive)
        self._waiting = True  # nothing of a request is here
        self._deadline = 0.0

    def serve(self) -> None:
        """Answer requests until one side has enough."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            if self._host.context is not None and not self._handshake(self._host.context):
                return
            while self._exchange():
                pass
        except (OSError, http.Disconnected) as error:  # ssl.SSLError and TimeoutError are OSErrors
            log.debug("%s: connection ended: %r", self.client, error)

    def refuse(self) -> None:
        """Say that there are too many connections, over TLS too, and see that the answer arrives."""
        with contextlib.suppress(OSError):
            if self._host.context is not None and not self._handshake(self._host.context):
                return
            self._send(http.error_response(_too_many()), keep_alive=False)
            self._linger()

    def turn_away(self) -> None:
        """Say so without waiting for anything, and close. Over TLS, which would need a handshake, only close."""
        with contextlib.suppress(OSError):
            if self._host.context is None:
                self._socket.settimeout(0)
                self._socket.send(http.encode(http.error_response(_too_many()), keep_alive=False))
                self._shutdown(socket.SHUT_WR)
                self._socket.recv(_CHUNK)  # closing with unread bytes would reset the answer away
        self.close()

    def retire(self) -> None:
        """End it at the next pause: a request that has begun is still answered, also one that is on its way here."""
        with contextlib.suppress(OSError):
            if self._waiting:
                self._shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        """End it now; whoever reads from it or writes to it gets an error."""
        with contextlib.suppress(OSError):
            self._shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Say good-bye, where the protocol has a word for it, and give the socket back."""
        self._end_tls()
        with contextlib.suppress(OSError):
            self._socket.close()

    def _end_tls(self) -> None:
        """Send TLS's end without waiting for the peer's."""
        if isinstance(self._socket, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):  # the peer has not ended yet, or there is no session
                self._socket.settimeout(0)
                self._socket.unwrap()

    def _shutdown(self, how: int) -> None:
        # Not the method of an SSLSocket: that one forgets its TLS state, under the hands of the thread that uses it.
        socket.socket.shutdown(self._socket, how)

    def _handshake(self, context: ssl.SSLContext) -> bool:
        """Wait for the peer's first byte before taking one of the slots, so that silence costs only a thread."""
        deadline = time.monotonic() + self._settings.handshake_seconds
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(self._settings.handshake_seconds * 1000):
            return False
        if not self._host.handshakes.acquire(timeout=max(0.0, deadline - time.monotonic())):
            log.warning("%s: refused, %d handshakes are under way", self.client, self._settings.handshakes)
            return False
        try:
            secure = context.wrap_socket(self._socket, server_side=True, do_handshake_on_connect=False)
            self._socket = secure  # the plain one is empty from here on
            secure.settimeout(max(0.001, deadline - time.monotonic()))
            secure.do_handshake()
        except OSError as error:
            log.warning("%s: no TLS: %s", self.client, error)
            return False
        finally:
            self._host.handshakes.release()
        may_connect = self._host.may_connect
        if may_connect is not None and not may_connect(secure.getpeercert()):
            log.warning("%s: refused, the name in the certificate is not on the list", self.client)
            return False
        return True

    def _exchange(self) -> bool:
        """One request and its answer; False when it was the last."""
        try:
            head = self._read_head()
            if head is None:
                return False
            handler = self._route(head)
            if isinstance(handler, stream.Handler):
                self._stream(head, handler)
                return False
            response = self._respond(handler, self._read_request(head))
        except http.HttpError as error:
            log.warning("%s: refused: %s %s", self.client, error.status.value, error.reason)
            self._send(http.error_response(error), keep_alive=False)
            self._linger()
            return False
        keep_alive = head.keep_alive and not self._host.stopping.is_set()
        self._send(response, keep_alive=keep_alive)
        return keep_alive

    def _read_head(self) -> http.Head | None:
        self._waiting = not self._reader.pending
        if self._waiting and self._host.stopping.is_set():
            return None
        self._deadline = time.monotonic() + self._settings.request_seconds
        try:
            return self._reader.head()
        except TimeoutError as error:
            if self._waiting:
                return None
            raise _too_slow() from error

    def _read_request(self, head: http.Head) -> http.Request:
        length = http.body_length(head, self._settings.body_bytes)
        try:
            if "expect" in head.headers and length:
                self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            return http.Request(head, self._reader.body(length), self.client)
        except TimeoutError as error:
            raise _too_slow() from error

    def _stream(self, head: http.Head, handler: stream.Handler) -> None:
        """Let a handler read and write as it likes. Nothing after its body is a request."""
        exchange = stream.Exchange(head, self.client, self._socket, self._reader, self._settings.request_seconds)
        try:
            handler.answer(exchange)
        except (OSError, http.Disconnected):
            raise
        except Exception as error:  # a bug in the handler: the peer gets an answer, the log gets the traceback
            log.exception("%s: stream failed", self.client)
            if exchange.answered:
                return
            raise http.HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error") from error
        self._linger()

    def _route(self, head: http.Head) -> Handler:
        """Who answers; refuses what nobody would answer, before its body is read.

        Raises:
            HttpError: 403, 404 or 405.
        """
        http.refuse_browsers(head)
        methods = self._host.routes.get(head.path)
        if methods is None:
            raise http.HttpError(HTTPStatus.NOT_FOUND, "nothing here")
        if head.method not in methods:
            allowed = ", ".join(methods)
            raise http.HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"use {allowed}", {"Allow": allowed})
        return methods[head.method]

    def _respond(self, handler: Callable[[http.Request], http.Response], request: http.Request) -> http.Response:
        try:
            return handler(request)
        except Exception as error:  # a bug in a binding: the peer gets an answer, the log gets the traceback
            log.exception("%s: request failed", self.client)
            raise http.HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error") from error

    def _receive(self) -> bytes:
        """More of the request. Its clock starts with its first byte, and does not start again with each packet."""
        if self._waiting:
            self._socket.settimeout(self._settings.idle_seconds)
            data = self._socket.recv(_CHUNK)
            self._waiting = False
            self._deadline = time.monotonic() + self._settings.request_seconds
            return data
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket.recv(_CHUNK)

    def _send(self, response: http.Response, *, keep_alive: bool) -> None:
        self._socket.settimeout(self._settings.request_seconds)  # sendall takes it as its total
        self._socket.sendall(http.encode(response, keep_alive=keep_alive))

    def _linger(self) -> None:
        """Take what the peer had sent already: closing with unread bytes would reset the answer away."""
        deadline = time.monotonic() + self._settings.linger_seconds
        self._end_tls()
        self._shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            if not socket.socket.recv(self._socket, _CHUNK):  # what it is, below TLS, does not matter any more
                return


def _too_many() -> http.HttpError:
    return http.HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections", {"Retry-After": "1"})


def _too_slow() -> http.HttpError:
    return http.HttpError(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")
