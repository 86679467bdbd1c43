"""A server on a free port of the loopback, and clients that break the rules on purpose."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from xmlrpc import client as stdlib

from rpc import connection, server
from tests.support import fake_api

# What a test waits for something that must happen, before it fails.
PATIENCE = 20.0


def ping(name: str = "ping") -> bytes:
    """Body of a call without arguments."""
    return stdlib.dumps((), name).encode()


def post(body: bytes, path: str = "/", **headers: str) -> bytes:
    """A whole, legal request; further headers with _ for -."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def connect(address: tuple[str, int]) -> socket.socket:
    """A connection on which nothing waits longer than a test is patient."""
    return socket.create_connection(address, timeout=PATIENCE)


def talk(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server ends the connection."""
    with connect(address) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Everything until the peer closes. A TimeoutError means that it did not: the server hangs."""
    received = b""
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while data := sock.recv(65536):
            received += data
    return received


def read_response(sock: socket.socket) -> bytes:
    """One response with a Content-Length, or none of it when the peer closes."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = sock.recv(65536)
        if not data:
            return received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def status(response: bytes) -> int:
    """Status code of a response; 0 for what has no status line, or is nothing."""
    words = response.split(b"\r\n", 1)[0].split(b" ")
    return int(words[1]) if len(words) > 2 and words[0] == b"HTTP/1.1" and words[1].isdigit() else 0


@contextlib.contextmanager
def running(
    directory: Path,
    settings: connection.Settings | None = None,
    context: ssl.SSLContext | None = None,
    **options: object,
) -> Iterator[tuple[server.Server, fake_api.FakeApi]]:
    """A server of the fake API for the length of a block.

    Raises:
        AssertionError: a thread of a connection is left when the block has ended.
    """
    api = fake_api.FakeApi()
    routes = server.rpc_routes(fake_api.make_bridge(directory, api), {})
    fast = settings or connection.Settings(linger_seconds=5, poll_seconds=0.02)
    running_server = server.Server(("127.0.0.1", 0), routes, fast, context, **options)  # type: ignore[arg-type]
    running_server.start()
    try:
        yield running_server, api
    finally:
        api.go_on.set()
        running_server.stop(PATIENCE)
        assert running_server.connections == 0


def wait_until(condition: threading.Event) -> None:
    assert condition.wait(PATIENCE)
